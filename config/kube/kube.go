// Package kube understands the objects of Kubernetes that a mesh is made of: it decodes
// them strictly, checks what the API server would refuse and lowers Services and Pods
// into the plan's words.
//
// One config.Object enters Lower, or an object of an API server LowerService, LowerPod,
// LowerSecret; the lowered form and all findings about it leave. All of it is pure, and any
// number of goroutines may call it. There is no Kubernetes client here.
package kube

import (
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

// Options are what lowering an object depends on besides the object.
type Options struct {
	DomainSuffix string // "cluster.local"
}

// Secret is a v1 Secret whose values do not print themselves.
type Secret struct {
	Namespace, Name string
	Type            corev1.SecretType
	Data            map[string]redact.Bytes
}

// Lower returns []*registry.Service (of a Service), *mesh.Workload (of a Pod, nil if it
// has no address), *appsv1.Deployment, *corev1.ServiceAccount, *corev1.Namespace,
// *corev1.ConfigMap or *Secret, or nil if there is an error among the findings.
func Lower(o *config.Object, opts Options) (any, []config.Finding) {
	l := &lowerer{Report: config.NewReport(o), o: o, suffix: opts.DomainSuffix}
	var out any
	switch o.ID.Kind {
	case "Service":
		s := decode(l, &corev1.Service{})
		out = l.service(s)
		l.examine(inject.Examined{Kind: "Service", Meta: &s.ObjectMeta})
	case "Pod":
		p := decode(l, &corev1.Pod{})
		if w := l.pod(p); w != nil {
			out = w
		}
		if len(p.OwnerReferences) == 0 { // else its owner says the same
			l.examine(inject.Examined{Kind: "Pod", Meta: &p.ObjectMeta, Spec: &p.Spec})
		}
	case "Deployment":
		d := decode(l, &appsv1.Deployment{})
		l.deployment(d)
		l.examine(inject.Examined{Kind: "Deployment", Meta: &d.ObjectMeta})
		l.examine(inject.Examined{Kind: "Pod", Path: template, Meta: &d.Spec.Template.ObjectMeta, Owner: &d.ObjectMeta, Spec: &d.Spec.Template.Spec})
		out = d
	case "ServiceAccount":
		out = decode(l, &corev1.ServiceAccount{})
	case "Namespace":
		n := decode(l, &corev1.Namespace{})
		l.examine(inject.Examined{Kind: "Namespace", Meta: &n.ObjectMeta})
		out = n
	case "ConfigMap":
		c := decode(l, &corev1.ConfigMap{})
		for k := range c.BinaryData {
			if _, ok := c.Data[k]; ok {
				l.Invalid(document.Key("binaryData", k), fmt.Sprintf("%q is a key of data, too", k), "rename one of the two")
			}
		}
		out = c
	case "Secret":
		out = l.secret()
	default:
		l.Add(config.KindNotUsed, "kind", o.ID.Kind+" is not used", "")
	}
	if l.Failed() {
		return nil, l.Findings
	}
	return out, l.Findings
}

// LowerService lowers a Service of an API server. What is wrong with it is told, and the
// rest of it is right: it was accepted, and somebody uses it.
func LowerService(s *corev1.Service, opts Options) ([]*registry.Service, []config.Finding) {
	ref := refOf("Service", s)
	l := &lowerer{Report: config.ReportOn(ref), o: &config.Object{Ref: ref}, suffix: opts.DomainSuffix}
	out := l.service(s)
	l.examine(inject.Examined{Kind: "Service", Meta: &s.ObjectMeta})
	return out, l.Findings
}

// LowerPod lowers a Pod of an API server; nil if it has no address, or has ended. Where it
// is reached is what its status says: annotations of ours, by which `weir up` says it, are
// anybody's in a cluster.
func LowerPod(p *corev1.Pod) *mesh.Workload {
	ref := refOf("Pod", p)
	l := &lowerer{Report: config.ReportOn(ref), o: &config.Object{Ref: ref}}
	w := l.pod(p)
	if w == nil {
		return nil
	}
	if mode, ok := p.Labels[labelTLSMode]; ok {
		w.Proxied = mode == "istio"
	}
	w.Annotations, w.Published, w.AdminAddr = nil, nil, ""
	return w
}

// LowerSecret lowers a Secret of an API server.
func LowerSecret(s *corev1.Secret) *Secret {
	out := &Secret{Namespace: s.Namespace, Name: s.Name, Type: s.Type, Data: make(map[string]redact.Bytes, len(s.Data))}
	for k, v := range s.Data {
		out.Data[k] = redact.New(v)
	}
	return out
}

// Equal reports whether two Secrets hold the same.
func (s *Secret) Equal(o *Secret) bool {
	return s.Type == o.Type && maps.EqualFunc(s.Data, o.Data, redact.Bytes.Equal)
}

func refOf(kind string, o metav1.Object) mesh.Ref {
	return mesh.Ref{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), Created: o.GetCreationTimestamp().Unix()}
}

type lowerer struct {
	*config.Report
	o      *config.Object
	suffix string
}

func decode[T metav1.Object](l *lowerer, to T) T {
	document.Struct(l.Root(), "", to, l.Problem)
	to.SetNamespace(l.o.ID.Namespace)
	l.Meta(&metav1.ObjectMeta{Labels: to.GetLabels(), Annotations: to.GetAnnotations()}, "metadata")
	return to
}

func (l *lowerer) secret() *Secret {
	s := decode(l, &corev1.Secret{})
	out := &Secret{Namespace: s.Namespace, Name: s.Name, Type: s.Type, Data: make(map[string]redact.Bytes, len(s.Data)+len(s.StringData))}
	for k, v := range s.Data {
		out.Data[k] = redact.New(v)
	}
	for k, v := range s.StringData { // as the API server: stringData wins
		out.Data[k] = redact.New([]byte(v))
	}
	return out
}

// number checks a port number.
func (l *lowerer) number(path string, n int32) uint16 {
	if n < 1 || n > 65535 {
		l.Invalid(path, fmt.Sprintf("port %d does not exist", n), "a port is a number from 1 to 65535")
		return 0
	}
	return uint16(n)
}
