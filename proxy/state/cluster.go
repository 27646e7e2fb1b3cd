package state

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	forwardproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/xds/resource"
)

// httpOptionsKey is where Cluster.typed_extension_protocol_options holds HTTP options.
const httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

const (
	defaultConnectTimeout = 10 * time.Second // Istio's connectTimeout; Envoy's own is 5 s
	defaultIdleTimeout    = time.Hour        // Envoy's common_http_protocol_options.idle_timeout
)

// clusterSpec is a decoded Cluster before its endpoints are known.
type clusterSpec struct {
	cluster.Cluster               // without ID, Endpoints and Limits
	edsName         string        // "" unless endpoints come by EDS
	patience        time.Duration // for them: see patience
	before          *assignment   // the endpoints it had as another kind of cluster
	static          *endpointv3.ClusterLoadAssignment
	limits          limitValues
	lookup          cluster.Lookup
	auto            autoName
	probes          uint32 // metadata weir.half_open_probes
	// secrets are those it names, and source is what names them: it is decoded again when they come or change.
	secrets []SecretName
	files   []string // of certificates and roots, likewise
	source  *clusterv3.Cluster

	unheeded []Unheeded
}

type limitValues struct {
	connections, pending, requests, retries uint32
	budget                                  *cluster.RetryBudget
}

func (b *Builder) decodeCluster(c *clusterv3.Cluster) (*clusterSpec, error) {
	path := "cluster " + c.GetName()
	if c.GetName() == "" {
		return nil, fmt.Errorf("cluster: name is empty")
	}
	if err := check(c, path); err != nil {
		return nil, err
	}
	s := &clusterSpec{}
	s.Name = c.GetName()
	s.ConnectTimeout = orDefault(c.GetConnectTimeout(), defaultConnectTimeout)
	s.IdleTimeout = defaultIdleTimeout
	s.Inbound = strings.HasPrefix(s.Name, "inbound|") || s.Name == "InboundPassthroughCluster"

	if t := c.GetClusterType(); t != nil {
		if err := s.decodeDynamic(t, c.GetMetadata(), path); err != nil {
			return nil, err
		}
	} else if err := s.decodeKind(c, path); err != nil {
		return nil, err
	}
	for i, f := range c.GetFilters() {
		// Of metadata exchange the transport's ALPN says where it is to be.
		at := fmt.Sprintf("%s.filters[%d] %s", path, i, f.GetName())
		url, config, err := opened(f.GetTypedConfig(), at)
		if err != nil {
			return nil, err
		}
		if url != metadataExchangeURL && (url != "" || f.GetName() != networkFilters[metadataExchangeURL]) {
			return nil, fmt.Errorf("%s: filters of clusters are not supported", at)
		}
		told, err := unheeded(url, config, at)
		if err != nil {
			return nil, err
		}
		s.unheeded = append(s.unheeded, told...)
	}
	if err := olderPolicy(c, path); err != nil {
		return nil, err
	}
	switch c.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		s.Policy = cluster.RoundRobin
	case clusterv3.Cluster_LEAST_REQUEST:
		s.Policy = cluster.LeastRequest
	case clusterv3.Cluster_RANDOM:
		s.Policy = cluster.Random
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		s.Policy = cluster.Provided
	case clusterv3.Cluster_RING_HASH, clusterv3.Cluster_MAGLEV:
		if err := s.decodeHash(c, path); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%s.lb_policy: %v is not supported", path, c.GetLbPolicy())
	}
	switch provides := s.Kind == cluster.OriginalDst || s.Kind == cluster.Dynamic; {
	case !provides && s.Policy == cluster.Provided:
		return nil, fmt.Errorf("%s.lb_policy: CLUSTER_PROVIDED needs type ORIGINAL_DST", path)
	case s.Kind == cluster.Dynamic && s.Policy != cluster.Provided:
		return nil, fmt.Errorf("%s.lb_policy: names that clients ask for need CLUSTER_PROVIDED", path)
	}
	s.lookup = lookups[c.GetDnsLookupFamily()]
	if la := c.GetLoadAssignment(); la != nil {
		if s.edsName != "" {
			return nil, fmt.Errorf("%s.load_assignment: an EDS cluster gets its endpoints by EDS", path)
		}
		s.static = la
		if err := s.decodeNames(la, path); err != nil {
			return nil, err
		}
	}
	if err := s.decodeBind(c.GetUpstreamBindConfig(), path+".upstream_bind_config"); err != nil {
		return nil, err
	}
	if k := c.GetUpstreamConnectionOptions().GetTcpKeepalive(); k != nil {
		s.Keepalive = cluster.Keepalive{On: true, Probes: k.GetKeepaliveProbes().GetValue(),
			Time:     time.Duration(k.GetKeepaliveTime().GetValue()) * time.Second,
			Interval: time.Duration(k.GetKeepaliveInterval().GetValue()) * time.Second}
	}
	if err := s.decodeLimits(c, path); err != nil {
		return nil, err
	}
	s.probes = uint32(min(max(0, c.GetMetadata().GetFilterMetadata()["weir"].GetFields()["half_open_probes"].GetNumberValue()), maxProbes))
	if err := s.decodeHealth(c, path); err != nil {
		return nil, err
	}
	if err := s.decodeCheck(c, path); err != nil {
		return nil, err
	}
	s.decodeService(c.GetMetadata())
	s.Source = origin(c.GetMetadata())
	ours := c.GetMetadata().GetFilterMetadata()["weir"].GetFields()
	s.Refused = ours["refused"].GetStringValue()
	if a := ours["led"].GetStringValue(); a != "" {
		var err error
		if s.Led, err = netip.ParseAddrPort(a); err != nil {
			return nil, fmt.Errorf("%s.metadata.weir.led: %w", path, err)
		}
	}
	if t := ours["tunnel"].GetStructValue().GetFields(); t != nil {
		s.Tunnel = &cluster.Tunnel{Host: t["host"].GetStringValue(), Post: t["post"].GetBoolValue()}
		if host, port, err := net.SplitHostPort(s.Tunnel.Host); err != nil || host == "" || port == "" || strings.ContainsFunc(s.Tunnel.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return nil, fmt.Errorf("%s.metadata.weir.tunnel: %q is not host:port", path, s.Tunnel.Host)
		}
	}
	if err := s.decodeProtocol(c, path); err != nil {
		return nil, err
	}
	b.uses = uses{}
	err := b.decodeTransports(s, c, path)
	if b.uses.any() || len(b.uses.files) > 0 {
		s.secrets, s.files, s.source = b.uses.secrets, b.uses.files, c
	}
	if errors.Is(err, errAwaited) { // nobody is called with less than it asks for
		s.Transports, err = nil, nil
		if s.Refused == "" {
			s.Refused, s.Awaited = b.awaited(s.secrets)
		}
	}
	return s, err
}

