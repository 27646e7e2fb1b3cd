package translate

import (
	"cmp"
	"slices"
	"strings"
	"time"

	xdstypev1 "github.com/cncf/xds/go/udpa/type/v1"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	originalsrcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/mesh"
)

const (
	faultFilterName = "envoy.filters.http.fault"
	corsFilterName  = "envoy.filters.http.cors"
)

// dialMark is on connections to the application that carry the client's address: the rules
// of TPROXY bring the answers to them back to the proxy (capture.DialMark).
const dialMark = 0x53b

// direction is which side of the proxy a filter chain serves.
type direction int

const (
	outbound direction = iota
	inbound
	edge // a gateway's listeners
)

// filters makes what all connection managers and TCP chains of one mesh have in common.
// It is made once per Settings; the messages in it are shared and never changed.
type filters struct {
	accessLog []*accesslogv3.AccessLog
	http      map[direction][]*hcmv3.HttpFilter
	tcp       map[direction][]*listenerv3.Filter
	web       *hcmv3.HttpFilter // gRPC-Web

	paths mesh.PathNormalization

	originalDst, originalSrc, proxyProtocol, tlsInspector, httpInspector *listenerv3.ListenerFilter
}

// newFilters makes them; sessions: some service asks for them.
func newFilters(s *mesh.Settings, sessions bool) *filters {
	var k mint // constants: they cannot fail
	f := &filters{
		paths:         s.Paths,
		originalDst:   listenerFilter(k.any(&originaldstv3.OriginalDst{}), "envoy.filters.listener.original_dst"),
		proxyProtocol: listenerFilter(k.any(&proxyprotocolv3.ProxyProtocol{}), "envoy.filters.listener.proxy_protocol"),
		originalSrc:   listenerFilter(k.any(&originalsrcv3.OriginalSrc{Mark: dialMark}), "envoy.filters.listener.original_src"),
		tlsInspector:  listenerFilter(k.any(&tlsinspectorv3.TlsInspector{}), "envoy.filters.listener.tls_inspector"),
		httpInspector: listenerFilter(k.any(&httpinspectorv3.HttpInspector{}), "envoy.filters.listener.http_inspector"),
		http:          map[direction][]*hcmv3.HttpFilter{},
		tcp:           map[direction][]*listenerv3.Filter{},
		web:           &hcmv3.HttpFilter{Name: "envoy.filters.http.grpc_web", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: k.any(&grpcwebv3.GrpcWeb{})}},
	}
	if s.AccessLog {
		f.accessLog = []*accesslogv3.AccessLog{{
			Name: "envoy.access_loggers.file",
			ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: k.any(&filev3.FileAccessLog{
				Path:            "/dev/stdout",
				AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: accessLogFormat(s)},
			})},
		}}
	}
	for _, d := range []direction{outbound, inbound, edge} {
		f.http[d] = httpFilters(&k, d, sessions && d != inbound)
		f.tcp[d] = []*listenerv3.Filter{
			{Name: "istio.metadata_exchange", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typedStruct(&k,
				"envoy.tcp.metadataexchange.config.MetadataExchange", map[string]*structpb.Value{"protocol": text("istio-peer-exchange")})}},
			{Name: "istio.stats", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typedStruct(&k, "stats.PluginConfig", nil)}},
		}
	}
	return f
}

// accessLogFormat is what MeshConfig asks for, the default otherwise: Istio's, in JSON with what failed and who decided.
func accessLogFormat(s *mesh.Settings) *corev3.SubstitutionFormatString {
	if !s.AccessLogJSON {
		text := cmp.Or(s.AccessLogFormat, substitution.IstioText)
		if !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inlineString(text)}}
	}
	values := &structpb.Struct{}
	if s.AccessLogFormat == "" || protojson.Unmarshal([]byte(s.AccessLogFormat), values) != nil { // whoever took the settings in has told
		values = defaultJSON()
	}
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: values}}
}

func defaultJSON() *structpb.Struct {
	values := map[string]*structpb.Value{}
	for k, v := range substitution.DefaultJSON() {
		values[k] = text(v)
	}
	return fields(values)
}

func listenerFilter(config *anypb.Any, name string) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: config}}
}

// httpFilters lists the stages of a connection manager in order.
func httpFilters(k *mint, d direction, sessions bool) []*hcmv3.HttpFilter {
	filter := func(name string, config *anypb.Any) *hcmv3.HttpFilter {
		return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
	}
	// Whom we talk to: labels travel in headers, received on one side and sent on the other.
	exchange := map[string]*structpb.Value{}
	methods := structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{
		structpb.NewStructValue(fields(map[string]*structpb.Value{"istio_headers": structpb.NewStructValue(&structpb.Struct{})})),
	}})
	if d == inbound {
		exchange["downstream_discovery"], exchange["downstream_propagation"] = methods, methods
	} else {
		exchange["upstream_discovery"], exchange["upstream_propagation"] = methods, methods
	}
	out := []*hcmv3.HttpFilter{filter("envoy.filters.http.peer_metadata", typedStruct(k, "io.istio.http.peer_metadata.Config", exchange))}
	if d != inbound {
		// What HTTP connections to mesh workloads offer as ALPN.
		out = append(out, filter("istio.alpn", typedStruct(k, "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig", alpnOverrides())))
		out = append(out, filter(faultFilterName, k.any(&faultv3.HTTPFault{})), filter(corsFilterName, k.any(&corsv3.Cors{})))
	}
	if sessions { // routes say which
		out = append(out, filter(sessionFilterName, k.any(&sessionv3.StatefulSession{})))
	}
	stats := map[string]*structpb.Value{}
	if d != outbound {
		// The Host header of a client is not to make time series.
		stats["disable_host_header_fallback"] = structpb.NewBoolValue(true)
	}
	return append(out,
		filter("istio.stats", typedStruct(k, "stats.PluginConfig", stats)),
		filter("envoy.filters.http.router", k.any(&routerv3.Router{})),
	)
}

