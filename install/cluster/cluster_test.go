package cluster

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/internal/kubeconfig"
	"github.com/weirmesh/weir/local/demo"
)

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// What keeps a pod from being ready is said with the name of what is to be changed.
func TestTroubles(t *testing.T) {
	status := func(s corev1.ContainerStatus) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{s}}
	}
	for _, c := range []struct {
		name   string
		status corev1.PodStatus
		want   trouble
	}{
		{"ready", corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}, trouble{}},
		{"starting", status(corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}), trouble{why: "pod p runs and is not ready yet"}},
		{"no image", status(corev1.ContainerStatus{Image: "weir/x:1", State: waiting("ErrImagePull", "no such image")}), trouble{why: "image weir/x:1: ErrImagePull", image: "weir/x:1", detail: "no such image"}},
		{"no image, and no reason", status(corev1.ContainerStatus{Image: "weir/x:1", State: waiting("ImagePullBackOff", "")}), trouble{why: "image weir/x:1: ImagePullBackOff", image: "weir/x:1", detail: "ImagePullBackOff"}},
		{"crashed once", status(corev1.ContainerStatus{Name: "c", RestartCount: 1, State: waiting("CrashLoopBackOff", "")}), trouble{why: "pod p is being made"}},
		{"crashes", status(corev1.ContainerStatus{Name: "c", RestartCount: 3, State: waiting("CrashLoopBackOff", ""), LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2}}}),
			trouble{why: "crashes", crashed: "c", detail: "it ended with status 2"}},
		{"no node", corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available"}}}, trouble{why: "pod p has no node: 0/1 nodes are available"}},
		{"misconfigured", status(corev1.ContainerStatus{State: waiting("CreateContainerConfigError", "no secret")}), trouble{why: "pod p: CreateContainerConfigError: no secret"}},
	} {
		if got := judge(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: c.status}); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// A Deployment is ready when only its newest pods run, all of them.
func TestUnready(t *testing.T) {
	two := int32(2)
	for _, c := range []struct {
		status appsv1.DeploymentStatus
		want   string
	}{
		{appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}, "not begun yet"},
		{appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 1, AvailableReplicas: 2}, "1 of 2 pods made"},
		{appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 1}, "1 of 2 pods ready"},
		{appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 2, AvailableReplicas: 3}, "2 of 2 pods ready"},
		{appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}, ""},
		{appsv1.DeploymentStatus{ObservedGeneration: 2, Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "quota"}}}, "the cluster refuses its pods: quota"},
	} {
		if got := unready(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Spec: appsv1.DeploymentSpec{Replicas: &two}, Status: c.status}); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// The best address there is, and never a wait for a better one.
func TestIngress(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.9"}}}}
	web := func(nodePort int32) []corev1.ServicePort {
		return []corev1.ServicePort{{Name: "status-port", Port: 15021}, {Name: "http2", Port: 80, NodePort: nodePort}}
	}
	forward := "kubectl port-forward -n istio-system service/gw 8080:80"
	pending := "the cluster has given service gw no load balancer yet"
	for _, c := range []struct {
		name   string
		spec   corev1.ServiceSpec
		status []corev1.LoadBalancerIngress
		want   Address
	}{
		{"load balancer", corev1.ServiceSpec{Type: "LoadBalancer", Ports: web(30080)}, []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}, Address{URL: "http://192.0.2.1", Forward: forward}},
		{"IPv6", corev1.ServiceSpec{Type: "LoadBalancer", Ports: web(30080)}, []corev1.LoadBalancerIngress{{IP: "2001:db8::1"}}, Address{URL: "http://[2001:db8::1]", Forward: forward}},
		{"name", corev1.ServiceSpec{Type: "LoadBalancer", Ports: web(30080)}, []corev1.LoadBalancerIngress{{Hostname: "lb.example"}}, Address{URL: "http://lb.example", Forward: forward}},
		{"pending", corev1.ServiceSpec{Type: "LoadBalancer", Ports: web(30080)}, nil, Address{URL: "http://10.0.0.9:30080", Pending: pending, Forward: forward}},
		{"node port", corev1.ServiceSpec{Type: "NodePort", Ports: web(30080)}, nil, Address{URL: "http://10.0.0.9:30080", Forward: forward}},
		{"cluster only", corev1.ServiceSpec{Type: "ClusterIP", Ports: web(0)}, nil, Address{Forward: forward}},
		{"external address", corev1.ServiceSpec{Type: "ClusterIP", Ports: web(0), ExternalIPs: []string{"192.0.2.7"}}, nil, Address{URL: "http://192.0.2.7", Forward: forward}},
	} {
		c.spec.ExternalIPs = append([]string{}, c.spec.ExternalIPs...)
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "gw", Namespace: "istio-system"}, Spec: c.spec, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: c.status}}}
		got, err := (&Cluster{typed: fake.NewClientset(node, s)}).Ingress(t.Context(), "istio-system", "gw")
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, d)
		}
	}
}

