package route

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/ratelimit"
)

// RateLimit is LocalRateLimit, of a listener or a route.
type RateLimit struct {
	Bucket *ratelimit.Bucket // nil: what has no descriptor is not limited
	// Descriptors have buckets of their own, nil: none has. Bucket counts requests with one too, unless OnlyOthers.
	Descriptors *ratelimit.Descriptors
	OnlyOthers  bool
	// Rules say which descriptors requests have; without any, those of route and virtual host that are of this stage do.
	Rules []RateRule
	Stage uint32
	Hosts HostRules

	Status int // of the refusal
	// Exhausted gives gRPC clients RESOURCE_EXHAUSTED instead of UNAVAILABLE.
	Exhausted bool
	// Per1M is the share of requests that are counted, Enforced1M that of those without a token which are refused.
	Per1M, Enforced1M uint32
	// Headers go into refusals, Unenforced into requests that pass without a token.
	Headers, Unenforced []LiteralHeader
	// RetryAfter says in refusals when there is a token.
	RetryAfter bool
	// Tell says how many are left (x-ratelimit headers, draft 3).
	Tell   bool
	Counts *ratelimit.Counts
}

// LiteralHeader is one to add, or to set.
type LiteralHeader struct {
	Name, Value []byte
	Replaces    bool
}

// HostRules says whether the rules of virtual hosts count (vh_rate_limits).
type HostRules uint8

// When they do.
const (
	HostRulesOtherwise HostRules = iota // where the route has none
	HostRulesToo
	HostRulesNever
)

// RateRule is a RateLimit of a route or virtual host: what of a request makes up a descriptor.
type RateRule struct {
	Stage   uint32
	Actions []RateAction
}

// MostRateRules and MostRateActions bound what is done for a request.
const (
	MostRateRules   = 16
	MostRateActions = 16
)

// RateActionKind says where the value of an entry comes from.
type RateActionKind uint8

// Kinds of actions.
const (
	RateFixed RateActionKind = iota // Value, always
	RateSource
	RateDestination
	RateHeader // of Name
	RateQuery
	RateAddress
	RateAddressMasked // to V4 or V6 bits
	RateClaim         // at Claims, or Value where that is given
	RateHeadersMatch  // Value, if all Matches hold
	RateQueryMatch
	RateAddressMatch // Value, of clients in Prefixes
)

// RateAction makes an entry of a descriptor.
type RateAction struct {
	Kind       RateActionKind
	Key, Value string
	Name       string
	Matches    []ValueMatch
	Prefixes   []netip.Prefix
	Invert     bool // of matches
	V4, V6     int
	Claims     []string
	// Skip: without the value the descriptor has no such entry; otherwise there is no descriptor.
	Skip bool
}

// RateFacts are what descriptors are made of.
type RateFacts struct {
	Request *message.Request
	Client  netip.Addr
	// Source and Destination are clusters, "" where there is none.
	Source, Destination string
	Arena               *message.Arena // for values that are made
}

// Append appends the entries of a request's descriptor to dst; false: it has none.
func (r *RateRule) Append(dst []ratelimit.Entry, f *RateFacts) ([]ratelimit.Entry, bool) {
	for i := range r.Actions {
		a := &r.Actions[i]
		v, ok := a.value(f)
		switch {
		case ok:
			dst = append(dst, ratelimit.Entry{Key: a.Key, Value: v})
		case !a.Skip:
			return dst, false
		}
	}
	return dst, len(dst) > 0
}

func (a *RateAction) value(f *RateFacts) ([]byte, bool) {
	switch a.Kind {
	case RateFixed:
		return bytesOf(a.Value), true
	case RateSource:
		return bytesOf(f.Source), f.Source != ""
	case RateDestination:
		return bytesOf(f.Destination), f.Destination != ""
	case RateHeader:
		if a.Name[0] == ':' || a.Name == "host" {
			return f.Request.Pseudo(a.Name)
		}
		v := f.Request.Headers.GetName(a.Name)
		return v, v != nil
	case RateQuery:
		_, query := f.Request.PathQuery()
		return queryValue(query, a.Name)
	case RateAddress:
		if !f.Client.IsValid() {
			return nil, false
		}
		return f.Arena.Close(f.Client.Unmap().AppendTo(f.Arena.Open(48))), true
	case RateAddressMasked:
		return a.masked(f)
	case RateClaim:
		return a.claim(f.Request)
	case RateHeadersMatch:
		all := !slices.ContainsFunc(a.Matches, func(m ValueMatch) bool { return !m.HoldsFor(f.Request) })
		return bytesOf(a.Value), all != a.Invert
	case RateQueryMatch:
		_, query := f.Request.PathQuery()
		all := !slices.ContainsFunc(a.Matches, func(m ValueMatch) bool { return !m.holds(queryValue(query, m.Name)) })
		return bytesOf(a.Value), all != a.Invert
	case RateAddressMatch:
		client := f.Client.Unmap()
		in := slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool { return p.Contains(client) })
		return bytesOf(a.Value), client.IsValid() && in != a.Invert
	}
	return nil, false
}

func (a *RateAction) masked(f *RateFacts) ([]byte, bool) {
	client, bits := f.Client.Unmap().WithZone(""), a.V6
	if client.Is4() {
		bits = a.V4
	}
	p, err := client.Prefix(bits)
	if err != nil {
		return nil, false
	}
	b := append(p.Addr().AppendTo(f.Arena.Open(52)), '/')
	return f.Arena.Close(strconv.AppendInt(b, int64(bits), 10)), true
}

func (a *RateAction) claim(r *message.Request) ([]byte, bool) {
	v := any(r.Claims)
	for _, name := range a.Claims {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	if s, _ := v.(string); s != "" {
		return bytesOf(s), true
	}
	return bytesOf(a.Value), a.Value != ""
}
