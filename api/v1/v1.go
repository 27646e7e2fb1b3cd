// Package v1 is the control plane's HTTP API: the JSON that `weir` and others exchange
// with weir-control. Fields are only ever added.
package v1

import "time"

// Error is the body of every answer that is not a success.
type Error struct {
	Error string `json:"error"`          // what is wrong
	Hint  string `json:"hint,omitempty"` // what to do about it
}

// Status is GET /api/v1/status.
type Status struct {
	Version     string     `json:"version"` // of the control plane program
	Mesh        uint64     `json:"mesh"`    // version of the configuration now in force
	Started     time.Time  `json:"started"`
	TrustDomain string     `json:"trustDomain"`
	Watching    []string   `json:"watching"` // files and folders
	Counts      Counts     `json:"counts"`
	Workloads   []Workload `json:"workloads"`
	Proxies     []Proxy    `json:"proxies"`          // of all control planes of the mesh
	Silent      []string   `json:"silent,omitempty"` // control planes that did not say which proxies are connected to them
	Findings    []Finding  `json:"findings"`
	Busiest     []Changing `json:"busiest,omitempty"` // what changed most in the last whole minute, five at most
	Analyzed    bool       `json:"analyzed"`          // findings across objects are about this version
}

// Changing is what makes the control plane push: an object, or a service by its endpoints.
type Changing struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Changes   int    `json:"changes"` // in the last whole minute
}

// Counts of what is configured.
type Counts struct {
	Services  int `json:"services"`
	Workloads int `json:"workloads"`
	Objects   int `json:"objects"`
	Errors    int `json:"errors"` // findings by severity
	Warnings  int `json:"warnings"`
}

// Workload is one running instance.
type Workload struct {
	Namespace      string            `json:"namespace"`
	Name           string            `json:"name"`
	Owner          string            `json:"owner,omitempty"`
	Addresses      []string          `json:"addresses"`
	ServiceAccount string            `json:"serviceAccount"`
	Identity       string            `json:"identity"`
	Labels         map[string]string `json:"labels,omitempty"`
	Health         string            `json:"health"` // healthy, unhealthy, draining
	Proxied        bool              `json:"proxied"`
}

// Service is one service with its endpoints.
type Service struct {
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Hostname  string        `json:"hostname"`
	Addresses []string      `json:"addresses,omitempty"`
	Ports     []ServicePort `json:"ports"`
	Index     uint32        `json:"index"`

	Kind       string            `json:"kind,omitempty"` // Service or ServiceEntry
	File       string            `json:"file,omitempty"`
	Line       int               `json:"line,omitempty"`
	External   bool              `json:"external,omitempty"`   // outside the mesh
	Resolution string            `json:"resolution,omitempty"` // static, dns, dnsRoundRobin, passthrough
	Selector   map[string]string `json:"selector,omitempty"`
}

// ServicePort is a port of a Service.
type ServicePort struct {
	Number    uint16   `json:"number"`
	Name      string   `json:"name,omitempty"`
	Protocol  string   `json:"protocol,omitempty"` // "" is to be detected
	Endpoints []string `json:"endpoints"`          // addresses that take requests

	Backends []Backend `json:"backends"` // all there are
}

// Backend is one address that serves a ServicePort.
type Backend struct {
	Address  string `json:"address"`
	Workload string `json:"workload,omitempty"` // namespace/name; "" if it is only an address
	Version  string `json:"version,omitempty"`
	Health   string `json:"health"` // healthy, unhealthy, draining
	Locality string `json:"locality,omitempty"`
	Identity string `json:"identity,omitempty"` // expected of it
	Proxied  bool   `json:"proxied"`            // its proxy speaks mesh mTLS
	Weight   uint32 `json:"weight"`
	Port     uint16 `json:"port,omitempty"` // the workload's own, as policies count it; 0: not known
}

