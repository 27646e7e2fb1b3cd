package http

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"unsafe"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/xds/ondemand"
)

// Match finds the route of the request, and its cluster. A request without one gets its reply from the router, so that
// the filters between see every request. It holds a request whose route is configuration on demand that is not there.
func Match() Stage {
	return Stage{Name: routeStage, Request: matchRoute}
}

const routeStage = "route"

func matchRoute(x *Exchange) Verdict {
	if x.find() {
		return Continue
	}
	if x.hold = x.w.o.Demand.Hold(x.lookAgain); x.hold == nil {
		return x.Reply(causes.DestinationConfigUnavailable)
	}
	if !x.hold.Keep(len(x.body)) {
		return x.crowd()
	}
	return Hold
}

// find finds the route; false: it has to be waited for.
func (x *Exchange) find() bool {
	t := x.table()
	if t == nil {
		return true
	}
	d := x.w.o.Demand
	vh, s := t.Lookup(x.Request.Authority)
	for t.OnDemand && s < ondemand.Exact && d != nil && d.Host(t, t.Name, x.Request.Authority, s) {
		if x.state == x.w.state {
			return false
		}
		x.state = x.w.state // what came since the request did
		if t = x.table(); t == nil {
			return true
		}
		vh, s = t.Lookup(x.Request.Authority)
	}
	x.Host, x.Route = vh, vh.Match(&x.Request, x.w.loop.Rand())
	x.use()
	if x.Route != nil && x.Route.Forward != nil {
		x.Target = x.Route.Forward.Choose(x.w.loop.Rand())
		x.Cluster = x.cluster(x.Target.Cluster, x.Target.Header)
		if x.Cluster != nil && x.Cluster.Awaited && d != nil {
			if x.state == x.w.state {
				return false
			}
			x.state = x.w.state
			return x.find()
		}
	}
	return true
}

// cluster is the one of an ID, or that the request names in a header; nil: there is none.
func (x *Exchange) cluster(id cluster.ID, header string) *cluster.Cluster {
	if header == "" {
		return x.state.Cluster(id)
	}
	return x.state.ClusterNamed(textOf(x.Request.Headers.GetName(header)))
}

// textOf is b as a string, for who looks at it and does not keep it.
func textOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// TargetName is the name of the cluster that the request is for, "" if there is none, or the request named one that there is not.
func (x *Exchange) TargetName() string {
	switch {
	case x.Target == nil:
		return ""
	case x.Target.Header == "":
		return x.Target.Name
	case x.Cluster != nil:
		return x.Cluster.Name
	}
	return ""
}

// Rematch finds the route again: a stage has learnt what routes ask about.
func (x *Exchange) Rematch() { x.find() }

func (x *Exchange) table() *route.Table {
	if t := x.Config.Table; t != nil {
		return t
	}
	return x.state.Table(x.Config.TableName)
}

// use notes that the virtual host is used.
func (x *Exchange) use() {
	if x.Host != nil {
		x.Host.Use.Touch()
	}
}

// lookAgain looks whether an exchange that is held can go on.
func (x *Exchange) lookAgain(over bool) {
	x.down.blame()
	if over {
		if x.Cluster != nil && x.Cluster.Awaited {
			x.refuse()
		} else {
			x.Reply(causes.DestinationConfigUnavailable)
		}
		return
	}
	x.state = x.w.state
	if x.find() {
		x.release()
		x.run()
	}
}

// crowd ends an exchange that is held: too much of bodies is kept for those that are.
func (x *Exchange) crowd() Verdict {
	x.hold.Crowd()
	return x.Reply(causes.DestinationConfigUnavailable)
}

// release ends the wait of an exchange that is held.
func (x *Exchange) release() {
	if x.hold != nil {
		x.hold.End()
		x.hold = nil
	}
}

// Router answers or forwards the request as its route says. It is the last stage.
func Router() Stage {
	return Stage{Name: "router", Request: forward, Response: finalize}
}

func forward(x *Exchange) Verdict {
	e := x.Route
	switch {
	case e == nil && x.Request.Method == message.CONNECT:
		return x.Reply(causes.ConnectRefused)
	case e == nil:
		return x.Reply(x.unrouted())
	case e.Redirect != nil:
		location := x.arena.Close(e.AppendLocation(x.arena.Open(256), &x.Request))
		x.Response.Reset()
		x.redirect = location
		return x.ReplyWith(causes.DirectResponse, e.Redirect.Status, nil)
	case e.Direct != nil:
		return x.ReplyWith(causes.DirectResponse, e.Direct.Status, e.Direct.Body)
	}
	if bad := x.senseless(); bad != message.OtherHeader {
		x.Details = causes.StrictHeaders.Details() + "{" + bad.String() + "}"
		return x.ReplyWith(causes.StrictHeaders, 400, x.arena.Close(fmt.Appendf(x.arena.Open(128), "invalid header '%s' with value '%s'", bad, x.Request.Headers.Get(bad))))
	}
	f := e.Forward
	if asksTunnel(&x.Request) && !x.upgrade() {
		return Replied
	}
	if x.Cluster == nil {
		return x.ReplyWith(causes.ClusterNotFound, cmp.Or(f.NoCluster, causes.ClusterNotFound.Status()), []byte(causes.ClusterNotFound.Body()))
	}
	if x.Cluster.Refused != "" {
		return x.refuse()
	}
	if n := x.Cluster.Drop; n > 0 && x.w.loop.Rand()%1e6 < uint64(n) {
		return x.drop()
	}
	if x.Cluster.Kind == cluster.Dynamic && x.named() {
		return x.awaitName()
	}
	return x.send()
}

