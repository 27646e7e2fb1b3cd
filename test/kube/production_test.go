package kube

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// spread is a service of four pods, of which one may be away at a time, on all nodes.
const spread = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}]
      containers: [{name: app, image: "HUB/weir-sample:TAG", args: [echo, --version, web]}]
`

// toWeb has the ingress gateway serve web.
const toWeb = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec: {hosts: ["*"], gateways: [edge], http: [{route: [{destination: {host: web, port: {number: 80}}}]}]}
`

// The profile for production on two nodes: two of everything, one on each, none of it first to go. A node is drained, and comes back,
// under load from within and through the gateway: no request fails, and as many as the budgets demand are there at every moment.
func TestProduction(t *testing.T) {
	c := cluster.Connect(t, "istio-injection=enabled")
	nodes, err := c.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) < 2 {
		t.Skip("the cluster has one node; it takes two", err)
	}
	stays, drained := nodes.Items[0].Name, nodes.Items[1].Name
	t.Cleanup(func() { install(t) })
	install(t, "--profile", "production")
	must(t, ofImages(t, "verify", "--profile", "production")...)
	of := func(app string) (pods []corev1.Pod) {
		l, err := c.Client.CoreV1().Pods("istio-system").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range l.Items {
			if p.DeletionTimestamp == nil {
				pods = append(pods, p)
			}
		}
		return pods
	}
	apps := []string{"istiod", "istio-ingressgateway"}
	twoReady := func(app string) func() string {
		return func() string {
			pods := of(app)
			for i := range pods {
				if why := cluster.Unready(&pods[i]); why != "" {
					return why
				}
			}
			if len(pods) != 2 {
				return fmt.Sprintf("%d pods of %s", len(pods), app)
			}
			return ""
		}
	}
	for _, app := range apps {
		c.Until("the autoscaler has made two of "+app, booting, twoReady(app))
		at := map[string]int{}
		for _, p := range of(app) {
			at[p.Spec.NodeName]++
			if p.Spec.PriorityClassName != "system-cluster-critical" || p.Spec.Priority == nil || *p.Spec.Priority < 1e9 {
				t.Errorf("%s: priority class %q", p.Name, p.Spec.PriorityClassName)
			}
		}
		if len(at) != 2 {
			t.Errorf("%s is not on two nodes: %v", app, at)
		}
		c.Until("the autoscaler of "+app+" has what it wants", booting, func() string { // it looks every 15 s
			a, err := c.Client.AutoscalingV2().HorizontalPodAutoscalers("istio-system").Get(t.Context(), app, metav1.GetOptions{})
			if err != nil || a.Status.CurrentReplicas != 2 || a.Status.DesiredReplicas != 2 || *a.Spec.MinReplicas != 2 || a.Spec.MaxReplicas != 5 {
				return fmt.Sprintf("%+v %v", a, err)
			}
			return ""
		})
		b, err := c.Client.PolicyV1().PodDisruptionBudgets("istio-system").Get(t.Context(), app, metav1.GetOptions{})
		if err != nil || b.Status.DesiredHealthy != 1 || b.Status.DisruptionsAllowed != 1 {
			t.Errorf("budget of %s: %+v %v", app, b, err)
		}
	}

	c.Apply(withImages(t, spread))
	c.Apply(toWeb)
	c.Ready("app=web", booting)
	c.Until("the gateway serves it", booting, func() string {
		out, err := c.Exec(c.Pod("app=web").Name, "app", "curl", "-sS", "-m", "5", "http://istio-ingressgateway.istio-system/")
		if err != nil || !strings.Contains(out, `"version": "web"`) {
			return fmt.Sprint(out, err)
		}
		return ""
	})
	cordon := func(yes bool) {
		patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, yes)
		if _, err := c.Client.CoreV1().Nodes().Patch(t.Context(), drained, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	// Who calls stays: it is made while the other node takes nobody.
	cordon(true)
	inside, outside := calling(t, c, "inside", true, 60, "http://web/"), calling(t, c, "outside", false, 40, "http://istio-ingressgateway.istio-system/")
	cordon(false)
	for _, name := range []string{"inside", "outside"} {
		if p := c.MustPod(name); p.Spec.NodeName != stays {
			t.Fatalf("%s is on %s", name, p.Spec.NodeName)
		}
	}

	began := time.Now()
	cordon(true)
	evicted := evict(c, drained)
	for _, app := range apps {
		c.Until(app+" is whole on the other node", booting, twoReady(app))
	}
	c.Ready("app=web", booting)
	t.Logf("node %s was drained of %d pods within %v", drained, evicted, time.Since(began).Round(time.Second))
	cordon(false)
	restart(c, c.Namespace, "istio-system")
	for _, app := range apps {
		at := map[string]int{}
		for _, p := range of(app) {
			at[p.Spec.NodeName]++
		}
		if len(at) != 2 {
			t.Errorf("%s is not on both nodes again: %v", app, at)
		}
	}
	stopped(t, c, "inside", inside)
	stopped(t, c, "outside", outside)
}