// Proxy is one connected proxy.
type Proxy struct {
	Node      string      `json:"node"` // type~ip~name.namespace~domain
	Name      string      `json:"name"` // namespace/name of its workload
	Identity  string      `json:"identity"`
	Connected time.Time   `json:"connected"`
	Latest    uint64      `json:"latest"`           // configuration version published to it
	Active    uint64      `json:"active"`           // version it has accepted all of
	Behind    *time.Time  `json:"behind,omitempty"` // since when Active is older than Latest
	BytesSent uint64      `json:"bytesSent"`
	Rejected  []Rejection `json:"rejected,omitempty"`
}

// SilentHeader of GET /api/v1/proxies names each control plane of the mesh that did not say which proxies are connected to it.
const SilentHeader = "Weir-Silent"

// ProxyStatus is one of GET /api/v1/proxies, of whichever control plane of the mesh: a proxy with the state of its streams.
type ProxyStatus struct {
	Proxy
	Kind         string     `json:"kind"`              // sidecar, router; grpc for a program that speaks xDS itself
	Cluster      string     `json:"cluster,omitempty"` // its cluster's name
	Version      string     `json:"version,omitempty"` // program and version: "weir-proxy 0.3.0"
	Address      string     `json:"address"`           // it connected from
	ControlPlane string     `json:"controlPlane"`      // it is connected to
	Protocol     string     `json:"protocol"`          // delta, or sotw: state of the world
	Types        []SyncType `json:"types"`
}

// SyncType says how far a proxy is with one type of resources.
type SyncType struct {
	Type       string `json:"type"` // CDS, EDS, LDS, RDS, …
	State      string `json:"state"`
	Subscribed int    `json:"subscribed"` // resources
	Sent       uint64 `json:"sent"`       // configuration version of the last response
	ACKed      uint64 `json:"acked"`      // and of the last one it accepted
}

// States of a SyncType, as istioctl names them.
const (
	Synced  = "SYNCED"   // it has accepted what it is to hold
	NotSent = "NOT SENT" // there is nothing to send: of what it has subscribed to, or, on demand, because nothing was used yet
	Stale   = "STALE"    // something is on its way, or not answered
	Erred   = "ERROR"    // it refuses something as it is now
	Ignored = "IGNORED"  // it has not subscribed, and will not unless it is told to
)

// Rejection is what a proxy refused (NACK).
type Rejection struct {
	Type      string    `json:"type"` // CDS, EDS, LDS, RDS, …
	Resources []string  `json:"resources"`
	Message   string    `json:"message"`
	Time      time.Time `json:"time"`
	Current   bool      `json:"current"` // it still refuses them as they are
}

// GivenFile is the File of findings about documents that came in the request.
const GivenFile = "(applied)"

// Finding is one thing to know about one object or file.
type Finding struct {
	Code      string `json:"code"`
	Severity  string `json:"severity"` // error, warning, info
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Field     string `json:"field,omitempty"`
	Message   string `json:"message"`
	Hint      string `json:"hint,omitempty"`
	// By is the object that has what this one does not get, KIND NAMESPACE/NAME, and ByField
	// the part of it.
	By      string `json:"by,omitempty"`
	ByField string `json:"byField,omitempty"`
}

// Object is one configuration object with its receipt.
type Object struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	// State is compiled, quarantined, unenforced or ignored.
	State string `json:"state"`
	// LastGood says that an older version than the written one is in force.
	LastGood bool `json:"lastGood,omitempty"`
	// Since is when the version in force came into force, as mesh version Mesh.
	Since time.Time `json:"since"`
	Mesh  uint64    `json:"mesh"`
	// Proxies are the connected ones that need the object: they hold, or are to hold, some
	// resource made of it. Active are those of them that have accepted every such resource
	// in a version not older than Mesh.
	Proxies  int       `json:"proxies"`
	Active   int       `json:"active"`
	Findings []Finding `json:"findings,omitempty"`
}

