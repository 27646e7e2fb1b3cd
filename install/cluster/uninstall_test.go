package cluster

import (
	"slices"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	fakediscovery "k8s.io/client-go/discovery/fake"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/restmapper"
	clienttesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/install"
)

// A definition is gone some time after it was deleted. Who uninstalls waits for that: what is
// installed next would find it, keep it, and be without it a moment later.
func TestUninstallWaitsForDefinitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := schema.GroupVersionResource{Group: crdKind.Group, Version: crdKind.Version, Resource: "customresourcedefinitions"}
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(crdKind)
		crd.SetName("sidecars.networking.istio.io")
		crd.SetLabels(map[string]string{install.Owner: "weir"})
		typed := fake.NewClientset()
		typed.Discovery().(*fakediscovery.FakeDiscovery).Resources = []*metav1.APIResourceList{{GroupVersion: crdKind.GroupVersion().String(),
			APIResources: []metav1.APIResource{{Name: at.Resource, SingularName: "customresourcedefinition", Kind: crdKind.Kind}}}}
		dynamic := fakedynamic.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{at: "CustomResourceDefinitionList"}, crd)
		asked := -1
		dynamic.PrependReactor("delete", at.Resource, func(clienttesting.Action) (bool, runtime.Object, error) { asked = 0; return true, nil, nil })
		dynamic.PrependReactor("list", at.Resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			if asked >= 0 {
				asked++
			}
			if asked == 3 {
				if err := dynamic.Tracker().Delete(at, "", crd.GetName()); err != nil {
					t.Error(err)
				}
			}
			return false, nil, nil
		})
		c := &Cluster{typed: typed, dynamic: dynamic, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(typed.Discovery())), say: func(string) {}}
		if err := c.Uninstall(t.Context(), "weir", "istio-system", &Remains{CRDs: []*unstructured.Unstructured{crd}}, false); err != nil {
			t.Fatal(err)
		}
		if _, err := dynamic.Tracker().Get(at, "", crd.GetName()); !apierrors.IsNotFound(err) {
			t.Errorf("the definition is still there: %v", err)
		}
	})
}

// What uninstall does not know by kind would be left behind.
func TestEveryKindIsOurs(t *testing.T) {
	for _, profile := range install.Profiles() {
		r, err := install.Render(install.Settings{Profile: profile, Set: []string{"global.mtls.enabled=true"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range r.Objects {
			if !slices.Contains(ours, o.GroupVersionKind()) {
				t.Errorf("profile %s makes %s, which nothing removes", profile, title(o))
			}
		}
	}
}