// evict does what kubectl drain does: it asks for every pod of a node but those of DaemonSets to go, as budgets allow, and waits until
// they have. It returns how many there were.
func evict(c *cluster.Cluster, node string) (pods int) {
	c.T.Helper()
	seen := map[types.UID]bool{}
	c.Until("node "+node+" is empty", 2*booting, func() string {
		l, err := c.Client.CoreV1().Pods("").List(c.T.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return err.Error()
		}
		left := 0
		for _, p := range l.Items {
			if o := metav1.GetControllerOf(&p); o != nil && o.Kind == "DaemonSet" {
				continue
			}
			left++
			seen[p.UID] = true
			if p.DeletionTimestamp != nil {
				continue
			}
			err := c.Client.CoreV1().Pods(p.Namespace).EvictV1(c.T.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}})
			if err != nil && !apierrors.IsTooManyRequests(err) && !apierrors.IsNotFound(err) {
				c.T.Errorf("evicting %s: %v", p.Name, err)
			}
		}
		if left > 0 {
			return fmt.Sprintf("%d pods are left", left)
		}
		return ""
	})
	return len(seen)
}

// measured is bookinfo's product page, an application with metrics of its own.
const measured = `
apiVersion: v1
kind: Pod
metadata: {name: page, labels: {app: page}, annotations: {prometheus.io/scrape: "true", prometheus.io/port: "9080", prometheus.io/path: /metrics}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "HUB/weir-sample:TAG", args: [bookinfo-productpage], ports: [{containerPort: 9080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: page}
spec: {selector: {app: page}, ports: [{name: http, port: 80, targetPort: 9080}]}
`

