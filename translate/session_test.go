package translate_test

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/type/http/v3"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// What labels of Services make of routes, clusters and listeners, one step after another: "cookie/path" or "header" of the route to reviews,
// whether callers have the filter, and whether sessions outlast endpoints. details has no label at first.
func TestSessions(t *testing.T) {
	w := bookinfo()
	node := sidecar("default", "productpage-v1-0", mesh.Labels{"app": "productpage", "version": "v1"})
	cache := translate.New()
	label := func(name, key, value string) func() {
		return func() {
			s := *w.snap.Services.At(mesh.NewKey("default", fqdn(name, "default")))
			s.Labels = mesh.Labels{key: value}
			w.putService(&s)
		}
	}
	const cookie, header = "istio.io/persistent-session", "istio.io/persistent-session-header"
	weights := func(subset string) func() {
		return func() {
			w.virtualService("default", "reviews", mesh.VirtualService{Hosts: []string{fqdn("reviews", "default")}, Gateways: []string{mesh.Mesh}, HTTP: []mesh.HTTPRoute{{Action: mesh.HTTPAction{Destinations: []mesh.Destination{
				{Host: fqdn("reviews", "default"), Weight: 1}, {Host: fqdn(subset, "default"), Weight: 1}}}}}})
		}
	}
	for _, c := range []struct {
		what   string
		do     func()
		route  string
		filter bool
		stays  bool
		found  string
	}{
		{"nothing", func() {}, "", false, false, ""},
		{"a cookie", label("reviews", cookie, "at"), "at/", true, true, ""},
		{"with a path", label("reviews", cookie, "at:/cart"), "at/cart", true, true, ""},
		{"a header", label("reviews", header, "X-At"), "x-at", true, true, ""},
		{"by weights, of which one has none", weights("details"), "", true, true, ""},
		{"another", label("details", header, "x-other"), "", true, true, ""},
		{"the same", label("details", header, "x-at"), "x-at", true, true, ""},
		{"none any more", label("reviews", "app", "reviews"), "", true, false, ""},
		{"nobody has", label("details", "app", "details"), "", false, false, ""},
		{"no cookie", label("details", cookie, "a b"), "", false, false, "is no name of a cookie"},
		{"no header", label("details", header, "a b"), "", false, false, "is no name of a header"},
	} {
		c.do()
		v := cache.View(w.publish(), node)
		route := ""
		for _, h := range decode(t, v.Sets[resource.RouteType].At("9080")).(*routev3.RouteConfiguration).GetVirtualHosts() {
			if !strings.HasPrefix(h.GetName(), "reviews.") {
				continue
			}
			a := h.GetRoutes()[0].GetTypedPerFilterConfig()["envoy.filters.http.stateful_session"]
			if a == nil {
				continue
			}
			x := &sessionv3.StatefulSessionPerRoute{}
			if err := a.UnmarshalTo(x); err != nil {
				t.Fatal(err)
			}
			m, err := x.GetStatefulSession().GetSessionState().GetTypedConfig().UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			switch m := m.(type) {
			case interface{ GetName() string }:
				route = m.GetName()
			case interface{ GetCookie() *httpv3.Cookie }:
				route = m.GetCookie().GetName() + m.GetCookie().GetPath()
			}
		}
		filter := strings.Contains(string(v.Sets[resource.ListenerType].At("0.0.0.0_9080").Body()), "envoy.filters.http.stateful_session")
		stays := len(decode(t, v.Sets[resource.ClusterType].At("outbound|9080||"+fqdn("reviews", "default"))).(*clusterv3.Cluster).GetCommonLbConfig().GetOverrideHostStatus().GetStatuses()) == 4
		if route != c.route || filter != c.filter || stays != c.stays {
			t.Errorf("%s: route %q, want %q; filter %v, want %v; outlast %v, want %v", c.what, route, c.route, filter, c.filter, stays, c.stays)
		}
		var found string
		for _, p := range cache.Problems() {
			found += p.Ref.Name + " " + p.Text
		}
		if (found == "") != (c.found == "") || !strings.Contains(found, c.found) {
			t.Errorf("%s: findings %q, want %q", c.what, found, c.found)
		}
	}
}
