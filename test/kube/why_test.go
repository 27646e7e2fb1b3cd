package kube

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/kube/cluster"
)

// planes are the metrics of each replica of the control plane.
func planes(c *cluster.Cluster) (texts map[string]string, err error) {
	l, err := c.Client.CoreV1().Pods("istio-system").List(c.T.Context(), metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return nil, err
	}
	texts = map[string]string{}
	for _, p := range l.Items {
		b, err := c.Client.CoreV1().RESTClient().Get().Namespace("istio-system").Resource("pods").Name(p.Name + ":15014").SubResource("proxy").Suffix("metrics").DoRaw(c.T.Context())
		if err != nil {
			return nil, err
		}
		texts[p.Name] = string(b)
	}
	return texts, nil
}

// shares is how many proxies hang on each replica of the control plane.
func shares(c *cluster.Cluster) (of map[string]int, err error) {
	texts, err := planes(c)
	if err != nil {
		return nil, err
	}
	of = map[string]int{}
	for pod, text := range texts {
		of[pod] = 0
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], "pilot_xds{") {
				n, err := strconv.Atoi(f[1])
				if err != nil {
					return nil, err
				}
				of[pod] += n
			}
		}
	}
	return of, nil
}

// weir why shows both sides of a failed request between proxies that hang on different
// replicas of the control plane, whichever replica is asked.
func TestWhyOfReplicas(t *testing.T) {
	c, _ := meshed(t, "--set", "pilot.replicaCount=2", "--set", "gateways.istio-ingressgateway.enabled=false")
	t.Cleanup(func() { install(t) })
	var callers, webs []string
	for n := 0; ; n++ { // until there are some on both: then some call across
		callers, webs = append(callers, fmt.Sprintf("caller-%d", n)), append(webs, fmt.Sprintf("web-%d", n))
		c.Apply(withImages(t, strings.NewReplacer("name: caller", "name: "+callers[n], "app: caller", "app: "+callers[n]).Replace(caller)))
		c.Apply(withImages(t, strings.NewReplacer("name: web", "name: "+webs[n], "app: web", "app: "+webs[n]).Replace(web)))
		c.Ready("app", booting)
		both := false
		c.Until("all proxies, and no others, are connected", cluster.Patience, func() string {
			of, err := shares(c)
			if err != nil {
				return err.Error()
			}
			all := 0
			both = true
			for _, n := range of {
				all += n
				both = both && n > 0
			}
			if len(of) != 2 || all != len(callers)+len(webs) {
				return fmt.Sprint(of)
			}
			t.Logf("proxies of each replica: %v", of)
			return ""
		})
		if both {
			break
		}
		if n == 10 {
			t.Fatal("all are at one replica")
		}
	}
	for _, from := range callers {
		for _, to := range webs {
			c.Until(from+" is told why "+to+" did not answer", cluster.Patience, func() string {
				head, _ := c.Exec(from, "app", "curl", "-s", "-m", "10", "-D", "-", "-o", "/dev/null", "http://"+to+"/?reset=request")
				id := ""
				for line := range strings.Lines(head) {
					if k, v, _ := strings.Cut(line, ":"); strings.EqualFold(k, "x-weir-why") {
						_, id, _ = strings.Cut(strings.TrimSpace(v), "; id=")
					}
				}
				if id == "" {
					return head
				}
				out, errs, err := weir(t, "why", id, "-o", "json")
				var w apiv1.Why
				if err != nil || json.Unmarshal([]byte(out), &w) != nil || len(w.Stories) != 1 || len(w.Stories[0].Hops) != 2 || len(w.Silent) > 0 || w.Stories[0].Cause == "" {
					return fmt.Sprintf("%s: %v %s %s", id, err, out, errs)
				}
				return ""
			})
		}
	}
}
