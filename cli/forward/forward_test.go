package forward

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/weirmesh/weir/internal/kubeconfig"
)

// Of several control planes one is asked that answers: one that is frozen is passed by, in seconds. Where there is no choice nobody is asked twice.
func TestWhoAnswers(t *testing.T) {
	for _, c := range []struct {
		name    string
		pods    string
		answers map[string]error // those that are not in it answer nobody
		want    string
		took    time.Duration
	}{
		{"one", "a", nil, "a", 0},
		{"the first answers", "a b", map[string]error{"a": nil, "b": nil}, "a", 0},
		{"the first is frozen", "a b", map[string]error{"b": nil}, "b", answerTime},
		{"the first is gone", "a b", map[string]error{"a": io.EOF, "b": nil}, "b", 0},
		{"none answers", "a b", nil, "a", 2 * answerTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got := whoAnswers(t.Context(), strings.Fields(c.pods), func(ctx context.Context, pod string) error {
					err, answers := c.answers[pod]
					if !answers {
						<-ctx.Done()
						err = ctx.Err()
					}
					return err
				})
				if took := time.Since(began); got != c.want || took != c.took {
					t.Errorf("%s after %v, want %s after %v", got, took, c.want, c.took)
				}
			})
		})
	}
}

// A control plane that serves a cluster from outside is known by the EndpointSlice of its installation, and not by another's.
func TestOutside(t *testing.T) {
	slice := func(name, service, by, address string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system", Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: by}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}}}
	}
	k := fake.NewClientset(slice("a", "istiod-next", "weir", "192.0.2.10"), slice("b", "istiod", "endpointslice-controller.k8s.io", "10.0.0.1"))
	for revision, want := range map[string]string{"": "", "default": "", "next": "192.0.2.10", "other": ""} {
		if got := outside(t.Context(), k, "istio-system", revision); got != want {
			t.Errorf("revision %q: %q, want %q", revision, got, want)
		}
	}
}

// Without a control plane it is said which part is away, since when and why, and what that means meanwhile.
func TestAway(t *testing.T) {
	noon := metav1.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	labels := map[string]string{"app": "istiod", "istio.io/rev": "default"}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod-1", Labels: labels, CreationTimestamp: metav1.NewTime(noon.Add(-time.Hour))},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: noon}},
			ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}}}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod", Labels: labels},
		Status: appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, LastTransitionTime: noon}}}}
	scaled := deployment.DeepCopy() // to none, of which all are there
	scaled.Name, scaled.Status.Conditions[0].Status = "istiod-none", corev1.ConditionTrue
	leads := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-revision-leader-none"}, Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: noon.Time}}}
	for want, objects := range map[string][]runtime.Object{
		"the control plane is away since 2026-11-22T12:00:00Z: Deployment istiod-none in namespace istio-system of https://k has no pods. " + meanwhile:                           {scaled, leads},
		"the control plane is away: Deployment istiod-none in namespace istio-system of https://k has no pods. " + meanwhile:                                                      {scaled},
		"the control plane is away since 2026-11-22T12:00:00Z: no pod of weir-control is ready in namespace istio-system of https://k (istiod-1: CrashLoopBackOff). " + meanwhile: {pod, deployment},
		"the control plane is away since 2026-11-22T12:00:00Z: Deployment istiod in namespace istio-system of https://k has no pods. " + meanwhile:                                {deployment},
		"weir is not installed in namespace istio-system of https://k: there is no pod with label app=istiod":                                                                     nil,
	} {
		c := &Cluster{o: Options{Namespace: "istio-system"}, client: fake.NewClientset(objects...), config: &kubeconfig.Config{REST: &rest.Config{Host: "https://k"}}}
		if _, err := c.pod(t.Context()); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
