package translate_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/api/nds"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// project prints the part of a View a case is about. filter keeps the resources, and
// of route tables the virtual hosts, whose name contains it.
func project(t testing.TB, v *resource.View, kind, filter string) string {
	types := map[string]string{"routes": resource.RouteType, "clusters": resource.ClusterType, "tls": resource.ClusterType,
		"endpoints": resource.EndpointType, "listeners": resource.ListenerType, "names": resource.NameTableType, "full": ""}
	typ, ok := types[kind]
	if !ok {
		t.Fatalf("there is no projection %q", kind)
	}
	p := &printer{t: t, filter: filter}
	for _, url := range slices.Sorted(maps.Keys(v.Sets)) {
		if typ != "" && url != typ {
			continue
		}
		for name, r := range v.Sets[url].All() {
			m := decode(t, r)
			switch m := m.(type) {
			case *routev3.RouteConfiguration:
				if kind == "routes" {
					p.table(m)
					continue
				}
			case *nds.NameTable:
				for _, host := range slices.Sorted(maps.Keys(m.GetTable())) {
					if strings.Contains(host, filter) {
						info := m.GetTable()[host]
						p.line(0, "%s %v %s %s/%s", host, info.GetIps(), info.GetRegistry(), info.GetNamespace(), info.GetShortname())
					}
				}
				continue
			}
			if !strings.Contains(name, filter) {
				continue
			}
			switch m := m.(type) {
			case *clusterv3.Cluster:
				switch kind {
				case "clusters":
					p.cluster(m)
				case "tls":
					p.clusterTLS(m)
				}
			case *endpointv3.ClusterLoadAssignment:
				if kind == "endpoints" {
					p.line(0, "%s", name)
					p.load(m)
				}
			case *listenerv3.Listener:
				if kind == "listeners" {
					p.listener(m)
				}
			}
			if kind == "full" {
				b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				p.line(0, "%s %s\n%s", resource.Short(url), name, strings.ReplaceAll(string(b), ", ", ","))
			}
		}
	}
	return p.String()
}

type printer struct {
	strings.Builder
	t      testing.TB
	filter string
}

