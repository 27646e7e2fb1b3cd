// Package route decides where a request goes: virtual hosts by authority, then the
// first entry whose match holds.
//
// proxy/state builds Tables from RouteConfiguration; an exchange calls Match with its
// parsed request and gets an Entry. A Table is immutable and shared by all workers;
// Match allocates nothing. Clusters are named by dense ID, so that a Table stays the
// same when clusters change.
package route

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe"
)

// Table is one RouteConfiguration.
type Table struct {
	Name    string
	Version string
	// OnDemand says that its virtual hosts are resources of their own (VHDS), of which it
	// need not have all.
	OnDemand bool

	hosts    []*VirtualHost
	exact    map[string]*VirtualHost // authority as written in domains, lower case
	suffixes []wildcard              // "*.example.com", longest first
	prefixes []wildcard              // "example.*", longest first
	any      *VirtualHost            // "*"
	// IgnorePort drops ":port" of the authority before looking up (ignore_port_in_host_matching).
	ignorePort bool
}

type wildcard struct {
	part string
	host *VirtualHost
}

// VirtualHost is a set of domains with its routes.
type VirtualHost struct {
	Name    string
	Domains []string
	Entries []*Entry
	// Sources are the objects that Entries came from, each once.
	Sources []observe.Origin
	// AttemptCount adds x-envoy-attempt-count to requests.
	AttemptCount bool
	// RateRules make descriptors of requests.
	RateRules []RateRule
	// AnswerAttempts adds it to responses.
	AnswerAttempts bool
	// TellTimeout adds x-envoy-is-timeout-retry to further attempts: whether the one before took too long.
	TellTimeout bool
	// Use is when it was used, nil where nobody keeps account of that.
	Use *demand.Use
}

// Entry is one route. Exactly one of Forward, Redirect and Direct is set.
type Entry struct {
	Name   string
	Source observe.Origin
	Host   *VirtualHost

	When When

	Forward  *Forward
	Redirect *Redirect
	Direct   *Direct

	// Headers are the operations of route and virtual host, most specific first, as
	// Envoy applies them; those of a weighted cluster come before. With SpecificLast all of that is the other way round.
	Headers      []Headers
	SpecificLast bool
	// StatPrefix names the counters of the route; "": it has none.
	StatPrefix string
	// Fault injected on this route, nil none.
	Fault *Fault
	// CORS is what pages of other origins may do, nil: the proxy has no say in it.
	CORS *CORS
	// ExtAuthz is what is different here about asking who may come in, nil: nothing.
	ExtAuthz *ExtAuthz
	// RateLimit takes the place of the listener's local rate limit, nil: that holds.
	RateLimit *RateLimit
	// Session takes the place of the listener's, nil: that holds.
	Session *Session
	// Switches are the filters that are on or off here, whatever they are elsewhere.
	Switches []Switch
}

// Switch says whether a filter is off, by its name in the connection manager.
type Switch struct {
	Filter string
	Off    bool
}

// Off reports whether a filter is, that is so elsewhere.
func (e *Entry) Off(filter string, elsewhere bool) bool {
	for i := range e.Switches {
		if e.Switches[i].Filter == filter {
			return e.Switches[i].Off
		}
	}
	return elsewhere
}

// Session is StatefulSession: requests that belong together carry the address of the endpoint that they are for.
type Session struct {
	// By a cookie, with its attributes as cluster.CookieSuffix writes them, for requests whose path is Path or below it ("": all), for so long
	// (0: as long as the client likes); or by a header. Neither: there are no sessions.
	Cookie, SetCookie, Path string
	TTL                     time.Duration
	Header                  string
	// Strict: nowhere but there. Missing is the status of requests for an endpoint that there is not.
	Strict  bool
	Missing int
}

// ExtAuthz is ExtAuthzPerRoute.
type ExtAuthz struct {
	Disabled bool
	NoBody   bool              // the body is not shown
	Context  map[string]string // context_extensions
}

