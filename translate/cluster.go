package translate

import (
	"cmp"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	forwardproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	dnscachev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

const (
	defaultConnectTimeout = 10 * time.Second // Istio's connectTimeout (features.md B.2)
	dnsRefresh            = 60 * time.Second // Istio's dnsRefreshRate: after failures; success uses the TTL
	unlimited             = math.MaxUint32   // Istio's pool limits unless told otherwise

	httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
)

// upstream is everything one outbound cluster is made of.
type upstream struct {
	svc      *mesh.Service
	origins  []resource.Origin // of svc
	port     *mesh.Port
	subset   *mesh.Subset // nil: the whole service
	rule     *rule
	crew     *crew
	settings *mesh.Settings
	at       *place // of the viewer, where that makes a difference
	// originalDst says the viewer sees the address its client dialled, and that this is
	// a real one: not so behind virtual addresses and on gateways.
	originalDst bool
	// passing is for clients that speak mesh TLS with the endpoints through a gateway, and name this cluster in it: what they
	// say is passed on as it is.
	passing bool
	// edge says that the viewer is a gateway.
	edge bool
}

func (u *upstream) subsetName() string {
	if u.subset == nil {
		return ""
	}
	return u.subset.Name
}

func (u *upstream) name() string {
	if u.passing {
		return sniName(u.port.Number, u.subsetName(), u.svc.Hostname)
	}
	return clusterName(u.port.Number, u.subsetName(), u.svc.Hostname)
}

// build makes the cluster and, where endpoints come by EDS, its load assignment. Both
// are nil for a service that cannot be reached by this viewer at all.
func (u *upstream) build(problems *[]Problem) (cluster, assignment *resource.Resource) {
	k := mint{origins: slices.Clone(u.origins)}
	policy, closed := u.rule.on(u.port.Number, u.subset)
	if closed == nil && !u.edge && !u.rule.chosen && originates(policy.TLS) && policy.TLS.CredentialName != "" {
		closed = cmp.Or(u.rule.ref, u.rule.refs[0]) // as in Istio it is not for them, and nobody is called with less
	}
	dynamic := u.svc.Resolution == mesh.DynamicDNS
	if t := policy.TLS; closed == nil && dynamic && originates(t) && t.SNI == "" && len(t.SANs) == 0 && !t.SkipVerify {
		closed = cmp.Or(u.rule.ref, u.rule.refs[0]) // nobody could say whose certificate it must be
		*problems = append(*problems, problem(closed, 0, "%s is not called: of a host with resolution DYNAMIC_DNS tls must say whose certificate it expects (subjectAltNames)", u.name()))
	}
	if closed != nil {
		k.of(closed)
		return k.resource(u.name(), u.closed(closed, nil)), nil
	}
	if !u.passing && policy.TLS != nil && policy.TLS.Mode == "ISTIO_MUTUAL" && !u.port.Protocol.IsHTTP() {
		// Their proxies do not look for TLS there, because servers that speak first would wait for it: the
		// application would get a ClientHello.
		by, rest, whole := u.crew.contradicted(u.subset)
		asks := cmp.Or(u.rule.ref, u.rule.refs[0])
		if by != nil && (whole || u.dialled(policy.LoadBalancer)) { // of those whom clients dial nobody can be left out
			k.of(asks)
			k.from(u.crew.policies...)
			k.origins = append(k.origins, u.crew.workloads...)
			return k.resource(u.name(), u.closed(asks, by)), nil
		}
		if by != nil {
			u.crew = rest
			*problems = append(*problems, problem(asks, 0, "%s: endpoints that accept no mesh mTLS (PeerAuthentication %s/%s: DISABLE) are not called: tls.mode is ISTIO_MUTUAL", u.name(), by.Namespace, by.Name))
		}
	}
	c := &clusterv3.Cluster{
		Name:            u.name(),
		CircuitBreakers: circuitBreakers(policy.Pool, policy.Budget, u.settings.Defaults.PoolLimit),
		Metadata:        u.metadata(u.rule.ref),
		ConnectTimeout:  duration(defaultConnectTimeout),
	}
	resolves := u.svc.Resolution == mesh.DNS || u.svc.Resolution == mesh.DNSRoundRobin
	prefer := u.prefers(policy.LoadBalancer)
	load := u.crew.assignment(c.Name, u.subset, u.settings.ClusterID, resolves, prefer)
	if !u.discovery(&k, c, load, policy.LoadBalancer) {
		return nil, nil
	}
	balance(&k, c, policy.LoadBalancer, u.settings.Defaults.Balancing)
	outlier(c, policy.Outlier, &u.settings.Defaults)
	if s, _ := sessionOf(u.svc); s != (session{}) {
		c.CommonLbConfig.OverrideHostStatus = staying()
	}
	if prefer.weighted() {
		c.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
	}
	if o := policy.Outlier; o != nil && o.Probes > 0 {
		ours(c.Metadata)["half_open_probes"] = structpb.NewNumberValue(float64(o.Probes))
	}
	if u.svc.Led && u.subset == nil && len(u.svc.Addresses) > 0 {
		ours(c.Metadata)["led"] = text(netip.AddrPortFrom(u.svc.Addresses[0], u.port.Number).String())
	}
	if t := policy.Tunnel; t != nil {
		ours(c.Metadata)["tunnel"] = structpb.NewStructValue(fields(map[string]*structpb.Value{
			"host": text(net.JoinHostPort(t.Host, itoa(t.Port))), "post": structpb.NewBoolValue(t.Post)}))
	}
	if u.rule.check.On(u.port) {
		healthCheck(c, u.rule.check)
	}
	u.connections(&k, c, &policy)
	speaker := cmp.Or(u.rule.ref, &u.svc.Ref) // only what is refused may speak, too
	if !u.passing {
		for _, why := range u.transport(&k, c, &policy) {
			*problems = append(*problems, problem(speaker, 0, "%s: %s", c.Name, why))
		}
	}
	k.of(u.rule.refs...)
	k.from(u.crew.policies...)
	k.origins = append(k.origins, u.crew.workloads...) // whose identities it expects
	cluster = k.resource(c.Name, c)
	if c.EdsClusterConfig != nil {
		k.origins = slices.Concat(u.origins, u.crew.policies)
		if u.subset != nil {
			k.of(u.rule.refs...)
		}
		k.origins = append(k.origins, u.crew.workloads...)
		load.ClusterName = c.EdsClusterConfig.ServiceName
		assignment = k.resource(load.ClusterName, load)
	}
	if k.err != nil {
		*problems = append(*problems, problem(speaker, 0, "%s is left out: %v", c.Name, k.err))
		return nil, nil
	}
	return cluster, assignment
}

// closed is the cluster of what must not be called because of an object, or of one that
// contradicts another (nil: none): it has no endpoints and says why.
func (u *upstream) closed(because, against *mesh.Ref) *clusterv3.Cluster {
	c := blackHole()
	c.Name, c.Metadata = u.name(), u.metadata(because)
	why := because.Kind + " " + because.Namespace + "/" + because.Name
	if against != nil {
		why += " against " + against.Kind + " " + against.Namespace + "/" + against.Name
	}
	ours(c.Metadata)["refused"] = text(why)
	return c
}

// ours are the fields of metadata that only our own proxy reads.
func ours(m *corev3.Metadata) map[string]*structpb.Value {
	if m.FilterMetadata["weir"] == nil {
		m.FilterMetadata["weir"] = fields(map[string]*structpb.Value{})
	}
	return m.FilterMetadata["weir"].Fields
}

// metadata names the service, and rule as the object that speaks about it.
func (u *upstream) metadata(rule *mesh.Ref) *corev3.Metadata {
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	if rule != nil {
		m = origin("destination-rule", rule, 0)
	}
	istio := m.FilterMetadata["istio"]
	if istio == nil {
		istio = fields(map[string]*structpb.Value{})
		m.FilterMetadata["istio"] = istio
	}
	istio.Fields["services"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{serviceMetadata(u.svc)}})
	if u.subset != nil {
		istio.Fields["subset"] = text(u.subset.Name)
	}
	return m
}

