package cluster

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/install"
)

// made is a Deployment as it is asked for, or was made.
func made(name string, uid string, selector map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": name, "namespace": "istio-system"},
		"spec":     map[string]any{"selector": map[string]any{"matchLabels": selector}, "replicas": int64(1)}}}
	if uid != "" {
		o.Object["metadata"].(map[string]any)["uid"] = uid
	}
	return o
}

// A Deployment that an older version made with another selector stands in the way, and is named with the remedy. Made anew, its pods go on
// until others are ready, also if the installation is interrupted in between.
func TestReplace(t *testing.T) {
	old := map[string]any{"app": "istiod"}
	set := func(name, owner string) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "istiod", UID: "1", Controller: new(owner == "istiod")}}}}
	}
	c := with([]runtime.Object{set("istiod-1", "istiod"), set("other-1", "other")}, made("istiod", "1", old), made("same", "2", old))
	r := &install.Release{Name: "weir", Namespace: "istio-system", Objects: []*unstructured.Unstructured{
		made("istiod", "", map[string]any{"app": "istiod", "istio.io/rev": "default"}), made("same", "", old), made("new", "", old)}}
	problems, err := c.fixed(t.Context(), r)
	if err != nil || len(problems) != 1 || !strings.HasPrefix(problems[0].Message, "deployment/istiod in istio-system was made with the selector") || !strings.Contains(problems[0].Hint, "--replace") {
		t.Fatalf("%+v %v", problems, err)
	}
	c.Replace = true
	if problems, err := c.fixed(t.Context(), r); err != nil || len(problems) > 0 {
		t.Errorf("asked for, it is no problem: %+v %v", problems, err)
	}
	var deleted []string
	c.dynamic.(*fakedynamic.FakeDynamicClient).PrependReactor("delete", "deployments", func(a clienttesting.Action) (bool, runtime.Object, error) {
		d := a.(clienttesting.DeleteActionImpl)
		deleted = append(deleted, fmt.Sprint(d.Name, " ", *d.DeleteOptions.PropagationPolicy, " ", *d.DeleteOptions.Preconditions.UID))
		return false, nil, nil
	})
	for _, o := range r.Objects {
		if err := c.retire(t.Context(), r.Name, o); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{"istiod Orphan 1"}, deleted); d != "" {
		t.Errorf("deleted (-want +got):\n%s", d)
	}
	left := func() (out []string) {
		l, err := c.typed.AppsV1().ReplicaSets("istio-system").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range l.Items {
			out = append(out, s.Name+" "+s.Labels[retired])
		}
		return out
	}
	if d := cmp.Diff([]string{"istiod-1 weir", "other-1 "}, left()); d != "" {
		t.Errorf("while others start (-want +got):\n%s", d)
	}
	if err := (&Cluster{typed: c.typed}).bury(t.Context(), r); err != nil { // called again
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"other-1 "}, left()); d != "" {
		t.Errorf("when they are ready (-want +got):\n%s", d)
	}
}

// What an installation would do, by the API server's own word: what it would make of each object beside what is there.
func TestChanges(t *testing.T) {
	selector := map[string]any{"app": "istiod"}
	c := with(nil, made("istiod", "1", selector), made("same", "2", selector), made("stuck", "3", selector))
	c.dynamic.(*fakedynamic.FakeDynamicClient).PrependReactor("patch", "deployments", func(a clienttesting.Action) (bool, runtime.Object, error) {
		name := a.(clienttesting.PatchAction).GetName()
		then := made(name, "1", selector)
		switch name {
		case "stuck":
			return true, nil, apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, name, field.ErrorList{field.Invalid(field.NewPath("spec", "selector"), selector, "field is immutable")})
		case "istiod":
			then.SetLabels(map[string]string{"app.kubernetes.io/version": "2"})
			_ = unstructured.SetNestedField(then.Object, int64(2), "spec", "replicas")
			then.SetResourceVersion("17") // says nothing
		}
		return true, then, nil
	})
	r := &install.Release{Name: "weir", Namespace: "istio-system", Objects: []*unstructured.Unstructured{made("istiod", "", selector), made("same", "", selector), made("stuck", "", selector), made("new", "", selector)}}
	changes, refused, err := c.Changes(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{
		{Object: "deployment/istiod in istio-system", What: "changed", Fields: []string{`labels: nothing → {"app.kubernetes.io/version":"2"}`, "spec.replicas: 1 → 2"}},
		{Object: "deployment/new in istio-system", What: "made"},
	}
	if d := cmp.Diff(want, changes); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if len(refused) != 1 || refused[0].Message != "deployment/stuck in istio-system cannot be changed in spec.selector" {
		t.Errorf("%+v", refused)
	}
}
