package translate

import (
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

	elsewhere *vhost // for hosts nobody knows

	// What every proxy of a kind has.
	clusters         []*resource.Resource
	inboundClusters  []*resource.Resource
	virtualOutbounds map[scopeKind]*resource.Resource
}

func newBase(s *mesh.Settings, epoch uint64) *base {
	var k mint // names and numbers of our own: this cannot fail
	b := &base{settings: s, filters: newFilters(s.AccessLog), epoch: epoch}
	b.elsewhere = seal(&k, strangersHost(s.RegistryOnly), 0, 1, 1)
	b.clusters = []*resource.Resource{
		k.resource(passthroughCluster, passthrough(&k, passthroughCluster)),
		k.resource(blackHoleCluster, blackHole()),
	}
	b.inboundClusters = []*resource.Resource{k.resource(inboundPassthroughCluster, passthrough(&k, inboundPassthroughCluster))}
	b.virtualOutbounds = map[scopeKind]*resource.Resource{
		redirected:  b.virtualOutbound(&k, false),
		transparent: b.virtualOutbound(&k, true),
	}
	return b
}
