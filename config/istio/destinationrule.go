package istio

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/weirmesh/weir/config"
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
	if dr.WorkloadSelector == nil {
		l.gatewaysOnly("spec.trafficPolicy", spec.TrafficPolicy)
		for i, s := range spec.Subsets {
			l.gatewaysOnly(document.Index("spec.subsets", i)+".trafficPolicy", s.TrafficPolicy)
		}
	}
	l.beyond(dr)
	return dr
}

// gatewaysOnly says of credentials whom they are for.
func (l *lowerer) gatewaysOnly(path string, p *networkingv1alpha3.TrafficPolicy) {
	say := func(path string, t *networkingv1alpha3.ClientTLSSettings) {
		if t.GetCredentialName() != "" && (t.Mode == networkingv1alpha3.ClientTLSSettings_SIMPLE || t.Mode == networkingv1alpha3.ClientTLSSettings_MUTUAL) {
			l.Add(config.GatewaysOnly, path+".tls.credentialName", "is for gateways: calls of sidecars to the host are refused", "add workloadSelector if sidecars call the host themselves")
		}
	}
	say(path, p.GetTls())
	for i, s := range p.GetPortLevelSettings() {
		say(document.Index(path+".portLevelSettings", i), s.Tls)
	}
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
	if b := p.RetryBudget; b != nil {
		at := path + ".retryBudget"
		out.Budget = &mesh.RetryBudget{Percent: 20, MinConcurrency: cmp.Or(b.MinRetryConcurrency, 3)} // Istio's
		if b.Percent != nil {
			out.Budget.Percent = l.percent(at+".percent", b.Percent.Value)
		}
		if d := b.BudgetInterval; d != nil && d.AsDuration() != 0 {
			out.Budget.Interval = l.duration(at+".budgetInterval", d)
		}
	}
	if t := p.Tunnel; t != nil {
		at := path + ".tunnel"
		out.Tunnel = &mesh.Tunnel{Post: t.Protocol == "POST", Host: strings.TrimSuffix(t.TargetHost, "."), Port: l.port(at+".targetPort", t.TargetPort, false)}
		if t.Protocol != "" && t.Protocol != "CONNECT" && t.Protocol != "POST" {
			l.Invalid(at+".protocol", fmt.Sprintf("%q is neither CONNECT nor POST", t.Protocol), "remove it for CONNECT")
		}
		l.host(at+".targetHost", t.TargetHost, false, true)
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
	out := &mesh.LoadBalancer{}
	switch b.GetSimple() {
	case networkingv1alpha3.LoadBalancerSettings_LEAST_REQUEST, networkingv1alpha3.LoadBalancerSettings_LEAST_CONN: //nolint:staticcheck // a dated name that users' files still have
		out.Simple = mesh.LeastRequest
	case networkingv1alpha3.LoadBalancerSettings_ROUND_ROBIN:
		out.Simple = mesh.RoundRobin
	case networkingv1alpha3.LoadBalancerSettings_RANDOM:
		out.Simple = mesh.Random
	case networkingv1alpha3.LoadBalancerSettings_PASSTHROUGH:
		out.Simple = mesh.OriginalDst
	}
	out.Locality = l.locality(path+".localityLbSetting", b.LocalityLbSetting)
	if z := b.ZoneAwareLbSetting; z != nil {
		at := path + ".zoneAwareLbSetting"
		if b.LocalityLbSetting != nil {
			l.Invalid(at, "cannot be given together with localityLbSetting", "keep one of the two")
		}
		out.Locality = l.zoneAware(at, z)
	}
	if h := b.GetConsistentHash(); h != nil {
		out.Hash = l.consistentHash(path+".consistentHash", h)
	}
	switch {
	case b.Warmup != nil:
		at := path + ".warmup"
		out.Warmup = &mesh.Warmup{Duration: l.duration(at+".duration", b.Warmup.Duration), Percent: l.percent(at+".minimumPercent", b.Warmup.GetMinimumPercent().GetValue()), Aggression: b.Warmup.GetAggression().GetValue()}
		if b.Warmup.Duration == nil {
			l.Invalid(at+".duration", "is missing", "say how long an endpoint warms up")
		}
		if v := b.Warmup.Aggression; v != nil && v.Value < 1 {
			l.Invalid(at+".aggression", fmt.Sprintf("%v is too small", v.Value), "give at least 1")
		}
	case b.WarmupDurationSecs != nil: //nolint:staticcheck // as above
		out.Warmup = &mesh.Warmup{Duration: l.duration(path+".warmupDurationSecs", b.WarmupDurationSecs)} //nolint:staticcheck // as above
	}
	return out
}

// maxRing bounds rings and tables: Envoy's limit of a Maglev table, and 60 MB of memory.
const maxRing = 5_000_011

func (l *lowerer) consistentHash(path string, h *networkingv1alpha3.LoadBalancerSettings_ConsistentHashLB) *mesh.ConsistentHash {
	out := &mesh.ConsistentHash{RingSize: h.MinimumRingSize} //nolint:staticcheck // a dated field that users' files still have
	switch k := h.HashKey.(type) {
	case *networkingv1alpha3.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		if out.Header = strings.ToLower(k.HttpHeaderName); out.Header == "" {
			l.Invalid(path+".httpHeaderName", "is empty", "name the header to hash")
		}
	case *networkingv1alpha3.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		if out.Query = k.HttpQueryParameterName; out.Query == "" {
			l.Invalid(path+".httpQueryParameterName", "is empty", "name the parameter to hash")
		}
	case *networkingv1alpha3.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		if out.SourceIP = k.UseSourceIp; !out.SourceIP {
			l.Invalid(path, "does not say what is hashed", "add httpHeaderName, httpCookie, useSourceIp: true or httpQueryParameterName")
		}
	case *networkingv1alpha3.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		c := &mesh.HashCookie{Name: k.HttpCookie.GetName(), Path: k.HttpCookie.GetPath()}
		if c.Name == "" {
			l.Invalid(path+".httpCookie.name", "is missing", "name the cookie to hash")
		}
		if ttl := k.HttpCookie.GetTtl(); ttl != nil {
			if c.Generate, c.TTL = true, ttl.AsDuration(); c.TTL < 0 {
				l.Invalid(path+".httpCookie.ttl", "is negative", "0s is a cookie for the client's session")
			}
		}
		for _, a := range k.HttpCookie.GetAttributes() {
			c.Attributes = append(c.Attributes, mesh.NameValue{Name: a.GetName(), Value: a.GetValue()})
		}
		if v, bad := cookieProblem(c); bad {
			l.Invalid(path+".httpCookie", fmt.Sprintf("%q cannot be part of a cookie", v), "leave out control characters, spaces in names, ';' and '='")
		}
		out.Cookie = c
	default:
		l.Invalid(path, "does not say what is hashed", "add httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName")
	}
	size := func(at string, n uint64) uint64 {
		if n > maxRing {
			l.Invalid(path+at, fmt.Sprintf("%d is too much", n), fmt.Sprintf("give at most %d", maxRing))
		}
		return n
	}
	switch a := h.HashAlgorithm.(type) {
	case *networkingv1alpha3.LoadBalancerSettings_ConsistentHashLB_RingHash_:
		out.RingSize = size(".ringHash.minimumRingSize", a.RingHash.GetMinimumRingSize())
	case *networkingv1alpha3.LoadBalancerSettings_ConsistentHashLB_Maglev:
		out.Maglev, out.TableSize = true, size(".maglev.tableSize", a.Maglev.GetTableSize())
		if n := out.TableSize; n > 0 && !new(big.Int).SetUint64(n).ProbablyPrime(0) {
			l.Invalid(path+".maglev.tableSize", fmt.Sprintf("%d is not a prime number", n), "use 65537, the default")
		}
	default:
		size(".minimumRingSize", out.RingSize)
	}
	return out
}

// cookieProblem is a part of a cookie that RFC 6265 section 4.1.1 does not permit.
func cookieProblem(c *mesh.HashCookie) (part string, bad bool) {
	name := func(s string) bool {
		return s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`;,="`, r) })
	}
	value := func(s string) bool {
		return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f || r == ';' })
	}
	if c.Name != "" && name(c.Name) {
		return c.Name, true
	}
	if value(c.Path) {
		return c.Path, true
	}
	for _, a := range c.Attributes {
		if name(a.Name) {
			return a.Name, true
		}
		if value(a.Value) {
			return a.Value, true
		}
	}
	return "", false
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
		out.TCPIdleTimeout = l.idle(at+".idleTimeout", t.IdleTimeout)
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
		out.HTTPIdleTimeout = l.idle(at+".idleTimeout", h.IdleTimeout)
		if k := h.Http2KeepAlive; k != nil {
			out.PingInterval, out.PingTimeout = l.duration(at+".http2KeepAlive.interval", k.Interval), l.duration(at+".http2KeepAlive.timeout", k.Timeout)
			if k.Interval == nil || k.Timeout == nil {
				l.Invalid(at+".http2KeepAlive", "needs both interval and timeout", "say how often to ask and how long to wait, for example 30s and 10s")
			}
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

// idle is an idle timeout: 0 in the object is none, -1 here.
func (l *lowerer) idle(path string, d *durationpb.Duration) time.Duration {
	if d != nil && d.AsDuration() == 0 {
		return -1
	}
	return l.duration(path, d)
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
	for i, n := range o.OutlierDetectionHttpErrorCodes {
		if n < 100 || n > 599 {
			l.Invalid(document.Index(path+".outlierDetectionHttpErrorCodes", i), fmt.Sprintf("%d is not a status of HTTP", n), "give 100 to 599, for example 429")
			continue
		}
		out.Statuses = append(out.Statuses, uint16(n))
	}
	slices.Sort(out.Statuses)
	out.Statuses = slices.Compact(out.Statuses)
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
		Mode: t.Mode.String(), Certificate: t.ClientCertificate, PrivateKey: t.PrivateKey, CACertificates: t.CaCertificates, CRL: t.CaCrl,
		CredentialName: t.CredentialName, SANs: t.SubjectAltNames, SNI: t.Sni, SkipVerify: t.InsecureSkipVerify.GetValue(),
	}
	files := []field{{"clientCertificate", t.ClientCertificate}, {"privateKey", t.PrivateKey}, {"caCertificates", t.CaCertificates}, {"caCrl", t.CaCrl}}
	switch {
	case t.Mode == networkingv1alpha3.ClientTLSSettings_ISTIO_MUTUAL:
		l.noneOf(path, "ISTIO_MUTUAL uses the mesh's own certificates", append(files, field{"credentialName", t.CredentialName})...)
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
