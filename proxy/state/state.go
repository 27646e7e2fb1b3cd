package state

import (
	"iter"
	"maps"
	"slices"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/dns/names"
	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/route"
)

// State is everything the proxy decides by, at one moment. Exchanges and connections
// run to their end on the State they began with.
type State struct {
	// Generation grows by one with every State of a Builder.
	Generation uint64

	clusters  []*cluster.Cluster // by cluster.ID; nil where the name is only mentioned
	byName    map[string]cluster.ID
	tables    map[string]*route.Table
	listeners map[string]*Listener
	names     *names.Table
	view      *demand.View
	unheeded  map[string][]Unheeded // of filters of clusters
}

// Cluster returns the cluster of an ID, or nil if there is none now (cause NC).
func (s *State) Cluster(id cluster.ID) *cluster.Cluster {
	if id < 0 || int(id) >= len(s.clusters) {
		return nil
	}
	return s.clusters[id]
}

// ClusterNamed is Cluster by name, where only a request or connection says which. It does not keep the name.
func (s *State) ClusterNamed(name string) *cluster.Cluster {
	id, ok := s.byName[name]
	if !ok {
		return nil
	}
	return s.Cluster(id)
}

// Table returns a route table by the name of its RouteConfiguration, or nil.
func (s *State) Table(name string) *route.Table { return s.tables[name] }

// Tables yields the route tables in order of name.
func (s *State) Tables() iter.Seq[*route.Table] { return sorted(s.tables) }

// Clusters yields the clusters in order of name.
func (s *State) Clusters() iter.Seq[*cluster.Cluster] {
	return func(yield func(*cluster.Cluster) bool) {
		for _, n := range slices.Sorted(maps.Keys(s.byName)) {
			if c := s.Cluster(s.byName[n]); c != nil && !yield(c) {
				return
			}
		}
	}
}

// Listeners yields the listeners in order of name.
func (s *State) Listeners() iter.Seq[*Listener] { return sorted(s.listeners) }

// Listener is that of a name, nil if there is none.
func (s *State) Listener(name string) *Listener { return s.listeners[name] }

// Unheeded yields the settings of filters that have no effect, of listeners and clusters, in order.
func (s *State) Unheeded() iter.Seq[Unheeded] {
	return func(yield func(Unheeded) bool) {
		for l := range s.Listeners() {
			for _, u := range l.unheeded {
				if !yield(u) {
					return
				}
			}
		}
		for list := range sorted(s.unheeded) {
			for _, u := range list {
				if !yield(u) {
					return
				}
			}
		}
	}
}

// View is what is known of what is not held; nil: this is all there is.
func (s *State) View() *demand.View { return s.view }

// Names is the mesh's DNS table, nil if none was sent.
func (s *State) Names() *names.Table { return s.names }

func sorted[V any](m map[string]V) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(m[k]) {
				return
			}
		}
	}
}

// Skipped is an optional filter that nobody here knows.
type Skipped struct {
	Path    string `json:"path"` // "listener l.filter_chains[0].filters[0] http.http_filters[0] wasm"
	TypeURL string `json:"type"`
}

// Listener is one listener with what it needs to run.
type Listener struct {
	Name    string
	Version string
	Config  *listener.Config
	// Routes are the route tables its chains use by RDS, Secrets the secrets by SDS, Extensions the
	// configurations of filters by ECDS; it goes live when they exist. Config is nil while a secret
	// or an extension is awaited.
	Routes     []string
	Secrets    []SecretName
	Extensions []string
	// Skipped are optional filters that it does without.
	Skipped []Skipped

	unheeded []Unheeded
	files    []string             // of its certificates, keys and roots
	keys     []*jwtauthn.Source   // that the proxy fetches
	patience time.Duration        // for its route tables
	unserved int                  // how many chains take nobody for want of them
	source   *listenerv3.Listener // to make it again when one of them changes; nil without
}
