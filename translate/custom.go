package translate

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weirmesh/weir/mesh"
)

// Names as Istio's: shadow rules find out who is asked about, and the filter behind them asks.
const (
	customShadow    = "istio_ext_authz_"
	customPolicy    = "istio-ext-authz-"
	effectivePolicy = "shadow_effective_policy_id"
	// badCustom ends the names of policies that deny because there is nobody to ask.
	badCustom = "-deny-due-to-bad-CUSTOM-action"
)

// provider is whom a policy asks, nil if there is no such.
func (a *authorization) provider(p *mesh.AuthorizationPolicy) *mesh.Authorizer {
	i := slices.IndexFunc(a.settings.Authorizers, func(x mesh.Authorizer) bool { return x.Name == p.Provider })
	if i < 0 {
		return nil
	}
	return &a.settings.Authorizers[i]
}

// asks reports whether somebody is asked by p: about connections only by gRPC, which knows more than requests, and only by proxies that do.
func (a *authorization) asks(p *mesh.AuthorizationPolicy, http bool) bool {
	if p.Action != mesh.AuthorizationCustom {
		return false
	}
	to := a.provider(p)
	return to != nil && (http || to.GRPC && a.connections)
}

// question is whom to ask, and about whom.
type question struct {
	to     *mesh.Authorizer
	rules  *rbacv3.RBAC
	prefix string // of what rules find
}

// questions are those of a port. checked: those whose rules need what tokens say, or the others; of connections, all.
func (a *authorization) questions(k *mint, port uint16, http, checked bool) (out []*question) {
	for _, p := range a.policies {
		if !a.asks(p, http) || http && needsToken(p) != checked {
			continue
		}
		to := a.provider(p)
		i := slices.IndexFunc(out, func(q *question) bool { return q.to == to })
		if i < 0 {
			i = len(out)
			q := &question{to: to, rules: &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{}}, prefix: customShadow}
			if len(a.settings.Authorizers) > 1 { // Envoy keeps what one found when the next looks
				q.prefix += to.Name + "_"
			}
			out = append(out, q)
		}
		a.policiesOf(k, p, port, http, false, customPolicy, "", out[i].rules.Policies)
	}
	return slices.DeleteFunc(out, func(q *question) bool { return len(q.rules.Policies) == 0 }) // for other ports
}

// customFilters ask about requests: those whose rules need what tokens say when tokens have been checked, the others
// before, as in Istio. Each provider has two filters.
func (a *authorization) customFilters(k *mint, port uint16, checked bool) (out []*hcmv3.HttpFilter) {
	for _, q := range a.questions(k, port, true, checked) {
		out = append(out, httpFilter(httpRBAC, k.any(&httprbacv3.RBAC{ShadowRules: q.rules, ShadowRulesStatPrefix: q.prefix})),
			httpFilter("envoy.filters.http.ext_authz", k.any(extAuthz(q.to, q.prefix))))
	}
	return out
}

// customTCP ask about connections.
func (a *authorization) customTCP(k *mint, port uint16) (out []*listenerv3.Filter) {
	for _, q := range a.questions(k, port, false, false) {
		out = append(out, networkFilter(networkRBAC, k.any(&networkrbacv3.RBAC{StatPrefix: "tcp.", ShadowRules: q.rules, ShadowRulesStatPrefix: q.prefix})),
			networkFilter("envoy.filters.network.ext_authz", k.any(&networkextauthzv3.ExtAuthz{StatPrefix: "tcp.", TransportApiVersion: corev3.ApiVersion_V3,
				FailureModeAllow: q.to.FailOpen, GrpcService: askedByGRPC(q.to), FilterEnabledMetadata: foundBy(networkRBAC, q.prefix)})))
	}
	return out
}

const (
	httpRBAC    = "envoy.filters.http.rbac"
	networkRBAC = "envoy.filters.network.rbac"
)

func networkFilter(name string, config *anypb.Any) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}
}

