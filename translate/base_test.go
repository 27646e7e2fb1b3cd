package translate

import (
	"testing"
	"unicode/utf8"

	"github.com/weirmesh/weir/mesh"
)

// An egress proxy whose name is no text is not a black hole that nobody explains: calls go to a cluster that is not there, which the
// caller is told, and it is not that of any service.
func TestUnreadableEgressProxy(t *testing.T) {
	b := newBase(&mesh.Settings{}, false, 1)
	for _, d := range []mesh.Destination{{Host: "bad\xffhost", Port: 80}, {Host: "a.example", Subset: "\xc3", Port: 80}} {
		o := b.outside(&mesh.Sidecar{Strangers: mesh.StrangersPass, Proxy: &d})
		if o == nil || o.to == blackHoleCluster || o.to == passthroughCluster || !utf8.ValidString(o.to) || o.outbounds[redirected] == nil || o.elsewhere == nil {
			t.Errorf("%q: %+v", d.Host, o)
		}
	}
}
