package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

// cluster is a world whose facts make the registry's part of a plan, as the store does it.
type cluster struct {
	*world
	r    *registry.Registry
	last registry.Result
}

func newCluster() *cluster {
	return &cluster{world: newWorld(kube.Options{DomainSuffix: "cluster.local"}, "istio-system"), r: registry.New("cluster.local", registry.Ranges{}, nil)}
}

func (c *cluster) tell(facts []config.Fact) int {
	for _, f := range facts {
		switch f.ID.Kind {
		case "Service":
			s, _ := f.Lowered.([]*registry.Service)
			c.r.SetService(f.ID.String(), s)
		case "Pod":
			w, _ := f.Lowered.(*mesh.Workload)
			c.r.SetWorkload(f.ID.String(), w)
		case "EndpointSlice":
			s, _ := f.Lowered.(*registry.Slice)
			c.r.SetSlice(f.ID.String(), s)
		}
	}
	c.last = c.r.Flush()
	return len(facts)
}

// endpoints are those of a port of a service, by address, as health and what else is asked for.
func (c *cluster) endpoints(key mesh.Key, port uint16) map[string]mesh.Endpoint {
	out := map[string]mesh.Endpoint{}
	for _, e := range c.last.Endpoints.At(key).Ports[port] {
		out[e.Addr.String()] = e
	}
	return out
}

func (c *cluster) health(key mesh.Key, port uint16) map[string]mesh.Health {
	out := map[string]mesh.Health{}
	for a, e := range c.endpoints(key, port) {
		out[a] = e.Health
	}
	return out
}

func service(name string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name}, Ports: ports, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"}}}
}

func runningPod(name, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", Labels: map[string]string{"app": "cart", "security.istio.io/tlsMode": "istio"}},
		Spec:       corev1.PodSpec{ServiceAccountName: "cart", NodeName: "n1"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func endpoint(ip, pod string, ready, terminating bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &terminating}}
	if pod != "" {
		e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod}
	}
	return e
}

func slice(name, service string, family discoveryv1.AddressType, port int32, es ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	portName := "http"
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", Labels: map[string]string{"kubernetes.io/service-name": service}},
		AddressType: family, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}}, Endpoints: es}
}

const cart = mesh.Key("shop/cart.shop.svc.cluster.local")

// Endpoints are what slices list, as far as the pods are known, with the pods' identity and
// their nodes' locality; what ends gets nothing new.
func TestEndpoints(t *testing.T) {
	c := newCluster()
	c.tell(c.service(service("cart", corev1.ServicePort{Name: "http", Port: 80})))
	c.tell(c.slice(slice("cart-1", "cart", discoveryv1.AddressTypeIPv4, 8080, endpoint("10.0.0.1", "cart-a", true, false), endpoint("10.0.0.2", "cart-b", false, false),
		endpoint("10.0.0.3", "cart-c", false, true), endpoint("10.0.0.9", "", true, false))))
	if got := slices.Sorted(maps.Keys(c.health(cart, 80))); !cmp.Equal(got, []string{"10.0.0.9:8080"}) {
		t.Errorf("pods that are not known yet are waited for; got %v", got)
	}
	for name, ip := range map[string]string{"cart-a": "10.0.0.1", "cart-b": "10.0.0.2", "cart-c": "10.0.0.3"} {
		c.tell(c.pod(runningPod(name, ip)))
	}
	want := map[string]mesh.Health{"10.0.0.1:8080": mesh.Healthy, "10.0.0.2:8080": mesh.Unhealthy, "10.0.0.3:8080": mesh.Draining, "10.0.0.9:8080": mesh.Healthy}
	if d := cmp.Diff(want, c.health(cart, 80)); d != "" {
		t.Error(d)
	}
	c.tell(c.setNode("n1", mesh.Locality{Region: "r", Zone: "z"}))
	a := c.endpoints(cart, 80)["10.0.0.1:8080"]
	if a.Identity != "spiffe://cluster.local/ns/shop/sa/cart" || !a.TLS || a.Locality != (mesh.Locality{Region: "r", Zone: "z"}) || a.Workload == nil || a.Workload.Name != "cart-a" {
		t.Errorf("%+v", a)
	}
	if e := c.endpoints(cart, 80)["10.0.0.9:8080"]; e.TLS || e.Identity != "" {
		t.Errorf("an address of nobody we know is expected to be somebody: %+v", e)
	}

	// The pod is told to end: that is known before its slice says so.
	ending := runningPod("cart-a", "10.0.0.1")
	ending.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	c.tell(c.pod(ending))
	if got := c.health(cart, 80)["10.0.0.1:8080"]; got != mesh.Draining {
		t.Errorf("a pod that ends is %v", got)
	}
	c.tell(c.noPod(types.NamespacedName{Namespace: "shop", Name: "cart-a"}))
	if _, there := c.health(cart, 80)["10.0.0.1:8080"]; there {
		t.Error("a pod that is gone has an endpoint")
	}
	c.tell(c.noSlice(types.NamespacedName{Namespace: "shop", Name: "cart-1"}))
	if got := c.health(cart, 80); len(got) > 0 {
		t.Errorf("endpoints without a slice: %v", got)
	}
}

