package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// The planted secret is in every place where a secret may be, and stays in none; what is beside it does.
func TestRedact(t *testing.T) {
	const planted = "hunter2planted"
	encoded := base64.StdEncoding.EncodeToString([]byte(planted))
	key := "-----BEGIN EC PRIVATE KEY-----\n" + planted + "\n-----END EC PRIVATE KEY-----"
	token := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0." + planted
	for _, tc := range []struct{ name, text, stays string }{
		{"secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\ndata: {password: " + encoded + ", user: " + encoded + "}\n", "name: db"},
		{"stringdata.yaml", "kind: Secret\nmetadata: {name: db}\nstringData:\n  anything: " + planted + "\n", "anything:"},
		{"list.json", `{"kind":"List","items":[{"kind":"Secret","metadata":{"name":"db"},"data":{"x":"` + encoded + `"}}]}`, `"db"`},
		{"applied.yaml", "kind: Secret\nmetadata:\n  name: db\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{\"data\":{\"a\":\"" + encoded + "\"}}'\n", "name: db"},
		{"second.yaml", "kind: Service\nmetadata: {name: reviews}\n---\nkind: Secret\ndata: {a: " + encoded + "}\n", "reviews"},
		{"broken.yaml", "kind: Service\nmetadata: {name: reviews}\n---\nkind: Secret\ndata: {a: " + encoded + "\n b: [", "reviews"},
		{"env.yaml", "kind: Deployment\nspec: {template: {spec: {containers: [{name: a, env: [{name: MODE, value: " + planted + "}, {name: ISTIO_META_X, value: kept}]}]}}}\n", "kept"},
		{"args.yaml", "kind: Pod\nspec: {containers: [{name: a, args: ['--db-password=" + planted + "', '--port=80']}]}\n", "--port=80"},
		{"configmap.yaml", "kind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |\n    clientSecret: " + planted + "\n    rootNamespace: istio-system\n", "istio-system"},
		{"configmap.json", `{"kind":"ConfigMap","data":{"values":"{\"global\":{\"password\":\"` + planted + `\",\"hub\":\"weir\"}}"}}`, "weir"},
		{"header.json", `{"request_headers_to_add":[{"header":{"key":"authorization","value":"` + planted + `"}},{"header":{"key":"x-a","value":"kept"}}]}`, "kept"},
		{"virtualservice.yaml", "kind: VirtualService\nspec: {http: [{headers: {request: {set: {authorization: " + planted + ", x-a: kept}}}}]}\n", "kept"},
		{"dump.json", `{"tls_certificate":{"private_key":{"inline_string":"` + planted + `"},"certificate_chain":{"inline_string":"kept"}}}`, "kept"},
		{"dump2.json", `{"dynamic_active_secrets":[{"name":"default","secret":{"name":"kept","tls_certificate":{"private_key":{"inline_bytes":"` + encoded + `"}}}}]}`, "kept"},
		{"lua.json", `{"inline_code":"request_handle:headers():add(\"x-api-key\", \"kept\") password = ` + planted + `"}`, "inline_code"},
		{"findings.json", `{"message":"the token ` + token + ` is not valid","kind":"Service"}`, "is not valid"},
		{"numbers.json", `{"version": 12345678901234567890, "password": "` + planted + `"}`, "12345678901234567890"},
		{"key.txt", "a\n" + key + "\nb", "b"},
		{"cutkey.txt", "a\n-----BEGIN PRIVATE KEY-----\n" + planted, "a"},
		{"key.json", `{"pem":"-----BEGIN RSA PRIVATE KEY-----\n` + planted + `\n-----END RSA PRIVATE KEY-----\n"}`, "pem"},
		{"base64key.txt", base64.StdEncoding.EncodeToString([]byte("-----BEGIN PRIVATE KEY-----\n"+planted)) + " x", "x"},
		{"access.log", `[2026] "GET /login?user=a&token=` + planted + ` HTTP/1.1" 200`, "200"},
		{"query.log", `GET /x?code=` + planted + ` 503`, "503"},
		{"bearer.log", "authorization: Bearer " + planted + " was refused", "was refused"},
		{"basic.log", "proxy-authorization: Basic " + encoded + " x", "x"},
		{"jwt.log", "jwt=" + token + " x", " x"},
		{"url.log", "dialing postgres://user:" + planted + "@db:5432/x failed", "db:5432/x failed"},
		{"cookie.log", "Set-Cookie: session=" + planted + "; Path=/", "Path=/"},
		{"jwks.yaml", "kind: RequestAuthentication\nspec: {jwtRules: [{issuer: kept, jwks: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"" + planted + planted + "\"}]}'}]}\n", "kept"},
		{"jwks.json", `{"local_jwks":{"inline_string":"{\"keys\":[{\"kty\":\"oct\", \"k\": \"` + planted + planted + `\"}]}"},"issuer":"kept"}`, "kept"},
		{"stats.txt", `weir_x{api_key="` + planted + `"} 1`, "} 1"},
		{"match.json", `{"http":[{"match":[{"headers":{"x-api-key":{"exact":"` + planted + `"},"x-a":{"exact":"kept"}}}]}]}`, "kept"},
		{"match.yaml", "kind: VirtualService\nspec: {http: [{match: [{headers: {x-api-key: {exact: " + planted + "}, x-a: {exact: kept}}}]}]}\n", "kept"},
		{"matcher.json", `{"headers":[{"name":"x-api-key","string_match":{"exact":"` + planted + `"}},{"name":"x-a","string_match":{"exact":"kept"}}]}`, "kept"},
		{"when.yaml", "kind: AuthorizationPolicy\nspec: {rules: [{when: [{key: 'request.headers[x-auth]', values: [" + planted + "]}]}]}\n", "request.headers[x-auth]"},
		{"headers.json", `{"headers":{"Authorization":["Token ` + planted + `"],"x-a":["kept"]}}`, "kept"},
		{"lines.json", `{"a":"kept"}` + "\n" + `{"password":"` + planted + `"}`, "kept"},
		{"secret.json", `{"secret":"` + planted + `","a":"kept"}`, "kept"},
		{"secretlist.json", `{"kind":"SecretList","items":[{"metadata":{"name":"db"},"data":{"x":"` + encoded + `"}}]}`, `"db"`},
		{"args.json", `{"args":["--password","` + planted + `","--port","80"]}`, `"80"`},
		{"user.json", `{"command":["curl","-u","me:` + planted + `","http://kept"]}`, "http://kept"},
		{"shell.json", `{"command":["sh","-c","mysql --password ` + planted + ` -h kept"]}`, "-h kept"},
		{"enable.json", `{"env":[{"name":"ENABLE_X","value":"` + planted + `"},{"name":"HOST_X","value":"` + planted + `"},{"name":"POD_NAME","value":"kept"}]}`, "kept"},
		{"probe.yaml", "kind: Pod\nspec: {containers: [{livenessProbe: {httpGet: {path: /kept, httpHeaders: [{name: X-Auth, value: " + planted + "}]}}}]}\n", "/kept"},
		{"set.yaml", "kind: VirtualService\nspec: {http: [{headers: {request: {set: {x-internal-auth: " + planted + ", x-a: kept}}}}]}\n", "kept"},
		{"dsn.json", `{"a":"user:` + planted + `@tcp(db:3306)/x"}`, "tcp(db:3306)/x"},
		{"scheme.log", "amqp://user:a@" + planted + "@mq:5672/x", "mq:5672/x"},
		{"token.log", "Authorization: Token " + planted + " was refused", "was refused"},
		{"digest.log", `Authorization: Digest username="a", response="` + planted + `" was refused`, "was refused"},
		{"scheme.log", `"authorization": "Custom a b ` + planted + `", "x": "kept"`, "kept"},
		{"escaped.log", `body {\"authorization\":\"Token ` + planted + `\",\"a\":\"kept\"}`, "kept"},
		{"cookies.log", "Cookie: a=b; c=" + planted + "\nkept", "kept"},
		{"pwd.log", "pwd=" + planted + " kept", "kept"},
		{"aws.log", "aws_secret=" + planted + " kept", "kept"},
		{"auth.log", "auth=" + planted + " kept", "kept"},
		{"amz.log", "X-Amz-Signature=" + planted + " kept", "kept"},
		{"quoted.log", "passwd: 'with space " + planted + "' kept", "kept"},
		{"quoted2.log", `db_password="with \" ` + planted + `" kept`, "kept"},
		{"pg.log", "PGPASSWORD=" + planted + " kept", "kept"},
		{"pgpass.log", "PGPASS=" + planted + " kept", "kept"},
		{"pair.log", `exec ["--password","` + planted + `","kept"]`, "kept"},
		{"object.log", `{"x-api-key":{"exact":"` + planted + `"},"a":"kept"}`, `"a":"kept"}`},
	} {
		got := string(Redact(tc.name, []byte(tc.text)))
		if strings.Contains(got, planted) || strings.Contains(got, encoded) || strings.Contains(got, strings.TrimRight(encoded, "=")) {
			t.Errorf("%s: the secret is there:\n%s", tc.name, got)
		}
		if !strings.Contains(got, tc.stays) {
			t.Errorf("%s: %q is not there:\n%s", tc.name, tc.stays, got)
		}
		if json := strings.HasSuffix(tc.name, ".json"); json && tc.name != "lines.json" && !isJSON(got) || strings.HasSuffix(tc.name, ".yaml") && !isYAML(got) {
			t.Errorf("%s: it is not what its name says any more:\n%s", tc.name, got)
		}
	}
	for name, text := range map[string]string{
		"gateway.yaml": "kind: Gateway\nspec:\n  servers:\n  - tls:\n      credentialName: bookinfo\n",
		"stats.txt":    "istio_requests_total{source=\"a\"} 3\n",
		"state.json":   "{\n \"secretName\": \"a\"\n}\n",
		"bucket.json":  "{\n \"token_bucket\": {\n  \"max_tokens\": 10\n }\n}\n",
		"hosts.json":   "{\n \"outbound|80||token.shop.svc.cluster.local\": {\n  \"a\": \"b\"\n }\n}\n",
		"hash.yaml":    "httpCookie:\n  name: user\n  ttl: 0s\n",
		"volume.yaml":  "volumes:\n- secret:\n    secretName: a\n- projected:\n    sources:\n    - serviceAccountToken:\n        path: token\n",
		"a.log":        "GET http://auth.shop:80/a 200 host=auth.shop image=weir/proxy:v1@sha256:ab bypass=1 author=b",
	} {
		if got := string(Redact(name, []byte(text))); got != text {
			t.Errorf("%s: %q, want what it was", name, got)
		}
	}
}

