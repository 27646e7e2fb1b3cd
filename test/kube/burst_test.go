package kube

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// Two hundred pods are made at once, in a namespace with proxies and in one without: all are
// made, and those that the nodes take become ready, all of them on two nodes. What it took is in the log.
func TestBurst(t *testing.T) {
	const pods = 200
	c, _ := meshed(t)
	run := min(pods, room(c)) // the others are nobody's to schedule
	none := c.In(t)
	none.Namespace = c.NewNamespace()
	for _, at := range []struct {
		name string
		c    *cluster.Cluster
	}{{"without proxies", none}, {"with proxies", c}} {
		var made sync.WaitGroup
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
			made.Go(func() {
				began := time.Now()
				p, err := at.c.Client.CoreV1().Pods(at.c.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
				mu.Lock()
				defer mu.Unlock()
				if took = append(took, time.Since(began)); err != nil {
					t.Errorf("%s: %v", at.name, err)
				} else if injected := p.Annotations["sidecar.istio.io/status"] != ""; injected != (at.c == c) {
					t.Errorf("%s: injected: %t", at.name, injected)
				}
			})
		}
		made.Wait()
		after := time.Since(began)
		slices.Sort(took)
		at.c.Ready("app=run", 5*booting)
		t.Logf("%s: %d pods made in %v, one in p50 %v, p99 %v; %d of them are ready %v after the beginning", at.name, pods, after.Round(time.Millisecond),
			took[pods/2].Round(time.Millisecond), took[pods*99/100].Round(time.Millisecond), run, time.Since(began).Round(100*time.Millisecond))
		if at.c == c {
			t.Logf("the injector: %s", answered(c))
		}
		if err := at.c.Client.CoreV1().Pods(at.c.Namespace).DeleteCollection(t.Context(), deleteNow, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		at.c.Until("they are gone", 5*booting, func() string {
			if n := len(all(at.c)); n > 0 {
				return fmt.Sprint(n)
			}
			return ""
		})
	}
}

// all are the pods of a namespace, those that are ending, too.
func all(c *cluster.Cluster) []corev1.Pod {
	l, err := c.Client.CoreV1().Pods(c.Namespace).List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	return l.Items
}

// room is how many more pods the nodes take, less a few that may come meanwhile.
func room(c *cluster.Cluster) (n int) {
	nodes, err := c.Client.CoreV1().Nodes().List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	pods, err := c.Client.CoreV1().Pods("").List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	for _, node := range nodes.Items {
		n += int(node.Status.Allocatable.Pods().Value()) - 5
	}
	return n - len(pods.Items)
}

// answered is how many requests the injector has answered within which time, as it counts them.
func answered(c *cluster.Cluster) string {
	texts, err := planes(c)
	if err != nil {
		c.T.Fatal(err)
	}
	var out []string
	for _, text := range texts {
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, "sidecar_injection_time_seconds"); ok {
				out = append(out, strings.TrimSpace(rest))
			}
		}
	}
	return strings.Join(out, "; ")
}
