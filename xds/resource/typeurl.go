package resource

import (
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// ForwardProxyCluster is the cluster_type of names that only clients know.
const ForwardProxyCluster = "envoy.clusters.dynamic_forward_proxy"

const typePrefix = "type.googleapis.com/"

// The type URLs of xDS v3, of the two resources that Istio adds to it, and of Weir's own.
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
	// IndexType is Weir's: see docs/design/ondemand.md.
	IndexType       = typePrefix + "weir.dev.ondemand.v1.IndexShard"
	ProxyConfigType = typePrefix + "istio.mesh.v1alpha1.ProxyConfig"
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
	case IndexType:
		return "index"
	}
	return typeURL[strings.LastIndexAny(typeURL, "./")+1:]
}

// EmptyMeansAll reports whether a subscription that never gave a name is one to everything
// there is. The xDS protocol ("How the client specifies what resources to return") has this
// for listeners and clusters; Istio has it for every type that is not referred to by name.
func EmptyMeansAll(typeURL string) bool {
	switch typeURL {
	case EndpointType, RouteType, VirtualHostType, SecretType, ExtensionConfigType:
		return false
	}
	return true
}

// NameOf finds the name in a marshalled resource, which state of the world does not send
// beside it. In all types that have names that is a string with field number 1 (Cluster.name,
// ClusterLoadAssignment.cluster_name, …); the others have one resource, named "".
func NameOf(typeURL string, body []byte) (string, error) {
	switch typeURL {
	case ClusterType, EndpointType, ListenerType, RouteType, ScopedRouteType, VirtualHostType, SecretType, ExtensionConfigType:
	default:
		return "", nil
	}
	var name string
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return "", protowire.ParseError(n)
		}
		body = body[n:]
		if num == 1 && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(body)
			if n < 0 {
				return "", protowire.ParseError(n)
			}
			name = string(v) // the last one counts, should there be several
			body = body[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, body); n < 0 {
			return "", protowire.ParseError(n)
		}
		body = body[n:]
	}
	return name, nil
}
