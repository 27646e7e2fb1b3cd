package inject

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirmesh/weir/config"
)

// Ports of the proxy in a pod (docs/design/kubernetes.md).
const (
	portOutbound   = 15001
	portInbound    = 15006
	portStatus     = 15020
	portReady      = 15021
	portDNS        = 15053
	portPrometheus = 15090
	portAdmin      = 15000
)

// Interception modes.
const (
	redirect = "REDIRECT"
	tproxy   = "TPROXY"
	none     = "NONE"
)

// proxyID is the user and the group of the proxy, whose traffic is not captured.
const proxyID int64 = 1337

func (w *work) chooseTemplate() {
	ts := w.options.templates
	w.gateway = slices.Contains(ts, "gateway")
	if w.gateway && slices.Contains(ts, "sidecar") {
		w.add(config.InjectionRefused, annotationPath(annotationTemplates), "a pod is a gateway or has a sidecar, not both", "keep one of the two")
	}
}

// chooseNative: what the annotation says, otherwise what the cluster can.
func (w *work) chooseNative() {
	w.native = w.s.NativeSidecars && !w.gateway
	switch asked := w.options.native; {
	case asked == nil || w.gateway:
	case *asked && !w.s.NativeSidecars:
		w.add(config.AnnotationNotEnforced, annotationPath("sidecar.istio.io/nativeSidecar"), "this cluster has no init containers that stay: the proxy is an ordinary container", "they come with Kubernetes 1.29")
	default:
		w.native = *asked
	}
}

func (w *work) interception() string {
	if w.gateway {
		return none
	}
	return w.proxy.InterceptionMode.String()
}

// holds reports whether the application waits for the proxy. With native sidecars it
// always does; otherwise unless somebody says no, since what it sends before is lost.
func (w *work) holds() bool {
	if h := w.proxy.HoldApplicationUntilProxyStarts; h != nil {
		return h.Value
	}
	if h := w.s.Values.Global.Proxy.HoldApplication; h != nil {
		return *h
	}
	return true
}

func (w *work) image(name string) string {
	g := &w.s.Values.Global
	switch {
	case w.options.image != "":
		return w.options.image
	case strings.ContainsAny(name, "/:"):
		return name
	}
	return g.Hub + "/" + name + ":" + g.Tag
}

// proxyContainer is the proxy as the installation wants it.
func (w *work) proxyContainer() *corev1.Container {
	g := &w.s.Values.Global
	role := "sidecar"
	if w.gateway {
		role = "router"
	}
	c := &corev1.Container{
		Name: ProxyContainer, Image: w.image(g.Proxy.Image), ImagePullPolicy: g.ImagePullPolicy, Args: []string{role},
		Ports:     []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: portPrometheus, Protocol: corev1.ProtocolTCP}},
		Env:       w.environment(),
		Resources: w.resources(), VolumeMounts: slices.Concat(mounts(), w.options.mounts),
		SecurityContext: w.securityContext(),
	}
	if level := first(w.options.logLevel, g.Proxy.LogLevel); level != "" {
		c.Args = append(c.Args, "--proxyLogLevel="+level)
	}
	if w.options.agentLogLevel != "" { // the more verbose of the two counts
		c.Args = append(c.Args, "--log_output_level="+w.options.agentLogLevel)
	}
	w.proxyProbes(c)
	switch {
	case w.native:
		c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		// It runs when the pod begins to end, before the application has; SIGTERM comes after it.
		c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{
			Command: []string{"/usr/local/bin/pilot-agent", "request", "--debug-port=" + strconv.Itoa(portStatus), "POST", "/drain"}}}}
	case g.Proxy.Lifecycle != nil:
		c.Lifecycle = g.Proxy.Lifecycle.DeepCopy()
	case !w.gateway && w.holds():
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/usr/local/bin/pilot-agent", "wait"}}}}
	}
	return c
}

// proxyProbes: with a native sidecar the next container starts when the startup probe
// succeeds, so that it is asked often.
func (w *work) proxyProbes(c *corev1.Container) {
	if w.proxy.StatusPort == 0 && !w.native {
		return
	}
	p := &w.s.Values.Global.Proxy
	ready := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz/ready", Port: intstr.FromInt32(portReady)}}
	if p.StartupProbe.Enabled == nil || *p.StartupProbe.Enabled || w.native {
		c.StartupProbe = &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 1, TimeoutSeconds: 3, FailureThreshold: p.StartupProbe.FailureThreshold}
	}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: ready, TimeoutSeconds: 3,
		InitialDelaySeconds: or(w.options.initialDelay, p.ReadinessInitialDelaySeconds),
		PeriodSeconds:       or(w.options.period, p.ReadinessPeriodSeconds),
		FailureThreshold:    or(w.options.failures, p.ReadinessFailureThreshold)}
}

