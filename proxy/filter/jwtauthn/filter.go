// Package jwtauthn lets requests pass whose tokens are valid (envoy.filters.http.jwt_authn), and says
// to those that follow what the tokens say.
//
// What enters: a request whose route is known, and a Filter that proxy/state compiled. What leaves: claims in
// Request.Claims, headers made of them, or 401 (403 for a wrong audience) with a
// cause. A Filter is shared by all workers; the tokens it remembers are under a lock of its
// own, and Sets under theirs. Tokens that are not remembered are verified on other goroutines
// while their exchanges are held.
package jwtauthn

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe"
)

// maxTokens bounds the tokens of a request: each costs a verification.
const maxTokens = 8

var authenticate = []byte("www-authenticate")

// Stage is the filter.
func Stage(f *Filter) http.Stage {
	s := &stage{Filter: f}
	for _, p := range f.Providers {
		if p.PayloadHeader != "" {
			s.reserved = append(s.reserved, p.PayloadHeader)
		}
		for _, c := range p.Claims {
			s.reserved = append(s.reserved, c.Name)
		}
	}
	return http.Stage{Name: "jwt_authn", Request: s.request, Response: challenge}
}

type stage struct {
	*Filter
	reserved []string // headers that only providers set
	cache    cache
}

func (s *stage) request(x *http.Exchange) http.Verdict {
	for _, h := range s.reserved {
		x.Request.Headers.RemoveName(h)
	}
	if s.Preflight && x.Request.Method == message.OPTIONS && x.Request.Headers.Has(message.Origin) && len(x.Request.Headers.GetName("access-control-request-method")) > 0 {
		return http.Continue
	}
	for i := range s.Rules {
		if r := &s.Rules[i]; r.When.Holds(&x.Request, x.Worker().Loop().Rand()) {
			if r.Requires == nil {
				return http.Continue
			}
			return s.decide(x, r.Requires, nil)
		}
	}
	return http.Continue
}

// decide decides by the tokens that are remembered, and by those that were verified just now. If there are others, it
// arranges for them to be verified, and is then called again.
func (s *stage) decide(x *http.Exchange, r *Requirement, fresh []*token) http.Verdict {
	d := decision{s: s, x: x, now: x.Start().Unix(), fresh: fresh}
	status := d.meets(r)
	switch {
	case d.unknown != nil:
		if len(fresh) == maxTokens {
			return d.refuse(jwt.VerificationFails)
		}
		text := bytes.Clone(d.unknown)
		ticket := x.Ticket()
		x.Worker().Loop().Go(func() {
			t := s.verify(text, d.now)
			ticket.Resume(func(x *http.Exchange) http.Verdict { return s.decide(x, r, append(slices.Clip(fresh), t)) })
		})
		return http.Hold
	case status != jwt.OK:
		return d.refuse(status)
	}
	d.apply()
	return http.Continue
}

func (d *decision) refuse(status jwt.Status) http.Verdict {
	x := d.x
	if x.Decided = x.Config.Deciders[observe.Identifying]; d.blamed != nil {
		x.Decided = x.Config.Deciders[d.blamed.Name]
	}
	x.Details = Details(status)
	c := Cause(status)
	code := c.Status()
	if status == jwt.AudienceNotAllowed {
		code = 403
	}
	return x.ReplyWith(c, code, x.Arena().CopyString(status.String()))
}

// Cause is why a request is refused.
func Cause(s jwt.Status) causes.Cause {
	switch s {
	case jwt.Missing:
		return causes.TokenMissing
	case jwt.Expired, jwt.NotYetValid:
		return causes.TokenExpired
	case jwt.NoMatchingKey:
		return causes.TokenKeyUnknown
	case jwt.NoKeys:
		return causes.TokenKeysUnavailable
	}
	return causes.TokenRefused
}

// Details are the response code details of a refusal.
func Details(s jwt.Status) string {
	return "jwt_authn_access_denied{" + strings.ReplaceAll(s.String(), " ", "_") + "}"
}

// challenge tells who was refused how to do better (RFC 6750 section 3).
func challenge(x *http.Exchange) {
	switch x.Cause {
	case causes.TokenRefused, causes.TokenMissing, causes.TokenExpired, causes.TokenKeyUnknown, causes.TokenKeysUnavailable:
	default:
		return
	}
	q, a := &x.Request, x.Arena()
	v := append(a.Open(512), `Bearer realm="`...)
	v = append(append(v, q.Scheme...), "://"...)
	v = quoted(v, q.Authority)
	path, _ := q.PathQuery() // Envoy tells the query, too, which may have a token
	v = quoted(v, path[:min(len(path), 256)])
	v = append(v, '"')
	if x.Cause != causes.TokenMissing {
		v = append(v, `, error="invalid_token"`...)
	}
	x.Response.Headers.SetName(authenticate, a.Close(v))
}

// quoted appends what may stand in a quoted string (RFC 9110 section 5.6.4) of text that anybody sent.
func quoted(v, text []byte) []byte {
	for _, c := range text {
		if c == '"' || c == '\\' {
			v = append(v, '\\')
		}
		v = append(v, c)
	}
	return v
}

// decision is one evaluation of a requirement.
type decision struct {
	s       *stage
	x       *http.Exchange
	now     int64
	fresh   []*token
	unknown []byte    // a token that has to be verified first
	blamed  *Provider // the first whose issuer's token is not valid; nil: there is none

	room  [2]accepted
	taken []accepted
}

// accepted is a token that counts.
type accepted struct {
	provider *Provider
	says     *said
}

