package state

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

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

		NoHostDot: m.GetStripTrailingHostDot(),
		Edge:      m.GetUseRemoteAddress().GetValue(), SkipXFF: m.GetSkipXffAppend(), TrustedHops: int(min(m.GetXffNumTrustedHops(), 100)),
		KeepRequestID: m.GetPreserveExternalRequestId(), NoRequestID: m.GetGenerateRequestId() != nil && !m.GetGenerateRequestId().GetValue(),
		HeaderTimeout: m.GetRequestHeadersTimeout().AsDuration(), RequestTimeout: m.GetRequestTimeout().AsDuration(),
		StreamIdle: 5 * time.Minute, // the field's default
	}
	switch {
	case dir == http.Inbound:
		c.Tells = http.Peers
	case dir == http.Outbound && !c.Edge: // Istio's gateways say that they are outbound, too
		c.Tells = http.Workload
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
	var err error
	if c.Path, err = PathOptions(m, path); err != nil {
		return nil, "", err
	}
	if m.GetStreamIdleTimeout() != nil {
		c.StreamIdle = m.GetStreamIdleTimeout().AsDuration()
	}
	c.SafeMaxDuration = m.GetHttp1SafeMaxConnectionDuration()
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
	if c.Logs, err = b.logs(m.GetAccessLog(), path); err != nil {
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
		b.uses.patience = longer(b.uses.patience, patience(r.Rds.GetConfigSource()))
		return c, c.TableName, byStream(r.Rds.GetConfigSource(), path+".rds.config_source")
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

// PathOptions is how a connection manager reads paths; at is how it is called in errors.
func PathOptions(m *hcmv3.HttpConnectionManager, at string) (message.PathOptions, error) {
	o := message.PathOptions{Normalize: m.GetNormalizePath().GetValue(), MergeSlashes: m.GetMergeSlashes()}
	switch a := m.GetPathWithEscapedSlashesAction(); a {
	case hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT, hcmv3.HttpConnectionManager_KEEP_UNCHANGED:
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		o.Slashes = message.RefuseSlashes
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		o.Slashes = message.RedirectSlashes
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		o.Slashes = message.UnescapeSlashes
	default:
		return o, fmt.Errorf("%s.path_with_escaped_slashes_action: %v is not supported", at, a)
	}
	return o, nil
}
