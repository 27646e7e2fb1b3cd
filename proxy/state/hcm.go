package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	udpav1 "github.com/cncf/xds/go/udpa/type/v1"
	xdsv3 "github.com/cncf/xds/go/xds/type/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	"github.com/weirmesh/weir/proxy/gateway"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/inbound"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/route"
)

// Types of filters, as they stand in typed_config, or inside a TypedStruct there.
const (
	hcmURL              = typePrefix + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tcpProxyURL         = typePrefix + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	routerURL           = typePrefix + "envoy.extensions.filters.http.router.v3.Router"
	faultURL            = typePrefix + "envoy.extensions.filters.http.fault.v3.HTTPFault"
	grpcWebURL          = typePrefix + "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"
	peerMetadataURL     = typePrefix + "io.istio.http.peer_metadata.Config"
	alpnURL             = typePrefix + "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
	statsURL            = typePrefix + "stats.PluginConfig"
	metadataExchangeURL = typePrefix + "envoy.tcp.metadataexchange.config.MetadataExchange"
	fileAccessLogURL    = typePrefix + "envoy.extensions.access_loggers.file.v3.FileAccessLog"
)

// inertFilters are what Istio's control plane sends and this proxy leaves alone on
// purpose, with the reason.
var inertFilters = map[string]string{
	alpnURL:  "the stage that dials offers HTTP protocols to mesh peers by itself",
	statsURL: "Istio's standard metrics are always made",
	typePrefix + "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig": "gRPC message counts come with gRPC",
	typePrefix + "envoy.extensions.filters.http.cors.v3.Cors":               "the application answers preflight requests itself until a later part",
	typePrefix + "envoy.extensions.filters.http.cors.v3.CorsPolicy":         "as the filter it configures",
}

// filterType is the type of a filter's configuration, looking into a TypedStruct.
func filterType(a *anypb.Any, path string) (string, error) {
	switch a.GetTypeUrl() {
	case typePrefix + "udpa.type.v1.TypedStruct":
		s := &udpav1.TypedStruct{}
		if err := a.UnmarshalTo(s); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		return s.GetTypeUrl(), nil
	case typePrefix + "xds.type.v3.TypedStruct":
		s := &xdsv3.TypedStruct{}
		if err := a.UnmarshalTo(s); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		return s.GetTypeUrl(), nil
	}
	return a.GetTypeUrl(), nil
}

