package kube

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// Two hundred pods are made at once, in a namespace with proxies and in one without: all are
// made, and those that a small node holds become ready. What it took is in the log.
func TestBurst(t *testing.T) {
	const pods, run = 200, 40 // the others are nobody's to schedule
	c, _ := meshed(t)
	none := c.In(t)
	none.Namespace = c.NewNamespace()
	for _, at := range []struct {
		name string
		c    *cluster.Cluster
	}{{"without proxies", none}, {"with proxies", c}} {
		var all sync.WaitGroup
		var mu sync.Mutex
		var took []time.Duration
		began := time.Now()
		for i := range pods {
			zero := int64(0)
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("burst-%d", i), Labels: map[string]string{"app": "burst"}},
				Spec: corev1.PodSpec{SchedulerName: "nobody", TerminationGracePeriodSeconds: &zero, Containers: []corev1.Container{{Name: "app", Image: withImages(t, "HUB/weir-sample:TAG"), Args: []string{"sleep"}}}}}
			if i < run {
				p.Spec.SchedulerName, p.Labels["app"] = "", "run"
			}
			all.Go(func() {
				began := time.Now()
				made, err := at.c.Client.CoreV1().Pods(at.c.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
				mu.Lock()
				defer mu.Unlock()
				if took = append(took, time.Since(began)); err != nil {
					t.Errorf("%s: %v", at.name, err)
				} else if injected := made.Annotations["sidecar.istio.io/status"] != ""; injected != (at.c == c) {
					t.Errorf("%s: injected: %t", at.name, injected)
				}
			})
		}
		all.Wait()
		made := time.Since(began)
		slices.Sort(took)
		at.c.Ready("app=run", 2*booting)
		t.Logf("%s: %d pods made in %v, one in p50 %v, p99 %v; %d of them are ready %v after the beginning", at.name, pods, made.Round(time.Millisecond),
			took[pods/2].Round(time.Millisecond), took[pods*99/100].Round(time.Millisecond), run, time.Since(began).Round(100*time.Millisecond))
		if err := at.c.Client.CoreV1().Pods(at.c.Namespace).DeleteCollection(t.Context(), deleteNow, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