func (p *printer) line(indent int, format string, args ...any) {
	p.WriteString(strings.Repeat("  ", indent) + strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

func (p *printer) unpack(a *anypb.Any, m proto.Message) {
	if err := a.UnmarshalTo(m); err != nil {
		p.t.Fatal(err)
	}
}

func (p *printer) table(rc *routev3.RouteConfiguration) {
	p.line(0, "%s", rc.GetName())
	for _, vh := range rc.GetVirtualHosts() {
		if !strings.Contains(vh.GetName(), p.filter) {
			continue
		}
		p.line(1, "%s %v", vh.GetName(), vh.GetDomains())
		for _, r := range vh.GetRoutes() {
			p.route(r)
		}
	}
}

func (p *printer) route(r *routev3.Route) {
	out := []string{routeMatch(r.GetMatch())}
	if r.GetName() != "" {
		out = append([]string{r.GetName() + ":"}, out...)
	}
	switch {
	case r.GetRedirect() != nil:
		out = append(out, "redirect", short(r.GetRedirect()))
	case r.GetDirectResponse() != nil:
		out = append(out, "direct", short(r.GetDirectResponse()))
	default:
		out = append(out, p.forward(r.GetRoute()))
	}
	if a := r.GetTypedPerFilterConfig()["envoy.filters.http.fault"]; a != nil {
		f := &faultv3.HTTPFault{}
		p.unpack(a, f)
		if d := f.GetDelay(); d != nil {
			out = append(out, fmt.Sprintf("delay=%s@%d", d.GetFixedDelay().AsDuration(), d.GetPercentage().GetNumerator()))
		}
		if b := f.GetAbort(); b != nil {
			out = append(out, fmt.Sprintf("abort=%d@%d", b.GetHttpStatus(), b.GetPercentage().GetNumerator()))
		}
	}
	if _, ok := r.GetTypedPerFilterConfig()["envoy.filters.http.cors"]; ok {
		out = append(out, "cors")
	}
	out = append(out, mutations(r)...)
	if w := r.GetMetadata().GetFilterMetadata()["weir"].GetFields(); w != nil {
		out = append(out, fmt.Sprintf("(%s:%v)", w["file"].GetStringValue(), w["line"].GetNumberValue()))
	}
	p.line(2, "%s", strings.Join(out, " "))
}

// short is the message as JSON, without type names.
func short(m proto.Message) string {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return strings.NewReplacer(`"`, "", ", ", ",", ": ", ":").Replace(string(b)) // protojson puts spaces at random
}

func routeMatch(m *routev3.RouteMatch) string {
	var out []string
	switch s := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out = append(out, "prefix "+s.Prefix)
	case *routev3.RouteMatch_Path:
		out = append(out, "path "+s.Path)
	case *routev3.RouteMatch_SafeRegex:
		out = append(out, "regex "+s.SafeRegex.GetRegex())
	}
	if m.GetCaseSensitive() != nil {
		out = append(out, "any case")
	}
	for _, h := range m.GetHeaders() {
		not := ""
		if h.GetInvertMatch() {
			not = "not "
		}
		out = append(out, "header "+h.GetName()+" "+not+stringMatch(h.GetStringMatch()))
	}
	for _, q := range m.GetQueryParameters() {
		out = append(out, "query "+q.GetName()+" "+stringMatch(q.GetStringMatch()))
	}
	if f := m.GetRuntimeFraction(); f != nil {
		out = append(out, fmt.Sprintf("share @%d", f.GetDefaultValue().GetNumerator()))
	}
	return strings.Join(out, ", ")
}

func stringMatch(m *matcherv3.StringMatcher) string {
	switch s := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return fmt.Sprintf("= %q", s.Exact)
	case *matcherv3.StringMatcher_Prefix:
		return fmt.Sprintf("= %q…", s.Prefix)
	case *matcherv3.StringMatcher_SafeRegex:
		return "~ " + s.SafeRegex.GetRegex()
	}
	return "present"
}

func (p *printer) forward(a *routev3.RouteAction) string {
	out := []string{"->", a.GetCluster()}
	for _, w := range a.GetWeightedClusters().GetClusters() {
		out = append(out, fmt.Sprintf("%d of %s", w.GetWeight().GetValue(), w.GetName()))
		out = append(out, mutations(w)...)
	}
	if d := a.GetTimeout().AsDuration(); d != 0 {
		out = append(out, "timeout="+d.String())
	}
	if r := a.GetRetryPolicy(); r != nil {
		out = append(out, fmt.Sprintf("retries=%d", r.GetNumRetries().GetValue()))
		if r.GetRetryOn() != mesh.SafeRetryOn {
			out = append(out, "on="+r.GetRetryOn())
		}
		if len(r.GetRetriableStatusCodes()) > 0 {
			out = append(out, fmt.Sprintf("codes=%v", r.GetRetriableStatusCodes()))
		}
		if r.GetPerTryTimeout() != nil {
			out = append(out, "perTry="+r.GetPerTryTimeout().AsDuration().String())
		}
		if r.GetRetryBackOff() != nil {
			out = append(out, "backoff="+r.GetRetryBackOff().GetBaseInterval().AsDuration().String())
		}
	}
	if a.GetPrefixRewrite() != "" {
		out = append(out, "rewrite="+a.GetPrefixRewrite())
	}
	if r := a.GetRegexRewrite(); r != nil {
		out = append(out, fmt.Sprintf("rewrite=/%s/%s/", r.GetPattern().GetRegex(), r.GetSubstitution()))
	}
	if a.GetHostRewriteLiteral() != "" {
		out = append(out, "host="+a.GetHostRewriteLiteral())
	}
	for _, m := range a.GetRequestMirrorPolicies() {
		out = append(out, fmt.Sprintf("mirror=%s@%d", m.GetCluster(), m.GetRuntimeFraction().GetDefaultValue().GetNumerator()))
	}
	return strings.Join(slices.DeleteFunc(out, func(s string) bool { return s == "" }), " ")
}

