// Package agent turns what a container of a pod is told (the flags, environment and files
// that Istio's pilot-agent knows) into what a proxy does.
//
// Flags, environment variables and a view of the file system enter; Settings leave, with a
// Note for everything that means something else here than it says, or nothing. One table,
// Rows, says of every name what becomes of it: it is the reference page, too. The package
// is a pure function of its input, without clock, goroutine or logger; cmd/weir-proxy
// calls it, and makes a proxy of what it returns.
package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/internal/cgroup"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/status"
)

// Told is what a container was told.
type Told struct {
	Role    string      // sidecar, or router with its other names gateway and ingress
	Flags   [][2]string // those given, without dashes, in order
	Environ []string    // NAME=value
	Files   fs.FS       // the root of the file system
	Addrs   []netip.Addr
	CPUs    int // processors of the machine
}

// Settings are what follows from it.
type Settings struct {
	Gateway          bool
	Pod, Namespace   string
	Account          string       // service account
	IPs              []netip.Addr // the first is the main one
	Domain           string       // "default.svc.cluster.local"
	TrustDomain      string
	Cluster          string
	Workers          int
	Capture          string // redirect, tproxy, none
	LogLevel         string
	LogJSON          bool
	AccessLog        bool
	OnDemand         bool
	MaxConnections   int64
	DNS              netip.AddrPort // invalid: names are not answered
	AdminPort        int            // 0: none
	StatusPort       int            // 15020
	HealthPort       int            // 15021
	MetricsPort      int            // 15090
	ListenerDrain    time.Duration
	TerminationDrain time.Duration
	MinimumDrain     time.Duration
	MinimumDrainSet  bool
	ExitOnZero       bool // the end of connections is waited for without a limit of ours
	NativeSidecar    bool // the kubelet ends us after the application
	CertificateTTL   time.Duration
	Folder           string // what is kept is below it
	Labels           map[string]string
	Metadata         map[string]any // of the xDS node, beside what Node says
	Probes           map[string]status.Probe
	Scrape           *status.Scrape
	Discovery        string // host:port
	CA               string // host:port
	Plaintext        bool   // without TLS and identity
	ServerName       string // what the control plane's certificate must say
	RootFile, CARoot string // paths
	TokenFile        string
	Notes            []Note
	workload, owner  string
	meshID           string
	concurrency      int
	policy           string
	dnsCapture       bool
	dnsAddress       string
	jwt              string
	nodeID           string
	ip, labels       string
	agentLevel       string
	proxyConfig      map[string]any
}

// Note is something that means something else than it says, or nothing.
type Note struct {
	Name, Value string
	Warn        bool
	Says        string
}

// Where the contract (docs/design/kubernetes.md) puts things.
const (
	istioToken   = "/var/run/secrets/tokens/istio-token"
	accountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	accountSpace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	rootFile     = "/var/run/secrets/istio/root-cert.pem"
	podLabels    = "/etc/istio/pod/labels"
	podNotes     = "/etc/istio/pod/annotations"
)

// Resolve is what follows from t. Later sources win over earlier ones: the defaults, the
// fields of PROXY_CONFIG, its proxyMetadata, the environment, the flags.
func Resolve(t Told) (*Settings, error) {
	s := &Settings{Namespace: "default", TrustDomain: "cluster.local", Cluster: "Kubernetes", Capture: "redirect", AccessLog: true, OnDemand: true,
		dnsAddress: "localhost:15053", AdminPort: 15000, StatusPort: 15020, HealthPort: 15021, MetricsPort: 15090,
		ListenerDrain: 45 * time.Second, TerminationDrain: 5 * time.Second, MinimumDrain: 5 * time.Second, Folder: "/etc/istio/proxy",
		Labels: map[string]string{}, Metadata: map[string]any{}, proxyConfig: map[string]any{}, concurrency: -1, RootFile: rootFile}
	switch t.Role {
	case "sidecar":
	case "router", "gateway", "ingress":
		s.Gateway = true
	default:
		return nil, fmt.Errorf("role %q: use sidecar or router", t.Role)
	}
	env := environment(t.Environ)
	if err := s.proxyFields(env["PROXY_CONFIG"], env); err != nil {
		return nil, fmt.Errorf("PROXY_CONFIG: %w", err)
	}
	rows := Rows()
	for _, name := range sorted(env) {
		for i := range rows {
			if r := &rows[i]; r.From == Variable && r.matches(name) {
				if err := s.take(r, name, env[name]); err != nil {
					return nil, fmt.Errorf("%s=%q: %w", name, env[name], err)
				}
				break
			}
		}
	}
	for _, f := range t.Flags {
		r := find(rows, Flag, "--"+f[0])
		if r == nil {
			return nil, fmt.Errorf("unknown flag --%s; weir-proxy sidecar -h lists those there are", f[0])
		}
		if err := s.take(r, r.Name, f[1]); err != nil {
			return nil, fmt.Errorf("--%s %q: %w", f[0], f[1], err)
		}
	}
	if err := s.who(t, env); err != nil {
		return nil, err
	}
	if err := s.where(t); err != nil {
		return nil, err
	}
	s.workers(t)
	return s, s.finish(t)
}

