package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

// world is what is known, lowered. Its methods return what changed.
type world struct {
	o        kube.Options
	services map[types.NamespacedName]config.Fact
	slices   map[types.NamespacedName]*registry.Slice
	pods     map[types.NamespacedName]pod
	nodes    map[string]mesh.Locality
	secrets  map[types.NamespacedName]*kube.Secret
	// byAddr finds pods with addresses of their own, loose the slices that list an address
	// without saying whose it is.
	byAddr map[netip.Addr]mesh.Key
	loose  map[netip.Addr]map[types.NamespacedName]bool
	// The parts of the installation in namespace are watched, too; onNodes are the nodes on which there is one, or who relies on one.
	namespace string
	now       func() time.Time
	onNodes   map[string]*onNode
}

type pod struct {
	workload *mesh.Workload // nil: not part of the mesh (yet)
	node     string
	own      mesh.Locality // by a label of its own
	uid      types.UID
	ended    bool
	shared   bool // its addresses are its node's
	relays   bool // it is a gateway: what comes from its address may be others'
	proxy    unique.Handle[injected]
	part     *part // nil: it is none of the installation's
	relies   bool  // on its node for its rules
	findings []config.Finding
}

// injected is the proxy that an injector put into a pod, as many pods have it: its image, and of which revision the injector was.
type injected struct{ image, revision string }

// injectedInto is zero of a pod that has no proxy, or says itself which.
func injectedInto(p *corev1.Pod) injected {
	// What the pod's author said of the proxy's container, where that is more than that there be one.
	own := p.Annotations["proxy.istio.io/overrides"]
	if p.Annotations["sidecar.istio.io/proxyImage"] != "" || strings.Contains(own, `"image":"`) && !strings.Contains(own, `"image":"`+kube.AutoImage+`"`) {
		return injected{}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if revision := p.Annotations["istio.io/rev"]; c.Name == inject.ProxyContainer && revision != "" {
			return injected{c.Image, revision}
		}
	}
	return injected{}
}

// namedPods is how many pods a finding names.
const namedPods = 3

// otherImages finds, for each namespace, the pods to which the injector of a revision would give another proxy today.
func (w *world) otherImages(revision, image string) (out []config.Finding) {
	pods, images := map[string][]string{}, map[string]map[string]bool{}
	for n, p := range w.pods {
		if p.workload == nil || p.proxy == (unique.Handle[injected]{}) {
			continue
		}
		if has := p.proxy.Value(); has.revision == revision && has.image != image {
			if images[n.Namespace] == nil {
				images[n.Namespace] = map[string]bool{}
			}
			pods[n.Namespace], images[n.Namespace][has.image] = append(pods[n.Namespace], n.Name), true
		}
	}
	for ns, names := range pods {
		slices.Sort(names)
		list := strings.Join(names[:min(len(names), namedPods)], ", ")
		if more := len(names) - namedPods; more > 0 {
			list += fmt.Sprintf(" and %d more", more)
		}
		out = append(out, config.New(config.ProxyImageMismatch, mesh.Ref{Kind: "Namespace", Name: ns}, "", 0,
			fmt.Sprintf("the injector gives pods %s, and these have %s: %s", image, strings.Join(slices.Sorted(maps.Keys(images[ns])), ", "), list),
			"kubectl rollout restart -n "+ns+" deployment"))
	}
	return out
}