// drop refuses the request because the control plane has the cluster protected.
func (x *Exchange) drop() Verdict {
	x.Cluster.Limits.Dropped.Add(1)
	if x.Cluster.Drop >= 1e6 {
		return x.Reply(causes.OverloadAllDropped)
	}
	return x.Reply(causes.OverloadDropped)
}

// send forwards the request to its cluster.
func (x *Exchange) send() Verdict {
	e, f := x.Route, x.Route.Forward
	x.routed = x.w.loop.Now()
	x.policy(f)
	x.keepHead()
	if x.Target.Headers != nil && !e.SpecificLast {
		x.requestHeaders(x.Target.Headers)
	}
	for i := range e.Headers {
		x.requestHeaders(&e.Headers[i])
	}
	if x.Target.Headers != nil && e.SpecificLast {
		x.requestHeaders(x.Target.Headers)
	}
	if f.PrefixRewrite != "" || f.RegexRewrite != nil {
		q := &x.Request
		x.OriginalPath = q.Path
		q.Path = x.arena.Close(e.AppendRewritten(x.arena.Open(len(q.Path)+len(f.PrefixRewrite)), q.Path))
		if !x.Config.Quiet {
			q.Headers.Set(message.XEnvoyOriginalPath, x.OriginalPath)
		}
	}
	switch host := cmp.Or(x.Target.HostRewrite, f.HostRewrite); {
	case host != "":
		x.rewriteHost(host)
	case f.HostHeader != "":
		x.askedHost(x.Request.Headers.GetName(f.HostHeader))
	case f.HostRegex != nil:
		path, _, _ := bytes.Cut(x.asked(), questionMark)
		x.askedHost(f.HostRegex.ReplaceAll(path, []byte(f.HostSubstitution)))
	}
	x.armTimeout()
	if x.Request.Continue {
		// We want the body, and ask for it ourselves: an upstream that refuses will say so by its status.
		x.Request.Continue = false
		x.down.askBody(x)
	}
	if f.Mirrors != nil && !asksTunnel(&x.Request) {
		x.mirror(f)
	}
	x.state = nil // a stream or a tunnel may last for weeks, and what it began with is a whole configuration
	x.attempt()
	return Hold
}

// asked is the path, with query, before it was rewritten.
func (x *Exchange) asked() []byte {
	if x.OriginalPath != nil {
		return x.OriginalPath
	}
	return x.Request.Path
}

// unrouted says why a request has no route.
func (x *Exchange) unrouted() causes.Cause {
	switch {
	case x.Host != nil:
		return causes.RouteNotFound
	case x.table() != nil:
		return causes.HostNotFound
	}
	return causes.RoutesMissing
}

// askedHost makes what the client sent for it the authority, if it can be one.
func (x *Exchange) askedHost(v []byte) {
	if len(v) > 0 && message.CheckAuthority(v) == message.NoFault {
		x.rewriteHost(textOf(v))
	}
}

// rewriteHost changes the authority to a copy of host. It may be done again, by attempts at other endpoints: what the client asked for is told once.
func (x *Exchange) rewriteHost(host string) {
	q := &x.Request
	if string(q.Authority) == host {
		return
	}
	if x.Route.Forward.TellHost && !x.is(toldHost) {
		x.flags |= toldHost
		v := q.Authority
		if old, ok := q.Headers.Joined("x-forwarded-host", nil); ok && len(old) > 0 {
			v = x.arena.Close(append(append(append(x.arena.Open(len(old)+1+len(v)), old...), ','), v...))
		}
		q.Headers.Set(message.XForwardedHost, v)
	}
	q.Authority = x.arena.CopyString(host)
}

// senseless is the first of the headers that are checked strictly whose value means nothing; OtherHeader: none.
func (x *Exchange) senseless() message.ID {
	for _, id := range x.Config.Strict {
		v := x.Request.Headers.Get(id)
		if v == nil {
			continue
		}
		switch id {
		case message.XEnvoyRetryOn, message.XEnvoyRetryGRPCOn:
			if _, codes, unknown := route.ParseRetryOn(string(v)); len(unknown) > 0 || len(codes) > 0 {
				return id
			}
		default:
			if _, ok := parseUint(v, maxMillis); !ok {
				return id
			}
		}
	}
	return message.OtherHeader
}

