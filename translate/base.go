package translate

import (
	"strings"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// base is what all building has in common: it changes with Settings and
// PeerAuthentications only.
type base struct {
	settings *mesh.Settings
	filters  *filters
	authn    *authn
	epoch    uint64 // differs between Settings

	// What every proxy of a kind has.
	clusters        []*resource.Resource
	inboundClusters []*resource.Resource
	outer           map[string]*outer // by the cluster that strangers go to
}

// outer is what becomes of calls to what is not in the mesh.
type outer struct {
	to        string // their cluster
	elsewhere *vhost // for hosts nobody knows
	outbounds map[scopeKind]*resource.Resource
}

// outside is the one for viewers with this Sidecar, which may be nil.
func (b *base) outside(s *mesh.Sidecar) *outer {
	to := passthroughCluster
	switch {
	case s != nil && s.Proxy != nil:
		// A name that is no text would take down what it is in. So it is that of a cluster that cannot exist: who is sent there is told so.
		to = strings.ToValidUTF8(clusterName(s.Proxy.Port, s.Proxy.Subset, s.Proxy.Host), "\uFFFD")
	case s != nil && s.Strangers == mesh.StrangersRefused,
		(s == nil || s.Strangers == mesh.StrangersDefault) && b.settings.RegistryOnly:
		to = blackHoleCluster
	}
	if b.outer[to] == nil {
		var k mint // this cannot fail: the name is text
		b.outer[to] = &outer{to: to, elsewhere: seal(&k, strangersHost(to), 0, 1, 1), outbounds: map[scopeKind]*resource.Resource{
			redirected:  b.virtualOutbound(&k, to, false),
			transparent: b.virtualOutbound(&k, to, true),
		}}
	}
	return b.outer[to]
}

func newBase(s *mesh.Settings, sessions bool, epoch uint64) *base {
	var k mint // names and numbers of our own: this cannot fail
	b := &base{settings: s, filters: newFilters(s, sessions), epoch: epoch}
	b.outer = map[string]*outer{}
	for _, strangers := range []mesh.Strangers{mesh.StrangersPass, mesh.StrangersRefused} {
		b.outside(&mesh.Sidecar{Strangers: strangers})
	}
	b.clusters = []*resource.Resource{
		k.resource(passthroughCluster, passthrough(&k, passthroughCluster)),
		k.resource(blackHoleCluster, blackHole()),
	}
	inbound := passthrough(&k, inboundPassthroughCluster)
	inbound.UpstreamBindConfig = ownSource()
	b.inboundClusters = []*resource.Resource{k.resource(inboundPassthroughCluster, inbound)}
	return b
}
