package kube

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// Before a version is installed it is said what it changes: nothing where it is the same with the same settings, and with others what
// follows from them, for whom. A revision that stands beside the one that runs is asked itself. Proxies of the cluster show what they hold.
func TestUpgradePlan(t *testing.T) {
	c, _ := meshed(t, "--set", "gateways.istio-ingressgateway.enabled=false")
	t.Cleanup(func() { install(t) })
	c.Apply(withImages(t, web))
	c.Ready("app", booting)
	plan := func(flags ...string) (string, error) {
		out, errs, err := weir(t, ofImages(t, append([]string{"upgrade", "plan", c.Namespace, "--set", "gateways.istio-ingressgateway.enabled=false"}, flags...)...)...)
		return out + errs, err
	}
	c.Until("the same changes nothing", cluster.Patience, func() string {
		out, err := plan()
		if err != nil || !strings.Contains(out, "1 workload compared") || !strings.Contains(out, "nothing changes") {
			return out
		}
		return ""
	})
	out, err := plan("--set", "meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY")
	for _, want := range []string{`"PassthroughCluster" → "BlackHoleCluster"`, "for " + c.Namespace + "/web", "configmap/istio in istio-system"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, and not %q in\n%s", err, want, out)
		}
	}
	must(t, ofImages(t, "install", "--revision", "next")...)
	t.Cleanup(func() { must(t, "uninstall", "--revision", "next", "--yes") })
	c.Until("a revision of the same version changes nothing", cluster.Patience, func() string {
		out, errs, err := weir(t, "upgrade", "plan", c.Namespace, "--to", "next")
		if err != nil {
			return out + errs
		}
		return ""
	})
	if out := must(t, "proxy-config", "listener", "web", "-n", c.Namespace); !strings.Contains(out, "15006") {
		t.Errorf("the listeners of a pod:\n%s", out)
	}
	if out := must(t, "proxy", "web", "ready", "-n", c.Namespace); !strings.Contains(out, "ready") {
		t.Errorf("readiness of a pod: %s", out)
	}
}
