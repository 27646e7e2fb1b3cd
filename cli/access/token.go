package access

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
)

// Token is what a caller brings to be somebody's token.
type Token struct {
	Given bool   // with neither of the following: there is none
	Text  string // a JSON Web Token, where its issuer's rule looks for it
	// Claims are those of a token that is not at hand: taken for signed.
	Claims map[string]any
}

// TokenError is why nothing can be said of a caller's token.
type TokenError struct{ Why string }

func (e TokenError) Error() string { return e.Why }

// tokens is a filter that checks them.
func (e *evaluation) tokens(m *jwtauthnv3.JwtAuthentication) error {
	t := e.call.Token
	if !t.Given {
		e.unsaid = true
		return nil
	}
	if t.Text == "" && t.Claims == nil {
		return nil // Istio's rules let in who has none
	}
	read, err := t.read()
	if err != nil {
		return err
	}
	status := jwt.UnknownIssuer
	for _, name := range slices.Sorted(maps.Keys(m.GetProviders())) {
		p := m.GetProviders()[name]
		if p.GetIssuer() != "" && p.GetIssuer() != read.Issuer {
			continue
		}
		if t.Text != "" && jwt.Hidden(read, p.GetLocalJwks().GetInlineString()) {
			return TokenError{fmt.Sprintf("the token is signed with a secret (%s), and a proxy does not tell what its secrets are: give what it says with --claims", read.Algorithm)}
		}
		if status = e.valid(read, p); status != jwt.OK {
			continue
		}
		if key := p.GetPayloadInMetadata(); key != "" {
			claims := maps.Clone(read.Claims)
			for _, name := range p.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims() {
				if s, ok := claims[name].(string); ok {
					list := []any{}
					for word := range strings.FieldsSeq(s) {
						list = append(list, word)
					}
					claims[name] = list
				}
			}
			e.claims = map[string]any{key: claims}
		}
		for _, f := range e.facts {
			f.Request.Claims = e.claims
		}
		return nil
	}
	if e.verdict != Denied {
		e.verdict, e.why = Denied, fmt.Sprintf("RequestAuthentication: %s", status)
		e.policy, e.rule = "", nil
	}
	return nil
}

// read reads the token, or makes one of claims.
func (t *Token) read() (*jwt.Token, error) {
	if t.Text != "" {
		read, status := jwt.Parse([]byte(t.Text))
		if status != jwt.OK {
			return nil, TokenError{"the token cannot be read: " + status.String()}
		}
		return read, nil
	}
	out := &jwt.Token{Claims: t.Claims}
	out.Issuer, _ = t.Claims["iss"].(string)
	out.Subject, _ = t.Claims["sub"].(string)
	switch aud := t.Claims["aud"].(type) {
	case string:
		out.Audiences = []string{aud}
	case []any:
		for _, a := range aud {
			if s, ok := a.(string); ok {
				out.Audiences = append(out.Audiences, s)
			}
		}
	}
	for name, to := range map[string]*int64{"exp": &out.Expires, "nbf": &out.NotBefore} {
		if n, ok := t.Claims[name].(json.Number); ok {
			if *to, _ = n.Int64(); *to == 0 {
				return nil, fmt.Errorf("the claim %s is not a time in seconds", name)
			}
		}
	}
	return out, nil
}

// valid holds a token against what a provider asks.
func (e *evaluation) valid(t *jwt.Token, p *jwtauthnv3.JwtProvider) jwt.Status {
	const skew = 60
	if s := t.Valid(e.call.Now.Unix(), skew); s != jwt.OK {
		return s
	}
	if asked := p.GetAudiences(); len(asked) > 0 && !slices.ContainsFunc(t.Audiences, func(a string) bool {
		return slices.ContainsFunc(asked, func(b string) bool { return jwtauthn.Audience(a) == jwtauthn.Audience(b) })
	}) {
		return jwt.AudienceNotAllowed
	}
	if t.Text == "" {
		return jwt.OK
	}
	keys, err := jwt.ParseKeys(p.GetLocalJwks().GetInlineString())
	if err != nil {
		return jwt.NoKeys
	}
	s := keys.Verify(t)
	return s
}
