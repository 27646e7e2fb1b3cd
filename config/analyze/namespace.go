package analyze

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// Labels that say which namespaces and pods get proxies.
const (
	labelInjection = config.InjectionLabel
	labelRevision  = config.RevisionLabel
	labelInject    = config.InjectLabel
)

// mostBare is how many workloads of a namespace without a proxy are named.
const mostBare = 20

// injection finds labels of a namespace that contradict each other, or that ask for nobody, and what runs there without a proxy although it should have
// one, or although nobody has decided. What runs is known in a mesh only; the laptop mesh gives all of its workloads a proxy.
func (a *analysis) injection(x subject) bool {
	n := named[*corev1.Namespace](a, "Namespace", "", x.name)
	if n == nil {
		return false
	}
	ref := mesh.Ref{Kind: "Namespace", Name: x.name}
	astray, names := "", []string(nil)
	if o := a.object(config.IDOf(ref).String()); o != nil {
		ref, astray, names = o.Ref, o.Astray(), o.Names()
	}
	says, labelled := n.Labels[labelInjection]
	revision := n.Labels[labelRevision]
	if labelled && revision != "" {
		a.add(config.MultipleInjection, ref, "metadata.labels", fmt.Sprintf("it has the label %s=%s and the label %s=%s: the first one counts", labelInjection, says, labelRevision, revision),
			"keep one: kubectl label namespace "+x.name+" "+labelInjection+"-, or "+labelRevision+"-")
	}
	if x.name == a.Snapshot.Settings.RootNamespace || strings.HasPrefix(x.name, "kube-") {
		return true
	}
	injected := says == "enabled" || !labelled && revision != ""
	own := map[string][]*mesh.Workload{} // by the label with which they ask themselves
	var bare []*mesh.Workload
	proxied := false
	for _, in := range a.selected(x.name, nil) {
		if in.id.from != running || in.entry {
			continue
		}
		switch {
		case in.proxied:
			proxied = true
		case !in.settled:
			w := a.Snapshot.Workloads.At(mesh.Key(in.id.key))
			if w == nil {
				continue
			}
			if _, label := config.AskedByPod(w.Labels); label != "" && !injected && astray == "" {
				own[label] = append(own[label], w)
			} else {
				bare = append(bare, w)
			}
		}
	}
	for _, label := range slices.Sorted(maps.Keys(own)) {
		a.asksItself(label, own[label], names, labelled, x.name)
	}
	switch {
	case astray != "":
		label := labelRevision + "=" + revision
		if labelled {
			label = labelInjection + "=" + says
		}
		message := fmt.Sprintf("its label %s asks for %q, and no revision or tag has that name: pods that start in it get no proxy", label, astray)
		if len(bare) > 0 {
			message += fmt.Sprintf(" (%d run without one now: UNPROTECTED)", len(bare))
		}
		a.add(config.AsksForNobody, ref, "metadata.labels", message,
			"kubectl label namespace "+x.name+" --overwrite "+labelRevision+"=NAME "+labelInjection+"-, with a name that `weir tag list` shows, or weir tag set "+astray+" --revision REVISION; then restart the pods")
	case injected:
		a.bare(bare)
	case !labelled && !proxied && len(bare) > 0:
		a.add(config.NotInjected, ref, "", fmt.Sprintf("nothing that runs in it (pods: %d) has a proxy, and no label says that it is meant to be so", len(bare)),
			"kubectl label namespace "+x.name+" "+labelInjection+"=enabled, or =disabled, and restart the pods")
	}
	return true
}

// asksItself reports pods without a proxy that ask for one by a label of their own. It counts where the namespace has none: decided says that it has.
func (a *analysis) asksItself(label string, all []*mesh.Workload, names []string, decided bool, namespace string) {
	name, _ := config.AskedByPod(all[0].Labels)
	code, why, hint := config.PodMissingProxy, "began before there was an injector of that name, or while none was asked", "restart it: kubectl rollout restart -n "+namespace+" deployment"
	switch {
	case decided:
		code, why = config.NotInjectable, "the label "+labelInjection+" of the namespace counts more, and does not say enabled"
		hint = "kubectl label namespace " + namespace + " " + labelInjection + "-, and restart the pods; or take their label away"
	case names != nil && !slices.Contains(names, name):
		code, why = config.AsksForNobody, fmt.Sprintf("no revision or tag is called %q: UNPROTECTED", name)
		hint = "set the label to a name that `weir tag list` shows, or weir tag set " + name + " --revision REVISION; then restart the pods"
	}
	a.eachOwner(all, func(ref mesh.Ref, n int, others string) {
		path := "spec.template.metadata.labels"
		if ref.Kind == "Pod" {
			path = "metadata.labels"
		}
		message := "a pod of it asks for a proxy with the label " + label + ", and runs without one: "
		if n > 1 {
			message = fmt.Sprintf("%d pods of it ask for a proxy with the label %s, and run without one: ", n, label)
		}
		a.add(code, ref, path, message+why+others, hint)
	})
}

// bare reports pods without a proxy.
func (a *analysis) bare(all []*mesh.Workload) {
	a.eachOwner(all, func(ref mesh.Ref, n int, others string) {
		message := "a pod of it runs without a proxy, in a namespace whose pods get one: it began before the label, or while no injector was asked"
		if n > 1 {
			message = fmt.Sprintf("%d pods of it run without a proxy, in a namespace whose pods get one: they began before the label, or while no injector was asked", n)
		}
		a.add(config.PodMissingProxy, ref, "", message+others, "restart it: kubectl rollout restart -n "+ref.Namespace+" deployment; if it is meant to be so, label its pods "+labelInject+"=false")
	})
}

// eachOwner reports pods, those of an owner together, and says in others how many owners it left out.
func (a *analysis) eachOwner(all []*mesh.Workload, report func(ref mesh.Ref, n int, others string)) {
	count := map[mesh.Ref]int{}
	var refs []mesh.Ref
	for _, w := range all {
		ref := mesh.Ref{Kind: cmp.Or(w.OwnerKind, "Pod"), Namespace: w.Namespace, Name: cmp.Or(w.Owner, w.Name)}
		if count[ref]++; count[ref] == 1 {
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, func(x, y mesh.Ref) int { return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name)) })
	for i, ref := range refs[:min(len(refs), mostBare)] {
		others := ""
		if i == mostBare-1 && len(refs) > mostBare {
			others = fmt.Sprintf("; the same is true of %d others in the namespace", len(refs)-mostBare)
		}
		report(ref, count[ref], others)
	}
}
