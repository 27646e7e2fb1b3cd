package names

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/api/nds"
)

// plain is the same table in the simplest form: made of the decoded message.
func plain(wire []byte) (map[string][]netip.Addr, error) {
	m := &nds.NameTable{}
	if err := proto.Unmarshal(wire, m); err != nil {
		return nil, err
	}
	out := map[string][]netip.Addr{}
	for host, info := range m.GetTable() {
		var addrs []netip.Addr
		for _, s := range info.GetIps() {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, err
			}
			addrs = append(addrs, a.WithZone(""))
		}
		for _, h := range append(info.GetAltHosts(), host) {
			out[strings.ToLower(h)] = addrs
		}
	}
	return out, nil
}

func list(a Addrs) (out []netip.Addr) {
	for a.Len() > 0 {
		var x netip.Addr
		x, a = a.Next()
		out = append(out, x)
	}
	return out
}

// content is a table as a map, found name by name.
func content(t *testing.T, x *Table) map[string][]netip.Addr {
	t.Helper()
	out := map[string][]netip.Addr{}
	for _, e := range x.entries {
		name := x.name(e)
		a, ok := x.Find(name)
		if !ok {
			t.Fatalf("%q is in the table and not found", name)
		}
		out[name] = list(a)
	}
	if len(out) != x.Len() {
		t.Errorf("%d names, Len is %d", len(out), x.Len())
	}
	return out
}

func marshal(t testing.TB, m *nds.NameTable) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever is in a message, the table has what a map made of it would have, and nothing
// else.
func TestLikeAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string { // neighbours in the order, prefixes of each other, and capitals
		return []string{"a", "b", "A", "ab", "a.b", "*.a", "é", "É", "xn--9ca"}[r.IntN(9)]
	}
	for range 300 {
		m := &nds.NameTable{Table: map[string]*nds.NameTable_NameInfo{}}
		taken := map[string]bool{} // which entry counts for a name that two have is the map's secret
		name := func() (string, bool) {
			n := strings.Repeat(word()+".", r.IntN(3)) + word() + strings.Repeat("x", r.IntN(2)*r.IntN(200))
			l := strings.ToLower(n)
			fresh := !taken[l]
			taken[l] = true
			return n, fresh
		}
		for range r.IntN(30) {
			host, fresh := name()
			if !fresh {
				continue
			}
			info := &nds.NameTable_NameInfo{Registry: "Kubernetes", Shortname: word(), Namespace: word()}
			for range r.IntN(4) {
				info.Ips = append(info.Ips, []string{"10.0.0.1", "240.240.3.4", "fd00::7", "::ffff:10.0.0.9", "fe80::1%eth0"}[r.IntN(5)])
			}
			for range r.IntN(3) {
				if alt, fresh := name(); fresh {
					info.AltHosts = append(info.AltHosts, alt)
				}
			}
			m.Table[host] = info
		}
		wire := marshal(t, m)
		want, err := plain(wire)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Parse(wire)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, content(t, x), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Fatalf("%v\n(-map +table)\n%s", m, d)
		}
		for range 20 {
			n, _ := name()
			l := strings.ToLower(n)
			if _, ok := x.Find(l); ok != slices.Contains(slices.Collect(maps.Keys(want)), l) {
				t.Errorf("%q: found is %v", l, ok)
			}
		}
	}
}

// entryOf is the wire form of a map entry.
func entryOf(parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, tableField, protowire.BytesType), slices.Concat(parts...))
}

func field(f protowire.Number, b string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, f, protowire.BytesType), b)
}