// serviceMetadata names a service as Istio's cluster metadata does.
func serviceMetadata(s *mesh.Service) *structpb.Value {
	return structpb.NewStructValue(fields(map[string]*structpb.Value{
		"host": text(s.Hostname), "name": text(s.Name), "namespace": text(s.Namespace),
	}))
}

// dialled says that whoever the client dialled is called.
func (u *upstream) dialled(lb *mesh.LoadBalancer) bool {
	return u.originalDst && (u.svc.Resolution == mesh.Passthrough || lb != nil && lb.Simple == mesh.OriginalDst)
}

// discovery says where the endpoints come from; false if from nowhere.
func (u *upstream) discovery(k *mint, c *clusterv3.Cluster, load *endpointv3.ClusterLoadAssignment, lb *mesh.LoadBalancer) bool {
	byName := func() {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		c.DnsRefreshRate = duration(dnsRefresh)
		c.RespectDnsTtl = true
		c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
		if len(u.crew.endpoints) == 0 && !isWildcard(u.svc.Hostname) {
			self := endpoint{Endpoint: &mesh.Endpoint{Host: u.svc.Hostname, Port: u.port.TargetNumber()}}
			load.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{self.message("")}}}
		}
		c.LoadAssignment = load
	}
	switch {
	case u.svc.Resolution == mesh.DynamicDNS:
		c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: resource.ForwardProxyCluster, TypedConfig: k.any(&forwardproxyv3.ClusterConfig{
			ClusterImplementationSpecifier: &forwardproxyv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: &dnscachev3.DnsCacheConfig{Name: "weir", DnsLookupFamily: clusterv3.Cluster_V4_PREFERRED}},
			AllowInsecureClusterOptions:    true, // whose certificate it must be is said by the rule, not by the client
		})}}
		c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
		ours(c.Metadata)["dynamic"] = structpb.NewStructValue(fields(map[string]*structpb.Value{"host": text(u.svc.Hostname), "port": structpb.NewNumberValue(float64(u.port.TargetNumber()))}))
	case u.dialled(lb):
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
		c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	case u.svc.Resolution == mesh.DNS, u.svc.Resolution == mesh.DNSRoundRobin:
		byName()
		if u.svc.Resolution == mesh.DNSRoundRobin && names(load) == 1 {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
		}
	case u.svc.Resolution == mesh.Passthrough && len(u.crew.endpoints) == 0 && u.svc.External:
		if isWildcard(u.svc.Hostname) {
			return false
		}
		byName()
	default:
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: clusterName(u.port.Number, u.subsetName(), u.svc.Hostname)}
	}
	return true
}