// A service may have many slices: of both families, and one address twice while a
// controller moves it.
func TestManySlices(t *testing.T) {
	c := newCluster()
	both := service("cart", corev1.ServicePort{Name: "http", Port: 80})
	both.Spec.ClusterIPs = []string{"10.96.0.7", "fd00::7"}
	p := runningPod("cart-a", "10.0.0.1")
	p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00:1::1"})
	c.tell(c.service(both))
	c.tell(c.pod(p))
	c.tell(c.slice(slice("cart-4", "cart", discoveryv1.AddressTypeIPv4, 8080, endpoint("10.0.0.1", "cart-a", false, false))))
	c.tell(c.slice(slice("cart-5", "cart", discoveryv1.AddressTypeIPv4, 8080, endpoint("10.0.0.1", "cart-a", true, false))))
	c.tell(c.slice(slice("cart-6", "cart", discoveryv1.AddressTypeIPv6, 8080, endpoint("fd00:1::1", "cart-a", true, false))))
	c.tell(c.slice(slice("cart-n", "cart", discoveryv1.AddressTypeFQDN, 8080, endpoint("example.com", "", true, false))))
	want := map[string]mesh.Health{"10.0.0.1:8080": mesh.Healthy, "[fd00:1::1]:8080": mesh.Healthy}
	if d := cmp.Diff(want, c.health(cart, 80)); d != "" {
		t.Error(d)
	}
	if n := c.last.Services.At(cart).Addresses; len(n) != 2 {
		t.Errorf("addresses %v", n)
	}
}

// publishNotReadyAddresses: the slice says ready of all, and that is what counts, also for a
// pod that ends.
func TestNotReadyAddresses(t *testing.T) {
	c := newCluster()
	s := service("cart", corev1.ServicePort{Name: "http", Port: 80})
	s.Spec.PublishNotReadyAddresses = true
	p := runningPod("cart-a", "10.0.0.1")
	p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	c.tell(c.service(s))
	c.tell(c.pod(p))
	c.tell(c.slice(slice("cart-1", "cart", discoveryv1.AddressTypeIPv4, 8080, endpoint("10.0.0.1", "cart-a", true, true))))
	if got := c.health(cart, 80)["10.0.0.1:8080"]; got != mesh.Healthy {
		t.Errorf("%v", got)
	}
}

// Endpoints that an operator writes have no pod's name; the pod with the address is who is
// expected there, whichever is known first. Addresses of a node are no pod's.
func TestEndpointsByHand(t *testing.T) {
	for _, podFirst := range []bool{true, false} {
		c := newCluster()
		s := service("cart", corev1.ServicePort{Name: "http", Port: 80})
		s.Spec.Selector = nil
		steps := []func() []config.Fact{
			func() []config.Fact {
				return c.slice(slice("own", "cart", discoveryv1.AddressTypeIPv4, 8080, endpoint("10.0.0.1", "", true, false)))
			},
			func() []config.Fact { return c.pod(runningPod("cart-a", "10.0.0.1")) },
		}
		if podFirst {
			slices.Reverse(steps)
		}
		c.tell(c.service(s))
		for _, step := range steps {
			c.tell(step())
		}
		if e := c.endpoints(cart, 80)["10.0.0.1:8080"]; !e.TLS || e.Workload == nil {
			t.Errorf("pod first %v: %+v", podFirst, e)
		}
		c.tell(c.noPod(types.NamespacedName{Namespace: "shop", Name: "cart-a"}))
		host := runningPod("host", "10.0.0.1")
		host.Spec.HostNetwork = true
		c.tell(c.pod(host))
		if e, ok := c.endpoints(cart, 80)["10.0.0.1:8080"]; !ok || e.Workload != nil {
			t.Errorf("pod first %v, then the address is the node's: %+v", podFirst, e)
		}
	}
}

