package state

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/route"
)

// jwtFilter is by what name matchers of dynamic metadata ask for what tokens say.
const jwtFilter = "envoy.filters.http.jwt_authn"

// defaultSkew is clock_skew_seconds when it is not said.
const defaultSkew = 60

// decodeJWT compiles a JwtAuthentication.
func (b *Builder) decodeJWT(l *filterList, m *jwtauthnv3.JwtAuthentication, path string) (*jwtauthn.Filter, error) {
	f := &jwtauthn.Filter{Preflight: m.GetBypassCorsPreflight()}
	providers := map[string]*jwtauthn.Provider{}
	for _, name := range slices.Sorted(maps.Keys(m.GetProviders())) {
		p, err := b.jwtProvider(l, m.GetProviders()[name], fmt.Sprintf("%s.providers[%s]", path, name))
		if err != nil {
			return nil, err
		}
		p.Name, providers[name] = name, p
		f.Providers = append(f.Providers, p)
	}
	d := &jwtRequirements{f, providers}
	named := map[string]*jwtauthn.Requirement{}
	for name, r := range m.GetRequirementMap() {
		var err error
		if named[name], err = d.requirement(r, fmt.Sprintf("%s.requirement_map[%s]", path, name), 0); err != nil {
			return nil, err
		}
	}
	for i, r := range m.GetRules() {
		at := fmt.Sprintf("%s.rules[%d]", path, i)
		when, err := decodeMatch(r.GetMatch(), at+".match")
		if err != nil {
			return nil, err
		}
		rule := jwtauthn.Rule{When: when}
		switch t := r.GetRequirementType().(type) {
		case *jwtauthnv3.RequirementRule_Requires:
			rule.Requires, err = d.requirement(t.Requires, at+".requires", 0)
		case *jwtauthnv3.RequirementRule_RequirementName:
			if rule.Requires = named[t.RequirementName]; rule.Requires == nil {
				err = fmt.Errorf("%s.requirement_name: there is no requirement %q", at, t.RequirementName)
			}
		}
		if err != nil {
			return nil, err
		}
		f.Rules = append(f.Rules, rule)
	}
	return f, nil
}

func (b *Builder) jwtProvider(l *filterList, m *jwtauthnv3.JwtProvider, path string) (*jwtauthn.Provider, error) {
	p := &jwtauthn.Provider{Issuer: m.GetIssuer(), Forward: m.GetForward(), Pad: m.GetPadForwardPayloadHeader(), Metadata: m.GetPayloadInMetadata(),
		Spaced: m.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims(), Params: m.GetFromParams(), Cookies: m.GetFromCookies(),
		Skew: int64(cmp.Or(m.GetClockSkewSeconds(), defaultSkew)), Rematch: m.GetClearRouteCache()}
	for _, a := range m.GetAudiences() {
		p.Audiences = append(p.Audiences, jwtauthn.Audience(a))
	}
	for _, h := range m.GetFromHeaders() {
		p.Headers = append(p.Headers, jwtauthn.Header{Name: strings.ToLower(h.GetName()), Prefix: h.GetValuePrefix()})
	}
	if len(p.Headers)+len(p.Params)+len(p.Cookies) == 0 { // as the field's documentation has it
		p.Headers, p.Params = []jwtauthn.Header{{Name: "authorization", Prefix: "Bearer "}}, []string{"access_token"}
	}
	var err error
	if p.PayloadHeader, err = jwtHeader(m.GetForwardPayloadHeader(), path+".forward_payload_header"); err != nil {
		return nil, err
	}
	for i, c := range m.GetClaimToHeaders() {
		at := fmt.Sprintf("%s.claim_to_headers[%d]", path, i)
		h := jwtauthn.ClaimHeader{Path: strings.Split(c.GetClaimName(), ".")}
		if h.Name, err = jwtHeader(c.GetHeaderName(), at+".header_name"); err != nil {
			return nil, err
		}
		if len(c.GetClaimPath()) > 0 {
			h.Path = nil
			for _, s := range c.GetClaimPath() {
				h.Path = append(h.Path, s.GetKey())
			}
		}
		if h.Name == "" || h.Path[0] == "" {
			return nil, fmt.Errorf("%s: needs a header and a claim", at)
		}
		p.Claims = append(p.Claims, h)
	}
	if p.Keys, err = b.jwtKeys(l, m, path); err != nil {
		return nil, err
	}
	return p, nil
}