func names(load *endpointv3.ClusterLoadAssignment) int {
	n := 0
	for _, l := range load.GetEndpoints() {
		n += len(l.GetLbEndpoints())
	}
	return n
}

// balance says who is chosen; otherwise is the algorithm where lb, which may be nil, names none.
func balance(k *mint, c *clusterv3.Cluster, lb *mesh.LoadBalancer, otherwise mesh.Balancing) {
	if c.LbPolicy == clusterv3.Cluster_CLUSTER_PROVIDED {
		return
	}
	if lb == nil {
		lb = &mesh.LoadBalancer{}
	}
	c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
	switch cmp.Or(lb.Simple, otherwise) {
	case mesh.RoundRobin:
		c.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
	case mesh.Random:
		c.LbPolicy = clusterv3.Cluster_RANDOM
	case mesh.LeastRequest, mesh.OriginalDst:
	}
	if lb.Hash != nil {
		consistentHash(k, c, lb.Hash)
		return
	}
	if w := lb.Warmup; w != nil {
		slow := &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: duration(w.Duration), Aggression: &corev3.RuntimeDouble{DefaultValue: cmp.Or(w.Aggression, 1), RuntimeKey: "aggression"},
			MinWeightPercent: &typev3.Percent{Value: cmp.Or(w.Percent, 10)}}
		switch c.LbPolicy {
		case clusterv3.Cluster_ROUND_ROBIN:
			c.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: slow}}
		case clusterv3.Cluster_LEAST_REQUEST:
			c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: slow}}
		}
	}
}