// decodeKind reads where endpoints come from.
func (s *clusterSpec) decodeKind(c *clusterv3.Cluster, path string) error {
	switch c.GetType() {
	case clusterv3.Cluster_STATIC:
		s.Kind = cluster.Static
	case clusterv3.Cluster_EDS:
		s.Kind = cluster.Static
		from := c.GetEdsClusterConfig().GetEdsConfig()
		if err := byStream(from, path+".eds_cluster_config.eds_config"); err != nil {
			return err
		}
		s.patience = patience(from)
		s.edsName = c.GetEdsClusterConfig().GetServiceName()
		if s.edsName == "" {
			s.edsName = s.Name
		}
	case clusterv3.Cluster_STRICT_DNS:
		s.Kind = cluster.StrictDNS
	case clusterv3.Cluster_LOGICAL_DNS:
		s.Kind = cluster.LogicalDNS
	case clusterv3.Cluster_ORIGINAL_DST:
		s.Kind = cluster.OriginalDst
		if err := s.decodeOriginalDst(c.GetOriginalDstLbConfig(), path+".original_dst_lb_config"); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s.type: %v is not supported", path, c.GetType())
	}
	return nil
}

// decodeDynamic reads a cluster of names that only clients know. Envoy takes any name, and the port, from the client; ours are those
// that our control plane says.
func (s *clusterSpec) decodeDynamic(t *clusterv3.Cluster_CustomClusterType, m *corev3.Metadata, path string) error {
	path += ".cluster_type"
	if t.GetName() != resource.ForwardProxyCluster {
		return fmt.Errorf("%s: %s is not supported", path, t.GetName())
	}
	o := &forwardproxyv3.ClusterConfig{}
	if err := unpack(t.GetTypedConfig(), o, path+".typed_config"); err != nil {
		return err
	}
	if o.GetDnsCacheConfig() == nil {
		return fmt.Errorf("%s.typed_config.dns_cache_config: is missing", path)
	}
	of := m.GetFilterMetadata()["weir"].GetFields()["dynamic"].GetStructValue().GetFields()
	port := of["port"].GetNumberValue()
	if s.Pattern = of["host"].GetStringValue(); s.Pattern == "" || port != math.Trunc(port) || port < 1 || port > math.MaxUint16 {
		return fmt.Errorf("%s: metadata weir.dynamic must say which names clients may ask for (host), and the port", path)
	}
	s.Kind, s.Port, s.Lookup = cluster.Dynamic, uint16(port), lookups[o.GetDnsCacheConfig().GetDnsLookupFamily()]
	return nil
}

