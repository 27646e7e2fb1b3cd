// Package inject gives a pod its proxy: the init container that captures traffic, the
// sidecar (or the gateway's proxy), their volumes, and the probes led through them.
//
// A pod, its namespace and Settings enter Inject; a Decision, the changed pod, the JSON
// patch that leads to it and findings leave. Everything in this package is a pure
// function: it asks nobody, and any number of goroutines may call it. inject/webhook
// serves it to an API server, inject/manifest applies it to files.
//
// What it makes is the contract of docs/design/kubernetes.md, "The injected pod".
package inject

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Names of what is added to pods.
const (
	ProxyContainer = "istio-proxy"
	InitContainer  = "istio-init"
	// ValidationContainer takes the place of InitContainer where the node's CNI plugin makes
	// the rules: its arguments say which, and it proves that they are in force.
	ValidationContainer = "istio-validation"
)

// ours reports whether a container of that name is the injector's.
func ours(name string) bool {
	return name == ProxyContainer || name == InitContainer || name == ValidationContainer
}

// Input is a pod to decide about.
type Input struct {
	Pod *corev1.Pod // not modified
	// Namespace is where the pod will be; the pod may not name it yet.
	Namespace Namespace
	// Owner is what makes the pod, unless its owner references say so.
	Owner *Owner
	// Object and Path say where the pod stands, for findings: a Deployment and
	// "spec.template". The zero values mean the pod itself.
	Object mesh.Ref
	Path   string
	// Network and Cluster, if not empty, win over the Settings'.
	Network, Cluster string
}

// Namespace is what matters of a namespace. Without Labels nothing is known of it.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Result is what became of an Input.
type Result struct {
	Decision Decision
	// Pod is the pod with its proxy; nil if it gets none.
	Pod *corev1.Pod
	// Patch leads from the Input's pod to Pod; empty if there is nothing to change.
	Patch []Op
	// Findings about the pod. With an error among them a pod that should get a proxy
	// gets none and must be refused: without it, it would run unprotected.
	Findings []config.Finding
}

// Refused reports whether the pod must not run as it is.
func (r *Result) Refused() bool { return r.Decision.Inject && r.Pod == nil }

// Inject decides about a pod and gives it its proxy.
func Inject(in Input, s *Settings) *Result {
	w := &work{in: in, s: s, pod: in.Pod.DeepCopy()}
	w.object = in.Object
	if w.object.Kind == "" {
		w.object = mesh.Ref{Kind: "Pod", Namespace: in.Namespace.Name, Name: cmp.Or(in.Pod.Name, strings.TrimSuffix(in.Pod.GenerateName, "-"))}
	}
	r := &Result{Decision: w.decide()}
	if r.Decision.Inject {
		w.inject()
		if config.Errors(w.findings) == 0 {
			r.Pod = w.pod
			r.Patch = diff(in.Pod, w.pod)
		}
	}
	r.Findings = config.Tidy(w.findings)
	return r
}

// work is the injection of one pod.
type work struct {
	in       Input
	s        *Settings
	pod      *corev1.Pod
	object   mesh.Ref
	findings []config.Finding

	gateway bool
	native  bool
	options options
	proxy   *proxyConfig
	added   status
}

// add reports a finding about a field of the pod.
func (w *work) add(code config.Code, path, message, hint string) {
	if w.in.Path != "" && path != "" {
		path = w.in.Path + "." + path
	}
	w.findings = append(w.findings, config.New(code, w.object, path, 0, message, hint))
}

func annotationPath(name string) string { return document.Key("metadata.annotations", name) }

// inject lists what is done, in order.
func (w *work) inject() {
	w.undo()             // an earlier injection, so that two come to the same as one
	w.readAnnotations()  // → options
	w.readProxyConfig()  // mesh default ∪ annotation → proxy
	w.chooseTemplate()   // sidecar or gateway
	w.chooseNative()     // init container that stays, or container
	w.checkApplication() // what will not work as its author thinks
	if config.Errors(w.findings) > 0 {
		return
	}
	if w.handWritten() {
		w.complete()
		return
	}
	own := w.takeOverrides()
	proxy := w.proxyContainer()
	if !w.gateway {
		w.rewriteProbes(proxy)
	}
	w.mergeMetrics(proxy)
	w.volumes()
	w.place(w.merged(proxy, own.proxy), own)
	w.labels()
	w.writeStatus(own)
}

// status is the value of the annotation sidecar.istio.io/status: what was added.
type status struct {
	InitContainers   []string `json:"initContainers"`
	Containers       []string `json:"containers"`
	Volumes          []string `json:"volumes"`
	ImagePullSecrets []string `json:"imagePullSecrets"`
	Revision         string   `json:"revision"`
	// Metrics: the annotations prometheus.io/* lead to the proxy. This one is ours alone.
	Metrics bool `json:"metrics,omitempty"`
}

func (s status) String() string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(data)
}

// find returns the container of a name, or nil.
func find(cs []corev1.Container, name string) *corev1.Container {
	if i := slices.IndexFunc(cs, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
		return &cs[i]
	}
	return nil
}

func without(cs []corev1.Container, names ...string) []corev1.Container {
	return slices.DeleteFunc(cs, func(c corev1.Container) bool { return slices.Contains(names, c.Name) })
}