// Receipt is what became of one object, in full: GET /api/v1/receipts/KIND/NAMESPACE/NAME.
type Receipt struct {
	Object
	Connected int `json:"connected"` // proxies
	// Everywhere says that every connected proxy that needs the object has it; Settled is
	// when that was so for the first time with this version of it.
	Everywhere bool       `json:"everywhere"`
	Settled    *time.Time `json:"settled,omitempty"`
	// Propagation is how long the change took, to those proxies that were connected when
	// it was made and had to be sent something.
	Propagation *Propagation `json:"propagation,omitempty"`
	// Missing are proxies that do not have it, with the reason; at most 100.
	Missing []Missing `json:"missing,omitempty"`
	// Shadowed are parts of the object that have no effect because of another object, or
	// another part of the same.
	Shadowed []Shadow `json:"shadowed,omitempty"`
	// Rules says of every rule of a VirtualService, at every place it is bound to, of every
	// server of a Gateway and of every part of a DestinationRule what became of it.
	Rules []Rule `json:"rules,omitempty"`
}

// Rule is what became of one rule in one place: State is active (Example is a call that gets
// to it, if one was found), shadowed (By has what it would get) or rejected; Why of those that
// are not active.
type Rule struct {
	Part    string `json:"part"`         // field path: spec.http[2]
	At      string `json:"at,omitempty"` // "mesh", or NAMESPACE/NAME of a Gateway; empty if there is but one place
	State   string `json:"state"`
	By      string `json:"by,omitempty"` // KIND NAMESPACE/NAME
	ByPart  string `json:"byPart,omitempty"`
	Why     string `json:"why,omitempty"`
	Example string `json:"example,omitempty"`
}

// Propagation says how long a change took to proxies. Quantiles are right to within 10 %.
type Propagation struct {
	Proxies int     `json:"proxies"`
	P50     float64 `json:"p50"` // seconds
	P99     float64 `json:"p99"`
}

// Missing is a proxy that does not have an object.
type Missing struct {
	Proxy string `json:"proxy"` // namespace/name of its workload
	// Why is rejected (NACK), behind (it has not answered yet) or disconnected: whether
	// that one needs the object is not known.
	Why       string     `json:"why"`
	Type      string     `json:"type,omitempty"` // CDS, EDS, LDS, RDS, …
	Resources []string   `json:"resources,omitempty"`
	Message   string     `json:"message,omitempty"` // of the NACK
	Since     *time.Time `json:"since,omitempty"`
}

// Shadow is a part of an object that has no effect.
type Shadow struct {
	Part    string `json:"part"` // field path: spec.http[2]
	By      string `json:"by"`   // KIND NAMESPACE/NAME
	ByPart  string `json:"byPart,omitempty"`
	Message string `json:"message"`
}

// ReceiptQuery is POST /api/v1/receipts: the answer is a list of Receipts, given when all
// of the objects are active everywhere, or after Timeout.
type ReceiptQuery struct {
	Objects []ObjectName `json:"objects"`
	Timeout string       `json:"timeout,omitempty"` // "5s"; at most 1m; empty does not wait
	// Absent waits for proxies that are not connected, too.
	Absent bool `json:"absent,omitempty"`
}

// ObjectName names an object.
type ObjectName struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Events is GET /api/v1/events.
type Events struct {
	Events []Event `json:"events"`
	Next   uint64  `json:"next"` // to ask for what comes after these: ?after=
}