func mutations(m interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}) []string {
	var out []string
	add := func(where string, list []*corev3.HeaderValueOption) {
		for _, h := range list {
			op := map[corev3.HeaderValueOption_HeaderAppendAction]string{corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD: "=", corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD: "+="}[h.GetAppendAction()]
			out = append(out, where+" "+h.GetHeader().GetKey()+op+h.GetHeader().GetValue())
		}
	}
	add("request", m.GetRequestHeadersToAdd())
	for _, n := range m.GetRequestHeadersToRemove() {
		out = append(out, "request -"+n)
	}
	add("response", m.GetResponseHeadersToAdd())
	for _, n := range m.GetResponseHeadersToRemove() {
		out = append(out, "response -"+n)
	}
	return out
}

func (p *printer) cluster(c *clusterv3.Cluster) {
	out := []string{c.GetName(), cmp.Or(c.GetClusterType().GetName(), c.GetType().String()), c.GetLbPolicy().String()}
	if d := c.GetConnectTimeout().AsDuration(); d.Seconds() != 10 {
		out = append(out, "connect="+d.String())
	}
	for _, t := range c.GetCircuitBreakers().GetThresholds() {
		limit := func(name string, v interface{ GetValue() uint32 }) {
			if v.GetValue() != 1<<32-1 {
				out = append(out, fmt.Sprintf("%s=%d", name, v.GetValue()))
			}
		}
		limit("connections", t.GetMaxConnections())
		limit("pending", t.GetMaxPendingRequests())
		limit("requests", t.GetMaxRequests())
		limit("retries", t.GetMaxRetries())
		if b := t.GetRetryBudget(); b != nil {
			out = append(out, "budget="+short(b))
		}
	}
	if c.GetOutlierDetection() != nil {
		out = append(out, "outlier="+short(c.GetOutlierDetection()))
	}
	if a := c.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]; a != nil {
		o := &upstreamsv3.HttpProtocolOptions{}
		p.unpack(a, o)
		out = append(out, "http="+short(o))
	}
	if k := c.GetUpstreamConnectionOptions(); k != nil {
		out = append(out, short(k))
	}
	if n := c.GetCommonLbConfig().GetHealthyPanicThreshold().GetValue(); n != 0 {
		out = append(out, fmt.Sprintf("panic=%v", n))
	}
	for _, h := range c.GetHealthChecks() {
		out = append(out, "check="+short(h))
	}
	if c.GetCommonLbConfig().GetLocalityWeightedLbConfig() != nil {
		out = append(out, "by locality")
	}
	for _, name := range []string{"half_open_probes", "led", "tunnel"} {
		if v := c.GetMetadata().GetFilterMetadata()["weir"].GetFields()[name]; v != nil {
			out = append(out, name+"="+short(v))
		}
	}
	if b := c.GetUpstreamBindConfig(); b != nil {
		out = append(out, "from="+b.GetSourceAddress().GetAddress())
		for _, x := range b.GetExtraSourceAddresses() {
			out = append(out, "or="+x.GetAddress().GetAddress())
		}
	}
	istio := c.GetMetadata().GetFilterMetadata()["istio"].GetFields()
	if v := istio["config"].GetStringValue(); v != "" {
		out = append(out, "("+v+")")
	}
	p.line(0, "%s", strings.Join(out, " "))
	p.load(c.GetLoadAssignment())
}

