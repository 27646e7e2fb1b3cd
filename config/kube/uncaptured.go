package kube

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
)

// What says that a pod is without the rules that lead its traffic through its proxy: the
// label is the node agent's (and Istio's), the exit status that of weir-proxy and of Istio's
// istio-iptables.
const (
	labelUncaptured  = "cni.istio.io/uninitialized"
	annotationRan    = "weir.dev/ran-unprotected" // when a pod was found to run without rules that it had had; the node agent takes it away after an hour
	statusUncaptured = 126
	proxyContainer   = "istio-proxy"
	validator        = "istio-validation"
	maker            = "istio-init"
)

// Uncaptured reports whether the proxy or the init container of a pod ended because the
// rules are missing, and has not done better since.
func Uncaptured(s corev1.PodStatus) bool {
	missing := func(t *corev1.ContainerStateTerminated) bool {
		return t != nil && t.ExitCode == statusUncaptured
	}
	return slices.ContainsFunc(slices.Concat(s.InitContainerStatuses, s.ContainerStatuses), func(c corev1.ContainerStatus) bool {
		if c.Name != proxyContainer && c.Name != validator || c.Ready {
			return false
		}
		return missing(c.State.Terminated) || c.State.Terminated == nil && missing(c.LastTerminationState.Terminated)
	})
}

// AutoImage is what stands for the proxy's image until the injector names it.
const AutoImage = "auto"

// autoImage finds a pod whose proxy the injector was to complete, and did not.
func autoImage(p *corev1.Pod) []config.Finding {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.Image == AutoImage {
			return []config.Finding{config.New(config.AutoImageError, refOf("Pod", p), "", 0, fmt.Sprintf("container %s has the image auto, which the injector replaces, and no injector was asked about the pod", c.Name),
				"label the namespace (istio-injection=enabled, or istio.io/rev) or the pod template (sidecar.istio.io/inject=\"true\"), and restart the workload")}
		}
	}
	return nil
}

// CheckPod finds the worst that a mesh can have: a pod that is thought to be protected and
// is not; one that cannot start because nobody completed it; and what is wrong with what its owner says about its proxy.
func CheckPod(p *corev1.Pod) []config.Finding {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	out := slices.Concat(autoImage(p), examine(p), hostNetwork(p))
	labelled := p.Labels[labelUncaptured] == "true"
	if !labelled && !Uncaptured(p.Status) {
		if at := p.Annotations[annotationRan]; at != "" {
			was := config.New(config.TrafficNotCaptured, refOf("Pod", p), "", 0, "the rules that lead the traffic of this pod through its proxy were gone at "+at+", and were made again: what it sent and received before went past the mesh, UNPROTECTED",
				"find out who took them away: what it runs may change rules itself (NET_ADMIN), and somebody on the node may; this is said for an hour")
			was.Severity = config.Warning
			out = append(out, was)
		}
		return out
	}
	runs := labelled && p.Status.Phase == corev1.PodRunning || slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.Name != proxyContainer && c.State.Running != nil
	})
	message := "nothing leads the traffic of this pod through its proxy, and so it does not start"
	if runs {
		message = "nothing leads the traffic of this pod through its proxy, and its application runs: UNPROTECTED"
	}
	hint := "an init container istio-init belongs into it: let the injector add both it and the proxy"
	has := func(name string) bool {
		return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
	}
	switch {
	case has(maker):
		hint = "its init container made the rules, and somebody took them away: delete the pod, and find out who (NET_ADMIN in the pod, or on the node)"
	case has(validator):
		hint = "its node makes the rules: see the log of the node agent there (DaemonSet istio-cni-node); kubectl describe pod says why, too"
	}
	return append(out, config.New(config.TrafficNotCaptured, refOf("Pod", p), "", 0, message, hint))
}
