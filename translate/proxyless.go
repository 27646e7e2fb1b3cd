package translate

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// This file is for programs that speak gRPC's own xDS and have no proxy (node metadata
// GENERATOR=grpc, as in Istio). They take a part of xDS (gRFCs A27, A28, A29, A36 and
// their followers) and refuse a resource with anything in it that they must not ignore:
//
//   - a client asks for the listener it dials, `host:port`: an API listener whose routes are
//     `outbound|port||fqdn`, with the faults and nothing else before the router;
//   - a server asks for the listener it is, by its address behind one of serverPrefixes;
//   - clusters are EDS or one DNS name, without transport_socket_matches;
//   - certificates come from the provider "default" of the program's bootstrap.

// serverPrefixes begin the names under which servers ask for their listener, by the
// server_listener_resource_name_template of their bootstrap: Istio's, and the one that
// gRPC's documentation has.
var serverPrefixes = []string{"xds.istio.io/grpc/lds/inbound/", "grpc/server?xds.resource.listening_address="}

// provider is the certificate provider's name in the bootstrap that Istio's agent writes.
const provider = "default"

// direct is the tenant of a scope whose viewers have no proxy.
func (s *scope) direct(c *Cache, host string, st *service, v *virtual, rules []*mesh.DestinationRule) *tenant {
	t, b := &tenant{}, c.base
	if isWildcard(host) {
		return nil // nothing one could dial
	}
	merged := merge(rules)
	var hosts []*vhost
	if st == nil {
		h, problems := b.virtualHost(host, nil, lonePort, v, &s.audience)
		t.problems = problems
		if h != nil {
			hosts = []*vhost{h}
		}
	} else {
		hs := st.hostSet(b, v, &s.audience, s.source)
		hosts, t.problems = hs.hosts, slices.Clone(hs.problems)
		for i, p := range st.ports {
			for _, subset := range merged.named() {
				u := &upstream{svc: st.Service, port: p, subset: subset, rule: merged, crew: &st.crews[i], settings: b.settings, at: b.near(rules, s.place)}
				cluster, assignment := u.direct(&t.problems)
				t.clusters = append(t.clusters, s.present(s.clusters, cluster)...)
				t.assignments = append(t.assignments, s.present(s.assignments, assignment)...)
			}
		}
	}
	for _, h := range hosts {
		name := clusterName(h.port, "", host)
		var k mint
		routes, listeners := directRoutes(&k, name, h, func(cluster string) bool { return v == nil || s.serves(c, cluster, st, v) }), directListeners(&k, name, h)
		if k.err != nil {
			ref := v.ref(st)
			t.problems = append(t.problems, problem(ref, 0, "gRPC clients without proxy do not reach %s: %v", h.name, k.err))
			continue
		}
		t.tables = append(t.tables, s.present(s.routes[whole], routes)...)
		d := &door{port: h.port, ref: v.ref(st)}
		for _, l := range listeners {
			d.own = append(d.own, s.present(s.listeners, l)...)
		}
		t.doors = append(t.doors, d)
	}
	return t
}

// ref is the object that a host is there because of: its service, or else v.
func (v *virtual) ref(st *service) *mesh.Ref {
	if st != nil {
		return &st.Ref
	}
	return &v.Ref
}

// present is r, or its equal in the set that is sent now; nothing for nil.
func (s *scope) present(set resource.Set, r *resource.Resource) []*resource.Resource {
	if r == nil {
		return nil
	}
	if was := set.At(r.Name()); resource.Same(was, r) {
		r = was
	}
	return []*resource.Resource{r}
}

// directListeners are the listeners of one service port, one for each of its names.
func directListeners(k *mint, routes string, h *vhost) []*resource.Resource {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix:     routes,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: routes}},
		HttpFilters: []*hcmv3.HttpFilter{
			httpFilter(faultFilterName, k.any(&faultv3.HTTPFault{})),
			httpFilter(routerFilterName, k.any(&routerv3.Router{})),
		},
	}
	api := &listenerv3.ApiListener{ApiListener: k.any(m)}
	var out []*resource.Resource
	for _, d := range h.domains {
		if _, _, err := net.SplitHostPort(d); err == nil {
			out = append(out, k.resource(d, &listenerv3.Listener{Name: d, ApiListener: api}))
		}
	}
	return out
}

