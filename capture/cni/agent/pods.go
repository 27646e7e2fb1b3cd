package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/capture/cni"
	"github.com/weirmesh/weir/internal/kubewatch"
)

// Mode is what is done about a pod without the rules it asked for.
type Mode string

// Modes. All label a pod that stays without rules, and the control plane says so.
const (
	Repair Mode = "repair" // make the rules, in the pod's network namespace
	Delete Mode = "delete" // let its controller make another
	Label  Mode = "label"  // leave it to others
)

// Unprotected is the label of a pod without the rules it asked for, Istio's.
const Unprotected = "cni.istio.io/uninitialized"

// RanUnprotected is an annotation of a pod: when it was found to run without rules that it had before. It stays for lostKept after they were
// made again, because what happened meanwhile nobody else saw.
const RanUnprotected = "weir.dev/ran-unprotected"

const lostKept = time.Hour

// need is how much a pod needs rules.
type need uint8

const (
	nothing need = iota
	waiting      // its init container has not proved them yet: nothing of it runs
	failed       // and could not
	runs         // it has, once
)

// needs says it of a pod.
func needs(p *corev1.Pod, exclude []string) need {
	if slices.Contains(exclude, p.Namespace) || cni.Validation(p) == nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nothing
	}
	for _, s := range p.Status.InitContainerStatuses {
		if s.Name != cni.ValidationContainer {
			continue
		}
		switch t, last := s.State.Terminated, s.LastTerminationState.Terminated; {
		case t != nil && t.ExitCode == 0:
			return runs
		case t != nil || last != nil && last.ExitCode != 0:
			return failed
		}
	}
	return waiting
}

// trim takes away what needs does not look at.
func trim(p *corev1.Pod) {
	var init []corev1.Container
	if c := cni.Validation(p); c != nil {
		init = []corev1.Container{{Name: c.Name, Args: c.Args, Env: c.Env}}
	}
	p.Spec = corev1.PodSpec{HostNetwork: p.Spec.HostNetwork, InitContainers: init}
	p.Status = corev1.PodStatus{Phase: p.Status.Phase, InitContainerStatuses: p.Status.InitContainerStatuses}
	if at, ok := p.Annotations[RanUnprotected]; ok {
		p.Annotations = map[string]string{RanUnprotected: at}
	} else {
		p.Annotations = nil
	}
	p.ManagedFields = nil
}

// pods looks after those of the node.
type pods struct {
	o       *Options
	metrics *metrics

	mu    sync.Mutex // held while pods are looked at
	known map[types.NamespacedName]*corev1.Pod
	bad   map[types.UID]bool // known to be without rules
	seen  map[types.UID]int  // the first process of each, by which a new sandbox is known
}

func newPods(o *Options, m *metrics) *pods {
	return &pods{o: o, metrics: m, known: map[types.NamespacedName]*corev1.Pod{}, bad: map[types.UID]bool{}, seen: map[types.UID]int{}}
}

// A pod whose init container waits is looked at each second, because its first process may
// come after the news of it; one that runs each half minute, because somebody may have
// taken its rules away.
const (
	soon  = time.Second
	later = 30 * time.Second
)

// change is a pod that came or changed, or is gone (nil).
type change struct {
	name types.NamespacedName
	pod  *corev1.Pod
}

// run looks after pods until ctx ends. It calls swept when those that were there were
// looked at.
func (p *pods) run(ctx context.Context, server *kubewatch.Server, swept func(context.Context)) error {
	server.Plain = p.o.Plain
	b := kubewatch.NewBatch[types.NamespacedName, change]()
	b.Await("Pod")
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		kubewatch.Watch(ctx, server, p.o.Client.CoreV1().Pods(""), kubewatch.Mirror[*corev1.Pod]{
			Kind: "Pod", Fields: "spec.nodeName=" + p.o.Node, Trim: trim,
			Put:    func(pod *corev1.Pod) { b.Put(nameOf(pod), change{nameOf(pod), pod}) },
			Drop:   func(n types.NamespacedName) { b.Put(n, change{name: n}) },
			Synced: func() { b.Here("Pod") },
		})
	})
	running.Go(func() {
		often, rarely := time.NewTicker(soon), time.NewTicker(later)
		defer often.Stop()
		defer rarely.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-often.C:
				p.look(ctx, waiting)
			case <-rarely.C:
				p.look(ctx, runs)
			}
		}
	})
	first := true
	return b.Run(ctx, func(changes []change) {
		p.learn(changes)
		p.look(ctx, waiting)
		if first {
			p.look(ctx, runs)
			first = false
			swept(ctx)
		}
	})
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func (p *pods) learn(changes []change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range changes {
		if was := p.known[c.name]; was != nil && (c.pod == nil || c.pod.UID != was.UID) {
			delete(p.bad, was.UID)
			delete(p.seen, was.UID)
		}
		if c.pod == nil || needs(c.pod, p.o.Exclude) == nothing {
			delete(p.known, c.name)
			continue
		}
		p.known[c.name] = c.pod
	}
	p.metrics.unprotected.Set(float64(len(p.bad)))
}

