package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/proxy/status"
)

// Kind is where a name stands.
type Kind uint8

// Kinds.
const (
	Flag     Kind = iota + 1 // with its dashes
	Variable                 // of the environment; a name that ends in * stands for all that begin so
	Field                    // of ProxyConfig (istio.io/api mesh/v1alpha1), in PROXY_CONFIG
)

// Outcome is what becomes of a setting.
type Outcome uint8

// Outcomes.
const (
	Honoured Outcome = iota + 1 // it means what it means in Istio
	Mapped                      // it means the nearest thing that there is
	Reported                    // it does nothing, and the log says so where it is set
)

func (o Outcome) String() string { return [...]string{"", "honoured", "mapped", "reported"}[o] }

// Row says what becomes of one name.
type Row struct {
	Name    string
	From    Kind
	Outcome Outcome
	Says    string   // what happens, or why nothing does
	Warn    bool     // somebody will miss it
	Bool    bool     // a flag that needs no value
	usual   []string // values that are not worth a word
	secret  bool
	set     func(*Settings, string) error
}

func (r *Row) matches(name string) bool {
	prefix, ok := strings.CutSuffix(r.Name, "*")
	return r.Name == name || ok && strings.HasPrefix(name, prefix)
}

func find(rows []Row, from Kind, name string) *Row {
	for i := range rows {
		if rows[i].From == from && rows[i].matches(name) {
			return &rows[i]
		}
	}
	return nil
}

// Rows is every name that is known, each once.
func Rows() []Row {
	var all []Row
	for _, rows := range [][]Row{flagsOf10(), laterFlags(), ownFlags(), pod(), identityVariables(), proxyVariables(), fields()} {
		all = append(all, rows...)
	}
	return all
}

// Reasons that several rows share.
const (
	noTracing   = "tracing is not built yet: no spans are made"
	noRestart   = "there is one process, and it takes new configuration without another one"
	noBootstrap = "there is no bootstrap: what it would hold comes from the control plane; weir-proxy run -c FILE runs a proxy from a bootstrap alone"
	pushed      = "configuration is pushed when it changes, nothing asks at intervals"
	noWasm      = "Wasm is not built yet: no module is fetched"
	keyKind     = "keys are ECDSA P-256, which every peer of the mesh verifies"
	pulled      = "metrics are pulled by Prometheus (ports 15020 and 15090), not pushed"
	oneLog      = "there is one log, of lines of key=value on standard error"
	own         = "Weir's own"
)

func nothing(*Settings, string) error { return nil }

func text(field func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, v string) error { *field(s) = v; return nil }
}

func parsed[T any](parse func(string) (T, error), field func(*Settings) *T) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		x, err := parse(v)
		if err == nil {
			*field(s) = x
		}
		return err
	}
}

func duration(f func(*Settings) *time.Duration) func(*Settings, string) error {
	return parsed(parseDuration, f)
}
func truth(f func(*Settings) *bool) func(*Settings, string) error { return parsed(parseBool, f) }
func port(f func(*Settings) *int) func(*Settings, string) error   { return parsed(parsePort, f) }

func setFolder(s *Settings, v string) error {
	if v != "" && v != "./etc/istio/proxy" { // Istio's default, relative to /
		s.Folder = strings.TrimSuffix(v, "/")
	}
	return nil
}

func setConcurrency(s *Settings, v string) error {
	n, err := strconv.ParseUint(v, 10, 10)
	if err != nil {
		return fmt.Errorf("want a number of worker threads, 0 for one a processor")
	}
	s.concurrency = int(n)
	return nil
}

func setPolicy(s *Settings, v string) error {
	switch strings.ToUpper(v) {
	case "NONE", "0":
		s.policy = "NONE"
	case "MUTUAL_TLS", "1", "":
		s.policy = "MUTUAL_TLS"
	default:
		return fmt.Errorf("want NONE or MUTUAL_TLS")
	}
	return nil
}

func setCapture(s *Settings, v string) error {
	switch strings.ToUpper(v) {
	case "REDIRECT", "TPROXY", "NONE":
		s.Capture = strings.ToLower(v)
		return nil
	}
	return fmt.Errorf("want REDIRECT, TPROXY or NONE")
}

func setScopes(s *Settings, v string) error {
	l, err := parseScopes(v)
	s.agentLevel = l
	return err
}

func setLevel(s *Settings, v string) error {
	l, err := parseLevel(v)
	s.LogLevel = l
	return err
}