// Each key is what services call by its form, wherever it stands.
func TestKeysAreKnownByTheirForm(t *testing.T) {
	for _, key := range []string{"AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "abcdefghijklmnopqrst0123456789abcdef"} {
		for _, name := range []string{"a.log", "a.json", "a.yaml"} {
			text := `{"a": "it is ` + key + ` here"}`
			if got := string(Redact(name, []byte(text))); strings.Contains(got, key) || !strings.Contains(got, " here") {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
}

func isJSON(s string) bool { return json.Valid([]byte(s)) }

func isYAML(s string) bool {
	_, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(s, "---\n", "")))
	return err == nil || strings.Contains(s, "---")
}

func FuzzRedact(f *testing.F) {
	f.Add("a.yaml", "kind: Secret\ndata: {a: b}\n---\n{")
	f.Add("a.json", `{"kind":"Secret","data":{"a":[1,{"b":null}]}}`)
	f.Add("match.json", `{"headers":{"x-api-key":{"exact":"a"}},"args":["--password","b"],"when":[{"key":"x-auth","values":["c"]}]}`)
	f.Add("a.log", `Authorization: Token a, password='b c' {"x-api-key":{"exact":"d"}} \"auth\":\"e\" u:p@tcp(db)`)
	f.Fuzz(func(t *testing.T, name, text string) {
		got := Redact(name, []byte(text))
		if strings.HasSuffix(name, ".json") && json.Valid([]byte(text)) && !json.Valid(got) {
			t.Errorf("it was JSON:\n%s", got)
		}
		if got := Redact("x.txt", []byte("password="+gone+" "+text)); len(got) == 0 {
			t.Error("all is gone")
		}
	})
}

func read(t *testing.T, data []byte) map[string]string {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(b)
	}
}