// foundBy holds for whom shadow rules of a filter have found, which prefix what they say.
func foundBy(filter, prefix string) *matcherv3.MetadataMatcher {
	return &matcherv3.MetadataMatcher{
		Filter: filter,
		Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: prefix + effectivePolicy}}},
		Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: strings.TrimSuffix(customPolicy, "-")}}}},
	}
}

func askedByGRPC(to *mesh.Authorizer) *corev3.GrpcService {
	return &corev3.GrpcService{Timeout: durationpb.New(to.Timeout),
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: clusterName(to.Port, "", to.Host), Authority: to.Host}}}
}

// needsToken reports whether rules ask what a token says.
func needsToken(p *mesh.AuthorizationPolicy) bool {
	asks := func(c mesh.AuthorizationClause) bool {
		return slices.ContainsFunc(c, func(x mesh.AuthorizationCondition) bool { return strings.HasPrefix(x.Attribute, "request.auth.") })
	}
	return slices.ContainsFunc(p.Rules, func(r mesh.AuthorizationRule) bool {
		return asks(r.When) || slices.ContainsFunc(r.From, asks) || slices.ContainsFunc(r.To, asks)
	})
}

// policiesOf puts the rules of one policy for one port into a filter's.
func (a *authorization) policiesOf(k *mint, p *mesh.AuthorizationPolicy, port uint16, http, allow bool, before, behind string, to map[string]*rbacv3.Policy) {
	for i := range p.Rules {
		r := &ruling{k: k, settings: a.settings, port: port, http: http, allow: allow}
		if policy := r.policy(&p.Rules[i]); policy != nil {
			to[fmt.Sprintf("%sns[%s]-policy[%s]-rule[%d]%s", before, p.Home(), p.Title(), i, behind)] = policy
		}
	}
}

func extAuthz(to *mesh.Authorizer, prefix string) *extauthzv3.ExtAuthz {
	m := &extauthzv3.ExtAuthz{TransportApiVersion: corev3.ApiVersion_V3, FailureModeAllow: to.FailOpen, ClearRouteCache: to.ClearRoute,
		FilterEnabledMetadata: foundBy(httpRBAC, prefix)}
	if to.Status != 0 {
		m.StatusOnError = &typev3.HttpStatus{Code: typev3.StatusCode(to.Status)}
	}
	if b := to.Body; b != nil {
		m.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: b.Max, AllowPartialMessage: b.Partial, PackAsBytes: b.Bytes}
	}
	if to.GRPC {
		m.Services = &extauthzv3.ExtAuthz_GrpcService{GrpcService: askedByGRPC(to)}
		return m
	}
	h := &extauthzv3.HttpService{PathPrefix: to.PathPrefix,
		ServerUri: &corev3.HttpUri{Uri: "http://" + to.Host, Timeout: durationpb.New(to.Timeout), HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: clusterName(to.Port, "", to.Host)}}}
	m.AllowedHeaders = headerNames(to.Show)
	if len(to.Add) > 0 {
		h.AuthorizationRequest = &extauthzv3.AuthorizationRequest{}
		for _, a := range to.Add {
			h.AuthorizationRequest.HeadersToAdd = append(h.AuthorizationRequest.HeadersToAdd, &corev3.HeaderValue{Key: a[0], Value: a[1]})
		}
	}
	if len(to.ToUpstream)+len(to.ToClient)+len(to.ToClientOnAllow) > 0 {
		h.AuthorizationResponse = &extauthzv3.AuthorizationResponse{AllowedUpstreamHeaders: headerNames(to.ToUpstream),
			AllowedClientHeaders: headerNames(to.ToClient), AllowedClientHeadersOnSuccess: headerNames(to.ToClientOnAllow)}
	}
	m.Services = &extauthzv3.ExtAuthz_HttpService{HttpService: h}
	return m
}

// headerNames is nil for none.
func headerNames(list []string) *matcherv3.ListStringMatcher {
	if len(list) == 0 {
		return nil
	}
	m := &matcherv3.ListStringMatcher{}
	for _, n := range list {
		m.Patterns = append(m.Patterns, textMatch(n, true))
	}
	return m
}
