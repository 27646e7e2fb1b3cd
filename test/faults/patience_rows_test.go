package faults

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	connectionlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/proxy"
)

// impatience is what a listener of the client's bootstrap has less patience with than objects of the mesh can ask for.
type impatience struct {
	row     string
	manager func(*hcmv3.HttpConnectionManager)
	route   func(*routev3.RouteAction)
	cluster func(*corev3.HttpProtocolOptions) // of a cluster of the bootstrap's own, instead of the row's service

	own      func(*clusterv3.Cluster) // the same of other settings than those of HTTP
	listener func(*listenerv3.Listener)
	filter   *hcmv3.HttpFilter // before the router
}

// moment is how long it waits.
var moment = durationpb.New(50 * time.Millisecond)

var impatiences = []impatience{
	{row: "slow request head", manager: func(m *hcmv3.HttpConnectionManager) { m.RequestHeadersTimeout = moment }},
	{row: "slow request", manager: func(m *hcmv3.HttpConnectionManager) { m.RequestTimeout = moment }},
	{row: "silent in its request", manager: func(m *hcmv3.HttpConnectionManager) { m.StreamIdleTimeout = moment }},
	{row: "silent instead of an answer", manager: func(m *hcmv3.HttpConnectionManager) { m.StreamIdleTimeout = moment }},
	{row: "silent in its answer", route: func(a *routev3.RouteAction) {
		a.RetryPolicy = &routev3.RetryPolicy{PerTryIdleTimeout: moment}
	}},
	{row: "request too long", manager: func(m *hcmv3.HttpConnectionManager) {
		m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{MaxStreamDuration: moment}
	}},
	{row: "attempt too long", cluster: func(o *corev3.HttpProtocolOptions) { o.MaxStreamDuration = moment }},
	{row: "connection of a client too old", manager: func(m *hcmv3.HttpConnectionManager) {
		m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{MaxConnectionDuration: moment}
	}},
	{row: "header of nonsense", manager: func(m *hcmv3.HttpConnectionManager) {
		m.HttpFilters = []*hcmv3.HttpFilter{httpFilter("envoy.filters.http.router", &routerv3.Router{StrictCheckHeaders: []string{"x-envoy-upstream-rq-timeout-ms"}})}
	}},
	{row: "escaped slash", manager: func(m *hcmv3.HttpConnectionManager) {
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_REJECT_REQUEST
	}},
	{row: "underscore", manager: func(m *hcmv3.HttpConnectionManager) {
		m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST}
	}},
	{row: "too often", filter: httpFilter("envoy.filters.http.local_ratelimit", &localratelimitv3.LocalRateLimit{StatPrefix: "x", FilterEnabled: always, FilterEnforced: always,
		TokenBucket: &typev3.TokenBucket{MaxTokens: 1, FillInterval: durationpb.New(time.Hour)}})},
	{row: "token missing", filter: httpFilter("envoy.filters.http.jwt_authn", &jwtv3.JwtAuthentication{
		Providers: map[string]*jwtv3.JwtProvider{"x": {Issuer: "x", JwksSourceSpecifier: &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`}}}}},
		Rules: []*jwtv3.RequirementRule{{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			RequirementType: &jwtv3.RequirementRule_Requires{Requires: &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: "x"}}}}}})},
	{row: "session with who is gone", filter: httpFilter("envoy.filters.http.stateful_session", &sessionv3.StatefulSession{Strict: true, SessionState: &corev3.TypedExtensionConfig{
		Name: "envoy.http.stateful_session.header", TypedConfig: packed(&headerv3.HeaderBasedSessionState{Name: "x-session"})}})},
	{row: "HTTP10"},
	{row: "dropped all", own: dropping(100)},
	{row: "dropped one", own: dropping(99)},
	{row: "no address to call from", own: func(c *clusterv3.Cluster) {
		c.UpstreamBindConfig = &corev3.BindConfig{SourceAddress: address(netip.MustParseAddrPort("192.0.2.1:0")).GetSocketAddress()}
	}},
	{row: "too many clients", listener: func(l *listenerv3.Listener) {
		c := l.FilterChains[0]
		c.Filters = append([]*listenerv3.Filter{{Name: "envoy.filters.network.connection_limit", ConfigType: &listenerv3.Filter_TypedConfig{
			TypedConfig: packed(&connectionlimitv3.ConnectionLimit{StatPrefix: "x", MaxConnections: wrapperspb.UInt64(1)})}}}, c.Filters...)
	}},
	{row: "no PROXY header", listener: inspected("envoy.filters.listener.proxy_protocol", &proxyprotocolv3.ProxyProtocol{})},
	{row: "silent at first", listener: inspected("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{})},
}

// always is a share of all.
var always = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}

func httpFilter(name string, m proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(m)}}
}

// dropping has a cluster drop a share of what is sent to it, in per cent.
func dropping(share uint32) func(*clusterv3.Cluster) {
	return func(c *clusterv3.Cluster) {
		c.LoadAssignment.Policy = &endpointv3.ClusterLoadAssignment_Policy{DropOverloads: []*endpointv3.ClusterLoadAssignment_Policy_DropOverload{{
			Category: "x", DropPercentage: &typev3.FractionalPercent{Numerator: share}}}}
	}
}

// inspected gives a listener a filter that waits for what clients say first.
func inspected(name string, m proto.Message) func(*listenerv3.Listener) {
	return func(l *listenerv3.Listener) {
		l.ListenerFiltersTimeout = moment
		if name == "envoy.filters.listener.tls_inspector" {
			l.FilterChains[0].FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "tls"}
		}
		l.ListenerFilters = []*listenerv3.ListenerFilter{{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: packed(m)}}}
	}
}

// impatientPort is where the client's bootstrap listens, of each impatience one further.
const impatientPort = 19100

// impatient gives the client's proxy a bootstrap.
func impatient(silent netip.AddrPort) func(*proxy.Options) {
	return func(o *proxy.Options) {
		o.Static = &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{}}
		for i := range impatiences {
			x := &impatiences[i]
			slug := (&fault{name: x.row}).slug()
			to := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "outbound|8080||" + slug + ".default.svc.cluster.local"}, Timeout: &durationpb.Duration{}}
			if x.cluster != nil || x.own != nil {
				to.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: slug}
				o.Static.StaticResources.Clusters = append(o.Static.StaticResources.Clusters, ownCluster(slug, silent, x))
			}
			if x.route != nil {
				x.route(to)
			}
			m := &hcmv3.HttpConnectionManager{StatPrefix: slug, StreamIdleTimeout: &durationpb.Duration{},
				HttpFilters: []*hcmv3.HttpFilter{httpFilter("envoy.filters.http.router", &routerv3.Router{})},
				RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{{Name: slug, Domains: []string{"*"}, Routes: []*routev3.Route{{
					Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}, Action: &routev3.Route_Route{Route: to}}}}}}}}
			if x.manager != nil {
				x.manager(m)
			}
			if x.filter != nil {
				m.HttpFilters = append([]*hcmv3.HttpFilter{x.filter}, m.HttpFilters...)
			}
			l := &listenerv3.Listener{Name: slug, TrafficDirection: corev3.TrafficDirection_OUTBOUND,
				Address: address(netip.AddrPortFrom(o.Source, uint16(impatientPort+i))),
				FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.http_connection_manager",
					ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(m)}}}}}}
			if x.listener != nil {
				x.listener(l)
			}
			o.Static.StaticResources.Listeners = append(o.Static.StaticResources.Listeners, l)
		}
	}
}

// ownCluster is one of the bootstrap's.
func ownCluster(name string, to netip.AddrPort, x *impatience) *clusterv3.Cluster {
	o := &corev3.HttpProtocolOptions{}
	if x.cluster != nil {
		x.cluster(o)
	}
	c := &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(to)}}}}}}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&upstreamsv3.HttpProtocolOptions{CommonHttpProtocolOptions: o,
			UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}}}})}}
	if x.own != nil {
		x.own(c)
	}
	return c
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err) // of a message of ours
	}
	return a
}

func address(at netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: at.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(at.Port())}}}}
}

// hurried sends to the listener of the row, reads until there is an answer or an end, and is the client's address.
func hurried(text string) func(*world, *fault) string {
	return func(w *world, f *fault) string {
		c, from := w.hurry(f)
		defer c.Close()
		_, err := c.Write([]byte(text))
		must(w.T, err)
		_, _ = http.ReadResponse(bufio.NewReader(c), nil)
		return from
	}
}

// hurry connects to the listener of the row, and knows from which address.
func (w *world) hurry(f *fault) (c net.Conn, from string) {
	c, from, err := w.hurryTo(f)
	must(w.T, err)
	return c, from
}

// hurryTo is hurry, which may fail.
func (w *world) hurryTo(f *fault) (c net.Conn, from string, err error) {
	i := slices.IndexFunc(impatiences, func(x impatience) bool { return x.row == f.name })
	return w.dialAt(netip.AddrPortFrom(w.client.IP(), uint16(impatientPort+i)))
}

// Who waits too long for whom, and what ends in good order. Whom the impatient client calls has no proxy: what it would see depends on
// how soon this machine gets there.
func patienceRows() []fault {
	const whole = "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
	const part = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"
	const listener = ", which no object sets"
	leaving, leaving2 := make(chan struct{}, 10), make(chan struct{}, 10)
	return []fault{
		{name: "slow request head", how: "request_headers_timeout of the listener, the client sends half a head", far: answers(ok), ask: hurried("GET / HTTP/1.1\r\nho"),
			cause: "request_header_timeout", at: "default/client", client: "request_header_timeout", detail: "request_headers_timeout of the listener slow-request-head" + listener},
		{name: "slow request", how: "request_timeout of the listener, the client sends half a body", far: after("", silence), ask: hurried(part),
			cause: "request_timeout", at: "default/client", client: "request_timeout", detail: "request_timeout of the listener" + " slow-request" + listener},
		{name: "silent in its request", how: "stream_idle_timeout of the listener, the client stops in the middle of its body", far: after("", silence), ask: hurried(part),
			cause: "stream_idle_timeout", at: "default/client", client: "stream_idle_timeout", detail: "stream_idle_timeout of the listener"},
		{name: "silent instead of an answer", how: "stream_idle_timeout of the listener, an endpoint without a proxy is silent", far: after("", silence), ask: hurried(whole),
			cause: "stream_idle_timeout_upstream", at: "default/client", client: "stream_idle_timeout_upstream", detail: "stream_idle_timeout of the listener"},
		{name: "silent in its answer", how: "per_try_idle_timeout of the route, an endpoint without a proxy is silent in the middle of its answer", far: after("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", silence),
			ask: func(w *world, f *fault) string {
				c, from := w.hurry(f)
				defer c.Close()
				_, err := io.WriteString(c, whole)
				must(w.T, err)
				_, _ = io.Copy(io.Discard, c)
				return from
			},
			cause: "upstream_per_try_idle_timeout", at: "default/client", client: "upstream_per_try_idle_timeout", detail: "per_try_idle_timeout of the route"},
		{name: "request too long", how: "max_stream_duration of the listener, an endpoint without a proxy is silent", far: after("", silence), ask: hurried(whole),
			cause: "stream_duration_reached", at: "default/client", client: "stream_duration_reached", detail: "max_stream_duration of the listener"},
		{name: "attempt too long", how: "max_stream_duration of the cluster, the endpoint is silent", ask: hurried(whole),
			cause: "max_duration_reached", at: "default/client", client: "max_duration_reached", detail: "max_stream_duration of the cluster"},
		{name: "connection of a client too old", how: "max_connection_duration of the listener: the connection ends after its request, and nothing fails", app: lately(nil),
			ask: func(w *world, f *fault) string {
				c, from := w.hurry(f)
				defer c.Close()
				_, err := io.WriteString(c, whole)
				must(w.T, err)
				if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != http.StatusOK || !r.Close {
					w.T.Errorf("it is not said that the connection ends: %v %v", r, err)
				}
				return from
			},
			cause: "ok", at: "default/client", client: "-", server: "-"},
		{name: "connection to a server too old", how: "tcp.maxConnectionDuration of the DestinationRule, for HTTP: the connection ends after its request, and nothing fails", app: lately(nil),
			config: destinationRule("trafficPolicy: {connectionPool: {tcp: {maxConnectionDuration: 0.05s}}}"),
			cause:  "ok", at: "default/client", client: "-", server: "-"},
		{name: "server leaves in good order", how: "the server's pod ends while a request is under way: its proxy says so (Connection: close), and nothing fails", on: "leaving", app: lately(leaving),
			ask:   func(w *world, f *fault) string { return w.leaves(f, leaving) },
			cause: "ok", at: "default/client", client: "-", server: "-"},
		{name: "server of HTTP2 leaves in good order", how: "the same of a port named http2 (GOAWAY)", protocol: "http2", on: "leaving2", app: framed(func(f *http2.Framer, id uint32) {
			leaving2 <- struct{}{}
			<-time.After(slow)
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true}) // :status 200
		}), ask: func(w *world, f *fault) string { return w.leaves(f, leaving2) },
			cause: "ok", at: "default/client", client: "-", server: "-"},
	}
}

// slow is longer than a second: what takes so long and goes well is kept by both proxies.
const slow = 1050 * time.Millisecond

// lately answers each request late, and says before that it came.
func lately(came chan<- struct{}) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			if came != nil {
				came <- struct{}{}
			}
			<-time.After(slow)
			if _, err := io.WriteString(c, ok); err != nil {
				return
			}
		}
	}
}

// leaves has the row's pod end while a request is under way, which is answered.
func (w *world) leaves(f *fault, came <-chan struct{}) string {
	id := "fault-" + f.slug()
	c := w.send(f, "GET / HTTP/1.1\r\nhost: x\r\nx-request-id: "+id+"\r\n\r\n")
	defer c.Close()
	<-came
	w.homes[f.on].Leave()
	if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != http.StatusOK {
		w.T.Errorf("%v %v", r, err)
	}
	return id
}