// jwtKeys finds the keys of a provider: they are there, or the proxy fetches them.
func (b *Builder) jwtKeys(l *filterList, m *jwtauthnv3.JwtProvider, path string) (*jwtauthn.Source, error) {
	if r := m.GetRemoteJwks(); r != nil {
		from, err := b.remoteKeys(r, path+".remote_jwks")
		if err != nil {
			return nil, err
		}
		l.config.Asks = append(l.config.Asks, from.Cluster)
		keys := b.opts.Keys.Remote(from)
		b.uses.keys = append(b.uses.keys, keys)
		return keys, nil
	}
	at, source := path+".local_jwks", m.GetLocalJwks()
	if source == nil {
		return nil, fmt.Errorf("%s: has neither local_jwks nor remote_jwks: there are no keys", path)
	}
	text, err := dataSource(source, at)
	if err != nil {
		return nil, err
	}
	keys, err := b.opts.Keys.Given(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return keys, nil
}

const (
	// Envoy's defaults of RemoteJwks, and that of a timeout of 0, which has to be given.
	freshKeys    = 10 * time.Minute
	keysTimeout  = 5 * time.Second
	keysBackOff  = time.Second
	keysMaximum  = 10 // times the base
	shortest     = time.Second
	longestFetch = time.Minute
	mostRetries  = 100
)

// remoteKeys reads where a proxy fetches keys. It always does so in the background: requests wait only while there are none.
func (b *Builder) remoteKeys(m *jwtauthnv3.RemoteJwks, path string) (r jwtauthn.Remote, err error) {
	at := path + ".http_uri"
	h := m.GetHttpUri()
	if h.GetCluster() == "" {
		return r, fmt.Errorf("%s.cluster: is empty", at)
	}
	u, err := url.Parse(h.GetUri())
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return r, fmt.Errorf("%s.uri: %q is no address of HTTP, such as https://issuer.example/keys", at, h.GetUri())
	case u.User != nil:
		return r, fmt.Errorf("%s.uri: has a user in it, whom nobody would be told of", at)
	}
	r = jwtauthn.Remote{Cluster: b.clusterID(h.GetCluster()), Scheme: u.Scheme, Authority: u.Host, Path: u.RequestURI(),
		Timeout: min(cmp.Or(h.GetTimeout().AsDuration(), keysTimeout), longestFetch), Fresh: max(orDefault(m.GetCacheDuration(), freshKeys), shortest), Base: keysBackOff}
	if p := m.GetRetryPolicy(); p != nil {
		if r.Retries = 1; p.GetNumRetries() != nil {
			r.Retries = int(min(p.GetNumRetries().GetValue(), mostRetries))
		}
		if o := p.GetRetryBackOff(); o != nil {
			r.Base = max(o.GetBaseInterval().AsDuration(), time.Millisecond)
			if r.Max = o.GetMaxInterval().AsDuration(); o.GetMaxInterval() != nil && r.Max < r.Base {
				return r, fmt.Errorf("%s.retry_policy.retry_back_off.max_interval: is less than base_interval", path)
			}
		}
	}
	r.Max = cmp.Or(r.Max, keysMaximum*r.Base)
	if a := m.GetAsyncFetch().GetFailedRefetchDuration(); a != nil {
		r.Again = max(a.AsDuration(), 100*time.Millisecond)
	}
	if r.Timeout < 0 {
		return r, fmt.Errorf("%s.timeout: is negative", at)
	}
	return r, nil
}

// keepKeys says whose keys are needed now.
func (b *Builder) keepKeys() {
	used := map[*jwtauthn.Source]bool{}
	for _, l := range b.cur.listeners {
		for _, k := range l.keys {
			used[k] = true
		}
	}
	b.opts.Keys.Keep(used)
}

// jwtHeader is the name of a header that a provider sets. Pseudo-headers and what messages are framed by are not for
// tokens to say.
func jwtHeader(name, path string) (string, error) {
	switch n := strings.ToLower(name); n {
	case "host", "content-length", "transfer-encoding", "connection", "te", "upgrade":
		return "", fmt.Errorf("%s: %s cannot be set", path, n)
	default:
		if strings.HasPrefix(n, ":") {
			return "", fmt.Errorf("%s: %s cannot be set", path, n)
		}
		return n, oneLine(path, n)
	}
}

type jwtRequirements struct {
	f         *jwtauthn.Filter
	providers map[string]*jwtauthn.Provider
}