// decodeManager makes the configuration of an HTTP connection manager and names the
// route configuration it gets by RDS ("" for its own).
func (b *Builder) decodeManager(a *anypb.Any, dir http.Direction, path string) (*http.Config, string, error) {
	m := &hcmv3.HttpConnectionManager{}
	if err := unpack(a, m, path); err != nil {
		return nil, "", err
	}
	if err := cmp.Or(oneLine(path+".server_name", m.GetServerName()), oneLine(path+".via", m.GetVia())); err != nil {
		return nil, "", err
	}
	c := &http.Config{
		StatPrefix: m.GetStatPrefix(), Direction: dir, ServerName: []byte(cmp.Or(m.GetServerName(), "envoy")), // the field's default

		Path: message.PathOptions{Normalize: m.GetNormalizePath().GetValue(), MergeSlashes: m.GetMergeSlashes()},
		Edge: m.GetUseRemoteAddress().GetValue(), SkipXFF: m.GetSkipXffAppend(), TrustedHops: int(min(m.GetXffNumTrustedHops(), 100)),
		KeepRequestID: m.GetPreserveExternalRequestId(), NoRequestID: m.GetGenerateRequestId() != nil && !m.GetGenerateRequestId().GetValue(),
		HeaderTimeout: m.GetRequestHeadersTimeout().AsDuration(), RequestTimeout: m.GetRequestTimeout().AsDuration(),
		StreamIdle: 5 * time.Minute, // the field's default
	}
	if m.GetRequestHeadersTimeout() != nil && c.HeaderTimeout == 0 {
		c.HeaderTimeout = -1 // none, instead of the default
	}
	if m.GetVia() != "" {
		c.Via = []byte(m.GetVia())
	}
	if err := commonHTTP(c, m.GetCommonHttpProtocolOptions(), path+".common_http_protocol_options"); err != nil {
		return nil, "", err
	}
	switch a := m.GetPathWithEscapedSlashesAction(); a {
	case hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT, hcmv3.HttpConnectionManager_KEEP_UNCHANGED:
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		c.Path.Slashes = message.RefuseSlashes
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		c.Path.Slashes = message.RedirectSlashes
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		c.Path.Slashes = message.UnescapeSlashes
	default:
		return nil, "", fmt.Errorf("%s.path_with_escaped_slashes_action: %v is not supported", path, a)
	}
	if m.GetStreamIdleTimeout() != nil {
		c.StreamIdle = m.GetStreamIdleTimeout().AsDuration()
	}
	c.SafeMaxDuration = m.GetHttp1SafeMaxConnectionDuration()
	var err error
	if c.Limits.HeadBytes, err = headBytes(m.GetMaxRequestHeadersKb(), path+".max_request_headers_kb"); err != nil {
		return nil, "", err
	}
	if c.HTTP1, err = decodeHTTP1(m.GetHttpProtocolOptions(), path+".http_protocol_options"); err != nil {
		return nil, "", err
	}
	switch m.GetCodecType() {
	case hcmv3.HttpConnectionManager_AUTO:
	case hcmv3.HttpConnectionManager_HTTP1:
		c.Codec = http.HTTP1Codec
	case hcmv3.HttpConnectionManager_HTTP2:
		c.Codec = http.HTTP2Codec
	default:
		return nil, "", fmt.Errorf("%s.codec_type: %v is not supported", path, m.GetCodecType())
	}
	switch m.GetServerHeaderTransformation() {
	case hcmv3.HttpConnectionManager_OVERWRITE:
		c.ServerMode = http.ServerOverwrite
	case hcmv3.HttpConnectionManager_APPEND_IF_ABSENT:
		c.ServerMode = http.ServerIfAbsent
	case hcmv3.HttpConnectionManager_PASS_THROUGH:
		c.ServerMode = http.ServerPassThrough
	}
	for _, u := range m.GetUpgradeConfigs() {
		if u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			c.Upgrades = append(c.Upgrades, strings.ToLower(u.GetUpgradeType()))
		}
	}
	certs(c, m)
	if c.HTTP2, err = decodeHTTP2(m.GetHttp2ProtocolOptions(), path+".http2_protocol_options"); err != nil {
		return nil, "", err
	}
	if c.Log, err = logs(m.GetAccessLog(), path); err != nil {
		return nil, "", err
	}
	if err := b.decodeHTTPFilters(c, m, path); err != nil {
		return nil, "", err
	}
	switch r := m.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_RouteConfig:
		t, err := decodeRoutes(r.RouteConfig, "", b.clusterID)
		switch {
		case err != nil:
		case t.vhds:
			err = fmt.Errorf("%s.route_config.vhds: virtual hosts by VHDS need a table by RDS", path)
		default:
			c.Table, err = t.table(nil)
		}
		return c, "", err
	case *hcmv3.HttpConnectionManager_Rds:
		if c.TableName = r.Rds.GetRouteConfigName(); c.TableName == "" {
			return nil, "", fmt.Errorf("%s.rds.route_config_name: is empty", path)
		}
		return c, c.TableName, nil
	}
	return nil, "", fmt.Errorf("%s: has neither route_config nor rds", path)
}

// commonHTTP reads what both versions of HTTP have on a listener.
func commonHTTP(c *http.Config, o *corev3.HttpProtocolOptions, path string) error {
	if o.GetIdleTimeout() != nil {
		if c.IdleTimeout = o.GetIdleTimeout().AsDuration(); c.IdleTimeout == 0 {
			c.IdleTimeout = -1 // none, instead of the default
		}
	}
	c.StreamMax = o.GetMaxStreamDuration().AsDuration()
	c.MaxRequests = o.GetMaxRequestsPerConnection().GetValue()
	c.MaxDuration = o.GetMaxConnectionDuration().AsDuration()
	c.DurationJitter = min(max(o.GetMaxConnectionDurationJitter().GetValue(), 0), 100) / 100
	var err error
	if c.Limits.Fields, err = headFields(o, path); err != nil {
		return err
	}
	switch a := o.GetHeadersWithUnderscoresAction(); a {
	case corev3.HttpProtocolOptions_ALLOW:
	case corev3.HttpProtocolOptions_REJECT_REQUEST:
		c.Underscores = http.UnderscoresRefuse
	case corev3.HttpProtocolOptions_DROP_HEADER:
		c.Underscores = http.UnderscoresDrop
	default:
		return fmt.Errorf("%s.headers_with_underscores_action: %v is not supported", path, a)
	}
	return nil
}

func certs(c *http.Config, m *hcmv3.HttpConnectionManager) {
	switch m.GetForwardClientCertDetails() {
	case hcmv3.HttpConnectionManager_SANITIZE:
		c.ClientCert = http.CertSanitize
	case hcmv3.HttpConnectionManager_FORWARD_ONLY:
		c.ClientCert = http.CertForwardOnly
	case hcmv3.HttpConnectionManager_APPEND_FORWARD:
		c.ClientCert = http.CertAppendForward
	case hcmv3.HttpConnectionManager_SANITIZE_SET:
		c.ClientCert = http.CertSanitizeSet
	case hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY:
		c.ClientCert = http.CertAlwaysForwardOnly
	}
	d := m.GetSetCurrentClientCertDetails()
	if d.GetSubject().GetValue() {
		c.CertParts |= http.CertSubject
	}
	if d.GetUri() {
		c.CertParts |= http.CertURI
	}
	if d.GetDns() {
		c.CertParts |= http.CertDNS
	}
}