func (p *printer) clusterTLS(c *clusterv3.Cluster) {
	p.line(0, "%s", c.GetName())
	for _, m := range c.GetTransportSocketMatches() {
		p.line(1, "%s: %s", m.GetName(), p.socket(m.GetTransportSocket()))
	}
	if c.GetTransportSocket() != nil {
		p.line(1, "always: %s", p.socket(c.GetTransportSocket()))
	}
}

func (p *printer) socket(s *corev3.TransportSocket) string {
	if s == nil || s.GetName() == "envoy.transport_sockets.raw_buffer" {
		return "plaintext"
	}
	m, err := s.GetTypedConfig().UnmarshalNew()
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	var c *tlsv3.CommonTlsContext
	switch m := m.(type) {
	case *proxyprotocolv3.ProxyProtocolUpstreamTransport:
		return fmt.Sprintf("PROXY %v, %s", m.GetConfig().GetVersion(), p.socket(m.GetTransportSocket()))
	case *tlsv3.UpstreamTlsContext:
		c = m.GetCommonTlsContext()
		out = append(out, "sni="+m.GetSni())
	case *tlsv3.DownstreamTlsContext:
		c = m.GetCommonTlsContext()
		if m.GetRequireClientCertificate().GetValue() {
			out = append(out, "client certificate required")
		}
	}
	for _, s := range c.GetTlsCertificateSdsSecretConfigs() {
		out = append(out, "certificate="+s.GetName())
	}
	for _, f := range c.GetTlsCertificates() {
		out = append(out, "certificate="+f.GetCertificateChain().GetFilename())
	}
	if len(c.GetAlpnProtocols()) > 0 {
		out = append(out, "alpn="+strings.Join(c.GetAlpnProtocols(), ","))
	}
	v := c.GetValidationContext()
	if x := c.GetCombinedValidationContext(); x != nil {
		v = x.GetDefaultValidationContext()
		out = append(out, "roots="+x.GetValidationContextSdsSecretConfig().GetName())
	}
	if f := v.GetTrustedCa().GetFilename(); f != "" {
		out = append(out, "roots="+f)
	}
	if v.GetSystemRootCerts() != nil {
		out = append(out, "roots=system")
	}
	if v.GetTrustChainVerification() != 0 {
		out = append(out, v.GetTrustChainVerification().String())
	}
	for _, s := range v.GetMatchTypedSubjectAltNames() {
		out = append(out, s.GetSanType().String()+" "+stringMatch(s.GetMatcher()))
	}
	return strings.Join(out, " ")
}

func (p *printer) load(l *endpointv3.ClusterLoadAssignment) {
	for _, group := range l.GetEndpoints() {
		where := ""
		if loc := group.GetLocality(); loc != nil {
			where = " in " + strings.Join([]string{loc.GetRegion(), loc.GetZone(), loc.GetSubZone()}, "/")
		}
		if n := group.GetPriority(); n > 0 {
			where += fmt.Sprintf(" priority=%d", n)
		}
		if n := group.GetLoadBalancingWeight().GetValue(); n > 999 { // a share of distribute
			where += fmt.Sprintf(" share=%d", n)
		}
		for _, e := range group.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			out := fmt.Sprintf("%s:%d", a.GetAddress(), a.GetPortValue())
			if pipe := e.GetEndpoint().GetAddress().GetPipe(); pipe != nil {
				out = "unix://" + pipe.GetPath()
			}
			if w := e.GetLoadBalancingWeight().GetValue(); w > 1 {
				out += fmt.Sprintf(" weight=%d", w)
			}
			if h := e.GetHealthStatus(); h != corev3.HealthStatus_HEALTHY {
				out += " " + h.String()
			}
			m := e.GetMetadata().GetFilterMetadata()
			if m["envoy.transport_socket_match"] != nil {
				out += " mTLS"
			}
			if m["weir"].GetFields()["leaving"].GetBoolValue() {
				out += " leaving"
			}
			p.line(1, "%s %s%s", out, m["istio"].GetFields()["workload"].GetStringValue(), where)
		}
	}
}