func (d *jwtRequirements) requirement(m *jwtauthnv3.JwtRequirement, path string, depth int) (*jwtauthn.Requirement, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: is nested deeper than %d", path, maxNesting)
	}
	switch r := m.GetRequiresType().(type) {
	case nil:
		return nil, nil
	case *jwtauthnv3.JwtRequirement_ProviderName:
		return d.by(r.ProviderName, nil, path+".provider_name")
	case *jwtauthnv3.JwtRequirement_ProviderAndAudiences:
		audiences := []string{}
		for _, a := range r.ProviderAndAudiences.GetAudiences() {
			audiences = append(audiences, jwtauthn.Audience(a))
		}
		return d.by(r.ProviderAndAudiences.GetProviderName(), audiences, path+".provider_and_audiences.provider_name")
	case *jwtauthnv3.JwtRequirement_RequiresAny:
		return d.list(jwtauthn.Any, r.RequiresAny.GetRequirements(), path+".requires_any.requirements", depth)
	case *jwtauthnv3.JwtRequirement_RequiresAll:
		return d.list(jwtauthn.All, r.RequiresAll.GetRequirements(), path+".requires_all.requirements", depth)
	case *jwtauthnv3.JwtRequirement_AllowMissing:
		return &jwtauthn.Requirement{Kind: jwtauthn.AllowMissing, Providers: d.f.Providers}, nil
	case *jwtauthnv3.JwtRequirement_AllowMissingOrFailed:
		return &jwtauthn.Requirement{Kind: jwtauthn.AllowMissingOrFailed, Providers: d.f.Providers}, nil
	}
	return nil, fmt.Errorf("%s: %T is not supported", path, m.GetRequiresType())
}

func (d *jwtRequirements) by(name string, audiences []string, path string) (*jwtauthn.Requirement, error) {
	p := d.providers[name]
	if p == nil {
		return nil, fmt.Errorf("%s: there is no provider %q", path, name)
	}
	return &jwtauthn.Requirement{Kind: jwtauthn.ByProvider, Provider: p, Audiences: audiences}, nil
}

// list reads a list. In one that has providers, what may be missing are their tokens.
func (d *jwtRequirements) list(kind jwtauthn.Kind, list []*jwtauthnv3.JwtRequirement, path string, depth int) (*jwtauthn.Requirement, error) {
	out := &jwtauthn.Requirement{Kind: kind}
	var own []*jwtauthn.Provider
	for i, m := range list {
		r, err := d.requirement(m, fmt.Sprintf("%s[%d]", path, i), depth+1)
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, fmt.Errorf("%s[%d]: is empty", path, i)
		}
		if r.Kind == jwtauthn.ByProvider {
			own = append(own, r.Provider)
		}
		out.Of = append(out.Of, r)
	}
	for _, r := range out.Of {
		if len(own) > 0 && (r.Kind == jwtauthn.AllowMissing || r.Kind == jwtauthn.AllowMissingOrFailed) {
			r.Providers = own
		}
	}
	return out, nil
}

// claimMatch compiles a matcher of what tokens say. What other filters would say is absent here: known is false.
func claimMatch(m *matcherv3.MetadataMatcher, path string) (c route.ClaimMatch, known bool, err error) {
	c.Invert = m.GetInvert()
	for i, s := range m.GetPath() {
		if s.GetKey() == "" {
			return c, false, fmt.Errorf("%s.path[%d].key: is empty", path, i)
		}
		c.Path = append(c.Path, s.GetKey())
	}
	if c.Value, err = claimTest(m.GetValue(), path+".value", 0); err != nil {
		return c, false, err
	}
	return c, m.GetFilter() == jwtFilter, nil
}

func claimTest(m *matcherv3.ValueMatcher, path string, depth int) (route.ClaimTest, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: is nested deeper than %d", path, maxNesting)
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_NullMatch_:
		return route.ClaimNull(), nil
	case *matcherv3.ValueMatcher_StringMatch:
		var v route.ValueMatch
		err := stringMatch(&v, p.StringMatch, path+".string_match")
		return route.ClaimText(v), err
	case *matcherv3.ValueMatcher_BoolMatch:
		return route.ClaimBool(p.BoolMatch), nil
	case *matcherv3.ValueMatcher_DoubleMatch:
		if r := p.DoubleMatch.GetRange(); r != nil {
			return route.ClaimNumber(r.GetStart(), r.GetEnd()), nil
		}
		return route.ClaimNumber(p.DoubleMatch.GetExact(), math.Inf(-1)), nil
	case *matcherv3.ValueMatcher_PresentMatch:
		if !p.PresentMatch {
			return nil, fmt.Errorf("%s.present_match: must be true", path)
		}
		return route.ClaimPresent(), nil
	case *matcherv3.ValueMatcher_ListMatch:
		t, err := claimTest(p.ListMatch.GetOneOf(), path+".list_match.one_of", depth+1)
		return route.ClaimAmong(t), err
	case *matcherv3.ValueMatcher_OrMatch:
		var tests []route.ClaimTest
		for i, v := range p.OrMatch.GetValueMatchers() {
			t, err := claimTest(v, fmt.Sprintf("%s.or_match.value_matchers[%d]", path, i), depth+1)
			if err != nil {
				return nil, err
			}
			tests = append(tests, t)
		}
		return route.ClaimEither(tests), nil
	}
	return nil, errors.New(path + ": has no pattern")
}
