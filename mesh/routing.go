package mesh

import (
	"net/netip"
	"time"
)

// VirtualService says where requests to hosts go. Hosts are resolved to FQDNs; without any it
// is there for others to delegate to.
type VirtualService struct {
	Ref      Ref
	Hosts    []string
	Gateways []string // "mesh" or "namespace/name"; never empty
	HTTP     []HTTPRoute
	TLS      []TLSRoute
	TCP      []TCPRoute
	Visible  Visibility
}

// Mesh is the reserved gateway name that means every sidecar.
const Mesh = "mesh"

// HTTPRoute is one rule; the first whose Matches holds is used. No Matches: all.
type HTTPRoute struct {
	Name    string
	Line    int  // where the rule begins in Ref.File
	From    *Ref // the delegate that has the rule; nil: the VirtualService itself
	Matches []HTTPMatch
	Action  HTTPAction
	Timeout time.Duration // whole request, retries included; 0 is none
	Retries *RetryPolicy  // nil: Settings.DefaultRetries
	Fault   *Fault
	Rewrite *Rewrite
	Headers HeaderOps
	Mirrors []Mirror
	// MirrorList says that Mirrors are the object's mirrors, and not its mirror.
	MirrorList bool
	CORS       *CORS
}

// HTTPAction is exactly one of its fields.
type HTTPAction struct {
	Destinations []Destination
	Redirect     *Redirect
	Direct       *DirectResponse
	Delegate     Key // a VirtualService whose rules stand here; see Delegated
}

// HTTPMatch holds when all its set fields hold.
type HTTPMatch struct {
	Name            string
	URI             StringMatch
	IgnoreURICase   bool
	Scheme          StringMatch
	Method          StringMatch
	Authority       StringMatch
	Headers         []HeaderMatch // sorted by name
	WithoutHeaders  []HeaderMatch
	QueryParams     []HeaderMatch
	Port            uint16 // 0: any
	SourceLabels    Labels
	SourceNamespace string
	Gateways        []string // nil: those of the VirtualService
	StatPrefix      string   // "": what matches has no counters of its own
}

// HeaderMatch matches a header or query parameter by name (headers: lower case).
type HeaderMatch struct {
	Name  string
	Match StringMatch
}

// MatchKind is how a StringMatch compares.
type MatchKind uint8

// Kinds of StringMatch. Any is the unset match; Present needs the thing to exist.
const (
	Any MatchKind = iota
	Exact
	Prefix
	Regex // RE2, whole value
	Present
)

// StringMatch is one comparison.
type StringMatch struct {
	Kind  MatchKind
	Value string
}

// Destination is one weighted target.
type Destination struct {
	Host   string // FQDN
	Subset string
	Port   uint16 // 0: the service's only port
	Weight uint32 // share of the sum; a single destination has 100
	// Headers are applied only for this destination.
	Headers HeaderOps
}

// HeaderOps change request and response headers. Slices are sorted by name.
type HeaderOps struct {
	RequestSet, RequestAdd   []Header
	RequestRemove            []string
	ResponseSet, ResponseAdd []Header
	ResponseRemove           []string
}

// Header is a name (lower case) and a value.
type Header struct{ Name, Value string }

// Redirect answers with a location.
type Redirect struct {
	URI, PrefixRewrite, Authority, Scheme string // "" keeps the request's
	Port                                  uint32 // 0 keeps
	DerivePort                            string // "", "FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"
	Code                                  uint32 // 301 by default
}

// DirectResponse answers from the proxy.
type DirectResponse struct {
	Status uint32
	Body   []byte
}

// Rewrite changes path and authority before forwarding.
type Rewrite struct {
	URI        string // replaces the matched prefix, or the whole path
	Authority  string
	RegexMatch string // with RegexSubstitution (\1) instead of URI
	RegexSub   string
}

// SafeRetryOn cannot make anybody process a request twice who must not: it provably did not reach an application, or is
// idempotent by its method. The last word is ours (xds-profile.md); proxies that do not know it leave it out.
const SafeRetryOn = "connect-failure,refused-stream,reset-before-request,reset-idempotent"

// SafeRetries are what a mesh does where nobody says anything else.
func SafeRetries() RetryPolicy {
	return RetryPolicy{Attempts: 2, RetryOn: SafeRetryOn, IgnorePreviousHosts: true}
}

// RetryPolicy says what is tried again.
type RetryPolicy struct {
	Attempts              uint32 // further tries after the first; 0 is off
	PerTryTimeout         time.Duration
	RetryOn               string // Envoy's comma list and reset-idempotent; "": the mesh's
	RetryRemoteLocalities bool
	IgnorePreviousHosts   bool
	Backoff               time.Duration
}

// Fault is injected into requests that take the route.
type Fault struct {
	Delay        time.Duration
	DelayPercent float64 // 0..100; Delay 0 means no delay
	AbortStatus  uint32  // 0 means no abort
	AbortGRPC    string  // grpcStatus, "" none
	AbortPercent float64
}

// Mirror sends a copy and discards the answer.
type Mirror struct {
	To      Destination
	Percent float64
}

// CORS is a cross-origin policy.
type CORS struct {
	AllowOrigins             []StringMatch
	AllowMethods             []string
	AllowHeaders             []string
	ExposeHeaders            []string
	MaxAge                   time.Duration
	AllowCredentials         *bool
	IgnoreUnmatchedPreflight bool
}

// TLSRoute routes by SNI without looking inside.
type TLSRoute struct {
	Line    int
	Matches []L4Match
	Route   []Destination
}

// TCPRoute routes by address and port.
type TCPRoute struct {
	Line    int
	Matches []L4Match
	Route   []Destination
}

// L4Match holds when all its set fields hold.
type L4Match struct {
	SNIHosts           []string
	DestinationSubnets []netip.Prefix
	Port               uint16
	SourceLabels       Labels
	SourceNamespace    string
	Gateways           []string
}
