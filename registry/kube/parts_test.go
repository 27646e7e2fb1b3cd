package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
)

// A part of the installation that is away is named with when that began: the agent of a node that somebody relies on, one replica, or all of a
// revision, without which its webhooks do not answer. What has just begun, what ends on purpose and nodes that need no agent are left alone.
func TestAway(t *testing.T) {
	c := newCluster()
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	clock := noon
	c.now = func() time.Time { return clock }
	add := func(change func(*corev1.Pod)) *corev1.Pod {
		p := runningPod("cart", "10.0.0.1")
		change(p)
		kept := p.DeepCopy()
		c.trimPod(p)
		c.tell(c.pod(p))
		return kept
	}
	part := func(name, node string, ready bool, at time.Time, labels map[string]string, why string) *corev1.Pod {
		return add(func(p *corev1.Pod) {
			p.Namespace, p.Name, p.Labels, p.Spec.NodeName, p.Spec.HostNetwork = "istio-system", name, labels, node, true
			status := corev1.ConditionFalse
			if ready {
				status = corev1.ConditionTrue
			} else if why != "" {
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "x", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why}}}}
			}
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(at)}}
		})
	}
	agent := map[string]string{"k8s-app": "istio-cni-node"}
	control := func(rev string) map[string]string { return map[string]string{"app": "istiod", "istio.io/rev": rev} }
	want := func(when, want string) {
		t.Helper()
		var got []string
		for _, f := range config.Tidy(c.away()) {
			got = append(got, fmt.Sprintf("%s %s %s", f.Code, f.Object.Name, f.Message[:strings.LastIndex(f.Message, ":")]))
		}
		if text := strings.Join(got, "\n"); text != want {
			t.Errorf("%s:\n got %s\nwant %s", when, text, want)
		}
	}
	part("agent-1", "n1", true, noon, agent, "")
	part("istiod-a", "n1", true, noon, control("default"), "")
	part("istiod-b", "n1", true, noon, control("default"), "")
	on := func(node string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Name, p.Spec.NodeName, p.Spec.InitContainers = "on-"+node, node, []corev1.Container{{Name: inject.ValidationContainer}}
		}
	}
	add(on("n1"))
	add(func(p *corev1.Pod) { p.Name, p.Spec.NodeName = "bare", "n3" })
	want("all is well", "")
	part("agent-1", "n1", false, noon, agent, "CrashLoopBackOff")
	want("at once", "")
	clock = noon.Add(time.Minute)
	want("the agent fails", "WEIR0137 n1 the node agent: pod agent-1 has not been ready since 2026-11-22T12:00:00Z (CrashLoopBackOff)")
	second := part("agent-2", "n1", true, clock, agent, "")
	want("another is there", "")
	c.tell(c.noPod(nameOf(second)))
	c.tell(c.noPod(nameOf(part("agent-1", "n1", false, noon, agent, ""))))
	add(on("n2"))
	clock = noon.Add(2 * time.Minute)
	want("there is none", "WEIR0137 n1 the node agent: the node has none, and pods on it rely on one, since 2026-11-22T12:01:00Z\n"+
		"WEIR0137 n2 the node agent: the node has none, and pods on it rely on one, since 2026-11-22T12:01:00Z")
	for _, node := range []string{"n1", "n2"} {
		p := add(on(node))
		c.tell(c.noPod(nameOf(p)))
	}
	want("nobody needs one", "")
	part("istiod-b", "n1", false, clock, control("default"), "ImagePullBackOff")
	blue := part("istiod-blue", "n1", false, clock.Add(-time.Minute), control("blue"), "")
	clock = noon.Add(3 * time.Minute)
	want("replicas fail", "WEIR0138 istiod-b a replica of the control plane, revision default, has not been ready since 2026-11-22T12:02:00Z (ImagePullBackOff)\n"+
		"WEIR0139 istiod-blue the webhooks of revision blue: none of its control planes (pods: 1) is ready since 2026-11-22T12:01:00Z")
	blue.DeletionTimestamp = &metav1.Time{Time: clock}
	c.tell(c.pod(blue))
	part("istiod-b", "n1", true, clock, control("default"), "")
	want("one ends on purpose, one is back", "")
	if len(c.onNodes) != 0 {
		t.Errorf("nodes without agents and pods are remembered: %v", c.onNodes)
	}
}
