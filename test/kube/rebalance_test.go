package kube

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// A replica of the control plane that comes back to another that holds all proxies gets its part of
// them, about half, and no request fails meanwhile.
func TestRebalanced(t *testing.T) {
	c, _ := meshed(t, "--set", "gateways.istio-ingressgateway.enabled=false")
	t.Cleanup(func() { install(t) })
	const pods = 29
	c.Apply(withImages(t, fmt.Sprintf(idle, pods)))
	c.Apply(withImages(t, web))
	c.Ready("app", 2*booting)
	log := calling(t, c, "load", true, 100, "http://web/")
	c.Until("all are connected", cluster.Patience, func() string {
		of, err := shares(c)
		if err != nil {
			return err.Error()
		}
		for _, n := range of {
			if len(of) == 1 && n == pods+2 {
				return ""
			}
		}
		return fmt.Sprint(of)
	})
	scale(c, "istiod", 2)
	began := time.Now()
	c.Until("both have about as many", 5*time.Minute, func() string {
		of, err := shares(c)
		if err != nil {
			return err.Error()
		}
		for _, n := range of {
			if len(of) != 2 || n < 12 { // a share less a tenth, or three
				return fmt.Sprint(of)
			}
		}
		t.Logf("%v after %v", of, time.Since(began).Round(time.Second))
		return ""
	})
	stopped(t, c, "load", log)
}

// idle is pods that do nothing but have a proxy.
const idle = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle}
spec:
  replicas: %d
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: "HUB/weir-sample:TAG", args: [sleep]}]}
`
