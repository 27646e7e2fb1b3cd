package istio

import (
	"fmt"

	"google.golang.org/protobuf/types/known/wrapperspb"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

func (l *lowerer) destinationRule(spec *networkingv1alpha3.DestinationRule) *mesh.DestinationRule {
	dr := &mesh.DestinationRule{Ref: l.o.Ref, Visible: l.exportTo(spec.ExportTo, false)}
	if spec.Host == "" {
		l.Invalid("spec.host", "is missing", "name the service the rule is for")
	} else if l.host("spec.host", spec.Host, true, false) {
		dr.Host = l.fqdn(spec.Host)
	}
	if spec.WorkloadSelector != nil {
		dr.WorkloadSelector = l.selector("spec.workloadSelector.matchLabels", spec.WorkloadSelector.MatchLabels)
	}
	if spec.TrafficPolicy != nil {
		dr.Policy, dr.PortPolicies = l.trafficPolicy("spec.trafficPolicy", spec.TrafficPolicy)
	}
	seen := map[string]int{}
	for i, s := range spec.Subsets {
		at := document.Index("spec.subsets", i)
		if s.Name == "" {
			l.Invalid(at+".name", "is missing", "VirtualServices refer to the subset by its name")
		} else {
			l.name(at+".name", "subset name", s.Name)
			if first, ok := seen[s.Name]; ok {
				l.Invalid(at+".name", fmt.Sprintf("%q is also the name of %s", s.Name, document.Index("subsets", first)), "rename one of the two")
			}
			seen[s.Name] = i
		}
		sub := mesh.Subset{Name: s.Name, Labels: l.labels(at+".labels", s.Labels)}
		if s.TrafficPolicy != nil {
			p, ports := l.trafficPolicy(at+".trafficPolicy", s.TrafficPolicy)
			sub.Policy, sub.PortPolicies = &p, ports
		}
		dr.Subsets = append(dr.Subsets, sub)
	}
	return dr
}

func (l *lowerer) trafficPolicy(path string, p *networkingv1alpha3.TrafficPolicy) (mesh.TrafficPolicy, map[uint16]mesh.TrafficPolicy) {
	if p.LoadBalancer == nil && p.ConnectionPool == nil && p.OutlierDetection == nil && p.Tls == nil && len(p.PortLevelSettings) == 0 &&
		p.Tunnel == nil && p.ProxyProtocol == nil && p.RetryBudget == nil {
		l.Invalid(path, "is empty", "remove it, or add loadBalancer, connectionPool, outlierDetection, tls or portLevelSettings")
	}
	out := mesh.TrafficPolicy{
		LoadBalancer: l.loadBalancer(path+".loadBalancer", p.LoadBalancer),
		Pool:         l.connectionPool(path+".connectionPool", p.ConnectionPool),
		Outlier:      l.outlier(path+".outlierDetection", p.OutlierDetection),
		TLS:          l.clientTLS(path+".tls", p.Tls),
	}
	if p.ProxyProtocol != nil {
		out.ProxyProtocol = uint8(p.ProxyProtocol.Version) + 1 // V1 is 0
	}
	if len(p.PortLevelSettings) == 0 {
		return out, nil
	}
	ports := map[uint16]mesh.TrafficPolicy{}
	for i, s := range p.PortLevelSettings {
		at := document.Index(path+".portLevelSettings", i)
		n := l.port(at+".port.number", s.GetPort().GetNumber(), false)
		if _, ok := ports[n]; ok && n != 0 {
			l.Invalid(at+".port.number", fmt.Sprintf("port %d has settings twice", n), "keep one entry for each port")
		}
		ports[n] = mesh.TrafficPolicy{
			LoadBalancer: l.loadBalancer(at+".loadBalancer", s.LoadBalancer),
			Pool:         l.connectionPool(at+".connectionPool", s.ConnectionPool),
			Outlier:      l.outlier(at+".outlierDetection", s.OutlierDetection),
			TLS:          l.clientTLS(at+".tls", s.Tls),
		}
	}
	return out, ports
}

func (l *lowerer) loadBalancer(path string, b *networkingv1alpha3.LoadBalancerSettings) *mesh.LoadBalancer {
	if b == nil {
		return nil
	}
	if b.WarmupDurationSecs != nil && b.Warmup != nil { //nolint:staticcheck // a dated field that users' files still have
		l.Invalid(path+".warmup", "cannot be given together with warmupDurationSecs", "keep warmup")
	}
	out := &mesh.LoadBalancer{Simple: mesh.LeastRequest}
	switch b.GetSimple() {
	case networkingv1alpha3.LoadBalancerSettings_ROUND_ROBIN:
		out.Simple = mesh.RoundRobin
	case networkingv1alpha3.LoadBalancerSettings_RANDOM:
		out.Simple = mesh.Random
	case networkingv1alpha3.LoadBalancerSettings_PASSTHROUGH:
		out.Simple = mesh.OriginalDst
	}
	if h := b.GetConsistentHash(); h != nil && h.HashKey == nil {
		l.Invalid(path+".consistentHash", "does not say what is hashed", "add httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName")
	}
	return out
}

func (l *lowerer) connectionPool(path string, p *networkingv1alpha3.ConnectionPoolSettings) *mesh.ConnectionPool {
	if p == nil {
		return nil
	}
	if p.Tcp == nil && p.Http == nil {
		l.Invalid(path, "is empty", "remove it, or add tcp or http")
	}
	out := &mesh.ConnectionPool{}
	if t := p.Tcp; t != nil {
		at := path + ".tcp"
		out.MaxConnections = l.atLeast(at+".maxConnections", t.MaxConnections, 0)
		out.ConnectTimeout = l.duration(at+".connectTimeout", t.ConnectTimeout)
		out.MaxConnectionDuration = l.duration(at+".maxConnectionDuration", t.MaxConnectionDuration)
		out.TCPIdleTimeout = l.duration(at+".idleTimeout", t.IdleTimeout)
		if k := t.TcpKeepalive; k != nil {
			out.Keepalive = true
			out.KeepaliveProbes = k.Probes
			out.KeepaliveTime = l.duration(at+".tcpKeepalive.time", k.Time)
			out.KeepaliveInterval = l.duration(at+".tcpKeepalive.interval", k.Interval)
		}
	}
	if h := p.Http; h != nil {
		at := path + ".http"
		out.MaxPendingRequests = l.atLeast(at+".http1MaxPendingRequests", h.Http1MaxPendingRequests, 0)
		out.MaxRequests = l.atLeast(at+".http2MaxRequests", h.Http2MaxRequests, 0)
		out.MaxRequestsPerConnection = l.atLeast(at+".maxRequestsPerConnection", h.MaxRequestsPerConnection, 0)
		out.MaxRetries = l.atLeast(at+".maxRetries", h.MaxRetries, 0)
		out.MaxConcurrentStreams = l.atLeast(at+".maxConcurrentStreams", h.MaxConcurrentStreams, 0)
		if h.IdleTimeout != nil && h.IdleTimeout.AsDuration() != 0 { // 0 turns it off
			out.HTTPIdleTimeout = l.duration(at+".idleTimeout", h.IdleTimeout)
		}
		if h.H2UpgradePolicy != networkingv1alpha3.ConnectionPoolSettings_HTTPSettings_DEFAULT {
			out.H2Upgrade = h.H2UpgradePolicy.String()
		}
		out.UseClientProtocol = h.UseClientProtocol
		if h.UseClientProtocol && out.H2Upgrade == "UPGRADE" {
			l.Invalid(at+".useClientProtocol", "contradicts h2UpgradePolicy UPGRADE", "keep one of the two")
		}
	}
	return out
}

func (l *lowerer) outlier(path string, o *networkingv1alpha3.OutlierDetection) *mesh.OutlierDetection {
	if o == nil {
		return nil
	}
	out := &mesh.OutlierDetection{
		Consecutive5xx:         count(o.Consecutive_5XxErrors),
		ConsecutiveGateway:     count(o.ConsecutiveGatewayErrors),
		SplitLocalOrigin:       o.SplitExternalLocalOriginErrors,
		ConsecutiveLocalOrigin: count(o.ConsecutiveLocalOriginFailures),
		Interval:               l.duration(path+".interval", o.Interval),
		BaseEjection:           l.duration(path+".baseEjectionTime", o.BaseEjectionTime),
		MaxEjectionPercent:     uint32(l.percent(path+".maxEjectionPercent", float64(o.MaxEjectionPercent))),
		MinHealthPercent:       uint32(l.percent(path+".minHealthPercent", float64(o.MinHealthPercent))),
	}
	if n := o.ConsecutiveErrors; n != 0 && o.ConsecutiveGatewayErrors == nil { //nolint:staticcheck // a dated field that users' files still have
		v := l.atLeast(path+".consecutiveErrors", n, 0)
		out.ConsecutiveGateway = &v
	}
	if o.ConsecutiveLocalOriginFailures.GetValue() > 0 && !o.SplitExternalLocalOriginErrors {
		l.Invalid(path+".consecutiveLocalOriginFailures", "needs splitExternalLocalOriginErrors: true", "set that, too, or remove this field")
	}
	return out
}

func count(v *wrapperspb.UInt32Value) *uint32 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

func (l *lowerer) clientTLS(path string, t *networkingv1alpha3.ClientTLSSettings) *mesh.ClientTLS {
	if t == nil {
		return nil
	}
	out := &mesh.ClientTLS{
		Mode: t.Mode.String(), Certificate: t.ClientCertificate, PrivateKey: t.PrivateKey, CACertificates: t.CaCertificates,
		CredentialName: t.CredentialName, SANs: t.SubjectAltNames, SNI: t.Sni, SkipVerify: t.InsecureSkipVerify.GetValue(),
	}
	files := []field{{"clientCertificate", t.ClientCertificate}, {"privateKey", t.PrivateKey}, {"caCertificates", t.CaCertificates}}
	switch {
	case t.Mode == networkingv1alpha3.ClientTLSSettings_ISTIO_MUTUAL:
		l.noneOf(path, "ISTIO_MUTUAL uses the mesh's own certificates", append(files, field{"credentialName", t.CredentialName}, field{"sni", t.Sni})...)
		if len(t.SubjectAltNames) > 0 {
			l.noneOf(path, "ISTIO_MUTUAL uses the mesh's own certificates", field{"subjectAltNames", t.SubjectAltNames[0]})
		}
	case t.CredentialName != "":
		l.noneOf(path, "credentialName stands for them", files...)
	case t.Mode == networkingv1alpha3.ClientTLSSettings_MUTUAL:
		l.allOf(path, "MUTUAL", files[:2]...)
	}
	if out.SkipVerify && t.CaCertificates != "" {
		l.Invalid(path+".caCertificates", "has no use when insecureSkipVerify is true", "remove insecureSkipVerify")
	}
	if out.SkipVerify && len(t.SubjectAltNames) > 0 {
		l.Invalid(path+".subjectAltNames", "has no use when insecureSkipVerify is true", "remove insecureSkipVerify")
	}
	if t.Sni != "" {
		l.host(path+".sni", t.Sni, false, false)
	}
	return out
}

// field is a field of TLS settings and its value.
type field struct{ name, value string }

func (l *lowerer) noneOf(path, why string, fs ...field) {
	for _, f := range fs {
		if f.value != "" {
			l.Invalid(path+"."+f.name, "must not be given: "+why, "remove it")
		}
	}
}

func (l *lowerer) allOf(path, mode string, fs ...field) {
	for _, f := range fs {
		if f.value == "" {
			l.Invalid(path+"."+f.name, "is missing: mode "+mode+" needs it", "give the path of a file")
		}
	}
}
