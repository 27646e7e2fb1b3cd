package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// chat is a service of WebSockets, and a pod that holds a thousand of them open.
const chat = `
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat}
spec:
  replicas: 2
  selector: {matchLabels: {app: chat}}
  template:
    metadata: {labels: {app: chat}}
    spec: {containers: [{name: app, image: "HUB/weir-sample:TAG", args: [websocket]}]}
`

const holder = `
apiVersion: v1
kind: Pod
metadata: {name: holder, labels: {app: holder}}
spec:
  restartPolicy: Never
  containers: [{name: app, image: "HUB/weir-sample:TAG", args: [websocket-client, --open, "1000", --every, 5s, --timeout, 30s, --url, "ws://chat/"]}]
`

// A namespace goes from one revision of the control plane to another beside it and back, by its
// tag, and the gateway with it, under a hundred requests a second within and fifty through the gateway: none fails. Of a thousand WebSockets in it none is closed, until
// the pods end that serve them.
func TestUpgrade(t *testing.T) {
	c := cluster.Connect(t, "istio.io/rev=weir-e2e")
	install(t)
	must(t, "tag", "set", "weir-e2e", "--revision", "default", "--overwrite")
	t.Cleanup(func() {
		must(t, "tag", "remove", "weir-e2e", "--yes")
		must(t, "uninstall", "--revision", "next", "--yes")
	})
	streams := c.In(t)
	streams.Namespace = c.NewNamespace("istio.io/rev=weir-e2e")
	streams.Apply(withImages(t, chat))
	c.Apply(withImages(t, strings.ReplaceAll(pair, "NAME", "web")))
	streams.Ready("app", booting)
	c.Ready("app", booting)
	streams.Apply(withImages(t, holder))
	streams.Until("holder is ready", booting, func() string { return cluster.Unready(streams.MustPod("holder")) })
	held := streams.Follow("holder", "app")
	streams.Until("all WebSockets are open", booting, func() string {
		if !strings.Contains(held.All(), "all 1000 are open") {
			return held.All()
		}
		return ""
	})
	log := calling(t, c, "caller", true, 100, "http://web/")

	// of is the revision whose proxies the pods of web have.
	of := func(revision string) {
		for _, p := range c.Pods("app=web") {
			if got := p.Labels["istio.io/rev"]; got != revision && !strings.Contains(p.Annotations["sidecar.istio.io/status"], `"revision":"`+revision+`"`) {
				t.Errorf("pod %s has a proxy of %q, want %s: %s", p.Name, got, revision, p.Annotations["sidecar.istio.io/status"])
			}
		}
	}
	// edge is the revision of the gateway, whose pods have their proxies from its control plane.
	edge := func(revision string) {
		t.Helper()
		c.Until("the gateway is of revision "+revision, booting, func() string {
			d, err := c.Client.AppsV1().Deployments("istio-system").Get(t.Context(), "istio-ingressgateway", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if !cluster.RolledOut(d) {
				return fmt.Sprintf("%d of %d pods", d.Status.AvailableReplicas, *d.Spec.Replicas)
			}
			want := map[string]string{"default": "istiod.istio-system.svc:15012"}[revision]
			if want == "" {
				want = "istiod-" + revision + ".istio-system.svc:15012"
			}
			for _, e := range d.Spec.Template.Spec.Containers[0].Env {
				if e.Name == "CA_ADDR" && e.Value != want {
					return "it asks " + e.Value
				}
			}
			return ""
		})
	}
	of("default")
	edge("default")
	c.Apply(toWeb)
	c.Until("the gateway serves it", booting, func() string {
		if out, err := c.Exec(c.Pod("app=web").Name, "app", "curl", "-sSf", "-m", "5", "http://istio-ingressgateway.istio-system/"); err != nil {
			return fmt.Sprint(out, err)
		}
		return ""
	})
	outside := calling(t, c, "outside", false, 50, "http://istio-ingressgateway.istio-system/")
	began := time.Now()
	install(t, "--revision", "next")
	for _, revision := range []string{"next", "default"} {
		must(t, "tag", "set", "weir-e2e", "--revision", revision, "--overwrite")
		restart(c, c.Namespace)
		of(revision)
		install(t, "--revision", revision, "--set", "gateways.istio-ingressgateway.enabled=true")
		edge(revision)
	}
	must(t, "uninstall", "--revision", "next", "--yes")
	t.Logf("there and back in %v", time.Since(began).Round(time.Second))
	stopped(t, c, "caller", log)
	stopped(t, c, "outside", outside)
	if all := held.All(); strings.Count(all, "\n") > 0 {
		t.Errorf("WebSockets did not stay: %s", all)
	}

	restart(streams, streams.Namespace)
	streams.Until("all are open again", booting, func() string {
		if all := held.All(); strings.Count(all, "all 1000 are open") < 2 {
			return all
		}
		return ""
	})
	if err := c.Client.CoreV1().Pods(streams.Namespace).Delete(t.Context(), "holder", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-held.Ended()
	t.Logf("WebSockets: %s", held.All())
	if all := held.All(); !strings.Contains(all, `"lost":0,"refused":0`) || strings.Contains(all, `"left":0`) {
		t.Error("not as it should be")
	}
}
