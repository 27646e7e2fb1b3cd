package ondemand

import (
	"bytes"
	"net/netip"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Place is what names mean depends on besides themselves: where the node is.
type Place struct {
	Namespace string // of the node
	Suffix    string // the domain of the mesh's services: cluster.local
}

// Specificity orders what may match a host: higher is looked at before. A wildcard's is the
// number of bytes after its star.
type Specificity int

const (
	// Exact is the specificity of a domain that is the host.
	Exact Specificity = 1 << 16
	// Nothing is less than that of everything, of which "*" has 0.
	Nothing Specificity = -1

	short = Exact - 1
)

// maxAuthority bounds hosts, as route tables do: no DNS name with a port is longer.
const maxAuthority = 256

// Names goes through the names that the virtual host for a request may have: those of all
// patterns that match the host, in the order in which a table that holds everything would
// look at them. Its zero value is ready for Begin. It allocates nothing in the long run.
type Names struct {
	buf   []byte // room for "<table>/*", the host, and what it may be short for
	lead  int    // length of that room
	host  int    // length of the host
	next  int    // what is next: -1 the host, 0 what it is short for, then the wildcard for all but its first i bytes
	place *Place
	table string
}

// Begin begins with a request's authority on a route table, whose name is a port; false: no
// pattern but "*" matches.
func (n *Names) Begin(p *Place, table string, authority []byte) bool {
	if len(authority) > maxAuthority {
		return false
	}
	n.place, n.table, n.lead, n.next = p, table, len(table)+2, -1
	if need := n.lead + maxAuthority + len("..svc.") + len(p.Namespace) + len(p.Suffix); cap(n.buf) < need {
		n.buf = make([]byte, need)
	}
	b := n.buf[:n.lead]
	for _, c := range authority {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	n.host = len(WithoutPort(table, b[n.lead:]))
	n.buf = b[:n.lead+n.host]
	if n.host > 0 && n.buf[n.lead] == '*' {
		n.next = 1 // no host, and not to be taken for a wildcard
	}
	return true
}

// WithoutPort is an authority without the port that the table is for.
func WithoutPort(table string, authority []byte) []byte {
	if i := len(authority) - len(table); i > 0 && authority[i-1] == ':' && string(authority[i:]) == table {
		return authority[:i-1]
	}
	return authority
}

// Next is the next name, valid until the next call, and how specific its pattern is; false:
// there are no more.
func (n *Names) Next() (name []byte, s Specificity, ok bool) {
	switch {
	case n.next < 0:
		n.next = 0
		n.put(1, "/")
		return n.buf[1 : n.lead+n.host], Exact, true
	case n.next == 0:
		n.next = 1
		if name := n.long(); name != nil {
			return name, short, true
		}
		fallthrough
	case n.next <= max(n.host, 1):
		i := min(n.next, n.host)
		n.next++
		n.put(i, "/*")
		return n.buf[i : n.lead+n.host], Specificity(n.host - i), true
	}
	return nil, Nothing, false
}

// put writes the table's name and what follows it at i of the buffer.
func (n *Names) put(i int, after string) {
	b := n.buf[:cap(n.buf)]
	copy(b[i+copy(b[i:], n.table):], after)
}

// long is the name of what the host is short for, nil if it is not short.
func (n *Names) long() []byte {
	host := n.buf[n.lead : n.lead+n.host]
	b := n.buf[:n.lead+n.host]
	first, rest, dotted := bytes.Cut(host, []byte{'.'})
	switch {
	case len(first) == 0 || dotted && len(rest) == 0:
		return nil
	case !dotted:
		b = append(append(append(b, '.'), n.place.Namespace...), ".svc."...)
	case bytes.IndexByte(rest, '.') < 0:
		b = append(b, ".svc."...)
	case bytes.HasSuffix(rest, []byte(".svc")) && bytes.IndexByte(rest, '.') == len(rest)-len(".svc"):
		b = append(b, '.')
	default:
		return nil
	}
	return append(b, n.place.Suffix...)[1:]
}

// HashBytes is Hash of a name that is in a buffer.
func HashBytes(name []byte) uint64 { return xxhash.Sum64(name) }

// AppendListener appends the name of the listener for an address and port.
func AppendListener(b []byte, at netip.AddrPort) []byte {
	b = at.Addr().Unmap().WithZone("").AppendTo(b)
	return strconv.AppendUint(append(b, '_'), uint64(at.Port()), 10)
}
