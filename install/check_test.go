package install

import (
	"strings"
	"testing"
)

// What the API server would refuse when half is made is refused at once, by the name of the setting and with what to say instead.
func TestBadValuesAreRefusedAtOnce(t *testing.T) {
	for _, c := range []struct {
		set  string
		says []string // none: it is accepted
	}{
		{"pilot.replicaCount=-1", []string{"--set pilot.replicaCount=-1", "at least 1"}},
		{"pilot.replicaCount=0", []string{"pilot.replicaCount=0", "at least 1"}},
		{"pilot.replicaCount=1.5", []string{"pilot.replicaCount", "1.5"}},
		{"pilot.replicaCount=3", nil},
		{"gateways.istio-ingressgateway.replicaCount=-1", []string{"gateways.istio-ingressgateway.replicaCount=-1", "at least 0"}},
		{"gateways.istio-ingressgateway.replicaCount=0", nil},
		{"pilot.resources.requests.memory=lots", []string{"pilot.resources.requests.memory", "lots", "128Mi"}},
		{"pilot.resources.limits.memory=lots", []string{"pilot.resources.limits.memory", "lots", "128Mi"}},
		{"pilot.resources.limits.memory=64Mi", []string{"pilot.resources.requests.memory=128Mi", "pilot.resources.limits.memory", "raise the limit"}},
		{"pilot.resources.limits.memory=-1Gi", []string{"pilot.resources", "negative"}},
		{"pilot.resources.limits.memroy=1Gi", []string{"pilot.resources.limits.memroy", "no such resource"}},
		{"pilot.resources.least.memory=1Gi", []string{"pilot.resources", "requests and limits"}},
		{"pilot.resources=null", nil},
		{"pilot.resources.limits.memory=1Gi", nil},
		{"pilot.resources.limits.cpu=1", nil},
		{"global.proxy.resources.limits.memory=lots", []string{"global.proxy.resources.limits.memory", "128Mi"}},
		{"cni.resources.limits.memory=lots", []string{"cni.resources.limits.memory", "128Mi"}},
		{"global.imagePullPolicy=Sometimes", []string{"global.imagePullPolicy=Sometimes", "Always, IfNotPresent, Never"}},
		{"global.imagePullPolicy=Always", nil},
		{"global.imagePullSecrets=mine", []string{"global.imagePullSecrets", "global.imagePullSecrets[0]=mine"}},
		{"pilot.tolerations=all", []string{"pilot.tolerations", "a list", "pilot.tolerations[0].key=dedicated"}},
		{"pilot.tolerations.key=all", []string{"pilot.tolerations"}},
		{"pilot.tolerations[0].kye=all", []string{"pilot.tolerations", "kye"}},
		{"pilot.tolerations[0].operator=Exists", nil},
		{"global.defaultTolerations=all", []string{"global.defaultTolerations", "a list"}},
		{"pilot.nodeSelector.a=true", []string{"pilot.nodeSelector", "texts"}},
		{"pilot.affinity.x=y", []string{"pilot.affinity", "kubectl explain"}},
		{"global.priorityClassName=Not_A_Name", []string{"global.priorityClassName=Not_A_Name", "system-cluster-critical"}},
		{"global.priorityClassName=system-cluster-critical", nil},
		{"cni.port=0", []string{"cni.port=0", "1 to 65535"}},
		{"cni.port=70000", []string{"cni.port=70000", "1 to 65535"}},
		{"cni.cniBinDir=opt/cni", []string{"cni.cniBinDir=opt/cni", "whole path"}},
		{"cni.cniConfDir=/a/../b", []string{"cni.cniConfDir", "whole path"}},
		{"cni.cniBinDir=/var/lib/cni/bin", nil},
		{"cni.rollingMaxUnavailable=0", []string{"cni.rollingMaxUnavailable=0", "at least 1"}},
		{"pilot.autoscaleMin=0", []string{"pilot.autoscaleMin=0", "at least 1"}},
		{"pilot.cpu.targetAverageUtilization=0", []string{"pilot.cpu.targetAverageUtilization=0", "at least 1"}},
		{"pilot.cpu.targetAverageUtilization=-5", []string{"pilot.cpu.targetAverageUtilization=-5", "at least 1"}},
		{"gateways.istio-ingressgateway.type=Balancer", []string{"gateways.istio-ingressgateway.type=Balancer", "LoadBalancer"}},
		{"gateways.istio-ingressgateway.externalTrafficPolicy=Here", []string{"externalTrafficPolicy=Here", "Cluster, Local"}},
	} {
		_, err := Render(Settings{Set: []string{c.set}})
		if (err == nil) != (c.says == nil) {
			t.Errorf("%s: %v", c.set, err)
		}
		for _, want := range c.says {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", c.set, err, want)
			}
		}
	}
}