// What is lowered to the same is not told: statuses change all the time.
func TestUnchanged(t *testing.T) {
	c := newCluster()
	s := service("cart", corev1.ServicePort{Name: "http", Port: 80})
	sl := slice("cart-1", "cart", discoveryv1.AddressTypeIPv4, 8080, endpoint("10.0.0.1", "cart-a", true, false))
	p := runningPod("cart-a", "10.0.0.1")
	c.tell(c.service(s))
	c.tell(c.slice(sl))
	c.tell(c.pod(p))
	before := c.last
	s.ResourceVersion, sl.ResourceVersion, p.ResourceVersion = "2", "2", "2"
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "Other"})
	if n := c.tell(slices.Concat(c.service(s), c.slice(sl), c.pod(p), c.setNode("n2", mesh.Locality{Zone: "z"}))); n != 0 {
		t.Errorf("%d facts", n)
	}
	if !before.Endpoints.Same(c.last.Endpoints) || !before.Services.Same(c.last.Services) || !before.Workloads.Same(c.last.Workloads) {
		t.Error("the plan changed")
	}
}

// Nobody else's annotations say where a pod is reached, and what a service says that is not
// done is told.
func TestForeignWords(t *testing.T) {
	c := newCluster()
	p := runningPod("cart-a", "10.0.0.1")
	p.Annotations = map[string]string{"weir.dev/inbound": "8080=127.0.0.1:6443->127.0.0.1:1", "weir.dev/admin": "127.0.0.1:10250"}
	c.tell(c.pod(p))
	w := c.last.Workloads.At("shop/cart-a")
	if w.AdminAddr != "" || w.Published != nil {
		t.Errorf("%+v", w)
	}
	s := service("cart", corev1.ServicePort{Name: "http", Port: 80})
	close := "PreferClose"
	s.Spec.TrafficDistribution = &close
	s.Annotations = map[string]string{"networking.istio.io/exportTo": "no namespace"}
	f := c.service(s)
	var paths []string
	for _, x := range f[0].Findings {
		paths = append(paths, x.FieldPath)
		if x.Object.Kind != "Service" || x.Object.Name != "cart" {
			t.Errorf("%+v", x)
		}
	}
	slices.Sort(paths)
	if d := cmp.Diff([]string{`metadata.annotations["networking.istio.io/exportTo"]`, "spec.trafficDistribution"}, paths); d != "" {
		t.Error(d)
	}
	if v := f[0].Lowered.([]*registry.Service)[0].Mesh.Visible; v.VisibleTo("other") {
		t.Error("an exportTo that cannot be read is everywhere")
	}
}

// Of Secrets only those with certificates are kept, and of those only these.
func TestSecrets(t *testing.T) {
	c := newCluster()
	plain := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password", Namespace: "shop"}, Data: map[string][]byte{"password": []byte("x")}}
	trimSecret(plain)
	if f := c.secret(plain); len(f) != 0 || len(plain.Data) != 0 {
		t.Errorf("%v %v", f, plain.Data)
	}
	tls := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cert", Namespace: "shop"}, Data: map[string][]byte{"tls.crt": []byte("c"), "tls.key": []byte("k"), "other": []byte("x")}}
	trimSecret(tls)
	f := c.secret(tls)
	if len(f) != 1 || len(f[0].Lowered.(*kube.Secret).Data) != 2 {
		t.Errorf("%v", f)
	}
	if f := c.secret(tls); len(f) != 0 {
		t.Error("told twice")
	}
	if f := c.noSecret(nameOf(tls)); len(f) != 1 || f[0].Lowered != nil {
		t.Errorf("%v", f)
	}
}

