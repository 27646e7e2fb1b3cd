package e2e_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/weirmesh/weir/sample/echo"
	"github.com/weirmesh/weir/test/mesh"
)

// tokenSigner signs tokens with a key of a name.
type tokenSigner struct {
	kid string
	key crypto.Signer
}

func newTokenSigner(t *testing.T, kid string) tokenSigner {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return tokenSigner{kid, key}
}

func (s tokenSigner) sign(t *testing.T, claims string) string {
	t.Helper()
	j, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, nil)
	must(t, err)
	o, err := j.Sign([]byte(claims))
	must(t, err)
	out, err := o.CompactSerialize()
	must(t, err)
	return out
}

func keySet(t *testing.T, list ...tokenSigner) string {
	t.Helper()
	var out jose.JSONWebKeySet
	for _, s := range list {
		out.Keys = append(out.Keys, jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid})
	}
	b, err := json.Marshal(out)
	must(t, err)
	return string(b)
}

func requestAuthentication(name, spec string) string {
	return strings.Replace(authorizationPolicy(name, spec), "AuthorizationPolicy", "RequestAuthentication", 1)
}

// Whose token is valid is what the objects say, and policies ask for what tokens say.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	all := m.Workloads(caller("client"), echoPod("echo-0", "v1"))
	client, pod := all[0], all[1]

	key, stranger := newTokenSigner(t, "k"), newTokenSigner(t, "k")
	soon := time.Now().Add(time.Hour).Unix()
	tokens := map[string]string{
		"jane":     key.sign(t, fmt.Sprintf(`{"iss":"https://issuer.example","sub":"jane","aud":["a","shop"],"azp":"web","exp":%d,"scope":"read write","realm":{"roles":["admin","dev"]},"level":3}`, soon)),
		"joe":      key.sign(t, `{"iss":"https://issuer.example","sub":"joe","aud":"shop"}`),
		"expired":  key.sign(t, `{"iss":"https://issuer.example","sub":"jane","exp":1000000000}`),
		"early":    key.sign(t, fmt.Sprintf(`{"iss":"https://issuer.example","sub":"jane","nbf":%d}`, soon)),
		"forged":   stranger.sign(t, `{"iss":"https://issuer.example","sub":"jane"}`),
		"others":   stranger.sign(t, `{"iss":"https://other.example","sub":"jane"}`),
		"not":      "a token",
		"unsigned": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://issuer.example"}`)) + ".AA",
	}
	issuer := func(more string) string {
		return requestAuthentication("issuer", "{"+echoOnly+", jwtRules: [{issuer: 'https://issuer.example', jwks: '"+keySet(t, key)+"'"+more+"}]}")
	}
	needs := func(rule string) string { return authorizationPolicy("needs", "{"+echoOnly+", rules: [{"+rule+"}]}") }
	when := func(key, values string) string {
		return documents(issuer(""), needs("when: [{key: '"+key+"', values: ["+values+"]}]"))
	}
	for _, c := range []struct {
		name, config string
		calls        string // "TOKEN STATUS", separated by ";"
		log          string // of the last call
	}{
		{name: "nobody asks", calls: "- 200; jane 200; forged 200; not 200"},
		{name: "a token has to be valid", config: issuer(""), calls: "- 200; jane 200; joe 200; expired 401; early 401; others 401; unsigned 401; not 401; forged 401", log: "401 - jwt_authn_access_denied{Jwt_verification_fails}"},
		{name: "for whom it is", config: issuer(", audiences: [a, b]"), calls: "jane 200; - 200; joe 403", log: "403 - jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}"},
		{name: "a token is needed", config: documents(issuer(""), needs("from: [{source: {requestPrincipals: ['*']}}]")), calls: "jane 200; joe 200; forged 401; - 403", log: "rbac_access_denied_matched_policy[none]"},
		{name: "one principal", config: documents(issuer(""), needs("from: [{source: {requestPrincipals: ['https://issuer.example/jane']}}]")), calls: "jane 200; joe 403; - 403"},
		{name: "one issuer", config: documents(issuer(""), needs("from: [{source: {requestPrincipals: ['https://issuer.example/*']}}]")), calls: "jane 200; joe 200; - 403"},
		{name: "one subject", config: documents(issuer(""), needs("from: [{source: {requestPrincipals: ['*/joe']}}]")), calls: "jane 403; joe 200"},
		{name: "nobody without", config: documents(issuer(""), authorizationPolicy("deny", "{"+echoOnly+", action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}")), calls: "jane 200; - 403"},
		{name: "audiences", config: when("request.auth.audiences", "a"), calls: "jane 200; joe 403"},
		{name: "an audience that is no list", config: when("request.auth.audiences", "shop"), calls: "jane 200; joe 200; - 403"},
		{name: "the presenter", config: when("request.auth.presenter", "web"), calls: "jane 200; joe 403"},
		{name: "a claim that is a list", config: when("request.auth.claims[realm][roles]", "x, adm*"), calls: "jane 200; joe 403"},
		{name: "a claim with spaces", config: when("request.auth.claims[scope]", "write"), calls: "jane 200; joe 403"},
		{name: "a claim that nobody has", config: when("request.auth.claims[x]", "\"*\""), calls: "jane 403"},
		{name: "with an error no token is taken", config: strings.Replace(issuer(", jwksUri: 'https://issuer.example'"), "name: issuer", "name: slip", 1), calls: "- 200; jane 401"},
		{name: "for somebody else", config: strings.Replace(issuer(""), "app: echo", "app: nobody", 1), calls: "forged 200"},
		{name: "for all", config: strings.Replace(strings.Replace(issuer(""), "name: issuer", "name: issuer, namespace: istio-system", 1), echoOnly+",", "", 1), calls: "forged 401; jane 200"},
	} {
		m.Run(c.name, func(t *testing.T) {
			m.Config("authentication.yaml", c.config)
			last := ""
			for i, call := range strings.Split(c.calls, ";") {
				f := strings.Fields(call)
				last = fmt.Sprintf("%s-%d", strings.ReplaceAll(c.name, " ", "-"), i)
				headers := []string{"x-request-id: " + last}
				if tokens[f[0]] != "" {
					headers = append(headers, "authorization: Bearer "+tokens[f[0]])
				}
				if r := client.Do("GET", "http://echo:8080/", nil, headers...); fmt.Sprint(r.Status) != f[1] {
					t.Errorf("%s: %v", call, r)
				}
			}
			if c.log != "" {
				if line := pod.AccessLog(last); len(line) != 1 || !strings.Contains(line[0], c.log) {
					t.Errorf("the log says %q", line)
				}
			}
		})
	}
	m.Run("what the application gets", func(t *testing.T) {
		m.Config("authentication.yaml", issuer(", fromHeaders: [{name: x-token}], fromCookies: [session], fromParams: [t], outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-user, claim: sub}, {header: x-level, claim: level}]"))
		ask := func(path string, headers ...string) echo.Report {
			r := client.Do("GET", "http://echo:8080"+path, nil, headers...)
			var got echo.Report
			must(t, json.Unmarshal(r.Body, &got))
			return got
		}
		payload := strings.Split(tokens["jane"], ".")[1]
		for _, got := range []echo.Report{ask("/x", "x-token: "+tokens["jane"], "x-user: root"), ask("/x?t=" + tokens["jane"]), ask("/x", "cookie: session="+tokens["jane"])} {
			if header(got, "x-user") != "jane" || header(got, "x-level") != "3" || header(got, "x-payload") != payload || header(got, "x-token")+header(got, "cookie") != "" || got.Target != "/x" {
				t.Errorf("%+v", got)
			}
		}
		if got := ask("/x", "x-user: root", "x-payload: e30"); header(got, "x-user")+header(got, "x-payload") != "" {
			t.Errorf("without a token: %+v", got)
		}
	})
}

