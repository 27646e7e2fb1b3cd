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

	// What every proxy of a kind has.
	clusters        []*resource.Resource
	inboundClusters []*resource.Resource
	outer           map[bool]*outer // by whether strangers are refused
}

// outer is what becomes of calls to what is not in the mesh.
type outer struct {
	refused   bool
	elsewhere *vhost // for hosts nobody knows
	outbounds map[scopeKind]*resource.Resource
}

// outside is the one for viewers with this Sidecar, which may be nil.
func (b *base) outside(s *mesh.Sidecar) *outer {
	if s != nil && s.Strangers != mesh.StrangersDefault {
		return b.outer[s.Strangers == mesh.StrangersRefused]
	}
	return b.outer[b.settings.RegistryOnly]
}

func newBase(s *mesh.Settings, epoch uint64) *base {
	var k mint // names and numbers of our own: this cannot fail
	b := &base{settings: s, filters: newFilters(s.AccessLog), epoch: epoch}
	b.outer = map[bool]*outer{}
	for _, refused := range []bool{false, true} {
		b.outer[refused] = &outer{refused: refused, elsewhere: seal(&k, strangersHost(refused), 0, 1, 1),
			outbounds: map[scopeKind]*resource.Resource{
				redirected:  b.virtualOutbound(&k, refused, false),
				transparent: b.virtualOutbound(&k, refused, true),
			}}
	}
	b.clusters = []*resource.Resource{
		k.resource(passthroughCluster, passthrough(&k, passthroughCluster)),
		k.resource(blackHoleCluster, blackHole()),
	}
	b.inboundClusters = []*resource.Resource{k.resource(inboundPassthroughCluster, passthrough(&k, inboundPassthroughCluster))}
	return b
}
