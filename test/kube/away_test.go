package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// pair is a service of two pods.
const pair = `
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 2
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: app, image: "HUB/weir-sample:TAG", args: [echo, --version, NAME]}]}
`

// scale gives a Deployment of the mesh's so many pods, and waits for them.
func scale(c *cluster.Cluster, name string, replicas int) {
	c.T.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	if _, err := c.Client.AppsV1().Deployments("istio-system").Patch(c.T.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		c.T.Fatal(err)
	}
	c.Until(fmt.Sprintf("%s has %d pods", name, replicas), booting, func() string {
		l, err := c.Client.CoreV1().Pods("istio-system").List(c.T.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err.Error()
		}
		ready := 0
		for i := range l.Items {
			if cluster.Unready(&l.Items[i]) == "" {
				ready++
			}
		}
		if len(l.Items) != replicas || ready != replicas {
			return fmt.Sprintf("%d of %d are ready", ready, len(l.Items))
		}
		return ""
	})
}

// No weir-control is there, and a pod is deleted every ten seconds, of another Deployment each
// time, for a minute: no request fails. The pods that are to replace them wait, and are there
// soon after it has come back.
func TestControlAway(t *testing.T) {
	every := long(t) / 6
	c, _ := meshed(t)
	var names, urls, once []string
	for i := range 6 {
		names = append(names, fmt.Sprintf("pair-%d", i))
		urls = append(urls, "http://"+names[i]+"/")
		once = append(once, "--url", urls[i])
		c.Apply(withImages(t, strings.ReplaceAll(pair, "NAME", names[i])))
	}
	c.Ready("app", booting)
	log := calling(t, c, "caller", true, 100, urls...)
	c.Until("each has been called", cluster.Patience, func() string { // so that its configuration is known
		if s, err := calls(c, "caller", append(once, "--count", "12")...); err != nil || s.Failed > 0 {
			return fmt.Sprintf("%+v %v", s, err)
		}
		return ""
	})

	t.Cleanup(func() { install(t) })
	scale(c, "istiod", 0)
	if _, said, err := weir(t, "status"); err == nil || !strings.Contains(said, "the control plane is away since 20") || !strings.Contains(said, "Deployment istiod") {
		t.Errorf("who asks without a control plane is not told which part is away, and since when: %v %s", err, said)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for _, name := range names {
		<-tick.C
		if err := c.Client.CoreV1().Pods(c.Namespace).Delete(t.Context(), c.Pod("app="+name).Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	<-tick.C
	for _, name := range names {
		if n := len(c.Pods("app=" + name)); n != 1 {
			t.Errorf("%s has %d pods: nobody could give a second one its proxy", name, n)
		}
	}
	scale(c, "istiod", 1)
	back := time.Now()
	c.Ready("app", 10*time.Second)
	t.Logf("%d pods were replaced within %v after the control plane was ready", len(names), time.Since(back).Round(100*time.Millisecond))
	stopped(t, c, "caller", log)
}
