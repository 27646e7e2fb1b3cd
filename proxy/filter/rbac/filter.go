// Package rbac refuses requests that authorization policies do not allow
// (envoy.filters.http.rbac).
//
// What enters: a request whose route is known, and the rules that proxy/state compiled. What leaves: 403 with
// a cause whose details name the deciding policy in logs and records, and never to the caller.
// The stage keeps nothing but counts and is shared by all workers.
package rbac

import (
	"bytes"

	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/rbac"
)

// Loosest is how the most obliging program reads a path: %2F and %5C are slashes, and several slashes one.
var Loosest = message.PathOptions{Normalize: true, MergeSlashes: true, Slashes: message.UnescapeSlashes}

// Stages are the filters in their order; none if there is nothing to enforce.
func Stages(filters []*rbac.Filter) []http.Stage {
	if len(filters) == 0 {
		return nil
	}
	return []http.Stage{{Name: "rbac", Request: func(x *http.Exchange) http.Verdict {
		d := decide(filters, x, false)
		if d.Marked != nil {
			x.Audit = &d.Marked.Name
		}
		if d.Allowed {
			return http.Continue
		}
		x.Details = d.Details()
		return x.Reply(d.Cause())
	}, Again: func(x *http.Exchange, now *http.Config) http.Refusal {
		d := decide(filters, x, true)
		if d.Allowed {
			return http.Refusal{}
		}
		return http.Refusal{Cause: d.Cause(), Details: d.Details(), Decided: now.Deciders.Denied(d.Details())}
	}}}
}

// Matches reports whether one of the named policies matches the request, by whichever reading of its path, and which; "": nobody can read it.
func Matches(r *rbac.Rules, x *http.Exchange, named map[string]bool) (policy string, ok bool) {
	facts, n := readings(x)
	for i := range n {
		if policy = r.Match(&facts[i], named); policy != "" {
			return policy, true
		}
	}
	return "", n == 0 // who is asked may deny what nobody can read
}

// decide decides by all readings of the path: what the program will make of it nobody knows here, and however it reads it,
// it has to be allowed. again: the request was counted when it came.
func decide(filters []*rbac.Filter, x *http.Exchange, again bool) rbac.Decision {
	switch f, n := readings(x); n {
	case 0: // nobody can read it
		if d := rbac.Enforce(filters, again, &f[0]); !d.Allowed {
			return d
		}
		return rbac.Decision{}
	case 1:
		return rbac.Enforce(filters, again, &f[0])
	case 2:
		return rbac.Enforce(filters, again, &f[0], &f[1])
	default:
		return rbac.Enforce(filters, again, &f[0], &f[1], &f[2])
	}
}

// readings are the first n of what is returned: the path as it is, as the most obliging program reads it, and as one does that leaves
// out parameters besides. None: somebody could not read it.
func readings(x *http.Exchange) (f *[3]rbac.Facts, n int) {
	f = x.Facts()
	n = 1
	path := x.Request.Path
	loosest, ok := message.CanonicalPath(path, Loosest, x.Arena())
	if !ok {
		return f, 0
	}
	if !bytes.Equal(loosest, path) {
		f[n] = f[0]
		f[n].Path = loosest
		n++
	}
	bare, ok := message.WithoutParameters(path, x.Arena())
	if !ok {
		return f, n
	}
	if bare, ok = message.CanonicalPath(bare, Loosest, x.Arena()); !ok {
		return f, 0
	}
	f[n] = f[0]
	f[n].Path = bare
	return f, n + 1
}
