package envoy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

// ListenerFilter chooses listeners; a zero field is any.
type ListenerFilter struct {
	Address string
	Port    uint32
	Type    string // HTTP, TCP or HTTP+TCP
}

type listener struct {
	Name       string  `json:"name"`
	Address    address `json:"address"`
	Additional []struct {
		Address address `json:"address"`
	} `json:"additional_addresses"`
	Chains  []chain  `json:"filter_chains"`
	Default *chain   `json:"default_filter_chain"`
	API     *apiPart `json:"api_listener"`
}

type apiPart struct {
	Listener typed `json:"api_listener"`
}

type chain struct {
	Name    string     `json:"name"`
	Match   chainMatch `json:"filter_chain_match"`
	Filters []struct {
		Name  string `json:"name"`
		Typed typed  `json:"typed_config"`
	} `json:"filters"`
}

type chainMatch struct {
	Port      *uint32  `json:"destination_port"`
	Ranges    []cidr   `json:"prefix_ranges"`
	Names     []string `json:"server_names"`
	Transport string   `json:"transport_protocol"`
	ALPN      []string `json:"application_protocols"`
}

type cidr struct {
	Prefix string `json:"address_prefix"`
	Len    int    `json:"prefix_len"`
}

// typed is the configuration of a network filter.
type typed struct {
	Type string `json:"@type"`
	// of a connection manager
	RDS struct {
		Name string `json:"route_config_name"`
	} `json:"rds"`
	Routes *routeConfig `json:"route_config"`
	// of a TCP proxy
	Cluster  string `json:"cluster"`
	Weighted struct {
		Clusters []weighted `json:"clusters"`
	} `json:"weighted_clusters"`
}

func (t *typed) http() bool { return strings.HasSuffix(t.Type, ".HttpConnectionManager") }
func (t *typed) tcp() bool  { return strings.HasSuffix(t.Type, ".TcpProxy") }

func (l *listener) chains() []chain {
	out := slices.Clone(l.Chains)
	if l.Default != nil {
		out = append(out, *l.Default)
	}
	return out
}

// kind is HTTP, TCP, HTTP+TCP or UNKNOWN. A chain that only closes connections is none.
func (l *listener) kind() string {
	http, tcp := l.API != nil, false
	for _, c := range l.chains() {
		for _, f := range c.Filters {
			http = http || f.Typed.http()
			tcp = tcp || f.Typed.tcp() && f.Typed.Cluster != "BlackHoleCluster"
		}
	}
	switch {
	case http && tcp:
		return "HTTP+TCP"
	case http:
		return "HTTP"
	case tcp:
		return "TCP"
	}
	return "UNKNOWN"
}

func (l *listener) addresses() []string {
	var out []string
	for _, a := range append([]address{l.Address}, additional(l)...) {
		s := a.Socket.Address
		if a.Pipe.Path != "" {
			s = a.String()
		}
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		out = []string{l.Name} // an API listener has a name only
	}
	return out
}

func additional(l *listener) (out []address) {
	for _, a := range l.Additional {
		out = append(out, a.Address)
	}
	return out
}

// Listeners are the listeners of a dump, by port, address and type, as resources and as
// a table: a row is a filter chain.
func Listeners(h *dump.Held, f ListenerFilter) ([]json.RawMessage, Table, error) {
	type entry struct {
		listener
		raw json.RawMessage
	}
	var all []entry
	for _, r := range h.Of(resource.ListenerType) {
		if r.Body == nil {
			continue
		}
		e := entry{raw: r.Body}
		if err := json.Unmarshal(r.Body, &e.listener); err != nil {
			return nil, Table{}, fmt.Errorf("listener %s: %w", r.Name, err)
		}
		if number(e.Address.Socket.Port, f.Port) && word(e.kind(), f.Type) && (f.Address == "" || slices.Contains(e.addresses(), f.Address)) {
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Address.Socket.Port, b.Address.Socket.Port), slices.Compare(a.addresses(), b.addresses()), strings.Compare(a.kind(), b.kind()))
	})
	t := Table{Head: []string{"ADDRESSES", "PORT", "MATCH", "DESTINATION"}}
	raw := []json.RawMessage{}
	for _, e := range all {
		raw = append(raw, e.raw)
		at, port := strings.Join(e.addresses(), ","), strconv.FormatUint(uint64(e.Address.Socket.Port), 10)
		if e.Address.Socket.Port == 0 {
			port = ""
		}
		if e.API != nil {
			t.Rows = append(t.Rows, []string{at, port, "ALL", e.API.Listener.destination()})
		}
		for _, c := range e.chains() {
			t.Rows = append(t.Rows, []string{at, port, c.Match.String(), c.destination()})
		}
	}
	return raw, t, nil
}

