package inject

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirmesh/weir/config"
)

// Labels and annotations that decide.
const (
	labelInject          = "sidecar.istio.io/inject"
	labelInjection       = "istio-injection"
	labelRevision        = "istio.io/rev"
	labelPodSecurity     = "pod-security.kubernetes.io/enforce"
	annotationInject     = "sidecar.istio.io/inject"
	nodeSelectorOS       = "kubernetes.io/os"
	nodeSelectorOSLegacy = "beta.kubernetes.io/os"
)

// Decision is whether a pod gets a proxy, and why.
type Decision struct {
	Inject bool `json:"inject"`
	// Reason is a word for programs, Message a sentence for people.
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
}

// Reason says what decided.
type Reason string

// Reasons, in the order in which they are looked for.
const (
	HostNetwork        Reason = "HostNetwork"
	IgnoredNamespace   Reason = "IgnoredNamespace"
	OwnNamespace       Reason = "ControlPlaneNamespace"
	WindowsNode        Reason = "WindowsNode"
	ByLabel            Reason = "InjectLabel"
	ByAnnotation       Reason = "InjectAnnotation"
	NeverSelector      Reason = "NeverInjectSelector"
	AlwaysSelector     Reason = "AlwaysInjectSelector"
	ByPolicy           Reason = "Policy"
	NotSelected        Reason = "NotSelected" // no webhook is asked
	BySelectedRevision Reason = "Revision"
	ByNamespaceLabel   Reason = "NamespaceLabel"
	ByDefault          Reason = "NamespacesByDefault"
)

// ignoredNamespaces are those of Kubernetes itself: a proxy that cannot start must not
// keep the cluster from starting.
var ignoredNamespaces = []string{"kube-system", "kube-public", "kube-node-lease", "local-path-storage"}

// decide is Istio's order: never with the host's network, never in ignored namespaces,
// then the pod's word, then the selectors, then the policy.
func (w *work) decide() Decision {
	pod, ns := w.pod, w.in.Namespace.Name
	asked, word := w.asked()
	never := func(r Reason, message, hint string) Decision {
		if asked == yes {
			w.add(config.NotInjectable, "", "asks for a proxy and gets none: "+message, hint)
		}
		return Decision{Reason: r, Message: message}
	}
	switch {
	case pod.Spec.HostNetwork:
		return never(HostNetwork, "the pod uses the host's network, where capturing traffic would capture that of the whole node", "remove hostNetwork, or the label "+labelInject)
	case slices.Contains(ignoredNamespaces, ns):
		return never(IgnoredNamespace, "namespace "+ns+" belongs to Kubernetes itself", "move the pod to another namespace, or remove the label "+labelInject)
	case ns == w.s.Namespace && !(asked == yes && w.asksForGateway()): // a gateway needs the control plane anyway
		return never(OwnNamespace, "namespace "+ns+" is the control plane's, which must start without a proxy", "move the pod to another namespace; only gateways ("+annotationTemplates+": gateway) are injected here")
	case windows(pod):
		return never(WindowsNode, "the pod runs on Windows, for which there is no proxy", "remove the label "+labelInject)
	case asked == yes || asked == no:
		r := ByAnnotation
		if _, ok := pod.Labels[labelInject]; ok {
			r = ByLabel
		}
		return Decision{asked == yes, r, fmt.Sprintf("the pod says %s=%s", labelInject, word)}
	case asked == unclear:
		w.add(config.InvalidAnnotation, annotationPath(annotationInject), neither(word), `write "true" or "false"`)
		return Decision{false, ByLabel, fmt.Sprintf("the pod says %s=%s, which is neither true nor false", labelInject, word)}
	}
	for _, sel := range []struct {
		selectors []labels.Selector
		reason    Reason
	}{{w.s.never, NeverSelector}, {w.s.always, AlwaysSelector}} {
		for _, s := range sel.selectors {
			if s.Matches(labels.Set(pod.Labels)) {
				what := "neverInjectSelector"
				if sel.reason == AlwaysSelector {
					what = "alwaysInjectSelector"
				}
				return Decision{sel.reason == AlwaysSelector, sel.reason, fmt.Sprintf("the pod's labels match %s (%s)", what, s)}
			}
		}
	}
	if w.s.Disabled {
		return Decision{false, ByPolicy, "the injector's policy is disabled: only pods that ask for a proxy get one"}
	}
	return Decision{true, ByPolicy, "the injector's policy is enabled"}
}

