package kube

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// part is something of a cluster that can go away and come back. What is frozen answers nobody
// and closes nothing, which is worse than dead; it comes back as a new process. What goes has to
// be there to go; what comes may have ended with its node.
type part struct{ name, goes, comes string }

var parts = []part{
	{"weir-control", `pkill -STOP -x weir-control`, `pkill -KILL -x weir-control || :`},
	{"webhook", // the API server's connections to it are reset
		`nft -f - <<'N'
table inet weir-orders { chain out { type filter hook output priority 0; tcp dport 15017 reject with tcp reset; }; }
N`, `nft delete table inet weir-orders 2>/dev/null || :`},
	{"node agent", `pkill -STOP -f 'weir-cni agent'`, `pkill -KILL -f 'weir-cni agent' || :`},
	{"API server", `pkill -STOP -f 'kube-apiserver .*--secure-port'`, `pkill -KILL -f 'kube-apiserver .*--secure-port'`},
	// A boot: every process of every pod has ended, what is in memory is lost, volumes too, and the
	// network's configuration is written anew.
	{"node", `pkill -STOP -f 'kubelet .*--config' && pkill -STOP -x containerd`, `
shims=$(pgrep -f containerd-shim) || exit 1
for s in $shims; do pkill -KILL -P $s; kill -KILL $s; done
volumes() { awk '$3 == "tmpfs" && index($2, "/var/lib/kubelet/pods/") == 1 { print $2 }' /proc/mounts; }
volumes | grep -q /kubernetes.io~empty-dir/ || exit 1
for v in $(volumes); do find $v -mindepth 1 -delete; umount -l $v; done
rm -rf /run/weir-cni; cp -a /run/weir-orders/. /etc/cni/net.d/
pkill -KILL -x containerd; pkill -KILL -f 'kubelet .*--config|kube-proxy .*--config|kube-controller-manager|kube-scheduler'`},
}

// orders are every order of n things: first a few in which any three of them come in each
// order, then the others.
func orders(n int) (all [][]int, few int) {
	var grow func([]int)
	grow = func(p []int) {
		if len(p) == n {
			all = append(all, slices.Clone(p))
			return
		}
		for i := range n {
			if !slices.Contains(p, i) {
				grow(append(p, i))
			}
		}
	}
	grow(nil)
	seen := map[[3]int]bool{}
	each := func(p []int, do func([3]int)) {
		for i := range p {
			for j := i + 1; j < n; j++ {
				for k := j + 1; k < n; k++ {
					do([3]int{p[i], p[j], p[k]})
				}
			}
		}
	}
	for ; len(seen) < n*(n-1)*(n-2); few++ {
		best, most := few, -1
		for i := few; i < len(all); i++ {
			fresh := 0
			each(all[i], func(x [3]int) {
				if !seen[x] {
					fresh++
				}
			})
			if fresh > most {
				best, most = i, fresh
			}
		}
		all[few], all[best] = all[best], all[few]
		each(all[few], func(x [3]int) { seen[x] = true })
	}
	return all, few
}

// witness looks for pods that run unprotected: whose application is reached in plaintext, where
// mTLS is asked for, or itself reaches somebody outside the mesh, where nobody may.
type witness struct {
	outside string // URL that the application of each pod calls all the time

	mu    sync.Mutex
	calls map[string]int // from an address to the outside
	opens map[string]int // answers of the application at an address
	looks int
}

func (w *witness) add(m map[string]int, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m[address]++
}

// forget begins anew, and reports whether there was nothing to forget.
func (w *witness) forget() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { clear(w.calls); clear(w.opens) }()
	return len(w.calls)+len(w.opens) == 0
}

// looked is how often it has looked for the pods of the node.
func (w *witness) looked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looks
}

// seen says which addresses were unprotected, ever.
func (w *witness) seen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.calls)+len(w.opens) == 0 {
		return ""
	}
	return fmt.Sprintf("called outside: %v; answered in plaintext: %v", w.calls, w.opens)
}