// lookups are those of dns_lookup_family.
var lookups = map[clusterv3.Cluster_DnsLookupFamily]cluster.Lookup{clusterv3.Cluster_AUTO: cluster.PreferIPv6, clusterv3.Cluster_V4_ONLY: cluster.OnlyIPv4,
	clusterv3.Cluster_V6_ONLY: cluster.OnlyIPv6, clusterv3.Cluster_V4_PREFERRED: cluster.PreferIPv4, clusterv3.Cluster_ALL: cluster.Both}

func (s *clusterSpec) decodeOriginalDst(o *clusterv3.Cluster_OriginalDstLbConfig, path string) error {
	if o.GetUpstreamPortOverride() != nil {
		n := o.GetUpstreamPortOverride().GetValue()
		if n == 0 || n > math.MaxUint16 {
			return fmt.Errorf("%s.upstream_port_override: %d is not a port", path, n)
		}
		s.Port = uint16(n)
	}
	if o.GetUseHttpHeader() {
		s.DestinationHeader = strings.ToLower(cmp.Or(o.GetHttpHeaderName(), "x-envoy-original-dst-host"))
		return token(path+".http_header_name", s.DestinationHeader)
	}
	return nil
}

// decodeBind reads where connections are to come from: an address of each family.
func (s *clusterSpec) decodeBind(b *corev3.BindConfig, path string) error {
	for i, a := range append([]*corev3.SocketAddress{b.GetSourceAddress()}, extraSources(b)...) {
		if a.GetAddress() == "" {
			continue
		}
		ip, err := netip.ParseAddr(a.GetAddress())
		switch {
		case err != nil && i == 0:
			return fmt.Errorf("%s.source_address: %w", path, err)
		case err != nil:
			return fmt.Errorf("%s.extra_source_addresses[%d]: %w", path, i-1, err)
		case ip.Is4():
			s.Bind = cmp.Or(s.Bind, ip)
		default:
			s.Bind6 = cmp.Or(s.Bind6, ip)
		}
	}
	return nil
}

func extraSources(b *corev3.BindConfig) (out []*corev3.SocketAddress) {
	for _, x := range b.GetExtraSourceAddresses() {
		out = append(out, x.GetAddress())
	}
	return out
}

