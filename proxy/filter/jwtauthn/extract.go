package jwtauthn

import (
	"bytes"
	"slices"

	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

// tokens yields the tokens of a request where a provider looks, until yield answers false. They are parts of
// the request.
func tokens(q *message.Request, p *Provider, yield func(text []byte) bool) {
	fields := q.Headers.Fields()
	for i := range p.Headers {
		h := &p.Headers[i]
		for j := range fields {
			if string(fields[j].Name) != h.Name {
				continue
			}
			v, ok := bytes.CutPrefix(fields[j].Value, unsafeBytes(h.Prefix))
			if v = bytes.TrimSpace(v); ok && len(v) > 0 && !yield(v) {
				return
			}
		}
	}
	if len(p.Params) > 0 {
		_, query := q.PathQuery()
		for len(query) > 0 {
			var pair []byte
			pair, query, _ = bytes.Cut(query, ampersand)
			if name, v, _ := bytes.Cut(pair, equals); len(v) > 0 && among(p.Params, name) && !yield(v) {
				return
			}
		}
	}
	if len(p.Cookies) > 0 {
		for j := range fields {
			if fields[j].ID != message.Cookie {
				continue
			}
			for rest := fields[j].Value; len(rest) > 0; {
				var pair []byte
				pair, rest, _ = bytes.Cut(rest, semicolon)
				if name, v, _ := bytes.Cut(bytes.TrimSpace(pair), equals); len(v) > 0 && among(p.Cookies, name) && !yield(bytes.Trim(v, `"`)) {
					return
				}
			}
		}
	}
}

var (
	ampersand = []byte{'&'}
	equals    = []byte{'='}
	semicolon = []byte{';'}
)

func among(names []string, name []byte) bool { return slices.Contains(names, string(name)) }

// remove takes the tokens off the request: the application has no use for them, and may show them to others.
func remove(x *http.Exchange, p *Provider) {
	q, a := &x.Request, x.Arena()
	for i := range p.Headers {
		h := &p.Headers[i]
		q.Headers.RemoveFunc(func(f *message.Field) bool {
			return string(f.Name) == h.Name && bytes.HasPrefix(f.Value, unsafeBytes(h.Prefix))
		})
	}
	if path, query := q.PathQuery(); len(p.Params) > 0 && len(query) > 0 {
		out, found := without(a, path, '?', query, ampersand, p.Params)
		if found {
			q.Path = out
		}
	}
	if len(p.Cookies) > 0 {
		fields := q.Headers.Fields()
		for j := range fields {
			if f := &fields[j]; f.ID == message.Cookie {
				if out, found := without(a, nil, 0, f.Value, semicolon, p.Cookies); found {
					f.Value = out
				}
			}
		}
		q.Headers.RemoveFunc(func(f *message.Field) bool { return f.ID == message.Cookie && len(f.Value) == 0 })
	}
}

// without is head, and behind a separator the list without the pairs of names.
func without(a *message.Arena, head []byte, separator byte, list, between []byte, names []string) (out []byte, found bool) {
	out = append(a.Open(len(head)+1+len(list)), head...)
	first := true
	for more := true; more; {
		var pair []byte
		pair, list, more = bytes.Cut(list, between)
		trimmed := bytes.TrimSpace(pair)
		if name, _, _ := bytes.Cut(trimmed, equals); among(names, name) {
			found = true
			continue
		}
		switch {
		case first && separator != 0:
			out = append(out, separator)
		case first:
			pair = trimmed
		default:
			out = append(out, between...)
		}
		out, first = append(out, pair...), false
	}
	return a.Close(out), found
}