// take puts a value in force, and notes what is to be said about that.
func (s *Settings) take(r *Row, name, value string) error {
	if value == "" && r.From != Flag {
		return nil // a variable of an optional key is there and empty
	}
	if r.set != nil {
		if err := r.set(s, value); err != nil {
			return err
		}
	}
	if key, ok := strings.CutPrefix(name, "ISTIO_META_"); ok {
		s.Metadata[key] = value
	}
	if r.Outcome == Reported && !slices.Contains(r.usual, value) {
		if r.secret {
			value = "…"
		}
		s.note(name, value, r.Warn, r.Says)
	}
	return nil
}

func (s *Settings) note(name, value string, warn bool, says string) {
	if len(value) > 200 {
		value = value[:200] + "…"
	}
	s.Notes = append(s.Notes, Note{name, value, warn, says})
}

// maxProxyConfig is far above what an effective ProxyConfig has, 1 to 4 KB.
const maxProxyConfig = 256 << 10

// proxyFields takes the fields of a ProxyConfig. The variables among them join env, where
// they are not set already.
func (s *Settings) proxyFields(text string, env map[string]string) error {
	if text == "" {
		return nil
	}
	if len(text) > maxProxyConfig {
		return fmt.Errorf("is larger than %d bytes", maxProxyConfig)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &s.proxyConfig); err != nil {
		return err
	}
	if raw == nil {
		return errors.New("want a JSON object")
	}
	rows := Rows()
	for _, name := range sorted(raw) {
		if string(raw[name]) == "null" {
			continue
		}
		value := string(raw[name])
		var word string
		if json.Unmarshal(raw[name], &word) == nil {
			value = word
		}
		switch r := find(rows, Field, name); {
		case r == nil:
			s.note("PROXY_CONFIG."+name, value, true, "is not a field of ProxyConfig that is known here; it does nothing")
		case name == "proxyMetadata":
			var more map[string]string
			if err := json.Unmarshal(raw[name], &more); err != nil {
				return fmt.Errorf("proxyMetadata: %w", err)
			}
			for k, v := range more {
				if _, set := env[k]; !set && k != "PROXY_CONFIG" {
					env[k] = v
				}
			}
		default:
			if err := s.take(r, "PROXY_CONFIG."+name, value); err != nil {
				return fmt.Errorf("%s %q: %w", name, value, err)
			}
		}
	}
	s.Metadata["PROXY_CONFIG"] = s.proxyConfig
	return nil
}

func environment(list []string) map[string]string {
	env := map[string]string{}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return env
}

// Node is who we are in the mesh.
func (s *Settings) Node() observe.Node {
	kind := "sidecar"
	if s.Gateway {
		kind = "router"
	}
	id := s.Pod + "." + s.Namespace
	if s.nodeID != "" {
		id = s.nodeID
	}
	workload := s.workload
	if workload == "" {
		workload = s.Pod
	}
	return observe.Node{ID: kind + "~" + s.IPs[0].String() + "~" + id + "~" + s.Domain, Name: s.Pod, Namespace: s.Namespace, Workload: workload,
		Owner: s.owner, Cluster: s.Cluster, MeshID: s.meshID, ServiceAccount: s.Account, Labels: s.Labels}
}

