// Package rbac decides whether somebody may do something: compiled role based access control
// (envoy.config.rbac.v3.RBAC), for requests and for connections.
//
// What enters: Rules that proxy/state compiled, and the Facts of one request or connection.
// What leaves: a Decision. The package decides and does nothing; proxy/filter/rbac and
// proxy/tcp act on it. Rules are immutable and shared by all workers. Deciding allocates
// nothing, unless a header that rules ask for came several times.
package rbac

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/proxy/tls"
)

// Action is what Rules do with what one of their policies matches.
type Action uint8

// Actions of envoy.config.rbac.v3.RBAC.
const (
	Allow Action = iota // what no policy matches is denied
	Deny                // what a policy matches is denied
	Log                 // nothing is denied; what a policy matches is marked for logs
)

// Rules are what one filter enforces. Of several that follow each other each has to let a
// request pass.
type Rules struct {
	Action   Action
	Policies []Policy // in order of name: of several that match, the first is named
}

// Policy matches what one of its permissions and one of its principals match.
type Policy struct {
	Name string
	// Details is rbac_access_denied_matched_policy[Name], as logs have it.
	Details    string
	What, From Test
}

// detailsPrefix is Envoy's (source/extensions/filters/common/rbac/utility.cc).
const detailsPrefix = "rbac_access_denied_matched_policy["

// NoneMatched is what logs say of what Allow denied.
const NoneMatched = detailsPrefix + "none]"

// NewPolicy makes a policy.
func NewPolicy(name string, what, from Test) Policy {
	return Policy{name, detailsPrefix + name + "]", what, from}
}

// Decision is what Rules say of Facts.
type Decision struct {
	Allowed bool
	Policy  *Policy // that matched; nil: none
	Marked  *Policy // of Enforce: that wants it logged; nil: none
}

// Details is why something was denied, for logs; never for the peer.
func (d Decision) Details() string {
	if d.Policy == nil {
		return NoneMatched
	}
	return d.Policy.Details
}

// Cause is why something was denied.
func (d Decision) Cause() causes.Cause {
	if d.Policy == nil {
		return causes.NotAllowed
	}
	return causes.AccessDenied
}

// Decide applies the rules.
func (r *Rules) Decide(f *Facts) Decision {
	for i := range r.Policies {
		if p := &r.Policies[i]; p.What(f) && p.From(f) {
			return Decision{Allowed: r.Action != Deny, Policy: p}
		}
	}
	return Decision{Allowed: r.Action != Allow}
}

// Match is the name of one of the named policies that matches, by whichever reading of what comes several times; "": none does.
func (r *Rules) Match(f *Facts, named map[string]bool) string {
	for f.reread(); ; {
		for i := range r.Policies {
			// What can be read in too many ways is asked about by the first that may be meant.
			if p := &r.Policies[i]; named[p.Name] && (p.What(f) && p.From(f) || f.readings.over) {
				return p.Name
			}
		}
		if !f.next() {
			return ""
		}
	}
}

// Facts are what is known of a request, or of a connection before there are requests.
type Facts struct {
	Conn *conn.Info
	// Remote is the client's address, from x-forwarded-for where that is trusted.
	Remote  netip.AddrPort
	Request *message.Request // nil: a connection; what asks about requests does not hold then
	Path    []byte           // another reading of the request's path, with its query; nil: as it is

	readings readings
}

// path is what policies compare.
func (f *Facts) path() []byte {
	full := f.Request.Path
	if f.Path != nil {
		full = f.Path
	}
	path, _, _ := bytes.Cut(full, query)
	return path
}

var query = []byte{'?'}

// Test is a compiled Permission or Principal.
type Test func(*Facts) bool

// Any holds always.
func Any() Test { return func(*Facts) bool { return true } }

// Never holds never.
func Never() Test { return func(*Facts) bool { return false } }

// All holds if all do.
func All(tests []Test) Test {
	if len(tests) == 1 {
		return tests[0]
	}
	return func(f *Facts) bool {
		for _, t := range tests {
			if !t(f) {
				return false
			}
		}
		return true
	}
}

// One holds if one does.
func One(tests []Test) Test {
	if len(tests) == 1 {
		return tests[0]
	}
	return func(f *Facts) bool {
		for _, t := range tests {
			if t(f) {
				return true
			}
		}
		return false
	}
}

// Not holds if t does not.
func Not(t Test) Test { return func(f *Facts) bool { return !t(f) } }

