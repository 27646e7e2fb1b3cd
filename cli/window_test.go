package cli

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pods of a cluster are meant by their names, or by those of their Deployment, StatefulSet, …; those that do not run, or have no proxy, are not.
func TestWithProxy(t *testing.T) {
	pod := func(name, kind, owner, hash string, phase corev1.PodPhase, containers ...string) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-template-hash": hash}}, Status: corev1.PodStatus{Phase: phase}}
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, Controller: new(true)}}
		}
		for i, c := range containers {
			if i == 0 {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c})
			} else { // native sidecars
				p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: c})
			}
		}
		return p
	}
	pods := []corev1.Pod{
		pod("web-5d8-a", "ReplicaSet", "web-5d8", "5d8", corev1.PodRunning, "app", "istio-proxy"),
		pod("web-5d8-b", "ReplicaSet", "web-5d8", "5d8", corev1.PodRunning, "app", "istio-proxy"),
		pod("web-5d8-c", "ReplicaSet", "web-5d8", "5d8", corev1.PodPending, "app", "istio-proxy"),
		pod("db-0", "StatefulSet", "db", "", corev1.PodRunning, "istio-proxy"),
		pod("plain", "", "", "", corev1.PodRunning, "app"),
		pod("own", "ReplicaSet", "own-7", "", corev1.PodRunning, "istio-proxy"),
	}
	for workload, want := range map[string][]string{
		"web": {"web-5d8-a", "web-5d8-b"}, "web-5d8-b": {"web-5d8-b"}, "web-5d8-c": nil, "db": {"db-0"}, "plain": nil, "own-7": {"own"}, "other": nil,
	} {
		found, known := withProxy(pods, workload)
		if !slices.Equal(found, want) {
			t.Errorf("%s: %q, want %q", workload, found, want)
		}
		if !slices.Equal(known, []string{"web-5d8-a", "web-5d8-b", "db-0", "own"}) {
			t.Errorf("known: %q", known)
		}
	}
}