func httpFilter(name string, config *anypb.Any) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
}

const routerFilterName = "envoy.filters.http.router"

// directRoutes are the routes of a virtual host as gRPC takes them, for whatever name the
// client has dialled. served says which clusters such a client gets.
func directRoutes(k *mint, name string, h *vhost, served func(cluster string) bool) *resource.Resource {
	m := &routev3.VirtualHost{}
	if err := proto.Unmarshal(h.tail, m); err != nil {
		k.fail(err)
		return nil
	}
	m.Name, m.Domains = h.name, []string{"*"}
	m.Routes = withoutMissing(m.Routes, served)
	for _, r := range m.GetRoutes() {
		if prefix := r.GetMatch().GetPathSeparatedPrefix(); prefix != "" {
			r.Match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regexp.QuoteMeta(prefix) + "(/.*)?"}}
		}
		for filter := range r.GetTypedPerFilterConfig() {
			if filter != faultFilterName {
				delete(r.TypedPerFilterConfig, filter) // CORS is for browsers
			}
		}
		// gRPC reads the timeout from nowhere else. 0 is none.
		if to := r.GetRoute(); to.GetTimeout().AsDuration() > 0 {
			to.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: to.Timeout, GrpcTimeoutHeaderMax: to.Timeout}
		}
	}
	return k.resource(name, &routev3.RouteConfiguration{Name: name, ValidateClusters: wrapperspb.Bool(false), VirtualHosts: []*routev3.VirtualHost{m}})
}

// serves reports whether clients of the scope are given a cluster that routes of v name: that of a port which a service has,
// and of a subset which its DestinationRules name (see direct). st is the service that v speaks for, nil if there is none.
func (s *scope) serves(c *Cache, cluster string, st *service, v *virtual) bool {
	parts := strings.Split(cluster, "|") // as clusterName makes it
	if len(parts) != 4 || isWildcard(parts[3]) {
		return false
	}
	svc := v.destinations[parts[3]]
	if svc == nil && st != nil && parts[3] == st.Hostname {
		svc = st.Service // that is where what v says nothing about goes
	}
	if svc == nil || !slices.ContainsFunc(svc.Ports, func(p mesh.Port) bool { return itoa(p.Number) == parts[1] && p.Protocol != mesh.UDP }) {
		return false
	}
	return parts[2] == "" || slices.ContainsFunc(merge(c.index.rulesFor(svc, &s.audience, c.base.settings.RootNamespace)).named(), func(x *mesh.Subset) bool { return x != nil && x.Name == parts[2] })
}

// withoutMissing are routes that name no cluster that clients without proxy do not get: one of a host that nobody has, or
// of a name that one cannot dial, of a port that is not served, of a subset that is not there. gRPC would wait for it, for
// 15 s, with all calls to this host. What would go there fails, be it a share.
func withoutMissing(routes []*routev3.Route, served func(cluster string) bool) []*routev3.Route {
	nowhere := &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 503}}
	var out []*routev3.Route
	for _, r := range routes {
		if c := r.GetRoute().GetCluster(); c != "" && !served(c) {
			r.Action = nowhere
		}
		if w := r.GetRoute().GetWeightedClusters(); w != nil {
			all, lost := 0.0, 0.0
			w.Clusters = slices.DeleteFunc(w.Clusters, func(c *routev3.WeightedCluster_ClusterWeight) bool {
				weight := float64(c.GetWeight().GetValue())
				all += weight
				if served(c.GetName()) {
					return false
				}
				lost += weight
				return true
			})
			switch {
			case len(w.Clusters) == 0:
				r.Action = nowhere
			case lost > 0:
				share := proto.CloneOf(r)
				share.Action = nowhere
				share.Match.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: fraction(100 * lost / all)}
				out = append(out, share)
			}
		}
		out = append(out, r)
	}
	return out
}

