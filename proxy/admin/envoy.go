package admin

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/xds/dump"
)

// What follows is what Envoy's admin interface answers, in its forms: istioctl, Kiali and
// people's scripts read them.

// Life is what a proxy is at: ServerInfo.State, and server.state among the statistics.
type Life uint8

// The numbers are Envoy's.
const (
	Live         Life = 0
	Draining     Life = 1
	Initializing Life = 3
)

func (l Life) String() string {
	switch l {
	case Draining:
		return "DRAINING"
	case Initializing:
		return "INITIALIZING"
	}
	return "LIVE"
}

// Cluster is a cluster at one moment.
type Cluster struct {
	Name, EDSName string
	Static        bool // of the bootstrap, not sent by a control plane
	Hosts         []Host
	// What is in use of the whole cluster.
	Connections, Pending, Requests int32
	Stats                          []Stat
}

// Stat is a counter or gauge of a cluster, by Envoy's name for it.
type Stat struct {
	Name  string // "upstream_rq_pending_overflow"
	Value int64
	Gauge bool
}

// Host is an endpoint of a cluster.
type Host struct {
	Address netip.AddrPort
	Path    string // of a Unix socket, instead of Address
	Name    string // that it was resolved from
	Weight  uint32 // 0 means 1
	Healthy bool   // as the control plane says
	Ejected bool   // by outlier detection
	Sick    bool   // as active health checks say
	// Unproven: they have said nothing yet. Degraded: they say it is to be used only where there are too few others.
	Unproven, Degraded bool
	Silent             bool  // it does not answer to connections: others are called where there are any
	Active             int32 // requests, or TCP connections
}

// Listener is a listener and where it is bound.
type Listener struct {
	Name      string
	Addresses []netip.AddrPort
}

// Certificates are a chain that is shown, leaf first, and the roots its peers are judged
// by, with where they are from.
type Certificates struct {
	Source       string
	Chain, Roots []*x509.Certificate
}

// address is envoy.config.core.v3.Address as JSON.
type address struct {
	Socket *socketAddress `json:"socket_address,omitempty"`
	Pipe   *pipe          `json:"pipe,omitempty"`
}

type pipe struct {
	Path string `json:"path"`
}

type socketAddress struct {
	Address string `json:"address"`
	Port    uint16 `json:"port_value"`
}

func at(a netip.AddrPort, path string) address {
	if path != "" {
		return address{Pipe: &pipe{path}}
	}
	return address{Socket: &socketAddress{a.Addr().String(), a.Port()}}
}

func (h *Host) String() string {
	if h.Path != "" {
		return h.Path
	}
	return h.Address.String()
}

