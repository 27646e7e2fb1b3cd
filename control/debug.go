package control

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// debug adds what Istio's control plane answers below /debug, in its forms: Kiali and
// istioctl read it.
func (p *Plane) debug(m *http.ServeMux) {
	m.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, p.o.Version+"\n") })
	m.HandleFunc("GET /debug/syncz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, syncz(p.xds.Clients())) })
	m.HandleFunc("GET /debug/registryz", p.known(func(u *store.Update) any { return registryz(u.Snapshot) }))
	m.HandleFunc("GET /debug/configz", p.known(func(u *store.Update) any { return configz(u) }))
	m.HandleFunc("GET /debug/config_dump", p.handleDump)
	for path, h := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		m.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			// Memory holds keys, and a profile costs: not for other users of the machine.
			if p.holdsToken(w, r, "profiles are shown with") {
				h(w, r)
			}
		})
	}
}

// syncStatus is Istio's SyncStatus.
type syncStatus struct {
	ClusterID            string `json:"cluster_id,omitempty"`
	Proxy                string `json:"proxy,omitempty"` // name.namespace
	ProxyType            string `json:"proxy_type,omitempty"`
	ProxyVersion         string `json:"proxy_version,omitempty"`
	IstioVersion         string `json:"istio_version,omitempty"`
	ClusterSent          string `json:"cluster_sent,omitempty"`
	ClusterACKed         string `json:"cluster_acked,omitempty"`
	ListenerSent         string `json:"listener_sent,omitempty"`
	ListenerACKed        string `json:"listener_acked,omitempty"`
	RouteSent            string `json:"route_sent,omitempty"`
	RouteACKed           string `json:"route_acked,omitempty"`
	EndpointSent         string `json:"endpoint_sent,omitempty"`
	EndpointACKed        string `json:"endpoint_acked,omitempty"`
	ExtensionConfigSent  string `json:"extensionconfig_sent,omitempty"`
	ExtensionConfigACKed string `json:"extensionconfig_acked,omitempty"`
}

// syncz says what each proxy was sent and has accepted. Readers compare the two texts of a
// type and know nothing else of them; ours are versions of the configuration.
func syncz(clients []server.Client) []syncStatus {
	out := []syncStatus{}
	for _, c := range clients {
		x := syncStatus{Proxy: c.Node, IstioVersion: c.Metadata.GetFields()["ISTIO_VERSION"].GetStringValue(), ClusterID: c.Metadata.GetFields()["CLUSTER_ID"].GetStringValue(), ProxyVersion: c.Agent}
		x.ProxyType, _, _ = strings.Cut(c.Node, "~")
		if ns, name, ok := strings.Cut(workloadOf(c.Node), "/"); ok {
			x.Proxy = name + "." + ns
		}
		fields := map[string][2]*string{
			resource.ClusterType: {&x.ClusterSent, &x.ClusterACKed}, resource.ListenerType: {&x.ListenerSent, &x.ListenerACKed},
			resource.RouteType: {&x.RouteSent, &x.RouteACKed}, resource.EndpointType: {&x.EndpointSent, &x.EndpointACKed},
			resource.ExtensionConfigType: {&x.ExtensionConfigSent, &x.ExtensionConfigACKed},
		}
		for _, t := range c.Types {
			if f, ok := fields[t.TypeURL]; ok {
				t = withHosts(t, c.Types)
				if t.Sent > 0 {
					*f[0] = strconv.FormatUint(t.Sent, 10)
				}
				if t.ACKed > 0 && len(t.Rejected) == 0 {
					*f[1] = strconv.FormatUint(t.ACKed, 10)
				}
			}
		}
		out = append(out, x)
	}
	return out
}

// registryService is Istio's model.Service as JSON, as far as it is read.
type registryService struct {
	Attributes struct {
		ServiceRegistry string          `json:"ServiceRegistry"` // Kubernetes, External
		Name            string          `json:"Name"`
		Namespace       string          `json:"Namespace"`
		Labels          mesh.Labels     `json:"Labels"`
		LabelSelectors  mesh.Labels     `json:"LabelSelectors"`
		ExportTo        map[string]bool `json:"ExportTo"`
	} `json:"Attributes"`
	Ports           []registryPort `json:"ports"`
	ServiceAccounts []string       `json:"serviceAccounts,omitempty"`
	Created         time.Time      `json:"creationTime,omitzero"`
	Hostname        string         `json:"hostname"`
	VIPs            struct {
		Addresses map[string][]string `json:"Addresses"` // by cluster
	} `json:"clusterVIPs"`
	Address      string `json:"defaultAddress,omitempty"`
	Resolution   int    `json:"Resolution"`
	MeshExternal bool   `json:"MeshExternal"`
}