// circuitBreakers are the limits of a pool, which may be nil; otherwise is that of what has none: 0, none either.
func circuitBreakers(p *mesh.ConnectionPool, b *mesh.RetryBudget, otherwise uint32) *clusterv3.CircuitBreakers {
	if p == nil {
		p = &mesh.ConnectionPool{}
	}
	limit := func(v uint32) *wrapperspb.UInt32Value { return u32(cmp.Or(v, otherwise, unlimited)) }
	t := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     limit(p.MaxConnections),
		MaxPendingRequests: limit(p.MaxPendingRequests),
		MaxRequests:        limit(p.MaxRequests),
		MaxRetries:         limit(p.MaxRetries),
		TrackRemaining:     true,
	}
	if b != nil {
		t.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{BudgetPercent: &typev3.Percent{Value: b.Percent},
			MinRetryConcurrency: u32(b.MinConcurrency), BudgetInterval: someDuration(b.Interval)}
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

func outlier(c *clusterv3.Cluster, o *mesh.OutlierDetection, otherwise *mesh.Defaults) {
	// Unhealthy endpoints are listed so that a reply can say so; without this, below
	// half of them healthy, Envoy would send to them again.
	panicAt := float64(otherwise.MinHealthPercent)
	if o != nil && o.MinHealthPercent > 0 {
		panicAt = float64(min(o.MinHealthPercent, 100))
	}
	c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: panicAt}}
	if o == nil {
		return
	}
	enforce := func(v *uint32) *wrapperspb.UInt32Value {
		switch {
		case v == nil:
			return nil
		case *v == 0:
			return u32(0)
		}
		return u32(100)
	}
	given := func(v *uint32) *wrapperspb.UInt32Value {
		if v == nil {
			return nil
		}
		return u32(*v)
	}
	fives, gateways := o.Consecutive5xx, o.ConsecutiveGateway
	if otherwise.GatewayErrors && fives == nil {
		never, five := uint32(0), uint32(5) // consecutiveErrors of Istio 1.1
		fives, gateways = &never, cmp.Or(gateways, &five)
	}
	c.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx:                        given(fives),
		EnforcingConsecutive_5Xx:               enforce(fives),
		ConsecutiveGatewayFailure:              given(gateways),
		EnforcingConsecutiveGatewayFailure:     enforce(gateways),
		SplitExternalLocalOriginErrors:         o.SplitLocalOrigin,
		ConsecutiveLocalOriginFailure:          given(o.ConsecutiveLocalOrigin),
		EnforcingConsecutiveLocalOriginFailure: enforce(o.ConsecutiveLocalOrigin),
		EnforcingSuccessRate:                   u32(0), // Istio uses consecutive errors only
		Interval:                               someDuration(o.Interval),
		BaseEjectionTime:                       someDuration(o.BaseEjection),
		MaxEjectionPercent:                     someU32(min(o.MaxEjectionPercent, 100)),
		AlwaysEjectOneHost:                     wrapperspb.Bool(true), // 10 %, the default, would be nobody in most services
	}
}

// connections sets timeouts, keep-alive and the HTTP version.
func (u *upstream) connections(k *mint, c *clusterv3.Cluster, policy *mesh.TrafficPolicy) {
	p := cmp.Or(policy.Pool, &mesh.ConnectionPool{})
	if p.ConnectTimeout > 0 {
		c.ConnectTimeout = duration(p.ConnectTimeout)
	}
	c.UpstreamConnectionOptions = keepalive(p)
	if o := u.httpOptions(p, policy.Outlier); o != nil {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: k.any(o)}
	}
}

