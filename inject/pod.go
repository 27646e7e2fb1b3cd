package inject

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// Volumes of the proxy.
const (
	volumeToken   = "istio-token"
	volumeRoot    = "istiod-ca-cert"
	volumeState   = "istio-envoy"
	volumePodInfo = "istio-podinfo"
)

// tokenLifetime is Istio's; kubelet renews at 80 % of it.
const tokenLifetime int64 = 43200

func mounts() []corev1.VolumeMount {
	return []corev1.VolumeMount{
		{Name: volumeRoot, MountPath: "/var/run/secrets/istio", ReadOnly: true},
		{Name: volumeToken, MountPath: "/var/run/secrets/tokens", ReadOnly: true},
		{Name: volumeState, MountPath: "/etc/istio/proxy"},
		{Name: volumePodInfo, MountPath: "/etc/istio/pod", ReadOnly: true},
	}
}

// stateSize bounds the restored state: an index of 5,000 services and what is used of
// them is below 10 MB.
const stateSize = "64Mi"

func proxyVolumes() []corev1.Volume {
	item := func(name string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: name, FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata." + name}}
	}
	return []corev1.Volume{
		{Name: volumeState, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse(stateSize))}}},
		{Name: volumePodInfo, VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{item("labels"), item("annotations")}}}},
		{Name: volumeToken, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "istio-ca", ExpirationSeconds: new(tokenLifetime), Path: "istio-token"}}}}}},
		{Name: volumeRoot, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "istio-ca-root-cert"}}}},
	}
}

// volumes adds those that the pod does not have itself, and pull secrets.
func (w *work) volumes() {
	have := func(name string) bool {
		return slices.ContainsFunc(w.pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
	}
	for _, v := range slices.Concat(proxyVolumes(), w.options.volumes) {
		if !have(v.Name) {
			w.pod.Spec.Volumes = append(w.pod.Spec.Volumes, v)
			w.added.Volumes = append(w.added.Volumes, v.Name)
		}
	}
	for _, m := range w.options.mounts {
		if !have(m.Name) {
			w.add(config.InjectionRefused, annotationPath("sidecar.istio.io/userVolumeMount"), fmt.Sprintf("the pod has no volume %q", m.Name), "add it to the pod, or name it in sidecar.istio.io/userVolume")
		}
	}
	for _, name := range w.s.Values.Global.ImagePullSecrets {
		r := corev1.LocalObjectReference{Name: name}
		if !slices.Contains(w.pod.Spec.ImagePullSecrets, r) {
			w.pod.Spec.ImagePullSecrets = append(w.pod.Spec.ImagePullSecrets, r)
			w.added.ImagePullSecrets = append(w.added.ImagePullSecrets, name)
		}
	}
}

// place puts the containers where they belong. A native sidecar and capture come first,
// so that every other init container has the mesh; an ordinary one cannot serve init
// containers, so that capture begins after them.
func (w *work) place(proxy corev1.Container, own overrides) {
	spec := &w.pod.Spec
	var init []corev1.Container
	if c := w.initContainer(); c != nil {
		if own.init != nil {
			*c = overlay(*c, *own.init)
		}
		init = []corev1.Container{*c}
		w.added.InitContainers = append(w.added.InitContainers, c.Name)
	}
	switch {
	case w.native:
		spec.InitContainers = slices.Concat(init, []corev1.Container{proxy}, spec.InitContainers)
		w.added.InitContainers = append(w.added.InitContainers, proxy.Name)
		return
	case w.gateway || w.holds():
		spec.Containers = slices.Concat([]corev1.Container{proxy}, spec.Containers)
	default:
		spec.Containers = append(spec.Containers, proxy)
	}
	spec.InitContainers = append(spec.InitContainers, init...)
	w.added.Containers = append(w.added.Containers, proxy.Name)
}

// Labels and annotations that pods get.
const (
	labelTLSMode           = "security.istio.io/tlsMode"
	labelCanonicalName     = "service.istio.io/canonical-name"
	labelCanonicalRevision = "service.istio.io/canonical-revision"
	annotationDefault      = "kubectl.kubernetes.io/default-container"
)

func (w *work) labels() {
	p := w.pod
	set := func(m *map[string]string, k, v string) {
		if _, ok := (*m)[k]; ok || v == "" {
			return
		}
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[k] = v
	}
	label := func(k, v string) {
		if len(validation.IsValidLabelValue(v)) == 0 {
			set(&p.Labels, k, v)
		}
	}
	label(labelTLSMode, "istio")
	label(labelCanonicalName, first(p.Labels["app.kubernetes.io/name"], p.Labels["app"], w.owner().Name))
	label(labelCanonicalRevision, first(p.Labels["app.kubernetes.io/version"], p.Labels["version"], "latest"))
	label(labelNetwork, first(w.in.Network, w.s.Values.Global.Network))
	for k, v := range w.s.annotations {
		set(&p.Annotations, k, v)
	}
	if i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name != ProxyContainer }); i >= 0 {
		set(&p.Annotations, annotationDefault, p.Spec.Containers[i].Name)
	}
	delete(p.Annotations, annotationRevision)
	set(&p.Annotations, annotationRevision, w.s.revision())
}