// Header holds for requests with such a header, or pseudo-header, by the reading that is looked at.
func Header(m route.ValueMatch) Test {
	authority := m.Name == ":authority" || m.ID == message.Host
	spelled := strings.ContainsAny(m.Name, "-_")
	return func(f *Facts) bool {
		if f.Request == nil {
			return false
		}
		switch {
		case authority:
			if plain, dotted := undotted(f.Request.Authority); dotted && f.readings.at(":authority", 2) > 0 {
				return m.Holds(plain)
			}
		case m.Name[0] != ':':
			n, others := f.Request.Headers.Count(m.Name), 0
			if spelled {
				_, others = f.Request.Headers.Alike(m.Name, 0)
			}
			if n <= 1 && others == 0 {
				break
			}
			switch i := f.readings.at(m.Name, n+1+others); {
			case i > n:
				other, _ := f.Request.Headers.Alike(m.Name, i-n-1)
				return m.Holds(other)
			case i > 0:
				return m.Holds(f.Request.Headers.Nth(m.Name, i-1))
			}
		}
		return m.HoldsFor(f.Request)
	}
}

// undotted is an authority without the dot that may end a host name, which changes nothing about whom it names.
func undotted(authority []byte) (plain []byte, dotted bool) {
	host, port := authority, []byte(nil)
	if i := bytes.LastIndexByte(authority, ':'); i >= 0 {
		host, port = authority[:i], authority[i:]
	}
	short := bytes.TrimRight(host, ".")
	if len(short) == len(host) {
		return authority, false
	}
	return slices.Concat(short, port), true
}

// Claim holds for requests whose tokens say such.
func Claim(m route.ClaimMatch) Test {
	return func(f *Facts) bool {
		if f.Request == nil {
			return m.Invert
		}
		return m.HoldsFor(f.Request)
	}
}

// Path holds for requests whose path, without query, is such.
func Path(m route.ValueMatch) Test {
	return func(f *Facts) bool {
		return f.Request != nil && m.Holds(f.path())
	}
}

// PathTemplate holds for requests whose path fits.
func PathTemplate(t Template) Test {
	return func(f *Facts) bool {
		return f.Request != nil && t.Fits(f.path())
	}
}

// Destination holds for connections to such an address.
func Destination(p netip.Prefix) Test {
	return func(f *Facts) bool { return within(p, f.Conn.Asked().Addr()) }
}

// DestinationPort holds for connections to a port from low to below high.
func DestinationPort(low, high uint32) Test {
	return func(f *Facts) bool {
		port := f.Conn.Asked()
		return port.IsValid() && uint32(port.Port()) >= low && uint32(port.Port()) < high
	}
}

// ServerName holds for connections whose ClientHello asked for such a name; "" if it asked for none.
func ServerName(m route.ValueMatch) Test {
	return func(f *Facts) bool { return holds(&m, f.Conn.ServerName) }
}

// Source holds for connections from such an address, or on behalf of it by a PROXY protocol header.
func Source(p netip.Prefix) Test {
	return func(f *Facts) bool { return within(p, f.Conn.Remote.Addr()) }
}

// Remote holds for such clients, by x-forwarded-for where that is trusted.
func Remote(p netip.Prefix) Test {
	return func(f *Facts) bool {
		if f.Remote.IsValid() {
			return within(p, f.Remote.Addr())
		}
		return within(p, f.Conn.Remote.Addr())
	}
}

func within(p netip.Prefix, a netip.Addr) bool { return p.Contains(a.Unmap().WithZone("")) }

// Authenticated holds for peers whose certificate was verified.
func Authenticated() Test {
	return func(f *Facts) bool { return presented(f) != nil }
}

// Principal holds for peers whose certificate was verified, and has such a name: the
// first URI name, else one of the DNS names, else the subject.
func Principal(m route.ValueMatch) Test {
	return func(f *Facts) bool {
		peer := presented(f)
		switch {
		case peer == nil:
			return false
		case peer.URI != "":
			return holds(&m, peer.URI)
		case len(peer.DNS) == 0:
			return holds(&m, peer.Subject)
		}
		for _, name := range peer.DNS {
			if holds(&m, name) {
				return true
			}
		}
		return false
	}
}

func presented(f *Facts) *tls.Peer {
	if f.Conn.TLS == nil || !f.Conn.TLS.Presented {
		return nil
	}
	return f.Conn.TLS
}

// holds compares a string without a copy of it: m keeps nothing and changes nothing.
func holds(m *route.ValueMatch, s string) bool {
	return m.Holds(unsafe.Slice(unsafe.StringData(s), len(s)))
}
