package kube

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// long is how long the tests that need time go on: WEIR_KUBE_LONG. Without it they are skipped
// by -short, and last for a minute.
func long(t *testing.T) time.Duration {
	t.Helper()
	if d, err := time.ParseDuration(os.Getenv("WEIR_KUBE_LONG")); err == nil {
		return d
	}
	if testing.Short() {
		t.Skip("takes minutes")
	}
	return time.Minute
}

// load is who calls while everything is restarted: NAME is not part of a Deployment.
const load = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME, sidecar.istio.io/inject: "INJECT"}}
spec:
  terminationGracePeriodSeconds: 30
  restartPolicy: Never
  containers: [{name: app, image: "HUB/weir-sample:TAG", args: [client, --timeout, 15s, --rate, "RATE", ARGS]}]
`

// calling starts a load, waits until it is ready, and returns its log.
func calling(t *testing.T, c *cluster.Cluster, name string, inject bool, rate int, urls ...string) *cluster.Lines {
	t.Helper()
	args := `--url, "` + strings.Join(urls, `", --url, "`) + `"`
	c.Apply(withImages(t, strings.NewReplacer("NAME", name, "INJECT", fmt.Sprint(inject), "RATE", fmt.Sprint(rate), "ARGS", args).Replace(load)))
	c.Until(name+" is ready", booting, func() string { return cluster.Unready(c.MustPod(name)) })
	return c.Follow(name, "app")
}

// stopped ends a load and judges it.
func stopped(t *testing.T, c *cluster.Cluster, name string, log *cluster.Lines) {
	t.Helper()
	if err := c.Client.CoreV1().Pods(c.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-log.Ended():
	case <-time.After(booting):
		t.Fatalf("%s does not end", name)
	}
	s := summary(log.All())
	t.Logf("%s: %d calls, %d failed, p50 %v ms, p99 %v ms, longest %v ms", name, s.Calls, s.Failed, s.P50, s.P99, s.Max)
	if s.Failed > 0 || s.Calls == 0 {
		t.Errorf("%s: %d of %d calls failed:\n%s", name, s.Failed, s.Calls, log.All())
	}
}

// deployments does something with every Deployment of namespaces.
func deployments(c *cluster.Cluster, namespaces []string, do func(*appsv1.Deployment)) {
	c.T.Helper()
	for _, ns := range namespaces {
		l, err := c.Client.AppsV1().Deployments(ns).List(c.T.Context(), metav1.ListOptions{})
		if err != nil {
			c.T.Fatal(err)
		}
		for i := range l.Items {
			do(&l.Items[i])
		}
	}
}

// rollout does what kubectl rollout restart does with every Deployment of namespaces.
func rollout(c *cluster.Cluster, namespaces ...string) {
	c.T.Helper()
	deployments(c, namespaces, func(d *appsv1.Deployment) { renew(c, d.Namespace, d.Name) })
}

// renew does it with one Deployment.
func renew(c *cluster.Cluster, namespace, name string) {
	c.T.Helper()
	patch := []byte(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"` + time.Now().Format(time.RFC3339Nano) + `"}}}}}`)
	if _, err := c.Client.AppsV1().Deployments(namespace).Patch(c.T.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		c.T.Fatal(err)
	}
}

// restart is rollout, and waits until all are there again.
func restart(c *cluster.Cluster, namespaces ...string) {
	c.T.Helper()
	rollout(c, namespaces...)
	rolledOut(c, namespaces...)
}

// rolledOut waits until every Deployment of namespaces has its pods of its last version.
func rolledOut(c *cluster.Cluster, namespaces ...string) {
	c.T.Helper()
	c.Until("all Deployments are restarted", 2*booting, func() (why string) {
		deployments(c, namespaces, func(d *appsv1.Deployment) {
			if !cluster.RolledOut(d) {
				why = fmt.Sprintf("%s/%s: %d of %d pods", d.Namespace, d.Name, d.Status.AvailableReplicas, *d.Spec.Replicas)
			}
		})
		return why
	})
}

// kill kills every pod of a selector in a namespace, again and again, until the function it
// returns is called, which returns how often it did.
func kill(c *cluster.Cluster, namespace, selector string, every time.Duration) (stop func() int) {
	ctx, cancel := context.WithCancel(c.T.Context())
	done := make(chan struct{})
	times := 0
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if err := c.Client.CoreV1().Pods(namespace).DeleteCollection(ctx, deleteNow, metav1.ListOptions{LabelSelector: selector}); err != nil && ctx.Err() == nil {
				c.T.Errorf("killing %s: %v", selector, err)
			}
			times++
		}
	}()
	return sync.OnceValue(func() int { cancel(); <-done; return times })
}

// Pain S16: every Deployment is restarted in a loop, gateway and control plane included, at
// 100 requests a second from within and without, and no request fails, without a preStop
// hook in any of the applications; nor while every weir-control is killed each 15 s.
func TestRestarts(t *testing.T) {
	book, gateway := sample(t, "bookinfo/platform/kube/bookinfo.yaml"), sample(t, "bookinfo/networking/bookinfo-gateway.yaml")
	d := long(t)
	c, _ := meshed(t, "--set", "pilot.replicaCount=2")
	c.Apply(book)
	c.Apply(gateway)
	c.Ready("app", booting)
	page := "http://istio-ingressgateway.istio-system/"
	for _, killing := range []bool{false, true} {
		t.Run(fmt.Sprintf("control plane killed %t", killing), func(t *testing.T) {
			c := c.In(t)
			c.Until("the page", booting, func() string {
				if _, err := c.Exec(c.Pod("app=productpage").Name, "productpage", "curl", "-sSf", "-m", "10", page+"productpage"); err != nil {
					return err.Error()
				}
				return ""
			})
			inside := calling(t, c, "inside", true, 60, "http://productpage:9080/productpage", "http://details:9080/details/0", "http://reviews:9080/reviews/0", "http://ratings:9080/ratings/0")
			outside := calling(t, c, "outside", false, 40, page+"api/v1/products/0", page+"api/v1/products/0/reviews", page+"productpage")
			namespaces := []string{c.Namespace, "istio-system"}
			stop := func() int { return 0 }
			if killing {
				namespaces = namespaces[:1]
				stop = kill(c, "istio-system", "app=istiod", 15*time.Second)
			}
			rounds := 0
			for began := time.Now(); time.Since(began) < d || rounds == 0; rounds++ {
				restart(c, namespaces...)
			}
			t.Logf("%d rounds of restarts in %v, the control plane killed %d times", rounds, d, stop())
			stopped(t, c, "inside", inside)
			stopped(t, c, "outside", outside)
		})
	}
}