func setMinimum(s *Settings, v string) error {
	s.MinimumDrainSet = true
	return duration(func(s *Settings) *time.Duration { return &s.MinimumDrain })(s, v)
}

func setTTL(s *Settings, v string) error {
	d, err := parseDuration(v)
	if err == nil && d < time.Minute {
		err = fmt.Errorf("want a minute or more")
	}
	s.CertificateTTL = d
	return err
}

func setID(s *Settings, v string) error {
	s.nodeID = v
	if name, _, ok := strings.Cut(v, "."); ok && s.Pod == "" {
		s.Pod = name
	}
	return nil
}

// setCPULimit is less than a flag: what the environment says of the container.
func setCPULimit(s *Settings, v string) error {
	if s.concurrency < 0 {
		if n, err := strconv.ParseUint(v, 10, 10); err == nil && n > 0 {
			s.concurrency = int(n)
		}
	}
	return nil
}

func setJSONMeta(s *Settings, v string) error {
	more := map[string]any{}
	if err := json.Unmarshal([]byte(v), &more); err != nil {
		return fmt.Errorf("want a JSON object: %w", err)
	}
	maps.Copy(s.Metadata, more)
	return nil
}

func setTopology(s *Settings, v string) error {
	parts := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(v), &parts); err != nil {
		return fmt.Errorf("want a JSON object: %w", err)
	}
	for _, name := range sorted(parts) {
		if !slices.Contains([]string{"proxyProtocol", "numTrustedProxies", "forwardClientCertDetails"}, name) {
			s.note("PROXY_CONFIG.gatewayTopology."+name, string(parts[name]), true, "is not a field that is known here; it does nothing")
		}
	}
	return nil
}

// flagsOf10 are pilot-agent's of Istio 1.0.
func flagsOf10() []Row {
	return []Row{
		{Name: "--configPath", From: Flag, Outcome: Mapped, Says: "what is kept (the last good state, the admin socket) is below this folder; no bootstrap is written", set: setFolder},
		{Name: "--binaryPath", From: Flag, Outcome: Reported, Says: "there is no second program to start: this one is the proxy", usual: []string{"", "/usr/local/bin/envoy"}},
		{Name: "--serviceCluster", From: Flag, Outcome: Reported, Says: "the service's name in metrics and logs is the canonical one, from the pod's labels", usual: []string{"", "istio-proxy"}},
		{Name: "--drainDuration", From: Flag, Outcome: Honoured, Says: "how long a connection goes on that a change of configuration would not let in any more", set: duration(func(s *Settings) *time.Duration { return &s.ListenerDrain })},
		{Name: "--parentShutdownDuration", From: Flag, Outcome: Reported, Says: noRestart},
		{Name: "--discoveryAddress", From: Flag, Outcome: Honoured, Says: "the control plane's host:port; a plaintext port is replaced by the secure one of the same Service, but for controlPlaneAuthPolicy NONE without a root certificate", set: text(func(s *Settings) *string { return &s.Discovery })},
		{Name: "--discoveryRefreshDelay", From: Flag, Outcome: Reported, Says: pushed},
		{Name: "--connectTimeout", From: Flag, Outcome: Reported, Says: "the time to connect comes with configuration: connectTimeout of MeshConfig and DestinationRules"},
		{Name: "--proxyAdminPort", From: Flag, Outcome: Honoured, Says: "admin interface on 127.0.0.1; 0: none", set: port(func(s *Settings) *int { return &s.AdminPort })},
		{Name: "--controlPlaneAuthPolicy", From: Flag, Outcome: Mapped, Says: "NONE is plaintext only where discoveryAddress is a plaintext port and no root certificate is mounted; otherwise TLS, and the control plane proves its name", set: setPolicy},
		{Name: "--zipkinAddress", From: Flag, Outcome: Reported, Says: noTracing, usual: []string{""}},
		{Name: "--statsdUdpAddress", From: Flag, Outcome: Reported, Says: pulled, Warn: true, usual: []string{""}},
		{Name: "--customConfigFile", From: Flag, Outcome: Reported, Says: noBootstrap, Warn: true, usual: []string{""}},
		{Name: "--templateFile", From: Flag, Outcome: Reported, Says: noBootstrap, Warn: true, usual: []string{""}},
		{Name: "--availabilityZone", From: Flag, Outcome: Reported, Says: "the control plane knows the zone from the node's labels", usual: []string{""}},
		{Name: "--ip", From: Flag, Outcome: Honoured, Says: "the pod's addresses, comma-separated, the main one first; default $INSTANCE_IP", set: text(func(s *Settings) *string { return &s.ip })},
		{Name: "--id", From: Flag, Outcome: Honoured, Says: "third part of the node ID; default $POD_NAME.$POD_NAMESPACE", set: setID},
		{Name: "--domain", From: Flag, Outcome: Honoured, Says: "last part of the node ID; default $POD_NAMESPACE.svc.cluster.local", set: text(func(s *Settings) *string { return &s.Domain })},
		{Name: "--serviceregistry", From: Flag, Outcome: Reported, Says: "the control plane knows where services come from", usual: []string{"", "Kubernetes"}},
		{Name: "--proxyLogLevel", From: Flag, Outcome: Mapped, Says: "level of the log; the more verbose of this and --log_output_level counts", set: setLevel},
		{Name: "--concurrency", From: Flag, Outcome: Honoured, Says: "worker threads; 0: one a processor; default: the CPU limit rounded up, 2 without one", set: setConcurrency},
		{Name: "--disableInternalTelemetry", From: Flag, Outcome: Reported, Says: "metrics are always made, and cost nothing while nobody reads them", Bool: true},
		{Name: "--bootstrapv2", From: Flag, Outcome: Reported, Says: noBootstrap, Bool: true},
	}
}

