package kube

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/sample/websocket"
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

// sockets is how many WebSockets the holder holds.
const sockets = 1000

// streams are those WebSockets: a namespace with their pods, and the holder's log.
type streams struct {
	c    *cluster.Cluster
	held *cluster.Lines
	left int // have been closed by their pods' ends, at least
}

// opened makes the namespace, and waits until all are open.
func opened(t *testing.T, c *cluster.Cluster, labels ...string) *streams {
	t.Helper()
	s := &streams{c: c.In(t)}
	s.c.Namespace = c.NewNamespace(labels...)
	s.c.Apply(withImages(t, chat))
	s.c.Ready("app", booting)
	s.c.Apply(withImages(t, holder))
	s.c.Until("holder is ready", booting, func() string { return cluster.Unready(s.c.MustPod("holder")) })
	s.held = s.c.Follow("holder", "app")
	s.settled()
	return s
}

// settled waits until all are open (again), and those only were closed whose pods have ended, each of which said so.
func (s *streams) settled() {
	s.c.T.Helper()
	s.c.Until("all WebSockets are open", booting, func() string {
		all := s.held.All()
		var left, lost, refused int
		if _, err := fmt.Sscanf(all[strings.LastIndexByte(all, '\n')+1:], "all 1000 are open: %d left, %d lost, %d refused before", &left, &lost, &refused); err != nil || left < s.left {
			return fmt.Sprintf("of %d that are to be closed %s", s.left, all)
		}
		if lost+refused > 0 || s.left == 0 && left > 0 {
			s.c.T.Fatalf("WebSockets were closed otherwise than by their pod's end: %s", all)
		}
		s.left = left
		return ""
	})
}

// during does something that none of the streams may notice: whichever ended would be opened anew, which the holder says.
func (s *streams) during(what string, do func()) {
	s.c.T.Helper()
	before := s.held.All()
	do()
	if all := s.held.All(); all != before {
		s.c.T.Errorf("%s: WebSockets did not stay: %s", what, strings.TrimPrefix(all, before))
	}
}

// at is how many streams the holder's proxy has at each pod, by its address.
func (s *streams) at() (map[string]int, error) {
	out, err := s.c.Exec("holder", "istio-proxy", "weir-proxy", "request", "--debug-port=15000", "GET", "/clusters")
	at := map[string]int{}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "::") // CLUSTER::10.0.0.1:8080::rq_active::500
		if len(f) != 4 || f[2] != "rq_active" || f[1] == "default_priority" || !strings.HasPrefix(f[0], "outbound|80||chat.") {
			continue
		}
		n, err := strconv.Atoi(f[3])
		if err != nil {
			return nil, err
		}
		at[strings.TrimSuffix(f[1], ":8080")] += n
	}
	return at, err
}

// replace ends the pods that serve them one by one; those of each are closed, and no others.
func (s *streams) replace() {
	s.c.T.Helper()
	for _, p := range s.c.Pods("app=chat") {
		of, err := s.at()
		if err != nil {
			s.c.T.Fatal(err)
		}
		all := 0
		for _, n := range of {
			all += n
		}
		if all != sockets {
			s.c.T.Fatalf("the holder's proxy has %v", of)
		}
		s.left += of[p.Status.PodIP]
		if err := s.c.Client.CoreV1().Pods(s.c.Namespace).Delete(s.c.T.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			s.c.T.Fatal(err)
		}
		s.c.Until(p.Name+" has ended", booting, func() string {
			if _, err := s.c.Client.CoreV1().Pods(s.c.Namespace).Get(s.c.T.Context(), p.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprint("it is there, ", err)
			}
			return ""
		})
		s.c.Ready("app=chat", booting)
		s.settled()
	}
}

// edition is a version of Weir: its program weir, and its images in the nodes.
type edition struct{ program, hub, tag string }

// today is the one that is tested.
func today(t *testing.T) edition {
	hub, tag := images(t)
	return edition{program, hub, tag}
}

// before is the one that is upgraded from: WEIR_KUBE_BEFORE='PROGRAM HUB:TAG', or today's.
func before(t *testing.T) edition {
	t.Helper()
	v := os.Getenv("WEIR_KUBE_BEFORE")
	if v == "" {
		return today(t)
	}
	program, image, _ := strings.Cut(v, " ")
	colon := strings.LastIndexByte(image, ':')
	if colon < 0 {
		t.Fatalf("WEIR_KUBE_BEFORE=%q is not PROGRAM HUB:TAG", v)
	}
	return edition{program, image[:colon], image[colon+1:]}
}

func (e edition) install(t *testing.T, flags ...string) {
	t.Helper()
	args := append([]string{"install"}, flags...)
	if e.tag != "" {
		args = append(args, "--hub", e.hub, "--tag", e.tag)
	}
	if out, err := exec.CommandContext(t.Context(), e.program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s install %v: %v\n%s", e.program, flags, err, out)
	}
}