// A pod that runs unprotected is told, also when nothing else about it changed, and also when
// it is no workload yet; what is mended is taken back.
func TestUncaptured(t *testing.T) {
	c := newCluster()
	look := func(p *corev1.Pod) (out []string) {
		p = p.DeepCopy()
		newWorld(kube.Options{}, "").trimPod(p)
		for _, f := range c.pod(p) {
			out = append(out, f.ID.Kind)
			for _, x := range f.Findings {
				out = append(out, string(x.Code))
			}
		}
		return out
	}
	p := runningPod("cart-a", "10.0.0.1")
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "istio-proxy", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 126}}}}
	sick, early := p.DeepCopy(), p.DeepCopy()
	early.Name, early.Status.PodIP, early.Status.PodIPs = "cart-b", "", nil
	p.Status.ContainerStatuses = nil
	for i, step := range []struct {
		pod  *corev1.Pod
		want string
	}{{p, "Pod"}, {sick, "Pod WEIR0311"}, {sick, ""}, {p, "Pod"}, {p, ""}, {early, "Pod WEIR0311"}, {early, ""}} {
		if got := strings.Join(look(step.pod), " "); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// What pods say about their proxies is said of what makes them, once for all; what a look at thousands of pods leaves of each is enough for it.
func TestPodsOfAnOwner(t *testing.T) {
	c := newCluster()
	var said []config.Finding
	look := func(p *corev1.Pod) {
		newWorld(kube.Options{}, "").trimPod(p)
		for _, f := range c.pod(p) {
			said = append(said, f.Findings...)
		}
	}
	user := int64(1337)
	for _, name := range []string{"cart-5d-a", "cart-5d-b"} {
		p := runningPod(name, map[string]string{"cart-5d-a": "10.0.0.1", "cart-5d-b": "10.0.0.2"}[name])
		p.Labels = map[string]string{"pod-template-hash": "5d"}
		p.Annotations = map[string]string{"sidecar.istio.io/proxyCpu": "1", "sidecar.istio.io/status": "{}"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "cart-5d", Controller: new(true)}}
		p.CreationTimestamp = metav1.NewTime(time.Unix(int64(name[8]), 0))
		p.Spec.InitContainers = []corev1.Container{{Name: "istio-init"}}
		p.Spec.Containers = []corev1.Container{{Name: "istio-proxy", SecurityContext: &corev1.SecurityContext{RunAsUser: &user}}, {Name: "app", SecurityContext: &corev1.SecurityContext{RunAsUser: &user}}}
		look(p)
	}
	bare := runningPod("edge", "10.0.0.9")
	bare.Annotations = map[string]string{"galley.istio.io/analyze-suppress": "IST0108", "sidecar.istio.io/proxyCpu": "1"}
	bare.Spec.Containers = []corev1.Container{{Name: "istio-proxy", Image: "auto"}}
	look(bare)
	want := `warning IST0108 Deployment shop/cart: spec.template.metadata.annotations["sidecar.istio.io/proxyCpu"]: there is no such annotation (did you mean sidecar.istio.io/proxyCPU?)
warning IST0144 Deployment shop/cart: spec.template.spec.containers[0]: container app runs as user 1337, which is the proxy's: what it sends goes past the mesh (let it run as another user)
error IST0147 Pod shop/edge: container istio-proxy has the image auto, which the injector replaces, and no injector was asked about the pod (label the namespace (istio-injection=enabled, or istio.io/rev) or the pod template (sidecar.istio.io/inject="true"), and restart the workload)
`
	var got strings.Builder
	for _, f := range config.Tidy(said) {
		fmt.Fprintln(&got, f)
	}
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Error(d)
	}
}

// Whose proxy the injector would give another image today: of its own revision's pods, and not those that say themselves which.
func TestOtherImages(t *testing.T) {
	c := newCluster()
	add := func(namespace, name, revision, image string, annotations map[string]string) {
		p := runningPod(name, "10.0.0.1")
		p.Namespace, p.Annotations = namespace, map[string]string{"istio.io/rev": revision}
		maps.Copy(p.Annotations, annotations)
		p.Spec.InitContainers = []corev1.Container{{Name: "istio-init", Image: "other"}, {Name: "istio-proxy", Image: image}}
		if revision == "" { // nobody injected anything
			p.Annotations, p.Spec.InitContainers = nil, nil
		}
		newWorld(kube.Options{}, "").trimPod(p)
		c.pod(p)
	}
	for _, name := range []string{"d", "b", "a", "c"} {
		add("old", name, "default", "weir/proxy:1", nil)
	}
	add("old", "e", "default", "weir/proxy:0", nil)
	add("old", "new", "default", "weir/proxy:2", nil)
	add("mine", "own", "default", "debug/proxy:x", map[string]string{"sidecar.istio.io/proxyImage": "debug/proxy:x"})
	add("mine", "written", "default", "debug/proxy:x", map[string]string{"proxy.istio.io/overrides": `{"proxy":{"image":"debug/proxy:x"}}`})
	add("mine", "none", "", "", nil)
	add("canary", "a", "canary", "weir/proxy:3", nil)
	add("edge", "gateway", "default", "weir/proxy:1", map[string]string{"proxy.istio.io/overrides": `{"proxy":{"image":"auto"}}`})
	for ask, want := range map[[2]string]string{
		{"default", "weir/proxy:2"}: `warning IST0158 Namespace edge: the injector gives pods weir/proxy:2, and these have weir/proxy:1: gateway (kubectl rollout restart -n edge deployment)
warning IST0158 Namespace old: the injector gives pods weir/proxy:2, and these have weir/proxy:0, weir/proxy:1: a, b, c and 2 more (kubectl rollout restart -n old deployment)
`, {"canary", "weir/proxy:3"}: "", {"blue", "weir/proxy:1"}: "",
	} {
		var got strings.Builder
		for _, f := range config.Tidy(c.otherImages(ask[0], ask[1])) {
			fmt.Fprintln(&got, f)
		}
		if d := cmp.Diff(want, got.String()); d != "" {
			t.Errorf("%v: %s", ask, d)
		}
	}
}