// What cannot be had is listed and fails nothing else; no text is longer than permitted, and all together neither.
func TestArchive(t *testing.T) {
	var w bytes.Buffer
	b := New(&w, "r", time.Unix(0, 0), Limits{Total: 321, Piece: 100, Each: time.Hour, AtOnce: 1})
	text := func(s string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(s), nil }
	}
	said := 0
	b.Add(t.Context(), []Piece{
		{"a.txt", text("password=x")},
		{"gone.txt", func(context.Context) ([]byte, error) { return nil, errors.New("forbidden: token=hunter2planted") }},
		{"half.txt", func(context.Context) ([]byte, error) { return []byte("half"), errors.New("it broke off") }},
		{"long.log", text("first" + strings.Repeat("x", 1000) + "last")},
		{"longer.log", text(strings.Repeat("y", 1000))},
		{"more.log", text(strings.Repeat("z", 1000))},
		{"last.txt", text("too much")},
	}, func(int, int) { said++ })
	written, missing, err := b.Close()
	if err != nil || written != 4 || said != 5 {
		t.Errorf("%d written, %d said, %v", written, said, err)
	}
	got := read(t, w.Bytes())
	if got["r/a.txt"] != "password="+gone || got["r/half.txt"] != "half" || got["r/last.txt"] != "" {
		t.Errorf("%q", got)
	}
	if l := got["r/long.log"]; len(l) != 100 || !strings.HasPrefix(l, "first") || !strings.HasSuffix(l, "last") {
		t.Errorf("%d %q", len(l), l)
	}
	all := strings.Join(missing, "\n")
	for _, want := range []string{"gone.txt: forbidden: token=" + gone, "half.txt: it broke off", "long.log: only its first and last parts: it has 1009 bytes", "last.txt: the archive has all"} {
		if !strings.Contains(all, want) || !strings.Contains(got["r/README.txt"], want) {
			t.Errorf("%q is not listed:\n%s", want, all)
		}
	}
}
