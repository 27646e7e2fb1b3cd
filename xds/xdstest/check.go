// Package xdstest checks, for tests, what a control plane is about to send: that Envoy and
// every other client of xDS v3 would take it, and that nothing in it leads nowhere.
//
// A View enters, complaints leave; Check keeps nothing and may be called from any
// goroutine. What is checked are the rules in the protos (protoc-gen-validate), inside Any
// too, those of Envoy's rules that are not in the protos (each is beside its check), and
// the references between resources.
package xdstest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/resource"
)

// Complaint is one thing that is wrong with a resource.
type Complaint struct {
	// Type and Name are the resource's.
	Type, Name string
	// Missing is the type URL and Wanted the name of a resource that is referred to and is
	// not in the View; empty for other complaints.
	Missing, Wanted string
	Text            string
}

func (c Complaint) String() string {
	return fmt.Sprintf("%s %q: %s", resource.Short(c.Type), c.Name, c.Text)
}

// Local are the secrets that a workload's own identity serves, by Istio's names.
var local = map[string]bool{"default": true, "ROOTCA": true}

// Check says what is wrong with a View, in order of type and name.
func Check(v *resource.View) []Complaint {
	c := &checker{view: v}
	for _, typ := range slices.Sorted(maps.Keys(v.Sets)) {
		for name, r := range v.Sets[typ].All() {
			c.typ, c.name = typ, name
			c.resource(r)
		}
	}
	c.binds()
	return c.out
}

type checker struct {
	view      *resource.View
	typ, name string
	out       []Complaint
}

func (c *checker) complain(format string, args ...any) {
	c.out = append(c.out, Complaint{Type: c.typ, Name: c.name, Text: fmt.Sprintf(format, args...)})
}

// refer notes a reference to a resource.
func (c *checker) refer(typeURL, name, from string) {
	if name == "" || c.view.Set(typeURL).Has(name) || typeURL == resource.SecretType && local[name] {
		return
	}
	c.out = append(c.out, Complaint{Type: c.typ, Name: c.name, Missing: typeURL, Wanted: name,
		Text: fmt.Sprintf("%s names %s %q, which is not sent", from, resource.Short(typeURL), name)})
}

func (c *checker) resource(r *resource.Resource) {
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(r.TypeURL())
	if err != nil {
		c.complain("its type is not known: %v", err)
		return
	}
	m := mt.New().Interface()
	if err := r.Unmarshal(m); err != nil {
		c.complain("%v", err)
		return
	}
	if name, err := resource.NameOf(r.TypeURL(), r.Body()); name != r.Name() && name != "" || err != nil {
		c.complain("it is sent by this name and calls itself %q (%v)", name, err)
	}
	c.valid(m)
	c.walk(m.ProtoReflect())
}

// valid holds a message against the rules in its proto, which do not look into Any.
func (c *checker) valid(m proto.Message) {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			c.complain("%v", err)
		}
	}
}

// walk visits a message and all in it.
func (c *checker) walk(m protoreflect.Message) {
	switch m := m.Interface().(type) {
	case *anypb.Any:
		inner, err := m.UnmarshalNew()
		if err != nil {
			c.complain("%v", err)
			return
		}
		c.valid(inner)
		c.walk(inner.ProtoReflect())
		return
	case *clusterv3.Cluster:
		c.cluster(m)
	case *endpointv3.ClusterLoadAssignment:
		c.assignment(m)
	case *listenerv3.Listener:
		c.listener(m)
	case *hcmv3.HttpConnectionManager:
		c.manager(m)
	case *hcmv3.Rds:
		c.refer(resource.RouteType, m.GetRouteConfigName(), "rds")
	case *routev3.RouteConfiguration:
		c.routes(m)
	case *routev3.RouteAction:
		c.action(m)
	case *tcpproxyv3.TcpProxy:
		c.refer(resource.ClusterType, m.GetCluster(), "tcp_proxy")
		for _, w := range m.GetWeightedClusters().GetClusters() {
			c.refer(resource.ClusterType, w.GetName(), "tcp_proxy")
		}
	case *tlsv3.SdsSecretConfig:
		c.refer(resource.SecretType, m.GetName(), "tls")
	case *tlsv3.DownstreamTlsContext:
		// Envoy: "No TLS certificates found for server context".
		t := m.GetCommonTlsContext()
		if len(t.GetTlsCertificates())+len(t.GetTlsCertificateSdsSecretConfigs()) == 0 && t.GetTlsCertificateProviderInstance() == nil {
			c.complain("a server without certificate")
		}
	case *matcherv3.RegexMatcher:
		c.regex(m.GetRegex())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { c.walk(v.Message()); return true })
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				c.walk(v.List().Get(i).Message())
			}
		default:
			c.walk(v.Message())
		}
		return true
	})
}

