package store

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
)

// groups are the API groups of the kinds that a mesh.Ref can name.
var groups = map[string]string{
	"VirtualService": "networking.istio.io", "DestinationRule": "networking.istio.io", "Gateway": "networking.istio.io",
	"ServiceEntry": "networking.istio.io", "WorkloadEntry": "networking.istio.io", "Sidecar": "networking.istio.io", "PeerAuthentication": "security.istio.io", "Deployment": "apps",
}

func idOf(ref mesh.Ref) config.ID {
	return config.ID{Group: groups[ref.Kind], Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
}

// input is what the findings across objects are about: what is in force.
func (s *Store) input() analyze.Input {
	in := analyze.Input{
		Snapshot: s.snapshot, Assume: s.o.Assume,
		Accounts: map[mesh.Key]bool{}, ConfigMaps: map[mesh.Key]*corev1.ConfigMap{}, Secrets: map[mesh.Key]*kube.Secret{},
	}
	for o := range s.objects.Values() {
		k := mesh.NewKey(o.ID.Namespace, o.ID.Name)
		if o.Serving != nil && strings.HasSuffix(o.ID.Group, ".istio.io") && !s.scope.discovers(o.ID.Namespace) {
			in.Outside = append(in.Outside, o.Serving.Ref)
		}
		switch v := o.Lowered.(type) {
		case *appsv1.Deployment:
			in.Deployments = append(in.Deployments, analyze.Deployment{Ref: o.Serving.Ref, Deployment: v})
		case *corev1.ServiceAccount:
			in.Accounts[k] = true
		case *corev1.ConfigMap:
			in.ConfigMaps[k] = v
		case *kube.Secret:
			in.Secrets[k] = v
		}
	}
	in.Object = func(ref mesh.Ref) *config.Object {
		o := s.objects.At(idOf(ref).String())
		if o == nil {
			return nil
		}
		return o.Serving
	}
	return in
}
