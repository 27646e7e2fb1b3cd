package istio

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/mesh"
)

// discovery is where an issuer says where its keys are (OpenID Connect Discovery, section 4).
const discovery = "/.well-known/openid-configuration"

func (l *lowerer) requestAuthentication(spec *securityv1beta1.RequestAuthentication) *mesh.RequestAuthentication {
	ra := &mesh.RequestAuthentication{Ref: l.o.Ref}
	if spec.Selector != nil {
		ra.Selector = l.selector("spec.selector.matchLabels", spec.Selector.MatchLabels)
	}
	for i, r := range spec.JwtRules {
		at := document.Index("spec.jwtRules", i)
		if r == nil {
			l.Invalid(at, "is empty", "write the issuer of the tokens, or remove the entry")
			r = &securityv1beta1.JWTRule{}
		}
		ra.Rules = append(ra.Rules, l.jwtRule(at, r))
	}
	return ra
}

func (l *lowerer) jwtRule(at string, r *securityv1beta1.JWTRule) mesh.JWTRule {
	out := mesh.JWTRule{Line: l.LineOf(at), Issuer: r.Issuer, Audiences: r.Audiences, Params: r.FromParams, Cookies: r.FromCookies, Forward: r.ForwardOriginalToken,
		PayloadHeader: strings.ToLower(r.OutputPayloadToHeader), Spaced: r.SpaceDelimitedClaims, Timeout: l.duration(at+".timeout", r.Timeout)}
	if r.Issuer == "" {
		l.Invalid(at+".issuer", "is missing", "write the iss claim that the tokens have")
	}
	l.keys(at, r, &out)
	for _, list := range []struct {
		field  string
		values []string
	}{{"audiences", r.Audiences}, {"fromParams", r.FromParams}, {"fromCookies", r.FromCookies}, {"spaceDelimitedClaims", r.SpaceDelimitedClaims}} {
		for i, v := range list.values {
			if v == "" {
				l.Invalid(document.Index(at+"."+list.field, i), "is empty", "write a value, or remove the entry")
			}
		}
	}
	for i, h := range r.FromHeaders {
		l.tokenHeader(document.Index(at+".fromHeaders", i)+".name", h.GetName())
		out.Headers = append(out.Headers, mesh.TokenHeader{Name: strings.ToLower(h.GetName()), Prefix: h.GetPrefix()})
	}
	if r.OutputPayloadToHeader != "" {
		l.outputHeader(at+".outputPayloadToHeader", r.OutputPayloadToHeader)
	}
	seen := map[string]bool{out.PayloadHeader: true}
	for i, c := range r.OutputClaimToHeaders {
		at := document.Index(at+".outputClaimToHeaders", i)
		h := mesh.ClaimHeader{Header: strings.ToLower(c.GetHeader()), Claim: c.GetClaim()}
		l.outputHeader(at+".header", c.GetHeader())
		if h.Header != "" && seen[h.Header] {
			l.Invalid(at+".header", fmt.Sprintf("%q is set by another claim, too", c.GetHeader()), "use another header")
		}
		if seen[h.Header] = true; h.Claim == "" {
			l.Invalid(at+".claim", "is missing", "write the name of the claim")
		}
		out.ClaimHeaders = append(out.ClaimHeaders, h)
	}
	return out
}

// keys says what keys a rule has, or where.
func (l *lowerer) keys(at string, r *securityv1beta1.JWTRule, out *mesh.JWTRule) {
	switch {
	case r.Jwks != "" && r.JwksUri != "":
		l.Invalid(at+".jwks", "stands beside jwksUri", "keep one of the two")
	case r.Jwks != "":
		keys, err := jwt.ParseKeys(r.Jwks)
		switch {
		case err != nil:
			l.Invalid(at+".jwks", err.Error(), "write the provider's key set, as it is at its jwks_uri, or its address as jwksUri")
		case keys.URI != "":
			l.Invalid(at+".jwks", `has a member "weir.dev"`, "remove the member: proxies would ask for newer keys by it")
		case keys.Ignored() > 0:
			l.Add(config.SchemaWarning, at+".jwks", fmt.Sprintf("%d of its keys cannot be used: they are for encryption, of no kind that signs, or secrets (oct) shorter than the hash (32 bytes for HS256, 48 for HS384, 64 for HS512)", keys.Ignored()), "tokens that they sign are refused")
		}
		if err == nil && keys.Shared() > 0 {
			l.Add(config.SchemaWarning, at+".jwks", fmt.Sprintf("%d of its keys are secrets (oct): who may read this object, or the configuration of a proxy that has it, can make tokens for anybody", keys.Shared()), "let the issuer sign with a key pair (ES256, RS256), or keep readers of both few")
		}
		out.Keys = r.Jwks
		return
	case r.JwksUri != "":
		out.URI = r.JwksUri
		if reason := httpURL(out.URI); reason != "" {
			l.Invalid(at+".jwksUri", reason, `for example "https://issuer.example/.well-known/jwks.json"`)
		}
	default:
		out.URI = strings.TrimSuffix(r.Issuer, "/") + discovery
		if reason := httpURL(r.Issuer); reason != "" && r.Issuer != "" {
			l.Invalid(at+".jwksUri", "is missing, like jwks, and the issuer is no address at which the keys could be looked up", "write jwksUri or jwks")
		}
	}
	out.Keys = jwt.Placeholder(out.URI)
}

