// Package cors answers preflight requests and marks answers that pages of other origins may
// read (Envoy's CorsPolicy, the CORS protocol of the Fetch standard).
//
// What enters: the policy of the request's route, and its origin. What leaves: a reply with
// the cause CORSPreflight, or headers of a response. The stage keeps nothing and is shared by
// all workers.
package cors

import (
	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

const perMillion = 1_000_000

var (
	allowOrigin      = []byte("access-control-allow-origin")
	allowCredentials = []byte("access-control-allow-credentials")
	allowMethods     = []byte("access-control-allow-methods")
	allowHeaders     = []byte("access-control-allow-headers")
	exposeHeaders    = []byte("access-control-expose-headers")
	maxAge           = []byte("access-control-max-age")
	yes              = []byte("true")
	star             = []byte("*") // an origin match that holds for it means all origins, as in Envoy
)

// Stage is the filter.
func Stage() http.Stage { return http.Stage{Name: "cors", Request: request, Response: response} }

// applies is the policy for a request of an origin; nil: nobody asks, or there is none.
func applies(x *http.Exchange) (*route.CORS, []byte) {
	if x.Route == nil || x.Route.CORS == nil {
		return nil, nil
	}
	origin := x.Request.Headers.Get(message.Origin)
	if len(origin) == 0 || len(x.Route.CORS.Origins) == 0 {
		return nil, nil
	}
	return x.Route.CORS, origin
}

func allowed(c *route.CORS, origin []byte) bool {
	for i := range c.Origins {
		if o := &c.Origins[i]; o.Holds(origin) || o.Holds(star) {
			return true
		}
	}
	return false
}

func preflight(q *message.Request) bool {
	return q.Method == message.OPTIONS && len(q.Headers.GetName("access-control-request-method")) > 0
}

func request(x *http.Exchange) http.Verdict {
	c, origin := applies(x)
	if c == nil || !preflight(&x.Request) || !chosen(x, c) || !allowed(c, origin) && !c.IgnoreUnmatched {
		return http.Continue
	}
	return x.ReplyWith(causes.CORSPreflight, 200, nil)
}

// chosen draws whether the policy is for this request.
func chosen(x *http.Exchange, c *route.CORS) bool {
	return c.Per1M >= perMillion || x.Worker().Loop().Rand()%perMillion < uint64(c.Per1M)
}

func response(x *http.Exchange) {
	c, origin := applies(x)
	if c == nil || !allowed(c, origin) {
		return
	}
	answer := x.Cause == causes.CORSPreflight
	if !answer && !chosen(x, c) {
		return
	}
	h, a := &x.Response.Headers, x.Arena()
	set := func(name []byte, value string) {
		if value != "" {
			h.SetName(name, a.CopyString(value))
		}
	}
	h.SetName(allowOrigin, origin)
	if c.Credentials {
		h.SetName(allowCredentials, yes)
	}
	if !answer {
		set(exposeHeaders, c.Exposed)
		return
	}
	set(allowMethods, c.Methods)
	set(allowHeaders, c.Headers)
	set(maxAge, c.MaxAge)
}
