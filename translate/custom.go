package translate

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
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

// asks reports whether somebody is asked about requests by p. Connections are none: nobody is asked about them, so that they are
// denied.
func (a *authorization) asks(p *mesh.AuthorizationPolicy, http bool) bool {
	return http && p.Action == mesh.AuthorizationCustom && a.provider(p) != nil
}

// customFilters ask about requests: those whose rules need what tokens say when tokens have been checked, the others
// before, as in Istio. Each provider has two filters.
func (a *authorization) customFilters(k *mint, port uint16, checked bool) (out []*hcmv3.HttpFilter) {
	var providers []*mesh.Authorizer
	rules := map[*mesh.Authorizer]*rbacv3.RBAC{}
	for _, p := range a.policies {
		if !a.asks(p, true) || needsToken(p) != checked {
			continue
		}
		to := a.provider(p)
		if rules[to] == nil {
			rules[to] = &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{}}
			providers = append(providers, to)
		}
		a.policiesOf(k, p, port, true, false, customPolicy, "", rules[to].Policies)
	}
	for _, to := range providers {
		if len(rules[to].Policies) == 0 {
			continue // for other ports
		}
		prefix := customShadow
		if len(a.settings.Authorizers) > 1 { // Envoy keeps what one found when the next looks
			prefix += to.Name + "_"
		}
		out = append(out, httpFilter("envoy.filters.http.rbac", k.any(&httprbacv3.RBAC{ShadowRules: rules[to], ShadowRulesStatPrefix: prefix})),
			httpFilter("envoy.filters.http.ext_authz", k.any(extAuthz(to, prefix))))
	}
	return out
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
		FilterEnabledMetadata: &matcherv3.MetadataMatcher{
			Filter: "envoy.filters.http.rbac",
			Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: prefix + effectivePolicy}}},
			Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: strings.TrimSuffix(customPolicy, "-")}}}},
		}}
	if to.Status != 0 {
		m.StatusOnError = &typev3.HttpStatus{Code: typev3.StatusCode(to.Status)}
	}
	if b := to.Body; b != nil {
		m.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: b.Max, AllowPartialMessage: b.Partial, PackAsBytes: b.Bytes}
	}
	name := clusterName(to.Port, "", to.Host)
	if to.GRPC {
		m.Services = &extauthzv3.ExtAuthz_GrpcService{GrpcService: &corev3.GrpcService{Timeout: durationpb.New(to.Timeout),
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: name, Authority: to.Host}}}}
		return m
	}
	h := &extauthzv3.HttpService{PathPrefix: to.PathPrefix,
		ServerUri: &corev3.HttpUri{Uri: "http://" + to.Host, Timeout: durationpb.New(to.Timeout), HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: name}}}
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