// environment is the table of docs/design/kubernetes.md.
func (w *work) environment() []corev1.EnvVar {
	var env []corev1.EnvVar
	set := func(name, value string) {
		if value != "" {
			env = append(env, corev1.EnvVar{Name: name, Value: value})
		}
	}
	field := func(name, path string) {
		env = append(env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}})
	}
	g := &w.s.Values.Global
	set("PILOT_CERT_PROVIDER", "istiod")
	ca := g.CAAddress
	if ca == "" {
		ca = w.proxy.DiscoveryAddress
	}
	set("CA_ADDR", ca)
	field("POD_NAME", "metadata.name")
	field("POD_NAMESPACE", "metadata.namespace")
	field("INSTANCE_IP", "status.podIP")
	field("SERVICE_ACCOUNT", "spec.serviceAccountName")
	field("HOST_IP", "status.hostIP")
	set("TRUST_DOMAIN", w.s.mesh.trustDomain)
	set("PROXY_CONFIG", w.proxy.json)
	field("ISTIO_META_NODE_NAME", "spec.nodeName")
	set("ISTIO_META_CLUSTER_ID", first(w.in.Cluster, g.MultiCluster.ClusterName, "Kubernetes"))
	set("ISTIO_META_NETWORK", first(w.in.Network, w.pod.Labels[labelNetwork], g.Network))
	set("ISTIO_META_MESH_ID", first(w.proxy.MeshId, g.MeshID, w.s.mesh.trustDomain))
	set("ISTIO_META_INTERCEPTION_MODE", w.interception())
	o := w.owner()
	set("ISTIO_META_WORKLOAD_NAME", o.Name)
	set("ISTIO_META_OWNER", o.url(w.in.Namespace.Name))
	var names []string
	ports := []corev1.ContainerPort{}
	for _, c := range w.pod.Spec.Containers {
		if c.Name != ProxyContainer {
			names = append(names, c.Name)
			ports = append(ports, c.Ports...)
		}
	}
	set("ISTIO_META_APP_CONTAINERS", strings.Join(names, ","))
	list, err := json.Marshal(ports)
	if err != nil {
		panic(err) // ports always marshal
	}
	set("ISTIO_META_POD_PORTS", string(list))
	if w.native {
		set("WEIR_NATIVE_SIDECAR", "true")
	}
	if !w.gateway && w.proxy.ProxyMetadata[dnsCapture] == "" {
		set(dnsCapture, "true")
	}
	for _, k := range slices.Sorted(maps.Keys(w.proxy.ProxyMetadata)) {
		i := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == k })
		if e := (corev1.EnvVar{Name: k, Value: w.proxy.ProxyMetadata[k]}); i >= 0 {
			env[i] = e
		} else {
			env = append(env, e)
		}
	}
	return env
}

const (
	dnsCapture   = "ISTIO_META_DNS_CAPTURE"
	labelNetwork = "topology.istio.io/network"
)

func (w *work) capturesDNS() bool {
	v := w.proxy.ProxyMetadata[dnsCapture]
	return v == "" || spoken(v) == yes || v == "1"
}

// resources: an annotation about any of them is about all of them, as Istio has it.
func (w *work) resources() corev1.ResourceRequirements {
	o := &w.options
	if o.cpu == nil && o.cpuLimit == nil && o.memory == nil && o.memoryLimit == nil {
		if r := w.s.Values.Global.Proxy.Resources; r.Requests != nil || r.Limits != nil {
			return *r.DeepCopy()
		}
		return corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		}
	}
	list := func(cpu, memory *resource.Quantity) corev1.ResourceList {
		var out corev1.ResourceList
		for name, q := range map[corev1.ResourceName]*resource.Quantity{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if q != nil {
				if out == nil {
					out = corev1.ResourceList{}
				}
				out[name] = q.DeepCopy()
			}
		}
		return out
	}
	return corev1.ResourceRequirements{Requests: list(o.cpu, o.memory), Limits: list(o.cpuLimit, o.memoryLimit)}
}

