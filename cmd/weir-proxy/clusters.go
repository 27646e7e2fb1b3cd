package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// typesInPath are what protopath says besides: the root, and what an Any has inside.
var typesInPath = regexp.MustCompile(`^\([^)]*\)\.|\.\([^)]*\)`)

// checkClusters refuses routes to clusters that can never be there: everything is in the file. As in Envoy, a route
// configuration may ask not to be looked at (validate_clusters).
func checkClusters(b *bootstrapv3.Bootstrap) error {
	if b.GetDynamicResources().GetCdsConfig() != nil {
		return nil
	}
	var known []string
	for _, c := range b.GetStaticResources().GetClusters() {
		known = append(known, c.GetName())
	}
	look := func(p protopath.Values, field, name string) error {
		if name == "" || slices.Contains(known, name) {
			return nil
		}
		at := typesInPath.ReplaceAllString(p.Path.String(), "")
		return fmt.Errorf("static_resources.%s.%s: there is no cluster %q in static_resources.clusters, which has: %s", at, field, name, strings.Join(known, ", "))
	}
	return protorange.Range(b.GetStaticResources().ProtoReflect(), func(p protopath.Values) error {
		m, ok := p.Index(-1).Value.Interface().(protoreflect.Message)
		if !ok {
			return nil
		}
		switch m := m.Interface().(type) {
		case *routev3.RouteConfiguration:
			if v := m.GetValidateClusters(); v != nil && !v.GetValue() {
				return protorange.Break
			}
		case *routev3.RouteAction:
			return look(p, "cluster", m.GetCluster())
		case *routev3.RouteAction_RequestMirrorPolicy:
			return look(p, "cluster", m.GetCluster())
		case *routev3.WeightedCluster_ClusterWeight:
			return look(p, "name", m.GetName())
		case *tcpproxyv3.TcpProxy:
			return look(p, "cluster", m.GetCluster())
		case *tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight:
			return look(p, "name", m.GetName())
		case *corev3.GrpcService_EnvoyGrpc:
			return look(p, "cluster_name", m.GetClusterName())
		}
		return nil
	})
}
