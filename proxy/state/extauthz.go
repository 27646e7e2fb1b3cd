package state

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	networkextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/filter/extauthz"
	rbacfilter "github.com/weirmesh/weir/proxy/filter/rbac"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/route"
)

const (
	extAuthzURL         = typePrefix + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
	extAuthzPerRouteURL = typePrefix + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"

	// maxShownBody bounds how much of a request body may be kept to be shown: 16 MiB, for a worker with 60 such requests 1 GB.
	maxShownBody = 16 << 20
	// defaultAskTimeout is GrpcService.timeout's default in this filter.
	defaultAskTimeout = 200 * time.Millisecond
)

func (b *Builder) extAuthzFilter(l *filterList, config *anypb.Any, at string) error {
	x := &extauthzv3.ExtAuthz{}
	if err := unpack(config, x, at); err != nil {
		return err
	}
	c := &extauthz.Config{FailureModeAllow: x.GetFailureModeAllow(), FailureModeHeader: x.GetFailureModeAllowHeaderAdd(), ClearRoute: x.GetClearRouteCache(),
		TLSSession: x.GetIncludeTlsSession(), Per1M: always1M, MaxDenied: int(x.GetMaxDeniedResponseBodyBytes()), Counts: counted(b.counts.authz, "http."+l.stats+".ext_authz."+dotted(x.GetStatPrefix()))}
	if s := x.GetStatusOnError(); s != nil {
		if c.StatusOnError = int(s.GetCode()); c.StatusOnError < 200 || c.StatusOnError > 599 {
			return fmt.Errorf("%s.status_on_error.code: %d is not a final HTTP status", at, c.StatusOnError)
		}
	}
	if p := x.GetFilterEnabled().GetDefaultValue(); p != nil {
		c.Per1M = perMillion(p)
	}
	var err error
	if c.Show, err = headerNames(x.GetAllowedHeaders(), at+".allowed_headers"); err != nil {
		return err
	}
	if c.Hide, err = headerNames(x.GetDisallowedHeaders(), at+".disallowed_headers"); err != nil {
		return err
	}
	if w := x.GetWithRequestBody(); w != nil {
		if n := w.GetMaxRequestBytes(); n == 0 || n > maxShownBody {
			return fmt.Errorf("%s.with_request_body.max_request_bytes: %d, must be 1 to %d", at, n, maxShownBody)
		}
		c.Body = &extauthz.Body{Max: int(w.GetMaxRequestBytes()), Partial: w.GetAllowPartialMessage(), Bytes: w.GetPackAsBytes()}
	}
	rules, named, err := l.shadows.condition(x.GetFilterEnabledMetadata(), rbacFilterName, at+".filter_enabled_metadata")
	if err != nil {
		return err
	}
	if rules != nil {
		c.When = func(x *http.Exchange) (string, bool) { return rbacfilter.Matches(rules, x, named) }
	}
	switch s := x.GetServices().(type) {
	case *extauthzv3.ExtAuthz_GrpcService:
		c.GRPC = true
		err = b.askedByGRPC(&c.Service, s.GrpcService, at+".grpc_service")
	case *extauthzv3.ExtAuthz_HttpService:
		err = b.askedByHTTP(c, s.HttpService, at+".http_service")
	default:
		err = fmt.Errorf("%s: names neither grpc_service nor http_service", at)
	}
	if err == nil {
		l.enter(c.Stages()...)
		l.config.Asks = append(l.config.Asks, c.Cluster)
	}
	return err
}

// dotted ends a prefix of names with a dot.
func dotted(prefix string) string {
	if prefix == "" || strings.HasSuffix(prefix, ".") {
		return prefix
	}
	return prefix + "."
}

// connectionAuthz is a filter of a chain that relays; in front are the shadow rules of those before it.
func (b *Builder) connectionAuthz(config *anypb.Any, front shadows, at string) (*extauthz.Connections, error) {
	x := &networkextauthzv3.ExtAuthz{}
	if err := unpack(config, x, at); err != nil {
		return nil, err
	}
	c := &extauthz.Connections{FailureModeAllow: x.GetFailureModeAllow(), TLSSession: x.GetIncludeTlsSession(), Counts: counted(b.counts.authz, "ext_authz."+dotted(x.GetStatPrefix()))}
	rules, named, err := front.condition(x.GetFilterEnabledMetadata(), networkRBACName, at+".filter_enabled_metadata")
	if err != nil {
		return nil, err
	}
	if rules != nil {
		c.When = func(info *conn.Info) (string, bool) {
			policy := rules.Match(&rbac.Facts{Conn: info}, named)
			return policy, policy != ""
		}
	}
	return c, b.askedByGRPC(&c.Service, x.GetGrpcService(), at+".grpc_service")
}

func (b *Builder) askedByGRPC(c *extauthz.Service, g *corev3.GrpcService, path string) error {
	name := g.GetEnvoyGrpc().GetClusterName()
	if name == "" {
		return fmt.Errorf("%s: only envoy_grpc with a cluster_name is supported", path)
	}
	c.Cluster, c.Authority = b.clusterID(name), cmp.Or(g.GetEnvoyGrpc().GetAuthority(), name)
	if c.Timeout = defaultAskTimeout; g.GetTimeout() != nil {
		c.Timeout = g.GetTimeout().AsDuration()
	}
	if err := oneWord(path+".envoy_grpc.authority", c.Authority); err != nil {
		return err
	}
	var err error
	c.Add, err = headersToAdd(g.GetInitialMetadata(), path+".initial_metadata")
	return err
}