func newWorld(o kube.Options, namespace string) *world {
	return &world{o: o, namespace: namespace, now: time.Now, onNodes: map[string]*onNode{}, services: map[types.NamespacedName]config.Fact{}, slices: map[types.NamespacedName]*registry.Slice{}, pods: map[types.NamespacedName]pod{},
		nodes: map[string]mesh.Locality{}, secrets: map[types.NamespacedName]*kube.Secret{}, byAddr: map[netip.Addr]mesh.Key{}, loose: map[netip.Addr]map[types.NamespacedName]bool{}}
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func id(group, kind string, n types.NamespacedName) config.ID {
	return config.ID{Group: group, Kind: kind, Namespace: n.Namespace, Name: n.Name}
}

func fact(id config.ID, lowered any) []config.Fact {
	return []config.Fact{{ID: id, Lowered: lowered}}
}

func (w *world) service(s *corev1.Service) []config.Fact {
	n := nameOf(s)
	lowered, findings := kube.LowerService(s, w.o)
	for _, l := range lowered {
		l.Sliced = s.Spec.Type != corev1.ServiceTypeExternalName
	}
	f := config.Fact{ID: id("", "Service", n), Lowered: lowered, Findings: findings}
	if old, ok := w.services[n]; ok && reflect.DeepEqual(old, f) {
		return nil
	}
	w.services[n] = f
	return []config.Fact{f}
}

func (w *world) noService(n types.NamespacedName) []config.Fact {
	delete(w.services, n)
	return fact(id("", "Service", n), nil)
}

// trimPod takes away most of a Pod before it is gathered with thousands of others.
func (w *world) trimPod(p *corev1.Pod) {
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i, c := range cs {
			cs[i] = corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy}
			if c.Image == kube.AutoImage || c.Name == inject.ProxyContainer { // nobody looks at others
				cs[i].Image = c.Image
			}
			if isGateway(&c) {
				cs[i].Args = []string{gatewayRole}
			}
			if s := c.SecurityContext; s != nil && (s.RunAsUser != nil || s.RunAsGroup != nil) {
				cs[i].SecurityContext = &corev1.SecurityContext{RunAsUser: s.RunAsUser, RunAsGroup: s.RunAsGroup}
			}
		}
	}
	var as *corev1.PodSecurityContext
	if s := p.Spec.SecurityContext; s != nil && (s.RunAsUser != nil || s.RunAsGroup != nil) {
		as = &corev1.PodSecurityContext{RunAsUser: s.RunAsUser, RunAsGroup: s.RunAsGroup}
	}
	p.Spec = corev1.PodSpec{InitContainers: p.Spec.InitContainers, Containers: p.Spec.Containers, ServiceAccountName: p.Spec.ServiceAccountName, NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork, SecurityContext: as}
	was := p.Status
	p.Status = corev1.PodStatus{Phase: was.Phase, Conditions: was.Conditions, PodIP: was.PodIP, PodIPs: was.PodIPs}
	if kube.Uncaptured(was) || isPart(p, w.namespace) { // few, and of others nobody looks at their containers
		p.Status.InitContainerStatuses, p.Status.ContainerStatuses = was.InitContainerStatuses, was.ContainerStatuses
	}
}

// gatewayRole is the argument by which a proxy is a gateway's, as in Istio.
const gatewayRole = "router"

func isGateway(c *corev1.Container) bool {
	return c.Name == inject.ProxyContainer && slices.Contains(c.Args, gatewayRole)
}

func (w *world) pod(p *corev1.Pod) []config.Fact {
	n := nameOf(p)
	next := pod{node: p.Spec.NodeName, uid: p.UID, shared: p.Spec.HostNetwork, ended: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed}
	if next.workload = kube.LowerPod(p); next.workload != nil {
		next.own = next.workload.Locality
		if next.own == (mesh.Locality{}) {
			next.workload.Locality = w.nodes[next.node]
		}
	}
	if has := injectedInto(p); has.image != "" {
		next.proxy = unique.Make(has)
	}
	for i := range p.Spec.Containers {
		next.relays = next.relays || isGateway(&p.Spec.Containers[i])
	}
	next.findings = kube.CheckPod(p)
	if next.relies = relies(p); isPart(p, w.namespace) {
		next.part = partOf(p)
	}
	return w.setPod(n, next)
}

func (w *world) noPod(n types.NamespacedName) []config.Fact {
	out := w.setPod(n, pod{})
	delete(w.pods, n)
	return out
}

