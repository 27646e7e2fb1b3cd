package http

import (
	"bytes"
	"slices"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

// follows is the route's policy for redirects that do not get to the client; nil: there is none.
func (x *Exchange) follows() *route.Follow {
	if x.Route == nil || x.Route.Forward == nil {
		return nil
	}
	return x.Route.Forward.Follow
}

// follow makes the request the one that the upstream's redirect asks for, which passes the stages again from the route on, if the policy
// says so and all of it can be sent again. false: the client gets the redirect.
func (x *Exchange) follow() bool {
	f, q, p := x.follows(), &x.Request, &x.Response
	if f == nil || x.redirects >= f.Most || !slices.Contains(f.Statuses, p.Status) || !x.is(keepBody) || !x.is(requestDone) && !q.NoBody || asksTunnel(q) {
		return false
	}
	scheme, authority, path, ok := located(p.Headers.Get(message.Location), q)
	if !ok || !f.CrossScheme && !bytes.Equal(scheme, q.Scheme) {
		return false
	}
	if path, ok = message.CanonicalPath(path, x.Config.Path, &x.arena); !ok {
		return false
	}
	asked := x.arena.Open(len(q.Scheme) + len(q.Authority) + len(q.Path) + 3)
	asked = append(append(append(append(asked, q.Scheme...), "://"...), q.Authority...), x.asked()...)
	asked = x.arena.Close(asked)
	was := *q
	q.Scheme, q.Authority, q.Path = scheme, authority, path
	x.state = x.w.state
	if t := x.table(); t == nil || t.Host(authority).Match(q, x.w.loop.Rand()) == nil {
		x.state = nil
		q.Scheme, q.Authority, q.Path = was.Scheme, was.Authority, was.Path
		return false
	}
	x.note(causes.NoCause)
	x.endAttempt()
	x.timeout.Stop()
	h := &q.Headers
	h.Set(message.XEnvoyOriginalURL, asked)
	h.Remove(message.XEnvoyOriginalPath)
	for _, name := range f.Copy {
		if v := p.Headers.GetName(name); v != nil {
			h.SetName(x.arena.CopyString(name), v)
		} else {
			h.RemoveName(name)
		}
	}
	if p.Status == 303 && q.Method != message.GET && q.Method != message.HEAD { // RFC 9110 section 15.4.4
		q.SetMethod(methodGET)
		x.dropBody()
		x.flags |= keepBody
		q.NoBody, q.ContentLength = true, message.Unknown
		for _, name := range [...]string{"content-length", "content-type", "content-encoding"} {
			h.RemoveName(name)
		}
		x.RequestTrailers.Reset()
	}
	q.Claims = nil // they were verified for where it went
	x.redirects++
	x.OriginalPath, x.Failure, x.cookie, x.stays = nil, "", nil, nil
	x.retry, x.retries, x.perTry, x.perTryIdle = nil, 0, 0, 0
	x.tried = x.tried[:0]
	x.flags &^= missed | fresh | strict | toldHost | replayed
	p.Reset()
	x.ResponseTrailers.Reset()
	x.stage = slices.IndexFunc(x.Config.Stages, func(s Stage) bool { return s.Name == routeStage })
	x.w.loop.Arm(&x.wait, x.w.loop.Now())
	return true
}

var methodGET = []byte("GET")

// located reads the location of a redirect of q: a URL of HTTP, or a path of the same host. It is nothing that a client could not ask for.
func located(v []byte, q *message.Request) (scheme, authority, path []byte, ok bool) {
	scheme, authority, path = q.Scheme, q.Authority, v
	absolute := false
	for _, s := range [...][]byte{schemeHTTP, schemeHTTPS} {
		n := len(s)
		if len(v) < n+3 || !bytes.EqualFold(v[:n], s) || string(v[n:n+3]) != "://" {
			continue
		}
		end := bytes.IndexAny(v[n+3:], "/?#")
		if end < 0 {
			end = len(v) - n - 3
		}
		scheme, authority, path, absolute = s, v[n+3:n+3+end], v[n+3+end:], true
	}
	path, _, _ = bytes.Cut(path, fragmentMark)
	if absolute && (len(path) == 0 || path[0] == '?') {
		path = append([]byte{'/'}, path...)
	}
	if len(authority) == 0 || message.CheckAuthority(authority) != message.NoFault || len(path) == 0 || path[0] != '/' || !absolute && len(path) > 1 && path[1] == '/' {
		return nil, nil, nil, false
	}
	_, bad := message.BadTargetByte(path)
	return scheme, authority, path, !bad
}

var fragmentMark = []byte{'#'}
