package kube

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// many is pair with six pods, all of which are replaced at once: as many new ones as there are, and the old ones end when the new
// ones have been ready for so many seconds.
func many(t *testing.T, name string, seconds int) string {
	return withImages(t, strings.NewReplacer("NAME", name, "replicas: 2\n", fmt.Sprintf("replicas: 6\n  minReadySeconds: %d\n  strategy: {rollingUpdate: {maxSurge: 100%%, maxUnavailable: 0}}\n", seconds)).Replace(pair))
}

// Pain S15: all pods of a service are replaced at once, again and again: no request fails.
func TestReplacedAtOnce(t *testing.T) {
	d := long(t)
	c, _ := meshed(t)
	c.Apply(many(t, "web", 0))
	c.Ready("app", booting)
	log := calling(t, c, "caller", true, 100, "http://web/")
	rounds := 0
	for began := time.Now(); time.Since(began) < d || rounds == 0; rounds++ {
		restart(c, c.Namespace)
	}
	t.Logf("%d rounds", rounds)
	stopped(t, c, "caller", log)
}

// Pain S14: the control plane freezes for a minute in the middle of a rollout, when the new pods are ready and none of the old ones has
// ended. These end while nobody can tell their callers so, and no request fails; who asks a caller's proxy is told
// that what it has may be old.
func TestReplacedWhileFrozen(t *testing.T) {
	const hold = time.Minute // half a minute more, and kubelet kills it
	onNode(t, "command -v pkill pgrep >/dev/null")
	c, _ := meshed(t, pinned(t)...)
	t.Cleanup(func() { install(t) })
	c.Apply(many(t, "web", 20))
	c.Ready("app", booting)
	old := map[types.UID]bool{}
	for _, p := range c.Pods("app=web") {
		old[p.UID] = true
	}
	log := calling(t, c, "caller", true, 100, "http://web/")
	proxySays := func(path string) string {
		out, err := c.Exec("caller", "istio-proxy", "weir-proxy", "request", "--debug-port=15000", "GET", path)
		if err != nil {
			return err.Error()
		}
		return out
	}
	left := func() (n int) { // pods of before, those that are ending too
		l, err := c.Client.CoreV1().Pods(c.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range l.Items {
			if old[l.Items[i].UID] {
				n++
			}
		}
		return n
	}

	rollout(c, c.Namespace)
	c.Until("all pods, new and old, serve the caller", booting, func() string {
		n, out := 0, proxySays("/clusters")
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "outbound|80||web.") && strings.Contains(line, "::health_flags::healthy") {
				n++
			}
		}
		if n < 2*len(old) {
			return out
		}
		return ""
	})
	onNode(t, "pkill -STOP -x weir-control")
	frozen := time.Now()
	t.Cleanup(func() { onNode(t, "pkill -CONT -x weir-control || :") })
	if n := left(); n != len(old) {
		t.Fatalf("%d of %d old pods had ended before", len(old)-n, len(old))
	}
	says := proxySays("/server_info")
	took := time.Since(frozen)
	t.Logf("a caller's proxy says so %v after it froze", took.Round(10*time.Millisecond))
	// Two seconds, and what it takes to have a command run in a pod.
	if !strings.Contains(says, "the control plane has not answered") || took > 5*time.Second {
		t.Errorf("%v after it froze a caller's proxy says %s", took, says)
	}
	c.Until("the old pods have ended", hold, func() string {
		if n := left(); n > 0 {
			return fmt.Sprintf("%d are left", n)
		}
		return ""
	})
	ended := time.Since(frozen)
	<-time.After(hold - ended)
	onNode(t, `pgrep -x weir-control >/dev/null && for p in $(pgrep -x weir-control); do grep -q "^State:.T" /proc/$p/status || exit 1; done`)
	t.Logf("the old pods had ended %v after it froze, it was frozen for %v", ended.Round(time.Second), time.Since(frozen).Round(time.Second))
	onNode(t, "pkill -CONT -x weir-control")
	c.Ready("app", booting)
	stopped(t, c, "caller", log)
}

// Pain S17: seven hundred endpoints are replaced by others at once, and within a second of the control plane's hearing of it no proxy
// that uses them has any of the old ones.
func TestEndpointsReplaced(t *testing.T) {
	const slices, each, callers = 7, 100, 5
	c, _ := meshed(t)
	c.Apply(withImages(t, strings.NewReplacer("NAME", "caller", "replicas: 2", fmt.Sprintf("replicas: %d", callers)).Replace(pair)))
	c.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: far}\nspec: {ports: [{name: http, port: 80}]}\n")
	port, name := int32(8080), "http"
	write := func(generation int) {
		for s := range slices {
			o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("far-%d", s), Labels: map[string]string{discoveryv1.LabelServiceName: "far"}}, AddressType: discoveryv1.AddressTypeIPv4,
				Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}}
			for i := range each {
				o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 100+generation, s, i+1)}})
			}
			api := c.Client.DiscoveryV1().EndpointSlices(c.Namespace)
			_, err := api.Update(t.Context(), o, metav1.UpdateOptions{})
			if generation == 0 {
				_, err = api.Create(t.Context(), o, metav1.CreateOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	write(0)
	c.Ready("app=caller", booting)
	for _, p := range c.Pods("app=caller") { // so that they are asked for
		_, _ = c.Exec(p.Name, "app", "curl", "-s", "-m", "1", "http://far/")
	}
	has := func(pod string, generation int) string {
		out, err := c.Exec(pod, "istio-proxy", "weir-proxy", "request", "--debug-port=15000", "GET", "/clusters")
		var of [2]int
		for g := range of {
			for line := range strings.Lines(out) {
				if strings.Contains(line, fmt.Sprintf("::10.%d.", 100+g)) && strings.Contains(line, "::health_flags::") {
					of[g]++
				}
			}
		}
		if err != nil || of[generation] != slices*each || of[1-generation] != 0 {
			return fmt.Sprintf("%s: %v %v %.200s", pod, of, err, out)
		}
		return ""
	}
	all := func(generation int) func() string {
		return func() string {
			for _, p := range c.Pods("app=caller") {
				if why := has(p.Name, generation); why != "" {
					return why
				}
			}
			return ""
		}
	}
	c.Until("the proxies have the first", cluster.Patience, all(0))
	before, soonBefore := converged(c)
	write(1)
	began := time.Now()
	c.Until("the proxies have the others, and none of the first", cluster.Patience, all(1))
	t.Logf("%d endpoints are replaced in %d proxies at most %v after the last was written", slices*each, callers, time.Since(began).Round(time.Millisecond))
	c.Until("each has said so", cluster.Patience, func() string {
		after, soon := converged(c)
		if n := after - before; n < callers {
			return fmt.Sprintf("%v have", n)
		} else if late := n - (soon - soonBefore); late > 0 {
			t.Errorf("%v of %v proxies had accepted a change more than a second after the control plane had it", late, n)
		}
		return ""
	})
}

// converged is how often a proxy had accepted a change, and how often within a second, as the control plane counts.
func converged(c *cluster.Cluster) (all, soon float64) {
	c.T.Helper()
	read := func(line, name string) (v float64) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			v, _ = strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
		return v
	}
	texts, err := planes(c)
	if err != nil {
		c.T.Fatal(err)
	}
	for _, text := range texts {
		for line := range strings.Lines(text) {
			all += read(line, "pilot_proxy_convergence_time_count ")
			soon += read(line, `pilot_proxy_convergence_time_bucket{le="1"} `)
		}
	}
	return all, soon
}