// proxies checks that the proxies of pods are of an edition.
func (e edition) proxies(c *cluster.Cluster, selector string) {
	c.T.Helper()
	for _, p := range c.Pods(selector) {
		for _, x := range append(p.Spec.InitContainers, p.Spec.Containers...) {
			if x.Name == "istio-proxy" && e.tag != "" && x.Image != e.hub+"/weir-proxy:"+e.tag {
				c.T.Errorf("pod %s has the proxy %s", p.Name, x.Image)
			}
		}
	}
}

// proxies is the revision whose proxies the pods of a selector must have.
func proxies(c *cluster.Cluster, selector, revision string) {
	c.T.Helper()
	for _, p := range c.Pods(selector) {
		if got := p.Labels["istio.io/rev"]; got != revision && !strings.Contains(p.Annotations["sidecar.istio.io/status"], `"revision":"`+revision+`"`) {
			c.T.Errorf("pod %s has a proxy of %q, want %s: %s", p.Name, got, revision, p.Annotations["sidecar.istio.io/status"])
		}
	}
}

// found says what is missing until one control plane has so many proxies.
func found(c *cluster.Cluster, proxies int) string {
	of, err := shares(c)
	if err != nil {
		return err.Error()
	}
	all := 0
	for _, n := range of {
		all += n
	}
	if len(of) != 1 || all != proxies {
		return fmt.Sprint(of)
	}
	return ""
}

// Two namespaces go from one revision of the control plane to another beside it and back, by their tag, and the gateway with
// them, under a hundred requests a second within and fifty through the gateway: none fails. A thousand WebSockets stay while
// the control plane of their proxies is replaced and the tag changes; they are closed only by the pods that serve them, as
// these end to get proxies of the other revision, and are opened again. If the revision that is upgraded from is an earlier version's
// (WEIR_KUBE_BEFORE), its control plane is replaced by today's in the end, and its proxies go on with that one.
func TestUpgrade(t *testing.T) {
	c := cluster.Connect(t, "istio.io/rev=weir-e2e")
	now, was := today(t), before(t)
	of := map[string]edition{"default": was, "next": now}
	if was != now {
		bare(t, c) // so that nothing of today's is there
	}
	was.install(t)
	must(t, "tag", "set", "weir-e2e", "--revision", "default", "--overwrite")
	t.Cleanup(func() {
		must(t, "tag", "remove", "weir-e2e", "--yes")
		must(t, "uninstall", "--revision", "next", "--yes")
	})
	c.Apply(withImages(t, strings.ReplaceAll(pair, "NAME", "web")))
	c.Ready("app", booting)
	open := opened(t, c, "istio.io/rev=weir-e2e")
	log := calling(t, c, "caller", true, 100, "http://web/")

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
	proxies(c, "app=web", "default")
	proxies(open.c, "app", "default")
	was.proxies(c, "app=web")
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
	open.during("a new control plane in the old one's place", func() {
		renew(c, "istio-system", "istiod")
		rolledOut(c, "istio-system")
		c.Until("all proxies have found it, and the old one has ended", booting, func() string { return found(c, 7) }) // web, chat, their callers, the gateway
	})
	t.Logf("the control plane is replaced after %v", time.Since(began).Round(time.Second))
	now.install(t, "--revision", "next")
	last := "default"
	for _, revision := range []string{"next", "default"} {
		open.during("the tag leads to "+revision, func() {
			must(t, "tag", "set", "weir-e2e", "--revision", revision, "--overwrite")
			restart(c, c.Namespace)
			proxies(c, "app=web", revision)
			of[revision].proxies(c, "app=web")
			of[revision].install(t, "--revision", revision, "--set", "gateways.istio-ingressgateway.enabled=true")
			edge(revision)
			proxies(open.c, "app=chat", last)
		})
		open.replace()
		of[revision].proxies(open.c, "app=chat")
		proxies(open.c, "app=chat", revision)
		t.Logf("%s after %v: %d WebSockets have been closed by their pods", revision, time.Since(began).Round(time.Second), open.left)
		last = revision
	}
	open.during("the other revision goes", func() {
		must(t, "uninstall", "--revision", "next", "--yes")
	})
	t.Logf("there and back in %v", time.Since(began).Round(time.Second))
	if was != now {
		open.during("today's control plane in the earlier one's place", func() {
			now.install(t)
			c.Until("all proxies have found it, and the earlier one has ended", booting, func() string { return found(c, 7) })
			was.proxies(c, "app=web")
			was.proxies(open.c, "app")
		})
	}
	stopped(t, c, "caller", log)
	stopped(t, c, "outside", outside)
	if err := c.Client.CoreV1().Pods(open.c.Namespace).Delete(t.Context(), "holder", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-open.held.Ended()
	all := open.held.All()
	var s websocket.Summary
	if err := json.Unmarshal([]byte(all[strings.LastIndexByte(all, '\n')+1:]), &s); err != nil || s.Lost+s.Refused > 0 || s.Left != open.left || s.Opened != sockets+s.Left {
		t.Errorf("%+v, want %d closed by their pods and opened anew: %v\n%s", s, open.left, err, all)
	}
	t.Logf("WebSockets: %+v", s)
}