func (c *checker) regex(s string) {
	if _, err := regexp.Compile(s); err != nil { // RE2, as Envoy has
		c.complain("%v", err)
	}
}

func (c *checker) cluster(m *clusterv3.Cluster) {
	var at []*endpointv3.LbEndpoint
	for _, l := range m.GetLoadAssignment().GetEndpoints() {
		at = append(at, l.GetLbEndpoints()...)
	}
	switch m.GetType() {
	case clusterv3.Cluster_EDS:
		c.refer(resource.EndpointType, cmp.Or(m.GetEdsClusterConfig().GetServiceName(), m.GetName()), "eds_cluster_config")
		if m.GetLoadAssignment() != nil {
			c.complain("an EDS cluster with endpoints of its own")
		}
	case clusterv3.Cluster_ORIGINAL_DST:
		// Envoy: "cluster: LB policy … is not valid for Cluster type ORIGINAL_DST".
		if m.GetLbPolicy() != clusterv3.Cluster_CLUSTER_PROVIDED || m.GetLoadAssignment() != nil {
			c.complain("an ORIGINAL_DST cluster that chooses among endpoints")
		}
	case clusterv3.Cluster_LOGICAL_DNS:
		// Envoy: "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint".
		if len(at) != 1 {
			c.complain("a LOGICAL_DNS cluster with %d endpoints", len(at))
		}
	case clusterv3.Cluster_STATIC:
		c.addresses(at)
	case clusterv3.Cluster_STRICT_DNS:
	}
	if m.GetType() != clusterv3.Cluster_ORIGINAL_DST && m.GetClusterType().GetName() != resource.ForwardProxyCluster && m.GetLbPolicy() == clusterv3.Cluster_CLUSTER_PROVIDED {
		c.complain("its type provides no balancing")
	}
	seen := map[string]bool{}
	for _, s := range m.GetTransportSocketMatches() {
		if seen[s.GetName()] {
			c.complain("two transport sockets named %q", s.GetName())
		}
		seen[s.GetName()] = true
	}
}

func (c *checker) assignment(m *endpointv3.ClusterLoadAssignment) {
	if c.typ != resource.EndpointType {
		return
	}
	var priorities []uint32
	for _, l := range m.GetEndpoints() {
		c.addresses(l.GetLbEndpoints())
		priorities = append(priorities, l.GetPriority())
		sum := uint64(0)
		for _, e := range l.GetLbEndpoints() {
			sum += uint64(max(1, e.GetLoadBalancingWeight().GetValue()))
		}
		// Envoy: "The sum of weights of all upstream hosts in a locality exceeds 4294967295".
		if sum > math.MaxUint32 {
			c.complain("weights of a locality add up to %d", sum)
		}
	}
	slices.Sort(priorities)
	for i, p := range slices.Compact(priorities) {
		if p != uint32(i) { // proto: "Priorities should range from 0 (highest) to N (lowest) without skipping"
			c.complain("priority %d is there and %d is not", p, i)
		}
	}
}

// addresses must be such: Envoy resolves names in DNS clusters only ("malformed IP address").
func (c *checker) addresses(list []*endpointv3.LbEndpoint) {
	for _, e := range list {
		a := e.GetEndpoint().GetAddress().GetSocketAddress()
		if a == nil {
			continue
		}
		if _, err := netip.ParseAddr(a.GetAddress()); err != nil {
			c.complain("endpoint %v", err)
		}
		if a.GetPortValue() == 0 {
			c.complain("endpoint %s has no port", a.GetAddress())
		}
	}
}