// laterFlags are those that later releases added, up to 1.31.
func laterFlags() []Row {
	return []Row{
		{Name: "--meshConfig", From: Flag, Outcome: Reported, Says: "the control plane applies MeshConfig; what concerns this proxy comes in PROXY_CONFIG", usual: []string{"", "./etc/istio/config/mesh"}},
		{Name: "--stsPort", From: Flag, Outcome: Reported, Says: "no security token service is offered", usual: []string{"", "0"}},
		{Name: "--tokenManagerPlugin", From: Flag, Outcome: Reported, Says: "no security token service is offered", usual: []string{"", "GoogleTokenExchange"}},
		{Name: "--proxyComponentLogLevel", From: Flag, Outcome: Reported, Says: "levels are not set by component; `weir proxy-config log`, or POST /logging?level=debug on the admin interface, changes the level while it runs", usual: []string{"", "misc:error"}},
		{Name: "--outlierLogPath", From: Flag, Outcome: Reported, Says: "ejections are shown in metrics, not in a file", usual: []string{""}},
		{Name: "--profiling", From: Flag, Outcome: Mapped, Says: "profiles are always at /debug/pprof/ of the admin interface", Bool: true, set: nothing},
		{Name: "--statusPort", From: Flag, Outcome: Honoured, Says: "port of readiness, merged metrics and probes", set: port(func(s *Settings) *int { return &s.StatusPort })},
		{Name: "--applicationPorts", From: Flag, Outcome: Reported, Says: "the proxy is ready when its own listeners are; the application's readiness is its probes'", usual: []string{""}},
		{Name: "--trust-domain", From: Flag, Outcome: Honoured, Says: "trust domain of this workload's identity; default $TRUST_DOMAIN", set: text(func(s *Settings) *string { return &s.TrustDomain })},
		{Name: "--dnsRefreshRate", From: Flag, Outcome: Reported, Says: "names are resolved again when their TTL is over"},
		{Name: "--lightstepAddress", From: Flag, Outcome: Reported, Says: noTracing, usual: []string{""}},
		{Name: "--lightstepAccessToken", From: Flag, Outcome: Reported, secret: true, Says: noTracing, usual: []string{""}},
		{Name: "--lightstepSecure", From: Flag, Outcome: Reported, Says: noTracing, Bool: true, usual: []string{"false"}},
		{Name: "--lightstepCacertPath", From: Flag, Outcome: Reported, Says: noTracing, usual: []string{""}},
		{Name: "--datadogAgentAddress", From: Flag, Outcome: Reported, Says: noTracing, usual: []string{""}},
		{Name: "--stackdriverTracingEnabled", From: Flag, Outcome: Reported, Says: noTracing, Bool: true, usual: []string{"false"}},
		{Name: "--envoyMetricsServiceAddress", From: Flag, Outcome: Reported, Says: pulled, Warn: true, usual: []string{""}},
		{Name: "--envoyAccessLogServiceAddress", From: Flag, Outcome: Reported, Says: "access log services are configured by the control plane", Warn: true, usual: []string{""}},
		{Name: "--mixerIdentity", From: Flag, Outcome: Reported, Says: "there is no Mixer", usual: []string{""}},
		{Name: "--pilotIdentity", From: Flag, Outcome: Reported, Says: "the control plane proves its DNS name (ISTIOD_SAN)", usual: []string{""}},
		{Name: "--controlPlaneBootstrap", From: Flag, Outcome: Reported, Says: noBootstrap, Bool: true, usual: []string{"true", "false"}},
		{Name: "--log_output_level", From: Flag, Outcome: Mapped, Says: "scope:level,…: the level of scope default", set: setScopes},
		{Name: "--log_as_json", From: Flag, Outcome: Honoured, Says: "the log is JSON, a line each", Bool: true, set: truth(func(s *Settings) *bool { return &s.LogJSON })},
		{Name: "--log_target", From: Flag, Outcome: Reported, Says: oneLog, usual: []string{"", "stdout", "stderr"}},
		{Name: "--log_caller", From: Flag, Outcome: Reported, Says: oneLog, usual: []string{""}},
		{Name: "--log_stacktrace_level", From: Flag, Outcome: Reported, Says: oneLog, usual: []string{"", "default:none"}},
		{Name: "--log_rotate", From: Flag, Outcome: Reported, Says: oneLog, usual: []string{""}},
		{Name: "--vklog", From: Flag, Outcome: Reported, Says: oneLog},
	}
}