// unprivileged is what the level "restricted" of pod security asks for.
func (w *work) unprivileged() *corev1.SecurityContext {
	s := &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false), Privileged: new(false), ReadOnlyRootFilesystem: new(true),
		RunAsNonRoot: new(true), RunAsUser: new(proxyID), RunAsGroup: new(proxyID),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: w.s.Values.Global.Proxy.SeccompProfile.DeepCopy(),
	}
	if s.SeccompProfile == nil {
		s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	return s
}

// securityContext of the proxy is that, except in TPROXY mode: transparent sockets need
// NET_ADMIN, which only root gets from it; then the group exempts the proxy from capture.
func (w *work) securityContext() *corev1.SecurityContext {
	s := w.unprivileged()
	if w.interception() == tproxy {
		s.RunAsNonRoot, s.RunAsUser = new(false), new(int64(0))
		s.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	}
	return s
}

// cni reports whether the node makes the pod's rules, by its CNI plugin.
func (w *work) cni() bool { return w.s.Values.Pilot.CNI.Enabled }

// captureContainer is the name of the init container that captures the pod's traffic, or
// has it captured.
func (w *work) captureContainer() string {
	if w.cni() {
		return ValidationContainer
	}
	return InitContainer
}

// initContainer captures the pod's traffic, or proves that the node has; nil if none is
// captured.
func (w *work) initContainer() *corev1.Container {
	if w.interception() == none {
		return nil
	}
	g, o := &w.s.Values.Global, &w.options
	inbound := []string{strconv.Itoa(portPrometheus), strconv.Itoa(portReady), strconv.Itoa(portStatus)}
	if p := w.proxy.StatusPort; p != 0 && p != portStatus {
		inbound = append(inbound, strconv.Itoa(int(p)))
	}
	uid := strconv.FormatInt(proxyID, 10)
	args := []string{
		"--envoy-port", strconv.Itoa(portOutbound), "--inbound-capture-port", strconv.Itoa(portInbound),
		"--proxy-uid", uid, "--proxy-gid", uid,
		"--istio-inbound-interception-mode", w.interception(),
		"--istio-service-cidr", or(o.includeRanges, or(g.Proxy.IncludeIPRanges, "*")),
		"--istio-inbound-ports", or(o.includePorts, or(g.Proxy.IncludeInboundPorts, "*")),
		"--istio-local-exclude-ports", join(append(inbound, g.Proxy.ExcludeInboundPorts, o.excludePorts)...),
	}
	for _, f := range []struct{ name, value string }{
		{"--istio-service-exclude-cidr", join(g.Proxy.ExcludeIPRanges, o.excludeRanges)},
		{"--istio-outbound-ports", first(o.includeOutbound, g.Proxy.IncludeOutboundPorts)},
		{"--istio-local-outbound-ports-exclude", join(g.Proxy.ExcludeOutboundPorts, o.excludeOutbound)},
		{"--istio-exclude-interfaces", o.excludeIfs},
		{"--kube-virt-interfaces", o.virtuals},
	} {
		if f.value != "" {
			args = append(args, f.name, f.value)
		}
	}
	if w.capturesDNS() {
		args = append(args, "--redirect-dns")
	}
	image := g.ProxyInit.Image
	if image == "" {
		image = g.Proxy.Image
	}
	image = w.image(image)
	name, _, _ := strings.Cut(path.Base(image), ":")
	if name != "weir-proxy-init" && name != "proxy_init" { // which begin with it
		args = append([]string{"init"}, args...)
	}
	resources := *g.ProxyInit.Resources.DeepCopy()
	if resources.Requests == nil && resources.Limits == nil {
		resources = w.resources()
	}
	c := &corev1.Container{Name: w.captureContainer(), Image: image, ImagePullPolicy: g.ImagePullPolicy, Args: args, Resources: resources}
	if w.cni() {
		c.Args = append(c.Args, "--run-validation", "--skip-rule-apply")
		c.SecurityContext = w.unprivileged()
	} else {
		c.SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), Privileged: new(false), ReadOnlyRootFilesystem: new(true),
			RunAsNonRoot: new(false), RunAsUser: new(int64(0)), RunAsGroup: new(int64(0)),
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}},
		}
	}
	return c
}

// or is what p points to, or otherwise.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// first is the first word that is not empty.
func first(words ...string) string {
	for _, s := range words {
		if s != "" {
			return s
		}
	}
	return ""
}

// join joins lists of what is separated by commas.
func join(lists ...string) string {
	return strings.Join(slices.DeleteFunc(lists, func(s string) bool { return s == "" }), ",")
}