// Forward sends the request to a cluster.
type Forward struct {
	Clusters []Weighted
	Total    uint32 // sum of weights

	Timeout time.Duration // 0: none
	Idle    time.Duration // stream idle timeout of the route; 0: that of the connection manager
	Retry   *Retry        // nil: no retries
	// GRPC is how far the timeout that a gRPC request brings along takes the place of Timeout; nil: not at all.
	GRPC *Asked
	// StreamMax takes the place of the connection manager's bound of an exchange, 0: none; nil: that one holds.
	// StreamGRPC is how far a gRPC request's own timeout takes its place in turn; nil: not at all.
	StreamMax  *time.Duration
	StreamGRPC *Asked

	// Upgrades takes the place of what the connection manager says about these protocols (upgrade_configs).
	Upgrades []Upgrade

	// At most one of the three path changes is set.
	PrefixRewrite string // replaces the matched prefix (or the whole exact path)
	RegexRewrite  *regexp.Regexp
	Substitution  string // for RegexRewrite, in Go's form: ${1}
	HostRewrite   string // "" keeps the authority
	// HostHeader is a header whose value, if it is there, becomes the authority; "": none.
	HostHeader string
	// HostRegex makes the authority of the path as it was, with HostSubstitution; nil: it does not.
	HostRegex        *regexp.Regexp
	HostSubstitution string
	// HostOfEndpoint makes the authority the name of the endpoint that is asked, if it has one (auto_host_rewrite).
	HostOfEndpoint bool
	// TellHost adds what the authority was to x-forwarded-host where it is changed (append_x_forwarded_host).
	TellHost bool
	// NoCluster is the status of requests to a cluster that is not there (cluster_not_found_response_code).
	NoCluster int
	// Hash is what requests have in common that go to one endpoint, for clusters that do not say it themselves (hash_policy).
	Hash []cluster.HashKey

	// RateRules make descriptors of requests, those of the virtual host too with HostRules.
	RateRules []RateRule
	HostRules bool

	// Follow is which redirects are followed here (internal_redirect_policy); nil: none.
	Follow *Follow
	// Mirrors get copies (request_mirror_policies).
	Mirrors []Mirror
}

// Mirror is a cluster that gets a copy of requests, whose answers nobody reads.
type Mirror struct {
	Cluster     cluster.ID
	Name        string
	Header      string // names the cluster instead, as Weighted.Header
	Per1M       uint32 // of 1,000,000 requests
	AsSent      bool   // the authority gets no "-shadow" (disable_shadow_host_suffix_append)
	HostRewrite string // takes the place of the authority; "": that stays
}

// Follow is InternalRedirectPolicy.
type Follow struct {
	Most        uint32 // one after another
	Statuses    []int
	CrossScheme bool     // from http to https, or back
	Copy        []string // headers of the redirect that the next request has, or has not
}

// Upgrade says whether a protocol may be changed to.
type Upgrade struct {
	Name    string // lower case; "connect" is the method
	Enabled bool
	// Terminate, of connect, sends the payload to the endpoint as it is, instead of the request (connect_config).
	Terminate bool
}

// Asked is what becomes of a timeout that a request asks for.
type Asked struct {
	Max    time.Duration // 0: no limit
	Offset time.Duration // taken off, if anything is left then: the answer has to get back to the client
}

// Grant is the timeout for a request that asks for d, 0: for none. 0: there is none.
func (a *Asked) Grant(d time.Duration) time.Duration {
	if d > a.Offset {
		d -= a.Offset
	}
	if a.Max > 0 && (d == 0 || d > a.Max) {
		return a.Max
	}
	return d
}

// Weighted is one target of a Forward.
type Weighted struct {
	Cluster cluster.ID
	Name    string
	// Header is the one that names the cluster (cluster_header), lower case; Cluster and Name then say nothing. "": they do.
	Header  string
	Weight  uint32
	Headers *Headers
	// HostRewrite takes the place of the Forward's; "": that one holds.
	HostRewrite string
}

// Headers are header operations. Names are lower case.
type Headers struct {
	RequestSet, RequestAdd, RequestAddIfAbsent    []HeaderValue
	RequestRemove                                 []string
	ResponseSet, ResponseAdd, ResponseAddIfAbsent []HeaderValue
	ResponseRemove                                []string
}

// HeaderValue is a header with its value, possibly with operators.
type HeaderValue struct {
	Name      string
	Value     *observe.Format
	KeepEmpty bool // without it, a header whose value turns out to be empty is not sent
	IfPresent bool // one to set only takes the place of one that is there
}

// Redirect answers with a location.
type Redirect struct {
	Scheme, Host, Path, PrefixRewrite string // "" keeps the request's
	RegexRewrite                      *regexp.Regexp
	Substitution                      string
	Port                              uint16 // 0: none added
	StripQuery                        bool
	Status                            int
}

// Direct answers from the proxy.
type Direct struct {
	Status int
	Body   []byte
}