// ownFlags are weir-proxy's, where a flag says what the environment says otherwise.
func ownFlags() []Row {
	return []Row{
		{Name: "--name", From: Flag, Outcome: Honoured, Says: own + "; default $POD_NAME", set: text(func(s *Settings) *string { return &s.Pod })},
		{Name: "--namespace", From: Flag, Outcome: Honoured, Says: own + "; default $POD_NAMESPACE", set: text(func(s *Settings) *string { return &s.Namespace })},
		{Name: "--service-account", From: Flag, Outcome: Honoured, Says: own + "; default $SERVICE_ACCOUNT, or who the token is of", set: text(func(s *Settings) *string { return &s.Account })},
		{Name: "--cluster", From: Flag, Outcome: Honoured, Says: own + "; default $ISTIO_META_CLUSTER_ID", set: text(func(s *Settings) *string { return &s.Cluster })},
		{Name: "--labels", From: Flag, Outcome: Honoured, Says: own + ": k=v,k=v beside those of /etc/istio/pod/labels", set: text(func(s *Settings) *string { return &s.labels })},
		{Name: "--owner", From: Flag, Outcome: Honoured, Says: own + "; name of the workload, default $ISTIO_META_WORKLOAD_NAME", set: text(func(s *Settings) *string { return &s.workload })},
		{Name: "--capture", From: Flag, Outcome: Honoured, Says: own + ": redirect, tproxy or none; default interceptionMode", set: setCapture},
		{Name: "--workers", From: Flag, Outcome: Honoured, Says: own + "; as --concurrency", set: setConcurrency},
		{Name: "--drain", From: Flag, Outcome: Honoured, Says: own + "; as terminationDrainDuration", set: duration(func(s *Settings) *time.Duration { return &s.TerminationDrain })},
		{Name: "--log-level", From: Flag, Outcome: Honoured, Says: own + "; as --proxyLogLevel", set: setLevel},
		{Name: "--access-log", From: Flag, Outcome: Honoured, Says: own + ": write access log lines where configuration asks for them (true)", Bool: true, set: truth(func(s *Settings) *bool { return &s.AccessLog })},
		{Name: "--on-demand", From: Flag, Outcome: Honoured, Says: own + ": hold the configuration of services that are used (true), or of all", Bool: true, set: truth(func(s *Settings) *bool { return &s.OnDemand })},
		{Name: "--dns", From: Flag, Outcome: Honoured, Says: own + "; as ISTIO_META_DNS_CAPTURE", Bool: true, set: truth(func(s *Settings) *bool { return &s.dnsCapture })},
		{Name: "--max-connections", From: Flag, Outcome: Honoured, Says: own + ": how many connections of clients to serve at once; 0: no limit", set: parsed(func(v string) (int64, error) { return strconv.ParseInt(v, 10, 64) }, func(s *Settings) *int64 { return &s.MaxConnections })},
		{Name: "--ca-root", From: Flag, Outcome: Honoured, Says: own + "; as XDS_ROOT_CA", set: text(func(s *Settings) *string { return &s.RootFile })},
		{Name: "--xds-server-name", From: Flag, Outcome: Honoured, Says: own + "; as ISTIOD_SAN", set: text(func(s *Settings) *string { return &s.ServerName })},
	}
}

