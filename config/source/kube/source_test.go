package kube

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/kubewatch"
)

var injectors = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}

// leads makes a tag lead to a revision, or is the revision's own; "" takes it away.
func (s *server) leads(name, tag, rev string) {
	s.t.Helper()
	if rev == "" {
		s.must(s.heads.Tracker().Delete(injectors, "", name))
		return
	}
	head := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "istiod", revisionLabel: rev}}}
	if tag != "" {
		head.Labels[tagLabel] = tag
	}
	if _, err := s.heads.Tracker().Get(injectors, "", name); err == nil {
		s.must(s.heads.Tracker().Update(injectors, head, ""))
		return
	}
	s.must(s.heads.Tracker().Create(injectors, head, ""))
}

// server is an API server as far as a Source sees it, and the Source.
type server struct {
	t       *testing.T
	client  *kubefake.Clientset
	objects *dynamicfake.FakeDynamicClient
	heads   *metadatafake.FakeMetadataClient
	api     *kubewatch.Server
	units   chan []config.Unit
	now     map[string]config.Unit // what the units that came say
	src     *Source
}

var virtualServices = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}

func newServer(t *testing.T) *server {
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	lists := map[schema.GroupVersionResource]string{crds: "CustomResourceDefinitionList"}
	for _, v := range []string{"v1", "v1beta1"} {
		lists[schema.GroupVersionResource{Group: "networking.istio.io", Version: v, Resource: "virtualservices"}] = "VirtualServiceList"
	}
	lists[schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"}] = "EnvoyFilterList"
	return &server{t: t, client: kubefake.NewClientset(), objects: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists),
		heads: metadatafake.NewSimpleMetadataClient(scheme),
		api:   kubewatch.New(slog.New(slog.DiscardHandler)), units: make(chan []config.Unit), now: map[string]config.Unit{}}
}

func (s *server) run() {
	s.api.Plain = true
	ctx, cancel := context.WithCancel(s.t.Context())
	s.src = New(Options{Server: s.api, Client: s.client, Objects: s.objects, Heads: s.heads, Namespace: "istio-system", Log: slog.New(slog.DiscardHandler)})
	ended := make(chan error, 1)
	go func() {
		ended <- s.src.Run(ctx, func(u []config.Unit) {
			select {
			case s.units <- u:
			case <-ctx.Done():
			}
		})
	}()
	s.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
}

// until takes units until what they say is as asked.
func (s *server) until(what string, ok func() bool) {
	s.t.Helper()
	late := time.After(10 * time.Second)
	for !ok() {
		select {
		case units := <-s.units:
			for _, u := range units {
				if u.Gone {
					delete(s.now, u.Name)
				} else {
					s.now[u.Name] = u
				}
			}
		case <-late:
			s.t.Fatalf("%s: it is %v%s", what, slices.Sorted(maps.Keys(s.now)), s.api.Awaits())
		}
	}
}

func (s *server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// watched waits until a resource is watched: the fake forgets what happens before.
func (s *server) watched(fake interface{ Actions() []clienttesting.Action }, resource schema.GroupVersionResource) {
	s.t.Helper()
	late := time.After(10 * time.Second)
	for {
		if slices.ContainsFunc(fake.Actions(), func(a clienttesting.Action) bool { return a.GetVerb() == "watch" && a.GetResource() == resource }) {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-late:
			s.t.Fatalf("nobody watches %v", resource)
		}
	}
}

// define makes or changes the definition of a kind.
func (s *server) define(kind, plural, group string, established bool, versions ...string) {
	s.t.Helper()
	var served []any
	for _, v := range versions {
		served = append(served, map[string]any{"name": v, "served": true})
	}
	status := "False"
	if established {
		status = "True"
	}
	name := plural + "." + group
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name},
		"spec":   map[string]any{"group": group, "names": map[string]any{"kind": kind, "plural": plural}, "versions": served},
		"status": map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": status}}}}}
	head := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"versions": strings.Join(versions, ","), "established": status}}}
	if _, err := s.objects.Tracker().Get(crds, "", name); err == nil {
		s.must(s.objects.Tracker().Update(crds, u, ""))
		s.must(s.heads.Tracker().Update(crds, head, ""))
		return
	}
	s.must(s.objects.Tracker().Create(crds, u, ""))
	s.must(s.heads.Tracker().Create(crds, head, ""))
}