// keepalive is nil for the operating system's.
func keepalive(p *mesh.ConnectionPool) *clusterv3.UpstreamConnectionOptions {
	if !p.Keepalive {
		return nil
	}
	return &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
		KeepaliveProbes:   someU32(p.KeepaliveProbes),
		KeepaliveTime:     someU32(uint32(p.KeepaliveTime / time.Second)),
		KeepaliveInterval: someU32(uint32(p.KeepaliveInterval / time.Second)),
	}}
}

// lifetimes is how long connections of HTTP last, nil if nothing says so; p may be nil.
func lifetimes(p *mesh.ConnectionPool) *corev3.HttpProtocolOptions {
	if p == nil || p.HTTPIdleTimeout == 0 && p.MaxConnectionDuration == 0 && p.MaxRequestsPerConnection == 0 {
		return nil
	}
	return &corev3.HttpProtocolOptions{
		IdleTimeout:              idleTimeout(p.HTTPIdleTimeout),
		MaxConnectionDuration:    someDuration(p.MaxConnectionDuration),
		MaxRequestsPerConnection: someU32(p.MaxRequestsPerConnection),
	}
}

// httpOptions is nil where plain HTTP/1.1 with defaults, or no HTTP at all, is spoken.
func (u *upstream) httpOptions(p *mesh.ConnectionPool, failing *mesh.OutlierDetection) *upstreamsv3.HttpProtocolOptions {
	protocol := u.port.Protocol
	if !protocol.IsHTTP() && protocol != mesh.Auto {
		return nil
	}
	h2 := &corev3.Http2ProtocolOptions{MaxConcurrentStreams: someU32(min(p.MaxConcurrentStreams, math.MaxInt32))}
	if p.PingInterval > 0 {
		h2.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: duration(p.PingInterval), Timeout: duration(p.PingTimeout)}
	}
	o := &upstreamsv3.HttpProtocolOptions{}
	switch {
	case p.UseClientProtocol, protocol == mesh.Auto:
		o.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreamsv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: h2}}
	case protocol.IsHTTP2(), p.H2Upgrade == "UPGRADE":
		o.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2}}}
	}
	o.CommonHttpProtocolOptions = lifetimes(p)
	if failing != nil && len(failing.Statuses) > 0 {
		o.OutlierDetection = &upstreamsv3.HttpProtocolOptions_OutlierDetection{ErrorMatcher: anyStatus(failing.Statuses)}
	}
	if o.UpstreamProtocolOptions == nil {
		if o.CommonHttpProtocolOptions == nil && o.OutlierDetection == nil {
			return nil
		}
		o.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
					HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}}}
	}
	return o
}

// anyStatus matches responses of one of the statuses.
func anyStatus(statuses []uint16) *matchingv3.MatchPredicate {
	var of []*matchingv3.MatchPredicate
	for _, n := range statuses {
		of = append(of, &matchingv3.MatchPredicate{Rule: &matchingv3.MatchPredicate_HttpResponseHeadersMatch{HttpResponseHeadersMatch: &matchingv3.HttpHeadersMatch{
			Headers: []*routev3.HeaderMatcher{{Name: ":status", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exactMatch(itoa(n))}}}}}})
	}
	if len(of) == 1 {
		return of[0]
	}
	return &matchingv3.MatchPredicate{Rule: &matchingv3.MatchPredicate_OrMatch{OrMatch: &matchingv3.MatchPredicate_MatchSet{Rules: of}}}
}