// What the generated code never writes is read as the protobuf rules say.
func TestOddMessages(t *testing.T) {
	ip := func(s string) []byte { return field(valueField, string(field(ipsField, s))) }
	for _, c := range []struct {
		why  string
		wire []byte
		want string // fmt of the map, or of the error
	}{
		{"nothing", nil, "map[]"},
		{"the later of two entries counts", slices.Concat(entryOf(field(keyField, "a"), ip("10.0.0.1")), entryOf(field(keyField, "A"), ip("10.0.0.2"))), "map[a:[10.0.0.2]]"},
		{"an entry without a name", entryOf(ip("10.0.0.1")), "map[:[10.0.0.1]]"},
		{"an entry without a value", entryOf(field(keyField, "a")), "map[a:[]]"},
		{"value before name, in two parts", entryOf(ip("10.0.0.1"), field(keyField, "a"), ip("10.0.0.2")), "map[a:[10.0.0.1 10.0.0.2]]"},
		{"two names: the last", entryOf(field(keyField, "a"), field(keyField, "b")), "map[b:[]]"},
		{"unknown fields", slices.Concat([]byte{0x10, 1}, entryOf(field(keyField, "a"), field(9, "?"), field(valueField, string(field(12, "\xff")))), field(7, "\xff")), "map[a:[]]"},
		{"not an address", entryOf(field(keyField, "a"), ip("10.0.0")), `host "a": ParseAddr("10.0.0"): IPv4 address too short`},
		{"not UTF-8", entryOf(field(keyField, "\xff")), `host "\xff": a string is not UTF-8`},
		{"not UTF-8 where we do not look", entryOf(field(keyField, "a"), field(valueField, string(field(3, "\xff")))), `host "a": a string is not UTF-8`},
		{"cut off", entryOf(field(keyField, "a"))[:3], "unexpected EOF"},
	} {
		x, err := Parse(c.wire)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(content(t, x))
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.why, got, c.want)
		}
	}
}

// mesh is a table as a mesh of n services has it.
func mesh(t testing.TB, n int) []byte {
	m := &nds.NameTable{Table: map[string]*nds.NameTable_NameInfo{}}
	for i := range n {
		name, ns := fmt.Sprintf("service-%04d", i), fmt.Sprintf("namespace-%02d", i%50)
		m.Table[name+"."+ns+".svc.cluster.local"] = &nds.NameTable_NameInfo{Ips: []string{fmt.Sprintf("10.96.%d.%d", i/256, i%256)}, Registry: "Kubernetes", Shortname: name, Namespace: ns}
	}
	return marshal(t, m)
}

// Names are found without a byte of garbage, and 5,000 of them take little room.
func TestSmall(t *testing.T) {
	x, err := Parse(mesh(t, 5000))
	if err != nil {
		t.Fatal(err)
	}
	if size := len(x.data) + 8*cap(x.entries); size > 5000*60 {
		t.Errorf("%d bytes", size)
	}
	n := 0
	if got := testing.AllocsPerRun(100, func() {
		if a, ok := x.Find("service-0777.namespace-27.svc.cluster.local"); ok {
			for a.Len() > 0 {
				_, a = a.Next()
				n++
			}
		}
	}); got != 0 || n == 0 {
		t.Errorf("%v allocations, %d addresses", got, n)
	}
}

func BenchmarkParse(b *testing.B) {
	wire := mesh(b, 5000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	x, err := Parse(mesh(b, 5000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := x.Find("service-0777.namespace-27.svc.cluster.local"); !ok {
			b.Fatal("not found")
		}
	}
}

// FuzzParse: what the generated code takes is taken, and what it refuses is refused; equal
// names aside, both have the same.
func FuzzParse(f *testing.F) {
	f.Add(mesh(f, 3))
	f.Add(entryOf(field(keyField, "A.b"), field(valueField, string(field(ipsField, "fd00::1"))+string(field(altField, "c")))))
	f.Add([]byte("\n\x03\n\x01a\x10\x01"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		want, wantErr := plain(wire)
		x, err := Parse(wire)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, the generated code says %v", err, wantErr)
		}
		if err != nil {
			return
		}
		got := content(t, x)
		for name := range want {
			if _, ok := got[name]; !ok {
				t.Errorf("%q is missing", name)
			}
		}
	})
}