// witnessed begins to look at every pod of the node, whatever the API server knows of it.
func witnessed(t *testing.T, c *cluster.Cluster) *witness {
	t.Helper()
	here := here(c)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(here, "0"))
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{outside: "http://" + l.Addr().String() + "/", calls: map[string]int{}, opens: map[string]int{}}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.add(w.calls, from)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })

	cmd := node(t, "while ls /var/lib/cni/networks/*/ | grep -E '^[0-9.]+$'; echo; do sleep 0.1; done")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		var busy sync.Map
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == "" {
				w.mu.Lock()
				w.looks++
				w.mu.Unlock()
				continue
			}
			if _, already := busy.LoadOrStore(lines.Text(), nil); already {
				continue
			}
			go func(address string) {
				defer busy.Delete(address)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+":8080/", nil)
				if err != nil {
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					return
				}
				defer resp.Body.Close()
				var r report
				if json.NewDecoder(resp.Body).Decode(&r) == nil && r.Version == "guarded" {
					w.add(w.opens, address)
				}
			}(lines.Text())
		}
	}()
	t.Cleanup(func() {
		_ = out.Close() // whose writer ends then
		_ = cmd.Wait()
	})
	return w
}

// guarded is a pod's specification whose application answers and calls outside.
const guarded = `{terminationGracePeriodSeconds: 1, nodeSelector: {kubernetes.io/hostname: NODE}, containers: [
    {name: app, image: "HUB/weir-sample:TAG", args: [echo, --version, guarded]},
    {name: out, image: "HUB/weir-sample:TAG", args: [client, --rate, "4", --timeout, 1s, --url, "OUTSIDE"]}]}`

const orderly = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: all}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: GUARDED
`

const single = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME, sidecar.istio.io/inject: "INJECT"}}
spec: GUARDED
`

// Pain K1: control plane, webhook, node agent, API server and the node itself go away in every
// order and come back in the same one; whatever is made meanwhile and whatever restarts: no
// application runs unprotected for a moment, and all is well again without hands.
func TestOrders(t *testing.T) {
	bin := cmp.Or(os.Getenv("WEIR_CNI_BIN"), "/opt/cni/bin")
	d := long(t)
	onNode(t, "command -v nft pkill pgrep >/dev/null && nft list tables >/dev/null")
	c := cluster.Connect(t, "istio-injection=enabled")
	t.Cleanup(func() { install(t) })
	install(t)
	c.Until("no node agent is there", booting, func() string {
		l, err := c.Client.CoreV1().Pods("istio-system").List(t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=istio-cni-node"})
		if err != nil || len(l.Items) > 0 {
			return fmt.Sprint(len(l.Items), err)
		}
		return ""
	})
	onNode(t, "rm -rf /run/weir-orders; cp -a /etc/cni/net.d /run/weir-orders")
	// All that is looked at is on the node that is broken.
	at := hostname(t)
	install(t, append(pinned(t), "--set", "cni.enabled=true", "--set", "cni.cniBinDir="+bin, "--set", "meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY")...)
	w := witnessed(t, c)
	text := func(s string) string {
		return withImages(t, strings.ReplaceAll(s, "GUARDED", strings.NewReplacer("OUTSIDE", w.outside, "NODE", at).Replace(guarded)))
	}
	pod := func(name string, inject bool) string {
		return text(strings.NewReplacer("NAME", name, "INJECT", fmt.Sprint(inject)).Replace(single))
	}

	c.Apply(pod("bare", false))
	c.Until("the witness sees a pod without a sidecar", booting, func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		if ip := c.MustPod("bare").Status.PodIP; w.calls[ip] == 0 || w.opens[ip] == 0 {
			return fmt.Sprintf("%s: %v %v", ip, w.calls, w.opens)
		}
		return ""
	})
	c.Delete(pod("bare", false))
	c.Until("it is gone", booting, func() string {
		if n := len(c.Pods("app=bare")); n > 0 {
			return "no"
		}
		return ""
	})
	c.Apply(text(orderly))
	// The kube-proxy of another node may take a minute and more to hear of a new API server.
	c.Apply(withImages(t, strings.Replace(caller, "spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: "+at+"}\n", 1)))
	c.Ready("app", booting)
	c.Eventually("its last call has come", w.forget)

	all, few := orders(len(parts))
	began, ran, made := time.Now(), 0, 0
	for i, order := range all {
		if i >= few && time.Since(began) > d {
			break
		}
		var names []string
		for _, x := range order {
			names = append(names, parts[x].name)
		}
		if !t.Run(strings.Join(names, ", "), func(t *testing.T) {
			n := disorder(c.In(t), w, order, fmt.Sprintf("during-%d-", i), pod)
			if n == 0 {
				t.Error("no pod was made, so that none could have started unprotected")
			}
			made += n
			ran++
		}) {
			break // what follows would begin with what is broken
		}
	}
	t.Logf("%d orders, %d pods made in them", ran, made)
}

