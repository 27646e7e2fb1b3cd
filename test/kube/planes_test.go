package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/kube/cluster"
)

// revised are policies that ask for revisions: one for a tag's, one for nobody's.
const revised = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: NAME, labels: {istio.io/rev: REVISION}}
spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {paths: [/NAME]}}]}]}
`

// Several replicas of the control plane answer as one: who called in plaintext, whose certificates there are, what failed. What they
// keep for each other is there, so that none who comes later knows less, and nothing that they ask for is forbidden to them.
func TestSeveralControlPlanes(t *testing.T) {
	c, _ := meshed(t, "--set", "pilot.replicaCount=2", "--set", "gateways.istio-ingressgateway.enabled=false")
	t.Cleanup(func() { install(t) })
	c.Apply(withImages(t, web+"---"+caller))
	at := keysAt(t, c)
	c.Apply(strings.ReplaceAll(issuer, "URL", at))
	outsider := c.In(t)
	outsider.Namespace = c.NewNamespace()
	outsider.Apply(withImages(t, caller))
	c.Ready("app in (web,caller)", booting)
	outsider.Ready("app=caller", booting)

	// all is asked of two of them.
	all := func(c *cluster.Cluster) {
		says(c, "callers in plaintext are known, and no control plane is silent", func(m *apiv1.MTLS) bool {
			return len(m.Silent) == 0 && slices.ContainsFunc(m.Ports, func(p apiv1.MTLSPort) bool {
				return p.Namespace == c.Namespace && p.Workload == "web" && p.Port == 8080 && len(p.Callers) == 1 && p.Callers[0].Workload == "" && !p.Ready
			})
		}, "mtls", "status", c.Namespace)
		says(c, "whose certificates there are", func(i *apiv1.Identity) bool {
			n := 0
			for _, w := range i.Workloads {
				if w.Identity == "spiffe://cluster.local/ns/"+c.Namespace+"/sa/default" && w.Connected && w.Reported {
					n++
				}
			}
			return len(i.Silent)+len(i.Unknown) == 0 && n == 2
		}, "identity")
		says(c, "what failed, both sides of it", func(w *apiv1.Why) bool {
			return len(w.Silent) == 0 && slices.ContainsFunc(w.Stories, func(s apiv1.Story) bool { return len(s.Hops) > 1 })
		}, "why", "--last-errors", c.Namespace+"/web")
		log := planeLogs(c)
		if strings.Contains(log, "forbidden") {
			c.T.Errorf("something is forbidden to a control plane:\n%s", log)
		}
	}
	c.Until("the outsider calls in plaintext", cluster.Patience, func() string {
		if _, err := echo(outsider, "caller", "http://web."+c.Namespace+"/"); err != nil {
			return err.Error()
		}
		return ""
	})
	c.Until("a call fails", cluster.Patience, func() string {
		out, err := c.Exec("caller", "app", "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "http://web/?reset=request")
		if err != nil || out != "503" {
			return fmt.Sprint(out, err)
		}
		return ""
	})
	all(c)
	// A control plane that ends without warning takes with it what was not written down yet.
	c.Until("callers are written down", cluster.Patience, func() string {
		s, err := c.Client.CoreV1().Secrets("istio-system").Get(t.Context(), "istio-plaintext-callers", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if text := string(s.Data["callers.json"]); !strings.Contains(text, `"sightings":`) {
			return text
		}
		return ""
	})
	c.Until("so are the keys of the issuer", cluster.Patience, func() string {
		m, err := c.Client.CoreV1().ConfigMaps("istio-system").Get(t.Context(), "istio-token-keys", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if text := fmt.Sprint(m.Data); !strings.Contains(text, at) {
			return text
		}
		return ""
	})

	t.Run("one after the other is killed", func(t *testing.T) {
		c := c.In(t)
		for _, p := range replicas(c) {
			if err := c.Client.CoreV1().Pods("istio-system").Delete(t.Context(), p.Name, deleteNow); err != nil {
				t.Fatal(err)
			}
			c.Until("another takes its place", booting, func() string {
				now := replicas(c)
				for i := range now {
					if why := cluster.Unready(&now[i]); why != "" || now[i].Name == p.Name {
						return p.Name + " is there, or " + why
					}
				}
				return map[bool]string{false: fmt.Sprint(len(now))}[len(now) == 2]
			})
			all(c)
		}
	})

	told := c.Warnings
	t.Run("who asks for nobody", func(t *testing.T) {
		c := c.In(t)
		must(t, "tag", "set", "weir-e2e-planes", "--revision", "default", "--overwrite")
		t.Cleanup(func() { must(t, "tag", "remove", "weir-e2e-planes", "--yes") })
		of := func(name, revision string) string {
			return strings.NewReplacer("NAME", name, "REVISION", revision).Replace(revised)
		}
		_ = told() // of before
		c.Apply(of("lost", "nobody"))
		if said := strings.Join(told(), "\n"); !strings.Contains(said, "WEIR0119") && !strings.Contains(said, "istio.io/rev=nobody") {
			t.Errorf("who applies it is not warned: %s", said)
		}
		c.Apply(of("tagged", "weir-e2e-planes"))
		for path, want := range map[string]string{"tagged": "403", "lost": "200"} {
			c.Until("/"+path, cluster.Patience, func() string {
				out, err := c.Exec("caller", "app", "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "http://web/"+path)
				if err != nil || out != want {
					return fmt.Sprint(out, err)
				}
				return ""
			})
		}
		c.Until("its status says so", cluster.Patience, func() string {
			u := c.Get("security.istio.io/v1", "AuthorizationPolicy", c.Namespace, "lost")
			if status := fmt.Sprint(u.Object["status"]); !strings.Contains(status, "istio.io/rev=nobody") {
				return status
			}
			return ""
		})
	})
}

// Of two replicas one freezes, and then the other: whoever asks is told by the one that goes on, at once, and that the other is silent, by
// its address. No call fails.
func TestReplicaFrozen(t *testing.T) {
	onNode(t, "command -v pgrep >/dev/null")
	c, _ := meshed(t, append(pinned(t), "--set", "pilot.replicaCount=2", "--set", "gateways.istio-ingressgateway.enabled=false")...)
	t.Cleanup(func() { install(t) })
	c.Apply(withImages(t, web+"---"+caller))
	c.Ready("app", booting)
	log := calling(t, c, "load", true, 50, "http://web/")
	connected := func(s *apiv1.Status) bool {
		n := 0
		for _, p := range s.Proxies {
			if strings.HasPrefix(p.Name, c.Namespace+"/") {
				n++
			}
		}
		return n == 3
	}
	for _, p := range replicas(c) {
		t.Run(p.Name, func(t *testing.T) {
			c := c.In(t)
			_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
			send := func(signal string) {
				onNode(t, "n=; for p in $(pgrep -x weir-control); do ! grep -q "+id+" /proc/$p/cgroup || { kill -"+signal+" $p; n=1; }; done; [ $n ]")
			}
			send("STOP")
			t.Cleanup(func() { send("CONT") })
			began := time.Now()
			who := apiv1.SilentReplica + net.JoinHostPort(p.Status.PodIP, "15012")
			says(c, "it is silent", func(s *apiv1.Status) bool { return slices.Equal(s.Silent, []string{who}) }, "status")
			t.Logf("it is said %v after it froze", time.Since(began).Round(100*time.Millisecond))
			if text := must(t, "status"); !strings.Contains(text, who) {
				t.Errorf("people are not told:\n%s", text)
			}
			send("CONT")
			says(c, "both answer", func(s *apiv1.Status) bool { return len(s.Silent) == 0 && connected(s) }, "status")
		})
	}
	stopped(t, c, "load", log)
}

// replicas are the pods of the control plane that are not ending.
func replicas(c *cluster.Cluster) []corev1.Pod {
	c.T.Helper()
	l, err := c.Client.CoreV1().Pods("istio-system").List(c.T.Context(), metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		c.T.Fatal(err)
	}
	return slices.DeleteFunc(l.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// planeLogs is what the replicas wrote.
func planeLogs(c *cluster.Cluster) string {
	c.T.Helper()
	at := c.In(c.T)
	at.Namespace = "istio-system"
	var b strings.Builder
	for _, p := range replicas(c) {
		b.WriteString(at.Logs(p.Name, "discovery"))
	}
	return b.String()
}

const issuer = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: issuer}
spec: {selector: {matchLabels: {app: web}}, jwtRules: [{issuer: weir-e2e, jwksUri: "URL"}]}
`

// keysAt is where the control plane finds a key of a token issuer.
func keysAt(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(here(c), "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return "http://" + l.Addr().String() + "/keys"
}