// header is all values of a header that the application got.
func header(r echo.Report, name string) (out string) {
	for _, f := range r.Headers {
		if strings.EqualFold(f.Name, name) {
			out += f.Value
		}
	}
	return out
}

// issuer serves key sets, as an identity provider does.
type issuer struct {
	uri   string
	text  atomic.Pointer[string] // nil: it is down
	asked atomic.Int64
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		if text := i.text.Load(); text != nil {
			fmt.Fprint(w, *text)
			return
		}
		http.Error(w, "down", http.StatusServiceUnavailable)
	}))
	t.Cleanup(s.Close)
	i.uri = s.URL + "/jwks"
	return i
}

func (i *issuer) publish(t *testing.T, list ...tokenSigner) {
	s := keySet(t, list...)
	i.text.Store(&s)
}

// Keys that are fetched: an issuer that comes up late, keys that rotate without overlap under load, an issuer that is down, and the control plane with it.
func TestFetchedKeys(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	client := m.Workloads(caller("client"), echoPod("echo-0", "v1"))[0]
	i := newIssuer(t)
	call := func(s tokenSigner) *mesh.Response {
		return client.Do("GET", "http://echo:8080/", nil, "authorization: Bearer "+s.sign(t, fmt.Sprintf(`{"iss":"https://issuer.example","sub":"jane","jti":"%d"}`, time.Now().UnixNano())))
	}
	m.Config("authentication.yaml", requestAuthentication("issuer", "{"+echoOnly+", jwtRules: [{issuer: 'https://issuer.example', jwksUri: '"+i.uri+"'}]}"))
	key := newTokenSigner(t, "0")
	if r := call(key); r.Status != 401 || string(r.Body) != "Jwks remote fetch is failed" {
		t.Errorf("while the issuer is down: %v", r)
	}
	i.publish(t, key)
	m.Eventually("tokens are accepted", func() error {
		if r := call(key); r.Status != 200 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})

	stop := make(chan struct{})
	var load sync.WaitGroup
	var mu sync.Mutex
	calls, wrong := 0, []string{}
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				k := key // whoever has a token of these keys got it after they were published
				mu.Unlock()
				r := call(k)
				mu.Lock()
				if calls++; r.Status != 200 && k == key {
					wrong = append(wrong, fmt.Sprint(r))
				}
				mu.Unlock()
			}
		})
	}
	for n := range 10 {
		next := newTokenSigner(t, fmt.Sprint(n+1))
		mu.Lock()
		i.publish(t, next)
		key = next
		before := calls
		mu.Unlock()
		m.Eventually("calls go on", func() error {
			mu.Lock()
			defer mu.Unlock()
			if calls < before+40 {
				return fmt.Errorf("%d calls", calls-before)
			}
			return nil
		})
	}
	close(stop)
	load.Wait()
	if len(wrong) > 0 {
		t.Errorf("%d of %d calls with keys in force were refused, the first: %s", len(wrong), calls, wrong[0])
	}
	t.Logf("%d calls, 10 rotations, the issuer was asked %d times", calls, i.asked.Load())

	i.text.Store(nil)
	if r := call(key); r.Status != 200 {
		t.Errorf("the issuer went down: %v", r)
	}
	if r := call(newTokenSigner(t, "stranger")); r.Status != 401 || string(r.Body) != "Jwks doesn't have key to match kid or alg from Jwt" {
		t.Errorf("a stranger: %v", r)
	}

	// The control plane begins anew meanwhile, and so does a server: who never saw the issuer takes its tokens.
	m.StopControl()
	m.StartControl()
	m.Workload(echoPod("echo-1", "v1"))
	for n := range 10 {
		if r := call(key); r.Status != 200 {
			t.Errorf("call %d with a server that began after the issuer went: %v", n, r)
		}
	}
	m.Eventually("the finding tells how old the keys are", func() error {
		for _, f := range m.Findings() {
			if f.Code == "WEIR0116" && strings.Contains(f.Message, ", before the control plane began anew)") {
				return nil
			}
		}
		return fmt.Errorf("%+v", m.Findings())
	})
}