// checkApplication reports what is not as the pod's author may think.
func (w *work) checkApplication() {
	spec := &w.pod.Spec
	if level := w.in.Namespace.Labels[labelPodSecurity]; (level == "restricted" || level == "baseline") && w.interception() != none && (!w.cni() || w.interception() == tproxy) {
		who, hint := "the init container that captures traffic", "install with cni.enabled=true, by which the node captures it, or: "
		if w.cni() {
			who, hint = "the proxy in mode TPROXY", "use mode REDIRECT, or: "
		}
		w.add(config.PodSecurityForbids, "", fmt.Sprintf("namespace %s enforces pod security %q, which forbids NET_ADMIN in %s: the pod will be refused", w.in.Namespace.Name, level, who),
			fmt.Sprintf("%skubectl label namespace %s %s=privileged --overwrite", hint, w.in.Namespace.Name, labelPodSecurity))
	}
	pod := spec.SecurityContext
	w.eachContainer(func(list, at string, c *corev1.Container) {
		w.checkIdentity(at, c, pod)
		for j, p := range c.Ports {
			if slices.Contains([]int32{portAdmin, portOutbound, portInbound, portStatus, portReady, portDNS, portPrometheus}, p.ContainerPort) && !w.gateway {
				w.add(config.ProxyPortTaken, document.Index(at+".ports", j), fmt.Sprintf("port %d of container %s is one of the proxy's", p.ContainerPort, c.Name), "let the application listen on another port")
			}
		}
		stays := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if list == initContainers && !w.native && !w.gateway && !stays {
			w.add(config.BeforeProxy, at, "init container "+c.Name+" runs before the proxy: what it sends goes past the mesh", "with sidecar.istio.io/nativeSidecar: \"true\" the proxy runs first (Kubernetes 1.29)")
		}
	})
	if o := w.owner(); (o.Kind == "Job" || o.Kind == "CronJob") && !w.native && !w.gateway {
		w.add(config.JobMayNotEnd, "", "the "+o.Kind+" ends only after the proxy has ended, which is an ordinary container here",
			fmt.Sprintf("use Kubernetes 1.29 or later, or end the proxy when the work is done: POST http://127.0.0.1:%d/quitquitquit", portStatus))
	}
}

const initContainers = "spec.initContainers"

// eachContainer goes over the pod's own containers, not the injector's.
func (w *work) eachContainer(f func(list, at string, c *corev1.Container)) {
	spec := &w.pod.Spec
	for _, list := range []struct {
		path       string
		containers []corev1.Container
	}{{initContainers, spec.InitContainers}, {"spec.containers", spec.Containers}} {
		for i := range list.containers {
			if c := &list.containers[i]; !ours(c.Name) {
				f(list.path, document.Index(list.path, i), c)
			}
		}
	}
}

func (w *work) checkIdentity(at string, c *corev1.Container, pod *corev1.PodSecurityContext) {
	var user, group *int64
	if pod != nil {
		user, group = pod.RunAsUser, pod.RunAsGroup
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			user = s.RunAsUser
		}
		if s.RunAsGroup != nil {
			group = s.RunAsGroup
		}
	}
	for _, id := range []struct {
		what string
		is   *int64
	}{{"user", user}, {"group", group}} {
		if id.is != nil && *id.is == proxyID && !w.gateway {
			w.add(config.InvalidApplicationUID, at, fmt.Sprintf("container %s runs as %s %d, which is the proxy's: what it sends goes past the mesh", c.Name, id.what, proxyID), "let it run as another "+id.what)
			return
		}
	}
}

// Owner is what made a pod.
type Owner struct{ APIVersion, Kind, Name string }

// url is the form in which node metadata name an owner.
func (o Owner) url(namespace string) string {
	if o.Name == "" {
		return ""
	}
	return "kubernetes://apis/" + o.APIVersion + "/namespaces/" + namespace + "/" + strings.ToLower(o.Kind) + "s/" + o.Name
}

// owner finds the object that a person wrote: behind a ReplicaSet its Deployment, behind
// a CronJob's Job the CronJob.
func (w *work) owner() Owner {
	if w.in.Owner != nil {
		return *w.in.Owner
	}
	p := w.in.Pod
	if len(p.OwnerReferences) == 0 {
		return Owner{"v1", "Pod", first(p.Name, strings.TrimSuffix(p.GenerateName, "-"))}
	}
	ref := p.OwnerReferences[0]
	for _, r := range p.OwnerReferences {
		if r.Controller != nil && *r.Controller {
			ref = r
		}
	}
	o := Owner{ref.APIVersion, ref.Kind, ref.Name}
	switch ref.Kind {
	case "ReplicaSet":
		if hash := p.Labels["pod-template-hash"]; hash != "" {
			if base, ok := strings.CutSuffix(ref.Name, "-"+hash); ok {
				o.Kind, o.Name = "Deployment", base
			}
		}
	case "Job":
		// The controller appends the minutes since the epoch to the name.
		if i := strings.LastIndexByte(ref.Name, '-'); i > 0 && len(ref.Name)-i-1 >= 8 && digits(ref.Name[i+1:]) {
			o.Kind, o.Name = "CronJob", ref.Name[:i]
		}
	case "ReplicationController":
		if i := strings.LastIndexByte(ref.Name, '-'); i > 0 && w.pod.Labels["deploymentconfig"] == ref.Name[:i] {
			o.APIVersion, o.Kind, o.Name = "apps.openshift.io/v1", "DeploymentConfig", ref.Name[:i]
		}
	}
	return o
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }
