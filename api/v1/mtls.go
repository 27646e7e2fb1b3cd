package v1

import "time"

// MTLS is GET /api/v1/mtls: what every port of every workload accepts, who calls it in
// plaintext, and whether it could demand mutual TLS.
type MTLS struct {
	Time time.Time `json:"time"` // of the answer
	// Since is from when on all callers are known, to all control planes of the mesh; Window how far back callers count.
	Since  time.Time `json:"since"`
	Window string    `json:"window"` // "24h0m0s"
	// Silent are control planes of the mesh that did not say what they know.
	Silent []string `json:"silent,omitempty"`
	// Waited says that proxies were waited for that do not report on demand.
	Waited string `json:"waited,omitempty"`
	// Blockers stand against STRICT at every port, and are among those of each.
	Blockers []string   `json:"blockers,omitempty"`
	Ports    []MTLSPort `json:"ports"`
}

// MTLSPort is one port of all replicas of a workload.
type MTLSPort struct {
	Namespace string            `json:"namespace"`
	Workload  string            `json:"workload"`         // Deployment
	Labels    map[string]string `json:"labels,omitempty"` // that all its pods have, and that select it
	Port      uint16            `json:"port"`
	Mode      string            `json:"mode"` // STRICT, PERMISSIVE, DISABLE
	// Policies are the PeerAuthentications that say so, those of the workload first.
	Policies []MTLSPolicy `json:"policies,omitempty"`
	// Callers in plaintext within the window, the newest first.
	Callers []MTLSCaller `json:"callers,omitempty"`
	LastTLS time.Time    `json:"lastTLS,omitzero"` // the last call by mutual TLS
	// Blockers say what stands against STRICT; with none it is Ready.
	Blockers []string `json:"blockers,omitempty"`
	Ready    bool     `json:"ready"`
}

// MTLSCaller is who called in plaintext.
type MTLSCaller struct {
	Namespace string    `json:"namespace,omitempty"`
	Workload  string    `json:"workload,omitempty"` // "": nobody with a proxy
	Last      time.Time `json:"last"`
	Requests  uint64    `json:"requests"` // or connections, at least; since First
	First     time.Time `json:"first"`
}

// MTLSPolicy is a PeerAuthentication.
type MTLSPolicy struct {
	Level     string `json:"level"` // workload, namespace, mesh
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}
