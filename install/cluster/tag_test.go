package cluster

import (
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	fakediscovery "k8s.io/client-go/discovery/fake"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/restmapper"

	"github.com/weirmesh/weir/install"
)

// known are kinds of a cluster as far as the tests need them.
var known = map[schema.GroupVersionResource]string{
	{Version: "v1", Resource: "secrets"}:    "Secret",
	{Version: "v1", Resource: "namespaces"}: "Namespace",
	{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}: "MutatingWebhookConfiguration",
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}:                     "ClusterRole",
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}:              "ClusterRoleBinding",
	{Group: "apps", Version: "v1", Resource: "deployments"}:                                           "Deployment",
}

// with is a cluster in which there are typed objects, and others.
func with(typed []runtime.Object, others ...runtime.Object) *Cluster {
	client := fake.NewClientset(typed...)
	lists, kinds := map[string]*metav1.APIResourceList{}, map[schema.GroupVersionResource]string{}
	for r, kind := range known {
		gv := r.GroupVersion().String()
		if lists[gv] == nil {
			lists[gv] = &metav1.APIResourceList{GroupVersion: gv}
		}
		lists[gv].APIResources = append(lists[gv].APIResources, metav1.APIResource{Name: r.Resource, SingularName: strings.ToLower(kind), Kind: kind, Namespaced: kind == "Secret" || kind == "Deployment"})
		kinds[r] = kind + "List"
	}
	for _, l := range lists {
		client.Discovery().(*fakediscovery.FakeDiscovery).Resources = append(client.Discovery().(*fakediscovery.FakeDiscovery).Resources, l)
	}
	dynamic := fakedynamic.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, others...)
	return &Cluster{typed: client, dynamic: dynamic, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())), say: func(string) {}}
}