func (s *clusterSpec) decodeLimits(c *clusterv3.Cluster, path string) error {
	// Envoy's defaults where nothing is said (1024 of each, 3 retries) protect an edge
	// proxy; Istio always says "no limit", and that is our default too.
	s.limits = limitValues{connections: cluster.Unlimited, pending: cluster.Unlimited, requests: cluster.Unlimited, retries: cluster.Unlimited}
	for i, t := range c.GetCircuitBreakers().GetThresholds() {
		switch p := t.GetPriority(); p {
		case corev3.RoutingPriority_DEFAULT:
		case corev3.RoutingPriority_HIGH:
			continue // nobody's: routes of this priority are refused, and many who write both mean the same by them
		default:
			return fmt.Errorf("%s.circuit_breakers.thresholds[%d].priority: %v is not supported", path, i, p)
		}
		set := func(dst *uint32, v interface{ GetValue() uint32 }, given bool) {
			if given {
				*dst = v.GetValue()
			}
		}
		set(&s.limits.connections, t.GetMaxConnections(), t.MaxConnections != nil)
		set(&s.limits.pending, t.GetMaxPendingRequests(), t.MaxPendingRequests != nil)
		set(&s.limits.requests, t.GetMaxRequests(), t.MaxRequests != nil)
		set(&s.limits.retries, t.GetMaxRetries(), t.MaxRetries != nil)
		if b := t.GetRetryBudget(); b != nil {
			s.limits.budget = &cluster.RetryBudget{Percent: 20, Min: 3, Interval: b.GetBudgetInterval().AsDuration()} // Envoy's
			if p := b.GetBudgetPercent(); p != nil {
				s.limits.budget.Percent = p.GetValue()
			}
			if m := b.GetMinRetryConcurrency(); m != nil {
				s.limits.budget.Min = m.GetValue()
			}
			if x := s.limits.budget; !(x.Percent >= 0 && x.Percent <= 100) || x.Interval < 0 || x.Interval > cluster.MaxOutlierInterval {
				return fmt.Errorf("%s.circuit_breakers.retry_budget: budget_percent must be 0 to 100, budget_interval within a year", path)
			}
		}
	}
	return nil
}

// decodeService reads metadata istio.services, and else takes the host of Istio's name
// "outbound|port|subset|host".
func (s *clusterSpec) decodeService(m *corev3.Metadata) {
	parts := strings.Split(s.Name, "|")
	if len(parts) == 4 {
		port, _ := strconv.ParseUint(parts[1], 10, 16)
		defer func() { s.Service.Port = uint16(port) }()
	}
	svcs := m.GetFilterMetadata()["istio"].GetFields()["services"].GetListValue().GetValues()
	if len(svcs) > 0 {
		f := svcs[0].GetStructValue().GetFields()
		s.Service = cluster.Service{Host: f["host"].GetStringValue(), Name: f["name"].GetStringValue(), Namespace: f["namespace"].GetStringValue()}
		return
	}
	if len(parts) == 4 && parts[3] != "" {
		s.Service = cluster.Service{Host: parts[3], Name: parts[3]}
	}
}