// who finds out who we are.
func (s *Settings) who(t Told, env map[string]string) error {
	if env["POD_NAMESPACE"] == "" && !given(t.Flags, "namespace") {
		if b, err := fs.ReadFile(t.Files, accountSpace[1:]); err == nil {
			s.Namespace = strings.TrimSpace(string(b))
		}
	}
	if s.Pod == "" {
		return errors.New("which pod is this? POD_NAME is missing: take it from metadata.name by the downward API (outside a pod: give --xds, and the rest by flags)")
	}
	if s.Domain == "" {
		s.Domain = s.Namespace + ".svc.cluster.local"
	}
	for ip := range strings.SplitSeq(s.ip, ",") {
		if ip == "" {
			continue
		}
		a, err := netip.ParseAddr(strings.TrimSpace(ip))
		if err != nil {
			return fmt.Errorf("INSTANCE_IP: %w", err)
		}
		s.IPs = append(s.IPs, a)
	}
	for _, a := range t.Addrs {
		if a = a.Unmap(); !slices.Contains(s.IPs, a) {
			s.IPs = append(s.IPs, a)
		}
	}
	if len(s.IPs) == 0 {
		return errors.New("INSTANCE_IP is not set, and this machine has no address but loopback: take it from status.podIP by the downward API")
	}
	for name, to := range map[string]string{podLabels: "LABELS", podNotes: "ANNOTATIONS"} {
		text, err := fs.ReadFile(t.Files, name[1:])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var pairs map[string]string
		if err == nil {
			pairs, err = parsePairs(string(text))
		}
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case to == "LABELS":
			s.Labels = pairs
		default:
			// They may hold a lot that is nobody's business; what the control plane asks a
			// proxy's annotations for is Istio's.
			kept := map[string]any{}
			for k, v := range pairs {
				if strings.Contains(k, "istio.io/") {
					kept[k] = v
				}
			}
			s.Metadata[to] = kept
		}
	}
	if s.labels != "" {
		for pair := range strings.SplitSeq(s.labels, ",") {
			k, v, _ := strings.Cut(pair, "=")
			s.Labels[k] = v
		}
	}
	return nil
}

// where finds out how the control plane is reached, and how it is trusted.
func (s *Settings) where(t Told) error {
	if s.Discovery == "" {
		s.Discovery = "istiod.istio-system.svc:15012"
	}
	host, port, err := net.SplitHostPort(s.Discovery)
	if err != nil {
		host, port = s.Discovery, "15012"
	}
	service, _, _ := strings.Cut(host, ".")
	if plain := slices.Contains([]string{"15003", "15007", "15010", "8080"}, port); plain {
		_, err := fs.Stat(t.Files, strings.TrimPrefix(s.RootFile, "/"))
		if s.policy == "NONE" && err != nil {
			s.Plaintext = true
			s.note("controlPlaneAuthPolicy", "NONE", true, "configuration comes in PLAINTEXT from "+s.Discovery+" and this workload has no identity: whoever is on the way can change what it does, and no mTLS reaches it. "+
				"The control plane offers that port only with compatibilityVersion=1.0. Without the flag, and with the ConfigMap istio-ca-root-cert mounted at /var/run/secrets/istio, the same pod is secure")
		} else {
			secure := "15012"
			if service == "istio-pilot" {
				secure = "15011"
			}
			s.note("discoveryAddress", s.Discovery, false, "is a plaintext port; TLS on port "+secure+" of the same Service is used")
			port = secure
		}
	} else if s.policy == "NONE" {
		s.note("controlPlaneAuthPolicy", "NONE", false, "the control plane is reached by TLS all the same: "+port+" is no plaintext port")
	}
	was := s.Discovery
	s.Discovery = net.JoinHostPort(host, port)
	if s.CA == "" || s.CA == was { // injection says both
		s.CA = s.Discovery
	}
	if s.ServerName == "" {
		s.ServerName = serverName(host, s.Namespace)
	}
	if s.CARoot == "" {
		s.CARoot = s.RootFile
	}
	if s.TokenFile = istioToken; s.jwt == "first-party-jwt" {
		s.TokenFile = accountToken
	} else if _, err := fs.Stat(t.Files, istioToken[1:]); err != nil && !s.Plaintext {
		if _, err := fs.Stat(t.Files, accountToken[1:]); err == nil {
			s.TokenFile = accountToken
			s.note("istio-token", istioToken, true, "is not mounted; the service account's own token is shown instead, which is good for everything else the account may do, too: inject the pod again")
		}
	}
	if s.Account == "" {
		if s.Account = accountOf(t.Files, s.TokenFile); s.Account == "" {
			s.Account = "default"
		}
	}
	return nil
}

