package agent

import (
	"encoding/base64"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
)

var update = flag.Bool("update", false, "write docs/weir-proxy.md")

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// injected is the file system of an injected pod.
func injected() fstest.MapFS {
	return fstest.MapFS{
		istioToken[1:]: file(token("reviews")), rootFile[1:]: file("PEM"),
		podLabels[1:]:           file("app=\"reviews\"\nversion=\"v1\"\npod-template-hash=\"5d\\\"\"\n"),
		podNotes[1:]:            file("proxy.istio.io/config=\"{}\"\nkubernetes.io/config.seen=\"2026\"\n"),
		"proc/self/cgroup":      file("0::/\n"),
		"sys/fs/cgroup/cpu.max": file("150000 100000\n"),
	}
}

func token(account string) string {
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:shop:`+account+`"}`)) + ".s"
}

func told(files fstest.MapFS, env []string, flags ...string) Told {
	t := Told{Role: "sidecar", Environ: env, Files: files, CPUs: 8, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}}
	for i := 0; i < len(flags); i += 2 {
		t.Flags = append(t.Flags, [2]string{flags[i], flags[i+1]})
	}
	return t
}

var podEnv = []string{"POD_NAME=reviews-v1-5d-x", "POD_NAMESPACE=shop", "INSTANCE_IP=10.0.0.7", "PATH=/bin"}