type registryPort struct {
	Name     string `json:"name,omitempty"`
	Port     int    `json:"port"`
	Protocol string `json:"protocol,omitempty"`
}

// registryResolution are Istio's numbers: ClientSideLB, DNSLB, Passthrough, DNSRoundRobinLB, DynamicDNS.
var registryResolution = map[mesh.Resolution]int{mesh.Static: 0, mesh.DNS: 1, mesh.Passthrough: 2, mesh.DNSRoundRobin: 3, mesh.DynamicDNS: 4}

func registryz(s *mesh.Snapshot) []registryService {
	cluster := "Kubernetes"
	if s.Settings != nil && s.Settings.ClusterID != "" {
		cluster = s.Settings.ClusterID
	}
	out := []registryService{}
	for svc := range s.Services.Values() {
		x := registryService{Hostname: svc.Hostname, ServiceAccounts: svc.ServiceAccounts, Resolution: registryResolution[svc.Resolution], MeshExternal: svc.External, Ports: []registryPort{}, Address: "0.0.0.0"}
		a := &x.Attributes
		a.ServiceRegistry, a.Name, a.Namespace, a.Labels, a.LabelSelectors, a.ExportTo = "Kubernetes", svc.Name, svc.Namespace, svc.Labels, svc.Selector, map[string]bool{}
		if svc.Ref.Kind == "ServiceEntry" {
			a.ServiceRegistry = "External"
		}
		if svc.Ref.Created != 0 {
			x.Created = time.Unix(svc.Ref.Created, 0).UTC()
		}
		switch {
		case !svc.Visible.Limited:
			a.ExportTo["*"] = true
		default:
			for _, ns := range svc.Visible.Namespaces {
				a.ExportTo[ns] = true
			}
		}
		var vips []string
		for _, v := range svc.Addresses {
			vips = append(vips, v.String())
		}
		if len(vips) > 0 {
			x.Address, x.VIPs.Addresses = vips[0], map[string][]string{cluster: vips}
		}
		for _, p := range svc.Ports {
			x.Ports = append(x.Ports, registryPort{p.Name, int(p.Number), istioProtocol(p.Protocol)})
		}
		out = append(out, x)
	}
	return out
}

// istioProtocol is a protocol as Istio writes it.
func istioProtocol(p mesh.Protocol) string {
	switch p {
	case mesh.Auto:
		return "UnsupportedProtocol"
	case mesh.GRPCWeb:
		return "GRPC-Web"
	case mesh.Mongo:
		return "Mongo"
	case mesh.MySQL:
		return "MySQL"
	case mesh.Redis:
		return "Redis"
	}
	return strings.ToUpper(string(p))
}

// istioGroups are the API groups of configuration; the rest is the platform's.
var istioGroups = []string{"networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io", "rbac.istio.io", "authentication.istio.io", "gateway.networking.k8s.io"}

// configz are the objects in force, as the API server would show them.
func configz(u *store.Update) []json.RawMessage {
	out := []json.RawMessage{}
	for o := range u.Objects.Values() {
		if o.Serving == nil || !slices.Contains(istioGroups, o.ID.Group) {
			continue
		}
		var x struct {
			APIVersion string          `json:"apiVersion"`
			Kind       string          `json:"kind"`
			Metadata   map[string]any  `json:"metadata"`
			Spec       json.RawMessage `json:"spec,omitempty"`
		}
		if err := json.Unmarshal(o.Serving.Root().AppendJSON(nil), &x); err != nil {
			continue // a number that JSON has not; it is no field of these objects
		}
		if x.Metadata == nil {
			x.Metadata = map[string]any{}
		}
		if o.ID.Namespace != "" {
			x.Metadata["namespace"] = o.ID.Namespace
		}
		b, err := json.Marshal(x)
		if err == nil {
			out = append(out, b)
		}
	}
	return out
}