// refuse answers for a cluster that is not to be called, naming the object that forbids it to the access log, and to
// clients who are not strangers.
func (x *Exchange) refuse() Verdict {
	c := causes.DestinationRefused
	x.Details = x.Cluster.Refusal()
	body := c.Body()
	if !x.Config.Edge {
		body += " (" + x.Cluster.Refused + ")"
	}
	return x.ReplyWith(c, c.Status(), []byte(body))
}

// finalize is the router's part of the way back: what route and attempt add to a response.
func finalize(x *Exchange) {
	h := &x.Response.Headers
	h.Remove(message.XWeirUndelivered) // ends at every proxy; an application has no say in it
	switch {
	case x.Cause == causes.DirectResponse:
		if x.redirect != nil {
			h.Set(message.Location, x.redirect)
		}
	case x.Config.Quiet:
	case x.Cause == causes.NoCause:
		// Since the request was complete and here, whichever came later: neither slow clients nor injected delays count.
		since := max(x.RequestEnded, x.routed)
		ms := strconv.AppendInt(x.arena.Open(12), millis(x.w.loop.Now()-since), 10)
		h.Set(message.XEnvoyUpstreamServiceTime, x.arena.Close(ms))
	case x.Cause == causes.UpstreamOverflow, x.Cause == causes.PendingOverflow:
		h.Set(message.XEnvoyOverloaded, valueTrue)
	case x.Cause == causes.OverloadDropped:
		h.SetName([]byte("x-envoy-drop-overload"), valueTrue)
	case x.Cause == causes.OverloadAllDropped:
		h.SetName([]byte("x-envoy-unconditional-drop-overload"), valueTrue)
	}
	if x.cookie != nil {
		h.Add(message.SetCookie, x.cookie)
	}
	if x.Host != nil && x.Host.AnswerAttempts && x.Attempts > 0 {
		h.Set(message.XEnvoyAttemptCount, x.arena.Close(strconv.AppendInt(x.arena.Open(4), int64(x.Attempts), 10)))
	}
	specificLast := x.Route != nil && x.Route.SpecificLast
	if x.Target != nil && x.Target.Headers != nil && !specificLast {
		x.responseHeaders(x.Target.Headers)
	}
	if x.Route != nil {
		for i := range x.Route.Headers {
			x.responseHeaders(&x.Route.Headers[i])
		}
	}
	if x.Target != nil && x.Target.Headers != nil && specificLast {
		x.responseHeaders(x.Target.Headers)
	}
}

var valueTrue, valueFalse = []byte("true"), []byte("false")

// requestHeaders applies one level of header operations: removals first, as Envoy does.
func (x *Exchange) requestHeaders(ops *route.Headers) {
	h := &x.Request.Headers
	for _, name := range ops.RequestRemove {
		h.RemoveName(name)
	}
	for i := range ops.RequestAdd {
		v := &ops.RequestAdd[i]
		if value := x.format(v.Value); len(value) > 0 || v.KeepEmpty {
			h.AddName(x.arena.CopyString(v.Name), value)
		}
	}
	for i := range ops.RequestAddIfAbsent {
		if v := &ops.RequestAddIfAbsent[i]; h.GetName(v.Name) == nil {
			if value := x.format(v.Value); len(value) > 0 || v.KeepEmpty {
				h.AddName(x.arena.CopyString(v.Name), value)
			}
		}
	}
	for i := range ops.RequestSet {
		v := &ops.RequestSet[i]
		value := x.format(v.Value)
		if len(value) == 0 && !v.KeepEmpty || v.IfPresent && h.GetName(v.Name) == nil {
			continue
		}
		switch v.Name {
		case ":authority", "host":
			x.Request.Authority = value
		case ":path":
			x.Request.Path = value
		case ":method":
			x.Request.SetMethod(value)
		default:
			h.SetName(x.arena.CopyString(v.Name), value)
		}
	}
}

func (x *Exchange) responseHeaders(ops *route.Headers) {
	h := &x.Response.Headers
	for _, name := range ops.ResponseRemove {
		h.RemoveName(name)
	}
	for i := range ops.ResponseAdd {
		v := &ops.ResponseAdd[i]
		if value := x.format(v.Value); len(value) > 0 || v.KeepEmpty {
			h.AddName(x.arena.CopyString(v.Name), value)
		}
	}
	for i := range ops.ResponseAddIfAbsent {
		if v := &ops.ResponseAddIfAbsent[i]; h.GetName(v.Name) == nil {
			if value := x.format(v.Value); len(value) > 0 || v.KeepEmpty {
				h.AddName(x.arena.CopyString(v.Name), value)
			}
		}
	}
	for i := range ops.ResponseSet {
		v := &ops.ResponseSet[i]
		if v.IfPresent && h.GetName(v.Name) == nil {
			continue
		}
		if value := x.format(v.Value); len(value) > 0 || v.KeepEmpty {
			h.SetName(x.arena.CopyString(v.Name), value)
		}
	}
}
