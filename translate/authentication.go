package translate

import (
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

const (
	// jwtFilter is the filter that knows what tokens say, jwtPayload the key of its metadata that has the claims: both as Istio's.
	jwtFilter  = "envoy.filters.http.jwt_authn"
	jwtPayload = "payload"
)

// spaced are claims that are always lists written with spaces, as in Istio.
var spaced = []string{"scope", "permission"}

// tokenRule is a rule with the keys that are known now.
type tokenRule struct {
	*mesh.JWTRule
	keys string
	ref  *mesh.Ref
}

// tokenName is the provider of the rule with a number.
func tokenName(i int) string { return "origins-" + strconv.Itoa(i) }

// tokens puts the rules for a workload's tokens into its authorization.
func (a *authorization) tokens(list []*mesh.RequestAuthentication, sets persist.Map[string, *mesh.KeySet]) {
	for _, ra := range list {
		for i := range ra.Rules {
			r := tokenRule{&ra.Rules[i], ra.Rules[i].Keys, &ra.Ref}
			if s := sets.At(r.URI); s != nil && r.URI != "" {
				r.keys = s.Text
			}
			a.rules = append(a.rules, r)
		}
	}
	slices.SortStableFunc(a.rules, func(x, y tokenRule) int { return strings.Compare(x.Issuer, y.Issuer) })
}

// tokenFilters checks tokens, as Istio does: one of a provider suffices; without, none may be wrong.
func (a *authorization) tokenFilters(k *mint, edge bool) []*hcmv3.HttpFilter {
	if len(a.rules) == 0 {
		return nil
	}
	m := &jwtauthnv3.JwtAuthentication{Providers: map[string]*jwtauthnv3.JwtProvider{}, BypassCorsPreflight: true}
	var one, each []*jwtauthnv3.JwtRequirement
	for i := range a.rules {
		name := tokenName(i)
		m.Providers[name] = tokenProvider(&a.rules[i], edge)
		by := &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_ProviderName{ProviderName: name}}
		one = append(one, by)
		each = append(each, anyToken(by, &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}}))
	}
	requires := each[0]
	if len(each) > 1 {
		requires = anyToken(append(one, &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_RequiresAll{RequiresAll: &jwtauthnv3.JwtRequirementAndList{Requirements: each}}})...)
	}
	m.Rules = []*jwtauthnv3.RequirementRule{{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}, RequirementType: &jwtauthnv3.RequirementRule_Requires{Requires: requires}}}
	return []*hcmv3.HttpFilter{httpFilter(jwtFilter, k.any(m))}
}

func anyToken(list ...*jwtauthnv3.JwtRequirement) *jwtauthnv3.JwtRequirement {
	return &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_RequiresAny{RequiresAny: &jwtauthnv3.JwtRequirementOrList{Requirements: list}}}
}

func tokenProvider(r *tokenRule, edge bool) *jwtauthnv3.JwtProvider {
	p := &jwtauthnv3.JwtProvider{Issuer: r.Issuer, Audiences: r.Audiences, FromParams: r.Params, FromCookies: r.Cookies, Forward: r.Forward, ForwardPayloadHeader: r.PayloadHeader, PayloadInMetadata: jwtPayload,
		NormalizePayloadInMetadata: &jwtauthnv3.JwtProvider_NormalizePayload{SpaceDelimitedClaims: append(slices.Clip(spaced), r.Spaced...)},
		JwksSourceSpecifier:        &jwtauthnv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: r.keys}}},
		ClearRouteCache:            edge}
	for _, h := range r.Headers {
		p.FromHeaders = append(p.FromHeaders, &jwtauthnv3.JwtHeader{Name: h.Name, ValuePrefix: h.Prefix})
	}
	for _, c := range r.ClaimHeaders {
		p.ClaimToHeaders = append(p.ClaimToHeaders, &jwtauthnv3.JwtClaimToHeader{HeaderName: c.Header, ClaimName: c.Claim})
	}
	return p
}

// claimValue matches a claim that is a text, or a list with such a text.
func claimValue(m *matcherv3.StringMatcher) *matcherv3.ValueMatcher {
	text := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: m}}
	list := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{ListMatch: &matcherv3.ListMatcher{MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: text}}}}
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{ValueMatchers: []*matcherv3.ValueMatcher{text, list}}}}
}

// claimIs is the matcher of a claim, which may be inside others.
func claimIs(value *matcherv3.ValueMatcher, path ...string) *matcherv3.MetadataMatcher {
	m := &matcherv3.MetadataMatcher{Filter: jwtFilter, Value: value}
	for _, key := range append([]string{jwtPayload}, path...) {
		m.Path = append(m.Path, &matcherv3.MetadataMatcher_PathSegment{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}})
	}
	return m
}

// claimPath is what stands behind "claims": ".a.b", or "[a][b]", where names may have dots.
func claimPath(s string) []string {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		return strings.Split(strings.TrimSuffix(inner, "]"), "][")
	}
	return strings.Split(strings.TrimPrefix(s, "."), ".")
}

// claimMatch is the match of a route that asks for a claim.
func (b *routeBuilder) claimMatch(h *mesh.HeaderMatch, invert bool) *matcherv3.MetadataMatcher {
	value := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}
	if m := b.stringMatch(h.Match); m != nil {
		value = claimValue(m)
	}
	out := claimIs(value, claimPath(strings.TrimPrefix(h.Name, mesh.ClaimPrefix))...)
	out.Invert = invert
	return out
}
