// Package ratelimit refuses requests that are more than a local rate limit lets pass (envoy.filters.http.local_ratelimit).
//
// What enters: a request whose route is known; the limit of its route, or the listener's. What leaves: 429, or the configured
// status, with the cause RequestRateLimited and flag RL. The buckets are shared by all workers; the stage keeps nothing.
package ratelimit

import (
	"strconv"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/ratelimit"
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

// Stage is the filter. own is the listener's limit.
func Stage(own *ratelimit.Limit) http.Stage {
	return http.Stage{Name: "local rate limit", Request: func(x *http.Exchange) http.Verdict {
		l := own
		if x.Route != nil && x.Route.RateLimit != nil {
			l = x.Route.RateLimit
		}
		if l.Bucket == nil || !hit(x, l.Per1M) {
			return http.Continue
		}
		return apply(x, l)
	}}
}

func hit(x *http.Exchange, share uint32) bool {
	return share >= perMillion || share > 0 && x.Worker().Loop().Rand()%perMillion < uint64(share)
}

func apply(x *http.Exchange, l *ratelimit.Limit) http.Verdict {
	now := x.Worker().Loop().Now()
	l.Counts.Enabled.Add(1)
	ok := l.Bucket.Take(now)
	if l.Tell {
		tell(x, l.Bucket, now)
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
		_, next := l.Bucket.Left(now)
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
