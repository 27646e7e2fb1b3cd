package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A service a kind of policy: what its name says is on.
const (
	plain    = "plain"    // no mutual TLS
	mutual   = "mutual"   // mutual TLS
	policies = "policies" // and fifty policies
	token    = "token"    // mutual TLS, and a token of each request is checked
	all      = "all"      // everything
	crowd    = "crowd"    // the same, for more users than a proxy remembers
	issuer   = "https://accounts.example.com"
	// path is the one of all requests.
	path = "/api/v1/items?id=42"
)

var services = []string{plain, mutual, policies, token, all, crowd}

// checked says whose tokens are checked, governed for whom there are fifty policies.
func checked(service string) bool  { return service == token || service == all || service == crowd }
func governed(service string) bool { return service == policies || service == all || service == crowd }

// objects are the configuration of the mesh.
func objects(keys string) string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, "---\n"+format+"\n", args...) }
	add(`{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`)
	for _, s := range services {
		add(`apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {selector: {app: %[1]s}, ports: [{name: http, port: 8080}, {name: tcp-bulk, port: 9000}, {name: tcp-echo, port: 9001}, {name: http2-site, port: 7071}, {name: grpc-echo, port: 7070}]}`, s)
		mode, tls := "STRICT", "ISTIO_MUTUAL"
		if s == plain {
			mode, tls = "DISABLE", "DISABLE"
		}
		add(`apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: %[1]s, namespace: shop}
spec: {selector: {matchLabels: {app: %[1]s}}, mtls: {mode: %[2]s}}`, s, mode)
		add(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %[1]s, namespace: shop}
spec: {host: %[1]s, trafficPolicy: {tls: {mode: %[2]s}}}`, s, tls)
		if checked(s) {
			add(`apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: %[1]s, namespace: shop}
spec:
  selector: {matchLabels: {app: %[1]s}}
  jwtRules: [{issuer: %[2]q, audiences: [shop], jwks: %[3]q, outputClaimToHeaders: [{header: x-user, claim: sub}]}]`, s, issuer, keys)
		}
		if governed(s) {
			fifty(add, s)
		}
	}
	return b.String()
}

// fifty are the policies of one service, beside one for its connections that are not HTTP. The one that lets the client in is the last in the order in which proxies ask:
// all others are looked at first, two thirds of them know the path, and half of these ask
// for the caller's namespace.
func fifty(add func(string, ...any), service string) {
	policy := func(name, action, rule string) {
		add(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %[1]s-%[2]s, namespace: shop}
spec:
  selector: {matchLabels: {app: %[1]s}}
  action: %[3]s
  rules:
%[4]s`, service, name, action, rule)
	}
	for i := range 48 {
		from := fmt.Sprintf(`{principals: [cluster.local/ns/team-%02d/sa/worker-%02d, cluster.local/ns/team-%02d/sa/batch-*]}`, i, i, i)
		to := `{methods: [GET, HEAD], paths: [/api/*]}`
		switch i % 3 {
		case 1:
			to = fmt.Sprintf(`{methods: [GET, POST], paths: [/team-%02d/orders/*, /team-%02d/status]}`, i, i)
		case 2:
			from = fmt.Sprintf(`{namespaces: [team-%02d, team-%02d-test]}`, i, i)
		}
		policy(fmt.Sprintf("team-%02d", i), "ALLOW", fmt.Sprintf("  - {from: [{source: %s}], to: [{operation: %s}]}", from, to))
	}
	policy("no-admin", "DENY", `  - {from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/operator]}}], to: [{operation: {ports: ["8080"], paths: [/admin/*, /debug/*]}}]}`)
	policy("connections", "ALLOW", `  - {from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {ports: ["9001"]}}]}`)
	when := ""
	if checked(service) {
		when = `, when: [{key: "request.auth.claims[groups]", values: [customers]}]`
	}
	policy("web", "ALLOW", `  - {from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {methods: [GET, POST], paths: [/api/*]}}]`+when+`}`)
}

// mint makes n tokens of different users, and the set with the key of their signatures.
func mint(n int) (tokens []string, keys string, err error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: private, KeyID: "bench"}}, nil)
	if err != nil {
		return nil, "", err
	}
	now := time.Now()
	for i := range n {
		claims, err := json.Marshal(map[string]any{
			"iss": issuer, "sub": fmt.Sprintf("user-%06d", i), "aud": []string{"shop", "billing"}, "exp": now.Add(24 * time.Hour).Unix(), "iat": now.Unix(),
			"azp": "shop-web", "scope": "openid profile email orders:read orders:write", "groups": []string{"customers", "beta"},
			"email": fmt.Sprintf("user-%06d@example.com", i), "email_verified": true, "name": "A User", "sid": fmt.Sprintf("5f1c%028d", i),
		})
		if err != nil {
			return nil, "", err
		}
		signed, err := signer.Sign(claims)
		if err != nil {
			return nil, "", err
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			return nil, "", err
		}
		tokens = append(tokens, text)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: "bench", Algorithm: string(jose.RS256), Use: "sig"}}})
	return tokens, string(set), err
}
