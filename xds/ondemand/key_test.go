package ondemand

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var place = &Place{Namespace: "shop", Suffix: "cluster.local"}

func names(n *Names, table, authority string) (out []string) {
	if !n.Begin(place, table, []byte(authority)) {
		return nil
	}
	last := Exact + 1
	for name, s, ok := n.Next(); ok; name, s, ok = n.Next() {
		if s >= last {
			out = append(out, "WRONG ORDER")
		}
		last = s
		out = append(out, string(name))
	}
	return out
}

// The names for a host, most specific first.
func TestNames(t *testing.T) {
	n := &Names{}
	for _, c := range []struct {
		table, authority string
		want             []string
	}{
		{"80", "a", []string{"80/a", "80/a.shop.svc.cluster.local", "80/*"}},
		{"80", "Ab:80", []string{"80/ab", "80/ab.shop.svc.cluster.local", "80/*b", "80/*"}},
		{"80", "a:8080", []string{"80/a:8080", "80/a:8080.shop.svc.cluster.local", "80/*:8080", "80/*8080", "80/*080", "80/*80", "80/*0", "80/*"}},
		{"9080", "a.b", []string{"9080/a.b", "9080/a.b.svc.cluster.local", "9080/*.b", "9080/*b", "9080/*"}},
		{"9", "a.b.svc", []string{"9/a.b.svc", "9/a.b.svc.cluster.local", "9/*.b.svc", "9/*b.svc", "9/*.svc", "9/*svc", "9/*vc", "9/*c", "9/*"}},
		{"9", "a.b.c", []string{"9/a.b.c", "9/*.b.c", "9/*b.c", "9/*.c", "9/*c", "9/*"}},
		{"80", "[fd00::80]:80", []string{"80/[fd00::80]", "80/[fd00::80].shop.svc.cluster.local", "80/*fd00::80]", "80/*d00::80]", "80/*00::80]", "80/*0::80]", "80/*::80]", "80/*:80]", "80/*80]", "80/*0]", "80/*]", "80/*"}},
		{"80", "", []string{"80/", "80/*"}},
		{"80", ":80", []string{"80/", "80/*"}},
		{"80", ".", []string{"80/.", "80/*"}},
		{"80", "*.a", []string{"80/*.a", "80/*a", "80/*"}},
		{"80", "a.", []string{"80/a.", "80/*.", "80/*"}},
		{"80", strings.Repeat("x", 257), nil},
	} {
		if d := cmp.Diff(c.want, names(n, c.table, c.authority)); d != "" {
			t.Errorf("%s on %s (-want +got)\n%s", c.authority, c.table, d)
		}
	}
	if got := names(n, "80", strings.Repeat("x", 256)); len(got) != 258 || got[257] != "80/*" {
		t.Errorf("the longest host has %d names", len(got))
	}
}

func TestListenerNames(t *testing.T) {
	for at, want := range map[string]string{
		"10.0.0.1:80": "10.0.0.1_80", "[fd00::1]:9080": "fd00::1_9080", "[::ffff:10.0.0.1]:80": "10.0.0.1_80", "0.0.0.0:443": "0.0.0.0_443",
	} {
		if got := string(AppendListener(nil, netip.MustParseAddrPort(at))); got != want {
			t.Errorf("%s is %s, want %s", at, got, want)
		}
	}
}

func TestNamesAllocateNothing(t *testing.T) {
	n, x := &Names{}, &Index{}
	host := []byte("api.Example.com:443")
	if got := testing.AllocsPerRun(100, func() {
		n.Begin(place, "443", host)
		for name, _, ok := n.Next(); ok; name, _, ok = n.Next() {
			if x.Has(HashBytes(name)) {
				t.Error("found in nothing")
			}
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