// An injected pod: everything comes from the environment and the volumes.
func TestInjected(t *testing.T) {
	s, err := Resolve(told(injected(), append([]string{"SERVICE_ACCOUNT=reviews", "TRUST_DOMAIN=example.org", "ISTIO_META_CLUSTER_ID=c1", "ISTIO_META_WORKLOAD_NAME=reviews-v1",
		"ISTIO_META_OWNER=kubernetes://apis/apps/v1/namespaces/shop/deployments/reviews-v1", "ISTIO_META_NETWORK=", "ISTIO_META_MESH_ID=m1", "ISTIO_META_NODE_NAME=n1",
		`ISTIO_METAJSON_EXTRA={"A": {"b": 1}}`, "ISTIO_META_INTERCEPTION_MODE=REDIRECT", "ISTIO_META_DNS_CAPTURE=true", "HOST_IP=192.0.2.1", "PILOT_CERT_PROVIDER=istiod",
		`ISTIO_KUBE_APP_PROBERS={"/app-health/reviews/readyz":{"httpGet":{"path":"/ok","port":9080}}}`,
		`ISTIO_PROMETHEUS_ANNOTATIONS={"scrape":"true","path":"/m","port":"9102"}`, "MINIMUM_DRAIN_DURATION=3s", "EXIT_ON_ZERO_ACTIVE_CONNECTIONS=true", "WEIR_NATIVE_SIDECAR=true",
		`PROXY_CONFIG={"discoveryAddress":"istiod.mesh.svc:15012","drainDuration":"20s","terminationDrainDuration":"9s","proxyMetadata":{"SECRET_TTL":"1h","TRUST_DOMAIN":"other"},"gatewayTopology":{"proxyProtocol":{}},"tracing":{}}`},
		podEnv...)))
	if err != nil {
		t.Fatal(err)
	}
	n := s.Node()
	if want := "sidecar~10.0.0.7~reviews-v1-5d-x.shop~shop.svc.cluster.local"; n.ID != want {
		t.Errorf("node ID %s, want %s", n.ID, want)
	}
	if n.Workload != "reviews-v1" || n.Cluster != "c1" || n.MeshID != "m1" || n.ServiceAccount != "reviews" || n.Labels["pod-template-hash"] != `5d"` ||
		n.Owner != "kubernetes://apis/apps/v1/namespaces/shop/deployments/reviews-v1" {
		t.Errorf("%+v", n)
	}
	want := map[string]any{"A": map[string]any{"b": 1.0}, "NODE_NAME": "n1", "CLUSTER_ID": "c1", "MESH_ID": "m1", "WORKLOAD_NAME": "reviews-v1",
		"OWNER": n.Owner, "INTERCEPTION_MODE": "REDIRECT", "DNS_CAPTURE": "true", "INSTANCE_IPS": "10.0.0.7,fd00::7",
		"ANNOTATIONS": map[string]any{"proxy.istio.io/config": "{}"}, "WEIR": map[string]any{"VHDS": true, "NETWORK_EXT_AUTHZ": true, "ONDEMAND": true},
		"PROXY_CONFIG": map[string]any{"discoveryAddress": "istiod.mesh.svc:15012", "drainDuration": "20s", "terminationDrainDuration": "9s",
			"proxyMetadata": map[string]any{"SECRET_TTL": "1h", "TRUST_DOMAIN": "other"}, "gatewayTopology": map[string]any{"proxyProtocol": map[string]any{}}, "tracing": map[string]any{}}}
	if d := cmp.Diff(want, s.Metadata); d != "" {
		t.Errorf("metadata (-want +got):\n%s", d)
	}
	type about struct {
		TrustDomain, Discovery, CA, ServerName, Token, Root string
		Workers                                             int
		Drain, Termination, Minimum, TTL                    time.Duration
		Zero, Native                                        bool
		DNS                                                 string
	}
	got := about{s.TrustDomain, s.Discovery, s.CA, s.ServerName, s.TokenFile, s.RootFile, s.Workers, s.ListenerDrain, s.TerminationDrain, s.MinimumDrain, s.CertificateTTL,
		s.ExitOnZero, s.NativeSidecar, s.DNS.String()}
	if d := cmp.Diff(about{"example.org", "istiod.mesh.svc:15012", "istiod.mesh.svc:15012", "istiod.mesh.svc", istioToken, rootFile, 2, 20 * time.Second, 9 * time.Second, 3 * time.Second, time.Hour,
		true, true, "127.0.0.1:15053"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if len(s.Probes) != 1 || s.Scrape == nil || s.Scrape.Port != 9102 {
		t.Errorf("%v, %v", s.Probes, s.Scrape)
	}
	if len(s.Notes) != 0 {
		t.Errorf("nothing is to be said of what injection writes, but: %+v", s.Notes)
	}
}

// The container of 2018, as it stands: no token volume, no root certificate, a plaintext
// port. Every flag of it is honoured, or spoken of.
func TestContainerOf2018(t *testing.T) {
	flags := []string{"configPath", "/etc/istio/proxy", "binaryPath", "/usr/local/bin/envoy", "serviceCluster", "service-name", "drainDuration", "45s",
		"parentShutdownDuration", "1m0s", "discoveryAddress", "istio-pilot.istio-system:15007", "discoveryRefreshDelay", "1s", "connectTimeout", "10s",
		"proxyAdminPort", "15000", "controlPlaneAuthPolicy", "NONE"}
	env := append([]string{"ISTIO_META_POD_NAME=reviews-v1-5d-x", "ISTIO_META_INTERCEPTION_MODE=REDIRECT"}, podEnv...)
	own := fstest.MapFS{accountToken[1:]: file(token("bookinfo"))}
	noted := func(s *Settings) (names []string) {
		for _, n := range s.Notes {
			names = append(names, strings.TrimPrefix(n.Name, "--"))
		}
		return names
	}
	s, err := Resolve(told(own, env, flags...))
	if err != nil {
		t.Fatal(err)
	}
	if !s.Plaintext || s.Discovery != "istio-pilot.istio-system:15007" || s.Account != "default" || s.DNS.IsValid() {
		t.Errorf("%+v", s)
	}
	if d := cmp.Diff([]string{"serviceCluster", "parentShutdownDuration", "discoveryRefreshDelay", "connectTimeout", "controlPlaneAuthPolicy"}, noted(s)); d != "" {
		t.Errorf("notes (-want +got):\n%s", d)
	}
	if last := s.Notes[len(s.Notes)-1]; !last.Warn || !strings.Contains(last.Says, "PLAINTEXT") {
		t.Errorf("plaintext must be said loudly: %+v", last)
	}

	// The webhook has mounted the root certificate: the same flags are secure, with the token there is.
	own[rootFile[1:]] = file("PEM")
	if s, err = Resolve(told(own, env, flags...)); err != nil {
		t.Fatal(err)
	}
	if s.Plaintext || s.Discovery != "istio-pilot.istio-system:15011" || s.ServerName != "istiod.istio-system.svc" || s.TokenFile != accountToken || s.Account != "bookinfo" {
		t.Errorf("%+v", s)
	}
	if d := cmp.Diff([]string{"serviceCluster", "parentShutdownDuration", "discoveryRefreshDelay", "connectTimeout", "discoveryAddress", "istio-token"}, noted(s)); d != "" {
		t.Errorf("notes (-want +got):\n%s", d)
	}
}

// How the control plane is reached, and what it has to prove.
func TestWhere(t *testing.T) {
	for _, c := range []struct {
		address, policy   string
		root, plaintext   bool
		discovery, server string
	}{
		{"", "", true, false, "istiod.istio-system.svc:15012", "istiod.istio-system.svc"},
		{"istiod.mesh.svc.cluster.local:15012", "", true, false, "istiod.mesh.svc.cluster.local:15012", "istiod.mesh.svc"},
		{"istiod-canary.mesh.svc:15012", "", true, false, "istiod-canary.mesh.svc:15012", "istiod-canary.mesh.svc"},
		{"istio-pilot:15011", "MUTUAL_TLS", true, false, "istio-pilot:15011", "istiod.shop.svc"},
		{"istio-pilot.istio-system:15005", "MUTUAL_TLS", false, false, "istio-pilot.istio-system:15005", "istiod.istio-system.svc"},
		{"istiod.istio-system.svc:15010", "", false, false, "istiod.istio-system.svc:15012", "istiod.istio-system.svc"},
		{"istiod.istio-system.svc:15010", "NONE", false, true, "istiod.istio-system.svc:15010", "istiod.istio-system.svc"},
		{"istiod.istio-system.svc:15010", "NONE", true, false, "istiod.istio-system.svc:15012", "istiod.istio-system.svc"},
		{"istiod.istio-system.svc:15012", "NONE", false, false, "istiod.istio-system.svc:15012", "istiod.istio-system.svc"},
		{"mesh.example.com:15012", "", true, false, "mesh.example.com:15012", "mesh.example.com"},
		{"192.0.2.9:15012", "", true, false, "192.0.2.9:15012", "istiod.istio-system.svc"},
		{"istiod.mesh.svc", "", true, false, "istiod.mesh.svc:15012", "istiod.mesh.svc"},
	} {
		files := injected()
		if !c.root {
			delete(files, rootFile[1:])
		}
		s, err := Resolve(told(files, podEnv, "discoveryAddress", c.address, "controlPlaneAuthPolicy", c.policy))
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if s.Discovery != c.discovery || s.ServerName != c.server || s.Plaintext != c.plaintext {
			t.Errorf("%+v: %s, %s, plaintext %v", c, s.Discovery, s.ServerName, s.Plaintext)
		}
	}
}

// Injection says the address twice; certificates are never asked for in plaintext.
func TestAuthorityBesideDiscovery(t *testing.T) {
	for ca, want := range map[string]string{"istio-pilot.istio-system:15007": "istio-pilot.istio-system:15011", "ca.example.org:443": "ca.example.org:443"} {
		s, err := Resolve(told(injected(), append([]string{"CA_ADDR=" + ca, `PROXY_CONFIG={"discoveryAddress":"istio-pilot.istio-system:15007","controlPlaneAuthPolicy":"NONE"}`}, podEnv...)))
		if err != nil || s.CA != want || s.Discovery != "istio-pilot.istio-system:15011" {
			t.Errorf("%s: %v, %v", ca, s, err)
		}
	}
}

// A flag wins over the environment, that over proxyMetadata, and that over the fields.
func TestPrecedence(t *testing.T) {
	env := func(more ...string) []string { return append(more, podEnv...) }
	config := `PROXY_CONFIG={"terminationDrainDuration":"1s","concurrency":3,"proxyMetadata":{"TERMINATION_DRAIN_DURATION_SECONDS":"2"}}`
	for _, c := range []struct {
		told    Told
		drain   time.Duration
		workers int
	}{
		{told(injected(), podEnv), 5 * time.Second, 2},
		{told(fstest.MapFS{}, podEnv), 5 * time.Second, 2},
		{told(injected(), env(`PROXY_CONFIG={"terminationDrainDuration":"1s"}`)), time.Second, 2},
		{told(injected(), env(config)), 2 * time.Second, 3},
		{told(injected(), env(config, "TERMINATION_DRAIN_DURATION_SECONDS=3", "ISTIO_CPU_LIMIT=7")), 3 * time.Second, 3},
		{told(injected(), env(config, "TERMINATION_DRAIN_DURATION_SECONDS=3"), "drain", "4s", "concurrency", "0"), 4 * time.Second, 8},
		{told(injected(), env("ISTIO_CPU_LIMIT=7")), 5 * time.Second, 7},
	} {
		s, err := Resolve(c.told)
		if err != nil {
			t.Fatal(err)
		}
		if s.TerminationDrain != c.drain || s.Workers != c.workers {
			t.Errorf("%v %v: %v and %d workers, want %v and %d", c.told.Environ, c.told.Flags, s.TerminationDrain, s.Workers, c.drain, c.workers)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		told Told
		want string
	}{
		{told(injected(), nil), "POD_NAME"},
		{Told{Role: "sidecar", Environ: podEnv[:2], Files: injected()}, "status.podIP"},
		{Told{Role: "waypoint", Environ: podEnv, Files: injected()}, "use sidecar or router"},
		{told(injected(), podEnv, "nonsense", "1"), "unknown flag --nonsense"},
		{told(injected(), podEnv, "drainDuration", "-1s"), `--drainDuration "-1s": a duration is not negative`},
		{told(injected(), podEnv, "drainDuration", ""), "want a duration"},
		{told(injected(), podEnv, "concurrency", "many"), "worker threads"},
		{told(injected(), podEnv, "controlPlaneAuthPolicy", "MAYBE"), "NONE or MUTUAL_TLS"},
		{told(injected(), podEnv, "proxyLogLevel", "loud"), "debug, info, warn or error"},
		{told(injected(), podEnv, "proxyAdminPort", "15020"), "proxyAdminPort and statusPort are both port 15020"},
		{told(injected(), append([]string{"PROXY_CONFIG={"}, podEnv...)), "PROXY_CONFIG"},
		{told(injected(), append([]string{"PROXY_CONFIG=null"}, podEnv...)), "want a JSON object"},
		{told(injected(), append([]string{`PROXY_CONFIG={"statusPort":"x"}`}, podEnv...)), `statusPort "x": want a port`},
		{told(injected(), append([]string{`ISTIO_METAJSON_X=[]`}, podEnv...)), "ISTIO_METAJSON_X"},
		{told(injected(), append([]string{`ISTIO_KUBE_APP_PROBERS={"/x":{}}`}, podEnv...)), "/app-health/"},
		{told(injected(), append([]string{"ISTIO_META_DNS_CAPTURE=true", "DNS_PROXY_ADDR=nowhere"}, podEnv...)), "DNS_PROXY_ADDR"},
		{told(injected(), append([]string{`INSTANCE_IP=10.0.0`}, podEnv[:2]...)), "INSTANCE_IP"},
		{told(fstest.MapFS{podLabels[1:]: file("app=x\n")}, podEnv), `not of the form key="value"`},
	} {
		if _, err := Resolve(c.told); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v, want %q", c.told.Environ, c.told.Flags, err, c.want)
		}
	}
}

// Everything that Istio's reference names has a row: the flags of 1.0 and of today, the
// environment of its agent, and every field of ProxyConfig.
func TestNothingIsForgotten(t *testing.T) {
	rows := Rows()
	for kind, names := range map[Kind]string{
		Flag: `--configPath --binaryPath --serviceCluster --drainDuration --parentShutdownDuration --discoveryAddress --discoveryRefreshDelay --connectTimeout --proxyAdminPort
			--controlPlaneAuthPolicy --zipkinAddress --statsdUdpAddress --customConfigFile --templateFile --availabilityZone --ip --id --domain --serviceregistry --proxyLogLevel
			--concurrency --disableInternalTelemetry --bootstrapv2 --meshConfig --stsPort --tokenManagerPlugin --proxyComponentLogLevel --outlierLogPath --profiling`,
		Variable: `CA_ADDR CA_PROVIDER TRUST_DOMAIN SECRET_TTL SECRET_GRACE_PERIOD_RATIO SECRET_GRACE_PERIOD_RATIO_JITTER WORKLOAD_RSA_KEY_SIZE ECC_SIGNATURE_ALGORITHM ECC_CURVE
			PKCS8_KEY FILE_MOUNTED_CERTS PROV_CERT OUTPUT_CERTS JWT_POLICY XDS_ROOT_CA CA_ROOT_CA ISTIOD_SAN DNS_PROXY_ADDR ISTIO_META_DNS_CAPTURE DNS_FORWARD_PARALLEL
			DNS_FORWARD_TIMEOUT ENVOY_STATUS_PORT ENVOY_PROMETHEUS_PORT ENVOY_SECURE_METRICS_PORT ENVOY_SECURE_MERGED_METRICS_PORT WASM_INSECURE_REGISTRIES GRPC_XDS_BOOTSTRAP
			DISABLE_ENVOY PEER_METADATA_DISCOVERY WORKLOAD_IDENTITY_SOCKET_FILE INSTANCE_IP POD_NAME POD_NAMESPACE SERVICE_ACCOUNT PROXY_CONFIG EXIT_ON_ZERO_ACTIVE_CONNECTIONS
			MINIMUM_DRAIN_DURATION TERMINATION_DRAIN_DURATION_SECONDS GOMEMLIMIT HOST_IP PILOT_CERT_PROVIDER ISTIO_META_CLUSTER_ID ISTIO_META_NETWORK ISTIO_META_MESH_ID
			ISTIO_META_NODE_NAME ISTIO_META_INTERCEPTION_MODE ISTIO_META_WORKLOAD_NAME ISTIO_META_OWNER ISTIO_META_APP_CONTAINERS ISTIO_META_POD_PORTS ISTIO_META_POD_NAME
			ISTIO_METAJSON_LABELS ISTIO_KUBE_APP_PROBERS ISTIO_PROMETHEUS_ANNOTATIONS`,
		Field: "parentShutdownDuration",
	} {
		for name := range strings.FieldsSeq(names) {
			if find(rows, kind, name) == nil {
				t.Errorf("%s is in no row", name)
			}
		}
	}
	fields := (&meshv1alpha1.ProxyConfig{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name := fields.Get(i).JSONName(); find(rows, Field, name) == nil {
			t.Errorf("ProxyConfig.%s is in no row", name)
		}
	}
	seen := map[string]bool{}
	for _, r := range rows {
		key := fmt.Sprint(r.From, r.Name)
		if seen[key] {
			t.Errorf("%s has two rows", r.Name)
		}
		seen[key] = true
		if r.Says == "" || r.Outcome == 0 {
			t.Errorf("%s: a row says what happens", r.Name)
		}
		if (r.Outcome == Reported) == (r.set != nil) && r.Name != "proxyMetadata" {
			t.Errorf("%s is %s: what is honoured is set, what is reported is not", r.Name, r.Outcome)
		}
	}
}

// A secret that does nothing is not written to the log either.
func TestSecretsAreNotSaid(t *testing.T) {
	s, err := Resolve(told(injected(), podEnv, "lightstepAccessToken", "hunter2"))
	if err != nil || len(s.Notes) != 1 || strings.Contains(fmt.Sprint(s.Notes), "hunter2") {
		t.Errorf("%v, %v", s.Notes, err)
	}
}

// docs/weir-proxy.md has the table. go test ./proxy/agent -update writes it; only commit
// the change if you understand what caused it and if it is desired.
func TestReferencePage(t *testing.T) {
	const begin, end = "<!-- table: go test ./proxy/agent -update -->\n", "<!-- end of the table -->\n"
	page := filepath.Join("..", "..", "docs", "weir-proxy.md")
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has lost the marks of the table", page)
	}
	want := before + begin + Reference() + end + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(want, string(b)); d != "" {
		t.Errorf("%s is not what the table says; -update writes it (-want +got):\n%s", page, d)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add(`{"discoveryAddress":"istiod.mesh.svc:15012","proxyMetadata":{"A":"b"},"concurrency":2}`, "a=\"b\"\n")
	f.Add(`{"gatewayTopology":{"x":1},"tracing":[]}`, "a")
	f.Fuzz(func(t *testing.T, config, labels string) {
		files := injected()
		files[podLabels[1:]] = file(labels)
		s, err := Resolve(told(files, append([]string{"PROXY_CONFIG=" + config}, podEnv...)))
		if err == nil && (s.Workers < 1 || s.Discovery == "" || s.Node().ID == "") {
			t.Errorf("%+v", s)
		}
	})
}