// An Istio that runs, and a Weir elsewhere, stand in the way; our own installation does not.
func TestOthers(t *testing.T) {
	deployment := func(ns string, labels map[string]string) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: ns, Labels: labels}}
	}
	r := &install.Release{Name: "weir", Namespace: "istio-system"}
	for _, c := range []struct {
		name string
		d    *appsv1.Deployment
		want string
	}{
		{"Istio", deployment("istio-system", map[string]string{"app": "istiod"}), "Istio runs in this cluster"},
		{"itself", deployment("istio-system", map[string]string{"app": "istiod", install.Owner: "weir"}), ""},
		{"elsewhere", deployment("mesh", map[string]string{"app": "istiod", install.Owner: "weir"}), "installed already, as weir in namespace mesh"},
		{"another name", deployment("istio-system", map[string]string{"app": "istiod", install.Owner: "other"}), "installed already, as other"},
		{"something else", deployment("x", map[string]string{"app": "x"}), ""},
	} {
		ps, err := (&Cluster{typed: fake.NewClientset(c.d)}).others(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if (c.want == "") != (len(ps) == 0) || len(ps) > 0 && (!strings.Contains(ps[0].Message, c.want) || ps[0].Hint == "") {
			t.Errorf("%s: %+v, want %q", c.name, ps, c.want)
		}
	}
}

// Who enforces pod security is told what of it would be refused: capture in pods, or the
// agent that does it for them.
func TestPodSecurity(t *testing.T) {
	ns := func(name, level, injection string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": level, "istio-injection": injection}}}
	}
	client := fake.NewClientset(ns("shop", "restricted", "enabled"), ns("other", "restricted", ""), ns("free", "privileged", "enabled"), ns("istio-system", "baseline", ""))
	for on, want := range map[bool]string{false: "namespace shop enforces", true: "namespace istio-system enforces"} {
		r := &install.Release{Name: "weir", Namespace: "istio-system", Values: map[string]any{"cni": map[string]any{"enabled": on}}}
		ps, err := (&Cluster{typed: client}).podSecurity(t.Context(), r)
		if err != nil || len(ps) != 1 || !strings.HasPrefix(ps[0].Message, want) || ps[0].Warning == on {
			t.Errorf("cni.enabled=%v: %+v %v", on, ps, err)
		}
	}
}

// Samples come from where the installation comes from; other images stay.
func TestDemoImages(t *testing.T) {
	yaml, _ := demo.YAML("bookinfo")
	objects, err := install.Decode(yaml)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range objects {
		if o.GetKind() != "Deployment" {
			continue
		}
		n++
		if err := replaceImages(o, Images{Hub: "hub.example/w", Tag: "7", PullPolicy: "Never"}); err != nil {
			t.Fatal(err)
		}
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		if m := containers[0].(map[string]any); m["image"] != "hub.example/w/weir-sample:7" || m["imagePullPolicy"] != "Never" {
			t.Errorf("%s: %v", o.GetName(), m)
		}
	}
	if n == 0 {
		t.Error("no Deployment")
	}
}

// Whoever has no cluster is told what to set.
func TestConnect(t *testing.T) {
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	for _, c := range [][2]string{{"", "there is no kubeconfig"}, {t.TempDir() + "/gone", "there is no kubeconfig"}} {
		_, err := Connect(c[0], "", func(string) {})
		var e *kubeconfig.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c[1]) || e.Hint == "" {
			t.Errorf("%q: %v", c[0], err)
		}
	}
}