func object(version, kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind,
		"metadata": map[string]any{"name": name, "namespace": "shop", "resourceVersion": "7", "generateName": "x-", "uid": "u", "generation": int64(3),
			"managedFields": []any{}, "annotations": map[string]any{lastApplied: "{}"}},
		"spec": spec, "status": map[string]any{"conditions": []any{}}}}
}

const cart = "networking.istio.io/VirtualService/shop/cart"

func (s *server) text(name string) string {
	u := s.now[name]
	if len(u.Objects) != 1 {
		return ""
	}
	return u.Objects[0].Text()
}

// The first word is everything there is; then come changes, and kinds that are defined
// later; kinds whose definition goes take their objects along.
func TestSource(t *testing.T) {
	s := newServer(t)
	s.define("VirtualService", "virtualservices", "networking.istio.io", true, "v1beta1", "v1")
	s.define("Widget", "widgets", "example.com", true, "v1")
	s.must(s.objects.Tracker().Create(virtualServices, object("networking.istio.io/v1", "VirtualService", "cart", map[string]any{"hosts": []any{"cart"}}), "shop"))
	s.must(s.client.Tracker().Add(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: "istio-system"}, Data: map[string]string{"mesh": "accessLogFile: /dev/stdout"}}))
	s.must(s.heads.Tracker().Create(corev1.SchemeGroupVersion.WithResource("namespaces"), &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"a": "b"},
			Annotations: map[string]string{"galley.istio.io/analyze-suppress": "IST0102", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}}, ""))
	s.run()
	first := true
	s.until("everything", func() bool { was := !first; first = false; return was })
	if d := cmp.Diff([]string{"/ConfigMap/istio-system/istio", "/Namespace//shop", cart}, slices.Sorted(maps.Keys(s.now))); d != "" {
		t.Error("the first word: " + d)
	}
	if got, want := s.text("/Namespace//shop"), `{"apiVersion":"v1","kind":"Namespace","metadata":{"annotations":{"galley.istio.io/analyze-suppress":"IST0102"},"labels":{"a":"b"},"name":"shop"}}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want := `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"generation":3,"name":"cart","namespace":"shop"},"spec":{"hosts":["cart"]}}`
	if got := s.text(cart); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if r := s.now[cart].Objects[0].Ref; r.File != "" || r.Line != 0 {
		t.Errorf("%+v", r)
	}

	s.watched(s.objects, virtualServices)
	s.must(s.objects.Tracker().Update(virtualServices, object("networking.istio.io/v1", "VirtualService", "cart", map[string]any{"hosts": []any{"card"}}), "shop"))
	s.until("an edit", func() bool { return strings.Contains(s.text(cart), "card") })

	before := s.now[cart].Objects[0]
	written := object("networking.istio.io/v1", "VirtualService", "cart", map[string]any{"hosts": []any{"card"}})
	written.SetResourceVersion("8")
	written.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Accepted"}}}
	s.must(s.objects.Tracker().Update(virtualServices, written, "shop"))
	const next = "networking.istio.io/VirtualService/shop/next"
	s.must(s.objects.Tracker().Create(virtualServices, object("networking.istio.io/v1", "VirtualService", "next", nil), "shop"))
	s.until("what comes after a status", func() bool { return s.text(next) != "" })
	if s.now[cart].Objects[0] != before {
		t.Error("an object was published again because its status was written")
	}
	s.must(s.objects.Tracker().Delete(virtualServices, "shop", "cart"))
	s.until("an object that is gone", func() bool { return s.text(cart) == "" })
	s.must(s.objects.Tracker().Create(virtualServices, written, "shop"))
	s.until("and there again, the same", func() bool { return s.text(cart) != "" })

	filters := schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"}
	s.watched(s.heads, crds)
	s.must(s.objects.Tracker().Create(filters, object("networking.istio.io/v1alpha3", "EnvoyFilter", "patch", nil), "shop"))
	s.define("EnvoyFilter", "envoyfilters", "networking.istio.io", false, "v1alpha3")
	s.define("EnvoyFilter", "envoyfilters", "networking.istio.io", true, "v1alpha3")
	s.until("a kind that is defined later", func() bool { return s.text("networking.istio.io/EnvoyFilter/shop/patch") != "" })

	s.must(s.heads.Tracker().Delete(crds, "", "virtualservices.networking.istio.io"))
	s.until("a kind that is gone", func() bool { return s.text(cart) == "" })

	s.must(s.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("configmaps"), "istio-system", "istio"))
	s.until("a ConfigMap that is gone", func() bool { return s.text("/ConfigMap/istio-system/istio") == "" })
}

// When a kind comes to be served in a better version, its objects stay, and those that are
// gone since do not.
func TestVersionOfKind(t *testing.T) {
	s := newServer(t)
	old := virtualServices
	old.Version = "v1beta1"
	s.define("VirtualService", "virtualservices", "networking.istio.io", true, "v1beta1")
	for _, name := range []string{"cart", "gone"} {
		s.must(s.objects.Tracker().Create(old, object("networking.istio.io/v1beta1", "VirtualService", name, map[string]any{}), "shop"))
	}
	s.must(s.objects.Tracker().Create(virtualServices, object("networking.istio.io/v1", "VirtualService", "cart", map[string]any{}), "shop"))
	s.run()
	s.until("both", func() bool { return len(s.now) == 2 })
	s.watched(s.heads, crds)
	s.define("VirtualService", "virtualservices", "networking.istio.io", true, "v1beta1", "v1")
	s.until("the other version", func() bool { return len(s.now) == 1 && strings.Contains(s.text(cart), `"networking.istio.io/v1"`) })
}

// An object that asks for a tag is in force where the tag leads, wherever that is just now. One that asks for another revision is left to it. One that
// asks for what is not there is told to be in force nowhere, as is a namespace whose pods ask nobody.
func TestRevisions(t *testing.T) {
	s := newServer(t)
	s.define("VirtualService", "virtualservices", "networking.istio.io", true, "v1")
	asks := func(rev string) *unstructured.Unstructured {
		o := object("networking.istio.io/v1", "VirtualService", "cart", map[string]any{"hosts": []any{"cart"}})
		o.SetLabels(map[string]string{revisionLabel: rev})
		return o
	}
	s.must(s.objects.Tracker().Create(virtualServices, asks("prod"), "shop"))
	namespaces := corev1.SchemeGroupVersion.WithResource("namespaces")
	for name, labels := range map[string]map[string]string{"a": {revisionLabel: "prod"}, "b": {config.InjectionLabel: "enabled"}, "c": {revisionLabel: "typo"}, "d": {revisionLabel: "typo", config.InjectionLabel: "disabled"}} {
		s.must(s.heads.Tracker().Create(namespaces, &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, ""))
	}
	s.leads("istio-sidecar-injector", "", "default")
	s.leads("istio-sidecar-injector-blue", "", "blue")
	s.leads("istio-revision-tag-prod", "prod", "default")
	s.run()
	astray := func(name string) string {
		if u := s.now[name]; len(u.Objects) == 1 {
			return u.Objects[0].Astray()
		}
		return "not here"
	}
	s.until("a tag that leads here", func() bool { return astray(cart) == "" })
	for name, want := range map[string]string{"a": "", "b": "", "c": "typo", "d": ""} {
		if got := astray("/Namespace//" + name); got != want {
			t.Errorf("namespace %s asks for %q that is not there, want %q", name, got, want)
		}
	}
	names := func(namespace string) string {
		return strings.Join(s.now["/Namespace//"+namespace].Objects[0].Names(), " ")
	}
	if got := names("d"); got != "blue default prod" {
		t.Errorf("a namespace that asks for nobody knows the names %s", got)
	}
	for _, x := range []struct {
		rev, astray string
		elsewhere   bool
	}{{"", "", false}, {"default", "", false}, {"prod", "", false}, {"blue", "", true}, {"green", "green", false}} {
		o := unit(config.ID{}, asks(x.rev).Object).Objects[0]
		if elsewhere := s.src.Place(o); elsewhere != x.elsewhere || o.Astray() != x.astray {
			t.Errorf("an object that is not stored and asks for %q: elsewhere %v, astray %q", x.rev, elsewhere, o.Astray())
		}
	}
	s.watched(s.heads, injectors)
	s.watched(s.objects, virtualServices)
	s.leads("istio-revision-tag-prod", "prod", "blue")
	s.until("a tag that was moved away", func() bool { return astray(cart) == "not here" })
	if got := astray("/Namespace//a"); got != "" {
		t.Errorf("a namespace of another revision is astray: %s", got)
	}
	s.leads("istio-revision-tag-prod", "", "")
	s.until("a tag that is gone", func() bool {
		return astray(cart) == "prod" && astray("/Namespace//a") == "prod" && names("d") == "blue default"
	})
	for _, x := range []struct{ rev, want string }{{"blue", "not here"}, {"default", ""}, {"green", "green"}, {"", ""}} {
		s.must(s.objects.Tracker().Update(virtualServices, asks(x.rev), "shop"))
		s.until("an object that asks for "+x.rev, func() bool { return astray(cart) == x.want })
	}
}