// direct makes the cluster for a client without proxy, and its load assignment. What such
// a client cannot do has no endpoints, rather than less security than was asked for.
func (u *upstream) direct(problems *[]Problem) (cluster, assignment *resource.Resource) {
	policy, closed := u.rule.on(u.port.Number, u.subset)
	c := &clusterv3.Cluster{
		Name:                 u.name(),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: u.name()},
		ConnectTimeout:       duration(defaultConnectTimeout),
		CircuitBreakers:      circuitBreakers(policy.Pool, nil, u.settings.Defaults.PoolLimit),
		Metadata:             u.metadata(u.rule.ref),
		// Of what Istio has, every implementation of gRPC knows this one alone.
		LbPolicy: clusterv3.Cluster_ROUND_ROBIN,
	}
	load := &endpointv3.ClusterLoadAssignment{ClusterName: c.Name}
	note := func(why string) {
		ref := u.rule.ref
		if ref == nil {
			ref = &u.svc.Ref
		}
		*problems = append(*problems, problem(ref, 0, "%s, for gRPC clients without proxy: %s", c.Name, why))
	}
	var k mint
	mode := ""
	if policy.TLS != nil {
		mode = policy.TLS.Mode
	}
	switch {
	case closed != nil:
	case mode == "SIMPLE" || mode == "MUTUAL":
		note("has no endpoints: they cannot do tls.mode " + mode)
	default:
		outlier(c, policy.Outlier, &u.settings.Defaults)
		load = u.reachable(c, u.prefers(policy.LoadBalancer))
		if mode == "ISTIO_MUTUAL" || u.crew.demanded {
			c.TransportSocket = providedClient(&k, u.settings, sniName(u.port.Number, u.subsetName(), u.svc.Hostname), slices.Concat(u.crew.ids, u.svc.ServiceAccounts))
		}
	}
	cluster = k.resource(c.Name, c)
	if c.EdsClusterConfig != nil {
		assignment = k.resource(c.Name, load)
	}
	if k.err != nil {
		note("is left out: " + k.err.Error())
		return nil, nil
	}
	return cluster, assignment
}

// reachable are the endpoints as gRPC takes them: with a locality, each address once, no
// Unix sockets. Those that are names make c a DNS cluster, of one name.
func (u *upstream) reachable(c *clusterv3.Cluster, prefer *preference) *endpointv3.ClusterLoadAssignment {
	load := u.crew.assignment(c.Name, u.subset, u.settings.ClusterID, u.svc.Resolution == mesh.DNS || u.svc.Resolution == mesh.DNSRoundRobin, prefer)
	seen := map[string]bool{}
	load.Endpoints = slices.DeleteFunc(load.Endpoints, func(l *endpointv3.LocalityLbEndpoints) bool {
		l.LbEndpoints = slices.DeleteFunc(l.LbEndpoints, func(e *endpointv3.LbEndpoint) bool {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			at := hostPort(a.GetAddress(), uint16(a.GetPortValue()))
			again := a == nil || seen[at]
			seen[at] = true
			if again {
				l.LoadBalancingWeight.Value -= e.GetLoadBalancingWeight().GetValue()
			}
			return again
		})
		if l.Locality == nil {
			l.Locality = &corev3.Locality{}
		}
		return len(l.LbEndpoints) == 0
	})
	withoutGaps(load.Endpoints)
	name := ""
	for _, l := range load.Endpoints {
		for _, e := range l.LbEndpoints {
			if a := e.GetEndpoint().GetAddress().GetSocketAddress(); name == "" && !isAddress(a.GetAddress()) {
				name = a.GetAddress()
				load = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{e}}}}
			}
		}
	}
	if name == "" && len(load.Endpoints) == 0 && u.svc.External && u.svc.Resolution != mesh.Static {
		name = u.svc.Hostname
		self := endpoint{Endpoint: &mesh.Endpoint{Host: name, Port: u.port.TargetNumber()}}
		load.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{self.message("")}}}
	}
	if name != "" {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
		c.EdsClusterConfig, c.LoadAssignment = nil, load
	}
	return load
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// provided is the program's own identity, and the mesh's roots to check the peer's by. TLS
// versions and ALPN are gRPC's own business.
func provided(v *tlsv3.CertificateValidationContext) *tlsv3.CommonTlsContext {
	v.CaCertificateProviderInstance = &tlsv3.CertificateProviderPluginInstance{InstanceName: provider, CertificateName: sdsRoots}
	return &tlsv3.CommonTlsContext{
		TlsCertificateProviderInstance: &tlsv3.CertificateProviderPluginInstance{InstanceName: provider, CertificateName: sdsCertificate},
		ValidationContextType:          &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v},
	}
}

