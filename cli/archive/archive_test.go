package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
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
	} {
		got := string(Redact(tc.name, []byte(tc.text)))
		if strings.Contains(got, planted) || strings.Contains(got, encoded) || strings.Contains(got, strings.TrimRight(encoded, "=")) {
			t.Errorf("%s: the secret is there:\n%s", tc.name, got)
		}
		if !strings.Contains(got, tc.stays) {
			t.Errorf("%s: %q is not there:\n%s", tc.name, tc.stays, got)
		}
	}
	for name, text := range map[string]string{
		"gateway.yaml": "kind: Gateway\nspec:\n  servers:\n  - tls:\n      credentialName: bookinfo\n",
		"stats.txt":    "istio_requests_total{source=\"a\"} 3\n",
		"state.json":   "{\n \"secretName\": \"a\"\n}\n",
	} {
		if got := string(Redact(name, []byte(text))); got != text {
			t.Errorf("%s: %q, want what it was", name, got)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("a.yaml", "kind: Secret\ndata: {a: b}\n---\n{")
	f.Add("a.json", `{"kind":"Secret","data":{"a":[1,{"b":null}]}}`)
	f.Fuzz(func(t *testing.T, name, text string) {
		Redact(name, []byte(text))
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
