package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	discoveryfake "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/mesh"
)

func testServer(t testing.TB, change func(*Options)) *Server {
	t.Helper()
	s, _, err := inject.NewSettings(inject.Source{NativeSidecars: true}, "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Settings: func() (*inject.Settings, error) { return s, nil },
		Labels: func(ns string) map[string]string {
			return map[string]map[string]string{"strict": {"pod-security.kubernetes.io/enforce": "restricted"}}[ns]
		},
		Validate: func(o *config.Object) []config.Finding {
			_, _, fs := store.Lower(o, &mesh.Settings{DomainSuffix: "cluster.local", RootNamespace: "istio-system"})
			return fs
		},
		Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	return New(o)
}

func reviewOf(version, namespace, resource, operation, object, old string) string {
	if old != "" {
		old = `,"oldObject":` + old
	}
	group, v, r := "", "v1", resource
	if g, rest, ok := strings.Cut(resource, "/"); ok {
		group, r = g, rest
	}
	return `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/` + version + `","request":{"uid":"42","kind":{"group":"` + group + `","version":"` + v + `","kind":"X"},` +
		`"resource":{"group":"` + group + `","version":"` + v + `","resource":"` + r + `"},"namespace":"` + namespace + `","operation":"` + operation + `","object":` + object + old + `}}`
}

func ask(t *testing.T, s *Server, path, body string) *admissionv1.AdmissionReview {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var out admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

const webPod = `{"metadata":{"name":"web"},"spec":{"containers":[{"name":"web","image":"web:1"}]}}`

func TestInject(t *testing.T) {
	for _, c := range []struct {
		name, version, path, namespace, resource, operation, object string
		change                                                      func(*Options)
		denied                                                      string   // part of the message
		warning                                                     string   // part of one
		patch                                                       []string // containers of the patched pod; nil: no patch
		reason                                                      string
	}{
		{name: "a pod", patch: []string{"istio-init", "istio-proxy", "web"}, reason: "Policy"},
		{name: "v1beta1", version: "v1beta1", patch: []string{"istio-init", "istio-proxy", "web"}, reason: "Policy"},
		{name: "no proxy wanted", object: `{"metadata":{"name":"web","labels":{"sidecar.istio.io/inject":"false"}},"spec":{"containers":[{"name":"web"}]}}`, reason: "InjectLabel"},
		{name: "an update", operation: "UPDATE"},
		{name: "something else", resource: "apps/deployments", object: `{}`},
		{name: "no pod", object: `[1]`, denied: "the pod cannot be read"},
		{name: "what cannot be honoured", object: `{"metadata":{"name":"web","annotations":{"sidecar.istio.io/proxyCPU":"much"}},"spec":{"containers":[{"name":"web"}]}}`,
			denied: `weir: the pod cannot get its proxy: metadata.annotations["sidecar.istio.io/proxyCPU"]`, reason: "Policy"},
		{name: "what the owner should know", namespace: "strict", warning: "WEIR0304", patch: []string{"istio-init", "istio-proxy", "web"}, reason: "Policy"},
		{name: "settings in the address", path: "/inject/cluster/east/net/n2", patch: []string{"istio-init", "istio-proxy", "web"}, reason: "Policy"},
		{name: "and in the other form", path: "/inject/:ENV:cluster=east:ENV:net=n2", patch: []string{"istio-init", "istio-proxy", "web"}, reason: "Policy"},
		{name: "a bad address", path: "/inject/cluster", denied: "/inject/cluster/NAME/net/NETWORK"},
		{name: "no settings yet", change: func(o *Options) { o.Settings = func() (*inject.Settings, error) { return nil, errors.New("not yet") } }, denied: "not yet"},
		{name: "a defect of ours", change: func(o *Options) { o.Labels = func(string) map[string]string { panic("oh") } }, denied: "this is a defect of weir-control (its log has the details): oh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			or := func(s, otherwise string) string {
				if s == "" {
					return otherwise
				}
				return s
			}
			object := or(c.object, webPod)
			s := testServer(t, c.change)
			version := or(c.version, "v1")
			out := ask(t, s, or(c.path, "/inject"), reviewOf(version, or(c.namespace, "shop"), or(c.resource, "pods"), or(c.operation, "CREATE"), object, ""))
			r := out.Response
			if out.APIVersion != "admission.k8s.io/"+version || r.UID != "42" {
				t.Errorf("%s %q", out.APIVersion, r.UID)
			}
			if r.Allowed != (c.denied == "") || c.denied != "" && !strings.Contains(r.Result.Message, c.denied) {
				t.Errorf("allowed %v, %+v", r.Allowed, r.Result)
			}
			if r.AuditAnnotations["reason"] != c.reason {
				t.Errorf("reason %q", r.AuditAnnotations["reason"])
			}
			if got := strings.Join(r.Warnings, "\n"); !strings.Contains(got, c.warning) || c.warning == "" && got != "" {
				t.Errorf("warnings %s", got)
			}
			if c.patch == nil {
				if r.Patch != nil {
					t.Errorf("patch %s", r.Patch)
				}
				return
			}
			patch, err := jsonpatch.DecodePatch(r.Patch)
			if err != nil {
				t.Fatal(err)
			}
			after, err := patch.Apply([]byte(object))
			if err != nil {
				t.Fatal(err)
			}
			var pod corev1.Pod
			if err := json.Unmarshal(after, &pod); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
				names = append(names, c.Name)
			}
			if !slices.Equal(names, c.patch) {
				t.Errorf("containers %v", names)
			}
			if strings.Contains(c.path, "n2") && (!bytes.Contains(after, []byte(`"east"`)) || pod.Labels["topology.istio.io/network"] != "n2") {
				t.Errorf("cluster and network did not arrive: %s", after)
			}
		})
	}
}