// providedClient is mesh mTLS of a gRPC client without proxy.
func providedClient(k *mint, s *mesh.Settings, sni string, ids []string) *corev3.TransportSocket {
	v := &tlsv3.CertificateValidationContext{}
	names := exactNames(tlsv3.SubjectAltNameMatcher_URI, withAliases(ids, s))
	if len(names) == 0 {
		names = anyMember(s)
	}
	for _, n := range names {
		// gRPC looks at no other field (gRFC A29).
		v.MatchSubjectAltNames = append(v.MatchSubjectAltNames, n.GetMatcher()) // deprecated in favour of a field gRPC ignores
	}
	return tlsSocket(k, &tlsv3.UpstreamTlsContext{CommonTlsContext: provided(v), Sni: sni})
}

// directInbound builds the listeners of a gRPC server without proxy, under every name it
// may ask for them by: where it listens only it knows. Such a server cannot take
// plaintext and mTLS on one port: PERMISSIVE is mTLS for workloads whose label says that
// clients may use it, as in Istio.
func (b *base) directInbound(in *inboundSet, n *Node, labels mesh.Labels, ports []served) {
	addresses := append([]netip.Addr{
		netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(),
	}, n.Addresses...)
	slices.SortFunc(addresses, netip.Addr.Compare)
	addresses = slices.Compact(addresses)
	var k mint
	for _, p := range ports {
		m := &hcmv3.HttpConnectionManager{
			StatPrefix: "inbound_" + itoa(p.port),
			RouteSpecifier: routeConfig(&routev3.RouteConfiguration{Name: "inbound", VirtualHosts: []*routev3.VirtualHost{{
				Name: "inbound|http|" + itoa(p.servicePort), Domains: []string{"*"},
				Routes: []*routev3.Route{{
					Name:   "default",
					Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
					Action: &routev3.Route_NonForwardingAction{NonForwardingAction: &routev3.NonForwardingAction{}},
				}},
			}}}),
			HttpFilters: []*hcmv3.HttpFilter{httpFilter(routerFilterName, k.any(&routerv3.Router{}))},
		}
		p.authz.guardDirect(&k, m, p.port)
		chain := &listenerv3.FilterChain{Name: "inbound-plaintext", Filters: managerFilter(&k, m)}
		if p.mode == mesh.MTLSStrict || p.mode == mesh.MTLSPermissive && labels["security.istio.io/tlsMode"] == "istio" {
			chain.Name = "inbound-mtls"
			chain.TransportSocket = tlsSocket(&k, &tlsv3.DownstreamTlsContext{
				CommonTlsContext:         provided(&tlsv3.CertificateValidationContext{}), // matching names is not supported here (gRFC A36)
				RequireClientCertificate: wrapperspb.Bool(true),
			})
		}
		for _, a := range addresses {
			at := netip.AddrPortFrom(a, p.port).String()
			for _, prefix := range serverPrefixes {
				in.listeners = append(in.listeners, k.resource(prefix+at, &listenerv3.Listener{
					Name: prefix + at, Address: socketAddress(a.String(), p.port), FilterChains: []*listenerv3.FilterChain{chain},
					TrafficDirection: corev3.TrafficDirection_INBOUND,
				}))
			}
		}
	}
	var allows authorization
	if len(ports) > 0 {
		allows = *ports[0].authz
	}
	for _, p := range allows.identify {
		in.problems = append(in.problems, problem(&p.Ref, 0, "gRPC servers without proxy, as %s, check no tokens: calls that bring one are denied there, and policies that ask for one let nobody in", n.Name))
	}
	in.drop(&k, ports, &allows)
}