// handleDump answers /config_dump.
func handleDump(p Proxy) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := dump.ParseQuery(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d, err := p.Dump()
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotImplemented)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := dump.Write(w, d, q); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// handleClusters answers /clusters: envoy.admin.v3.Clusters, or lines of text.
func handleClusters(p Proxy) http.HandlerFunc {
	type stat struct {
		Name  string `json:"name"`
		Value int64  `json:"value,string"`
		Type  string `json:"type,omitempty"`
	}
	type health struct {
		EDS  string `json:"eds_health_status"`
		Sick bool   `json:"failed_active_health_check,omitempty"`

		Unproven bool `json:"pending_active_hc,omitempty"`
		Degraded bool `json:"failed_active_degraded_check,omitempty"`
		Ejected  bool `json:"failed_outlier_check,omitempty"`
	}
	type host struct {
		Address  address `json:"address"`
		Stats    []stat  `json:"stats"`
		Health   health  `json:"health_status"`
		Weight   uint32  `json:"weight"`
		Hostname string  `json:"hostname,omitempty"`
	}
	type status struct {
		Name          string `json:"name"`
		AddedViaAPI   bool   `json:"added_via_api"`
		Hosts         []host `json:"host_statuses,omitempty"`
		Observability string `json:"observability_name"`
		EDSName       string `json:"eds_service_name,omitempty"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		form, ok := format(w, r, "text", "json")
		if !ok {
			return
		}
		all := p.Clusters()
		if form == "json" {
			out := []status{}
			for _, c := range all {
				s := status{Name: c.Name, AddedViaAPI: !c.Static, Observability: c.Name, EDSName: c.EDSName}
				for _, h := range c.Hosts {
					x := host{Address: at(h.Address, h.Path), Stats: []stat{{Name: "rq_active", Value: int64(h.Active), Type: "GAUGE"}}, Weight: max(h.Weight, 1), Hostname: h.Name}
					if h.Silent {
						x.Stats = append(x.Stats, stat{Name: "silent", Value: 1, Type: "GAUGE"})
					}
					x.Health.EDS, x.Health.Ejected, x.Health.Sick = "HEALTHY", h.Ejected, h.Sick
					x.Health.Unproven, x.Health.Degraded = h.Unproven, h.Degraded
					if !h.Healthy {
						x.Health.EDS = "UNHEALTHY"
					}
					s.Hosts = append(s.Hosts, x)
				}
				out = append(out, s)
			}
			writeJSON(w, map[string]any{"cluster_statuses": out})
			return
		}
		var b strings.Builder
		for _, c := range all {
			fmt.Fprintf(&b, "%[1]s::observability_name::%[1]s\n%[1]s::default_priority::cx_active::%[2]d\n%[1]s::default_priority::rq_pending_active::%[3]d\n%[1]s::default_priority::rq_active::%[4]d\n%[1]s::added_via_api::%[5]t\n",
				c.Name, c.Connections, c.Pending, c.Requests, !c.Static)
			if c.EDSName != "" {
				fmt.Fprintf(&b, "%s::eds_service_name::%s\n", c.Name, c.EDSName)
			}
			for _, h := range c.Hosts {
				flags := ""
				if h.Sick {
					flags = "/failed_active_hc"
				}
				if h.Unproven {
					flags += "/pending_active_hc"
				}
				if h.Degraded {
					flags += "/degraded_active_hc"
				}
				if h.Ejected {
					flags += "/failed_outlier_check"
				}
				if !h.Healthy {
					flags += "/failed_eds_health"
				}
				flags = cmp.Or(flags, "healthy")
				fmt.Fprintf(&b, "%[1]s::%[2]s::rq_active::%[3]d\n%[1]s::%[2]s::hostname::%[4]s\n%[1]s::%[2]s::health_flags::%[5]s\n%[1]s::%[2]s::weight::%[6]d\n",
					c.Name, h.String(), h.Active, h.Name, flags, max(h.Weight, 1))
				if h.Silent { // beside Envoy's flags, whose set is closed
					fmt.Fprintf(&b, "%s::%s::silent::1\n", c.Name, h.String())
				}
			}
		}
		plain(w, b.String())
	}
}

// handleListeners answers /listeners: envoy.admin.v3.Listeners, or lines of text.
func handleListeners(p Proxy) http.HandlerFunc {
	type status struct {
		Name  string    `json:"name"`
		Local address   `json:"local_address"`
		More  []address `json:"additional_local_addresses,omitempty"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		form, ok := format(w, r, "text", "json")
		if !ok {
			return
		}
		out := []status{}
		var b strings.Builder
		for _, l := range p.Listeners() {
			if len(l.Addresses) == 0 {
				continue
			}
			s := status{Name: l.Name, Local: at(l.Addresses[0], "")}
			for i, a := range l.Addresses {
				if i > 0 {
					s.More = append(s.More, at(a, ""))
				}
				fmt.Fprintf(&b, "%s::%s\n", l.Name, a)
			}
			out = append(out, s)
		}
		if form == "json" {
			writeJSON(w, map[string]any{"listener_statuses": out})
			return
		}
		plain(w, b.String())
	}
}

// handleCerts answers /certs: envoy.admin.v3.Certificates.
func handleCerts(p Proxy) http.HandlerFunc {
	type name struct {
		URI string `json:"uri,omitempty"`
		DNS string `json:"dns,omitempty"`
		IP  string `json:"ip_address,omitempty"`
	}
	type details struct {
		Path   string    `json:"path"`
		Serial string    `json:"serial_number"`
		Names  []name    `json:"subject_alt_names"`
		Days   int64     `json:"days_until_expiration,string"`
		From   time.Time `json:"valid_from"`
		Until  time.Time `json:"expiration_time"`
	}
	type certificate struct {
		CA    []details `json:"ca_cert"`
		Chain []details `json:"cert_chain"`
	}
	const day = 24 * time.Hour
	describe := func(source string, list []*x509.Certificate) []details {
		out := []details{}
		for _, c := range list {
			d := details{Path: source, Serial: c.SerialNumber.Text(16), Names: []name{}, Days: max(0, int64(time.Until(c.NotAfter)/day)), From: c.NotBefore.UTC(), Until: c.NotAfter.UTC()}
			for _, u := range c.URIs {
				d.Names = append(d.Names, name{URI: u.String()})
			}
			for _, n := range c.DNSNames {
				d.Names = append(d.Names, name{DNS: n})
			}
			for _, a := range c.IPAddresses {
				d.Names = append(d.Names, name{IP: a.String()})
			}
			out = append(out, d)
		}
		return out
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		out := []certificate{}
		for _, c := range p.Certs() {
			out = append(out, certificate{describe(c.Source, c.Roots), describe(c.Source, c.Chain)})
		}
		writeJSON(w, map[string]any{"certificates": out})
	}
}

// format is the form that the query asks for, the first of those there are if it asks for none; otherwise it says what there is.
func format(w http.ResponseWriter, r *http.Request, forms ...string) (string, bool) {
	f := cmp.Or(r.URL.Query().Get("format"), forms[0])
	if !slices.Contains(forms, f) {
		http.Error(w, fmt.Sprintf("format=%.40q is not supported: %s has %s", f, r.URL.Path, strings.Join(forms, ", ")), http.StatusBadRequest)
		return "", false
	}
	return f, true
}

// plain writes text as it is.
func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text)
}
