package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/mesh"
)

// Labels of the pods of an installation's own parts, and of which revision they are.
const (
	labelAgent, agentName     = "k8s-app", "istio-cni-node"
	labelControl, controlName = "app", "istiod"
)

// partGrace is how long a part may be away before anybody is told: so long it takes to begin.
const partGrace = 10 * time.Second

// part is a pod of the installation's own.
type part struct {
	agent    bool // of a node; otherwise a replica of the control plane
	revision string
	ready    bool
	since    time.Time // when it became what it is
	why      string    // it is not ready, as far as Kubernetes says
}

// isPart reports whether a pod is one of the installation's in namespace.
func isPart(p *corev1.Pod, namespace string) bool {
	return p.Namespace == namespace && (p.Labels[labelAgent] == agentName || p.Labels[labelControl] == controlName)
}

// partOf reads such a pod; nil if it ends on purpose.
func partOf(p *corev1.Pod) *part {
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded {
		return nil
	}
	x := &part{agent: p.Labels[labelAgent] == agentName, revision: cmp.Or(p.Labels[config.RevisionLabel], "default"), since: p.CreationTimestamp.Time, why: p.Status.Reason}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && !c.LastTransitionTime.IsZero() {
			x.ready, x.since = c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			x.why = cmp.Or(x.why, c.Message)
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch {
		case s.State.Waiting != nil:
			x.why = cmp.Or(x.why, s.State.Waiting.Reason)
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			x.why = cmp.Or(x.why, fmt.Sprintf("%s, exit status %d", s.State.Terminated.Reason, s.State.Terminated.ExitCode))
		}
	}
	return x
}

// relies reports whether the rules of a pod are made by its node.
func relies(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == inject.ValidationContainer })
}

// roles of a pod on its node.
const (
	asAgent = iota
	relying
	roles
)

// onNode counts the pods of a node in each role, and notes since when some rely on an agent that is not there.
type onNode struct {
	pods [roles]int
	bare time.Time
}

// count takes a pod up with its node, or out again.
func (w *world) count(p *pod, by int) {
	var role int
	switch {
	case p.node == "":
		return
	case p.part != nil && p.part.agent:
		role = asAgent
	case p.relies && !p.ended:
		role = relying
	default:
		return
	}
	n := w.onNodes[p.node]
	if n == nil {
		n = &onNode{}
		w.onNodes[p.node] = n
	}
	n.pods[role] += by
}

// looked notes what has become of a node of which pods came and went.
func (w *world) looked(node string) {
	switch n := w.onNodes[node]; {
	case n == nil:
	case n.pods == [roles]int{}:
		delete(w.onNodes, node)
	case n.pods[asAgent] > 0 || n.pods[relying] == 0:
		n.bare = time.Time{}
	case n.bare.IsZero():
		n.bare = w.now()
	}
}

// away are the parts of the installation that are not there, since when, and what that means.
func (w *world) away() (out []config.Finding) {
	now := w.now()
	say := func(since time.Time, why string) string {
		text := "since " + since.UTC().Format(time.RFC3339)
		if why != "" {
			text += " (" + why + ")"
		}
		return text
	}
	type replica struct {
		name types.NamespacedName
		*part
	}
	replicas := map[string][]replica{}
	agents := map[string][]replica{}
	for n, p := range w.pods {
		switch {
		case p.part == nil:
		case p.part.agent:
			agents[p.node] = append(agents[p.node], replica{n, p.part})
		default:
			replicas[p.part.revision] = append(replicas[p.part.revision], replica{n, p.part})
		}
	}
	const waits = "pods that ask for a proxy do not start there, and what a running pod lost is not mended"
	agentHint := "kubectl describe pod and kubectl logs of the node agent (DaemonSet " + agentName + ") on that node"
	for node, n := range w.onNodes {
		if !n.bare.IsZero() && now.Sub(n.bare) >= partGrace {
			out = append(out, config.New(config.NodeAgentAway, mesh.Ref{Kind: "Node", Name: node}, "", 0, "the node agent: the node has none, and pods on it rely on one, "+say(n.bare, "")+": "+waits, agentHint))
		}
	}
	for node, all := range agents {
		slices.SortFunc(all, func(a, b replica) int { return b.since.Compare(a.since) })
		if x := all[0]; !slices.ContainsFunc(all, func(r replica) bool { return r.ready }) && now.Sub(x.since) >= partGrace {
			out = append(out, config.New(config.NodeAgentAway, mesh.Ref{Kind: "Node", Name: node}, "", 0, "the node agent: pod "+x.name.Name+" has not been ready "+say(x.since, x.why)+": "+waits, agentHint))
		}
	}
	for _, revision := range slices.Sorted(maps.Keys(replicas)) {
		all := replicas[revision]
		if !slices.ContainsFunc(all, func(r replica) bool { return r.ready }) {
			slices.SortFunc(all, func(a, b replica) int { return b.since.Compare(a.since) })
			if x := all[0]; now.Sub(x.since) >= partGrace {
				out = append(out, config.New(config.InjectorAway, mesh.Ref{Kind: "Pod", Namespace: x.name.Namespace, Name: x.name.Name}, "", 0,
					"the webhooks of revision "+revision+": none of its control planes (pods: "+fmt.Sprint(len(all))+") is ready "+say(x.since, x.why)+": pods that ask for it do not start, and objects of the mesh cannot be changed",
					"kubectl describe pod -n "+x.name.Namespace+" "+x.name.Name))
			}
			continue
		}
		for _, x := range all {
			if !x.ready && now.Sub(x.since) >= partGrace {
				out = append(out, config.New(config.ReplicaAway, mesh.Ref{Kind: "Pod", Namespace: x.name.Namespace, Name: x.name.Name}, "", 0,
					"a replica of the control plane, revision "+revision+", has not been ready "+say(x.since, x.why)+": the others do its work", "kubectl describe pod -n "+x.name.Namespace+" "+x.name.Name))
			}
		}
	}
	return out
}