type answer uint8

const (
	silent answer = iota
	yes
	no
	unclear
)

// asked is the pod's own word; the label beats the annotation.
func (w *work) asked() (answer, string) {
	word, ok := w.pod.Labels[labelInject]
	if !ok {
		word = w.pod.Annotations[annotationInject]
	}
	return spoken(word), word
}

func neither(word string) string {
	return fmt.Sprintf("%q is neither true nor false: the pod gets no proxy", word)
}

// asksForGateway reads the annotation before all others are.
func (w *work) asksForGateway() bool {
	return slices.Contains(fields(w.pod.Annotations[annotationTemplates]), "gateway")
}

// spoken takes YAML 1.1's words, as Istio does.
func spoken(word string) answer {
	switch strings.ToLower(word) {
	case "":
		return silent
	case "y", "yes", "true", "on":
		return yes
	case "n", "no", "false", "off":
		return no
	}
	return unclear
}

func windows(p *corev1.Pod) bool {
	return p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows || p.Spec.NodeSelector[nodeSelectorOS] == "windows" || p.Spec.NodeSelector[nodeSelectorOSLegacy] == "windows"
}

// Selected says whether the API server asks the injector about a pod with these labels
// in a namespace with those: what the webhooks of the chart select. Without it no
// Decision is made and the pod stays as it is.
func Selected(namespace Namespace, pod map[string]string, s *Settings) Decision {
	injection, hasInjection := namespace.Labels[labelInjection]
	nsRev, hasNSRev := namespace.Labels[labelRevision]
	podRev, hasPodRev := pod[labelRevision]
	own, inject, everywhere := s.revision(), pod[labelInject], s.Values.SidecarInjectorWebhook.EnableNamespacesByDefault
	switch {
	case slices.Contains(ignoredNamespaces, namespace.Name):
		return Decision{false, NotSelected, "no pod in namespace " + namespace.Name + " is injected"}
	case inject == "false":
		return Decision{false, NotSelected, "the pod has the label " + labelInject + "=false"}
	case namespace.Name == s.Namespace && (hasInjection || hasNSRev || inject != "true" && !hasPodRev):
		return Decision{false, NotSelected, "namespace " + namespace.Name + " is the control plane's: only gateways with the label " + labelInject + "=true are injected, and the namespace has no label of its own"}
	case hasInjection && injection == "enabled" && own == defaultRevision:
		return Decision{true, ByNamespaceLabel, "the namespace has the label " + labelInjection + "=enabled"}
	case everywhere && own == defaultRevision && injection != "disabled" && (hasInjection || !hasNSRev && !hasPodRev) && namespace.Name != s.Namespace:
		return Decision{true, ByDefault, "pods of every namespace are injected (enableNamespacesByDefault)"}
	case hasInjection:
		return Decision{false, NotSelected, fmt.Sprintf("the namespace has the label %s=%s", labelInjection, injection)}
	case hasNSRev:
		return revision("namespace", nsRev, own)
	case hasPodRev:
		return revision("pod", podRev, own)
	case inject == "true" && own == defaultRevision:
		return Decision{true, ByLabel, "the pod has the label " + labelInject + "=true"}
	}
	return Decision{false, NotSelected, "neither the namespace nor the pod asks for it: label the namespace " + labelInjection + "=enabled"}
}

const defaultRevision = "default"

func revision(who, asked, own string) Decision {
	message := fmt.Sprintf("the %s has the label %s=%s", who, labelRevision, asked)
	if asked != own {
		return Decision{false, NotSelected, message + ", and this control plane is revision " + own}
	}
	return Decision{true, BySelectedRevision, message}
}