// Fault is delay and abort, as HTTPFault.
type Fault struct {
	Delay       time.Duration
	DelayPer1M  uint32 // of 1,000,000 requests
	AbortStatus int    // 0: none
	AbortGRPC   int    // grpc-status, -1: none
	AbortPer1M  uint32
	HeaderDelay bool // x-envoy-fault-delay-request may ask
	HeaderAbort bool
	// Cluster is whose requests alone are hit, "": all.
	Cluster string
}

// CORS is CorsPolicy: which origins may read answers, and what a preflight request is told.
type CORS struct {
	Origins                           []ValueMatch // one must match
	Methods, Headers, Exposed, MaxAge string       // "" says nothing
	Credentials                       bool
	// IgnoreUnmatched answers preflight requests of other origins, instead of leaving that to the upstream.
	IgnoreUnmatched bool
	Per1M           uint32 // of 1,000,000 requests (filter_enabled)
}

// RetryOn is a set of conditions.
type RetryOn uint32

// Conditions of retry_on.
const (
	On5xx RetryOn = 1 << iota
	OnGatewayError
	OnReset
	OnResetBeforeRequest
	OnConnectFailure
	OnEnvoyRateLimited
	OnRetriable4xx
	OnRefusedStream
	OnRetriableStatusCodes
	OnRetriableHeaders
	OnHTTP3PostConnectFailure
	OnCancelled // gRPC conditions
	OnDeadlineExceeded
	OnInternal
	OnResourceExhausted
	OnUnavailable
	// OnResetIdempotent is ours: OnReset, of requests that may be processed twice (RFC 9110 section 9.2.2).
	OnResetIdempotent
)

var retryOnNames = map[string]RetryOn{
	"5xx": On5xx, "gateway-error": OnGatewayError, "reset": OnReset, "reset-before-request": OnResetBeforeRequest,
	"connect-failure": OnConnectFailure, "envoy-ratelimited": OnEnvoyRateLimited, "retriable-4xx": OnRetriable4xx,
	"refused-stream": OnRefusedStream, "retriable-status-codes": OnRetriableStatusCodes,
	"retriable-headers": OnRetriableHeaders, "http3-post-connect-failure": OnHTTP3PostConnectFailure,
	"cancelled": OnCancelled, "deadline-exceeded": OnDeadlineExceeded, "internal": OnInternal,
	"resource-exhausted": OnResourceExhausted, "unavailable": OnUnavailable, "reset-idempotent": OnResetIdempotent,
}

// ParseRetryOn reads Envoy's comma list. Unknown words are returned; a number (Istio
// allows status codes in retryOn) is returned in codes.
func ParseRetryOn(list string) (on RetryOn, codes []int, unknown []string) {
	for w := range strings.SplitSeq(list, ",") {
		if w = strings.TrimSpace(w); w == "" {
			continue
		}
		if c, ok := retryOnNames[w]; ok {
			on |= c
		} else if code, err := strconv.Atoi(w); err == nil && code >= 100 && code <= 599 {
			codes = append(codes, code)
			on |= OnRetriableStatusCodes
		} else {
			unknown = append(unknown, w)
		}
	}
	return on, codes, unknown
}

// Retry says what is tried again.
type Retry struct {
	On            RetryOn
	StatusCodes   []int
	Attempts      uint32 // further tries after the first
	PerTryTimeout time.Duration
	PerTryIdle    time.Duration
	OtherHosts    bool // envoy.retry_host_predicates.previous_hosts
	HostAttempts  int  // host_selection_retry_max_attempts
	// OtherPriorities: after so many attempts each time another priority (envoy.retry_priorities.previous_priorities); 0: never.
	OtherPriorities int
	// Headers of answers that are retried with OnRetriableHeaders, and those of which a request must have one to be retried at all, if there
	// are any (retriable_headers, retriable_request_headers).
	Headers, Requests []ValueMatch
	BackoffBase       time.Duration
	BackoffMax        time.Duration
	Eager             bool // nobody asked for a back-off: the first retry does not wait if its endpoint was not reached and there is another
}

