package pod

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/local/supervise"
)

// files is the folder of Pod files: what the registry knows of the workloads.
type files struct{ dir string }

func (f files) path(p *pod) string {
	return filepath.Join(f.dir, p.template.Namespace+"_"+p.name+".yaml")
}

// write replaces the pod's file if it says something new.
func (p *pod) write() {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.object()
	if reflect.DeepEqual(o, p.written) {
		return
	}
	b, err := yaml.Marshal(o)
	if err == nil {
		err = p.rt.files.replace(p, b)
	}
	if err != nil {
		p.rt.o.Log.Error("cannot write the pod's file: the mesh does not know of it", "pod", p.key(), "err", err)
		return
	}
	p.written = o
}

// replace is atomic for readers. What is under run/ need not survive a crash.
func (f files) replace(p *pod, b []byte) error {
	tmp := filepath.Join(f.dir, ".new-"+filepath.Base(f.path(p)))
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, f.path(p))
}

func (f files) remove(p *pod) {
	if err := os.Remove(f.path(p)); err != nil {
		p.rt.o.Log.Error("cannot remove the pod's file: the mesh takes it for alive", "pod", p.key(), "err", err)
	}
}

// object is the Pod as the registry shall see it. The lock is held.
func (p *pod) object() *corev1.Pod {
	t := p.template
	o := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: t.Namespace, Name: p.name, Labels: t.Labels, CreationTimestamp: metav1.NewTime(p.created.UTC()),
			// That it has a proxy; what a webhook would have written there is of no use here.
			Annotations: map[string]string{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`},
		},
		Spec:   corev1.PodSpec{ServiceAccountName: t.ServiceAccount},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	maps.Copy(o.Annotations, t.Annotations)
	maps.Copy(o.Annotations, p.place.Annotations())
	if t.Owner != "" {
		yes := true
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: t.Owner, Controller: &yes}}
	}
	if p.stopping {
		o.DeletionTimestamp = &o.CreationTimestamp // that there is one matters, not when
	}
	for _, c := range t.Containers {
		k := corev1.Container{Name: c.Name, Image: c.Image}
		for _, port := range c.Ports {
			k.Ports = append(k.Ports, corev1.ContainerPort{Name: port.Name, ContainerPort: int32(port.Number), Protocol: corev1.ProtocolTCP})
		}
		o.Spec.Containers = append(o.Spec.Containers, k)
	}
	o.Status.PodIP = p.place.IP().String()
	o.Status.PodIPs = []corev1.PodIP{{IP: o.Status.PodIP}}
	ready := corev1.ConditionFalse
	if p.ready {
		ready = corev1.ConditionTrue
	}
	if slices.ContainsFunc(p.programs, func(g *program) bool { return g.state.Phase != "" }) || t.Gateway && p.ready {
		o.Status.Phase = corev1.PodRunning
	}
	o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	for _, g := range p.programs {
		s := corev1.ContainerStatus{Name: g.Container.Name, Image: g.Container.Image, Ready: p.ready, RestartCount: int32(g.state.Restarts)}
		switch g.state.Phase {
		case supervise.Running, supervise.Stopping:
			s.State.Running = &corev1.ContainerStateRunning{}
		case supervise.BackingOff:
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: g.state.Last}
		case supervise.Stopped:
			s.State.Terminated = &corev1.ContainerStateTerminated{Message: g.state.Last}
		default:
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
		}
		o.Status.ContainerStatuses = append(o.Status.ContainerStatuses, s)
	}
	return o
}
