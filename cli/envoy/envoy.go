// Package envoy makes tables of what a proxy says about itself, with istioctl's columns.
//
// A dump.Held (from /config_dump) or the answer of /clusters?format=json enters, chosen
// resources and Tables of text leave. It knows Envoy's JSON and not who wrote it: our
// proxy, Envoy, or a file that somebody sent in. Pure functions, for any goroutine.
package envoy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Table is a head and rows.
type Table struct {
	Head []string
	Rows [][]string
}

// The parts of Envoy's messages that columns are made of. Fields that are not here are
// passed over, so that newer proxies can be looked at.

type address struct {
	Socket struct {
		Address string `json:"address"`
		Port    uint32 `json:"port_value"`
	} `json:"socket_address"`
	Pipe struct {
		Path string `json:"path"`
	} `json:"pipe"`
}

func (a *address) String() string {
	if a.Pipe.Path != "" {
		return "unix://" + a.Pipe.Path
	}
	if strings.Contains(a.Socket.Address, ":") {
		return fmt.Sprintf("[%s]:%d", a.Socket.Address, a.Socket.Port)
	}
	return fmt.Sprintf("%s:%d", a.Socket.Address, a.Socket.Port)
}

type metadata struct {
	Filter struct {
		Istio struct {
			Config string `json:"config"`
		} `json:"istio"`
	} `json:"filter_metadata"`
}

// object is the configuration object that a resource was made of, as name.namespace.
func (m *metadata) object() string {
	// "/apis/networking.istio.io/v1alpha3/namespaces/NS/virtual-service/NAME"
	parts := strings.Split(m.Filter.Istio.Config, "/")
	for i, p := range parts {
		if p == "namespaces" && i+3 < len(parts) {
			return parts[i+3] + "." + parts[i+1]
		}
	}
	return ""
}

type route struct {
	Match struct {
		Prefix    *string         `json:"prefix"`
		Path      *string         `json:"path"`
		Separated *string         `json:"path_separated_prefix"`
		Regex     *regex          `json:"safe_regex"`
		Connect   json.RawMessage `json:"connect_matcher"`
	} `json:"match"`
	Route *struct {
		Cluster  string `json:"cluster"`
		Weighted *struct {
			Clusters []weighted `json:"clusters"`
		} `json:"weighted_clusters"`
	} `json:"route"`
	Direct *struct {
		Status int `json:"status"`
	} `json:"direct_response"`
	Redirect json.RawMessage `json:"redirect"`
	Metadata metadata        `json:"metadata"`
}

type regex struct {
	Regex string `json:"regex"`
}

type weighted struct {
	Name   string `json:"name"`
	Weight uint32 `json:"weight"`
}

type virtualHost struct {
	Name    string   `json:"name"`
	Domains []string `json:"domains"`
	Routes  []route  `json:"routes"`
}

type routeConfig struct {
	Name  string        `json:"name"`
	Hosts []virtualHost `json:"virtual_hosts"`
}

// matched is what a route matches, by path: headers are not shown, as in istioctl.
func (r *route) matched() string {
	m := r.Match
	switch {
	case m.Path != nil:
		return *m.Path
	case m.Separated != nil:
		return *m.Separated + "/*"
	case m.Regex != nil:
		return "regex " + m.Regex.Regex
	case m.Prefix != nil:
		return *m.Prefix + "*"
	case m.Connect != nil:
		return "CONNECT"
	}
	return "*"
}

// leadsTo is where a cluster name, or several, are.
func leadsTo(name string, all []weighted) string {
	if len(all) > 0 {
		var parts []string
		for _, w := range all {
			parts = append(parts, w.Name+"="+strconv.FormatUint(uint64(w.Weight), 10))
		}
		return "Weighted: " + strings.Join(parts, ", ")
	}
	if strings.Contains(name, "Cluster") && !strings.Contains(name, "|") { // PassthroughCluster, BlackHoleCluster, …
		return name
	}
	return "Cluster: " + name
}

// number compares a port with what was asked for; 0 is any.
func number(port, asked uint32) bool { return asked == 0 || port == asked }

// word compares without case; "" is any.
func word(s, asked string) bool { return asked == "" || strings.EqualFold(s, asked) }

// ClusterName is a cluster's name taken apart: direction|port|subset|host. Other names are
// a host alone.
type ClusterName struct {
	Direction, Port, Subset, Host string
}

// ParseClusterName reads Istio's names of clusters.
func ParseClusterName(s string) ClusterName {
	p := strings.Split(s, "|")
	if len(p) != 4 {
		return ClusterName{Host: s}
	}
	return ClusterName{p[0], p[1], p[2], p[3]}
}

func sortRows(rows [][]string) {
	slices.SortStableFunc(rows, slices.Compare[[]string])
}