func (b *Builder) askedByHTTP(c *extauthz.Config, h *extauthzv3.HttpService, path string) error {
	name := h.GetServerUri().GetCluster()
	if name == "" {
		return fmt.Errorf("%s.server_uri.cluster: is empty", path)
	}
	c.Cluster, c.Timeout = b.clusterID(name), h.GetServerUri().GetTimeout().AsDuration()
	c.PathPrefix, c.PathOverride = h.GetPathPrefix(), h.GetPathOverride()
	for _, p := range []struct{ name, value string }{{".path_prefix", c.PathPrefix}, {".path_override", c.PathOverride}} {
		if p.value != "" && !strings.HasPrefix(p.value, "/") {
			return fmt.Errorf("%s%s: %q does not begin with /", path, p.name, p.value)
		}
		if err := oneWord(path+p.name, p.value); err != nil && p.value != "" {
			return err
		}
	}
	q, a := h.GetAuthorizationRequest(), h.GetAuthorizationResponse()
	var err error
	if q.GetAllowedHeaders() != nil { // the older place of it
		if c.Show != nil {
			return fmt.Errorf("%s.authorization_request.allowed_headers: is told twice, here and in allowed_headers", path)
		}
		if c.Show, err = headerNames(q.GetAllowedHeaders(), path+".authorization_request.allowed_headers"); err != nil {
			return err
		}
	}
	if c.Add, err = headersToAdd(q.GetHeadersToAdd(), path+".authorization_request.headers_to_add"); err != nil {
		return err
	}
	for _, n := range []struct {
		to   *extauthz.Names
		from *matcherv3.ListStringMatcher
		name string
	}{
		{&c.Upstream, a.GetAllowedUpstreamHeaders(), "allowed_upstream_headers"}, {&c.UpstreamAppend, a.GetAllowedUpstreamHeadersToAppend(), "allowed_upstream_headers_to_append"},
		{&c.Client, a.GetAllowedClientHeaders(), "allowed_client_headers"}, {&c.ClientOnSuccess, a.GetAllowedClientHeadersOnSuccess(), "allowed_client_headers_on_success"},
	} {
		if *n.to, err = headerNames(n.from, path+".authorization_response."+n.name); err != nil {
			return err
		}
	}
	return nil
}

func headersToAdd(list []*corev3.HeaderValue, path string) (out [][2]string, err error) {
	for i, h := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		name := strings.ToLower(h.GetKey())
		if err := cmp.Or(token(at+".key", name), oneLine(at+".value", h.GetValue())); err != nil {
			return nil, err
		}
		if strings.Contains(h.GetValue(), "%") {
			return nil, fmt.Errorf("%s.value: %q: variables are not supported here", at, h.GetValue())
		}
		out = append(out, [2]string{name, h.GetValue()})
	}
	return out, nil
}

// headerNames is nil for nil, and not nil for an empty list.
func headerNames(l *matcherv3.ListStringMatcher, path string) (extauthz.Names, error) {
	if l == nil {
		return nil, nil
	}
	out := make(extauthz.Names, len(l.GetPatterns()))
	for i, p := range l.GetPatterns() {
		if err := stringMatch(&out[i], p, fmt.Sprintf("%s.patterns[%d]", path, i)); err != nil {
			return nil, err
		}
		out[i].IgnoreCase = true // names are in lower case here, whatever somebody wrote
	}
	return out, nil
}

const (
	rbacFilterName  = "envoy.filters.http.rbac"
	networkRBACName = "envoy.filters.network.rbac"
	effectivePolicy = "shadow_effective_policy_id"
)

// shadows are the shadow rules of RBAC filters in front, by shadow_rules_stat_prefix.
type shadows map[string]*rbac.Rules

// condition is filter_enabled_metadata: what the shadow rules of an RBAC filter in front have found; nil rules: there is none. No other
// metadata is there to look at.
func (s shadows) condition(m *matcherv3.MetadataMatcher, filter, path string) (rules *rbac.Rules, named map[string]bool, err error) {
	if m == nil {
		return nil, nil, nil
	}
	if m.GetFilter() != filter || len(m.GetPath()) != 1 || m.GetValue().GetStringMatch() == nil || m.GetInvert() {
		return nil, nil, fmt.Errorf("%s: only a string_match of the %s of %s is supported", path, effectivePolicy, filter)
	}
	prefix, ok := strings.CutSuffix(m.GetPath()[0].GetKey(), effectivePolicy)
	rules = s[prefix]
	if !ok || rules == nil {
		return nil, nil, fmt.Errorf("%s.path[0].key: no RBAC filter in front has shadow rules that set %q", path, m.GetPath()[0].GetKey())
	}
	var v route.ValueMatch
	if err := stringMatch(&v, m.GetValue().GetStringMatch(), path+".value.string_match"); err != nil {
		return nil, nil, err
	}
	named = map[string]bool{}
	for i := range rules.Policies {
		if p := rules.Policies[i].Name; v.Holds([]byte(p)) {
			named[p] = true
		}
	}
	return rules, named, nil
}

func decodeAuthzPerRoute(config *anypb.Any, path string) (*route.ExtAuthz, error) {
	x := &extauthzv3.ExtAuthzPerRoute{}
	if err := unpack(config, x, path); err != nil {
		return nil, err
	}
	s := x.GetCheckSettings()
	return &route.ExtAuthz{Disabled: x.GetDisabled(), NoBody: s.GetDisableRequestBodyBuffering(), Context: s.GetContextExtensions()}, nil
}
