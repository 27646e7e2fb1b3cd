package inject

import (
	"encoding/json"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// Variables that keep what was there before.
const (
	envProbers    = "ISTIO_KUBE_APP_PROBERS"
	envPrometheus = "ISTIO_PROMETHEUS_ANNOTATIONS"
)

// prober is a probe as the proxy does it for kubelet.
type prober struct {
	HTTPGet        *corev1.HTTPGetAction   `json:"httpGet,omitempty"`
	TCPSocket      *corev1.TCPSocketAction `json:"tcpSocket,omitempty"`
	GRPC           *corev1.GRPCAction      `json:"grpc,omitempty"`
	TimeoutSeconds int32                   `json:"timeoutSeconds,omitempty"`
}

// rewriteProbes leads kubelet's questions through the proxy: kubelet has no certificate,
// and capture would send a connection to a dead port to the proxy, which accepts.
func (w *work) rewriteProbes(proxy *corev1.Container) {
	rewrite := w.s.Values.SidecarInjectorWebhook.RewriteAppHTTPProbe
	if w.options.rewriteProbes != nil {
		rewrite = w.options.rewriteProbes
	}
	if rewrite != nil && !*rewrite || w.proxy.StatusPort == 0 {
		return
	}
	probers := map[string]prober{}
	for i := range w.pod.Spec.InitContainers {
		c, at := &w.pod.Spec.InitContainers[i], document.Index("spec.initContainers", i)
		if w.native {
			w.rewrite(at, c, probers)
			continue
		}
		// They run before an ordinary proxy, and the pod would wait for them for ever.
		for _, p := range probesOf(c) {
			if *p.probe != nil && (*p.probe).Exec == nil {
				w.add(config.ProbeNotRewritten, at+"."+p.field, "init container "+c.Name+" runs before the proxy, which cannot ask for kubelet", "use an exec probe, or a cluster with native sidecars")
			}
		}
	}
	for i := range w.pod.Spec.Containers {
		w.rewrite(document.Index("spec.containers", i), &w.pod.Spec.Containers[i], probers)
	}
	if len(probers) == 0 {
		return
	}
	data, err := json.Marshal(probers)
	if err != nil {
		panic(err) // probes always marshal
	}
	proxy.Env = append(proxy.Env, corev1.EnvVar{Name: envProbers, Value: string(data)})
}

type probeField struct {
	field, path string
	probe       **corev1.Probe
}

func probesOf(c *corev1.Container) []probeField {
	return []probeField{{"livenessProbe", "livez", &c.LivenessProbe}, {"readinessProbe", "readyz", &c.ReadinessProbe}, {"startupProbe", "startupz", &c.StartupProbe}}
}

func healthPath(container, probe string) string   { return "/app-health/" + container + "/" + probe }
func lifecyclePath(container, hook string) string { return "/app-lifecycle/" + container + "/" + hook }

// hooks are the lifecycle hooks of a container that the proxy calls for kubelet. One
// that runs after the start needs a proxy that runs before.
func (w *work) hooks(c *corev1.Container) map[string]*corev1.LifecycleHandler {
	out := map[string]*corev1.LifecycleHandler{}
	if c.Lifecycle != nil {
		out["prestopz"] = c.Lifecycle.PreStop
		if w.native || w.holds() {
			out["poststartz"] = c.Lifecycle.PostStart
		}
	}
	return out
}

func (w *work) rewrite(at string, c *corev1.Container, probers map[string]prober) {
	for _, p := range probesOf(c) {
		probe := *p.probe
		if probe == nil {
			continue
		}
		if ask, ok := w.prober(at+"."+p.field, c, &probe.ProbeHandler); ok {
			ask.TimeoutSeconds = probe.TimeoutSeconds
			path := healthPath(c.Name, p.path)
			probers[path] = ask
			probe.ProbeHandler = w.askProxy(path)
		}
	}
	for name, h := range w.hooks(c) {
		if h == nil || h.HTTPGet == nil {
			continue
		}
		if ask, ok := w.prober(at+".lifecycle", c, &corev1.ProbeHandler{HTTPGet: h.HTTPGet}); ok {
			path := lifecyclePath(c.Name, name)
			probers[path] = ask
			h.HTTPGet = w.askProxy(path).HTTPGet
		}
	}
}

func (w *work) askProxy(path string) corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(w.proxy.StatusPort)}}
}