// look makes sure that pods have the rules they need: those that run, or the others.
func (p *pods) look(ctx context.Context, what need) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var spaces map[types.UID]process
	for _, pod := range p.known {
		n := needs(pod, p.o.Exclude)
		if ctx.Err() != nil {
			return
		}
		// One that runs and was never looked at is looked at now: whoever takes its rules away later did so while it ran.
		if (n == runs) != (what == runs) && (n != runs || p.seen[pod.UID] != 0) {
			continue
		}
		if spaces == nil { // all at once: it reads a file of every process
			var err error
			if spaces, err = processes(p.o.Proc); err != nil {
				p.o.Log.Error("the pods' network namespaces cannot be found", "err", err)
				return
			}
		}
		if s, ok := spaces[pod.UID]; ok {
			p.one(ctx, pod, n, s)
		}
	}
	p.metrics.unprotected.Set(float64(len(p.bad)))
}

// one does what the mode says about a pod, if it has no rules.
func (p *pods) one(ctx context.Context, pod *corev1.Pod, n need, s process) {
	log := p.o.Log.With("pod", pod.Namespace+"/"+pod.Name)
	k := p.o.Kernel
	k.In = func(path string, f func() error) error {
		return p.o.Kernel.In(path, func() error {
			if err := s.still(pod.UID); err != nil {
				return err
			}
			return f()
		})
	}
	if n == runs && p.seen[pod.UID] != s.pid {
		n = waiting // kubelet's word may be about the sandbox before, as when the node was restarted
	}
	p.seen[pod.UID] = s.pid
	there, err := k.Protected(s.namespace())
	if err == nil && there {
		p.good(ctx, pod)
		return
	}
	if err == nil && n == runs {
		if !p.bad[pod.UID] { // once, not each time it is looked at
			p.event(ctx, pod, "TrafficNotCaptured", "the rules that capture this pod's traffic are gone: it ran unprotected")
			p.annotate(ctx, pod, time.Now().UTC().Format(time.RFC3339))
		}
		log.Error("a running pod had no capture rules: what it sent and received went past the mesh")
	}
	if err == nil {
		err = p.mend(ctx, k, pod, n, s)
	}
	if err != nil {
		p.metrics.repairs.WithLabelValues(string(p.o.Repair), "failure").Inc()
		if !p.bad[pod.UID] {
			log.Error("a pod is without capture rules", "err", err)
		}
		p.label(ctx, pod, err)
	}
}

// mend is what the mode says.
func (p *pods) mend(ctx context.Context, k cni.Kernel, pod *corev1.Pod, n need, s process) error {
	switch {
	case p.o.Repair == Repair:
		if _, err := k.Protect(s.namespace(), pod); err != nil {
			return err
		}
		p.good(ctx, pod)
	case n == waiting: // the plugin may be about to
		return nil
	case p.o.Repair == Delete:
		if err := p.o.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}}); err != nil {
			return err
		}
	default:
		p.label(ctx, pod, fmt.Errorf("its capture rules are not made: the mode of repair is %s", p.o.Repair))
		return nil
	}
	p.metrics.repairs.WithLabelValues(string(p.o.Repair), "success").Inc()
	p.o.Log.Info("a pod that began without capture rules was repaired", "pod", pod.Namespace+"/"+pod.Name, "how", p.o.Repair)
	return nil
}

// good takes back what was said of a pod.
func (p *pods) good(ctx context.Context, pod *corev1.Pod) {
	_, labelled := pod.Labels[Unprotected]
	if labelled || p.bad[pod.UID] {
		p.patch(ctx, pod, map[string]any{"labels": map[string]any{Unprotected: nil}})
	}
	delete(p.bad, pod.UID)
	if at, ok := pod.Annotations[RanUnprotected]; ok {
		if when, err := time.Parse(time.RFC3339, at); err != nil || time.Since(when) > lostKept {
			p.annotate(ctx, pod, nil)
		}
	}
}

// label says that a pod is without rules, for the control plane and people.
func (p *pods) label(ctx context.Context, pod *corev1.Pod, why error) {
	if p.bad[pod.UID] {
		return
	}
	p.bad[pod.UID] = true
	p.patch(ctx, pod, map[string]any{"labels": map[string]any{Unprotected: "true"}})
	p.event(ctx, pod, "TrafficNotCaptured", "the traffic of this pod is not captured: "+why.Error())
}

// annotate says when a pod ran without rules.
func (p *pods) annotate(ctx context.Context, pod *corev1.Pod, at any) {
	p.patch(ctx, pod, map[string]any{"annotations": map[string]any{RanUnprotected: at}})
}

// patch changes what is said of a pod through its status: who may do that may not change what it runs.
func (p *pods) patch(ctx context.Context, pod *corev1.Pod, meta map[string]any) {
	meta["uid"] = pod.UID
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err == nil {
		_, err = p.o.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, data, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		p.o.Log.Warn("what is said of a pod cannot be changed", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

func (p *pods) event(ctx context.Context, pod *corev1.Pod, reason, message string) {
	now := metav1.Now()
	_, err := p.o.Client.CoreV1().Events(pod.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: pod.Name + ".", Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Reason:         reason, Message: message, Type: corev1.EventTypeWarning, Source: corev1.EventSource{Component: cni.Type, Host: p.o.Node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		p.o.Log.Warn("an event cannot be told", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}
