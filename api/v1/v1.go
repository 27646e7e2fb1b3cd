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
	Proxies     []Proxy    `json:"proxies"`
	Findings    []Finding  `json:"findings"`
	Analyzed    bool       `json:"analyzed"` // findings across objects are about this version
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
	// Proxies are all that are connected, whether the object concerns them or not: each of
	// them gets the whole configuration (as of 2026-11). Active are those that have accepted
	// all of Mesh or a newer version.
	Proxies  int       `json:"proxies"`
	Active   int       `json:"active"`
	Findings []Finding `json:"findings,omitempty"`
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