// prober takes over a handler, with its port as a number; ok is false if the proxy has no
// part in it.
func (w *work) prober(at string, c *corev1.Container, h *corev1.ProbeHandler) (p prober, ok bool) {
	switch {
	case h.HTTPGet != nil && h.HTTPGet.Host == "": // one with a host is not about this pod
		p.HTTPGet = h.HTTPGet.DeepCopy()
		return p, w.resolve(at+".httpGet.port", c, &p.HTTPGet.Port)
	case h.TCPSocket != nil && h.TCPSocket.Host == "":
		p.TCPSocket = h.TCPSocket.DeepCopy()
		return p, w.resolve(at+".tcpSocket.port", c, &p.TCPSocket.Port)
	case h.GRPC != nil:
		p.GRPC = h.GRPC.DeepCopy()
		return p, true
	}
	return prober{}, false
}

func (w *work) resolve(at string, c *corev1.Container, port *intstr.IntOrString) bool {
	if port.Type == intstr.Int {
		return true
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			*port = intstr.FromInt32(p.ContainerPort)
			return true
		}
	}
	w.add(config.ProbeNotRewritten, at, "container "+c.Name+" has no port named "+strconv.Quote(port.StrVal), "name the port under ports, or write its number")
	return false
}

// mergeMetrics lets the proxy serve the application's metrics with its own.
func (w *work) mergeMetrics(proxy *corev1.Container) {
	merge := w.s.mesh.prometheusMerge
	if w.options.mergeMetrics != nil {
		merge = *w.options.mergeMetrics
	}
	a := w.pod.Annotations
	if _, ok := a[annotationScrape]; ok && spoken(a[annotationScrape]) != yes || !merge || w.proxy.StatusPort == 0 {
		return
	}
	own := strconv.Itoa(int(w.proxy.StatusPort))
	before := scrape{a[annotationScrape], a[annotationScrapePath], a[annotationScrapePort]}
	if before.Port == own {
		return // somebody who knows the proxy
	}
	if before != (scrape{}) {
		data, err := json.Marshal(before)
		if err != nil {
			panic(err) // strings always marshal
		}
		proxy.Env = append(proxy.Env, corev1.EnvVar{Name: envPrometheus, Value: string(data)})
	}
	if a == nil {
		w.pod.Annotations = map[string]string{}
	}
	w.added.Metrics = true
	maps.Copy(w.pod.Annotations, map[string]string{annotationScrape: "true", annotationScrapePort: own, annotationScrapePath: mergedPath})
}

const mergedPath = "/stats/prometheus"

type scrape struct {
	Scrape string `json:"scrape"`
	Path   string `json:"path"`
	Port   string `json:"port"`
}

// restore gives probes and annotations back what the variables of an old proxy kept.
func (w *work) restore(proxy *corev1.Container, metrics bool) {
	var probers map[string]prober
	var before scrape
	for _, e := range proxy.Env {
		var err error
		switch e.Name {
		case envProbers:
			err = json.Unmarshal([]byte(e.Value), &probers)
		case envPrometheus:
			err = json.Unmarshal([]byte(e.Value), &before)
		}
		if err != nil {
			w.add(config.InjectionRefused, "", "variable "+e.Name+" of container "+proxy.Name+" was not written by the injector: "+err.Error(), "remove container "+proxy.Name+" and annotation "+annotationStatus)
		}
	}
	if a := w.pod.Annotations; metrics {
		for k, v := range map[string]string{annotationScrape: before.Scrape, annotationScrapePath: before.Path, annotationScrapePort: before.Port} {
			if v == "" {
				delete(a, k)
			} else {
				a[k] = v
			}
		}
	}
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			w.restoreContainer(&list[i], probers)
		}
	}
}

func (w *work) restoreContainer(c *corev1.Container, probers map[string]prober) {
	for _, p := range probesOf(c) {
		probe, path := *p.probe, healthPath(c.Name, p.path)
		if old, ok := probers[path]; ok && probe != nil && asksFor(probe.HTTPGet, path) {
			probe.ProbeHandler = corev1.ProbeHandler{HTTPGet: old.HTTPGet, TCPSocket: old.TCPSocket, GRPC: old.GRPC}
		}
	}
	if c.Lifecycle == nil {
		return
	}
	for name, h := range map[string]*corev1.LifecycleHandler{"prestopz": c.Lifecycle.PreStop, "poststartz": c.Lifecycle.PostStart} {
		path := lifecyclePath(c.Name, name)
		if old, ok := probers[path]; ok && h != nil && asksFor(h.HTTPGet, path) {
			h.HTTPGet = old.HTTPGet
		}
	}
}

func asksFor(h *corev1.HTTPGetAction, path string) bool { return h != nil && h.Path == path }
