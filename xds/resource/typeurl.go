package resource

import "strings"

const typePrefix = "type.googleapis.com/"

// The type URLs of xDS v3, and of the two resources that Istio adds to it.
const (
	ClusterType         = typePrefix + "envoy.config.cluster.v3.Cluster"
	EndpointType        = typePrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType        = typePrefix + "envoy.config.listener.v3.Listener"
	RouteType           = typePrefix + "envoy.config.route.v3.RouteConfiguration"
	ScopedRouteType     = typePrefix + "envoy.config.route.v3.ScopedRouteConfiguration"
	VirtualHostType     = typePrefix + "envoy.config.route.v3.VirtualHost"
	SecretType          = typePrefix + "envoy.extensions.transport_sockets.tls.v3.Secret"
	ExtensionConfigType = typePrefix + "envoy.config.core.v3.TypedExtensionConfig"
	NameTableType       = typePrefix + "istio.networking.nds.v1.NameTable"
	ProxyConfigType     = typePrefix + "istio.mesh.v1alpha1.ProxyConfig"
)

// Short is the usual abbreviation of a type URL ("CDS"), or the last part of its name.
func Short(typeURL string) string {
	switch typeURL {
	case ClusterType:
		return "CDS"
	case EndpointType:
		return "EDS"
	case ListenerType:
		return "LDS"
	case RouteType:
		return "RDS"
	case ScopedRouteType:
		return "SRDS"
	case VirtualHostType:
		return "VHDS"
	case SecretType:
		return "SDS"
	case ExtensionConfigType:
		return "ECDS"
	case NameTableType:
		return "NDS"
	case ProxyConfigType:
		return "PCDS"
	}
	return typeURL[strings.LastIndexAny(typeURL, "./")+1:]
}