// At a gateway tokens are checked before a request is let in, and routes ask for what they say.
func TestRoutesByClaim(t *testing.T) {
	t.Parallel()
	m, _, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	key := newTokenSigner(t, "k")
	m.Config("routes.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [echo.example]}]}
`, virtualService("echo", `
  hosts: [echo.example]
  gateways: [edge]
  http:
  - {match: [{headers: {"@request.auth.claims.realm.roles": {exact: admin}}}], rewrite: {uri: /admin}, route: &echo [{destination: {host: echo, port: {number: 8080}}}]}
  - {match: [{headers: {"@request.auth.claims[plan.name]": {prefix: gold}}}], rewrite: {uri: /gold}, route: *echo}
  - {match: [{withoutHeaders: {"@request.auth.claims.sub": {}}}], rewrite: {uri: /nobody}, route: *echo}
  - {rewrite: {uri: /user}, route: *echo}
`), strings.Replace(requestAuthentication("edge", "{selector: {matchLabels: {istio: ingressgateway}}, jwtRules: [{issuer: i, jwks: '"+keySet(t, key)+"', forwardOriginalToken: true}]}"), "name: edge", "name: edge, namespace: istio-system", 1)))
	outside := m.Workload(mesh.Gateway()).Outside()
	for _, c := range []struct{ claims, want string }{
		{"", "/nobody"},
		{`{"iss":"i","sub":"a","realm":{"roles":["dev","admin"]}}`, "/admin"},
		{`{"iss":"i","sub":"a","realm":{"roles":"admin"}}`, "/admin"},
		{`{"iss":"i","sub":"a","realm":{"roles":["dev"]},"plan.name":"golden"}`, "/gold"},
		{`{"iss":"i","sub":"a","realm":"admin"}`, "/user"},
		{`{"iss":"i"}`, "/nobody"},
		{`{"iss":"j","sub":"a"}`, "401"},
	} {
		headers := []string{"host: echo.example"}
		if c.claims != "" {
			headers = append(headers, "authorization: Bearer "+key.sign(t, c.claims))
		}
		r := mesh.Do(outside, http.MethodGet, "http://gateway:8080/", nil, headers...)
		var got echo.Report
		if r.Status == http.StatusOK {
			must(t, json.Unmarshal(r.Body, &got))
		} else {
			got.Path = fmt.Sprint(r.Status)
		}
		if got.Path != c.want {
			t.Errorf("%s: %s, want %s", c.claims, got.Path, c.want)
		}
	}
}
