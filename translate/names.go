package translate

import (
	"strconv"
	"strings"

	"github.com/weirmesh/weir/mesh"
)

// Names that other tools read, exact to the byte (features.md B.19).
const (
	passthroughCluster        = "PassthroughCluster"
	blackHoleCluster          = "BlackHoleCluster"
	inboundPassthroughCluster = "InboundPassthroughCluster"

	virtualOutbound = "virtualOutbound"
	virtualInbound  = "virtualInbound"

	outboundPort = 15001
	inboundPort  = 15006

	anyV4 = "0.0.0.0"
	anyV6 = "::"
)

func clusterName(port uint16, subset, host string) string {
	return "outbound|" + itoa(port) + "|" + subset + "|" + host
}

func inboundClusterName(port uint16) string { return "inbound|" + itoa(port) + "||" }

// sniName is the SNI mesh mTLS connections carry.
func sniName(port uint16, subset, host string) string {
	return "outbound_." + itoa(port) + "_." + subset + "_." + host
}

func itoa(port uint16) string { return strconv.Itoa(int(port)) }

// hostPort writes "host:port", IPv6 addresses in brackets.
func hostPort(host string, port uint16) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + itoa(port)
}

// listenerName is "<address>_<port>", as Istio spells it.
func listenerName(addr string, port uint16) string { return addr + "_" + itoa(port) }

// configPath is how Istio's metadata names the object a resource came from; those of which Istio's says nothing are named alike.
func configPath(kind string, r *mesh.Ref) string {
	group := "networking.istio.io/v1"
	switch r.Kind {
	case "AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication":
		group = "security.istio.io/v1"
	}
	return "/apis/" + group + "/namespaces/" + r.Namespace + "/" + kind + "/" + r.Name
}

func isWildcard(host string) bool { return strings.HasPrefix(host, "*") }

// covers reports whether pattern (an exact host or a wildcard) matches host, which may
// itself be a wildcard.
func covers(pattern, host string) bool {
	switch {
	case pattern == host, pattern == "*":
		return true
	case !isWildcard(pattern):
		return false
	}
	return strings.HasSuffix(host, pattern[1:]) && len(host) > len(pattern)-1
}