func (s *clusterSpec) decodeProtocol(c *clusterv3.Cluster, path string) error {
	if c.GetProtocolSelection() == clusterv3.Cluster_USE_DOWNSTREAM_PROTOCOL {
		defer func() { s.Protocol = cluster.Downstream }()
	}
	speak := func(p cluster.Protocol, o *corev3.Http2ProtocolOptions, at string) (err error) {
		s.Protocol = p
		s.HTTP2, err = decodeHTTP2(o, at)
		return err
	}
	if o := c.GetHttp2ProtocolOptions(); o != nil {
		if err := speak(cluster.HTTP2, o, path+".http2_protocol_options"); err != nil {
			return err
		}
	}
	common := func(o *corev3.HttpProtocolOptions, at string) (err error) {
		if o == nil {
			return nil
		}
		if o.IdleTimeout != nil {
			if s.IdleTimeout = o.GetIdleTimeout().AsDuration(); s.IdleTimeout == 0 {
				s.IdleTimeout = never
			}
		}
		s.MaxConnectionDuration = o.GetMaxConnectionDuration().AsDuration()
		s.MaxRequestsPerConn = o.GetMaxRequestsPerConnection().GetValue()
		s.MaxStreamDuration = o.GetMaxStreamDuration().AsDuration()
		if s.ResponseLimits.Fields, err = headFields(o, at); err != nil {
			return err
		}
		s.ResponseLimits.HeadBytes, err = headBytes(o.GetMaxResponseHeadersKb(), at+".max_response_headers_kb")
		return err
	}
	old := func(o *corev3.Http1ProtocolOptions, at string) (err error) {
		s.HTTP1, err = decodeHTTP1(o, at)
		return err
	}
	if err := old(c.GetHttpProtocolOptions(), path+".http_protocol_options"); err != nil {
		return err
	}
	if err := common(c.GetCommonHttpProtocolOptions(), path+".common_http_protocol_options"); err != nil {
		return err
	}
	for key, a := range c.GetTypedExtensionProtocolOptions() {
		at := path + ".typed_extension_protocol_options[" + key + "]"
		if key != httpOptionsKey {
			return fmt.Errorf("%s: not supported", at)
		}
		o := &upstreamsv3.HttpProtocolOptions{}
		err := unpack(a, o, at)
		if err != nil {
			return err
		}
		if err := common(o.GetCommonHttpProtocolOptions(), at+".common_http_protocol_options"); err != nil {
			return err
		}
		for i, f := range o.GetHttpFilters() {
			if f.GetName() != "envoy.filters.http.upstream_codec" {
				return fmt.Errorf("%s.http_filters[%d] %s: filters of clusters are not supported", at, i, f.GetName())
			}
		}
		if m := o.GetOutlierDetection().GetErrorMatcher(); m != nil && s.Outlier != nil {
			if s.Outlier.Statuses, err = errorStatuses(m, at+".outlier_detection.error_matcher"); err != nil {
				return err
			}
		}
		if u := o.GetUpstreamHttpProtocolOptions(); u != nil {
			s.auto = autoName{s.Service.Host, u.GetAutoSni(), u.GetAutoSanValidation()}
		}
		switch x := o.GetUpstreamProtocolOptions().(type) {
		case *upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_:
			e := x.ExplicitHttpConfig
			if o := e.GetHttp2ProtocolOptions(); o != nil {
				err = speak(cluster.HTTP2, o, at+".explicit_http_config.http2_protocol_options")
			} else {
				err = old(e.GetHttpProtocolOptions(), at+".explicit_http_config.http_protocol_options")
			}
		case *upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
			if err = old(x.UseDownstreamProtocolConfig.GetHttpProtocolOptions(), at+".use_downstream_protocol_config.http_protocol_options"); err != nil {
				return err
			}
			err = speak(cluster.Downstream, x.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions(), at+".use_downstream_protocol_config.http2_protocol_options")
		case *upstreamsv3.HttpProtocolOptions_AutoConfig:
			if err = old(x.AutoConfig.GetHttpProtocolOptions(), at+".auto_config.http_protocol_options"); err != nil {
				return err
			}
			err = speak(cluster.Negotiated, x.AutoConfig.GetHttp2ProtocolOptions(), at+".auto_config.http2_protocol_options")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// decodeHTTP2 reads Http2ProtocolOptions of a cluster or of a connection manager.
func decodeHTTP2(o *corev3.Http2ProtocolOptions, path string) (h cluster.HTTP2Options, err error) {
	bounded := func(field string, v *wrapperspb.UInt32Value, lo, hi uint32) uint32 {
		n := v.GetValue()
		if v != nil && (n < lo || n > hi) && err == nil {
			err = fmt.Errorf("%s.%s: %d is not %d to %d", path, field, n, lo, hi)
		}
		return n
	}
	const most = 1<<31 - 1 // RFC 9113 section 6.5.2
	h.MaxStreams = bounded("max_concurrent_streams", o.GetMaxConcurrentStreams(), 1, most)
	h.StreamWindow = bounded("initial_stream_window_size", o.GetInitialStreamWindowSize(), 65535, most)
	h.ConnWindow = bounded("initial_connection_window_size", o.GetInitialConnectionWindowSize(), 65535, most)
	h.TableSize = o.GetHpackTableSize().GetValue()
	if k := o.GetConnectionKeepalive(); k != nil {
		h.PingEvery, h.PingTimeout = k.GetInterval().AsDuration(), k.GetTimeout().AsDuration()
		if h.PingEvery < 0 || h.PingTimeout < time.Millisecond {
			return h, fmt.Errorf("%s.connection_keepalive: timeout must be at least 1ms, interval not negative", path)
		}
	}
	return h, err
}

func (b *Builder) decodeTransports(s *clusterSpec, c *clusterv3.Cluster, path string) error {
	for i, m := range c.GetTransportSocketMatches() {
		at := fmt.Sprintf("%s.transport_socket_matches[%d]", path, i)
		t, err := b.decodeUpstreamTransport(m.GetTransportSocket(), s.auto, at)
		if b.leftOut(err) {
			continue
		}
		if err != nil {
			return err
		}
		match := cluster.TransportMatch{Name: m.GetName(), Transport: t}
		for k, v := range m.GetMatch().GetFields() {
			if match.Labels == nil {
				match.Labels = map[string]string{}
			}
			match.Labels[k] = v.GetStringValue()
		}
		s.Transports = append(s.Transports, match)
	}
	if c.GetTransportSocket() != nil {
		t, err := b.decodeUpstreamTransport(c.GetTransportSocket(), s.auto, path+".transport_socket")
		if err != nil {
			return err
		}
		s.Transports = append(s.Transports, cluster.TransportMatch{Transport: t})
	}
	return nil
}

// transportFor is the transport of an endpoint with the given
// envoy.transport_socket_match metadata.
func (s *clusterSpec) transportFor(labels *structpb.Struct) *cluster.Transport {
next:
	for i := range s.Transports {
		for k, v := range s.Transports[i].Labels {
			if got, ok := labels.GetFields()[k]; !ok || got.GetStringValue() != v {
				continue next
			}
		}
		return s.Transports[i].Transport
	}
	return nil
}

func (s *clusterSpec) decodeNames(la *endpointv3.ClusterLoadAssignment, path string) error {
	if s.Kind != cluster.StrictDNS && s.Kind != cluster.LogicalDNS {
		return nil
	}
	for i, group := range la.GetEndpoints() {
		if group.GetPriority() > maxPriority {
			return fmt.Errorf("%s.load_assignment.endpoints[%d].priority: %d is more than %d", path, i, group.GetPriority(), maxPriority)
		}
		for _, e := range group.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			if a.GetAddress() == "" || a.GetPortValue() == 0 {
				return fmt.Errorf("%s.load_assignment: a DNS cluster needs endpoints with host name and port", path)
			}
			port, err := portOf(a)
			if err != nil {
				return fmt.Errorf("%s.load_assignment.endpoints[%d]: %s: %w", path, i, a.GetAddress(), err)
			}
			s.Names = append(s.Names, cluster.Name{Host: a.GetAddress(), Shown: cmp.Or(e.GetEndpoint().GetHostname(), a.GetAddress()), Port: port, Weight: e.GetLoadBalancingWeight().GetValue(), Lookup: s.lookup,
				Priority: uint8(group.GetPriority()), Locality: localityOf(group)})
		}
	}
	if s.Kind == cluster.LogicalDNS && len(s.Names) != 1 {
		return fmt.Errorf("%s.load_assignment: LOGICAL_DNS has exactly one endpoint, this one has %d", path, len(s.Names))
	}
	return nil
}

// endpointSpec is one decoded endpoint.
type endpointSpec struct {
	addr     netip.AddrPort
	also     []netip.AddrPort
	pipe     string
	weight   uint32
	match    *structpb.Struct // envoy.transport_socket_match
	workload string           // istio.workload
	healthy  bool
	degraded bool // and healthy
	draining bool // and not
	leaving  bool // our control plane: it is used because all of its cluster end
	priority uint8
	locality cluster.Locality
	host     string
	checked  cluster.CheckedAt
}

// key identifies an endpoint inside its cluster: while it is the same, connections to
// it are worth keeping.
func (e *endpointSpec) key() string {
	k := e.pipe
	if k == "" {
		k = e.addr.String()
	}
	for _, a := range e.also {
		k += "," + a.String()
	}
	k += "|" + e.match.GetFields()["tlsMode"].GetStringValue() + "|" + e.workload
	if e.host != "" || e.checked != (cluster.CheckedAt{}) {
		k += fmt.Sprintf("|%s|%v", e.host, e.checked)
	}
	return k
}

// assignment is a decoded ClusterLoadAssignment.
type assignment struct {
	endpoints        []endpointSpec
	drop             uint32 // of a million requests
	overprovisioning uint32 // 0: the default
}

// decodePolicy reads what is said of all endpoints. Shares that are dropped are of what those before them left.
func (a *assignment) decodePolicy(p *endpointv3.ClusterLoadAssignment_Policy, path string) error {
	if f := p.GetOverprovisioningFactor(); f != nil {
		if a.overprovisioning = f.GetValue(); a.overprovisioning < 100 {
			return fmt.Errorf("%s.overprovisioning_factor: %d, must be 100 at least", path, a.overprovisioning)
		}
	}
	left := 1.0
	for _, d := range p.GetDropOverloads() {
		left *= 1 - float64(perMillion(d.GetDropPercentage()))/1e6
	}
	a.drop = uint32(math.Round((1 - left) * 1e6))
	return nil
}

func decodeEndpoints(la *endpointv3.ClusterLoadAssignment) (*assignment, error) {
	path := "load assignment " + la.GetClusterName()
	if err := check(la, path); err != nil {
		return nil, err
	}
	a := &assignment{}
	if err := a.decodePolicy(la.GetPolicy(), path+".policy"); err != nil {
		return nil, err
	}
	var out []endpointSpec
	for i, group := range la.GetEndpoints() {
		if group.GetPriority() > maxPriority {
			return nil, fmt.Errorf("%s.endpoints[%d].priority: %d is more than %d", path, i, group.GetPriority(), maxPriority)
		}
		locality := localityOf(group)
		for j, e := range group.GetLbEndpoints() {
			at := fmt.Sprintf("%s.endpoints[%d].lb_endpoints[%d]", path, i, j)
			spec := endpointSpec{weight: e.GetLoadBalancingWeight().GetValue(), priority: uint8(group.GetPriority()), locality: locality}
			switch e.GetHealthStatus() {
			case corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY:
				spec.healthy = true
			case corev3.HealthStatus_DEGRADED:
				spec.healthy, spec.degraded = true, true
			case corev3.HealthStatus_DRAINING:
				spec.draining = true
			case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_TIMEOUT:
			}
			switch a := e.GetEndpoint().GetAddress(); {
			case a.GetPipe() != nil:
				spec.pipe = a.GetPipe().GetPath()
			case a.GetSocketAddress() != nil:
				ap, err := socketAddr(a.GetSocketAddress())
				if err != nil {
					return nil, fmt.Errorf("%s.endpoint.address: %w", at, err)
				}
				spec.addr = ap
				for k, more := range e.GetEndpoint().GetAdditionalAddresses() {
					ap, err := socketAddr(more.GetAddress().GetSocketAddress())
					if err != nil {
						return nil, fmt.Errorf("%s.endpoint.additional_addresses[%d]: %w", at, k, err)
					}
					spec.also = append(spec.also, ap)
				}
			default:
				return nil, fmt.Errorf("%s.endpoint.address: is missing", at)
			}
			spec.host = e.GetEndpoint().GetHostname()
			if err := spec.decodeChecked(e.GetEndpoint().GetHealthCheckConfig(), at+".endpoint.health_check_config"); err != nil {
				return nil, err
			}
			m := e.GetMetadata().GetFilterMetadata()
			spec.match = m["envoy.transport_socket_match"]
			spec.workload = m["istio"].GetFields()["workload"].GetStringValue()
			spec.leaving = m["weir"].GetFields()["leaving"].GetBoolValue()
			out = append(out, spec)
		}
	}
	a.endpoints = out
	return a, nil
}

// decodeChecked reads where health is asked for instead; the address of requests is known already.
func (e *endpointSpec) decodeChecked(h *endpointv3.Endpoint_HealthCheckConfig, path string) error {
	if h == nil {
		return nil
	}
	e.checked = cluster.CheckedAt{Never: h.GetDisableActiveHealthCheck(), Host: h.GetHostname()}
	if strings.ContainsFunc(e.checked.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%s.hostname: %q is not a host", path, e.checked.Host)
	}
	at := e.addr
	if a := h.GetAddress().GetSocketAddress(); a != nil {
		ap, err := socketAddr(a)
		if err != nil {
			return fmt.Errorf("%s.address: %w", path, err)
		}
		at = ap
	}
	if n := h.GetPortValue(); n > math.MaxUint16 {
		return fmt.Errorf("%s.port_value: %d is out of range", path, n)
	} else if n > 0 && at.IsValid() {
		at = netip.AddrPortFrom(at.Addr(), uint16(n))
	}
	if at != e.addr {
		e.checked.Addr = at
	}
	return nil
}

func localityOf(group *endpointv3.LocalityLbEndpoints) cluster.Locality {
	out := cluster.Locality{Weight: group.GetLoadBalancingWeight().GetValue()}
	if l := group.GetLocality(); l != nil {
		out.Name = strings.TrimRight(l.GetRegion()+"/"+l.GetZone()+"/"+l.GetSubZone(), "/")
	}
	return out
}

// parseWorkload reads Istio's endpoint metadata "name;namespace;service;revision;cluster".
func parseWorkload(s string) cluster.Workload {
	f := append(strings.Split(s, ";"), "", "", "", "", "")
	return cluster.Workload{Name: f[0], Namespace: f[1], Service: f[2], Revision: f[3], Cluster: f[4]}
}

func socketAddr(a *corev3.SocketAddress) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(a.GetAddress())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IP address (names need a DNS cluster)", a.GetAddress())
	}
	port, err := portOf(a)
	return netip.AddrPortFrom(ip, port), err
}