// pod is what the downward API and injection say of the pod.
func pod() []Row {
	return []Row{
		{Name: "POD_NAME", From: Variable, Outcome: Honoured, Says: "the pod (metadata.name)", set: text(func(s *Settings) *string { return &s.Pod })},
		{Name: "POD_NAMESPACE", From: Variable, Outcome: Honoured, Says: "its namespace; default: that of the service account's token", set: text(func(s *Settings) *string { return &s.Namespace })},
		{Name: "INSTANCE_IP", From: Variable, Outcome: Honoured, Says: "its addresses (status.podIP); default: those of its interfaces", set: text(func(s *Settings) *string { return &s.ip })},
		{Name: "HOST_IP", From: Variable, Outcome: Mapped, Says: "for tracing, which is not built yet", set: nothing},
		{Name: "SERVICE_ACCOUNT", From: Variable, Outcome: Honoured, Says: "its service account; default: whom the token names", set: text(func(s *Settings) *string { return &s.Account })},
		{Name: "PROXY_CONFIG", From: Variable, Outcome: Honoured, Says: "the effective ProxyConfig as JSON; its fields have rows of their own", set: nothing},
		{Name: "ISTIO_META_CLUSTER_ID", From: Variable, Outcome: Honoured, Says: "the cluster, in metrics and towards the control plane", set: text(func(s *Settings) *string { return &s.Cluster })},
		{Name: "ISTIO_META_MESH_ID", From: Variable, Outcome: Honoured, Says: "the mesh", set: text(func(s *Settings) *string { return &s.meshID })},
		{Name: "ISTIO_META_WORKLOAD_NAME", From: Variable, Outcome: Honoured, Says: "name of the workload (Deployment, …); default: the pod's name", set: text(func(s *Settings) *string { return &s.workload })},
		{Name: "ISTIO_META_OWNER", From: Variable, Outcome: Honoured, Says: "kubernetes://apis/… of the workload", set: text(func(s *Settings) *string { return &s.owner })},
		{Name: "ISTIO_META_INTERCEPTION_MODE", From: Variable, Outcome: Honoured, Says: "REDIRECT, TPROXY or NONE", set: setCapture},
		{Name: "ISTIO_META_DNS_CAPTURE", From: Variable, Outcome: Honoured, Says: "the proxy answers the workload's DNS, which weir-proxy init --redirect-dns leads to it (injection sets both)", set: truth(func(s *Settings) *bool { return &s.dnsCapture })},
		{Name: "ISTIO_METAJSON_*", From: Variable, Outcome: Honoured, Says: "a JSON object that joins the node's metadata", set: setJSONMeta},
		{Name: "ISTIO_META_*", From: Variable, Outcome: Honoured, Says: "joins the node's metadata, without the prefix", set: nothing},
		{Name: "ISTIO_KUBE_APP_PROBERS", From: Variable, Outcome: Honoured, Says: "the application's probes, which are answered on port 15020", set: parsed(status.ParseProbes, func(s *Settings) *map[string]status.Probe { return &s.Probes })},
		{Name: "ISTIO_PROMETHEUS_ANNOTATIONS", From: Variable, Outcome: Honoured, Says: "where the application's metrics are that are merged", set: parsed(status.ParseScrape, func(s *Settings) **status.Scrape { return &s.Scrape })},
		{Name: "ISTIO_CPU_LIMIT", From: Variable, Outcome: Honoured, Says: "the container's CPU limit, for the number of workers; default: that of the control group", set: setCPULimit},
		{Name: "GOMEMLIMIT", From: Variable, Outcome: Honoured, Says: "aim of the garbage collector, near which idle connections are closed (85 %), then new connections and requests refused (95 %); default: nine tenths of the control group's memory limit", set: nothing},
		{Name: "GOMAXPROCS", From: Variable, Outcome: Mapped, Says: "the number of workers decides: a thread each and one for the rest", set: setCPULimit},
		{Name: "WEIR_NATIVE_SIDECAR", From: Variable, Outcome: Honoured, Says: own + ": true where the kubelet ends the proxy after the application, so that nobody is waited for at the end", set: truth(func(s *Settings) *bool { return &s.NativeSidecar })},
	}
}

