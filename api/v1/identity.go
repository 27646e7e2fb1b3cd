package v1

import "time"

// Identity is GET /api/v1/identity: who signs certificates, what is trusted, and when the first
// thing breaks if nothing is done.
type Identity struct {
	Time           time.Time `json:"time"` // of the answer
	TrustDomain    string    `json:"trustDomain"`
	Aliases        []string  `json:"aliases,omitempty"` // further trust domains whose identities are accepted
	CertificateTTL string    `json:"certificateTTL"`    // of workloads' certificates: "24h0m0s"
	// SigningUntil is the end of the signing certificate and of those above it.
	SigningUntil time.Time `json:"signingUntil"`
	// SigningEnds is the certificate of which SigningUntil is the end.
	SigningEnds IdentityEnd `json:"signingEnds"`
	// External is somebody else's authority, which signs for workloads: the certificate above theirs that ends first, as far as one
	// was seen since the control plane started. Nil: the mesh's own signs.
	External *IdentityEnd `json:"external,omitempty"`
	// Succeeds says that the mesh makes a successor of its root by itself, in time.
	Succeeds bool `json:"succeeds"`
	// Problem says what is wrong with the authority's files, Notes what is coming into force.
	Problem string         `json:"problem,omitempty"`
	Notes   []string       `json:"notes,omitempty"`
	Roots   []IdentityRoot `json:"roots"`
	// Horizon is when the first thing breaks if nothing is done; null if nothing is in sight.
	Horizon *Horizon `json:"horizon"`
	// Silent are control planes of the mesh that did not say what they know: a workload may have renewed there.
	Silent []string `json:"silent,omitempty"`
	// Certificates are those known that have not ended, Workloads their holders, those that end first first.
	Certificates int                `json:"certificates"`
	Workloads    []IdentityWorkload `json:"workloads"`
	// Given are certificates that people put into the mesh, for gateways and for calls to others: those that end first first.
	Given []IdentityGiven `json:"given,omitempty"`
	// Unknown are connected workloads (namespace/name) of whose certificates nothing is known: their proxies say nothing, and no control
	// plane remembers to have issued one.
	Unknown []string `json:"unknown,omitempty"`
}

// IdentityRoot is a root that peers are judged by.
type IdentityRoot struct {
	Name     string    `json:"name"`
	Serial   string    `json:"serial"` // hexadecimal
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Signs    bool      `json:"signs,omitempty"`
	Succeeds bool      `json:"succeeds,omitempty"` // its key is the mesh's
	// Begins is when it signs, Retires when it is no longer trusted.
	Begins  time.Time `json:"begins,omitzero"`
	Retires time.Time `json:"retires,omitzero"`
}

// IdentityEnd is a certificate that ends.
type IdentityEnd struct {
	Name  string    `json:"name,omitempty"` // subject and serial number
	File  string    `json:"file,omitempty"` // of a plugged-in authority
	Until time.Time `json:"until,omitzero"`
}

// IdentityGiven is a certificate that somebody put into the mesh, and who has to put another there.
type IdentityGiven struct {
	Object string    `json:"object,omitempty"` // that names it: "Gateway shop/web"; "" if none that is known does
	Field  string    `json:"field,omitempty"`  // of Object: "spec.servers[0].tls.credentialName"
	Source string    `json:"source"`           // "Secret istio-system/web: tls.crt", "file /etc/certs/tls.crt"
	Name   string    `json:"name"`             // the certificate's subject
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Breaks string    `json:"breaks"` // what does, then
	// Workloads (namespace/name) read the file: some of Readers.
	Workloads []string `json:"workloads,omitempty"`
	Readers   int      `json:"readers,omitempty"`
}

// Horizon is the first thing that breaks.
type Horizon struct {
	Object string    `json:"object,omitempty"` // to be changed, if it is one: "Gateway shop/web"
	Field  string    `json:"field,omitempty"`
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Why    string    `json:"why"`
	Remedy string    `json:"remedy,omitempty"`
}

// IdentityWorkload is the holder of a certificate.
type IdentityWorkload struct {
	Identity  string    `json:"identity"`
	Workload  string    `json:"workload"` // pod, or the address it asked from
	From      time.Time `json:"from"`
	Until     time.Time `json:"until"`
	Connected bool      `json:"connected"`         // its proxy is connected to a control plane
	Reported  bool      `json:"reported"`          // its proxy said so; otherwise it is the newest that control planes remember to have issued
	Overdue   bool      `json:"overdue,omitempty"` // it should have renewed by now
	// LastError is why its last attempt to renew failed, as its proxy says, and when; empty: it did not, or the proxy does not say.
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
}

// Rehearsal is GET /api/v1/identity/rehearsal: the machines of the authority and of workloads, run ahead
// of time.
type Rehearsal struct {
	From    time.Time        `json:"from"`
	Until   time.Time        `json:"until"`
	Away    float64          `json:"away,omitempty"` // part of the time without an authority
	Issued  int              `json:"issued"`         // certificates, of three workloads
	Refused int              `json:"refused"`        // requests while nobody signed
	Events  []RehearsalEvent `json:"events"`         // what happens to roots
	Breaks  []RehearsalEvent `json:"breaks"`         // what goes wrong
}

// RehearsalEvent is something that happens.
type RehearsalEvent struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// TokenRequest is the body of POST /api/v1/identity/token.
type TokenRequest struct {
	Namespace      string `json:"namespace,omitempty"` // "": the control plane's own
	ServiceAccount string `json:"serviceAccount"`
	Workload       string `json:"workload,omitempty"` // the one workload it is for; "": any of the service account
	Audience       string `json:"audience,omitempty"` // "": istio-ca, the certificate authority
	TTL            string `json:"ttl,omitempty"`      // "": 1h
}

// Token is the answer: by Token a machine gets its first certificate. It is a secret.
type Token struct {
	Identity string    `json:"identity"`
	Workload string    `json:"workload,omitempty"`
	Audience string    `json:"audience"`
	Expires  time.Time `json:"expires"`
	ID       string    `json:"id"` // names the token in logs
	Token    string    `json:"token"`
}
