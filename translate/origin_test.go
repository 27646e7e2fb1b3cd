package translate_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// Every resource says which objects it was made of: whoever holds it depends on those.
func TestResourcesNameTheirObjects(t *testing.T) {
	w := bookinfo()
	ratings := fqdn("ratings", "default")
	w.destinationRule("default", "ratings", mesh.DestinationRule{Host: ratings, Subsets: []mesh.Subset{{Name: "v1", Labels: mesh.Labels{"version": "v1"}}}})
	w.peerAuth("default", "strict", mesh.PeerAuthentication{Mode: mesh.MTLSStrict})
	cache, snap := translate.New(), w.publish()
	page, gw := cache.View(snap, sidecar("default", "ratings-v1-0", nil)), cache.View(snap, ingress())
	for _, c := range []struct {
		view      *resource.View
		typ, name string
		want      []string
	}{
		{page, resource.ClusterType, "outbound|9080|v1|" + ratings, []string{"DestinationRule/default/ratings", "PeerAuthentication/default/strict", "Pod/default/ratings-v1-0", "Service/default/ratings"}},
		{page, resource.EndpointType, "outbound|9080||" + ratings, []string{"PeerAuthentication/default/strict", "Pod/default/ratings-v1-0", "Service/default/ratings"}},
		{page, resource.ListenerType, "virtualInbound", []string{"PeerAuthentication/default/strict", "Service/default/ratings"}},
		{page, resource.ClusterType, "inbound|9080||", []string{"Service/default/ratings"}},
		{gw, resource.RouteType, "http.8080", []string{"Gateway/default/bookinfo-gateway", "VirtualService/default/bookinfo"}},
	} {
		r := c.view.Set(c.typ).At(c.name)
		if r == nil {
			t.Errorf("there is no %s %q", resource.Short(c.typ), c.name)
			continue
		}
		var got []string
		for _, o := range r.Origins() {
			got = append(got, o.Value())
		}
		slices.Sort(got)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s is made of (-want +got)\n%s", r, d)
		}
	}
}