// grpcWeb makes m translate gRPC-Web requests to gRPC.
func (f *filters) grpcWeb(m *hcmv3.HttpConnectionManager) {
	m.HttpFilters = append([]*hcmv3.HttpFilter{f.web}, m.HttpFilters...)
}

func alpnOverrides() map[string]*structpb.Value {
	one := func(protocol string, alpn ...any) any {
		return map[string]any{"upstream_protocol": protocol, "alpn_override": alpn}
	}
	list, err := structpb.NewList([]any{
		one("HTTP10", "istio-http/1.0", "istio", "http/1.0"),
		one("HTTP11", "istio-http/1.1", "istio", "http/1.1"),
		one("HTTP2", "istio-h2", "istio", "h2"),
	})
	if err != nil {
		panic(err) // the list above is constant
	}
	return map[string]*structpb.Value{"alpn_override": structpb.NewListValue(list)}
}

// typedStruct carries the configuration of a filter whose proto is Istio's own.
func typedStruct(k *mint, message string, value map[string]*structpb.Value) *anypb.Any {
	return k.any(&xdstypev1.TypedStruct{TypeUrl: "type.googleapis.com/" + message, Value: fields(value)})
}

func inlineString(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

// httpManager is a connection manager for one direction. Give it routes by rds or
// routeConfig before use.
func (f *filters) httpManager(d direction, statPrefix string) *hcmv3.HttpConnectionManager {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix:        statPrefix,
		HttpFilters:       f.http[d],
		AccessLog:         f.accessLog,
		UseRemoteAddress:  wrapperspb.Bool(d == edge),
		UpgradeConfigs:    []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		StreamIdleTimeout: &durationpb.Duration{}, // 0: never
		NormalizePath:     wrapperspb.Bool(f.paths != mesh.PathsAsTheyCome),
		MergeSlashes:      f.paths == mesh.PathsMerged || f.paths == mesh.PathsDecoded,
		// Istio leaves HTTP/1.0 off (PILOT_HTTP10), and everybody meets its 426 once: nginx spoke HTTP/1.0 to upstreams for
		// most of its life, and some health checks and load generators do.
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{AcceptHttp_10: true},
	}
	if f.paths == mesh.PathsDecoded {
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
	switch d {
	case inbound:
		m.ServerName = "istio-envoy"
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_APPEND_FORWARD
		m.SetCurrentClientCertDetails = clientCertDetails()
	case edge:
		m.ServerName = "istio-envoy"
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = clientCertDetails()
	case outbound:
	}
	return m
}

// edgeManager is a connection manager of a gateway that has t in front of it.
func (f *filters) edgeManager(statPrefix string, t mesh.Topology) *hcmv3.HttpConnectionManager {
	m := f.httpManager(edge, statPrefix)
	m.XffNumTrustedHops = t.TrustedProxies
	if how, ok := hcmv3.HttpConnectionManager_ForwardClientCertDetails_value[t.ClientCert]; ok { // Istio has Envoy's names
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_ForwardClientCertDetails(how)
	}
	return m
}

func clientCertDetails() *hcmv3.HttpConnectionManager_SetCurrentClientCertDetails {
	return &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Subject: wrapperspb.Bool(true), Dns: true, Uri: true}
}

func rds(name string) *hcmv3.HttpConnectionManager_Rds {
	return &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: name}}
}

func routeConfig(rc *routev3.RouteConfiguration) *hcmv3.HttpConnectionManager_RouteConfig {
	return &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
}

func managerFilter(k *mint, m *hcmv3.HttpConnectionManager) []*listenerv3.Filter {
	return []*listenerv3.Filter{{
		Name:       "envoy.filters.network.http_connection_manager",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: k.any(m)},
	}}
}

// share is one target of a TCP route.
type share struct {
	cluster string
	weight  uint32
}

// lasting is how long a relayed connection may be idle (negative: for ever), and last; 0: as the data plane has it.
type lasting struct{ idle, max time.Duration }

// tcpFilters relays to one cluster or to several by weight.
func (f *filters) tcpFilters(k *mint, d direction, l lasting, to ...share) []*listenerv3.Filter {
	p := &tcpproxyv3.TcpProxy{AccessLog: f.accessLog, IdleTimeout: idleTimeout(l.idle), MaxDownstreamConnectionDuration: someDuration(l.max)}
	switch len(to) {
	case 1:
		p.StatPrefix = to[0].cluster
		p.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: to[0].cluster}
	default:
		w := &tcpproxyv3.TcpProxy_WeightedCluster{}
		for _, s := range to {
			w.Clusters = append(w.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: s.cluster, Weight: s.weight})
			p.StatPrefix = s.cluster
		}
		p.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	}
	return append(slices.Clip(f.tcp[d]), &listenerv3.Filter{
		Name:       "envoy.filters.network.tcp_proxy",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: k.any(p)},
	})
}
