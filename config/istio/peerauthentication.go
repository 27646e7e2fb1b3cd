package istio

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

var mtlsModes = map[securityv1beta1.PeerAuthentication_MutualTLS_Mode]mesh.MTLSMode{
	securityv1beta1.PeerAuthentication_MutualTLS_UNSET:      mesh.MTLSUnset,
	securityv1beta1.PeerAuthentication_MutualTLS_DISABLE:    mesh.MTLSDisable,
	securityv1beta1.PeerAuthentication_MutualTLS_PERMISSIVE: mesh.MTLSPermissive,
	securityv1beta1.PeerAuthentication_MutualTLS_STRICT:     mesh.MTLSStrict,
}

func (l *lowerer) peerAuthentication(spec *securityv1beta1.PeerAuthentication) *mesh.PeerAuthentication {
	pa := &mesh.PeerAuthentication{Ref: l.o.Ref, Mode: mtlsModes[spec.GetMtls().GetMode()]}
	if spec.Selector != nil {
		pa.Selector = l.selector("spec.selector.matchLabels", spec.Selector.MatchLabels)
	}
	if len(spec.PortLevelMtls) > 0 && pa.Selector == nil {
		l.Invalid("spec.portLevelMtls", "needs a selector: ports belong to workloads", "add selector.matchLabels")
	}
	for _, port := range slices.Sorted(maps.Keys(spec.PortLevelMtls)) {
		at := document.Key("spec.portLevelMtls", strconv.Itoa(int(port)))
		if port == 0 || port > 65535 {
			l.Invalid(at, fmt.Sprintf("port %d does not exist", port), "a port is a number from 1 to 65535")
			continue
		}
		if pa.Ports == nil {
			pa.Ports = map[uint16]mesh.MTLSMode{}
		}
		pa.Ports[uint16(port)] = mtlsModes[spec.PortLevelMtls[port].GetMode()]
	}
	return pa
}