// Event is something that happened to an object.
type Event struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"` // of the last, if it happened Count times in a row
	// Type is compiled, quarantined, unenforced, ignored or removed: what became of the
	// object; active: every proxy that needs it has it; rejected: a proxy refuses what was
	// made of it. Of services: ejected, unhealthy, probed, returned: a proxy set an endpoint
	// aside, or not any more.
	Type      string `json:"type"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Mesh      uint64 `json:"mesh"`
	Proxy     string `json:"proxy,omitempty"` // of rejected, and what services have
	Message   string `json:"message,omitempty"`
	Count     int    `json:"count"`
}

// ApplyResult is POST /api/v1/objects.
type ApplyResult struct {
	Objects []Applied `json:"objects"`
	// Findings are about the documents given; with an error among them nothing was written.
	Findings []Finding `json:"findings,omitempty"`
	Refused  bool      `json:"refused,omitempty"`
	DryRun   bool      `json:"dryRun,omitempty"`
	// Mesh is the version of the configuration in which the change is in force: what to
	// wait for. 0 if it was not in force yet when this was answered (the answer waits a
	// moment for it), and for a dry run.
	Mesh uint64 `json:"mesh,omitempty"`
}

// Applied says what became of one document.
type Applied struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Action is created, configured, unchanged, refused, or deleted.
	Action string `json:"action"`
	Note   string `json:"note,omitempty"` // what else there is to say about it
	// Line is where its text begins in what was given; findings about the object in force count from there.
	Line int `json:"line,omitempty"`
}

// Edges is GET /api/v1/edges: who talks to whom, as the proxies report it every 5 s. It is
// kept in memory for a day.
type Edges struct {
	Edges []Edge `json:"edges"`
	// Reporting are the proxies that report now. Lost counts requests and connections that
	// proxies counted without their edge, Dropped edges for which there was no room here.
	Reporting int    `json:"reporting"`
	Lost      uint64 `json:"lost"`
	Dropped   uint64 `json:"dropped"`
	// Silent are replicas of the control plane (see SilentReplica) that did not say what was reported to them.
	Silent []string `json:"silent,omitempty"`
}

// Edge is the traffic between two workloads, all replicas of each together, as one of the
// two sides saw it. Of an edge between two proxies there are two.
type Edge struct {
	Reporter    string  `json:"reporter"` // source or destination
	Source      EdgeEnd `json:"source"`
	Destination EdgeEnd `json:"destination"`
	Host        string  `json:"host,omitempty"`    // of the service that was called
	Service     string  `json:"service,omitempty"` // namespace/name; of a cluster without a service: the cluster
	// Port is the service's if the source reports, the workload's if the destination does.
	Port      uint32 `json:"port,omitempty"`
	Transport string `json:"transport,omitempty"` // plaintext, mtls, tls (any other that a proxy speaks); empty where nothing was sent
	Protocol  string `json:"protocol"`            // http, grpc, tcp

	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// What happened since First: requests, or connections of tcp, by outcome.
	Requests      uint64 `json:"requests"` // all
	ClientErrors  uint64 `json:"clientErrors,omitempty"`
	ServerErrors  uint64 `json:"serverErrors,omitempty"`
	ProxyErrors   uint64 `json:"proxyErrors,omitempty"` // answered by a proxy, or not at all
	SentBytes     uint64 `json:"sentBytes"`             // to the server
	ReceivedBytes uint64 `json:"receivedBytes"`         // from it
	// Durations: their sum, and counts up to 1, 5, 25, 100, 500, 2500 ms, and above.
	LatencySeconds float64  `json:"latencySeconds,omitempty"`
	LatencyCounts  []uint64 `json:"latencyCounts,omitempty"`
	// Recent are requests, and failures among them, of the last minute.
	Recent         uint64 `json:"recent"`
	RecentFailures uint64 `json:"recentFailures,omitempty"`
	// RecentLatency are LatencyCounts of the last minute.
	RecentLatency []uint64 `json:"recentLatency,omitempty"`
}

// EdgeEnd is one of the two, as far as it is known.
type EdgeEnd struct {
	Workload  string `json:"workload,omitempty"` // Deployment
	Namespace string `json:"namespace,omitempty"`
	Identity  string `json:"identity,omitempty"` // SPIFFE ID that was verified
	Version   string `json:"version,omitempty"`
}
