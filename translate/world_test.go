package translate_test

import (
	"fmt"
	"net/netip"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/api/nds"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// world builds Snapshots for tests: each put gives a new Snapshot that shares the rest.
type world struct {
	snap  mesh.Snapshot
	index uint32
	clock int64
}

func newWorld() *world {
	w := &world{}
	w.snap.Settings = &mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system",
		DefaultRetries: mesh.RetryPolicy{Attempts: 2, IgnorePreviousHosts: true}}
	return w
}

// publish returns the Snapshot of now.
func (w *world) publish() *mesh.Snapshot {
	w.snap.Version++
	s := w.snap
	return &s
}

func (w *world) ref(kind, ns, name string) mesh.Ref {
	w.clock++
	return mesh.Ref{Kind: kind, Namespace: ns, Name: name, Created: w.clock}
}

func fqdn(name, ns string) string { return name + "." + ns + ".svc.cluster.local" }

// service adds a Kubernetes Service with one port and n endpoints per version, each a
// workload "<name>-<version>-<i>" with a proxy.
func (w *world) service(ns, name string, p mesh.Port, n int, versions ...string) *mesh.Service {
	w.index++
	s := &mesh.Service{
		Ref: w.ref("Service", ns, name), Hostname: fqdn(name, ns), Name: name, Namespace: ns,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(w.index >> 8), byte(w.index)})},
		Index:     256 + w.index, Ports: []mesh.Port{p}, Selector: mesh.Labels{"app": name},
	}
	w.putService(s)
	var list []mesh.Endpoint
	for vi, v := range versions {
		for i := range n {
			wl := &mesh.Workload{Ref: w.ref("Pod", ns, fmt.Sprintf("%s-%s-%d", name, v, i)), Name: fmt.Sprintf("%s-%s-%d", name, v, i), Namespace: ns, Owner: name + "-" + v, OwnerKind: "Deployment",
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(w.index>>8) + 1, byte(w.index), byte(vi*50 + i + 1)})},
				Labels:    mesh.Labels{"app": name, "version": v}, ServiceAccount: name, Proxied: true}
			w.snap.Workloads = w.snap.Workloads.Set(wl.Key(), wl)
			port := p.Target
			if port == 0 {
				port = p.Number
			}
			list = append(list, mesh.Endpoint{Addr: netip.AddrPortFrom(wl.Addresses[0], port), Workload: wl, Identity: wl.SPIFFE("cluster.local"), TLS: true})
		}
	}
	w.endpoints(s, p.Number, list...)
	return s
}

func (w *world) putService(s *mesh.Service) { w.snap.Services = w.snap.Services.Set(s.Key(), s) }

func (w *world) endpoints(s *mesh.Service, port uint16, list ...mesh.Endpoint) {
	w.snap.Endpoints = w.snap.Endpoints.Set(s.Key(), &mesh.EndpointSet{Ports: map[uint16][]mesh.Endpoint{port: list}})
}

func (w *world) virtualService(ns, name string, v mesh.VirtualService) {
	v.Ref = w.ref("VirtualService", ns, name)
	if v.Gateways == nil {
		v.Gateways = []string{mesh.Mesh}
	}
	w.snap.VirtualServices = w.snap.VirtualServices.Set(mesh.NewKey(ns, name), &v)
}

func (w *world) destinationRule(ns, name string, r mesh.DestinationRule) {
	r.Ref = w.ref("DestinationRule", ns, name)
	w.snap.DestinationRules = w.snap.DestinationRules.Set(mesh.NewKey(ns, name), &r)
}

func (w *world) gateway(ns, name string, g mesh.Gateway) {
	g.Ref = w.ref("Gateway", ns, name)
	w.snap.Gateways = w.snap.Gateways.Set(mesh.NewKey(ns, name), &g)
}

func (w *world) peerAuth(ns, name string, p mesh.PeerAuthentication) {
	p.Ref = w.ref("PeerAuthentication", ns, name)
	w.snap.PeerAuths = w.snap.PeerAuths.Set(mesh.NewKey(ns, name), &p)
}

