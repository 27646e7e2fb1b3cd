package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// A Deployment of a cluster is looked at itself: an annotation in the wrong place is not in its pods, and one that the injector refuses
// has no pods.
func TestAnnotatedDeployments(t *testing.T) {
	deployment := func(namespace, name string, own, pods map[string]string) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: own},
			Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: pods}}}}
	}
	type m = map[string]string
	k := fake.NewClientset(
		deployment("shop", "cart", m{"sidecar.istio.io/inject": "false"}, m{"sidecar.istio.io/logLevel": "loud"}),
		deployment("shop", "meant", m{"galley.istio.io/analyze-suppress": "*", "sidecar.istio.io/inject": "false"}, m{"sidecar.istio.io/logLevel": "loud"}),
		deployment("edge", "web", nil, m{"sidecar.istio.io/proxyCpu": "1"}))
	for namespace, want := range map[string]string{
		"shop": "2: IST0107 shop/cart metadata.annotations[\"sidecar.istio.io/inject\"], IST0125 shop/cart spec.template.metadata.annotations[\"sidecar.istio.io/logLevel\"]",
		"edge": "1: IST0108 edge/web spec.template.metadata.annotations[\"sidecar.istio.io/proxyCpu\"]",
	} {
		fs, looked, err := annotated(t.Context(), k, namespace)
		var got []string
		for _, f := range fs {
			got = append(got, fmt.Sprintf("%s %s/%s %s", f.Code, f.Namespace, f.Name, f.Field))
		}
		if s := fmt.Sprintf("%d: %s", looked, strings.Join(got, ", ")); s != want || err != nil {
			t.Errorf("%s: %s, want %s (%v)", namespace, s, want, err)
		}
	}
	if fs, looked, err := annotated(t.Context(), k, ""); len(fs) != 3 || looked != 3 || err != nil {
		t.Errorf("all: %v of %d, %v", fs, looked, err)
	}
}

// Whatever makes pods is looked at; of a CronJob's Jobs the CronJob says it, once. What may not be listed hides nothing else.
func TestAnnotatedMakersOfPods(t *testing.T) {
	at := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	loud := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"sidecar.istio.io/logLevel": "loud"}}}
	yes := true
	made := at("nightly-1")
	made.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "nightly", Controller: &yes}}
	k := fake.NewClientset(
		&appsv1.StatefulSet{ObjectMeta: at("db"), Spec: appsv1.StatefulSetSpec{Template: loud}},
		&appsv1.DaemonSet{ObjectMeta: at("node"), Spec: appsv1.DaemonSetSpec{Template: loud}},
		&batchv1.Job{ObjectMeta: at("once"), Spec: batchv1.JobSpec{Template: loud}},
		&batchv1.Job{ObjectMeta: made, Spec: batchv1.JobSpec{Template: loud}},
		&batchv1.CronJob{ObjectMeta: at("nightly"), Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: loud}}}})
	k.PrependReactor("list", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no right") })
	fs, looked, err := annotated(t.Context(), k, "shop")
	var got []string
	for _, f := range fs {
		got = append(got, fmt.Sprintf("%s %s/%s %s", f.Code, f.Kind, f.Name, strings.TrimSuffix(f.Field, ".metadata.annotations[\"sidecar.istio.io/logLevel\"]")))
	}
	want := "IST0125 StatefulSet/db spec.template, IST0125 DaemonSet/node spec.template, IST0125 Job/once spec.template, IST0125 CronJob/nightly spec.jobTemplate.spec.template"
	if s := strings.Join(got, ", "); s != want || looked != 4 || err == nil {
		t.Errorf("%d: %s, %v, want %s", looked, s, err, want)
	}
}
