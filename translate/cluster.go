package translate

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
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
	// originalDst says the viewer sees the address its client dialled, and that this is
	// a real one: not so behind virtual addresses and on gateways.
	originalDst bool
}

func (u *upstream) subsetName() string {
	if u.subset == nil {
		return ""
	}
	return u.subset.Name
}

func (u *upstream) name() string {
	return clusterName(u.port.Number, u.subsetName(), u.svc.Hostname)
}

// build makes the cluster and, where endpoints come by EDS, its load assignment. Both
// are nil for a service that cannot be reached by this viewer at all.
func (u *upstream) build(problems *[]Problem) (cluster, assignment *resource.Resource) {
	k := mint{origins: slices.Clone(u.origins)}
	policy, closed := u.rule.on(u.port.Number, u.subset)
	if closed != nil {
		k.of(closed)
		return k.resource(u.name(), u.closed(closed)), nil
	}
	c := &clusterv3.Cluster{
		Name:            u.name(),
		CircuitBreakers: circuitBreakers(policy.Pool),
		Metadata:        u.metadata(u.rule.ref),
		ConnectTimeout:  duration(defaultConnectTimeout),
	}
	resolves := u.svc.Resolution == mesh.DNS || u.svc.Resolution == mesh.DNSRoundRobin
	load := u.crew.assignment(c.Name, u.subset, u.settings.ClusterID, resolves)
	if !u.discovery(c, load, policy.LoadBalancer) {
		return nil, nil
	}
	balance(c, policy.LoadBalancer)
	outlier(c, policy.Outlier)
	u.connections(&k, c, policy.Pool)
	for _, why := range u.transport(&k, c, &policy) {
		*problems = append(*problems, problem(u.rule.ref, 0, "%s: %s", c.Name, why))
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
		assignment = k.resource(c.Name, load)
	}
	if k.err != nil {
		ref := &u.svc.Ref
		if u.rule.ref != nil {
			ref = u.rule.ref
		}
		*problems = append(*problems, problem(ref, 0, "%s is left out: %v", c.Name, k.err))
		return nil, nil
	}
	return cluster, assignment
}

// closed is the cluster of what must not be called because of an object: it has no
// endpoints and says why.
func (u *upstream) closed(because *mesh.Ref) *clusterv3.Cluster {
	c := blackHole()
	c.Name, c.Metadata = u.name(), u.metadata(because)
	ours := c.Metadata.FilterMetadata["weir"]
	if ours == nil {
		ours = fields(map[string]*structpb.Value{})
		c.Metadata.FilterMetadata["weir"] = ours
	}
	ours.Fields["refused"] = text(because.Kind + " " + because.Namespace + "/" + because.Name)
	return c
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

// discovery says where the endpoints come from; false if from nowhere.
func (u *upstream) discovery(c *clusterv3.Cluster, load *endpointv3.ClusterLoadAssignment, lb *mesh.LoadBalancer) bool {
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
	passthrough := u.svc.Resolution == mesh.Passthrough || lb != nil && lb.Simple == mesh.OriginalDst
	switch {
	case passthrough && u.originalDst:
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
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: c.Name}
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

func balance(c *clusterv3.Cluster, lb *mesh.LoadBalancer) {
	if c.GetType() == clusterv3.Cluster_ORIGINAL_DST {
		return
	}
	c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
	if lb == nil {
		return
	}
	switch lb.Simple {
	case mesh.RoundRobin:
		c.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
	case mesh.Random:
		c.LbPolicy = clusterv3.Cluster_RANDOM
	case mesh.LeastRequest, mesh.OriginalDst:
	}
}

func circuitBreakers(p *mesh.ConnectionPool) *clusterv3.CircuitBreakers {
	if p == nil {
		p = &mesh.ConnectionPool{}
	}
	limit := func(v uint32) *wrapperspb.UInt32Value { return u32(cmp.Or(v, unlimited)) }
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     limit(p.MaxConnections),
		MaxPendingRequests: limit(p.MaxPendingRequests),
		MaxRequests:        limit(p.MaxRequests),
		MaxRetries:         limit(p.MaxRetries),
		TrackRemaining:     true,
	}}}
}