// Retriable reports whether a response status is retried, given its grpc-status (-1
// none).
func (r *Retry) Retriable(status, grpcStatus int) bool {
	switch {
	case r.On&On5xx != 0 && status >= 500,
		r.On&OnGatewayError != 0 && status >= 502 && status <= 504,
		r.On&OnRetriable4xx != 0 && status == 409:
		return true
	}
	if r.On&OnRetriableStatusCodes != 0 {
		if slices.Contains(r.StatusCodes, status) {
			return true
		}
	}
	switch grpcStatus {
	case 1:
		return r.On&OnCancelled != 0
	case 4:
		return r.On&OnDeadlineExceeded != 0
	case 8:
		return r.On&OnResourceExhausted != 0
	case 13:
		return r.On&OnInternal != 0
	case 14:
		return r.On&OnUnavailable != 0
	}
	return false
}

// Wants reports whether requests like r are tried again at all.
func (r *Retry) Wants(h *message.Headers) bool {
	return len(r.Requests) == 0 || slices.ContainsFunc(r.Requests, func(m ValueMatch) bool { return m.HoldsIn(h) })
}

// RetriableHeader reports whether the response has a header that says it is retried.
func (r *Retry) RetriableHeader(h *message.Headers) bool {
	return r.On&OnRetriableHeaders != 0 && slices.ContainsFunc(r.Headers, func(m ValueMatch) bool { return m.HoldsIn(h) })
}

// Choose picks a weighted cluster with a random number.
func (f *Forward) Choose(rnd uint64) *Weighted {
	if len(f.Clusters) == 1 {
		return &f.Clusters[0]
	}
	at := uint32(rnd % uint64(max(f.Total, 1)))
	for i := range f.Clusters {
		w := &f.Clusters[i]
		if at < w.Weight {
			return w
		}
		at -= w.Weight
	}
	return &f.Clusters[len(f.Clusters)-1]
}

// New makes a table, to which hosts belongs from now on. Domains are indexed as Envoy orders them; a domain in two virtual
// hosts is an error that names both.
func New(name, version string, ignorePort bool, hosts []*VirtualHost) (*Table, error) {
	t := &Table{Name: name, Version: version, hosts: hosts, exact: map[string]*VirtualHost{}, ignorePort: ignorePort}
	for _, vh := range hosts {
		for _, e := range vh.Entries {
			if e.Host != vh { // a virtual host may be in use already, in a table before this one
				e.Host = vh
			}
		}
		for _, domain := range vh.Domains {
			if err := t.index(strings.ToLower(domain), vh); err != nil {
				return nil, fmt.Errorf("route configuration %q: %w", name, err)
			}
		}
	}
	longest := func(a, b wildcard) int { return len(b.part) - len(a.part) }
	slices.SortStableFunc(t.suffixes, longest)
	slices.SortStableFunc(t.prefixes, longest)
	return t, nil
}

func (t *Table) index(domain string, vh *VirtualHost) error {
	taken := func(by *VirtualHost) error {
		return fmt.Errorf("domain %q is in virtual hosts %q and %q", domain, by.Name, vh.Name)
	}
	add := func(list *[]wildcard, part string) error {
		for _, w := range *list {
			if w.part == part {
				return taken(w.host)
			}
		}
		*list = append(*list, wildcard{part, vh})
		return nil
	}
	switch {
	case domain == "*":
		if t.any != nil {
			return taken(t.any)
		}
		t.any = vh
	case strings.HasPrefix(domain, "*"):
		return add(&t.suffixes, domain[1:])
	case strings.HasSuffix(domain, "*"):
		return add(&t.prefixes, domain[:len(domain)-1])
	default:
		if by, ok := t.exact[domain]; ok {
			return taken(by)
		}
		t.exact[domain] = vh
	}
	return nil
}

// Holds reports whether a virtual host of that name is in the table. It is no question for
// every request.
func (t *Table) Holds(name []byte) bool {
	return slices.ContainsFunc(t.hosts, func(vh *VirtualHost) bool { return vh.Name == string(name) })
}

// Hosts yields the distinct virtual hosts, for the configuration dump.
func (t *Table) Hosts() []*VirtualHost {
	seen := map[*VirtualHost]bool{}
	var out []*VirtualHost
	add := func(vh *VirtualHost) {
		if vh != nil && !seen[vh] {
			seen[vh] = true
			out = append(out, vh)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(t.exact)) {
		add(t.exact[d])
	}
	for _, w := range slices.Concat(t.suffixes, t.prefixes) {
		add(w.host)
	}
	add(t.any)
	return out
}

// Matched says how the entry matches the path, for people.
func (e *Entry) Matched() (kind PathKind, path string) {
	if e.When.Regex != nil {
		return e.When.Kind, e.When.Regex.String()
	}
	return e.When.Kind, e.When.Path
}
