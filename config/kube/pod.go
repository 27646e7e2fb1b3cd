package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Annotations and labels of Pods that say something about the workload.
const (
	annotationProxied   = "sidecar.istio.io/status"
	annotationTemplates = "inject.istio.io/templates"
	annotationAdmin     = "weir.dev/admin"
	annotationInbound   = "weir.dev/inbound"
	labelTLSMode        = "security.istio.io/tlsMode"
	labelLocality       = "topology.istio.io/locality"
	labelTemplateHash   = "pod-template-hash"
	defaultServiceAcct  = "default"
)

func (l *lowerer) pod(p *corev1.Pod) *mesh.Workload {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	w := &mesh.Workload{
		Ref: l.o.Ref, Name: p.Name, Namespace: p.Namespace, Labels: labels(p.Labels), Annotations: p.Annotations,
		ServiceAccount: p.Spec.ServiceAccountName, Ports: namedPorts(p.Spec.Containers), Declared: declared(p.Spec.Containers), Health: health(p),
		AdminAddr: p.Annotations[annotationAdmin],
	}
	if w.ServiceAccount == "" {
		w.ServiceAccount = defaultServiceAcct
	}
	// A gateway is called in plaintext unless a DestinationRule says otherwise: what its ports speak is up to Gateways.
	if p.Annotations[annotationTemplates] != "gateway" {
		_, w.Proxied = p.Annotations[annotationProxied]
		w.Proxied = w.Proxied || p.Labels[labelTLSMode] == "istio"
	}
	w.Settled = p.Spec.HostNetwork || cmp.Or(p.Labels[config.InjectLabel], p.Annotations[config.InjectLabel]) == "false" ||
		slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool { return c.Name == proxyContainer })
	w.Owner, w.OwnerKind = owner(p)
	w.Locality = dottedLocality(p.Labels[labelLocality])
	ips := p.Status.PodIPs
	path := func(i int) string { return document.Index("status.podIPs", i) + ".ip" }
	if len(ips) == 0 && p.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
		path = func(int) string { return "status.podIP" }
	}
	for i, ip := range ips {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil {
			l.Invalid(path(i), fmt.Sprintf("%q is not an IP address", ip.IP), "for example 10.0.0.1 or fd00::1")
			continue
		}
		w.Addresses = append(w.Addresses, addr.Unmap())
	}
	l.published(w, p.Annotations[annotationInbound])
	if len(ips) == 0 {
		l.Add(config.KindNotUsed, "kind", "a Pod without an address is not part of the mesh, and Pods are not started", "write a Deployment")
		return nil
	}
	return w
}

// published reads "9080=127.7.0.1:9080->127.0.0.1:41234,…": where the proxy of a workload
// without a network of its own accepts connections for its ports. Only the machine itself
// can be named.
func (l *lowerer) published(w *mesh.Workload, list string) {
	if list == "" {
		return
	}
	for entry := range strings.SplitSeq(list, ",") {
		number, rest, ok1 := strings.Cut(entry, "=")
		bind, _, ok2 := strings.Cut(rest, "->")
		port, err1 := strconv.ParseUint(number, 10, 16)
		at, err2 := netip.ParseAddrPort(bind)
		if !ok1 || !ok2 || err1 != nil || err2 != nil || !at.Addr().IsLoopback() || at.Port() == 0 {
			l.Add(config.BadMetadata, document.Key("metadata.annotations", annotationInbound), fmt.Sprintf("%q is not of the form PORT=LOOPBACK-ADDRESS:PORT->ADDRESS:PORT", entry), "for example 9080=127.1.0.1:9080->127.0.0.1:41234")
			continue
		}
		if at.Port() == uint16(port) && slices.Contains(w.Addresses, at.Addr()) {
			continue
		}
		if w.Published == nil {
			w.Published = map[uint16]netip.AddrPort{}
		}
		w.Published[uint16(port)] = at
	}
}

// declared are the ports at which containers of an application say that they listen; nil if one of them says nothing, since it may
// listen anywhere.
func declared(containers []corev1.Container) (out []uint16) {
	for _, c := range containers {
		if c.Name == proxyContainer {
			continue
		}
		before := len(out)
		for _, p := range c.Ports {
			if p.ContainerPort >= 1 && p.ContainerPort <= 65535 && p.Protocol != corev1.ProtocolUDP {
				out = append(out, uint16(p.ContainerPort))
			}
		}
		if len(out) == before {
			return nil
		}
	}
	return out
}

