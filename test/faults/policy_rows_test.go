package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	serverOnly  = "selector: {matchLabels: {app: server}}"
	guardedOnly = "selector: {matchLabels: {app: guarded}}"
)

// providers are whom policies with action CUSTOM ask.
const providers = `apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - name: gone
      envoyExtAuthzHttp: {service: nobody-listens-outside.default.svc.cluster.local, port: 8080, timeout: 5s}
    - name: "no"
      envoyExtAuthzHttp: {service: custom-provider-says-no.default.svc.cluster.local, port: 8080, timeout: 5s, pathPrefix: /check}
    - name: gone-grpc
      envoyExtAuthzGrpc: {service: custom-provider-of-connections-gone.default.svc.cluster.local, port: 8080, timeout: 5s}
    - name: mute
      envoyExtAuthzHttp: {service: custom-provider-says-nothing.default.svc.cluster.local, port: 8080, timeout: 0.2s}
    - name: narrow
      envoyExtAuthzHttp: {service: custom-provider-says-no.default.svc.cluster.local, port: 8080, includeRequestBodyInCheck: {maxRequestBytes: 10}}
`

// Policies and tokens, at the server.
func policyRows(t testing.TB) []fault {
	key, stranger := newIssuer(t, "k"), newIssuer(t, "other")
	claims := func(slug, more string) string {
		return fmt.Sprintf(`{"iss":"https://%s.example","sub":"jane"%s}`, slug, more)
	}
	withToken := func(token func(f *fault) string) func(*world, *fault) string {
		return func(w *world, f *fault) string { return w.call(f, "GET", "/", "authorization: Bearer "+token(f)) }
	}
	soon := fmt.Sprintf(`,"exp":%d`, time.Now().Add(time.Hour).Unix())
	authentication := func(more string) string {
		return object("security.istio.io/v1", "RequestAuthentication", "NAME", "{"+guardedOnly+", jwtRules: [{issuer: 'https://NAME.example', "+more+"}]}")
	}
	own := authentication("jwks: '" + key.keys(t) + "'")
	var rules []string
	for i := range 50 {
		rules = append(rules, fmt.Sprintf("{issuer: 'https://NAME-%d.example', jwks: '%s'}", i, key.keys(t)))
	}
	rules[30] = "{issuer: 'https://NAME.example', !wrong jwksUri: 'http://127.0.0.1:1/keys'}"
	many := object("security.istio.io/v1", "RequestAuthentication", "NAME", "{"+guardedOnly+", jwtRules: ["+strings.Join(rules, ", ")+"]}")
	policy := func(spec string) string { return object("security.istio.io/v1", "AuthorizationPolicy", "NAME", spec) }
	return []fault{
		{name: "denied", how: "an AuthorizationPolicy DENY for the port", app: answers(ok), config: policy("{" + serverOnly + ", action: DENY, rules: [!wrong {to: [{operation: {ports: ['PORT']}}]}]}"),
			cause: "access_denied", at: "default/server", object: "AuthorizationPolicy rules[0]", client: "-", server: "access_denied"},
		{name: "denied by its second rule", how: "a DENY whose second rule is about the path", app: answers(ok),
			config: policy("{" + serverOnly + ", action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}, !wrong {to: [{operation: {ports: ['PORT'], paths: [/admin]}}]}]}"),
			ask:    func(w *world, f *fault) string { return w.call(f, "GET", "/admin") },
			cause:  "access_denied", at: "default/server", object: "AuthorizationPolicy rules[1]", client: "-", server: "access_denied"},
		{name: "TCP denied", how: "a DENY for a TCP port", app: silence, protocol: "tcp", ask: raw("hello"),
			config: policy("{" + serverOnly + ", action: DENY, rules: [!wrong {to: [{operation: {ports: ['PORT']}}]}]}"),
			cause:  "access_denied", at: "default/server", object: "AuthorizationPolicy rules[0]", client: "upstream_connection_reset", server: "access_denied"},
		{name: "not allowed", how: "an ALLOW that names other callers", on: "guarded", app: answers(ok),
			config: policy("{" + guardedOnly + ", !wrong rules: [{to: [{operation: {notPorts: ['PORT']}}]}, {from: [{source: {serviceAccounts: [else]}}]}]}"),
			cause:  "not_allowed", at: "default/guarded", object: "AuthorizationPolicy rules", client: "-", server: "not_allowed"},
		{name: "nobody allowed", how: "an ALLOW without rules", on: "shut", app: answers(ok),
			config: policy("{selector: {matchLabels: {app: shut}}, action: ALLOW, !wrong rules: []}"),
			cause:  "not_allowed", at: "default/shut", object: "AuthorizationPolicy rules", client: "-", server: "not_allowed", detail: "default/nobody-allowed has no rules: an ALLOW without rules lets nobody in"},
		{name: "custom provider gone", how: "action CUSTOM, and nobody is at the provider's port", app: answers(ok), config: policy("{" + serverOnly + ", action: CUSTOM, !wrong provider: {name: gone}, rules: [{to: [{operation: {ports: ['PORT']}}]}]}"),
			cause: "ext_authz_error", at: "default/server", object: "AuthorizationPolicy provider", client: "-", server: "ext_authz_error"},
		{name: "custom provider of connections gone", how: "action CUSTOM for a TCP port, and nobody is at the provider's port", app: silence, protocol: "tcp", ask: raw("hello"),
			config: policy("{" + serverOnly + ", action: CUSTOM, !wrong provider: {name: gone-grpc}, rules: [{to: [{operation: {ports: ['PORT']}}]}]}"),
			cause:  "ext_authz_error", at: "default/server", object: "AuthorizationPolicy provider", client: "upstream_connection_reset", server: "ext_authz_error"},
		{name: "custom provider says no", how: "action CUSTOM, and the provider answers 403", on: "guarded", app: answers("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"),
			config: policy("{" + guardedOnly + ", action: CUSTOM, !wrong provider: {name: 'no'}, rules: [{to: [{operation: {paths: [/asked]}}]}]}"),
			ask:    func(w *world, f *fault) string { return w.call(f, "GET", "/asked") },
			cause:  "ext_authz_denied", at: "default/guarded", object: "AuthorizationPolicy provider", client: "-", server: "ext_authz_denied"},
		{name: "custom provider says nothing", how: "action CUSTOM, and a provider that takes connections and says nothing within its timeout", on: "guarded", app: silence,
			config: policy("{" + guardedOnly + ", action: CUSTOM, !wrong provider: {name: mute}, rules: [{to: [{operation: {paths: [/mute]}}]}]}"),
			ask:    func(w *world, f *fault) string { return w.call(f, "GET", "/mute") },
			cause:  "ext_authz_error", at: "default/guarded", object: "AuthorizationPolicy provider", client: "-", server: "ext_authz_error"},
		{name: "custom provider unknown", how: "action CUSTOM with a provider that MeshConfig does not have", on: "strict", app: answers(ok),
			config: policy("{selector: {matchLabels: {app: strict}}, action: CUSTOM, provider: {!wrong name: who}, rules: [{to: [{operation: {ports: ['PORT']}}]}]}"),
			cause:  "policy_broken", at: "default/strict", object: "AuthorizationPolicy provider.name", client: "-", server: "access_denied"},
		{name: "token expired", how: "a token whose exp is long ago", on: "guarded", app: answers(ok), config: own,
			ask:   withToken(func(f *fault) string { return key.token(t, claims(f.slug(), `,"exp":1000000000`)) }),
			cause: "token_expired", at: "default/guarded", object: "RequestAuthentication jwtRules[0]", client: "-", server: "token_expired"},
		{name: "token of an unknown key", how: "a token whose kid the issuer's keys do not have", on: "guarded", app: answers(ok), config: own,
			ask:   withToken(func(f *fault) string { return stranger.token(t, claims(f.slug(), soon)) }),
			cause: "token_key_unknown", at: "default/guarded", object: "RequestAuthentication jwtRules[0].jwks", client: "-", server: "token_key_unknown"},
		{name: "token for others", how: "a token with another audience", on: "guarded", app: answers(ok), config: authentication("!wrong audiences: [shop], jwks: '" + key.keys(t) + "'"),
			ask:   withToken(func(f *fault) string { return key.token(t, claims(f.slug(), `,"aud":"bank"`+soon)) }),
			cause: "token_refused", at: "default/guarded", object: "RequestAuthentication jwtRules[0].audiences", client: "-", server: "token_refused", detail: "Audiences"},
		{name: "token of an unknown issuer", how: "a token of an issuer that no RequestAuthentication has", on: "guarded", app: answers(ok),
			ask:   withToken(func(f *fault) string { return key.token(t, claims("stranger", soon)) }),
			cause: "token_refused", at: "default/guarded", client: "-", server: "token_refused", detail: "issuer"},
		{name: "token that is none", how: "authorization: Bearer and something else", on: "guarded", app: answers(ok),
			ask:   withToken(func(*fault) string { return "nonsense" }),
			cause: "token_refused", at: "default/guarded", client: "-", server: "token_refused"},
		{name: "token keys unreachable", how: "jwksUri at a port where nobody listens", on: "guarded", app: answers(ok), config: authentication("!wrong jwksUri: 'http://127.0.0.1:1/keys'"),
			ask:   withToken(func(f *fault) string { return key.token(t, claims(f.slug(), soon)) }),
			cause: "token_keys_unavailable", at: "default/guarded", object: "RequestAuthentication jwtRules[0].jwksUri", client: "-", server: "token_keys_unavailable"},
		{name: "token keys unreachable of one of many", how: "a RequestAuthentication with 50 issuers, and nobody listens at the jwksUri of one", on: "guarded", app: answers(ok), config: many,
			ask:   withToken(func(f *fault) string { return key.token(t, claims(f.slug(), soon)) }),
			cause: "token_keys_unavailable", at: "default/guarded", object: "RequestAuthentication jwtRules[30].jwksUri", client: "-", server: "token_keys_unavailable"},
		{name: "old policy wants a token", how: "a Policy of Istio before 1.5 with origins for one service, and a request without a token", on: "server", app: answers(ok),
			config: object("authentication.istio.io/v1alpha1", "Policy", "NAME", "{targets: [{name: NAME}], !wrong origins: [{jwt: {issuer: 'https://NAME.example', jwks: '"+key.keys(t)+"'}}], principalBinding: USE_ORIGIN}"),
			cause:  "access_denied", at: "default/server", object: "Policy origins", client: passed /* plaintext: the caller is not told */, server: "access_denied"},
		{name: "old role for others", how: "a ServiceRoleBinding of Istio before 1.5 for somebody else", on: "server", app: answers(ok),
			config: documents(object("rbac.istio.io/v1alpha1", "ClusterRbacConfig", "default", "{mode: ON_WITH_INCLUSION, inclusion: {services: [NAME.default.svc.cluster.local]}}"),
				object("rbac.istio.io/v1alpha1", "ServiceRole", "NAME", "{rules: [{services: [NAME.default.svc.cluster.local]}]}"),
				object("rbac.istio.io/v1alpha1", "ServiceRoleBinding", "NAME", "{!wrong subjects: [{user: cluster.local/ns/default/sa/else}], roleRef: {kind: ServiceRole, name: NAME}}")),
			cause: "not_allowed", at: "default/server", object: "ServiceRoleBinding subjects", client: "-", server: "not_allowed"},
		{name: "no token", how: "an ALLOW that wants a principal of a token, and a request without one", on: "strict", app: answers(ok),
			config: policy("{selector: {matchLabels: {app: strict}}, !wrong rules: [{to: [{operation: {notPorts: ['PORT']}}]}, {from: [{source: {requestPrincipals: ['*']}}]}]}"),
			cause:  "not_allowed", at: "default/strict", object: "AuthorizationPolicy rules", client: "-", server: "not_allowed"},
	}
}