func (c *checker) listener(m *listenerv3.Listener) {
	chains := slices.Clone(m.GetFilterChains())
	if m.GetApiListener() == nil && len(chains) == 0 && m.GetDefaultFilterChain() == nil {
		c.complain("there is no filter chain") // Envoy: "no filter chains specified"
	}
	if m.GetApiListener() == nil && m.GetAddress() == nil {
		c.complain("there is no address")
	}
	// Envoy: "multiple filter chains with the same matching rules are defined".
	seen := map[string]string{}
	for _, f := range chains {
		match := proto.CloneOf(f.GetFilterChainMatch())
		if match == nil {
			match = &listenerv3.FilterChainMatch{}
		}
		names := match.GetServerNames()
		for _, n := range names {
			if strings.Contains(strings.TrimPrefix(n, "*."), "*") { // Envoy: "partial wildcards are not supported in server_names"
				c.complain("server name %q", n)
			}
		}
		if len(names) == 0 {
			names = []string{""}
		}
		for _, n := range names {
			match.ServerNames = []string{n}
			id, _ := proto.MarshalOptions{Deterministic: true}.Marshal(match)
			if was, ok := seen[string(id)]; ok {
				c.complain("chains %q and %q match the same: %v", was, f.GetName(), match)
			}
			seen[string(id)] = f.GetName()
		}
	}
}

// binds looks for two listeners on one address.
func (c *checker) binds() {
	taken := map[string]string{}
	for name, r := range c.view.Set(resource.ListenerType).All() {
		m := &listenerv3.Listener{}
		if r.Unmarshal(m) != nil || m.GetApiListener() != nil || m.GetBindToPort() != nil && !m.GetBindToPort().GetValue() {
			continue
		}
		c.typ, c.name = resource.ListenerType, name
		for _, a := range append([]*corev3.Address{m.GetAddress()}, additional(m)...) {
			at := fmt.Sprint(a.GetSocketAddress().GetProtocol(), a.GetSocketAddress().GetAddress(), a.GetSocketAddress().GetPortValue(), a.GetPipe().GetPath())
			// A proxyless server is one listener under several names.
			if was, ok := taken[at]; ok && !strings.Contains(name, "/") {
				c.complain("it listens where %q does", was)
			}
			taken[at] = name
		}
	}
}

func additional(m *listenerv3.Listener) (out []*corev3.Address) {
	for _, a := range m.GetAdditionalAddresses() {
		out = append(out, a.GetAddress())
	}
	return out
}

func (c *checker) manager(m *hcmv3.HttpConnectionManager) {
	filters := m.GetHttpFilters()
	const router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
	for i, f := range filters {
		// Envoy: "terminal filter … must be the last filter", and "non-terminal filter …".
		if (f.GetTypedConfig().GetTypeUrl() == router) != (i == len(filters)-1) {
			c.complain("HTTP filter %d of %d is %s: the router must be the last one", i+1, len(filters), f.GetName())
		}
	}
	if len(filters) == 0 {
		c.complain("a connection manager without router")
	}
}

func (c *checker) routes(m *routev3.RouteConfiguration) {
	domains, names := map[string]string{}, map[string]bool{}
	for _, h := range m.GetVirtualHosts() {
		if names[h.GetName()] {
			c.complain("two virtual hosts named %q", h.GetName())
		}
		names[h.GetName()] = true
		for _, d := range h.GetDomains() {
			// Envoy: "Only unique values for domains are permitted", without regard to case.
			if was, ok := domains[strings.ToLower(d)]; ok {
				c.complain("domain %q is in virtual hosts %q and %q", d, was, h.GetName())
			}
			domains[strings.ToLower(d)] = h.GetName()
		}
	}
}

func (c *checker) action(m *routev3.RouteAction) {
	c.refer(resource.ClusterType, m.GetCluster(), "a route")
	sum := uint64(0)
	for _, w := range m.GetWeightedClusters().GetClusters() {
		c.refer(resource.ClusterType, w.GetName(), "a route")
		sum += uint64(w.GetWeight().GetValue())
	}
	if w := m.GetWeightedClusters(); w != nil && (sum == 0 || sum > math.MaxUint32) {
		c.complain("weights add up to %d", sum)
	}
	for _, p := range m.GetRequestMirrorPolicies() {
		c.refer(resource.ClusterType, p.GetCluster(), "a mirror")
	}
}
