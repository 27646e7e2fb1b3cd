package istio

import (
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// gap is a field that Istio has and this version does not enforce.
type gap struct {
	path string // "[]" stands for every entry, "{}" for every key
	// unsafe: without the field traffic would go elsewhere, or be less protected, than
	// the object says. Such an object is quarantined.
	unsafe bool
	hint   string
}

// gaps is the whole list, by kind: what an object may say and the data plane of this
// version does not do (as of 2026-11).
var gaps = map[string][]gap{
	"VirtualService": {
		{"spec.http[].mirror", false, "requests are not copied"},
		{"spec.http[].mirrors", false, "requests are not copied"},
		{"spec.http[].corsPolicy", false, "the application must answer preflight requests itself"},
		{"spec.http[].delegate", true, "write the delegate's routes into this VirtualService"},
		{"spec.http[].match[].statPrefix", false, "there are no statistics by route"},
		{"spec.tcp[].match[].sourceSubnet", true, "Istio ignores it, too: remove it, or match on sourceLabels"},
	},
	"DestinationRule": policyGaps("spec.trafficPolicy", "spec.subsets[].trafficPolicy"),
	"Gateway": {
		{"spec.servers[].defaultEndpoint", true, "bind a VirtualService instead"},
		{"spec.servers[].tls.verifyCertificateSpki", true, "use subjectAltNames"},
		{"spec.servers[].tls.verifyCertificateHash", true, "use subjectAltNames"},
		{"spec.servers[].tls.caCrl", true, "revoked certificates would be accepted"},
		{"spec.servers[].tls.credentialNames", true, "use credentialName"},
		{"spec.servers[].tls.caCertCredentialName", true, "put the CA certificate into the Secret of credentialName as ca.crt"},
		{"spec.servers[].tls.tlsCertificates", true, "use credentialName, or serverCertificate and privateKey"},
		{"spec.servers[].tls.insecureSkipVerify", false, "client certificates are verified"},
	},
	"Sidecar": {
		{"spec.ingress[].bind", true, "remove it: connections to every address of the workload are accepted on the port"},
		{"spec.ingress[].tls", true, "let a Gateway terminate TLS of clients outside the mesh"},
		{"spec.ingress[].connectionPool", false, "servers accept as many connections as come; limit clients by a DestinationRule"},
		{"spec.inboundConnectionPool", false, "servers accept as many connections as come; limit clients by a DestinationRule"},
		{"spec.egress[].bind", true, "remove it: the port is served at the addresses of the hosts"},
		{"spec.outboundTrafficPolicy.egressProxy", true, "route to the egress gateway by VirtualServices for the hosts"},
	},
	"WorkloadEntry": {{"spec.network", false, "all workloads are taken to be in one network"}},
	"ServiceEntry":  {{"spec.endpoints[].network", false, "all workloads are taken to be in one network"}},
}

func policyGaps(prefixes ...string) []gap {
	var out []gap
	for _, prefix := range prefixes {
		for _, p := range []string{prefix, prefix + ".portLevelSettings[]"} {
			out = append(out,
				gap{p + ".loadBalancer.consistentHash", false, "requests are spread by least request"},
				gap{p + ".loadBalancer.localityLbSetting", false, "all endpoints are treated alike"},
				gap{p + ".loadBalancer.zoneAwareLbSetting", false, "all endpoints are treated alike"},
				gap{p + ".loadBalancer.warmup", false, "new endpoints get their full share at once"},
				gap{p + ".loadBalancer.warmupDurationSecs", false, "new endpoints get their full share at once"},
				gap{p + ".connectionPool.http.http2KeepAlive", false, "no pings are sent"},
				gap{p + ".outlierDetection", false, "failing endpoints stay in use"},
				gap{p + ".tls.credentialName", true, "give clientCertificate, privateKey and caCertificates as files"},
				gap{p + ".tls.caCrl", true, "revoked certificates would be accepted"},
				gap{p + ".tunnel", true, "traffic would bypass the tunnel"},
				gap{p + ".retryBudget", false, "use connectionPool.http.maxRetries"},
			)
		}
	}
	return out
}

// unenforced reports the gaps that the object asks for.
func (l *lowerer) unenforced(spec *document.Value) {
	for _, g := range gaps[l.o.ID.Kind] {
		l.gap(spec, "spec", strings.TrimPrefix(g.path, "spec."), g)
	}
}

func (l *lowerer) gap(v *document.Value, at, rest string, g gap) {
	name, rest, more := strings.Cut(rest, ".")
	name, list := strings.CutSuffix(name, "[]")
	next := v.Get(name)
	at = document.Key(at, name)
	switch {
	case next == nil || next.Kind == document.Null:
	case list:
		for i, item := range next.Items {
			if more {
				l.gap(item, document.Index(at, i), rest, g)
			}
		}
	case more:
		l.gap(next, at, rest, g)
	default:
		code := config.FieldNotEnforced
		if g.unsafe {
			code = config.FieldNotEnforcedUnsafe
		}
		l.Add(code, at, "is not enforced in this version", g.hint)
	}
}

// successor names what replaces a deprecated field.
func successor(path string) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	switch last {
	case "mirrorPercent":
		return "use mirrorPercentage"
	case "percent":
		return "use percentage.value"
	case "allowOrigin":
		return "use allowOrigins"
	case "consecutiveErrors":
		return "use consecutiveGatewayErrors or consecutive5xxErrors"
	case "warmupDurationSecs":
		return "use warmup.duration"
	case "minimumRingSize":
		return "use ringHash.minimumRingSize"
	case "targetPort":
		return "remove it: a gateway's listener is its port number"
	case "simple":
		return "use LEAST_REQUEST"
	}
	return ""
}