func hooks(name, rev, tagged string) *admissionregistrationv1.MutatingWebhookConfiguration {
	labels := map[string]string{"app": "istiod", revision: rev}
	if tagged != "" {
		labels[tag] = tagged
	}
	return &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{Name: "a.b.c", ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: []byte("root")}}}}
}

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// Who asks for a revision or a tag is counted as the API server counts.
func TestTags(t *testing.T) {
	c := with([]runtime.Object{hooks("istio-sidecar-injector", "default", ""), hooks("istio-sidecar-injector-blue", "blue", ""), hooks("istio-revision-tag-prod", "blue", "prod"),
		namespace("a", map[string]string{"istio-injection": "enabled"}), namespace("b", map[string]string{revision: "prod"}), namespace("c", map[string]string{revision: "blue", "istio-injection": "disabled"}),
		namespace("d", map[string]string{revision: "default"}), namespace("e", nil), namespace("f", map[string]string{revision: "gone"})})
	tags, err := c.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range tags {
		got = append(got, x.Revision+" "+x.Tag+" "+strings.Join(x.Namespaces, ","))
	}
	if want := []string{"blue  ", "blue prod b", "default  a,d", " gone f"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if ps, err := c.nobodys(t.Context()); err != nil || len(ps) != 1 || !strings.Contains(ps[0].Message, "gone, which is not there: f;") {
		t.Errorf("who asks for nobody: %v, %v", ps, err)
	}
}

// What makes a tag asks the revision's control plane, believes its root, and is not the revision's own; what would leave pods
// without a proxy, or two for one, is refused.
func TestTagging(t *testing.T) {
	there := []runtime.Object{hooks("istio-sidecar-injector", "default", ""), hooks("istio-sidecar-injector-blue", "blue", ""), hooks("istio-revision-tag-prod", "blue", "prod")}
	young := hooks("istio-sidecar-injector-young", "young", "")
	young.Webhooks[0].ClientConfig.CABundle = nil
	c := with(append(there, young))
	settings := install.Settings{Namespace: "istio-system"}
	for _, x := range []struct {
		name, to  string
		overwrite bool
		refuse    string
	}{
		{"canary", "blue", false, ""},
		{"prod", "blue", false, ""},
		{"prod", "default", false, "tag prod leads to revision blue"},
		{"prod", "default", true, ""},
		{"blue", "default", false, "blue is a revision that is installed"},
		{"default", "blue", false, "default is a revision that is installed"},
		{"canary", "green", false, "there is no revision green"},
		{"canary", "young", false, "there is no revision young that could take pods"},
		{"A", "blue", false, "is no name"},
	} {
		objects, err := c.Tagging(t.Context(), settings, x.name, x.to, x.overwrite)
		if x.refuse != "" || err != nil {
			if err == nil || x.refuse == "" || !strings.Contains(err.Error(), x.refuse) {
				t.Errorf("%s → %s: %v, want %q", x.name, x.to, err, x.refuse)
			}
			continue
		}
		service := "istiod-" + x.to
		if x.to == "default" {
			service = "istiod"
		}
		var kinds []string
		for _, o := range objects {
			kinds = append(kinds, o.GetKind())
			if o.GetLabels()[install.Owner] != "weir-tag-"+x.name || o.GetLabels()[tag] != x.name {
				t.Errorf("%s → %s: %s has labels %v", x.name, x.to, title(o), o.GetLabels())
			}
			doors, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
			for _, d := range doors {
				client := d.(map[string]any)["clientConfig"].(map[string]any)
				if client["caBundle"] != "cm9vdA==" || client["service"].(map[string]any)["name"] != service {
					t.Errorf("%s → %s: asks %v", x.name, x.to, client)
				}
			}
		}
		if slices.Sort(kinds); !slices.Equal(kinds, []string{"ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"}) {
			t.Errorf("%s → %s: makes %v", x.name, x.to, kinds)
		}
	}
}

// A revision that goes leaves to another what there is one of in the mesh: with the CA's key every
// certificate would lose its root.
func TestARevisionGoes(t *testing.T) {
	made := func(kind, version, name, owner string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind}}
		o.SetName(name)
		o.SetNamespace("istio-system")
		o.SetLabels(map[string]string{install.Owner: owner})
		return o
	}
	control := func(name, owner, rev string) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system", Labels: map[string]string{"app": "istiod", install.Owner: owner, revision: rev}}}
	}
	tagged := made("MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1", "istio-revision-tag-prod", "weir-tag-prod")
	tagged.SetNamespace("")
	tagged.SetLabels(map[string]string{install.Owner: "weir-tag-prod", tag: "prod", revision: "default"})
	objects := []runtime.Object{made("Secret", "v1", "istio-ca-secret", "weir"), made("Secret", "v1", "other", "weir"), made("Deployment", "apps/v1", "istiod", "weir"), tagged}

	ns := namespace("istio-system", map[string]string{install.Owner: "weir"})
	whose := made("Namespace", "v1", "istio-system", "weir")
	whose.SetNamespace("")
	sidecar := func(name, rev string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", Annotations: map[string]string{"sidecar.istio.io/status": "{}", revision: rev}}}
	}
	c := with([]runtime.Object{control("istiod", "weir", "default"), control("istiod-blue", "weir-blue", "blue"), ns, sidecar("a", "default"), sidecar("b", "blue"),
		namespace("old", map[string]string{"istio-injection": "enabled"}), namespace("named", map[string]string{revision: "default"}), namespace("new", map[string]string{revision: "blue"})}, append(objects, whose)...)
	found, err := c.Find(t.Context(), "weir", "istio-system")
	if err != nil {
		t.Fatal(err)
	}
	if found.Heir != "weir-blue" || len(found.Tags) != 1 || len(found.Objects) != 2 || len(found.Shared) != 2 || found.Namespace || !slices.Equal(found.Pods, []string{"shop/a"}) || !slices.Equal(found.Asking, []string{"named", "old"}) {
		t.Errorf("found %+v", found)
	}
	if err := c.Uninstall(t.Context(), "weir", "istio-system", found, true); err != nil {
		t.Fatal(err)
	}
	for _, o := range found.Shared {
		if at, err := c.resource(o.GroupVersionKind(), o.GetNamespace()); err != nil {
			t.Error(err)
		} else if now, err := at.Get(t.Context(), o.GetName(), metav1.GetOptions{}); err != nil || now.GetLabels()[install.Owner] != "weir-blue" {
			t.Errorf("%s: %v, %v", title(o), now, err)
		}
	}
	left, err := c.existing(t.Context(), "weir-blue", ours)
	if err != nil || len(left) != 1 || left[0].GetName() != "istio-ca-secret" {
		t.Errorf("the other revision has %v, %v", left, err)
	}
	if left, err := c.existing(t.Context(), "weir", ours); err != nil || len(left) > 0 {
		t.Errorf("still there: %v, %v", left, err)
	}

	c = with([]runtime.Object{control("istiod", "weir", "default")}, objects...)
	if found, err = c.Find(t.Context(), "weir", "istio-system"); err != nil || found.Heir != "" || len(found.Objects) != 3 {
		t.Fatalf("found %+v, %v", found, err)
	}
	if err := c.Uninstall(t.Context(), "weir", "istio-system", found, false); err != nil {
		t.Fatal(err)
	}
	if left, err := c.labelled(t.Context(), install.Owner, ours); err != nil || len(left) > 0 {
		t.Errorf("the last one leaves %v, %v", left, err)
	}
}