// unchecked denies calls that bring a token where a RequestAuthentication looks for one: gRPC has no filter that checks
// tokens, and the application must not take for checked what nobody has looked at. What asks policies for a token finds
// none.
func (a *authorization) unchecked(k *mint) []*hcmv3.HttpFilter {
	deny := map[string]*rbacv3.Policy{}
	for _, p := range a.identify {
		var places []*rbacv3.Permission
		place := func(header, value string) {
			places = append(places, &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: headerMatch(header, value, false)}})
		}
		for i := range p.Rules {
			r := &p.Rules[i]
			if len(r.Headers)+len(r.Params)+len(r.Cookies) == 0 {
				place("authorization", "Bearer *")
			}
			for _, h := range r.Headers {
				place(h.Name, h.Prefix+"*")
			}
			if len(r.Cookies) > 0 {
				place("cookie", "*")
			}
		}
		if len(places) > 0 {
			deny[fmt.Sprintf("ns[%s]-policy[%s/%s]-rule[0]", p.Home(), p.Ref.Kind, p.Ref.Name)] = &rbacv3.Policy{
				Permissions: places, Principals: []*rbacv3.Principal{source.any()}}
		}
	}
	if len(deny) == 0 {
		return nil
	}
	return []*hcmv3.HttpFilter{httpFilter("envoy.filters.http.rbac", k.any(&httprbacv3.RBAC{Rules: &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: deny}}))}
}

// directPorts are the ports that n's workload serves, those of services that only list
// one of its addresses included: a ServiceEntry may be all that is known of a program
// outside Kubernetes.
func (c *Cache) directPorts(n *Node, labels mesh.Labels) []served {
	out := c.servedPorts(n, labels)
	for _, s := range c.listing(n.Namespace) {
		eps := c.snap.Endpoints.At(s.Key())
		if eps == nil {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			for j := range eps.Ports[p.Number] {
				e := &eps.Ports[p.Number][j]
				port := e.Addr.Port()
				if port == 0 || !slices.Contains(n.Addresses, e.Addr.Addr()) || slices.ContainsFunc(out, func(o served) bool { return o.port == port }) {
					continue
				}
				out = append(out, served{port: port, servicePort: p.Number, protocol: p.Protocol, services: []*mesh.Service{s}})
			}
		}
	}
	slices.SortFunc(out, func(a, b served) int { return int(a.port) - int(b.port) })
	return out
}

// listing are the services of a namespace that list their endpoints, the most
// authoritative first. They are looked for once a Snapshot, and only if somebody asks.
func (c *Cache) listing(namespace string) []*mesh.Service {
	if c.lists == nil || c.listsGen != c.gen {
		c.lists, c.listsGen = map[string][]*mesh.Service{}, c.gen
		for s := range c.snap.Services.Values() {
			if len(s.Selector) == 0 {
				c.lists[s.Namespace] = append(c.lists[s.Namespace], s)
			}
		}
		for _, list := range c.lists {
			slices.SortFunc(list, mesh.Authority)
		}
	}
	return c.lists[namespace]
}

// directKey is what directInbound depends on beside the ports.
func (n *Node) directKey(labels mesh.Labels) string {
	return fmt.Sprintf(" direct %v %s", n.Addresses, labels["security.istio.io/tlsMode"])
}