func (w *world) setPod(n types.NamespacedName, next pod) []config.Fact {
	was := w.pods[n]
	w.count(&was, -1)
	w.count(&next, +1)
	w.looked(was.node)
	w.looked(next.node)
	told := reflect.DeepEqual(was.findings, next.findings)
	if was.workload != nil && next.workload != nil && was.shared == next.shared && reflect.DeepEqual(was.workload, next.workload) {
		next.workload = was.workload // equal pointers say: unchanged
		w.pods[n] = next
		if told {
			return nil
		}
	}
	w.pods[n] = next
	if was.workload == nil && next.workload == nil && told {
		return nil
	}
	var lowered any
	if next.workload != nil {
		lowered = next.workload
	}
	out := []config.Fact{{ID: id("", "Pod", n), Lowered: lowered, Findings: next.findings}}
	key := mesh.NewKey(n.Namespace, n.Name)
	for _, a := range was.addresses() {
		if w.byAddr[a] == key {
			delete(w.byAddr, a)
			out = append(out, w.relist(a)...)
		}
	}
	for _, a := range next.addresses() {
		w.byAddr[a] = key
		out = append(out, w.relist(a)...)
	}
	return out
}

// addresses are those that are nobody else's.
func (p *pod) addresses() []netip.Addr {
	if p.workload == nil || p.shared {
		return nil
	}
	return p.workload.Addresses
}

// shown is described at Source.Shown.
func (w *world) shown(n types.NamespacedName, uid types.UID, from netip.Addr) (known, ended bool, at types.NamespacedName) {
	p, ok := w.pods[n]
	known = ok && (uid == "" || p.uid == uid) && (p.workload != nil || p.ended)
	if known && p.workload != nil && slices.Contains(p.workload.Addresses, from) {
		return true, false, at
	}
	if key, ok := w.byAddr[from]; ok {
		namespace, name := key.Split()
		if other := (types.NamespacedName{Namespace: namespace, Name: name}); other != n && !w.pods[other].relays {
			at = other
		}
	}
	return known, known && p.ended, at
}

// node takes the locality of a node, which its pods share.
func (w *world) node(o *metav1.PartialObjectMetadata) []config.Fact {
	l := mesh.Locality{Region: o.Labels[corev1.LabelTopologyRegion], Zone: o.Labels[corev1.LabelTopologyZone], SubZone: o.Labels["topology.istio.io/subzone"]}
	return w.setNode(o.Name, l)
}

func (w *world) noNode(n types.NamespacedName) []config.Fact {
	delete(w.nodes, n.Name) // its pods keep what they had until they are gone
	return nil
}

func (w *world) setNode(name string, l mesh.Locality) []config.Fact {
	if w.nodes[name] == l {
		return nil
	}
	w.nodes[name] = l
	var out []config.Fact
	for n, p := range w.pods {
		if p.node != name || p.workload == nil || p.own != (mesh.Locality{}) {
			continue
		}
		moved := *p.workload
		moved.Locality = l
		p.workload = &moved
		out = append(out, w.setPod(n, p)...)
	}
	return out
}

func (w *world) slice(s *discoveryv1.EndpointSlice) []config.Fact {
	service := s.Labels[discoveryv1.LabelServiceName]
	if service == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return w.setSlice(nameOf(s), nil) // nobody's endpoints; names are not resolved, as in kube-proxy
	}
	out := &registry.Slice{Service: mesh.NewKey(s.Namespace, service+"."+s.Namespace+".svc."+w.o.DomainSuffix)}
	for _, p := range s.Ports {
		port := registry.SlicePort{}
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Port != nil && *p.Port > 0 && *p.Port < 1<<16 {
			port.Number = uint16(*p.Port)
		}
		out.Ports = append(out.Ports, port)
	}
	for _, e := range s.Endpoints {
		x := registry.SliceEndpoint{Health: health(e.Conditions)}
		if e.Zone != nil {
			x.Locality.Zone = *e.Zone
		}
		if t := e.TargetRef; t != nil && t.Kind == "Pod" {
			namespace := t.Namespace
			if namespace == "" {
				namespace = s.Namespace
			}
			x.Workload = mesh.NewKey(namespace, t.Name)
		}
		// Only the first address: Kubernetes 1.31 deprecates others, and they are one endpoint's.
		for _, a := range e.Addresses[:min(1, len(e.Addresses))] {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				continue
			}
			x.Addr = addr.Unmap()
			out.Endpoints = append(out.Endpoints, x)
		}
	}
	return w.setSlice(nameOf(s), out)
}

