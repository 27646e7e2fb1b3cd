package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/memnet"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/mesh"
)

const reviewsService = `apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 9080}]
`

func virtualService(host string) string {
	return `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: ` + host + `}
`
}

// plane runs a control plane over a folder with the Service reviews and returns a way
// to call its API.
type plane struct {
	*Plane
	state, dir string
	network    *memnet.Network
	client     *http.Client
}

func start(t testing.TB, state string) *plane {
	t.Helper()
	dir, pods := filepath.Join(state, "config"), filepath.Join(state, "run", "pods")
	for _, d := range []string{dir, pods} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "services.yaml"), []byte(reviewsService), 0o600); err != nil {
		t.Fatal(err)
	}
	network := &memnet.Network{}
	l, err := network.Listen("127.0.0.1:15014")
	if err != nil {
		t.Fatal(err)
	}
	g, err := network.Listen("127.0.0.1:15012")
	if err != nil {
		t.Fatal(err)
	}
	fallback := filepath.Join(state, "run", "fallback")
	if err := errors.Join(os.MkdirAll(fallback, 0o700), os.WriteFile(filepath.Join(fallback, "demo-zoo.yaml"), []byte(strings.ReplaceAll(virtualService("zoo"), "reviews", "zoo")), 0o600)); err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Version: "test", State: state, Paths: []string{dir}, Fallbacks: []string{fallback}, Pods: pods, HTTP: []net.Listener{l}, GRPC: []net.Listener{g}, Token: redact.New("secret"),
		Settings: mesh.Settings{DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	transport := &http.Transport{DialContext: network.DialContext}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-p.ready
	return &plane{p, state, dir, network, &http.Client{Transport: transport}}
}