// portOf is the TCP port of an address.
func portOf(a *corev3.SocketAddress) (uint16, error) {
	switch n := a.GetPortValue(); {
	case a.GetProtocol() != corev3.SocketAddress_TCP:
		return 0, fmt.Errorf("protocol: %s is not supported, only TCP", a.GetProtocol())
	case n > math.MaxUint16:
		return 0, fmt.Errorf("port %d is out of range", n)
	default:
		return uint16(n), nil
	}
}

func orDefault(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil || d.AsDuration() == 0 {
		return def
	}
	return d.AsDuration()
}

// assemble makes the Cluster of a spec with the given assignment, carrying over what
// prev has in common with it.
func (b *Builder) assemble(s *clusterSpec, a *assignment, prev *cluster.Cluster) *cluster.Cluster {
	c, eps := s.Cluster, a.endpoints
	c.Drop, c.Overprovisioning = a.drop, a.overprovisioning
	c.ID = b.clusterID(s.Name)
	c.Limits = b.limits(s.Name)
	c.Limits.MaxConnections.Store(s.limits.connections)
	c.Limits.MaxPending.Store(s.limits.pending)
	c.Limits.MaxRequests.Store(s.limits.requests)
	c.Limits.MaxRetries.Store(s.limits.retries)
	c.Limits.SetBudget(s.limits.budget)
	old := map[string]*cluster.Endpoint{}
	if prev != nil {
		for _, e := range prev.Endpoints {
			old[e.Key] = e
		}
	}
	c.Endpoints, c.Weights, c.Places, c.Localities = nil, nil, nil, nil
	c.Health = b.health(s.Name)
	c.Leaving = slices.ContainsFunc(eps, func(e endpointSpec) bool { return e.leaving })
	levels := c.LocalityWeighted || slices.ContainsFunc(eps, func(e endpointSpec) bool { return e.priority > 0 || e.degraded })
	localities := map[cluster.Locality]uint16{}
	for i := range eps {
		e := &eps[i]
		// Those that take no requests count where it matters how many there are, or sessions stay with them; else they are let go.
		if !e.healthy && !levels && c.PanicAt == 0 && (c.Keeps&cluster.KeepsUnhealthy == 0 || e.draining) && (c.Keeps&cluster.KeepsDraining == 0 || !e.draining) {
			continue
		}
		if levels || !e.healthy {
			if c.Places == nil {
				c.Places = make([]cluster.Place, len(c.Endpoints), len(eps))
			}
		}
		if c.Places != nil {
			id, ok := localities[e.locality]
			if !ok && len(c.Localities) < math.MaxUint16 {
				id = uint16(len(c.Localities))
				localities[e.locality] = id
				c.Localities = append(c.Localities, e.locality)
			}
			c.Places = append(c.Places, cluster.Place{Priority: e.priority, Locality: id, Unhealthy: !e.healthy, Degraded: e.degraded, Draining: e.draining})
		}
		t := s.transportFor(e.match)
		key := e.key() + "|"
		if t != nil {
			key += t.Key
		}
		ep, kept := old[key]
		if kept {
			delete(old, key)
		} else {
			ep = &cluster.Endpoint{ID: b.endpointID(), Key: key, Addr: e.addr, Also: e.also, Path: e.pipe, Workload: parseWorkload(e.workload), Limits: c.Limits, Host: e.host, Checked: e.checked,
				Proxied: e.pipe == "" && e.match.GetFields()["tlsMode"].GetStringValue() == "istio"}
			b.came = append(b.came, ep)
		}
		ep.Transport.Store(t)
		c.Endpoints = append(c.Endpoints, ep)
		c.Weights = append(c.Weights, e.weight)
	}
	for _, e := range old {
		b.gone = append(b.gone, e)
	}
	c.Seal()
	return &c
}
