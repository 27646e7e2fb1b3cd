package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// many is pair with six pods, all of which are replaced at once: as many new ones as there are.
func many(t *testing.T, name string) string {
	return withImages(t, strings.NewReplacer("NAME", name, "replicas: 2\n", "replicas: 6\n  strategy: {rollingUpdate: {maxSurge: 100%, maxUnavailable: 0}}\n").Replace(pair))
}

// Pains S14 and S15: all pods of a service are replaced at once, again and again, and once
// while the control plane is frozen in the middle of it: no request fails.
func TestReplacedAtOnce(t *testing.T) {
	d := long(t)
	c, _ := meshed(t)
	c.Apply(many(t, "web"))
	c.Ready("app", booting)
	log := calling(t, c, "caller", true, 100, "http://web/")
	rounds := 0
	for began := time.Now(); time.Since(began) < d || rounds == 0; rounds++ {
		restart(c, c.Namespace)
	}
	t.Logf("%d rounds", rounds)
	stopped(t, c, "caller", log)

	t.Run("the control plane is frozen", func(t *testing.T) {
		c := c.In(t)
		log := calling(t, c, "again", true, 100, "http://web/")
		freeze := node(t, fmt.Sprintf("sleep 2; pkill -STOP -x weir-control; sleep %d; pkill -CONT -x weir-control", int(d.Seconds())))
		if err := freeze.Start(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		restart(c, c.Namespace)
		if err := freeze.Wait(); err != nil {
			t.Errorf("nobody was frozen: %v", err)
		}
		t.Logf("restarted within %v, two seconds after whose beginning it froze for %v", time.Since(began).Round(time.Second), d)
		stopped(t, c, "again", log)
	})
}

// Pain S17: seven hundred endpoints are replaced by others at once, and a proxy that uses them has none of the old ones.
func TestEndpointsReplaced(t *testing.T) {
	const slices, each = 7, 100
	c, _ := meshed(t)
	c.Apply(withImages(t, caller))
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
	_, _ = c.Exec("caller", "app", "curl", "-s", "-m", "1", "http://far/") // so that they are asked for
	has := func(generation int) func() string {
		return func() string {
			out, err := c.Exec("caller", "istio-proxy", "weir-proxy", "request", "--debug-port=15000", "GET", "/clusters")
			var of [2]int
			for g := range of {
				for line := range strings.Lines(out) {
					if strings.Contains(line, fmt.Sprintf("::10.%d.", 100+g)) && strings.Contains(line, "::health_flags::") {
						of[g]++
					}
				}
			}
			if err != nil || of[generation] != slices*each || of[1-generation] != 0 {
				return fmt.Sprintf("%v %v %.200s", of, err, out)
			}
			return ""
		}
	}
	c.Until("the proxy has the first", cluster.Patience, has(0))
	write(1)
	began := time.Now()
	c.Until("the proxy has the others, and none of the first", cluster.Patience, has(1))
	t.Logf("%d endpoints are replaced in a proxy at most %v after the last was written", slices*each, time.Since(began).Round(time.Millisecond))
}