// httpURL says why s is not the address of something that can be fetched; "": it is.
func httpURL(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || len(s) > 2048:
		return fmt.Sprintf("%.100q is no URL", s)
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("%.100q is neither http nor https", s)
	}
	return ""
}

// reserved are headers that are set by nobody but the proxies: messages are framed and led by them.
var reserved = []string{"host", "content-length", "transfer-encoding", "connection", "te", "upgrade"}

func (l *lowerer) tokenHeader(at, name string) {
	switch {
	case name == "":
		l.Invalid(at, "is missing", "write the name of the header")
	case !isToken(name):
		l.Invalid(at, fmt.Sprintf("%q is not a header name", name), "use letters, digits and '-'")
	}
}

// outputHeader checks a header that is set.
func (l *lowerer) outputHeader(at, name string) {
	if l.tokenHeader(at, name); slices.Contains(reserved, strings.ToLower(name)) {
		l.Invalid(at, fmt.Sprintf("%q is part of the protocol", name), "use a header of the application's own")
	}
}

// requestAuthentication keeps what refuses of an object with errors: tokens of a rule that has some are all refused, and nobody
// else may set the headers it would set.
func (r *refuser) requestAuthentication() *mesh.RequestAuthentication {
	spec := r.root.Get("spec")
	if byTarget(spec) {
		return nil // it is not for sidecars
	}
	l := r.lowerer()
	m := &securityv1beta1.RequestAuthentication{}
	if spec != nil && spec.Kind == document.Map {
		document.Proto(spec, "spec", m, l.problem)
	}
	ra := l.requestAuthentication(m)
	ra.Selector = r.selector(spec.Get("selector"))
	rules := spec.Get("jwtRules")
	for i := range ra.Rules {
		if failedAt(l, document.Index("spec.jwtRules", i)) {
			ra.Rules[i] = refused(ra.Rules[i])
		}
	}
	if len(ra.Rules) != len(items(rules)) || rules != nil && rules.Kind != document.List || spec == nil || spec.Kind != document.Map || failedAt(l, "spec.jwtRules") && len(ra.Rules) == 0 {
		ra.Rules = append(ra.Rules, mesh.JWTRule{Keys: jwt.Placeholder("")})
	}
	if len(ra.Rules) == 0 {
		return nil
	}
	return ra
}

// refused is what can be used of a rule with errors: nobody can sign its tokens.
func refused(r mesh.JWTRule) mesh.JWTRule {
	out := mesh.JWTRule{Line: r.Line, Issuer: r.Issuer, Keys: jwt.Placeholder(""), Params: notEmpty(r.Params), Cookies: notEmpty(r.Cookies)}
	for _, h := range r.Headers {
		if isToken(h.Name) {
			out.Headers = append(out.Headers, h)
		}
	}
	settable := func(name string) bool { return isToken(name) && !slices.Contains(reserved, name) }
	if settable(r.PayloadHeader) {
		out.PayloadHeader = r.PayloadHeader
	}
	for _, c := range r.ClaimHeaders {
		if settable(c.Header) {
			if c.Claim == "" {
				c.Claim = "sub" // of a token that nobody has
			}
			out.ClaimHeaders = append(out.ClaimHeaders, c)
		}
	}
	return out
}

func notEmpty(list []string) (out []string) {
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
