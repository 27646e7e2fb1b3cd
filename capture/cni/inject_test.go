package cni_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/cni"
	"github.com/weirmesh/weir/capture/flags"
	"github.com/weirmesh/weir/inject"
)

// Whatever a pod's annotations and the installation's values say of capture: the node makes
// the rules that the pod's own init container would have made.
func TestSameRulesAsInit(t *testing.T) {
	for _, c := range []struct {
		name, values string
		annotations  map[string]string
	}{
		{"nothing said", "", nil},
		{"ports and networks left out", "", map[string]string{"traffic.sidecar.istio.io/excludeInboundPorts": "22,9090", "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
			"traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.9.0.0/16,2001:db8::/32"}},
		{"few taken", "", map[string]string{"traffic.sidecar.istio.io/includeInboundPorts": "8080", "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.96.0.0/12",
			"traffic.sidecar.istio.io/includeOutboundPorts": "443"}},
		{"nothing taken", "", map[string]string{"traffic.sidecar.istio.io/includeInboundPorts": "", "traffic.sidecar.istio.io/includeOutboundIPRanges": ""}},
		{"interfaces", "", map[string]string{"traffic.sidecar.istio.io/excludeInterfaces": "net1", "istio.io/reroute-virtual-interfaces": "tap0"}},
		{"clients' addresses", "", map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY"}},
		{"the installation's values", `"proxy": {"excludeIPRanges": "10.1.0.0/16", "includeInboundPorts": "80", "excludeOutboundPorts": "25"}`, nil},
	} {
		for _, ipv6 := range []bool{false, true} {
			container := func(cni, name string) *corev1.Container {
				s, _, err := inject.NewSettings(inject.Source{Values: `{"pilot": {"cni": {"enabled": ` + cni + `}}, "global": {` + c.values + `}}`}, "1")
				if err != nil {
					t.Fatal(err)
				}
				r := inject.Inject(inject.Input{Namespace: inject.Namespace{Name: "shop"}, Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: c.annotations},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web"}}}}}, s)
				if r.Pod == nil {
					t.Fatalf("%s: %v", c.name, r.Findings)
				}
				for i := range r.Pod.Spec.InitContainers {
					if r.Pod.Spec.InitContainers[i].Name == name {
						return &r.Pod.Spec.InitContainers[i]
					}
				}
				t.Fatalf("%s: no %s", c.name, name)
				return nil
			}
			o, err := flags.Parse(container("false", "istio-init").Args, flags.Place{Env: func(string) (string, bool) { return "", false }, IPv6: ipv6,
				Resolvers: func() ([]netip.Addr, error) { return nil, nil }, User: func(string) (uint32, error) { return 0, errors.New("none") }})
			if err != nil {
				t.Fatal(err)
			}
			want, err := capture.Rules(o.Config)
			if err != nil {
				t.Fatal(err)
			}
			got, err := cni.Rules(container("true", cni.ValidationContainer), ipv6)
			if d := cmp.Diff(want.String(), got.String()); d != "" || err != nil {
				t.Errorf("%s, IPv6 %v: %v (-want +got)\n%s", c.name, ipv6, err, d)
			}
		}
	}
}