func outlier(c *clusterv3.Cluster, o *mesh.OutlierDetection) {
	// Unhealthy endpoints are listed so that a reply can say so; without this, below
	// half of them healthy, Envoy would send to them again.
	panicAt := 0.0
	if o != nil {
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
	c.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx:                        given(o.Consecutive5xx),
		EnforcingConsecutive_5Xx:               enforce(o.Consecutive5xx),
		ConsecutiveGatewayFailure:              given(o.ConsecutiveGateway),
		EnforcingConsecutiveGatewayFailure:     enforce(o.ConsecutiveGateway),
		SplitExternalLocalOriginErrors:         o.SplitLocalOrigin,
		ConsecutiveLocalOriginFailure:          given(o.ConsecutiveLocalOrigin),
		EnforcingConsecutiveLocalOriginFailure: enforce(o.ConsecutiveLocalOrigin),
		EnforcingSuccessRate:                   u32(0), // Istio uses consecutive errors only
		Interval:                               someDuration(o.Interval),
		BaseEjectionTime:                       someDuration(o.BaseEjection),
		MaxEjectionPercent:                     someU32(min(o.MaxEjectionPercent, 100)),
	}
}

// connections sets timeouts, keep-alive and the HTTP version.
func (u *upstream) connections(k *mint, c *clusterv3.Cluster, p *mesh.ConnectionPool) {
	if p == nil {
		p = &mesh.ConnectionPool{}
	}
	if p.ConnectTimeout > 0 {
		c.ConnectTimeout = duration(p.ConnectTimeout)
	}
	if p.Keepalive {
		c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes:   someU32(p.KeepaliveProbes),
			KeepaliveTime:     someU32(uint32(p.KeepaliveTime / time.Second)),
			KeepaliveInterval: someU32(uint32(p.KeepaliveInterval / time.Second)),
		}}
	}
	if o := u.httpOptions(p); o != nil {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: k.any(o)}
	}
}

// httpOptions is nil where plain HTTP/1.1 with defaults, or no HTTP at all, is spoken.
func (u *upstream) httpOptions(p *mesh.ConnectionPool) *upstreamsv3.HttpProtocolOptions {
	protocol := u.port.Protocol
	if !protocol.IsHTTP() && protocol != mesh.Auto {
		return nil
	}
	h2 := &corev3.Http2ProtocolOptions{MaxConcurrentStreams: someU32(min(p.MaxConcurrentStreams, math.MaxInt32))}
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
	if p.HTTPIdleTimeout != 0 || p.MaxConnectionDuration != 0 || p.MaxRequestsPerConnection != 0 {
		o.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{
			IdleTimeout:              someDuration(p.HTTPIdleTimeout),
			MaxConnectionDuration:    someDuration(p.MaxConnectionDuration),
			MaxRequestsPerConnection: someU32(p.MaxRequestsPerConnection),
		}
		if o.UpstreamProtocolOptions == nil {
			o.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
						HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}}}
		}
	}
	if o.UpstreamProtocolOptions == nil {
		return nil
	}
	return o
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
		case u.svc.External && !u.crew.demanded:
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
		CircuitBreakers:               circuitBreakers(nil),
		TypedExtensionProtocolOptions: clientsProtocol(k),
	}
}

// clientsProtocol speaks to the server what the client speaks.
func clientsProtocol(k *mint) map[string]*anypb.Any {
	return map[string]*anypb.Any{httpOptionsKey: k.any(&upstreamsv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreamsv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}},
	})}
}

// http2 speaks HTTP/2 to the server.
func http2(k *mint) map[string]*anypb.Any {
	return map[string]*anypb.Any{httpOptionsKey: k.any(&upstreamsv3.HttpProtocolOptions{
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