// transport secures the connection. It returns what of the rule was set aside.
func (u *upstream) transport(k *mint, c *clusterv3.Cluster, policy *mesh.TrafficPolicy) (why []string) {
	t := policy.TLS
	sni := sniName(u.port.Number, u.subsetName(), u.svc.Hostname)
	ids := append(slices.Clip(u.crew.ids), u.svc.ServiceAccounts...)
	meshTLS := func() *corev3.TransportSocket { return meshClient(k, u.settings, sni, ids) }
	mode := ""
	if t != nil {
		mode = t.Mode
	}
	if mode == "DISABLE" && u.crew.demanded {
		// It could only fail, and a rule must not talk a client out of encryption that
		// its servers insist on.
		mode, why = "", append(why, "tls.mode DISABLE is set aside: workloads behind it accept nothing but mTLS (PeerAuthentication STRICT)")
	}
	switch mode {
	case "":
		switch {
		case u.svc.External && !u.crew.demanded, u.svc.Resolution == mesh.DynamicDNS:
		case c.GetType() == clusterv3.Cluster_ORIGINAL_DST:
			// No endpoint, no metadata to match: one answer must fit all.
			if u.crew.allMTLS || u.crew.demanded {
				c.TransportSocket = meshTLS()
			}
		default:
			c.TransportSocketMatches = automatic(k, meshTLS())
		}
	case "DISABLE":
	case "ISTIO_MUTUAL":
		sni = cmp.Or(t.SNI, sni)
		if len(t.SANs) > 0 {
			ids = t.SANs
		}
		c.TransportSocket = meshTLS()
	case "SIMPLE", "MUTUAL":
		c.TransportSocket = originClient(k, t, u.svc)
	default:
		k.fail(errors.New("tls.mode " + mode + " is none of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"))
	}
	if policy.ProxyProtocol == 0 {
		return why
	}
	if mode == "ISTIO_MUTUAL" || mode == "" && (u.crew.allMTLS || u.crew.demanded) {
		why = append(why, "proxyProtocol is set aside for workloads with a proxy, which would take the header for the application's first bytes")
	}
	if automatic := c.TransportSocketMatches; automatic != nil {
		plain := automatic[len(automatic)-1]
		plain.TransportSocket = proxyHeader(k, policy.ProxyProtocol, plain.TransportSocket)
	} else if mode != "ISTIO_MUTUAL" && (mode != "" || c.TransportSocket == nil) {
		c.TransportSocket = proxyHeader(k, policy.ProxyProtocol, c.TransportSocket)
	}
	return why
}

// passthrough is a cluster that dials the address its client dialled.
func passthrough(k *mint, name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:                      clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:                duration(defaultConnectTimeout),
		CircuitBreakers:               circuitBreakers(nil, nil, 0),
		TypedExtensionProtocolOptions: clientsProtocol(k, nil),
	}
}

// ownSource is where connections to the application come from. Capture lets these addresses
// through, which a connection from the pod to itself would not be without.
func ownSource() *corev3.BindConfig {
	return &corev3.BindConfig{SourceAddress: &corev3.SocketAddress{Address: "127.0.0.6", PortSpecifier: &corev3.SocketAddress_PortValue{}},
		ExtraSourceAddresses: []*corev3.ExtraSourceAddress{{Address: &corev3.SocketAddress{Address: "::6", PortSpecifier: &corev3.SocketAddress_PortValue{}}}}}
}

// clientsProtocol speaks to the server what the client speaks.
func clientsProtocol(k *mint, p *mesh.ConnectionPool) map[string]*anypb.Any {
	return map[string]*anypb.Any{httpOptionsKey: k.any(&upstreamsv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: lifetimes(p),
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreamsv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}},
	})}
}

// http2 speaks HTTP/2 to the server.
func http2(k *mint, p *mesh.ConnectionPool) map[string]*anypb.Any {
	return map[string]*anypb.Any{httpOptionsKey: k.any(&upstreamsv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: lifetimes(p),
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}}},
	})}
}

// blackHole has no endpoints.
func blackHole() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 blackHoleCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       duration(defaultConnectTimeout),
	}
}
