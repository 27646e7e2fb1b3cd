package istio

import (
	"fmt"
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// meshField is what becomes of a field of MeshConfig, or of ProxyConfig below it, that is not
// read here. A field that is in no table is none of Istio's.
type meshField struct {
	name string
	// says is told unless the value is a usual one: those ask for nothing that is not done.
	says  string
	usual []string
	gone  bool // from Istio, too
	hint  string
}

const (
	noMixer   = "there is no Mixer: policies are checked by the proxies, metrics are counted by them"
	pushed    = "configuration is pushed when it changes, nothing asks at intervals"
	noTracing = "spans are not made in this version"
	ownNames  = "metrics have their usual names"
	oneNet    = "all workloads are taken to be in one network"
	alike     = "all endpoints are treated alike"
)

// meshNotes are all fields of MeshConfig that are not read, those that Istio 1.0 and 1.1 had
// (features of then) included. As of Istio 1.31.
var meshNotes = []meshField{
	{name: "proxyListenPort", says: "proxies accept captured calls on 15001", usual: []string{"15001"}},
	{name: "proxyInboundListenPort", says: "proxies accept captured connections on 15006", usual: []string{"15006"}},
	{name: "proxyHttpPort", says: "there is no port for explicit HTTP proxying", usual: []string{"0"}},
	{name: "connectTimeout", says: "connections have 10 s", usual: []string{"10s"}, hint: "set connectionPool.tcp.connectTimeout in a DestinationRule"},
	{name: "hboneIdleTimeout", says: "there is no ambient mode"},
	{name: "protocolDetectionTimeout", says: "first bytes are waited for as long as a server that speaks first does not", usual: []string{"0s", "100ms"}},
	{name: "tcpKeepalive", says: "the kernel's settings are used", usual: []string{"{}"}, hint: "set connectionPool.tcp.tcpKeepalive in a DestinationRule"},
	{name: "ingressClass", says: "Ingress objects are not read in this version", usual: []string{"istio"}, hint: "write a Gateway and a VirtualService"},
	{name: "ingressService", says: "Ingress objects are not read in this version", usual: []string{"istio-ingressgateway", "istio-ingress"}, hint: "write a Gateway and a VirtualService"},
	{name: "ingressSelector", says: "Ingress objects are not read in this version", usual: []string{"", "ingressgateway"}, hint: "write a Gateway and a VirtualService"},
	{name: "ingressControllerMode", says: "Ingress objects are not read in this version", usual: []string{"OFF", "STRICT"}, hint: "write a Gateway and a VirtualService"},
	{name: "enableTracing", says: noTracing, usual: []string{"false"}},
	{name: "enableEnvoyAccessLogService", says: "access log services are not called", usual: []string{"false"}},
	{name: "disableEnvoyListenerLog", says: "connections that find no listener's chain are logged", usual: []string{"false"}},
	{name: "inboundTrafficPolicy", says: "applications are called at their pod's address", usual: []string{"{}", `{"mode":"PASSTHROUGH"}`}},
	{name: "configSources", says: "configuration comes from this API server alone", usual: []string{"[]"}},
	{name: "enableAutoMtls", says: "mesh mTLS is used wherever the server's proxy has it", usual: []string{"true"}, hint: "turn it off for hosts by tls.mode DISABLE of a DestinationRule"},
	{name: "dnsRefreshRate", says: "names that cannot be resolved are asked for again after 60 s at most", usual: []string{"60s", "5s"}},
	{name: "h2UpgradePolicy", says: "HTTP/1.1 is not made HTTP/2 between proxies", usual: []string{"DO_NOT_UPGRADE"}, hint: "set connectionPool.http.h2UpgradePolicy in a DestinationRule"},
	{name: "inboundClusterStatName", says: ownNames, usual: []string{""}},
	{name: "outboundClusterStatName", says: ownNames, usual: []string{""}},
	{name: "certificates", says: "certificates for DNS names are not made", usual: []string{"[]"}},
	{name: "serviceSettings", says: "there is one cluster: every service is local to it", usual: []string{"[]"}},
	{name: "serviceScopeConfigs", says: "there is no ambient mode", usual: []string{"[]"}},
	{name: "verifyCertificateAtClient", says: "set tls in DestinationRules", usual: []string{"false", "true"}},
	{name: "ca", says: "certificates are signed by weir-control", usual: []string{"{}"}},
	{name: "defaultProviders", says: "metrics are always counted; other providers are not called in this version", usual: []string{"{}", `{"metrics":["prometheus"]}`}},
	{name: "meshMTLS", says: "mesh mTLS is TLS 1.2 or newer with Go's cipher suites", usual: []string{"{}", `{"minProtocolVersion":"TLSV1_2"}`}},
	{name: "tlsDefaults", says: "TLS is 1.2 or newer with Go's cipher suites", usual: []string{"{}", `{"minProtocolVersion":"TLSV1_2"}`}},
	{name: "defaultTrafficPolicy", says: "is not enforced in this version", usual: []string{"{}"}, hint: "write DestinationRules"},
	{name: "serviceEntryVisibility", says: "exportTo and defaultServiceExportTo say who sees a ServiceEntry", usual: []string{"{}"}},

	{name: "mixerCheckServer", says: noMixer, usual: []string{""}, gone: true},
	{name: "mixerReportServer", says: noMixer, usual: []string{""}, gone: true},
	{name: "mixerAddress", says: noMixer, usual: []string{""}, gone: true},
	{name: "disablePolicyChecks", says: noMixer, usual: []string{"false", "true"}, gone: true},
	{name: "policyCheckFailOpen", says: noMixer, usual: []string{"false"}, gone: true},
	{name: "enableClientSidePolicyCheck", says: noMixer, usual: []string{"false"}, gone: true},
	{name: "disableMixerHttpReports", says: noMixer, usual: []string{"false", "true"}, gone: true},
	{name: "reportBatchMaxEntries", says: noMixer, gone: true},
	{name: "reportBatchMaxTime", says: noMixer, gone: true},
	{name: "rdsRefreshDelay", says: pushed, gone: true},
	{name: "authPolicy", says: "PeerAuthentication says who accepts what", usual: []string{"NONE"}, gone: true, hint: "write a PeerAuthentication in the root namespace with mtls.mode STRICT"},
	{name: "sdsUdsPath", says: "certificates come over the stream of the configuration", usual: []string{""}, gone: true},
	{name: "sdsRefreshDelay", says: "certificates come over the stream of the configuration", gone: true},
	{name: "enableSdsTokenMount", says: "tokens are always mounted by injection", usual: []string{"false", "true"}, gone: true},
	{name: "sdsUseK8sSaJwt", says: "tokens are always those of service accounts", usual: []string{"false", "true"}, gone: true},
	{name: "enableSds", says: "certificates come over the stream of the configuration", usual: []string{"true"}, gone: true},
	{name: "localityLbSettings", says: alike, gone: true},
	{name: "thriftConfig", says: "Thrift is carried as TCP", usual: []string{"{}"}, gone: true},
	{name: "protocolDetectionTimeoutMs", says: "first bytes are waited for", gone: true},
}

// proxyFields are the fields of ProxyConfig that injection and proxies do as they say.
var proxyFields = []string{"configPath", "binaryPath", "serviceCluster", "drainDuration", "discoveryAddress", "proxyAdminPort", "concurrency", "interceptionMode", "proxyMetadata",
	"statusPort", "terminationDrainDuration", "meshId", "holdApplicationUntilProxyStarts", "image"}

// proxyNotes are the others.
var proxyNotes = []meshField{
	{name: "controlPlaneAuthPolicy", says: "proxies speak TLS to weir-control, but those of an installation with compatibilityVersion 1.0 that name its plaintext port", usual: []string{"MUTUAL_TLS"}},
	{name: "zipkinAddress", says: noTracing, usual: []string{""}},
	{name: "tracing", says: noTracing, usual: []string{"{}"}},
	{name: "tracingServiceName", says: noTracing, usual: []string{"APP_LABEL_AND_NAMESPACE"}},
	{name: "statsdUdpAddress", says: "metrics are pulled by Prometheus, not pushed", usual: []string{""}},
	{name: "envoyMetricsServiceAddress", says: "metrics are pulled by Prometheus, not pushed", usual: []string{""}},
	{name: "envoyMetricsService", says: "metrics are pulled by Prometheus, not pushed", usual: []string{"{}"}},
	{name: "envoyAccessLogService", says: "access log services are not called", usual: []string{"{}"}},
	{name: "customConfigFile", says: "there is no Envoy to be started otherwise", usual: []string{""}},
	{name: "proxyBootstrapTemplatePath", says: "there is no Envoy to be started otherwise", usual: []string{""}},
	{name: "statNameLength", says: "names of metrics have no such limit", usual: []string{"189", "0"}},
	{name: "runtimeValues", says: "they are switches of Envoy", usual: []string{"{}"}},
	{name: "extraStatTags", says: "metrics carry Istio's labels only", usual: []string{"[]"}},
	{name: "proxyStatsMatcher", says: "the metrics are few: Istio's standard ones and the proxy's own", usual: []string{"{}"}},
	{name: "readinessProbe", says: "the kubelet asks the application's own probes", usual: []string{"{}"}},
	{name: "caCertificatesPem", says: "further roots are not trusted", usual: []string{"[]"}},
	{name: "privateKeyProvider", says: "keys are used on the processor", usual: []string{"{}"}},
	{name: "proxyHeaders", says: "headers are Istio's defaults", usual: []string{"{}"}},
	{name: "connectionSettings", says: "connections have Istio's defaults", usual: []string{"{}"}},
	{name: "fileFlushInterval", says: "lines of the access log are written at once"},
	{name: "fileFlushMinSizeKb", says: "lines of the access log are written at once"},
	{name: "statsCompression", says: "metrics are sent as they are", usual: []string{"true", "false"}},

	{name: "discoveryRefreshDelay", says: pushed, gone: true},
	{name: "parentShutdownDuration", says: "a proxy takes new configuration without a second process", gone: true},
	{name: "connectTimeout", says: "the control plane is called until it answers", gone: true},
	{name: "availabilityZone", says: "the zone is that of the node's labels", usual: []string{""}, gone: true},
	{name: "proxyDiscoveryType", says: "there is one way, xDS", gone: true},
	{name: "zipkinSampling", says: noTracing, gone: true},
	{name: "sds", says: "certificates come over the stream of the configuration", gone: true},
}

// takeNoted takes the fields out of a map that are only told of, and those that are done by
// others; what is left is for the reader. known are the fields that it reads.
func takeNoted(r *config.Report, path string, v *document.Value, notes []meshField, elsewhere, known []string) *document.Value {
	left := &document.Value{Kind: document.Map, Line: v.Line}
	var names []string
	for _, n := range notes {
		names = append(names, n.name)
	}
	names = append(append(names, elsewhere...), known...)
	for _, f := range v.Fields {
		i := slices.IndexFunc(notes, func(n meshField) bool { return n.name == f.Name })
		switch {
		case slices.Contains(known, f.Name):
			left.Fields = append(left.Fields, f)
		case slices.Contains(elsewhere, f.Name) || f.Value.Kind == document.Null:
		case i < 0:
			hint := "remove it"
			if s := document.Suggest(f.Name, names); s != "" {
				hint = "did you mean " + s + "?"
			}
			r.Invalid(path, "there is no field "+f.Name, hint)
		case !slices.Contains(notes[i].usual, usualText(f.Value)):
			n := notes[i]
			code, how := config.FieldNotEnforced, "is not enforced in this version"
			if n.gone {
				code, how = config.Deprecated, "is gone from Istio and has no effect"
			}
			hint := n.hint
			if hint == "" {
				hint = "remove it"
			}
			r.Add(code, document.Key(path, f.Name), fmt.Sprintf("%s: %s", how, n.says), hint)
		}
	}
	return left
}

// usualText is a value as it stands in the tables.
func usualText(v *document.Value) string {
	if v.Kind == document.Map || v.Kind == document.List {
		return string(v.AppendJSON(nil))
	}
	return v.Text
}
