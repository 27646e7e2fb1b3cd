package demand_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

var (
	place = &ondemand.Place{Namespace: "shop", Suffix: "cluster.local"}
	// parts are what hosts are made of: few, so that they meet.
	part  = rapid.SampledFrom([]string{"a", "b", "ab", "a-shop", "svc", "shop", "cluster", "local", "com", "80", "x_y", "é", "a b"})
	whole = rapid.SampledFrom([]string{"10.0.0.4", "[fd00::4]", "[fd00::80]", "a.shop.svc.cluster.local", "b.shop.svc.cluster.local", "a.b.svc.cluster.local", "*", "*.com", "*-shop.com", "*.shop.svc.cluster.local"})
)

func host(t *rapid.T, label string) string {
	if rapid.IntRange(0, 2).Draw(t, label+" kind") == 0 {
		return whole.Draw(t, label)
	}
	h := strings.Join(rapid.SliceOfN(part, 1, 4).Draw(t, label), ".")
	if rapid.IntRange(0, 5).Draw(t, label+" wildcard") == 0 {
		h = "*" + rapid.SampledFrom([]string{".", "", "-"}).Draw(t, label+" joint") + h
	}
	return h
}

// fullTable is what a proxy that holds everything has for a port: the virtual host of each
// name, domains decided as translate does it: who is called so before who is short for it.
func fullTable(t *rapid.T, port string, names []string) *route.Table {
	taken := map[string]*route.VirtualHost{}
	var hosts []*route.VirtualHost
	claim := func(vh *route.VirtualHost, domains ...string) {
		for _, d := range domains {
			for _, d := range []string{d, d + ":" + port} {
				if taken[d] == nil && (d != "*:"+port) {
					taken[d] = vh
					vh.Domains = append(vh.Domains, d)
				}
			}
		}
	}
	for _, n := range names {
		vh := &route.VirtualHost{Name: n}
		hosts = append(hosts, vh)
		claim(vh, strings.TrimPrefix(n, port+"/"))
	}
	for _, vh := range hosts {
		h := strings.TrimPrefix(vh.Name, port+"/")
		f := strings.Split(h, ".")
		if len(f) != 5 || !strings.HasSuffix(h, ".svc.cluster.local") || f[0] == "*" {
			continue
		}
		claim(vh, f[0]+"."+f[1], f[0]+"."+f[1]+".svc")
		if f[1] == place.Namespace {
			claim(vh, f[0])
		}
	}
	full, err := route.New(port, "1", false, hosts)
	if err != nil {
		t.Fatal(err)
	}
	return full
}

// Whatever a table with everything would serve a request by, a proxy that holds a part of it
// asks for, or has; and what the table leaves to its catch-all it asks nothing for.
func TestDemandsAgreeWithTheWholeTable(t *testing.T) {
	l := mem.New().Loop(loop.Options{})
	rapid.Check(t, func(t *rapid.T) {
		port := rapid.SampledFrom([]string{"80", "8080", "9"}).Draw(t, "port")
		names := map[string]bool{}
		for i := range rapid.IntRange(0, 12).Draw(t, "hosts") {
			h := host(t, fmt.Sprint("host ", i))
			if rest, wild := strings.CutPrefix(h, "*"); wild && rest != "" && strings.HasSuffix(":"+port, rest) {
				continue // a table would match it with the port of the authority, which is no part of a host
			}
			names[port+"/"+h] = true
		}
		var list []string
		for n := range names {
			list = append(list, n)
		}
		slices.Sort(list)
		index := ondemand.Of(list...)
		full := fullTable(t, port, list)

		// What the proxy holds: a part, and always the catch-all if the table has none.
		held := map[string]bool{}
		for _, n := range list {
			held[n] = rapid.Bool().Draw(t, "held "+n)
		}
		d := demand.New()
		w := d.NewWorker(l, place)
		w.Changed(&demand.View{Index: index})
		for range 20 {
			authority := []byte(host(t, "authority"))
			switch rapid.IntRange(0, 3).Draw(t, "form") {
			case 0:
				authority = append(authority, ":"+port...)
			case 1:
				authority = append(authority, ":8080"...)
			case 2:
				authority = []byte(strings.ToUpper(string(authority)))
			}
			if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
				authority = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes")
			}
			want := full.Host(authority)
			for range 3 { // the second time it may be known
				var part []*route.VirtualHost
				for _, vh := range full.Hosts() {
					if held[vh.Name] {
						part = append(part, &route.VirtualHost{Name: vh.Name, Domains: vh.Domains})
					}
				}
				table, err := route.New(port, "1", false, part)
				if err != nil {
					t.Fatal(err)
				}
				got, s := table.Lookup(authority)
				if !w.Host(table, port, authority, s) {
					if (got == nil) != (want == nil) || got != nil && got.Name != want.Name {
						t.Fatalf("%q is served by %v, a whole table has %v", authority, got, want)
					}
					break
				}
				add, _ := d.Take()
				if want == nil || len(add) > 1 || len(add) == 1 && add[0] != (demand.Key{TypeURL: resource.VirtualHostType, Name: want.Name}) {
					t.Fatalf("%q asks for %v, a whole table has %v", authority, add, want)
				}
				held[want.Name] = true
			}
		}
	})
}