func TestInjectionIsCounted(t *testing.T) {
	s := testServer(t, nil)
	ask(t, s, "/inject", reviewOf("v1", "shop", "pods", "CREATE", webPod, ""))
	ask(t, s, "/inject", reviewOf("v1", "kube-system", "pods", "CREATE", webPod, ""))
	ask(t, s, "/inject", reviewOf("v1", "shop", "pods", "CREATE", `[]`, ""))
	for _, c := range []struct {
		c    prometheus.Counter
		want float64
	}{{s.metrics.requests, 3}, {s.metrics.successes, 1}, {s.metrics.skips, 1}, {s.metrics.failures, 1}} {
		if got := testutil.ToFloat64(c.c); got != c.want {
			t.Errorf("%v is %v, want %v", c.c.Desc(), got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	virtualService := func(spec, meta string) string {
		return `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"a","namespace":"shop"` + meta + `},"spec":` + spec + `}`
	}
	const good, bad = `{"hosts":["a"],"http":[{"route":[{"destination":{"host":"a"}}]}]}`, `{"hosts":["a"],"http":[{"route":[{"destination":{"hots":"a"}}]}]}`
	other := func(code config.Code) func(*Options) {
		return func(o *Options) {
			o.Validate = func(o *config.Object) []config.Finding {
				return []config.Finding{config.New(code, o.Ref, "spec", 0, "beside others", "wait")}
			}
		}
	}
	for _, c := range []struct {
		name, operation, object, old string
		change                       func(*Options)
		denied, warning              string
	}{
		{name: "good", object: virtualService(good, "")},
		{name: "as the API server stores it", object: virtualService(good, `,"uid":"1","generation":2,"creationTimestamp":"2026-11-20T08:00:00Z","managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"networking.istio.io/v1","time":"2026-11-20T08:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{".":{}}}}]`)},
		{name: "a slip of the pen", object: virtualService(bad, ""), denied: `spec.http[0].route[0].destination.hots: unknown field "hots" (did you mean host?)`},
		{name: "an update that repairs nothing", operation: "UPDATE", object: virtualService(bad, `,"labels":{"a":"b"}`), old: virtualService(bad, ""), warning: "hots"},
		{name: "an update that makes it bad", operation: "UPDATE", object: virtualService(bad, ""), old: virtualService(good, ""), denied: "hots"},
		{name: "on its way out", operation: "UPDATE", object: virtualService(bad, `,"deletionTimestamp":"2026-11-20T08:00:00Z"`), old: virtualService(good, ""), warning: "hots"},
		{name: "a kind that is not built yet", object: `{"apiVersion":"networking.istio.io/v1alpha3","kind":"EnvoyFilter","metadata":{"name":"a"},"spec":{}}`, warning: "WEIR0008: EnvoyFilter is not enforced in this version"},
		{name: "a policy that is not built yet", object: `{"apiVersion":"telemetry.istio.io/v1","kind":"Telemetry","metadata":{"name":"a"},"spec":{}}`, warning: "WEIR0008"},
		{name: "what another object may mend", object: virtualService(good, ""), change: other(config.ReferenceNotFound), warning: "IST0101: spec: beside others (wait)"},
		{name: "for a revision that nobody has", object: virtualService(good, ""), change: other(config.AsksForNobody), warning: "WEIR0119: spec: beside others (wait)"},
		{name: "deleted", operation: "DELETE", object: "null"},
		{name: "no object", object: `"x"`, denied: "not an object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			operation := c.operation
			if operation == "" {
				operation = "CREATE"
			}
			r := ask(t, testServer(t, c.change), "/validate", reviewOf("v1", "shop", "networking.istio.io/virtualservices", operation, c.object, c.old)).Response
			if r.Allowed != (c.denied == "") || c.denied != "" && !strings.Contains(r.Result.Message, c.denied) {
				t.Errorf("allowed %v, %+v", r.Allowed, r.Result)
			}
			if got := strings.Join(r.Warnings, "\n"); !strings.Contains(got, c.warning) || c.warning == "" && got != "" {
				t.Errorf("warnings %s", got)
			}
		})
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	s := testServer(t, nil)
	for _, c := range []struct {
		name, method, media, body string
		want                      int
	}{
		{"get", http.MethodGet, "application/json", "", http.StatusMethodNotAllowed},
		{"yaml", http.MethodPost, "application/yaml", "{}", http.StatusUnsupportedMediaType},
		{"empty", http.MethodPost, "application/json", "", http.StatusBadRequest},
		{"another kind", http.MethodPost, "application/json", `{"kind":"Pod","apiVersion":"v1"}`, http.StatusBadRequest},
		{"another version", http.MethodPost, "application/json", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v2","request":{}}`, http.StatusBadRequest},
		{"no request", http.MethodPost, "application/json", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`, http.StatusBadRequest},
		{"too large", http.MethodPost, "application/json", strings.Repeat(" ", maxReview+1), http.StatusRequestEntityTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), c.method, "/inject", strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.media)
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code != c.want || w.Body.Len() == 0 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func FuzzReview(f *testing.F) {
	f.Add([]byte(reviewOf("v1", "shop", "pods", "CREATE", webPod, "")), "")
	f.Add([]byte(reviewOf("v1beta1", "shop", "pods", "CREATE", `{"metadata":{"annotations":{"sidecar.istio.io/status":"{}","proxy.istio.io/config":"a: b","proxy.istio.io/overrides":"{}"}},"spec":{"containers":[{"name":"istio-proxy"}]}}`, "")), "cluster/a")
	f.Add([]byte(reviewOf("v1", "shop", "networking.istio.io/virtualservices", "UPDATE", `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService"}`, "{}")), ":ENV:net=x")
	s := testServer(f, nil)
	f.Fuzz(func(t *testing.T, body []byte, path string) {
		for _, answer := range []func(review) verdict{s.inject, s.validate} {
			out, err := s.review(body, path, answer)
			if err != nil {
				continue
			}
			var back admissionv1.AdmissionReview
			if err := json.Unmarshal(out, &back); err != nil || back.Response == nil {
				t.Errorf("the answer is none: %s", out)
			}
			if r := back.Response; !r.Allowed && (r.Result == nil || r.Result.Message == "" || strings.Contains(r.Result.Message, "defect")) {
				t.Errorf("refused: %+v", r.Result)
			}
		}
	})
}

// Serving over TLS, and the API server's way to us.
func TestRun(t *testing.T) {
	// httptest has a certificate for 127.0.0.1.
	stand := httptest.NewTLSServer(nil)
	cert := stand.TLS.Certificates[0]
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stand.Certificate().Raw})
	stand.Close()
	l := httptest.NewUnstartedServer(nil).Listener
	s := testServer(t, func(o *Options) { o.Certificate = func() *tls.Certificate { return &cert } })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	at := l.Addr().String()
	url := "https://" + at + "/ready"
	if err := Reaching(url, "", func() []byte { return root })(t.Context()); err != nil {
		t.Error(err)
	}
	if err := Reaching(strings.Replace(url, at, "127.0.0.1:1", 1), at, func() []byte { return root })(t.Context()); err != nil {
		t.Errorf("from where its address leads nowhere: %v", err)
	}
	if err := Reaching(url, "", func() []byte { return nil })(t.Context()); err == nil {
		t.Error("trusted without a root")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What an installation says arrives, and a text that cannot be read changes nothing.
func TestWatcher(t *testing.T) {
	configMap := func(name string, data map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name}, Data: data}
	}
	client := fake.NewClientset(configMap("istio", map[string]string{"mesh": "trustDomain: a"}), configMap(inject.ConfigMapName, map[string]string{"values": `{"global":{"hub":"first"}}`}),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"a": "b"}}})
	client.Discovery().(*discoveryfake.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: "v1.34.4"}
	w := NewWatcher(client, inject.Source{Namespace: "istio-system"}, "0.1.0", slog.New(slog.DiscardHandler))
	if s, err := w.Settings(); s != nil || err == nil {
		t.Error("settings before anything was read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	hub := func() string {
		s, _ := w.Settings()
		if s == nil {
			return ""
		}
		return s.Values.Global.Hub
	}
	await(t, "settings", func() bool { return hub() == "first" })
	await(t, "labels", func() bool { return w.Labels("shop")["a"] == "b" })
	if s, _ := w.Settings(); !s.NativeSidecars {
		t.Error("1.34 has native sidecars")
	}
	set := func(values string) {
		if _, err := client.CoreV1().ConfigMaps("istio-system").Update(ctx, configMap(inject.ConfigMapName, map[string]string{"values": values}), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set(`{"global":{"hub":1}}`)
	set(`{"global":{"hub":"second"}}`)
	await(t, "new settings", func() bool { return hub() == "second" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNativeSidecars(t *testing.T) {
	for _, c := range []struct {
		server  string
		kubelet []string
		want    bool
	}{
		{"v1.34.4", nil, true}, {"v1.28.9", nil, false}, {"v1.31.0+k3s1", []string{"v1.31.0", "v1.28.3"}, false}, {"v1.31.0", []string{"v1.29.0"}, true},
	} {
		client := fake.NewClientset()
		client.Discovery().(*discoveryfake.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: c.server}
		for i, v := range c.kubelet {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: string(rune('a' + i))}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: v}}}
			if _, err := client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := NativeSidecars(t.Context(), client); got != c.want || err != nil {
			t.Errorf("%s %v: %v %v", c.server, c.kubelet, got, err)
		}
	}
}

// The root arrives in every webhook that is ours, also when it changes or somebody takes
// it away; validation closes once it is served.
func TestKeeper(t *testing.T) {
	service := func(ns string) admissionregistrationv1.WebhookClientConfig {
		return admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{Namespace: ns, Name: "istiod"}}
	}
	ignore := admissionregistrationv1.Ignore
	tag := func(name, rev string) *admissionregistrationv1.MutatingWebhookConfiguration {
		return &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "istio-revision-tag-" + name, ResourceVersion: "1", Labels: map[string]string{"istio.io/tag": name, "istio.io/rev": rev}},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{Name: "a", ClientConfig: service("istio-system")}}}
	}
	client := fake.NewClientset(
		&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "istio-sidecar-injector", ResourceVersion: "1"}, Webhooks: []admissionregistrationv1.MutatingWebhook{
			{Name: "a", ClientConfig: service("istio-system")}, {Name: "b", ClientConfig: service("elsewhere")}}},
		tag("ours", "default"), tag("others", "blue"),
		&admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "istio-validator-istio-system", ResourceVersion: "1"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{
			{Name: "v", ClientConfig: service("istio-system"), FailurePolicy: &ignore}}})
	type root struct {
		pem      string
		replaced chan struct{}
	}
	now := make(chan root, 1)
	first := root{"one", make(chan struct{})}
	now <- first
	served := make(chan struct{})
	k := &Keeper{Client: client, Namespace: "istio-system", Log: slog.New(slog.DiscardHandler),
		Root: func() ([]byte, <-chan struct{}) {
			r := <-now
			now <- r
			return []byte(r.pem), r.replaced
		},
		Served: func(ctx context.Context) error {
			select {
			case <-served:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	api := client.AdmissionregistrationV1()
	mutating := func() []string {
		c, err := api.MutatingWebhookConfigurations().Get(ctx, "istio-sidecar-injector", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		out := []string{string(c.Webhooks[0].ClientConfig.CABundle), string(c.Webhooks[1].ClientConfig.CABundle)}
		for _, name := range []string{"ours", "others"} {
			c, err := api.MutatingWebhookConfigurations().Get(ctx, "istio-revision-tag-"+name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(c.Webhooks[0].ClientConfig.CABundle))
		}
		return out
	}
	await(t, "the root", func() bool { return slices.Equal(mutating(), []string{"one", "", "one", ""}) })
	policy := func() admissionregistrationv1.FailurePolicyType {
		c, err := api.ValidatingWebhookConfigurations().Get(ctx, "istio-validator-istio-system", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return *c.Webhooks[0].FailurePolicy
	}
	if policy() != admissionregistrationv1.Ignore {
		t.Error("validation is closed before it is served")
	}
	close(served)
	await(t, "validation that fails closed", func() bool { return policy() == admissionregistrationv1.Fail })
	<-now
	now <- root{"two", nil}
	close(first.replaced)
	await(t, "the new root", func() bool { return slices.Equal(mutating(), []string{"two", "", "two", ""}) })
	c, err := api.MutatingWebhookConfigurations().Get(ctx, "istio-sidecar-injector", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Webhooks[0].ClientConfig.CABundle = nil
	if _, err := api.MutatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the root again", func() bool { return slices.Equal(mutating(), []string{"two", "", "two", ""}) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