func (c *chain) destination() string {
	for i := range c.Filters {
		if f := &c.Filters[i].Typed; f.http() || f.tcp() {
			return f.destination()
		}
	}
	return "Non-HTTP/Non-TCP"
}

func (t *typed) destination() string {
	switch {
	case !t.http():
		return leadsTo(t.Cluster, t.Weighted.Clusters)
	case t.RDS.Name != "":
		return "Route: " + t.RDS.Name
	case t.Routes == nil:
		return "HTTP"
	}
	if len(t.Routes.Hosts) == 1 && slices.Equal(t.Routes.Hosts[0].Domains, []string{"*"}) && len(t.Routes.Hosts[0].Routes) == 1 {
		if r := t.Routes.Hosts[0].Routes[0]; r.matched() == "/*" && r.Route != nil && r.Route.Weighted == nil {
			return leadsTo(r.Route.Cluster, nil)
		}
	}
	var hosts []string
	for _, h := range t.Routes.Hosts {
		var routes []string
		for i := range h.Routes {
			routes = append(routes, h.Routes[i].matched())
		}
		s := strings.Join(routes, ", ")
		if !slices.Equal(h.Domains, []string{"*"}) {
			s = strings.Join(h.Domains, "/") + " " + s
		}
		hosts = append(hosts, s)
	}
	return "Inline Route: " + strings.Join(hosts, "; ")
}

// knownALPN are the lists of protocols that have a short name.
var knownALPN = map[string]string{
	"http/1.0,http/1.1,h2c":                                            "App: HTTP",
	"istio-http/1.0,istio-http/1.1,istio-h2":                           "App: HTTP TLS",
	"istio-peer-exchange,istio":                                        "App: TCP TLS",
	"istio,istio-http/1.0,istio-http/1.1,istio-h2":                     "App: Istio HTTP Plain",
	"http/1.0,http/1.1,h2c,istio-http/1.0,istio-http/1.1,istio-h2":     "App: HTTP TLS",
	"istio-http/1.0,istio-http/1.1,istio-h2,istio-peer-exchange,istio": "App: Istio TLS",
	"istio,istio-peer-exchange,istio-http/1.0,istio-http/1.1,istio-h2": "App: Istio TLS",
}

func (m *chainMatch) String() string {
	var out []string
	if len(m.Names) > 0 {
		out = append(out, "SNI: "+strings.Join(m.Names, ","))
	}
	if m.Transport != "" {
		out = append(out, "Trans: "+m.Transport)
	}
	if list := strings.Join(m.ALPN, ","); list != "" {
		out = append(out, cmp.Or(knownALPN[list], "App: "+list))
	}
	port := ""
	if m.Port != nil {
		port = ":" + strconv.FormatUint(uint64(*m.Port), 10)
	}
	var ranges []string
	for _, r := range m.Ranges {
		ranges = append(ranges, fmt.Sprintf("%s/%d", r.Prefix, r.Len))
	}
	switch {
	case len(ranges) > 0:
		out = append(out, "Addr: "+strings.Join(ranges, ",")+port)
	case port != "":
		out = append(out, "Addr: *"+port)
	}
	if len(out) == 0 {
		return "ALL"
	}
	return strings.Join(out, "; ")
}
