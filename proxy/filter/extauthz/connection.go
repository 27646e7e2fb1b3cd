package extauthz

import (
	"slices"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe"
)

// Connections is a filter that asks about connections before a byte of them is passed on, by gRPC, immutable. Fields name
// those of envoy.extensions.filters.network.ext_authz.v3.ExtAuthz.
type Connections struct {
	Service
	FailureModeAllow bool
	TLSSession       bool // include_tls_session

	// When says which connections are asked about, and because of which policy; nil: all (filter_enabled_metadata).
	When func(*conn.Info) (policy string, ok bool)

	Counts *Counts
}

// Ruling is what became of a question about a connection.
type Ruling struct {
	Cause   causes.Cause     // NoCause: it may come
	Failure string           // why there was no answer
	Decided []observe.Origin // because of whom somebody was asked, where it may not come
}

// Applies reports whether a connection is asked about.
func (c *Connections) Applies(info *conn.Info) bool {
	if c.When == nil {
		return true
	}
	_, ok := c.When(info)
	return ok
}

// Passed counts a connection that is not asked about.
func (c *Connections) Passed() { c.Counts.Disabled.Add(1) }

// Ask asks about a connection that came at start. told is called once, on the loop and after Ask has returned, unless the question was
// withdrawn before.
func (c *Connections) Ask(w *http.Worker, info *conn.Info, start time.Time, who observe.Deciders, told func(Ruling)) (withdraw func()) {
	k := http.Call{Cluster: c.Cluster, Timeout: c.Timeout, MaxAnswer: maxAnswer, Ask: func(q *message.Request, a *message.Arena, b []byte) []byte {
		return c.question(q, a, b, &authv3.CheckRequest{Attributes: c.about(info, start)})
	}}
	return w.Call(k, func(a *http.Answer) {
		r := c.rule(a)
		if r.Cause != causes.NoCause {
			r.Decided = c.decided(info, who)
		}
		told(r)
	})
}

// Again refuses a connection under way that would be asked about now, and that nobody at the same place was asked about by was when it
// came: whoever comes again is asked about. Who was let in is not asked about again.
func (c *Connections) Again(info *conn.Info, was []*Connections, now observe.Deciders) http.Refusal {
	if !c.Applies(info) || slices.ContainsFunc(was, func(old *Connections) bool { return old.Cluster == c.Cluster && old.Applies(info) }) {
		return http.Refusal{}
	}
	return http.Refusal{Cause: causes.ExtAuthzError, Details: notAsked, Decided: c.decided(info, now)}
}

// decided is the object because of which somebody is asked about a connection.
func (c *Connections) decided(info *conn.Info, who observe.Deciders) []observe.Origin {
	if c.When == nil {
		return nil
	}
	policy, _ := c.When(info)
	return who.Policy(strings.TrimPrefix(policy, customPolicy))
}

// about describes a connection (AttributeContext).
func (c *Connections) about(info *conn.Info, start time.Time) *authv3.AttributeContext {
	return peers(info, info.Remote, c.TLSSession, &authv3.AttributeContext_Request{Time: timestamppb.New(start)})
}

// rule reads an answer. What a yes wants changed in a request is nobody's business here, as in Envoy.
func (c *Connections) rule(a *http.Answer) Ruling {
	r, ok := answered(a)
	switch {
	case ok && r.GetStatus().GetCode() == 0:
		c.Counts.OK.Add(1)
		return Ruling{}
	case ok:
		c.Counts.Denied.Add(1)
		return Ruling{Cause: causes.ExtAuthzDenied}
	}
	c.Counts.Error.Add(1)
	if c.FailureModeAllow && a.Cause != causes.ClusterNotFound { // that nobody can be asked is no failure of the service's
		c.Counts.FailureModeAllowed.Add(1)
		return Ruling{}
	}
	out := Ruling{Cause: causes.ExtAuthzError}
	if a.Cause != causes.NoCause {
		out.Failure = a.Cause.Details()
	}
	return out
}