// decodeHTTPFilters checks the filters and lists the stages they stand for.
func (b *Builder) decodeHTTPFilters(c *http.Config, m *hcmv3.HttpConnectionManager, path string) error {
	var peers *peermetadata.Node
	var fault *route.Fault
	grpcWeb, routed := false, false
	for i, f := range m.GetHttpFilters() {
		at := fmt.Sprintf("%s.http_filters[%d] %s", path, i, f.GetName())
		if routed {
			return fmt.Errorf("%s: the router is the last filter", at)
		}
		if f.GetDisabled() {
			return fmt.Errorf("%s.disabled: field is not supported", at)
		}
		url, err := filterType(f.GetTypedConfig(), at)
		if err != nil {
			return err
		}
		switch url {
		case routerURL:
			if err := unpack(f.GetTypedConfig(), &routerv3.Router{}, at); err != nil {
				return err
			}
			routed = true
		case faultURL:
			x := &faultv3.HTTPFault{}
			if err := unpack(f.GetTypedConfig(), x, at); err != nil {
				return err
			}
			if x.GetDelay() != nil || x.GetAbort() != nil {
				if fault, err = decodeFault(x, at); err != nil {
					return err
				}
			}
		case grpcWebURL:
			if err := unpack(f.GetTypedConfig(), &grpcwebv3.GrpcWeb{}, at); err != nil {
				return err
			}
			grpcWeb = true
		case peerMetadataURL:
			peers = b.opts.Metadata
		default:
			_, inert := inertFilters[url]
			switch {
			case inert:
			case f.GetIsOptional():
				b.skipped(f.GetName(), url)
			default:
				return fmt.Errorf("%s: filter %s is not supported", at, url)
			}
		}
	}
	if !routed {
		return fmt.Errorf("%s.http_filters: the last filter must be envoy.filters.http.router", path)
	}
	switch c.Direction {
	case http.Inbound:
		c.Stages = inbound.Stages(inbound.Options{Metadata: peers, Fault: fault, GRPCWeb: grpcWeb})
	case http.Outbound:
		c.Stages = outbound.Stages(outbound.Options{Metadata: peers, Fault: fault, GRPCWeb: grpcWeb})
	case http.Gateway:
		c.Stages = gateway.Stages(gateway.Options{Metadata: peers, Fault: fault, GRPCWeb: grpcWeb})
	}
	return nil
}

// skipped notes an optional filter that nobody here knows.
func (b *Builder) skipped(name, url string) {
	s := name + " (" + url + ")"
	if !slices.Contains(b.skippedFilters, s) && len(b.skippedFilters) < 100 {
		b.skippedFilters = append(b.skippedFilters, s)
	}
}

// Skipped lists optional filters that were left out, for the configuration dump.
func (b *Builder) Skipped() []string { return slices.Clone(b.skippedFilters) }

// logs reports whether access is logged to standard output. The line is always Istio's
// default; another format is refused rather than not honoured.
func logs(list []*accesslogv3.AccessLog, path string) (bool, error) {
	on := false
	for i, l := range list {
		at := fmt.Sprintf("%s.access_log[%d]", path, i)
		if l.GetTypedConfig().GetTypeUrl() != fileAccessLogURL {
			return false, fmt.Errorf("%s: %s is not supported", at, l.GetTypedConfig().GetTypeUrl())
		}
		f := &fileaccesslogv3.FileAccessLog{}
		if err := unpack(l.GetTypedConfig(), f, at); err != nil {
			return false, err
		}
		if p := f.GetPath(); p != "/dev/stdout" && p != "/dev/stderr" {
			return false, fmt.Errorf("%s.path: %q is not supported, only /dev/stdout", at, p)
		}
		format := f.GetLogFormat().GetTextFormatSource().GetInlineString()
		if format == "" {
			format = f.GetLogFormat().GetTextFormat()
		}
		if format == "" {
			format = f.GetFormat()
		}
		if f.GetLogFormat().GetJsonFormat() != nil || format != "" && strings.TrimSpace(format) != istioLogFormat {
			return false, fmt.Errorf("%s.log_format: only Istio's default text format is supported", at)
		}
		on = on || l.GetFilter() == nil
	}
	return on, nil
}

// istioLogFormat is Istio's default access log format without its newline.
const istioLogFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% ` +
	`%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% ` +
	`%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" ` +
	`"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% ` +
	`%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%`
