// Package ratelimit refuses requests that are more than a local rate limit lets pass (envoy.filters.http.local_ratelimit).
//
// What enters: a request whose route is known; the limit of its route, or the listener's. What leaves: 429, or the configured
// status, with the cause RequestRateLimited and flag RL. The buckets are shared by all workers; the stage keeps nothing.
package ratelimit

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/ratelimit"
	"github.com/weirmesh/weir/proxy/route"
)

const (
	perMillion = 1_000_000
	exhausted  = 8 // RESOURCE_EXHAUSTED (google.rpc.Code)
)

var (
	limitName     = []byte("x-ratelimit-limit")
	remainingName = []byte("x-ratelimit-remaining")
	resetName     = []byte("x-ratelimit-reset")
	retryAfter    = []byte("retry-after")
)

// Stage is the filter. own is the listener's limit, source the cluster that this proxy says it is of.
func Stage(own *route.RateLimit, source string) http.Stage {
	return http.Stage{Name: "local rate limit", Request: func(x *http.Exchange) http.Verdict {
		l := own
		if x.Route != nil && x.Route.RateLimit != nil {
			l = x.Route.RateLimit
		}
		if l.Bucket == nil && l.Descriptors == nil || !hit(x, l.Per1M) {
			return http.Continue
		}
		l.Counts.Enabled.Add(1)
		now := x.Worker().Loop().Now()
		b, ok := take(x, l, source, now)
		return apply(x, l, b, ok, now)
	}}
}

func hit(x *http.Exchange, share uint32) bool {
	return share >= perMillion || share > 0 && x.Worker().Loop().Rand()%perMillion < uint64(share)
}

// mostShares is how many descriptors a request may have: of its route, and of its virtual host.
const mostShares = 2 * route.MostRateRules

// take takes a token of each bucket that counts the request, the slowest first, until there is none, and returns the bucket that
// decided: that one, or the slowest. nil: no bucket counts it.
func take(x *http.Exchange, l *route.RateLimit, source string, now int64) (decided *ratelimit.Bucket, ok bool) {
	if l.Descriptors != nil {
		var room [mostShares]*ratelimit.Share
		for _, s := range shares(x, l, source, room[:0]) {
			if decided == nil {
				decided = s.Bucket
			}
			if !s.Take(now) && !s.Shadow {
				return s.Bucket, false
			}
		}
	}
	if l.Bucket == nil || decided != nil && l.OnlyOthers {
		return decided, true
	}
	if !l.Bucket.Take(now) {
		return l.Bucket, false
	}
	return cmp.Or(decided, l.Bucket), true
}

// shares appends the limits of the request's descriptors, the slowest first.
func shares(x *http.Exchange, l *route.RateLimit, source string, out []*ratelimit.Share) []*ratelimit.Share {
	f := route.RateFacts{Request: &x.Request, Client: x.Remote.Addr(), Source: source, Arena: x.Arena()}
	if x.Cluster != nil {
		f.Destination = x.Cluster.Name
	}
	if len(l.Rules) > 0 {
		return matching(l, l.Rules, &f, out, true)
	}
	if x.Route == nil || x.Route.Forward == nil {
		return out
	}
	own := x.Route.Forward.RateRules
	out = matching(l, own, &f, out, false)
	if x.Route.Forward.HostRules || l.Hosts == route.HostRulesToo || l.Hosts == route.HostRulesOtherwise && len(own) == 0 {
		out = matching(l, x.Route.Host.RateRules, &f, out, false)
	}
	return out
}

// matching is shares for some rules, of the stage of the limit or of every.
func matching(l *route.RateLimit, rules []route.RateRule, f *route.RateFacts, out []*ratelimit.Share, every bool) []*ratelimit.Share {
	for i := range rules {
		if !every && rules[i].Stage != l.Stage {
			continue
		}
		var room [route.MostRateActions]ratelimit.Entry
		entries, ok := rules[i].Append(room[:0], f)
		if !ok {
			continue
		}
		n := 0
		for _, e := range entries {
			n += len(e.Key) + len(e.Value) + 2*maxVarint
		}
		s := l.Descriptors.Find(entries, f.Arena.Open(n))
		if s == nil {
			continue
		}
		at := len(out)
		for at > 0 && s.Slower(out[at-1].Bucket) {
			at--
		}
		out = slices.Insert(out, at, s)
	}
	return out
}

// maxVarint is how much the length of a key or value takes in ratelimit.AppendKey.
const maxVarint = 4

func apply(x *http.Exchange, l *route.RateLimit, b *ratelimit.Bucket, ok bool, now int64) http.Verdict {
	if l.Tell && b != nil {
		tell(x, b, now)
	}
	if ok {
		l.Counts.OK.Add(1)
		return http.Continue
	}
	l.Counts.RateLimited.Add(1)
	if !hit(x, l.Enforced1M) {
		for _, h := range l.Unenforced {
			if h.Replaces {
				x.Request.Headers.SetName(h.Name, h.Value)
			} else {
				x.Request.Headers.AddName(h.Name, h.Value)
			}
		}
		return http.Continue
	}
	l.Counts.Enforced.Add(1)
	for _, h := range l.Headers {
		x.Answering(h.Name, h.Value, h.Replaces)
	}
	if l.RetryAfter {
		_, next := b.Left(now)
		a := x.Arena()
		x.Answering(retryAfter, a.Close(strconv.AppendInt(a.Open(20), seconds(next), 10)), true)
	}
	body := x.Arena().CopyString(causes.RequestRateLimited.Body())
	if l.Exhausted && x.IsGRPC() {
		return x.ReplyGRPC(causes.RequestRateLimited, exhausted, body)
	}
	return x.ReplyWith(causes.RequestRateLimited, l.Status, body)
}

// seconds rounds up: whoever comes then finds a token.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// tell says how many may come, how many are left, and in how many seconds there are more (draft-ietf-httpapi-ratelimit-headers-03).
func tell(x *http.Exchange, b *ratelimit.Bucket, now int64) {
	left, next := b.Left(now)
	a := x.Arena()
	number := func(n int64) []byte { return a.Close(strconv.AppendInt(a.Open(20), n, 10)) }
	x.Answering(limitName, number(b.Most()), true)
	x.Answering(remainingName, number(left), true)
	x.Answering(resetName, number(seconds(next)), true)
}
