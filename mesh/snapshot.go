// Package mesh is the plan: one immutable Snapshot of what the operator asked for and
// what is really there, in Weir's own words.
//
// Lowered objects enter (from config/istio and its siblings, and from registry),
// translate reads them. It is pure data: no clients, no look-ups elsewhere, no Envoy,
// Istio or Kubernetes types, so that every input language meets every output here.
// A Snapshot and everything reachable from it is never modified after it was
// published: any number of goroutines may read it. Objects that did not change keep
// their address from one Snapshot to the next, so pointer equality means "unchanged";
// the reverse need not hold.
package mesh

import (
	"slices"
	"strings"

	"github.com/weirmesh/weir/internal/persist"
)

// Key names an object inside its kind: "namespace/name", for services
// "namespace/hostname".
type Key string

// NewKey joins namespace and name.
func NewKey(namespace, name string) Key { return Key(namespace + "/" + name) }

// Split gives namespace and name back.
func (k Key) Split() (namespace, name string) {
	namespace, name, _ = strings.Cut(string(k), "/")
	return namespace, name
}

// Ref says where something came from: enough to tell a person which object and line.
type Ref struct {
	Kind      string `json:"kind,omitempty"` // "VirtualService"
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	File      string `json:"file,omitempty"` // as the user named it; empty if not from a file
	Line      int    `json:"line,omitempty"` // 1-based line where the object begins
	Hash      string `json:"-"`              // names the content, wherever it was read: comments, layout and place do not change it
	Created   int64  `json:"-"`              // creation order: "the oldest wins" needs it (Unix seconds, then Key)
}

// Snapshot is the whole plan at one moment.
type Snapshot struct {
	// Version grows by one with every published Snapshot of one control plane process.
	Version  uint64
	Settings *Settings

	Services  persist.Map[Key, *Service]
	Endpoints persist.Map[Key, *EndpointSet] // same keys as Services
	Workloads persist.Map[Key, *Workload]    // "namespace/name" of pod or WorkloadEntry

	VirtualServices  persist.Map[Key, *VirtualService]
	DestinationRules persist.Map[Key, *DestinationRule]
	Gateways         persist.Map[Key, *Gateway]
	PeerAuths        persist.Map[Key, *PeerAuthentication]
	Authorizations   persist.Map[Key, *AuthorizationPolicy]
	RequestAuths     persist.Map[Key, *RequestAuthentication]
	KeySets          persist.Map[string, *KeySet] // by URI, those that were fetched
	Sidecars         persist.Map[Key, *Sidecar]
	Secrets          persist.Map[Key, *Secret]
}

// TrustBundle are the roots, in PEM, by which alone certificates of a trust domain are judged.
type TrustBundle struct{ Domain, PEM string }

// Settings are mesh-wide (Istio's MeshConfig, as far as enforced).
type Settings struct {
	TrustDomain        string        // "cluster.local"
	TrustDomainAliases []string      // also accepted in peers' certificates
	TrustBundles       []TrustBundle // sorted by Domain, each once
	ClusterID          string        // "Kubernetes" unless told otherwise, as Istio's label source_cluster
	DomainSuffix       string        // "cluster.local": host names are <svc>.<ns>.svc.<suffix>
	RootNamespace      string        // "istio-system": mesh-wide policy lives there
	RegistryOnly       bool          // outboundTrafficPolicy REGISTRY_ONLY; false is ALLOW_ANY
	AccessLog          bool          // access log on standard output
	AccessLogFormat    string        // "" is Istio's default; text, or an object of JSON
	AccessLogJSON      bool          // lines are JSON
	DefaultRetries     RetryPolicy   // of routes that say nothing; its RetryOn also of those that name no conditions
	Defaults           Defaults
	Authorizers        []Authorizer    // whom policies with action CUSTOM ask
	Locality           *LocalityPolicy // where a DestinationRule has none; nil: localities make no difference
	Paths              PathNormalization
	Topology           Topology // of gateways that have none of their own
}

// Topology is what stands in front of a gateway: gatewayTopology of ProxyConfig.
type Topology struct {
	// TrustedProxies is how many proxies in front are believed to have appended to x-forwarded-for.
	TrustedProxies uint32
	// ClientCert is what becomes of x-forwarded-client-cert, by Istio's name for it; "" is SANITIZE_SET.
	ClientCert string
}

// MaxTrustedProxies is far more than stand in a row.
const MaxTrustedProxies = 100

// PathNormalization is what proxies make of a path before routes and policies see it and the next hop gets it. Each
// but PathsAsTheyCome includes those before it.
type PathNormalization uint8

// What MeshConfig may ask for.
const (
	PathsBase       PathNormalization = iota // RFC 3986: dot segments are resolved, backslashes are slashes
	PathsMerged                              // several slashes are one
	PathsDecoded                             // %2F and %5C are slashes, too
	PathsAsTheyCome                          // nothing
)

// Defaults hold where a DestinationRule says nothing. The zero value is Istio's of today.
type Defaults struct {
	Balancing        Balancing // "": LeastRequest
	PoolLimit        uint32    // of connections, waiting and active requests, and retries; 0: none
	GatewayErrors    bool      // outlier detection counts 502, 503 and 504, and no other 5xx
	MinHealthPercent uint32
}

// Visibility is exportTo. The zero value is "everywhere".
type Visibility struct {
	Limited    bool     // false: all namespaces
	Public     bool     // it says so itself: the mesh's default does not matter
	Namespaces []string // when limited: exactly these (own namespace resolved by name); empty means nowhere
}

// VisibleTo reports whether namespace ns may use the object.
func (v Visibility) VisibleTo(ns string) bool {
	if !v.Limited {
		return true
	}
	return slices.Contains(v.Namespaces, ns)
}

// Labels are a workload's labels.
type Labels map[string]string

// Selects reports whether a selector (every pair must be present) selects l.
// The empty selector selects everything.
func (selector Labels) Selects(l Labels) bool {
	for k, v := range selector {
		if got, ok := l[k]; !ok || got != v {
			return false
		}
	}
	return true
}
