package kube

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// victim is a Deployment of one pod on the node that is broken.
const victim = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: victim}
spec:
  selector: {matchLabels: {app: victim}}
  template:
    metadata: {labels: {app: victim}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {kubernetes.io/hostname: NODE}
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers: [{name: app, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}, image: "HUB/weir-sample:TAG", args: [echo]}]
`

const tainted = "cni.istio.io/not-ready"

// Where the node makes the rules: a node takes no pods before its agent is ready, if it is tainted; somebody takes the rules of a pod that
// runs away, and they are made again, or the pod is marked and named first of all, or replaced, as the installation says; and the agent
// has no more rights than that needs.
func TestCNIModes(t *testing.T) {
	bin := cmp.Or(os.Getenv("WEIR_CNI_BIN"), "/opt/cni/bin")
	onNode(t, "command -v nft nsenter >/dev/null")
	c := cluster.Connect(t, "istio-injection=enabled", "pod-security.kubernetes.io/enforce=restricted")
	at := hostname(t)
	t.Cleanup(func() { install(t) })
	mode := func(repair string) {
		t.Helper()
		install(t, "--set", "cni.enabled=true", "--set", "cni.cniBinDir="+bin, "--set", "cni.taint.enabled=true",
			"--set", "cni.repair.repairPods="+fmt.Sprint(repair == "repair"), "--set", "cni.repair.deletePods="+fmt.Sprint(repair == "delete"), "--set", "cni.repair.labelPods="+fmt.Sprint(repair == "label"))
		c.Until("the agents are of mode "+repair, booting, func() string { return behind(c) })
		for verb, want := range map[string]bool{"patch pods/status": true, "patch pods": false, "update pods": false, "delete pods": repair == "delete", "patch nodes": true, "get secrets": false, "create pods/exec": false} {
			if got := mayAgent(c, verb); got != want {
				t.Errorf("in mode %s the agent may %s: %t", repair, verb, got)
			}
		}
	}
	mode("repair")
	one := func() corev1.Pod { return c.Pod("app=victim") }
	well := func(what string) {
		t.Helper()
		c.Until(what, booting, func() string {
			all := strings.Join(findings(t), "\n")
			if p := one(); strings.Contains(all, `"WEIR0311"`) || p.Labels["cni.istio.io/uninitialized"] != "" || !strings.Contains(rules(t, &p), "15001") {
				return fmt.Sprint(p.Name, p.Labels, rules(t, &p), all)
			}
			return ""
		})
	}

	// The agent goes, and the plugin with it; the node is as one that has just come.
	if err := c.Client.AppsV1().DaemonSets("istio-system").Delete(t.Context(), "istio-cni-node", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Until("the plugin is gone from the node", booting, func() string {
		if text := networks(t); strings.Contains(text, "weir-cni") {
			return text
		}
		return ""
	})
	patch := func(text string) {
		if _, err := c.Client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), at, types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		patch(`{"spec":{"taints":[{"key":"` + tainted + `","effect":"NoSchedule","$patch":"delete"}]}}`)
	})
	patch(`{"spec":{"taints":[{"key":"` + tainted + `","effect":"NoSchedule"}]}}`)
	c.Apply(withImages(t, strings.ReplaceAll(victim, "NODE", at)))
	c.Until("the node takes no pod", booting, func() string {
		ps := c.Pods("app=victim")
		if len(ps) == 0 {
			return "it is not there"
		}
		for _, x := range ps[0].Status.Conditions {
			if x.Type == corev1.PodScheduled && x.Reason == corev1.PodReasonUnschedulable && strings.Contains(x.Message, "untolerated taint") {
				return ""
			}
		}
		return fmt.Sprint(ps[0].Status.Conditions)
	})
	mode("repair")
	c.Ready("app=victim", booting)
	for _, s := range one().Status.InitContainerStatuses {
		if s.Name == "istio-validation" && s.RestartCount > 0 {
			t.Errorf("its rules were not there at once: %+v", s)
		}
	}
	well("it is captured")

	p := one()
	flush(t, &p)
	c.Until("the rules are made again", booting, func() string {
		if text := rules(t, &p); !strings.Contains(text, "15001") {
			return text
		}
		return ""
	})
	if now := one(); now.UID != p.UID {
		t.Error("the pod is another")
	}
	c.Until("an event tells of it", cluster.Patience, func() string { return told(c, &p) })

	mode("label")
	flush(t, &p)
	c.Until("who runs unprotected is named", booting, func() string {
		all := strings.Join(findings(t), "\n")
		if !strings.Contains(all, `"WEIR0311"`) || !strings.Contains(all, p.Name) || !strings.Contains(all, "UNPROTECTED") || one().Labels["cni.istio.io/uninitialized"] != "true" {
			return fmt.Sprint(one().Labels, all)
		}
		return ""
	})
	if text := must(t, "status"); !strings.Contains(text, "traffic goes past the proxies of 1 pod") {
		t.Errorf("people are not told:\n%s", text)
	}

	mode("delete")
	c.Until("the pod is replaced", booting, func() string {
		if ps := c.Pods("app=victim"); len(ps) != 1 || ps[0].UID == p.UID {
			return p.Name + " is there"
		}
		return ""
	})
	c.Ready("app=victim", booting)
	well("its successor is captured")
}

// mayAgent asks whether the node agent may do something, "VERB RESOURCE[/SUBRESOURCE]".
func mayAgent(c *cluster.Cluster, what string) bool {
	c.T.Helper()
	verb, resource, _ := strings.Cut(what, " ")
	resource, sub, _ := strings.Cut(resource, "/")
	r, err := c.Client.AuthorizationV1().SubjectAccessReviews().Create(c.T.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:istio-system:istio-cni", ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: c.Namespace, Verb: verb, Resource: resource, Subresource: sub},
	}}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	return r.Status.Allowed
}

// told says that there is no event of a pod whose traffic was not captured.
func told(c *cluster.Cluster, p *corev1.Pod) string {
	l, err := c.Client.CoreV1().Events(p.Namespace).List(c.T.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(p.UID)})
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, e := range l.Items {
		if e.Reason == "TrafficNotCaptured" && strings.Contains(e.Message, "it ran unprotected") {
			return ""
		}
		all = append(all, e.Reason+": "+e.Message)
	}
	return strings.Join(all, "\n")
}

// within is a script that runs a command in the network of a pod's application.
func within(p *corev1.Pod, command string) string {
	for _, s := range p.Status.ContainerStatuses {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); s.Name == "app" && ok {
			return "for f in $(grep -l " + id + " /proc/[0-9]*/cgroup 2>/dev/null); do p=${f#/proc/}; exec nsenter -t ${p%/cgroup} -n " + command + "; done; exit 1"
		}
	}
	return "exit 1"
}

// rules are those of a pod on the node.
func rules(t *testing.T, p *corev1.Pod) string {
	out, err := node(t, within(p, "nft list ruleset")).Output()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

func flush(t *testing.T, p *corev1.Pod) {
	t.Helper()
	onNode(t, within(p, "nft flush ruleset"))
	if text := rules(t, p); strings.TrimSpace(text) != "" {
		t.Fatalf("there are rules still: %s", text)
	}
}