// serverName is the DNS name that the control plane has to prove. Its certificate is
// made for the Service istiod; istio-pilot leads to the same pods.
func serverName(host, namespace string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return "istiod.istio-system.svc"
	}
	words := strings.Split(strings.TrimSuffix(host, "."), ".")
	kube := len(words) < 3 || words[2] == "svc"
	if !kube {
		return host
	}
	service, ns := words[0], namespace
	if len(words) > 1 {
		ns = words[1]
	}
	if service == "istio-pilot" {
		service = "istiod"
	}
	return service + "." + ns + ".svc"
}

// workers is how many loops there are: as many as the CPU limit has room for, two without
// one, as Istio does.
func (s *Settings) workers(t Told) {
	n := s.concurrency
	if n < 0 {
		n = 2
		if limit, ok := cgroup.Processors(t.Files); ok {
			n = int(math.Ceil(limit))
		}
		n = min(n, max(t.CPUs, 1))
	}
	if n == 0 {
		n = t.CPUs
	}
	s.Workers = max(n, 1)
}

// finish puts the parts that depend on several settings together.
func (s *Settings) finish(t Told) error {
	list := make([]string, len(s.IPs))
	for i, a := range s.IPs {
		list[i] = a.String()
	}
	s.Metadata["INSTANCE_IPS"] = strings.Join(list, ",")
	s.Metadata["INTERCEPTION_MODE"] = strings.ToUpper(s.Capture)
	delete(s.Metadata, "DNS_CAPTURE")
	if s.dnsCapture && !s.Gateway && s.Capture != "none" {
		s.Metadata["DNS_CAPTURE"] = "true"
		host, port, err := net.SplitHostPort(s.dnsAddress)
		n, err2 := strconv.ParseUint(port, 10, 16)
		if err != nil || err2 != nil {
			return fmt.Errorf("DNS_PROXY_ADDR %q: want host:port", s.dnsAddress)
		}
		a := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if host != "localhost" && host != "" {
			if a, err = netip.ParseAddr(host); err != nil {
				return fmt.Errorf("DNS_PROXY_ADDR: %w", err)
			}
		}
		s.DNS = netip.AddrPortFrom(a, uint16(n))
	}
	// Elsewhere nobody is held: a gateway's hosts are all its own.
	s.OnDemand = s.OnDemand && !s.Gateway && s.Capture != "none"
	weir := map[string]any{"VHDS": true, "NETWORK_EXT_AUTHZ": true}
	if s.OnDemand {
		weir["ONDEMAND"] = true
	}
	s.Metadata["WEIR"] = weir
	if s.LogLevel = moreVerbose(s.LogLevel, s.agentLevel); s.LogLevel == "" {
		s.LogLevel = "info"
	}
	ports := map[int]string{}
	for _, p := range []struct {
		name string
		port int
	}{{"proxyAdminPort", s.AdminPort}, {"statusPort", s.StatusPort}, {"ENVOY_STATUS_PORT", s.HealthPort}, {"ENVOY_PROMETHEUS_PORT", s.MetricsPort}} {
		if other := ports[p.port]; p.port != 0 && other != "" {
			return fmt.Errorf("%s and %s are both port %d", other, p.name, p.port)
		}
		ports[p.port] = p.name
	}
	return nil
}