// identityVariables are about certificates and the way to the control plane.
func identityVariables() []Row {
	return []Row{
		{Name: "CA_ADDR", From: Variable, Outcome: Honoured, Says: "host:port that signs certificates; default: discoveryAddress", set: text(func(s *Settings) *string { return &s.CA })},
		{Name: "CA_PROVIDER", From: Variable, Outcome: Reported, Says: "certificates come from CA_ADDR by Istio's protocol, whoever answers there", Warn: true, usual: []string{"Citadel"}},
		{Name: "PILOT_CERT_PROVIDER", From: Variable, Outcome: Reported, Says: "the control plane is checked against /var/run/secrets/istio/root-cert.pem, or XDS_ROOT_CA", Warn: true, usual: []string{"istiod"}},
		{Name: "TRUST_DOMAIN", From: Variable, Outcome: Honoured, Says: "trust domain of this workload's identity (cluster.local)", set: text(func(s *Settings) *string { return &s.TrustDomain })},
		{Name: "SECRET_TTL", From: Variable, Outcome: Honoured, Says: "life of certificates that is asked for; default: the authority's", set: setTTL},
		{Name: "SECRET_GRACE_PERIOD_RATIO", From: Variable, Outcome: Reported, Says: "certificates are renewed at half their life", usual: []string{"0.5"}},
		{Name: "SECRET_GRACE_PERIOD_RATIO_JITTER", From: Variable, Outcome: Reported, Says: "renewal has its own jitter", usual: []string{"0.01"}},
		{Name: "WORKLOAD_RSA_KEY_SIZE", From: Variable, Outcome: Reported, Says: keyKind, usual: []string{"2048"}},
		{Name: "ECC_SIGNATURE_ALGORITHM", From: Variable, Outcome: Reported, Says: keyKind, usual: []string{"ECDSA"}},
		{Name: "ECC_CURVE", From: Variable, Outcome: Reported, Says: keyKind, usual: []string{"P256"}},
		{Name: "PKCS8_KEY", From: Variable, Outcome: Reported, Says: "the key never leaves this process", usual: []string{"false"}},
		{Name: "FILE_MOUNTED_CERTS", From: Variable, Outcome: Reported, Says: "certificates from files are not taken: the key is made here, and signed by CA_ADDR", Warn: true, usual: []string{"false"}},
		{Name: "PROV_CERT", From: Variable, Outcome: Reported, Says: "the token proves who asks for a certificate, not another certificate", Warn: true},
		{Name: "OUTPUT_CERTS", From: Variable, Outcome: Reported, Says: "the key and certificate are not written to files", Warn: true},
		{Name: "JWT_POLICY", From: Variable, Outcome: Honoured, Says: "third-party-jwt: the projected token; first-party-jwt: the service account's own", set: text(func(s *Settings) *string { return &s.jwt })},
		{Name: "XDS_ROOT_CA", From: Variable, Outcome: Honoured, Says: "file with the roots for the control plane (/var/run/secrets/istio/root-cert.pem), read at each connection", set: text(func(s *Settings) *string { return &s.RootFile })},
		{Name: "CA_ROOT_CA", From: Variable, Outcome: Honoured, Says: "file with the roots for CA_ADDR; default: XDS_ROOT_CA", set: text(func(s *Settings) *string { return &s.CARoot })},
		{Name: "ISTIOD_SAN", From: Variable, Outcome: Honoured, Says: "DNS name that the control plane's certificate must hold; default: the Service of discoveryAddress", set: text(func(s *Settings) *string { return &s.ServerName })},
		{Name: "WORKLOAD_IDENTITY_SOCKET_FILE", From: Variable, Outcome: Reported, Says: "an external SDS socket (SPIRE) is not used yet", usual: []string{"socket"}},
		{Name: "ISTIO_BOOTSTRAP*", From: Variable, Outcome: Reported, Says: noBootstrap, Warn: true},
		{Name: "GRPC_XDS_BOOTSTRAP", From: Variable, Outcome: Reported, Says: "no bootstrap for proxyless gRPC is written yet", Warn: true},
		{Name: "DISABLE_ENVOY", From: Variable, Outcome: Reported, Says: "the proxy is this process and always runs", Warn: true, usual: []string{"false"}},
		{Name: "PEER_METADATA_DISCOVERY", From: Variable, Outcome: Reported, Says: "peers tell their metadata themselves", usual: []string{"false"}},
		{Name: "WASM_*", From: Variable, Outcome: Reported, Says: noWasm},
		{Name: "WEIR_TLS_RECORDS", From: Variable, Outcome: Honoured, Says: own + ": crypto/tls leaves TLS records to Go's library", set: nothing},
		{Name: "WEIR_ON_DEMAND_IDLE", From: Variable, Outcome: Honoured, Says: own + ": how long the configuration of a service is held that nobody uses (10m)", set: nothing},
	}
}