func (p *printer) listener(l *listenerv3.Listener) {
	a := l.GetAddress().GetSocketAddress()
	out := fmt.Sprintf("%s %s:%d %s", l.GetName(), a.GetAddress(), a.GetPortValue(), l.GetTrafficDirection())
	if l.GetBindToPort() != nil && !l.GetBindToPort().GetValue() {
		out += " unbound"
	}
	for _, f := range l.GetListenerFilters() {
		out += " " + strings.TrimPrefix(f.GetName(), "envoy.filters.listener.")
		if f.GetFilterDisabled() != nil {
			out += "(not on " + short(f.GetFilterDisabled()) + ")"
		}
	}
	p.line(0, "%s", out)
	for _, c := range l.GetFilterChains() {
		p.chain(c)
	}
	if c := l.GetDefaultFilterChain(); c != nil {
		p.line(1, "otherwise")
		p.chain(c)
	}
}

func (p *printer) chain(c *listenerv3.FilterChain) {
	m := c.GetFilterChainMatch()
	var out []string
	if m.GetDestinationPort() != nil {
		out = append(out, fmt.Sprintf("port %d", m.GetDestinationPort().GetValue()))
	}
	for _, r := range m.GetPrefixRanges() {
		out = append(out, fmt.Sprintf("to %s/%d", r.GetAddressPrefix(), r.GetPrefixLen().GetValue()))
	}
	if len(m.GetServerNames()) > 0 {
		out = append(out, "sni "+strings.Join(m.GetServerNames(), ","))
	}
	if m.GetTransportProtocol() != "" {
		out = append(out, m.GetTransportProtocol())
	}
	if len(m.GetApplicationProtocols()) > 0 {
		out = append(out, strings.Join(m.GetApplicationProtocols(), ","))
	}
	if len(out) == 0 {
		out = append(out, "any")
	}
	if c.GetMetadata().GetFilterMetadata()["weir"].GetFields()["strangers"].GetBoolValue() {
		out = append(out, "(strangers)")
	}
	out = append(out, "=>")
	if c.GetTransportSocket() != nil {
		out = append(out, "TLS("+p.socket(c.GetTransportSocket())+")")
	}
	last := c.GetFilters()[len(c.GetFilters())-1]
	x, err := last.GetTypedConfig().UnmarshalNew()
	if err != nil {
		p.t.Fatal(err)
	}
	switch f := x.(type) {
	case *hcmv3.HttpConnectionManager:
		if slices.ContainsFunc(f.GetHttpFilters(), func(f *hcmv3.HttpFilter) bool { return f.GetName() == "envoy.filters.http.grpc_web" }) {
			out = append(out, "grpc-web")
		}
		if n := f.GetXffNumTrustedHops(); n > 0 {
			out = append(out, fmt.Sprintf("hops=%d", n))
		}
		if how := f.GetForwardClientCertDetails(); f.GetUseRemoteAddress().GetValue() && how != hcmv3.HttpConnectionManager_SANITIZE_SET {
			out = append(out, "client-cert="+how.String())
		}
		if f.GetRds() != nil {
			out = append(out, "http routes "+f.GetRds().GetRouteConfigName())
		} else {
			out = append(out, "http "+f.GetRouteConfig().GetVirtualHosts()[0].GetRoutes()[0].GetRoute().GetCluster())
		}
	case *tcpproxyv3.TcpProxy:
		out = append(out, "tcp "+f.GetCluster())
		for _, w := range f.GetWeightedClusters().GetClusters() {
			out = append(out, fmt.Sprintf("%d of %s", w.GetWeight(), w.GetName()))
		}
		if f.GetIdleTimeout() != nil {
			out = append(out, "idle="+f.GetIdleTimeout().AsDuration().String())
		}
	}
	p.line(1, "%s", strings.Join(out, " "))
}
