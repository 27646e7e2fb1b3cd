package v1

import "time"

// Why is GET /api/v1/why: what became of a request (?id=, also a trace), or of the last that failed (?last=, with ?service=,
// ?from= and ?to= of those that concern these).
type Why struct {
	Stories []Story `json:"stories"` // the newest first
	// Asked is how many proxies were asked. Silent are those that did not answer in time (and replicas, see SilentReplica): what they know
	// is missing.
	Asked  int      `json:"asked"`
	Silent []string `json:"silent,omitempty"`
}

// SilentReplica begins what is silent and no proxy: a replica of the control plane, by its address, whose proxies nobody has asked.
const SilentReplica = "the control plane at "

// Story is what became of one request or connection, the true cause first.
type Story struct {
	ID     string    `json:"id,omitempty"` // x-request-id
	Trace  string    `json:"trace,omitempty"`
	Time   time.Time `json:"time"`
	Method string    `json:"method,omitempty"`
	Target string    `json:"target"` // host and path, without query; of connections, the address
	Status int       `json:"status,omitempty"`

	// Cause is a code of `weir explain`; ok, or application_answered, if no proxy had a part in it. Text says it in a sentence,
	// Detail what TLS, the kernel or the details have to add, Remedy what to do about it.
	Cause  string `json:"cause"`
	Text   string `json:"text"`
	Detail string `json:"detail,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	Docs   string `json:"docs,omitempty"`
	// At is the workload whose proxy knows it, Hop its place in Hops.
	At  string `json:"at,omitempty"`
	Hop int    `json:"hop"`
	// Decided are the objects that decided, the one to change first.
	Decided []Decider `json:"decided,omitempty"`
	// Stopped is what ended the attempts of the caller's proxy, nil: nothing did.
	Stopped *Stopped `json:"stopped,omitempty"`
	// Limit is the limit that was reached, with how far the proxy that refused uses it by now; nil: it was none, or that proxy says nothing.
	Limit *Limit `json:"limit,omitempty"`
	// Unknown is what nobody could say.
	Unknown string `json:"unknown,omitempty"`
	// Others is how many more like this there were among those that were looked at.
	Others int `json:"others,omitempty"`

	Hops []Hop `json:"hops"` // from the client on
}

// Stopped is why a request that failed was not tried again.
type Stopped struct {
	// By is policy, condition, attempts, budget, body, answer, deadline, upstream or caller; Text says it in a sentence.
	By   string `json:"by"`
	Text string `json:"text"`
	// Decided is the object that sets the limit; nil: a default, or no limit's doing.
	Decided *Decider `json:"decided,omitempty"`
}

// Decider is an object that decided something about a request.
type Decider struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Field     string `json:"field,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	// Hash names the content that decided, where that is known.
	Hash string `json:"hash,omitempty"`
	// Since is when the version that is in force now came into force, if the control plane has seen that. Changed says that
	// another one decided: the one before it, or if it is Behind, an older one that the proxy still had. Gone says that there is
	// no such object any more.
	Since   *time.Time `json:"since,omitempty"`
	Changed bool       `json:"changed,omitempty"`
	Behind  bool       `json:"behind,omitempty"`
	Gone    bool       `json:"gone,omitempty"`
	// Quarantined says that the object as it is written is refused, and that its last good version is in force.
	Quarantined bool `json:"quarantined,omitempty"`
}

// Hop is what one proxy recorded.
type Hop struct {
	Proxy    string    `json:"proxy"`    // node
	Workload string    `json:"workload"` // namespace/name
	Side     string    `json:"side"`     // source or destination
	Peer     string    `json:"peer,omitempty"`
	Identity string    `json:"identity,omitempty"` // that the peer proved
	Service  string    `json:"service,omitempty"`
	Security string    `json:"security,omitempty"` // plaintext, mtls, tls
	Time     time.Time `json:"time"`
	Status   int       `json:"status,omitempty"`
	Flags    string    `json:"flags,omitempty"`
	Cause    string    `json:"cause,omitempty"`
	Details  string    `json:"details,omitempty"`
	Client   string    `json:"client,omitempty"`
	Asked    string    `json:"asked,omitempty"`
	// Milliseconds since Time.
	RequestEnded  float64    `json:"requestEnded,omitempty"`
	ResponseBegan float64    `json:"responseBegan,omitempty"`
	Ended         float64    `json:"ended"`
	Decisions     []Decision `json:"decisions,omitempty"`
	Attempts      int        `json:"attempts,omitempty"`
	Tries         []Try      `json:"tries,omitempty"` // the first three attempts and the last
}

// Decision is one step of a proxy.
type Decision struct {
	Stage  string `json:"stage"` // listener, host, route, cluster
	Name   string `json:"name,omitempty"`
	Object string `json:"object,omitempty"`
	Hash   string `json:"hash,omitempty"` // of the object's content
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
}

// Try is one attempt at an endpoint.
type Try struct {
	Endpoint string `json:"endpoint"`
	Local    string `json:"local,omitempty"` // the proxy's address on the connection; empty: there was none
	Cause    string `json:"cause,omitempty"`
	Failure  string `json:"failure,omitempty"`
	Status   int    `json:"status,omitempty"` // of an answer
	// Requests the connection had carried before, and its age in milliseconds.
	Requests int     `json:"requests"`
	Age      float64 `json:"age"`
	Began    float64 `json:"began"` // milliseconds since the hop's time
	Ended    float64 `json:"ended"`
}