// What operators do with a proxy in a pod: its metrics are those of the application, too; its level of the log changes while it runs;
// tools are put beside it; all that is known is packed. When its container is restarted while there is no control plane, it goes on
// with what it has kept in the pod's memory.
func TestOperating(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(withImages(t, measured+"---"+caller))
	c.Ready("app", booting)
	call := func() string {
		if out, err := c.Exec("caller", "app", "curl", "-sSf", "-m", "10", "http://page/health"); err != nil || !strings.Contains(out, "healthy") {
			return fmt.Sprint(out, err)
		}
		return ""
	}
	c.Until("the page is called", cluster.Patience, call)
	admin := func(pod, method, path string) (string, error) {
		return c.Exec(pod, "istio-proxy", "weir-proxy", "request", "--debug-port=15000", method, path)
	}

	t.Run("merged metrics", func(t *testing.T) {
		c := c.In(t)
		p := c.MustPod("page")
		if p.Annotations["prometheus.io/port"] != "15020" || p.Annotations["prometheus.io/path"] != "/stats/prometheus" {
			t.Errorf("Prometheus is sent to %v", p.Annotations)
		}
		b, err := c.Client.CoreV1().RESTClient().Get().Namespace(c.Namespace).Resource("pods").Name("page:15020").SubResource("proxy").Suffix("stats/prometheus").DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"request_result_total", "istio_requests_total{", "weir_proxy_ready 1"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("no %s in %.2000s", want, b)
			}
		}
	})

	t.Run("log level", func(t *testing.T) {
		c := c.In(t)
		level := func() string { return must(t, "proxy-config", "log", "page", "-n", c.Namespace) }
		if out := must(t, "proxy-config", "log", "page", "-n", c.Namespace, "--level", "debug", "--for", "10m"); !strings.Contains(out, "debug") {
			t.Error(out)
		}
		if out := level(); !strings.Contains(out, "debug") {
			t.Error(out)
		}
		must(t, "proxy-config", "log", "page", "-n", c.Namespace, "--reset")
		if out := level(); strings.Contains(out, "debug") {
			t.Error(out)
		}
	})

	t.Run("debug", func(t *testing.T) {
		c := c.In(t)
		out := must(t, "debug", "page", "-n", c.Namespace, "--image", withImages(t, "HUB/weir-sample:TAG"), "--", "weir-sample", "sleep")
		if !strings.Contains(out, "kubectl attach -it -n "+c.Namespace+" page -c weir-debug-1") {
			t.Error(out)
		}
		c.Until("the tools are beside it", booting, func() string {
			for _, s := range c.MustPod("page").Status.EphemeralContainerStatuses {
				if s.Name == "weir-debug-1" && s.State.Running != nil {
					return ""
				}
			}
			return fmt.Sprint(c.MustPod("page").Status.EphemeralContainerStatuses)
		})
		// In the pod's network: it reaches what only the pod itself may.
		if out, err := c.Exec("page", "weir-debug-1", "curl", "-sS", "-m", "5", "http://127.0.0.1:15000/ready"); err != nil || !strings.Contains(out, "LIVE") {
			t.Error(out, err)
		}
		if out, _, err := weir(t, "debug", "page", "-n", c.Namespace, "--image", "x", "--target", "istio-prox"); err == nil {
			t.Errorf("a container that is not there: %s", out)
		}
	})

	t.Run("bug report", func(t *testing.T) {
		c := c.In(t)
		const secret = "do-not-tell-anybody"
		c.Apply("apiVersion: v1\nkind: Secret\nmetadata: {name: mine}\nstringData: {password: " + secret + "}\n")
		file := filepath.Join(t.TempDir(), "report.tar.gz")
		must(t, "bug-report", "-f", file, "--include", c.Namespace, "--include", "istio-system")
		parts := unpacked(t, file)
		all := ""
		for name, text := range parts {
			all += name + "\n"
			for _, never := range []string{secret, "PRIVATE KEY-----\nM", "eyJhbGciOi"} {
				if strings.Contains(text, never) {
					t.Errorf("%s has %q in it", name, never)
				}
			}
		}
		for _, want := range []string{"README.txt", "page", "istiod", "server_info.json"} {
			if !strings.Contains(all, want) {
				t.Errorf("there is no %s in it:\n%s", want, all)
			}
		}
	})

	t.Run("restarted without the control plane", func(t *testing.T) {
		c := c.In(t)
		t.Cleanup(func() { install(t) })
		scale(c, "istiod", 0)
		for _, pod := range []string{"page", "caller"} {
			before := restarts(c, pod)
			// The proxy ends, as it would by a panic; kubelet begins it anew in the same pod.
			if _, err := c.Exec(pod, "istio-proxy", "weir-proxy", "request", "--debug-port=15000", "POST", "/quitquitquit"); err != nil {
				t.Logf("%s: %v", pod, err)
			}
			c.Until("the proxy of "+pod+" is another, and ready", booting, func() string {
				if restarts(c, pod) == before {
					return "it is the same"
				}
				return cluster.Unready(c.MustPod(pod))
			})
			if info, err := admin(pod, "GET", "/server_info"); err != nil || !strings.Contains(info, `"keptState": "continued, was `) {
				t.Errorf("%s does not go on with what it kept: %v %s", pod, err, info)
			}
		}
		c.Until("the page is called", cluster.Patience, call)
		scale(c, "istiod", 1)
	})
}

// restarts is how often a pod's proxy was begun anew.
func restarts(c *cluster.Cluster, pod string) int32 {
	p := c.MustPod(pod)
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.Name == "istio-proxy" {
			return s.RestartCount
		}
	}
	return -1
}

// unpacked are the texts of an archive by their names.
func unpacked(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(b)
	}
}
