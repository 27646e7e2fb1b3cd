package up

import (
	"cmp"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/mesh"
)

// Report is a mesh that has just been started.
type Report struct {
	PID      int      `json:"pid"`
	State    string   `json:"state"`
	Capture  Capture  `json:"capture"`
	Why      string   `json:"why"`     // that way of capture
	API      string   `json:"api"`     // URL
	Ingress  string   `json:"ingress"` // URL
	Demo     string   `json:"demo,omitempty"`
	Stdin    bool     `json:"stdin,omitempty"` // configuration came by standard input
	Watching []string `json:"watching"`
	// Applied counts the objects that an earlier mesh of the folder was given by `weir
	// apply`, and that are in force again.
	Applied   int              `json:"applied"`
	URLs      []URL            `json:"urls"`
	Services  []ServiceReport  `json:"services"`
	Workloads []pod.Info       `json:"workloads"`
	Findings  []config.Finding `json:"findings"`
}

// URL is something to look at through the ingress gateway.
type URL struct {
	URL  string `json:"url"`
	Host string `json:"host,omitempty"` // header to send, if the name in URL is not enough
}

// ServiceReport is a service and who serves it.
type ServiceReport struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Ports     []uint16 `json:"ports"`
	Versions  []string `json:"versions"`
	Workloads []string `json:"workloads"`
	Ready     int      `json:"ready"`
}

// complete adds what top knows.
func (t *top) complete(r *Report) {
	r.PID, r.State, r.Capture, r.Why = os.Getpid(), string(t.layout), t.mode, t.why
	r.API, r.Ingress = "http://"+reached(t.o.HTTP).String(), "http://"+reached(t.o.Ingress).String()
	r.Demo, r.Stdin, r.Watching = t.o.Demo, slices.Contains(t.o.Paths, "-"), append([]string{}, t.watched...)
}

// services tells who serves what.
func services(snapshot []*mesh.Service, pods []pod.Info) []ServiceReport {
	out := []ServiceReport{}
	for _, s := range snapshot {
		if s.Namespace == gatewayNamespace && s.Name == gatewayName {
			continue
		}
		r := ServiceReport{Namespace: s.Namespace, Name: s.Name, Ports: []uint16{}, Versions: []string{}, Workloads: []string{}}
		for _, p := range s.Ports {
			r.Ports = append(r.Ports, p.Number)
		}
		for _, p := range pods {
			if p.Namespace != s.Namespace || len(s.Selector) == 0 || !s.Selector.Selects(p.Labels) {
				continue
			}
			r.Workloads = append(r.Workloads, p.Name)
			if p.Ready {
				r.Ready++
			}
			// As Istio names a workload's canonical revision.
			v := cmp.Or(p.Labels["service.istio.io/canonical-revision"], p.Labels["app.kubernetes.io/version"], p.Labels["version"])
			if v != "" && !slices.Contains(r.Versions, v) {
				r.Versions = append(r.Versions, v)
			}
		}
		slices.Sort(r.Versions)
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b ServiceReport) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// urls finds what the ingress gateway serves: of each VirtualService bound to it the first
// path it matches.
func urls(u *store.Update, ingress netip.AddrPort) []URL {
	out := []URL{}
	for vs := range u.Snapshot.VirtualServices.Values() {
		for _, name := range vs.Gateways {
			gw := u.Snapshot.Gateways.At(mesh.Key(name))
			if gw == nil || !gw.Selector.Selects(gatewayLabels) {
				continue
			}
			for _, s := range gw.Servers {
				if s.Protocol != mesh.HTTP && s.Protocol != mesh.HTTP2 || len(vs.HTTP) == 0 {
					continue
				}
				host := ""
				if len(vs.Hosts) > 0 && vs.Hosts[0] != "*" {
					host = strings.Replace(vs.Hosts[0], "*", "www", 1)
				}
				out = append(out, URL{URL: "http://" + hostPort(s.Port, ingress) + path(vs.HTTP), Host: host})
			}
		}
	}
	slices.SortFunc(out, func(a, b URL) int { return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.URL, b.URL)) })
	return slices.Compact(out)
}

// hostPort is where a Gateway's port is on this machine (gatewayYAML, gatewayListen).
func hostPort(port uint16, ingress netip.AddrPort) string {
	switch port {
	case 80, gatewayPort:
		port = ingress.Port()
	case 443:
		port = 8443
	}
	return netip.AddrPortFrom(ingress.Addr(), port).String()
}

func path(routes []mesh.HTTPRoute) string {
	for _, r := range routes {
		for _, m := range r.Matches {
			if (m.URI.Kind == mesh.Exact || m.URI.Kind == mesh.Prefix) && len(m.Headers) == 0 {
				return m.URI.Value
			}
		}
	}
	return "/"
}

// worse leaves what a person must see: errors and warnings.
func worse(fs []config.Finding) []config.Finding {
	return slices.DeleteFunc(slices.Clone(fs), func(f config.Finding) bool { return f.Severity == config.Info })
}

// changes says which objects differ between two states of the configuration.
func changes(before, after *store.Update) []string {
	same := func(a, b *store.Object) bool {
		return a == b || a.Raw != nil && b.Raw != nil && a.Raw.Ref.Hash == b.Raw.Ref.Hash
	}
	var out []string
	for k := range after.Objects.Diff(before.Objects, same) {
		switch old, now := before.Objects.At(k), after.Objects.At(k); {
		case old == nil:
			out = append(out, name(now)+" is new")
		case now == nil:
			out = append(out, name(old)+" is gone")
		default:
			out = append(out, name(now)+" has changed")
		}
	}
	return out
}

func name(o *store.Object) string {
	if o.ID.Namespace == "" {
		return o.ID.Kind + " " + o.ID.Name
	}
	return o.ID.Kind + " " + o.ID.Namespace + "/" + o.ID.Name
}
