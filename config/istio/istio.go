// Package istio understands Istio's objects: it decodes them strictly, checks them as
// Istio does and lowers them into the plan's words (mesh, registry).
//
// One config.Object enters Lower; its lowered form and all findings about it leave. An
// object is judged alone: what other objects say is the business of config/analyze.
// Lower is pure: the caller may keep its result for as long as the object's Place does
// not change. Any number of goroutines may call it.
package istio

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// Options are what lowering an object depends on besides the object.
type Options struct {
	DomainSuffix string // "cluster.local"
}

// Lower returns one of *mesh.VirtualService, *mesh.DestinationRule, *mesh.Gateway, *mesh.Sidecar, *mesh.PeerAuthentication,
// *mesh.RequestAuthentication, *mesh.AuthorizationPolicy, *mesh.Workload (WorkloadEntry), []*registry.Service (ServiceEntry),
// and of objects of Istio before 1.5 those of config/legacy; nil if there is an error among the findings.
func Lower(o *config.Object, opts Options) (any, []config.Finding) {
	l := &lowerer{Report: config.NewReport(o), o: o, ns: o.ID.Namespace, suffix: opts.DomainSuffix}
	var out any
	switch o.ID.Group + "/" + o.ID.Kind {
	case "networking.istio.io/VirtualService":
		out = decode(l, &networkingv1alpha3.VirtualService{}, l.virtualService)
	case "networking.istio.io/DestinationRule":
		out = decode(l, &networkingv1alpha3.DestinationRule{}, l.destinationRule)
	case "networking.istio.io/Gateway":
		out = decode(l, &networkingv1alpha3.Gateway{}, l.gateway)
	case "networking.istio.io/ServiceEntry":
		out = decode(l, &networkingv1alpha3.ServiceEntry{}, l.serviceEntry)
	case "networking.istio.io/WorkloadEntry":
		out = decode(l, &networkingv1alpha3.WorkloadEntry{}, l.workloadEntry)
	case "networking.istio.io/Sidecar":
		out = decode(l, &networkingv1alpha3.Sidecar{}, l.sidecar)
	case "security.istio.io/PeerAuthentication":
		out = decode(l, &securityv1beta1.PeerAuthentication{}, l.peerAuthentication)
	case "security.istio.io/RequestAuthentication":
		out = decode(l, &securityv1beta1.RequestAuthentication{}, l.requestAuthentication)
	case "security.istio.io/AuthorizationPolicy":
		out = decode(l, &securityv1beta1.AuthorizationPolicy{}, l.authorizationPolicy)
	case "rbac.istio.io/ServiceRole", "rbac.istio.io/ServiceRoleBinding", "rbac.istio.io/RbacConfig", "rbac.istio.io/ClusterRbacConfig",
		"authentication.istio.io/Policy", "authentication.istio.io/MeshPolicy":
		out = l.legacy()
	default:
		l.Add(config.KindNotEnforced, "kind", "Istio's "+o.ID.Kind+" is not enforced in this version", "remove it, or do not rely on it")
	}
	if l.Failed() {
		return nil, l.Findings
	}
	return out, l.Findings
}

// lowerer is the work on one object.
type lowerer struct {
	*config.Report
	o      *config.Object
	ns     string
	suffix string
	meta   metav1.ObjectMeta
}

// decode reads metadata and spec, and goes on to check and lower what could be read: one
// wrong field should not hide the others.
func decode[M proto.Message, T any](l *lowerer, spec M, lower func(M) T) any {
	root := l.Root()
	for _, f := range root.Fields {
		switch f.Name {
		case "apiVersion", "kind", "metadata", "spec", "status":
		default:
			hint := "the fields of an object are apiVersion, kind, metadata and spec"
			if s := document.Suggest(f.Name, []string{"metadata", "spec"}); s != "" {
				hint = "did you mean " + s + "?"
			} else if spec.ProtoReflect().Descriptor().Fields().ByJSONName(f.Name) != nil {
				hint = f.Name + " belongs in spec: indent it"
			}
			l.Problem(document.Problem{Path: f.Name, Line: f.Line, Message: "unknown field \"" + f.Name + "\"", Hint: hint})
		}
	}
	if m := root.Get("metadata"); m != nil {
		document.Struct(m, "metadata", &l.meta, l.Problem)
		l.Meta(&l.meta, "metadata")
	}
	if v := root.Get("spec"); v != nil && v.Kind != document.Null {
		document.Proto(v, "spec", spec, l.problem)
		l.unenforced(v)
	}
	return lower(spec)
}

// problem adds the successor of a deprecated field.
func (l *lowerer) problem(p document.Problem) {
	if p.Deprecated && p.Hint == "" {
		p.Hint = successor(p.Path)
	}
	l.Problem(p)
}

// sortedKeys makes reports about maps come in one order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
