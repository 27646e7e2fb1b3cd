package kube

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// Connections of a pod reach its proxy, by containers of 2018 and of today, with NET_ADMIN
// and nothing else; where something is missing a sentence says what.
func TestCapture(t *testing.T) {
	c, hub, tag := cluster.Connect(t), "", ""
	if hub, tag = images(t); tag == "" {
		t.Skip("the manifest needs a tag: WEIR_KUBE_IMAGES=HUB:TAG")
	}
	manifest, err := os.ReadFile("testdata/pods.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(strings.NewReplacer("HUB/", hub+"/", ":TAG", ":"+tag).Replace(string(manifest)))
	captured := func() string { p := c.MustPod("captured"); return cluster.Unready(p) }
	c.Until("the captured pod is ready", 90*time.Second, captured)
	c.Until("what lacks something has ended", time.Minute, func() string {
		p := c.MustPod("uncaptured")
		for _, name := range []string{"no-right", "no-rules", "no-shell"} {
			if cluster.Ended(p, name) == nil {
				return name + " runs"
			}
		}
		return ""
	})

	ip := c.MustPod("captured").Status.PodIP
	curl := func(pod, container, url string) string {
		out, err := c.Exec(pod, container, "curl", "-sS", "-m", "5", url)
		if err != nil {
			return err.Error()
		}
		return out
	}
	for _, p := range []struct{ name, pod, container, url, want string }{
		{"inbound, on a port where nobody listens", "uncaptured", "client", ip + ":9999", `"version": "app"`},
		{"inbound, on an excluded port", "uncaptured", "client", ip + ":8081", `"version": "world"`},
		{"inbound, on a port of the proxy's own", "uncaptured", "client", ip + ":15090", "refused"},
		{"outbound, to an address that nobody has", "captured", "app", "http://198.51.100.7/", `"version": "world"`},
		{"to oneself", "captured", "app", "http://127.0.0.1:8080/", `"version": "app"`},
		{"to oneself by address", "captured", "app", "http://" + ip + ":8080/", `"version": "app"`},
	} {
		if got := curl(p.pod, p.container, p.url); !strings.Contains(got, p.want) {
			t.Errorf("%s: %s, want %q", p.name, got, p.want)
		}
	}
	for _, p := range []struct{ container, want, status string }{
		{"no-right", "the capability NET_ADMIN is missing", "1"},
		{"no-rules", "are not in force", "126"},
		{"no-shell", "this image has no shell", "1"},
	} {
		got := c.Logs("uncaptured", p.container)
		status := strconv.Itoa(int(cluster.Ended(c.MustPod("uncaptured"), p.container).ExitCode))
		if !strings.Contains(got, p.want) || status != p.status {
			t.Errorf("%s: exit status %s, %s, want %s, %q", p.container, status, got, p.status, p.want)
		}
	}
	if got, err := c.Exec("captured", "istio-proxy", "pilot-agent", "version"); err != nil || !strings.Contains(got, "weir-proxy") {
		t.Errorf("pilot-agent version: %q, %v", got, err)
	}
	if got, err := c.Exec("captured", "istio-proxy", "istio-iptables", "-n", "-i", "*"); err != nil || !strings.Contains(got, "table inet weir") {
		t.Errorf("istio-iptables --dry-run: %q, %v", got, err)
	}
}

// With interceptionMode TPROXY the application sees its clients' own addresses, of those in
// the mesh and of others.
func TestTransparent(t *testing.T) {
	c, _ := meshed(t)
	served := strings.Replace(web, "labels: {app: web}}", "labels: {app: web}, annotations: {sidecar.istio.io/interceptionMode: TPROXY}}", 1)
	outside := strings.Replace(strings.ReplaceAll(caller, "caller", "outside"), "app: outside", `app: outside, sidecar.istio.io/inject: "false"`, 1)
	c.Apply(withImages(t, served+"---"+caller+"---"+outside))
	c.Ready("app", booting)
	for from, identity := range map[string]string{"caller": "spiffe://cluster.local/ns/" + c.Namespace + "/sa/default", "outside": ""} {
		ip := c.MustPod(from).Status.PodIP
		c.Until("the application sees "+from, cluster.Patience, func() string {
			out, err := c.Exec(from, "app", "curl", "-sS", "-m", "10", "http://web/")
			var r struct{ Peer, Identity string }
			if err == nil {
				err = json.Unmarshal([]byte(out), &r)
			}
			if host, _, _ := net.SplitHostPort(r.Peer); err != nil || host != ip || r.Identity != identity {
				return fmt.Sprintf("%+v, %v, want %s, %q", r, err, ip, identity)
			}
			return ""
		})
	}
}