func (p *plane) call(t *testing.T, method, path, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://127.0.0.1:15014"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method != http.MethodGet {
		req.Header.Set("Authorization", "Bearer secret")
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
		if k == "Host" {
			req.Host = v
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// until waits for the configuration to satisfy ok: the file watcher needs a moment.
func (p *plane) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline, tries := t.Context(), 0; !ok(); tries++ {
		if deadline.Err() != nil || tries > 5000 {
			t.Fatalf("never: %s", what)
		}
		// Each look is a request of its own; that is wait enough.
		p.call(t, "GET", "/healthz/ready", "")
	}
}

func (p *plane) objects(t *testing.T) map[string]string {
	t.Helper()
	_, body := p.call(t, "GET", "/api/v1/objects", "")
	out := map[string]string{}
	for _, o := range decode[[]apiv1.Object](t, body) {
		out[o.Kind+"/"+o.Name] = o.State
	}
	return out
}

func TestApplyGetDelete(t *testing.T) {
	p := start(t, t.TempDir())
	apply := func(body string) (int, apiv1.ApplyResult) {
		status, text := p.call(t, "POST", "/api/v1/objects", body)
		return status, decode[apiv1.ApplyResult](t, text)
	}
	status, r := apply(virtualService("reviews"))
	if status != 200 || len(r.Objects) != 1 || r.Objects[0].Action != "created" {
		t.Fatalf("%d %+v", status, r)
	}
	p.until(t, "the VirtualService is compiled", func() bool { return p.objects(t)["VirtualService/reviews"] == "compiled" })
	if _, r = apply(virtualService("reviews")); r.Objects[0].Action != "unchanged" {
		t.Errorf("again: %+v", r.Objects)
	}
	if _, r = apply(virtualService("reviews.default.svc.cluster.local")); r.Objects[0].Action != "configured" {
		t.Errorf("changed: %+v", r.Objects)
	}
	if _, text := p.call(t, "GET", "/api/v1/objects/vs/default/reviews?raw", ""); !strings.Contains(text, "kind: VirtualService") {
		t.Errorf("raw: %s", text)
	}

	// All or nothing: the good document beside a bad one is not written.
	status, r = apply(strings.Replace(reviewsService, "reviews", "new", 1) + "---\n" + strings.Replace(virtualService("x"), "route:", "rout:", 1))
	if status != 422 || !r.Refused || len(r.Findings) == 0 || r.Findings[0].Field != "spec.http[0].rout" {
		t.Errorf("%d %+v", status, r)
	}
	if _, err := os.Stat(filepath.Join(p.appliedDir(), "Service._default_new.yaml")); err == nil {
		t.Error("a refused request wrote something")
	}

	// What stands in a watched file is changed there.
	if status, r = apply(strings.Replace(reviewsService, "9080", "9081", 1)); status != 422 || !strings.Contains(r.Findings[0].Message, "stands in") {
		t.Errorf("%d %+v", status, r)
	}
	if status, text := p.call(t, "DELETE", "/api/v1/objects/Service/default/reviews", ""); status != 409 || !strings.Contains(text, "services.yaml:1") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := p.call(t, "DELETE", "/api/v1/objects/virtualservices/default/reviews", ""); status != 200 {
		t.Errorf("%d %s", status, text)
	}
	p.until(t, "the VirtualService is gone", func() bool { _, ok := p.objects(t)["VirtualService/reviews"]; return !ok })
	if status, _ := p.call(t, "DELETE", "/api/v1/objects/vs/default/reviews", ""); status != 404 {
		t.Errorf("deleting twice: %d", status)
	}

	// A dry run says what would happen and writes nothing.
	if status, text := p.call(t, "POST", "/api/v1/objects?dry-run=true", virtualService("reviews")); status != 200 || !decode[apiv1.ApplyResult](t, text).DryRun {
		t.Errorf("dry run: %d %s", status, text)
	}
	if entries, _ := os.ReadDir(p.appliedDir()); len(entries) != 0 {
		t.Errorf("left in applied: %v", entries)
	}
}

// A file that defines what was applied before is used instead; what was applied can still
// be deleted, and the finding says so.
func TestDeleteWhatAFileHides(t *testing.T) {
	state := t.TempDir()
	p := start(t, state)
	if status, text := p.call(t, "POST", "/api/v1/objects", virtualService("reviews")); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	own := filepath.Join(state, "config", "own.yaml")
	if err := os.WriteFile(own, []byte(virtualService("reviews.default.svc.cluster.local")), 0o600); err != nil {
		t.Fatal(err)
	}
	hint := func() string {
		_, text := p.call(t, "GET", "/api/v1/findings", "")
		for _, f := range decode[[]apiv1.Finding](t, text) {
			if f.Code == string(config.Duplicate) {
				return f.Hint
			}
		}
		return ""
	}
	p.until(t, "both are read", func() bool { return hint() != "" })
	if got := hint(); got != "it was applied before: weir delete VirtualService/reviews -n default" {
		t.Errorf("remedy %q", got)
	}
	status, text := p.call(t, "DELETE", "/api/v1/objects/vs/default/reviews", "")
	if r := decode[apiv1.ApplyResult](t, text); status != 200 || len(r.Objects) != 1 || r.Objects[0].Note != "the one in "+own+":1 stays" {
		t.Errorf("%d %s", status, text)
	}
	if got := hint(); got != "" {
		t.Errorf("deleted, and still %q", got)
	}
	if status, text := p.call(t, "DELETE", "/api/v1/objects/vs/default/reviews", ""); status != 409 || !strings.Contains(text, "own.yaml:1") {
		t.Errorf("%d %s", status, text)
	}
}

// What is applied stays inside its folder, a file for each object: kinds of different
// groups may share their names, and names may be as long as a file's.
func TestAppliedFiles(t *testing.T) {
	p := start(t, t.TempDir())
	const knative = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: same}\n"
	long := strings.Repeat("a.", 125) + "a"
	body := knative + "---\n" + strings.Replace(reviewsService, "name: reviews", "name: same", 1) + "---\n" +
		strings.Replace(strings.Replace(virtualService("same"), "name: reviews", "name: "+long, 1), "hosts: [reviews]", "hosts: [same]", 1)
	if status, text := p.call(t, "POST", "/api/v1/objects", body); status != 200 || decode[apiv1.ApplyResult](t, text).Mesh == 0 {
		t.Fatalf("%d %s", status, text)
	}
	entries, err := os.ReadDir(p.appliedDir())
	if err != nil || len(entries) != 3 {
		t.Errorf("applied: %v, %v", entries, err)
	}
	if got := p.objects(t)["VirtualService/"+long]; got != "compiled" {
		t.Errorf("an object with a long name is %q", got)
	}
	for _, meta := range []string{"kind: ../../Foo\nmetadata: {name: x}", "kind: Foo\nmetadata: {name: ../../x}", "kind: Foo\nmetadata: {name: x, namespace: ../x}", "kind: Foo_bar\nmetadata: {name: x}"} {
		if status, text := p.call(t, "POST", "/api/v1/objects", "apiVersion: example.com/v1\n"+meta); status != 422 {
			t.Errorf("%s: %d %s", meta, status, text)
		}
	}
	if status, text := p.call(t, "POST", "/api/v1/objects", "apiVersion: ../../example.com/v1\nkind: Foo\nmetadata: {name: x}"); status != 422 {
		t.Errorf("a group with separators: %d %s", status, text)
	}

	// A file that the operator put there is the operator's.
	own := filepath.Join(p.appliedDir(), "mine.yaml")
	if err := os.WriteFile(own, []byte(strings.Replace(reviewsService, "name: reviews", "name: mine", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "the file is read", func() bool { return p.objects(t)["Service/mine"] == "compiled" })
	if status, text := p.call(t, "DELETE", "/api/v1/objects/svc/default/mine", ""); status != 409 || !strings.Contains(text, "mine.yaml:1") {
		t.Errorf("%d %s", status, text)
	}
}

// Who has no token reads everything but Secrets.
func TestSecretsNeedTheToken(t *testing.T) {
	p := start(t, t.TempDir())
	const secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}\n"
	if status, text := p.call(t, "POST", "/api/v1/objects", secret); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	for _, path := range []string{"/api/v1/objects/secret/default/s", "/api/v1/objects/all-there-is?raw", "/api/v1/objects/svc?raw"} {
		if status, text := p.call(t, "GET", path, ""); status != 200 || strings.Contains(text, "hunter2") {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	const key = "hunter2hunter2hunter2hunter2hunter2hunter2h"
	if status, text := p.call(t, "POST", "/api/v1/objects", `{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: r}, spec: {jwtRules: [{issuer: i, jwks: '{"keys":[{"kty":"oct","k":"`+key+`"}]}'}]}}`); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	for _, path := range []string{"/api/v1/objects/secret/default/s?raw", "/api/v1/objects?raw", "/api/v1/objects/requestauthentication/default/r?raw"} {
		if status, text := p.call(t, "GET", path, ""); status != 401 || strings.Contains(text, "hunter2") {
			t.Errorf("%s: %d %s", path, status, text)
		}
		if status, text := p.call(t, "GET", path, "", "Authorization: Bearer secret"); status != 200 || !strings.Contains(text, "hunter2") {
			t.Errorf("%s with the token: %d %s", path, status, text)
		}
	}
}

// Nobody but the operator changes the mesh, and no web page reads it.
// A service is shown with everyone who serves it, and with those who take requests apart.
func TestServices(t *testing.T) {
	p := start(t, t.TempDir())
	pod := func(name, ip, version, ready string) {
		text := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: reviews, version: %s, topology.istio.io/locality: eu.a}, annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: reviews, containers: [{name: c, image: c}]}
status: {podIP: %s, conditions: [{type: Ready, status: %q}]}
`, name, version, ip, ready)
		if err := os.WriteFile(filepath.Join(p.state, "run", "pods", name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pod("reviews-v1-0", "10.1.0.1", "v1", "True")
	pod("reviews-v2-0", "10.1.0.2", "v2", "False")
	var got []apiv1.Service
	p.until(t, "both pods are endpoints", func() bool {
		_, text := p.call(t, "GET", "/api/v1/services", "")
		got = decode[[]apiv1.Service](t, text)
		return len(got[0].Ports[0].Backends) == 2
	})
	const id = "spiffe://cluster.local/ns/default/sa/reviews"
	want := []apiv1.ServicePort{{Number: 9080, Name: "http", Protocol: "http", Endpoints: []string{"10.1.0.1:9080"}, Backends: []apiv1.Backend{
		{Address: "10.1.0.1:9080", Workload: "default/reviews-v1-0", Version: "v1", Health: "healthy", Locality: "eu/a", Identity: id, Proxied: true, Weight: 1, Port: 9080},
		{Address: "10.1.0.2:9080", Workload: "default/reviews-v2-0", Version: "v2", Health: "unhealthy", Locality: "eu/a", Identity: id, Proxied: true, Weight: 1, Port: 9080},
	}}}
	if d := cmp.Diff(want, got[0].Ports); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if s := got[0]; s.Kind != "Service" || s.Resolution != "static" || s.Selector["app"] != "reviews" || s.Line == 0 {
		t.Errorf("%+v", s)
	}
}

// A demo is there to be played with: what is applied is used instead of its objects, until
// it is deleted.
func TestApplyInsteadOfTheDemo(t *testing.T) {
	p := start(t, t.TempDir())
	zoo := strings.ReplaceAll(virtualService("reviews"), "name: reviews", "name: zoo")
	own := strings.ReplaceAll(virtualService("zoo"), "reviews", "zoo")
	const path = "/api/v1/objects/vs/default/zoo"
	from := func() string {
		_, text := p.call(t, "GET", path, "")
		return filepath.Base(filepath.Dir(decode[[]apiv1.Object](t, text)[0].File))
	}
	for _, c := range []struct {
		method, body string
		status       int
		action, note string
		from         string
	}{
		{"DELETE", "", http.StatusConflict, "", "", "fallback"},
		{"POST", own, http.StatusOK, "unchanged", "", "fallback"},
		{"POST", zoo, http.StatusOK, "configured", "instead of the one of the demo zoo", "applied"},
		{"POST", strings.Replace(zoo, "host: reviews", "host: other", 1), http.StatusOK, "configured", "", "applied"},
		{"DELETE", "", http.StatusOK, "deleted", "the one of the demo zoo is in force again", "fallback"},
	} {
		target := path
		if c.method == "POST" {
			target = "/api/v1/objects"
		}
		status, text := p.call(t, c.method, target, c.body)
		if status != c.status {
			t.Fatalf("%s: %d %s", c.method, status, text)
		}
		if status == http.StatusConflict {
			e := decode[apiv1.Error](t, text)
			if e.Error != "VirtualService default/zoo belongs to the demo zoo and cannot be deleted" || !strings.Contains(e.Hint, "apply another version") {
				t.Errorf("%+v", e)
			}
			continue
		}
		r := decode[apiv1.ApplyResult](t, text)
		if o := r.Objects[0]; o.Action != c.action || o.Note != c.note || len(r.Findings) > 0 {
			t.Errorf("%s: %+v, want %s %q; findings %v", c.method, o, c.action, c.note, r.Findings)
		}
		if got := from(); got != c.from {
			t.Errorf("after %s %s it is that of %s, want %s", c.method, c.action, got, c.from)
		}
	}
}

func TestGuard(t *testing.T) {
	p := start(t, t.TempDir())
	for _, c := range []struct {
		name, method, path string
		header             []string
		want               int
	}{
		{"a reader on this machine", "GET", "/api/v1/status", nil, 200},
		{"by name", "GET", "/api/v1/status", []string{"Host: localhost:15014"}, 200},
		{"by IPv6 loopback", "GET", "/api/v1/status", []string{"Host: [::1]:15014"}, 200},
		{"a name that DNS may point here", "GET", "/api/v1/status", []string{"Host: evil.example:15014"}, 403},
		{"another address", "GET", "/api/v1/status", []string{"Host: 192.0.2.1:15014"}, 403},
		{"a web page", "GET", "/api/v1/status", []string{"Origin: http://evil.example"}, 403},
		{"our own web page", "GET", "/api/v1/status", []string{"Origin: http://127.0.0.1:15014"}, 200},
		{"a writer without a token", "POST", "/api/v1/objects", []string{"Authorization: "}, 401},
		{"a writer with another token", "POST", "/api/v1/objects", []string{"Authorization: Bearer secre"}, 403},
		{"nothing to write", "POST", "/api/v1/objects", nil, 400},
		{"an unknown path", "GET", "/api/v2", nil, 404},
		{"an unknown object", "GET", "/api/v1/objects/vs/default/none", nil, 404},
		{"a bad timeout", "GET", "/api/v1/wait?timeout=soon", nil, 400},
		{"nobody to wait for", "GET", "/api/v1/wait?version=1&timeout=1s", nil, 200},
	} {
		status, body := p.call(t, c.method, c.path, "", c.header...)
		if status != c.want {
			t.Errorf("%s: %d, want %d: %s", c.name, status, c.want, body)
		}
		if status >= 400 && decode[apiv1.Error](t, body).Error == "" {
			t.Errorf("%s: no error in %s", c.name, body)
		}
	}
}

// A control plane that starts again gives the same addresses and serves the last good
// version of an object that is broken meanwhile.
func TestRestart(t *testing.T) {
	state := t.TempDir()
	var before string
	t.Run("first", func(t *testing.T) {
		p := start(t, state)
		p.call(t, "POST", "/api/v1/objects", virtualService("reviews"))
		p.until(t, "compiled", func() bool { return p.objects(t)["VirtualService/reviews"] == "compiled" })
		_, before = p.call(t, "GET", "/api/v1/services", "")
	})
	broken := strings.Replace(virtualService("reviews"), "http:", "htp:", 1)
	if err := os.WriteFile(filepath.Join(state, appliedDir, "VirtualService.networking.istio.io_default_reviews.yaml"), []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("second", func(t *testing.T) {
		p := start(t, state)
		_, after := p.call(t, "GET", "/api/v1/services", "")
		if d := cmp.Diff(before, after); d != "" {
			t.Errorf("services (-before +after):\n%s", d)
		}
		_, body := p.call(t, "GET", "/api/v1/objects/vs/default/reviews", "")
		if o := decode[[]apiv1.Object](t, body)[0]; o.State != "quarantined" || !o.LastGood || len(o.Findings) == 0 {
			t.Errorf("%+v", o)
		}
	})
}

// What the runtime found out about the workloads is among the findings; while it writes
// nonsense the others are still told.
func TestRuntimeFindings(t *testing.T) {
	state := t.TempDir()
	p := start(t, state)
	codes := func() (out []string) {
		_, body := p.call(t, "GET", "/api/v1/findings", "")
		for _, f := range decode[[]apiv1.Finding](t, body) {
			out = append(out, f.Code+" "+f.Name)
		}
		return out
	}
	p.until(t, "analyzed", func() bool { return len(codes()) > 0 })
	before := codes()
	file := filepath.Join(state, "run", "findings.json")
	found, err := json.Marshal([]config.Finding{config.New(config.ImageNotRunnable, mesh.Ref{Kind: "Deployment", Namespace: "default", Name: "db"}, "", 0, "no program", "")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text string
		want []string
	}{
		{string(found), append([]string{"WEIR0201 db"}, before...)},
		{"[]", before},
		{"nonsense", before},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, codes()); d != "" {
			t.Errorf("with %s (-want +got):\n%s", c.text, d)
		}
	}
}

// Texts of several proxies become one: each metric described once, samples told apart.
func TestMergeMetrics(t *testing.T) {
	m := newMerger()
	m.add([]byte("# HELP up Is it.\n# TYPE up gauge\nup 1\n"), "")
	for _, p := range []string{"default/a", "default/b"} {
		m.add([]byte("# HELP reqs Requests.\n# TYPE reqs counter\nreqs{code=\"200\"} 3\n# HELP took Took.\n# TYPE took histogram\ntook_bucket{le=\"1\"} 1\ntook_bucket{le=\"+Inf\"} 2\ntook_sum 3\ntook_count 2\nbare{} 1\n"), p)
	}
	var out bytes.Buffer
	if err := m.write(&out); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(&out)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for name, f := range families {
		got[name] = len(f.GetMetric())
	}
	if d := cmp.Diff(map[string]int{"up": 1, "reqs": 2, "took": 2, "bare": 2}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if l := families["reqs"].GetMetric()[0].GetLabel(); len(l) != 2 || l[0].GetName() != "instance" {
		t.Errorf("labels %v", l)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte("# TYPE a counter\na{b=\"c\"} 1\n"))
	f.Add([]byte("{} {\n a\n#"))
	f.Fuzz(func(_ *testing.T, text []byte) { newMerger().add(text, "x") })
}