// proxyVariables are about what runs.
func proxyVariables() []Row {
	return []Row{
		{Name: "DNS_PROXY_ADDR", From: Variable, Outcome: Honoured, Says: "where DNS is answered (localhost:15053)", set: text(func(s *Settings) *string { return &s.dnsAddress })},
		{Name: "DNS_FORWARD_PARALLEL", From: Variable, Outcome: Reported, Says: "resolvers are asked one after the other", usual: []string{"false"}},
		{Name: "DNS_FORWARD_TIMEOUT", From: Variable, Outcome: Reported, Says: "resolvers have 5 s", usual: []string{"5s"}},
		{Name: "ENVOY_STATUS_PORT", From: Variable, Outcome: Honoured, Says: "health port of the proxy (15021)", set: port(func(s *Settings) *int { return &s.HealthPort })},
		{Name: "ENVOY_PROMETHEUS_PORT", From: Variable, Outcome: Honoured, Says: "port of the proxy's own metrics (15090)", set: port(func(s *Settings) *int { return &s.MetricsPort })},
		{Name: "ENVOY_SECURE_METRICS_PORT", From: Variable, Outcome: Reported, Says: "metrics over mTLS are not offered yet", Warn: true, usual: []string{"0"}},
		{Name: "ENVOY_SECURE_MERGED_METRICS_PORT", From: Variable, Outcome: Reported, Says: "metrics over mTLS are not offered yet", Warn: true, usual: []string{"0"}},
		{Name: "TERMINATION_DRAIN_DURATION_SECONDS", From: Variable, Outcome: Honoured, Says: "as terminationDrainDuration, before it", set: duration(func(s *Settings) *time.Duration { return &s.TerminationDrain })},
		{Name: "EXIT_ON_ZERO_ACTIVE_CONNECTIONS", From: Variable, Outcome: Honoured, Says: "true: the end of connections is waited for as long as the pod is let; otherwise at most terminationDrainDuration", set: truth(func(s *Settings) *bool { return &s.ExitOnZero })},
		{Name: "MINIMUM_DRAIN_DURATION", From: Variable, Outcome: Honoured, Says: "how long to go on at least once the end began; default: 5s where somebody called lately, else not at all", set: setMinimum},
	}
}

