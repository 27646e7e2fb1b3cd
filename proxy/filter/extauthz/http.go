package extauthz

import (
	"bytes"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

// askHTTP makes the question: the client's method, host, path and authorization, and what of its headers is to be shown.
func (c *Config) askHTTP(x *http.Exchange, q *message.Request, a *message.Arena, partial bool) {
	from := &x.Request
	q.Protocol = from.Protocol
	if q.Protocol == message.HTTP10 {
		q.Protocol = message.HTTP11
	}
	q.SetMethod(a.Copy(from.RawMethod))
	q.Scheme, q.Authority = a.Copy(from.Scheme), a.Copy(from.Authority)
	switch path := from.Path; {
	case c.PathOverride != "":
		q.Path = a.CopyString(c.PathOverride)
	case len(path) == 0 || path[0] != '/': // OPTIONS *, or CONNECT
		q.Path = a.CopyString(c.PathPrefix + "/")
	default:
		q.Path = a.Close(append(append(a.Open(len(c.PathPrefix)+len(path)), c.PathPrefix...), path...))
	}
	if from.Method == message.CONNECT || from.Method == message.HEAD {
		q.SetMethod(methodGet) // whose answer is complete, and no tunnel
	}
	for _, f := range from.Headers.Fields() {
		if ours(f.Name) || !c.shown(&f) {
			continue
		}
		f.Name, f.Value = a.Copy(f.Name), a.Copy(f.Value)
		q.Headers.Append(f)
	}
	for _, h := range c.Add {
		q.Headers.SetName(a.CopyString(h[0]), a.CopyString(h[1]))
	}
	if c.Body != nil {
		q.Headers.SetName(partialBodyName, said(partial))
	}
}

var methodGet = []byte("GET")

func (c *Config) shown(f *message.Field) bool {
	return (f.ID == message.Authorization || c.Show.match(f.Name)) && !c.Hide.match(f.Name)
}

// headersToRemove is what a service may name that it does not want to be passed on.
const headersToRemove = "x-envoy-auth-headers-to-remove"

func (c *Config) answeredHTTP(x *http.Exchange, a *http.Answer) http.Verdict {
	p := a.Response
	switch {
	case a.Cause != causes.NoCause:
		return c.failed(x, a.Cause)
	case p.Status >= 500:
		return c.failed(x, causes.NoCause)
	case p.Status != 200:
		for _, f := range p.Headers.Fields() {
			if c.Client == nil || f.ID == message.Location || string(f.Name) == "www-authenticate" || c.Client.match(f.Name) {
				answer(x, f.Name, f.Value, f.ID == message.ContentType)
			}
		}
		return c.denied(x, p.Status, a.Body)
	}
	changed := false
	for _, f := range p.Headers.Fields() {
		if c.UpstreamAppend.match(f.Name) {
			setRequest(x, f.Name, f.Value, true)
			changed = true
		} else if c.Upstream.match(f.Name) {
			setRequest(x, f.Name, f.Value, false)
			changed = true
		}
		if c.ClientOnSuccess.match(f.Name) {
			answer(x, f.Name, f.Value, false)
		}
	}
	for name := range bytes.SplitSeq(p.Headers.GetName(headersToRemove), comma) {
		if name = bytes.ToLower(bytes.TrimSpace(name)); len(name) > 0 {
			x.Request.Headers.RemoveName(string(name))
			changed = true
		}
	}
	return c.allowed(x, changed)
}

var comma = []byte{','}