func (w *world) sidecar(ns, name string, s mesh.Sidecar) {
	s.Ref = w.ref("Sidecar", ns, name)
	w.snap.Sidecars = w.snap.Sidecars.Set(mesh.NewKey(ns, name), &s)
}

func httpPort(n uint16) mesh.Port { return mesh.Port{Number: n, Name: "http", Protocol: mesh.HTTP} }

func sidecar(ns, name string, labels mesh.Labels) *translate.Node {
	return &translate.Node{Type: translate.Sidecar, Namespace: ns, Name: name, Labels: labels, Interception: translate.Redirect, DNS: true}
}

// bookinfo is the sample application with an ingress gateway.
func bookinfo() *world {
	w := newWorld()
	for _, s := range []struct {
		name     string
		versions []string
	}{{"productpage", []string{"v1"}}, {"details", []string{"v1"}}, {"ratings", []string{"v1"}}, {"reviews", []string{"v1", "v2", "v3"}}} {
		w.service("default", s.name, httpPort(9080), 1, s.versions...)
	}
	gw := &mesh.Service{Ref: w.ref("Service", "istio-system", "istio-ingressgateway"), Name: "istio-ingressgateway", Namespace: "istio-system",
		Hostname: fqdn("istio-ingressgateway", "istio-system"), Index: 100, Addresses: []netip.Addr{netip.MustParseAddr("10.96.1.1")},
		Selector: mesh.Labels{"istio": "ingressgateway"},
		Ports:    []mesh.Port{{Number: 80, Name: "http2", Protocol: mesh.HTTP2, Target: 8080}, {Number: 443, Name: "https", Protocol: mesh.HTTPS, Target: 8443}}}
	w.putService(gw)
	w.gateway("default", "bookinfo-gateway", mesh.Gateway{Selector: mesh.Labels{"istio": "ingressgateway"}, Servers: []mesh.Server{
		{Port: 8080, PortName: "http", Protocol: mesh.HTTP, Hosts: []mesh.GatewayHost{{Namespace: "*", Host: "*"}}}}})
	w.virtualService("default", "bookinfo", mesh.VirtualService{Hosts: []string{"*"}, Gateways: []string{"default/bookinfo-gateway"}, HTTP: []mesh.HTTPRoute{{
		Matches: []mesh.HTTPMatch{{URI: mesh.StringMatch{Kind: mesh.Exact, Value: "/productpage"}}, {URI: mesh.StringMatch{Kind: mesh.Prefix, Value: "/static"}}},
		Action:  mesh.HTTPAction{Destinations: []mesh.Destination{{Host: fqdn("productpage", "default"), Port: 9080, Weight: 100}}}}}})
	w.destinationRule("default", "reviews", mesh.DestinationRule{Host: fqdn("reviews", "default"), Subsets: []mesh.Subset{
		{Name: "v1", Labels: mesh.Labels{"version": "v1"}}, {Name: "v2", Labels: mesh.Labels{"version": "v2"}}, {Name: "v3", Labels: mesh.Labels{"version": "v3"}}}})
	return w
}

func ingress() *translate.Node {
	return &translate.Node{Type: translate.Router, Namespace: "istio-system", Name: "istio-ingressgateway-0", Labels: mesh.Labels{"istio": "ingressgateway"}}
}

// decode turns a resource back into its message.
func decode(t testing.TB, r *resource.Resource) proto.Message {
	t.Helper()
	return unmarshal(t, r)
}

func unmarshal(t interface{ Fatalf(string, ...any) }, r *resource.Resource) proto.Message {
	var m proto.Message
	switch r.TypeURL() {
	case resource.ClusterType:
		m = &clusterv3.Cluster{}
	case resource.EndpointType:
		m = &endpointv3.ClusterLoadAssignment{}
	case resource.ListenerType:
		m = &listenerv3.Listener{}
	case resource.RouteType:
		m = &routev3.RouteConfiguration{}
	case resource.SecretType:
		m = &tlsv3.Secret{}
	case resource.NameTableType:
		m = &nds.NameTable{}
	default:
		t.Fatalf("%s: unknown type", r)
	}
	if err := r.Unmarshal(m); err != nil {
		t.Fatalf("%s: %v", r, err)
	}
	return m
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
