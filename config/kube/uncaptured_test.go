package kube_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/kube"
)

// Which pods are said to be unprotected, and whether anything of them runs.
func TestCheckPod(t *testing.T) {
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	waits := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	up := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	type s = corev1.ContainerStatus
	for _, c := range []struct {
		name      string
		label     string
		phase     corev1.PodPhase
		init, all []s
		want      string // in the message
	}{
		{name: "all is well", phase: corev1.PodRunning, init: []s{{Name: "istio-validation", State: ended(0), Ready: true}}, all: []s{{Name: "app", State: up}}},
		{name: "the init container cannot prove them", phase: corev1.PodPending, init: []s{{Name: "istio-validation", State: ended(126)}}, want: "does not start"},
		{name: "it waits to try again", phase: corev1.PodPending, init: []s{{Name: "istio-validation", State: waits, LastTerminationState: ended(126)}}, want: "does not start"},
		{name: "it could, in the end", phase: corev1.PodRunning, init: []s{{Name: "istio-validation", State: ended(0), LastTerminationState: ended(126), Ready: true}}},
		{name: "a proxy written by hand, without rules, beside its application", phase: corev1.PodRunning,
			all: []s{{Name: "istio-proxy", State: waits, LastTerminationState: ended(126)}, {Name: "app", State: up}}, want: "UNPROTECTED"},
		{name: "a proxy that found rules when it was started again", phase: corev1.PodRunning, all: []s{{Name: "istio-proxy", State: up, LastTerminationState: ended(126), Ready: true}, {Name: "app", State: up}}},
		{name: "a proxy that ended otherwise", phase: corev1.PodRunning, all: []s{{Name: "istio-proxy", State: waits, LastTerminationState: ended(1)}, {Name: "app", State: up}}},
		{name: "another's status 126", phase: corev1.PodRunning, all: []s{{Name: "app", State: ended(126)}}},
		{name: "the node agent says so of a pod that runs", label: "true", phase: corev1.PodRunning, want: "UNPROTECTED"},
		{name: "and of one that waits", label: "true", phase: corev1.PodPending, want: "does not start"},
		{name: "a pod that has ended", label: "true", phase: corev1.PodSucceeded},
		{name: "the label taken back", label: "false", phase: corev1.PodRunning},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", Labels: map[string]string{"cni.istio.io/uninitialized": c.label}},
			Status: corev1.PodStatus{Phase: c.phase, InitContainerStatuses: c.init, ContainerStatuses: c.all}}
		got := kube.CheckPod(p)
		if (c.want == "") != (len(got) == 0) || len(got) > 0 && (!strings.Contains(got[0].Message, c.want) || got[0].Code != config.TrafficNotCaptured || got[0].Object.Name != "cart") {
			t.Errorf("%s: %v, want %q", c.name, got, c.want)
		}
	}
}

// That a pod ran without its rules for a while is remembered as a warning, as long as the node agent says so, and as an error while it does.
func TestRanUnprotected(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", Annotations: map[string]string{"weir.dev/ran-unprotected": "2026-11-22T12:00:00Z"}}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if got := kube.CheckPod(p); len(got) != 1 || got[0].Code != config.TrafficNotCaptured || got[0].Severity != config.Warning || !strings.Contains(got[0].Message, "were gone at 2026-11-22T12:00:00Z") {
		t.Errorf("%v", got)
	}
	p.Labels = map[string]string{"cni.istio.io/uninitialized": "true"}
	p.Spec.InitContainers = []corev1.Container{{Name: "istio-init"}}
	if got := kube.CheckPod(p); len(got) != 1 || got[0].Severity != config.Error || !strings.Contains(got[0].Hint, "delete the pod") {
		t.Errorf("%v", got)
	}
}

// The image auto is the injector's to replace: a pod that still has it was not completed, and cannot start.
func TestCheckPodAutoImage(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "gateway"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "istio-proxy", Image: "auto"}}}}
	if got := kube.CheckPod(p); len(got) != 1 || got[0].Code != config.AutoImageError || got[0].Object.Name != "gateway" {
		t.Errorf("%v", got)
	}
	p.Status.Phase = corev1.PodFailed
	if got := kube.CheckPod(p); got != nil {
		t.Errorf("of one that has ended: %v", got)
	}
}