// most is how many pods are made in one order, at most.
const most = 8

// disorder is one order, and how many pods were made in it: all the time somebody tries to make one, and whoever comes back finds some.
func disorder(c *cluster.Cluster, w *witness, order []int, prefix string, pod func(string, bool) string) (made int) {
	var p corev1.Pod
	if err := yaml.Unmarshal([]byte(pod(prefix, true)), &p); err != nil {
		c.T.Fatal(err)
	}
	p.Name, p.GenerateName, p.Labels["app"] = "", prefix, "during"
	var known atomic.Int32 // more may have been made of which nobody was told
	ctx, stop := context.WithCancel(c.T.Context())
	var making sync.WaitGroup
	making.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for known.Load() < most {
			within, cancel := context.WithTimeout(ctx, 2*time.Second) // it may be refused, or not be answered
			if _, err := c.Client.CoreV1().Pods(c.Namespace).Create(within, p.DeepCopy(), metav1.CreateOptions{}); err == nil {
				known.Add(1)
			}
			cancel()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	defer making.Wait()
	defer stop()
	replace := func() { // one of two
		ctx, cancel := context.WithTimeout(c.T.Context(), 2*time.Second)
		defer cancel()
		if l, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"}); err == nil && len(l.Items) > 1 {
			_ = c.Client.CoreV1().Pods(c.Namespace).Delete(ctx, l.Items[0].Name, metav1.DeleteOptions{})
		}
	}
	c.T.Cleanup(func() { // nothing stays frozen
		if !c.T.Failed() {
			return
		}
		for _, p := range parts[:4] {
			onNode(c.T, p.comes)
		}
	})
	looked := w.looked()
	for _, x := range order {
		onNode(c.T, parts[x].goes)
		replace()
	}
	before := known.Load()
	for _, x := range order {
		onNode(c.T, parts[x].comes)
		replace()
	}
	began := time.Now()
	c.Until("a pod can be made again", 3*time.Minute, func() string {
		if n := known.Load(); n == before && n < most {
			return fmt.Sprint(n)
		}
		return ""
	})
	stop()
	making.Wait()
	c.Until("all is well again", 3*time.Minute, func() string { return unwell(c) })
	made = len(c.Pods("app=during"))
	c.T.Logf("well after %v; %d pods were made meanwhile, %d of them before anything came back", time.Since(began).Round(100*time.Millisecond), made, before)
	if err := c.Client.CoreV1().Pods(c.Namespace).DeleteCollection(c.T.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=during"}); err != nil {
		c.T.Fatal(err)
	}
	if s := w.seen(); s != "" {
		c.T.Fatal(s)
	}
	c.Eventually("the witness goes on looking", func() bool { return w.looked() > looked })
	return made
}

// unwell says what the mesh and the namespace lack.
func unwell(c *cluster.Cluster) string {
	for _, at := range []struct{ namespace, name string }{{"istio-system", "istiod"}, {c.Namespace, "web"}} {
		d, err := c.Client.AppsV1().Deployments(at.namespace).Get(c.T.Context(), at.name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if !cluster.RolledOut(d) {
			return fmt.Sprintf("%s: %d of %d pods", at.name, d.Status.AvailableReplicas, *d.Spec.Replicas)
		}
	}
	if why := behind(c); why != "" {
		return why
	}
	l, err := c.Client.CoreV1().Pods(c.Namespace).List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for i := range l.Items {
		if p := &l.Items[i]; p.DeletionTimestamp == nil {
			if why := cluster.Unready(p); why != "" {
				return why
			}
		}
	}
	if r, err := echo(c, "caller", "http://web/"); err != nil || !strings.HasSuffix(r.Identity, "/sa/default") {
		return fmt.Sprintf("%+v %v", r, err)
	}
	return ""
}