// health is what conditions of an endpoint come to. One that ends gets nothing new, and
// what it has may go on; a Service that asks for addresses that are not ready has them
// marked as ready, whatever they are.
func health(c discoveryv1.EndpointConditions) mesh.Health {
	is := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	switch {
	case is(c.Ready, true):
		return mesh.Healthy
	case is(c.Terminating, false):
		return mesh.Draining
	}
	return mesh.Unhealthy
}

func (w *world) noSlice(n types.NamespacedName) []config.Fact { return w.setSlice(n, nil) }

// setSlice keeps a slice as it was written, and tells it with the pods that have its
// addresses.
func (w *world) setSlice(n types.NamespacedName, next *registry.Slice) []config.Fact {
	was := w.slices[n]
	if reflect.DeepEqual(was, next) {
		return nil
	}
	if was != nil {
		for _, e := range was.Endpoints {
			if delete(w.loose[e.Addr], n); len(w.loose[e.Addr]) == 0 {
				delete(w.loose, e.Addr)
			}
		}
	}
	delete(w.slices, n)
	if next == nil {
		return fact(id(discoveryv1.GroupName, "EndpointSlice", n), nil)
	}
	w.slices[n] = next
	for _, e := range next.Endpoints {
		if e.Workload == "" {
			if w.loose[e.Addr] == nil {
				w.loose[e.Addr] = map[types.NamespacedName]bool{}
			}
			w.loose[e.Addr][n] = true
		}
	}
	return w.tellSlice(n)
}

func (w *world) tellSlice(n types.NamespacedName) []config.Fact {
	s := w.slices[n]
	var own *registry.Slice
	for i, e := range s.Endpoints {
		key, ok := w.byAddr[e.Addr]
		if e.Workload != "" || !ok {
			continue
		}
		if own == nil {
			c := *s
			c.Endpoints = append([]registry.SliceEndpoint(nil), s.Endpoints...)
			own = &c
		}
		own.Endpoints[i].Workload = key
	}
	if own == nil {
		own = s
	}
	return fact(id(discoveryv1.GroupName, "EndpointSlice", n), own)
}

// relist tells the slices anew that list an address without saying whose it is.
func (w *world) relist(a netip.Addr) []config.Fact {
	var out []config.Fact
	for n := range w.loose[a] {
		out = append(out, w.tellSlice(n)...)
	}
	return out
}

// certificateKeys are the keys of a Secret under which gateways find certificates.
var certificateKeys = []string{"tls.crt", "tls.key", "ca.crt", "cert", "key", "cacert"}

// trimSecret takes away what is no certificate: other people's secrets are not gathered.
func trimSecret(s *corev1.Secret) {
	data := map[string][]byte{}
	for _, k := range certificateKeys {
		if v, ok := s.Data[k]; ok {
			data[k] = v
		}
	}
	s.Data = data
}

func (w *world) secret(s *corev1.Secret) []config.Fact {
	n := nameOf(s)
	var next *kube.Secret
	if len(s.Data["tls.crt"])+len(s.Data["cert"])+len(s.Data["ca.crt"])+len(s.Data["cacert"]) > 0 {
		next = kube.LowerSecret(s)
	}
	return w.setSecret(n, next)
}

func (w *world) noSecret(n types.NamespacedName) []config.Fact { return w.setSecret(n, nil) }

func (w *world) setSecret(n types.NamespacedName, next *kube.Secret) []config.Fact {
	was := w.secrets[n]
	switch {
	case was == nil && next == nil:
		return nil
	case next == nil:
		delete(w.secrets, n)
		return fact(id("", "Secret", n), nil)
	case was != nil && was.Equal(next):
		return nil
	}
	w.secrets[n] = next
	return fact(id("", "Secret", n), next)
}
