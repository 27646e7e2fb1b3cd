package plan

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

// service is the kind of object that most services come from.
const service = "Service"

// From collects the Input in an Update: the objects in force. The Services in it have the
// index and the addresses that the control plane gave them; pending are those it did not
// give any yet.
func From(u *store.Update, given map[mesh.Key]registry.Allocation) (in Input, pending []mesh.Key) {
	in.ConfigMaps = map[mesh.Key]*corev1.ConfigMap{}
	in.Secrets = map[mesh.Key]*kube.Secret{}
	for o, d := range store.Lowered[*appsv1.Deployment](u) {
		in.Deployments = append(in.Deployments, Deployment{Ref: o.Serving.Ref, Object: d, LineOf: o.Serving.LineOf})
	}
	for o, c := range store.Lowered[*corev1.ConfigMap](u) {
		in.ConfigMaps[mesh.NewKey(o.ID.Namespace, o.ID.Name)] = c
	}
	for o, s := range store.Lowered[*kube.Secret](u) {
		in.Secrets[mesh.NewKey(o.ID.Namespace, o.ID.Name)] = s
	}
	for k, s := range u.Snapshot.Services.All() {
		if strings.HasPrefix(s.Hostname, "*") {
			continue // is no name to call
		}
		a, ok := given[k]
		if !ok {
			pending = append(pending, k)
		}
		with := *s
		with.Index, with.Addresses = a.Index, slices.Clone(a.Addresses)
		in.Hosts = append(in.Hosts, &with)
		if s.Ref.Kind == service {
			in.Services = append(in.Services, &with)
		}
	}
	return in, pending
}