func namedPorts(containers []corev1.Container) map[string]uint16 {
	var out map[string]uint16
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.Name == "" || p.ContainerPort < 1 || p.ContainerPort > 65535 {
				continue
			}
			if out == nil {
				out = map[string]uint16{}
			}
			out[p.Name] = uint16(p.ContainerPort)
		}
	}
	return out
}

func health(p *corev1.Pod) mesh.Health {
	if p.DeletionTimestamp != nil {
		return mesh.Draining
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return mesh.Healthy
		}
	}
	return mesh.Unhealthy
}

// owner names what made the Pod; behind a ReplicaSet stands its Deployment.
func owner(p *corev1.Pod) (name, kind string) {
	refs := p.OwnerReferences
	if len(refs) == 0 {
		return p.Name, "Pod"
	}
	ref := refs[0]
	for _, r := range refs {
		if r.Controller != nil && *r.Controller {
			ref = r
		}
	}
	if ref.Kind != "ReplicaSet" {
		return ref.Name, ref.Kind
	}
	suffix := "-" + p.Labels[labelTemplateHash]
	if base, ok := strings.CutSuffix(ref.Name, suffix); ok && suffix != "-" {
		return base, "Deployment"
	}
	if i := strings.LastIndexByte(ref.Name, '-'); i > 0 && suffix == "-" {
		return ref.Name[:i], "Deployment"
	}
	return ref.Name, "ReplicaSet"
}

// dottedLocality reads "region.zone.subzone", as a label has no slashes.
func dottedLocality(s string) mesh.Locality {
	var parts [3]string
	copy(parts[:], strings.SplitN(s, ".", 3))
	return mesh.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}

func (l *lowerer) deployment(d *appsv1.Deployment) {
	if d.Spec.Replicas != nil && *d.Spec.Replicas < 0 {
		l.Invalid("spec.replicas", fmt.Sprintf("%d is too small", *d.Spec.Replicas), "give 0 or more")
	}
	l.Meta(&d.Spec.Template.ObjectMeta, template+".metadata")
	switch sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); {
	case d.Spec.Selector == nil:
		l.Invalid("spec.selector", "is missing", "repeat the labels of spec.template under spec.selector.matchLabels")
	case err != nil:
		l.Invalid("spec.selector", err.Error(), "repeat the labels of spec.template under spec.selector.matchLabels")
	case sel.Empty():
		l.Invalid("spec.selector", "is empty", "repeat the labels of spec.template under spec.selector.matchLabels")
	case !sel.Matches(apilabels.Set(d.Spec.Template.Labels)):
		l.Invalid(template+".metadata.labels", fmt.Sprintf("do not match spec.selector (%s)", sel), "make both the same")
	}
	spec := d.Spec.Template.Spec
	l.containers(template+".spec.initContainers", spec.InitContainers)
	l.containers(template+".spec.containers", spec.Containers)
	if len(spec.Containers) == 0 {
		l.Invalid(template+".spec.containers", "is missing", "add at least one container")
	}
	if n := spec.ServiceAccountName; n != "" && len(validation.IsDNS1123Subdomain(n)) > 0 {
		l.Invalid(template+".spec.serviceAccountName", fmt.Sprintf("%q is not the name of a service account", n), "use lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit")
	}
}

func (l *lowerer) containers(path string, cs []corev1.Container) {
	names := map[string]bool{}
	for i, c := range cs {
		at := document.Index(path, i)
		switch {
		case c.Name == "":
			l.Invalid(at+".name", "is missing", "name the container")
		case len(validation.IsDNS1123Label(c.Name)) > 0:
			l.Invalid(at+".name", fmt.Sprintf("%q is not a container name", c.Name), "use lower-case letters, digits and '-', at most 63")
		case names[c.Name]:
			l.Invalid(at+".name", fmt.Sprintf("%q is the name of another container, too", c.Name), "rename one of the two")
		}
		names[c.Name] = true
		if c.Image == "" && len(c.Command) == 0 {
			l.Invalid(at+".image", "is missing", "name an image, or give command")
		}
		for j, p := range c.Ports {
			l.number(document.Index(at+".ports", j)+".containerPort", p.ContainerPort)
		}
		for j, e := range c.Env {
			if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") {
				l.Invalid(document.Index(at+".env", j)+".name", fmt.Sprintf("%q is not the name of a variable", e.Name), "use letters, digits and '_', not beginning with a digit")
			}
			if e.Value != "" && e.ValueFrom != nil {
				l.Invalid(document.Index(at+".env", j)+".valueFrom", "cannot be given together with value", "keep one of the two")
			}
		}
	}
}