// fields are those of ProxyConfig.
func fields() []Row {
	return []Row{
		{Name: "configPath", From: Field, Outcome: Mapped, Says: "as --configPath", set: setFolder},
		{Name: "binaryPath", From: Field, Outcome: Reported, Says: "there is no second program to start: this one is the proxy", usual: []string{"", "/usr/local/bin/envoy"}},
		{Name: "serviceCluster", From: Field, Outcome: Reported, Says: "the service's name in metrics and logs is the canonical one, from the pod's labels", usual: []string{"", "istio-proxy"}},
		{Name: "tracingServiceName", From: Field, Outcome: Reported, Says: noTracing},
		{Name: "drainDuration", From: Field, Outcome: Honoured, Says: "as --drainDuration (45s)", set: duration(func(s *Settings) *time.Duration { return &s.ListenerDrain })},
		{Name: "parentShutdownDuration", From: Field, Outcome: Reported, Says: noRestart},
		{Name: "discoveryAddress", From: Field, Outcome: Honoured, Says: "as --discoveryAddress (istiod.istio-system.svc:15012)", set: text(func(s *Settings) *string { return &s.Discovery })},
		{Name: "discoveryRefreshDelay", From: Field, Outcome: Reported, Says: pushed},
		{Name: "zipkinAddress", From: Field, Outcome: Reported, Says: noTracing, usual: []string{""}},
		{Name: "statsdUdpAddress", From: Field, Outcome: Reported, Says: pulled, Warn: true, usual: []string{""}},
		{Name: "envoyMetricsServiceAddress", From: Field, Outcome: Reported, Says: pulled, Warn: true, usual: []string{""}},
		{Name: "envoyMetricsService", From: Field, Outcome: Reported, Says: pulled, Warn: true, usual: []string{"{}"}},
		{Name: "envoyAccessLogService", From: Field, Outcome: Reported, Says: "access log services are configured by the control plane", Warn: true, usual: []string{"{}"}},
		{Name: "proxyAdminPort", From: Field, Outcome: Honoured, Says: "as --proxyAdminPort (15000)", set: port(func(s *Settings) *int { return &s.AdminPort })},
		{Name: "availabilityZone", From: Field, Outcome: Reported, Says: "the control plane knows the zone from the node's labels", usual: []string{""}},
		{Name: "controlPlaneAuthPolicy", From: Field, Outcome: Mapped, Says: "as --controlPlaneAuthPolicy (MUTUAL_TLS)", set: setPolicy},
		{Name: "customConfigFile", From: Field, Outcome: Reported, Says: noBootstrap, Warn: true, usual: []string{""}},
		{Name: "proxyBootstrapTemplatePath", From: Field, Outcome: Reported, Says: noBootstrap, Warn: true, usual: []string{""}},
		{Name: "statNameLength", From: Field, Outcome: Reported, Says: "names of metrics have no such limit", usual: []string{"0", "189"}},
		{Name: "concurrency", From: Field, Outcome: Honoured, Says: "as --concurrency", set: setConcurrency},
		{Name: "interceptionMode", From: Field, Outcome: Honoured, Says: "REDIRECT (default), TPROXY or NONE", set: setCapture},
		{Name: "tracing", From: Field, Outcome: Reported, Says: noTracing, usual: []string{"{}"}},
		{Name: "sds", From: Field, Outcome: Reported, Says: "certificates always come from the control plane's authority", usual: []string{"{}"}},
		{Name: "proxyMetadata", From: Field, Outcome: Honoured, Says: "variables that the environment does not set"},
		{Name: "runtimeValues", From: Field, Outcome: Reported, Says: "they are switches of Envoy", usual: []string{"{}"}},
		{Name: "statusPort", From: Field, Outcome: Honoured, Says: "as --statusPort (15020)", set: port(func(s *Settings) *int { return &s.StatusPort })},
		{Name: "extraStatTags", From: Field, Outcome: Reported, Says: "metrics carry Istio's labels only", usual: []string{"[]"}},
		{Name: "gatewayTopology", From: Field, Outcome: Honoured, Says: "goes to the control plane, which configures the gateway by its proxyProtocol, numTrustedProxies (up to 100) and forwardClientCertDetails, and refuses the proxy for values they cannot have; without it the mesh's defaultConfig counts, but for proxyProtocol", set: setTopology},
		{Name: "terminationDrainDuration", From: Field, Outcome: Honoured, Says: "how long to go on at most for what is under way once the application is gone, or cannot be seen (5s)", set: duration(func(s *Settings) *time.Duration { return &s.TerminationDrain })},
		{Name: "meshId", From: Field, Outcome: Honoured, Says: "as ISTIO_META_MESH_ID", set: text(func(s *Settings) *string { return &s.meshID })},
		{Name: "readinessProbe", From: Field, Outcome: Reported, Says: "the kubelet asks the application's own probes; elsewhere it is not asked yet", usual: []string{"{}"}},
		{Name: "proxyStatsMatcher", From: Field, Outcome: Reported, Says: "the metrics are few: Istio's standard ones and the proxy's own", usual: []string{"{}"}},
		{Name: "holdApplicationUntilProxyStarts", From: Field, Outcome: Honoured, Says: "injection's to do: as a native sidecar, or with weir-proxy wait in postStart", set: nothing},
		{Name: "caCertificatesPem", From: Field, Outcome: Reported, Says: "further roots for workloads come from MeshConfig.caCertificates", Warn: true, usual: []string{"[]"}},
		{Name: "image", From: Field, Outcome: Reported, Says: "there is one image, without a shell or a distribution in it", usual: []string{"{}"}},
		{Name: "privateKeyProvider", From: Field, Outcome: Reported, Says: "keys are used on the CPU; there is no cryptomb and no QAT", Warn: true, usual: []string{"{}"}},
		{Name: "proxyHeaders", From: Field, Outcome: Reported, Says: "headers are Istio's defaults; others are not built yet", Warn: true, usual: []string{"{}"}},
		{Name: "fileFlushInterval", From: Field, Outcome: Reported, Says: "access log lines are written as soon as the disk takes them"},
		{Name: "fileFlushMinSizeKb", From: Field, Outcome: Reported, Says: "access log lines are written as soon as the disk takes them"},
		{Name: "statsCompression", From: Field, Outcome: Reported, Says: "metrics are sent as they are", usual: []string{"true", "false"}},
		{Name: "connectionSettings", From: Field, Outcome: Reported, Says: "connections have the defaults; profiles are not built yet", Warn: true, usual: []string{"{}"}},
	}
}