// meets evaluates r. While unknown is set its result means nothing.
func (d *decision) meets(r *Requirement) jwt.Status {
	switch r.Kind {
	case ByProvider:
		return d.provider(r.Provider, r.Audiences)
	case Any:
		worst := jwt.Missing
		for _, one := range r.Of {
			switch s := d.meets(one); {
			case s == jwt.OK || d.unknown != nil:
				return s
			case worst == jwt.Missing, worst == jwt.UnknownIssuer && s != jwt.Missing:
				worst = s
			}
		}
		return worst
	case All:
		for _, one := range r.Of {
			if s := d.meets(one); s != jwt.OK || d.unknown != nil {
				return s
			}
		}
		return jwt.OK
	}
	status := jwt.OK
	for _, p := range r.Providers {
		switch s := d.provider(p, nil); {
		case d.unknown != nil:
			return s
		case s != jwt.OK && s != jwt.Missing && (status == jwt.OK || status == jwt.UnknownIssuer):
			status = s
		}
	}
	if r.Kind == AllowMissingOrFailed {
		return jwt.OK
	}
	return status
}

// provider is what p says of the tokens where it looks: all have to be valid, for whoever reads one of them
// must not read one that is not.
func (d *decision) provider(p *Provider, audiences []string) jwt.Status {
	if audiences == nil {
		audiences = p.Audiences
	}
	status, n := jwt.Missing, 0
	before := len(d.taken)
	tokens(&d.x.Request, p, func(text []byte) bool {
		if n++; n > maxTokens {
			status = jwt.BadFormat
			return false
		}
		t := d.find(text)
		if t == nil {
			d.unknown = text
			return false
		}
		var says *said
		status, says = t.valid(p, audiences, d.now)
		if status == jwt.OK && says == nil {
			d.unknown = text
			return false
		}
		if status != jwt.OK && d.blamed == nil && t.Token != nil && t.Issuer == p.Issuer {
			d.blamed = p
		}
		if status == jwt.OK {
			if d.taken == nil {
				d.taken = d.room[:0]
			}
			d.taken = append(d.taken, accepted{p, says})
		}
		return status == jwt.OK
	})
	if status != jwt.OK {
		d.taken = d.taken[:before]
	}
	return status
}

func (d *decision) find(text []byte) *token {
	for _, t := range d.fresh {
		if t.text == string(text) {
			return t
		}
	}
	t := d.s.cache.get(text)
	if t != nil && slices.ContainsFunc(t.said, func(s *said) bool { return s.keys != s.provider.Keys.keys.Load() }) {
		return nil // keys are others since
	}
	return t
}

// apply says what the tokens say.
func (d *decision) apply() {
	q := &d.x.Request
	rematch := false
	for i := range d.taken {
		t := &d.taken[i]
		if !t.provider.Forward {
			remove(d.x, t.provider)
		}
		for _, h := range t.says.headers {
			if q.Headers.GetName(string(h.Name)) == nil { // of several tokens the first speaks, as by its claims
				q.Headers.AddName(h.Name, h.Value)
			}
		}
		if t.says.claims != nil && q.Claims == nil {
			q.Claims = t.says.claims
		}
		rematch = rematch || t.provider.Rematch
	}
	if rematch {
		d.x.Rematch()
	}
}

// verify verifies a token for every provider it may be of. It may take jwt's longest verification, and Patience.
func (s *stage) verify(text []byte, now int64) *token {
	out := &token{}
	if out.Token, out.status = jwt.Parse(text); out.status != jwt.OK {
		out.text = string(text)
		return out
	}
	out.text = out.Text
	good := false
	for _, p := range s.Providers {
		if p.Issuer != "" && p.Issuer != out.Issuer || out.Valid(now, p.Skew) != jwt.OK {
			continue
		}
		status, keys := p.Keys.verify(out.Token)
		says := &said{provider: p, keys: keys, status: status}
		if status == jwt.OK {
			good = true
			says.say(out.Token)
		}
		out.said = append(out.said, says)
	}
	out.Claims = nil // said has what counts of them
	if good {
		s.cache.put(out)
	}
	return out
}

// token is one that was verified. It is immutable, but for used.
type token struct {
	text string
	used atomic.Bool // since the cache was full the last time
	*jwt.Token
	status jwt.Status // of reading it
	said   []*said
}

// said is what a token says to one provider.
type said struct {
	provider *Provider
	keys     *jwt.Keys // that verified it
	status   jwt.Status
	claims   map[string]any // for Request.Claims; nil: none
	headers  []message.Field
}

// valid holds a token against what a provider asks, in the order in which Envoy does. OK without said: it has to be verified.
func (t *token) valid(p *Provider, audiences []string, now int64) (jwt.Status, *said) {
	if t.status != jwt.OK {
		return t.status, nil
	}
	if p.Issuer != "" && p.Issuer != t.Issuer {
		return jwt.UnknownIssuer, nil
	}
	if s := t.Valid(now, p.Skew); s != jwt.OK {
		return s, nil
	}
	if len(audiences) > 0 && !slices.ContainsFunc(t.Audiences, func(a string) bool { return slices.Contains(audiences, Audience(a)) }) {
		return jwt.AudienceNotAllowed, nil
	}
	for _, s := range t.said {
		if s.provider == p {
			return s.status, s
		}
	}
	return jwt.OK, nil
}

// say makes what a token says, once for all requests that bring it.
func (s *said) say(t *jwt.Token) {
	p := s.provider
	if p.PayloadHeader != "" {
		v := t.Payload
		if pad := len(v) % 4; p.Pad && pad > 0 {
			v += strings.Repeat("=", 4-pad)
		}
		s.header(p.PayloadHeader, v)
	}
	for _, c := range p.Claims {
		if v, ok := claimText(lookUp(t.Claims, c.Path)); ok {
			s.header(c.Name, v)
		}
	}
	if p.Metadata == "" {
		return
	}
	s.claims = map[string]any{p.Metadata: spaced(t.Claims, p.Spaced)}
}
