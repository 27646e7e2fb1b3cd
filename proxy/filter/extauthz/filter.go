// Package extauthz asks a service outside whether a request may pass (Envoy's ext_authz, which an AuthorizationPolicy with
// action CUSTOM becomes), by HTTP or by gRPC (envoy.service.auth.v3), or a connection (Connections, for proxy/tcp), by gRPC.
//
// What enters: a request whose route is known, and a Config that proxy/state made. What leaves: the request, as the service
// wants it changed; or the service's own answer to the client (cause ExtAuthzDenied); or, where the service gives no answer
// that can be used, status_on_error (ExtAuthzError), unless failure_mode_allow. Asking is an exchange of the worker's own;
// nothing waits but the request. The stages keep counts only and are shared by all workers.
package extauthz

import (
	"bytes"
	"strings"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

// maxAnswer bounds what is kept of an answer's body: it is a page that says no, or a message of headers.
const maxAnswer = 64 << 10

const perMillion = 1_000_000

// customPolicy begins the names of shadow policies because of which somebody is asked.
const customPolicy = "istio-ext-authz-"

// Stages are the filter: the body is waited for, then the question asked.
func (c *Config) Stages() []http.Stage {
	ask := http.Stage{Name: "ext_authz", Request: c.ask, Again: c.again, Of: c}
	if c.Body == nil {
		return []http.Stage{ask}
	}
	return []http.Stage{{Name: "ext_authz body", Request: func(x *http.Exchange) http.Verdict {
		if !c.shows(x) || !c.applies(x) {
			return http.Continue
		}
		return x.HoldForBody(c.Body.Max)
	}}, ask}
}

// applies reports whether the request is asked about, as far as its route and the filter's condition say.
func (c *Config) applies(x *http.Exchange) bool {
	if x.Route != nil && x.Route.ExtAuthz != nil && x.Route.ExtAuthz.Disabled {
		return false
	}
	if c.When == nil {
		return true
	}
	_, ok := c.When(x)
	return ok
}

// notAsked says of what was under way that nobody was asked.
var notAsked = causes.ExtAuthzError.Details() + "{not_asked}"

// again refuses a request under way that would be asked about now, and that nobody at the same place was asked about when it began: whoever
// makes it again is asked. Who was let in is not asked about again.
func (c *Config) again(x *http.Exchange, now *http.Config) http.Refusal {
	if c.Per1M < perMillion || !c.applies(x) || x.Passed(func(of any) bool {
		was, ok := of.(*Config)
		return ok && was.Cluster == c.Cluster && was.applies(x)
	}) {
		return http.Refusal{}
	}
	no := http.Refusal{Cause: causes.ExtAuthzError, Details: notAsked}
	if c.When != nil {
		policy, _ := c.When(x)
		no.Decided = now.Deciders.Policy(strings.TrimPrefix(policy, customPolicy))
	}
	return no
}

// decided notes the object because of which somebody was asked, now that the request is not let in.
func (c *Config) decided(x *http.Exchange) {
	if c.When != nil {
		policy, _ := c.When(x)
		x.Decided = x.Config.Deciders.Policy(strings.TrimPrefix(policy, customPolicy))
	}
}

// shows reports whether the service sees the body.
func (c *Config) shows(x *http.Exchange) bool {
	return c.Body != nil && (x.Route == nil || x.Route.ExtAuthz == nil || !x.Route.ExtAuthz.NoBody)
}

func (c *Config) ask(x *http.Exchange) http.Verdict {
	x.Request.Headers.RemoveName(partialBody) // nobody but us says so
	if !c.applies(x) || c.Per1M < perMillion && x.Worker().Loop().Rand()%perMillion >= uint64(c.Per1M) {
		c.Counts.Disabled.Add(1)
		return http.Continue
	}
	var body []byte
	partial := false
	if c.shows(x) {
		b, whole := x.Body()
		if body = b; len(b) > c.Body.Max {
			if !c.Body.Partial {
				c.decided(x)
				return x.Reply(causes.ExtAuthzTooLarge)
			}
			body = b[:c.Body.Max]
		}
		partial = !whole || len(body) < len(b)
	}
	k := http.Call{Cluster: c.Cluster, Timeout: c.Timeout, MaxAnswer: maxAnswer}
	if c.GRPC {
		k.Ask = func(q *message.Request, a *message.Arena, b []byte) []byte {
			return c.question(q, a, b, c.request(x, body, partial))
		}
		k.Then = c.answeredGRPC
	} else {
		k.Ask = func(q *message.Request, a *message.Arena, b []byte) []byte {
			c.askHTTP(x, q, a, partial)
			return append(b, body...)
		}
		k.Then = c.answeredHTTP
	}
	return x.Call(k)
}

// failed is for a service that gave no answer that can be used.
func (c *Config) failed(x *http.Exchange, why causes.Cause) http.Verdict {
	c.Counts.Error.Add(1)
	if c.FailureModeAllow && why != causes.ClusterNotFound { // that nobody can be asked is no failure of the service's

		c.Counts.FailureModeAllowed.Add(1)
		if c.FailureModeHeader {
			x.Request.Headers.SetName(failureModeAllowed, yes)
		}
		return http.Continue
	}
	return c.closed(x, why)
}

// closed denies, because nobody said yes.
func (c *Config) closed(x *http.Exchange, why causes.Cause) http.Verdict {
	if why != causes.NoCause {
		x.Failure = why.Details()
	}
	c.decided(x)
	status := causes.ExtAuthzError.Status()
	if c.StatusOnError != 0 {
		status = c.StatusOnError
	}
	return x.ReplyWith(causes.ExtAuthzError, status, nil)
}

const partialBody = "x-envoy-auth-partial-body"

var (
	partialBodyName    = []byte(partialBody)
	failureModeAllowed = []byte("x-envoy-auth-failure-mode-allowed")
	yes, no            = []byte("true"), []byte("false")
)

func said(b bool) []byte {
	if b {
		return yes
	}
	return no
}

// denied passes on the service's no.
func (c *Config) denied(x *http.Exchange, status int, body []byte) http.Verdict {
	c.Counts.Denied.Add(1)
	c.decided(x)
	if c.MaxDenied > 0 && len(body) > c.MaxDenied {
		body = body[:c.MaxDenied]
	}
	return x.ReplyWith(causes.ExtAuthzDenied, status, x.Arena().Copy(body))
}

// allowed lets the request pass, by another route if it was changed and that is wanted.
func (c *Config) allowed(x *http.Exchange, changed bool) http.Verdict {
	c.Counts.OK.Add(1)
	if changed && c.ClearRoute {
		return x.Reroute()
	}
	return http.Continue
}

// ours are headers that say how a message is framed, or whose it is: no service has a say in them.
func ours(name []byte) bool {
	switch string(name) {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length", "te", "trailer", "expect":
		return true
	}
	return false
}

// sound reports whether a header can stand in a message (RFC 9110 sections 5.1 and 5.5).
func sound(name, value []byte) bool {
	if len(name) == 0 || len(name) > 256 {
		return false
	}
	for _, b := range name {
		if message.LowerToken(b) != b {
			return false
		}
	}
	return !bytes.ContainsAny(value, "\r\n\x00")
}

// setRequest puts a header that the service gave into the request.
func setRequest(x *http.Exchange, name, value []byte, appends bool) {
	q, a := &x.Request, x.Arena()
	value = a.Copy(value)
	switch n := string(name); {
	case n == ":authority" || n == "host":
		q.Authority = value
	case n == ":path":
		q.Path = value
	case n == ":method":
		q.SetMethod(value)
	case ours(name) || name[0] == ':':
	case appends:
		q.Headers.AddName(a.Copy(name), value)
	default:
		q.Headers.SetName(a.Copy(name), value)
	}
}

// answer puts a header that the service gave into the response.
func answer(x *http.Exchange, name, value []byte, replaces bool) {
	if !ours(name) && name[0] != ':' {
		a := x.Arena()
		x.Answering(a.Copy(name), a.Copy(value), replaces)
	}
}
