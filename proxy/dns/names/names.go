// Package names holds the mesh's host names and their addresses in little memory.
//
// A marshalled istio.networking.nds.v1.NameTable (api/nds) enters, a Table leaves. It is
// read entry by entry: neither the message nor anything else of the size of the mesh is
// made on the way. A Table is immutable, so any goroutine may ask it; finding a name and
// its addresses allocates nothing. proxy/state makes one for each table it accepts.
//
// Names are kept in lower case. Of two entries for a name the later one counts.
package names

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Table answers for names. The zero value has none. 5,000 names of Kubernetes with one
// address each take 290 KB, of which 45 bytes a name are the name itself.
type Table struct {
	// data has names and, elsewhere in it, lists of addresses. A name is a length and its
	// bytes; a list a number and so many addresses: a length (4 or 16) and its bytes.
	data    string
	entries []entry // in the order of their names
}

// entry says where in data name and addresses begin.
type entry struct{ name, addrs uint32 }

// Addrs are the addresses of a name, in the order of the control plane.
type Addrs struct {
	n    int
	data string
}

// Len is how many are left.
func (a Addrs) Len() int { return a.n }

// Next is the first of them and the others. There must be one.
func (a Addrs) Next() (netip.Addr, Addrs) {
	n := int(a.data[0])
	var b [16]byte
	copy(b[:], a.data[1:1+n])
	rest := Addrs{a.n - 1, a.data[1+n:]}
	if n == 4 {
		return netip.AddrFrom4([4]byte(b[:4])), rest
	}
	return netip.AddrFrom16(b), rest
}

// Len is the number of names.
func (t *Table) Len() int { return len(t.entries) }

// Find returns the addresses of a name in lower case; ok is false for one that is not in
// the table.
func (t *Table) Find(name string) (a Addrs, ok bool) {
	i, ok := slices.BinarySearchFunc(t.entries, name, func(e entry, name string) int { return cmp.Compare(t.name(e), name) })
	if !ok {
		return Addrs{}, false
	}
	n, rest := uvarint(t.data[t.entries[i].addrs:])
	return Addrs{n, rest}, true
}

func (t *Table) name(e entry) string {
	n, rest := uvarint(t.data[e.name:])
	return rest[:n]
}

// uvarint reads a number of ours.
func uvarint(s string) (n int, rest string) {
	for i, shift := 0, 0; ; i, shift = i+1, shift+7 {
		n |= int(s[i]&0x7f) << shift
		if s[i] < 0x80 {
			return n, s[i+1:]
		}
	}
}

// Parse reads a marshalled NameTable.
func Parse(wire []byte) (*Table, error) {
	size, count := 0, 0
	err := each(wire, func(hosts [][]byte, addrs []netip.Addr) {
		size += protowire.SizeVarint(uint64(len(addrs)))
		for _, a := range addrs {
			size += 1 + a.BitLen()/8
		}
		for _, h := range hosts {
			size += protowire.SizeBytes(len(h))
		}
		count += len(hosts)
	})
	if err != nil {
		return nil, err
	}
	if size > math.MaxUint32 {
		return nil, errors.New("it is larger than 4 GB")
	}
	var data strings.Builder
	data.Grow(size)
	var n [binary.MaxVarintLen64]byte
	put := func(b []byte) {
		data.Write(binary.AppendUvarint(n[:0], uint64(len(b))))
		data.Write(b)
	}
	entries := make([]entry, 0, count)
	_ = each(wire, func(hosts [][]byte, addrs []netip.Addr) { // it was right a moment ago
		list := uint32(data.Len())
		data.Write(binary.AppendUvarint(n[:0], uint64(len(addrs))))
		for _, a := range addrs {
			put(a.AsSlice())
		}
		for _, h := range hosts {
			entries = append(entries, entry{uint32(data.Len()), list})
			put(h)
		}
	})
	t := &Table{data: data.String(), entries: entries}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(cmp.Compare(t.name(a), t.name(b)), cmp.Compare(b.name, a.name)) })
	t.entries = slices.CompactFunc(entries, func(a, b entry) bool { return t.name(a) == t.name(b) }) // keeps the later one
	return t, nil
}

// Fields of NameTable, of an entry of its map, and of NameInfo.
const (
	tableField = 1
	keyField   = 1
	valueField = 2
	ipsField   = 1
	altField   = 5
)

// lastText: the fields of NameInfo up to it are text, whether we use them or not.
const lastText = altField

// each calls do with the names (in lower case) and addresses of one entry after the other. Both
// are only valid during the call.
func each(wire []byte, do func(hosts [][]byte, addrs []netip.Addr)) error {
	var hosts [][]byte
	var addrs []netip.Addr
	return fields(wire, func(f protowire.Number, entry []byte) error {
		if f != tableField {
			return nil
		}
		hosts, addrs = append(hosts[:0], nil), addrs[:0]
		var key []byte
		err := fields(entry, func(f protowire.Number, b []byte) error {
			switch f {
			case keyField:
				key = b
				return text(b)
			case valueField:
				return fields(b, func(f protowire.Number, b []byte) error {
					if f > lastText {
						return nil
					}
					if err := text(b); err != nil {
						return err
					}
					switch f {
					case ipsField:
						a, err := netip.ParseAddr(string(b))
						if err != nil {
							return err
						}
						addrs = append(addrs, a.WithZone(""))
					case altField:
						hosts = append(hosts, lower(b))
					}
					return nil
				})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("host %q: %w", key, err)
		}
		hosts[0] = lower(key)
		do(hosts, addrs)
		return nil
	})
}

var (
	errText   = errors.New("a string is not UTF-8")
	errNumber = errors.New("there is no such field number")
)

func text(b []byte) error {
	if !utf8.Valid(b) {
		return errText
	}
	return nil
}

// lower is b in lower case; most are.
func lower(b []byte) []byte {
	for _, c := range b {
		if c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return bytes.ToLower(b)
		}
	}
	return b
}

// fields calls do with each field of a message that is length-delimited; others are none
// that we know.
func fields(b []byte, do func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		f, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if f > protowire.MaxValidNumber {
			return errNumber
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(f, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := do(f, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
