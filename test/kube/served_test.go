package kube

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// probed is a pod whose containers are asked by kubelet in every way there is: NAME and, of those that answer as they should not, other
// ports, paths and services.
const probed = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: http
    image: "HUB/weir-sample:TAG"
    args: [echo, --port, "8080", --tls-port, "8443"]
    startupProbe: {exec: {command: [curl, -sSf, -m, "2", "http://127.0.0.1:8080/"]}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 60}
    livenessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 2, timeoutSeconds: 5}
    readinessProbe: {httpGet: {path: "/?status=STATUS", port: 8080, httpHeaders: [{name: x-asked-by, value: kubelet}]}, periodSeconds: 1, timeoutSeconds: 5}
  - name: https
    image: "HUB/weir-sample:TAG"
    args: [echo, --port, "8081", --tls-port, "8444"]
    livenessProbe: {httpGet: {scheme: HTTPS, path: /, port: 8444}, periodSeconds: 2, timeoutSeconds: 5}
    readinessProbe: {httpGet: {scheme: HTTPS, path: "/?status=STATUS", port: 8444}, periodSeconds: 1, timeoutSeconds: 5}
  - name: tcp
    image: "HUB/weir-sample:TAG"
    args: [echo, --port, "8082", --tcp-port, "9000"]
    readinessProbe: {tcpSocket: {port: TCP}, periodSeconds: 1, timeoutSeconds: 5}
  - name: rpc
    image: "HUB/weir-sample:TAG"
    args: [grpc, --port, "50051"]
    readinessProbe: {grpc: {port: GRPC}, periodSeconds: 1, timeoutSeconds: 5}
  - name: exec
    image: "HUB/weir-sample:TAG"
    args: [echo, --port, "8083"]
    readinessProbe: {exec: {command: [curl, -sSf, -m, "2", "http://127.0.0.1:EXEC/"]}, periodSeconds: 1, timeoutSeconds: 5}
`

// Kubelet, which has no certificate, asks applications as their probes say, where nobody else may without one: an answer is theirs, be it
// that they are well or that they are not.
func TestProbes(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(strict)
	pod := func(name, status, tcp, grpc, exec string) string {
		return withImages(t, strings.NewReplacer("NAME", name, "STATUS", status, "TCP", tcp, "GRPC", grpc, "EXEC", exec).Replace(probed))
	}
	c.Apply(pod("well", "200", "9000", "50051", "8083"))
	c.Apply(pod("ill", "503", "9", "9", "9")) // where nobody listens: connections to the proxy would be accepted
	c.Ready("app=well", booting)
	kinds := []string{"http", "https", "tcp", "rpc", "exec"}
	p := c.MustPod("well")
	for _, x := range p.Spec.Containers {
		if r := x.ReadinessProbe; x.Name != "istio-proxy" && x.Name != "exec" && (r.HTTPGet == nil || r.HTTPGet.Port.IntVal != 15020 || r.HTTPGet.Path != "/app-health/"+x.Name+"/readyz") {
			t.Errorf("%s is asked otherwise than through its proxy: %+v", x.Name, r)
		}
	}
	c.Until("each container that is ill has been said to be, by its own probe", booting, func() string {
		l, err := c.Client.CoreV1().Events(c.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=ill,reason=Unhealthy"})
		if err != nil {
			return err.Error()
		}
		missing := map[string]bool{}
		for _, k := range kinds {
			missing["spec.containers{"+k+"}"] = true
		}
		for _, e := range l.Items {
			if strings.HasPrefix(e.Message, "Readiness probe failed") {
				delete(missing, e.InvolvedObject.FieldPath)
			}
		}
		if len(missing) > 0 {
			return fmt.Sprint(missing)
		}
		return ""
	})
	for _, s := range c.MustPod("ill").Status.ContainerStatuses {
		if s.Name != "istio-proxy" && s.Ready {
			t.Errorf("%s, which is ill, is ready", s.Name)
		}
	}
	for _, s := range c.MustPod("well").Status.ContainerStatuses {
		if s.RestartCount > 0 || !s.Ready {
			t.Errorf("%s was restarted %d times, ready: %t", s.Name, s.RestartCount, s.Ready)
		}
	}
}

// streamed is a pod whose proxy may drain for two seconds.
const streamed = `
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  labels: {app: NAME}
  annotations:
    sidecar.istio.io/nativeSidecar: "NATIVE"
    proxy.istio.io/config: |
      terminationDrainDuration: 2s
      proxyMetadata: {EXIT_ON_ZERO_ACTIVE_CONNECTIONS: "ZERO"}
spec:
  terminationGracePeriodSeconds: 60
  containers: [{name: app, image: "HUB/weir-sample:TAG", args: [echo]}]
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

// A pod is deleted in the middle of an answer of ten seconds, five times what its proxy may go on for without the application: the answer
// arrives whole from a native sidecar, which ends after its application, and from an ordinary one, which sees that this goes on, be it to
// wait for the last connection or not. All of them end with it, far from the grace period's end.
func TestLongAnswers(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(withImages(t, caller))
	for _, p := range []struct {
		name         string
		native, zero bool
	}{{"native", true, false}, {"ordinary", false, false}, {"to-zero", false, true}} {
		t.Run(p.name, func(t *testing.T) {
			c := c.In(t)
			c.Apply(withImages(t, strings.NewReplacer("NAME", p.name, "NATIVE", fmt.Sprint(p.native), "ZERO", fmt.Sprint(p.zero)).Replace(streamed)))
			c.Ready("app in (caller, "+p.name+")", booting)
			c.Until("it is called", cluster.Patience, func() string {
				if _, err := echo(c, "caller", "http://"+p.name+"/"); err != nil {
					return err.Error()
				}
				return ""
			})
			type answer struct {
				text string
				err  error
			}
			done := make(chan answer, 1)
			go func() {
				out, err := c.Exec("caller", "app", "curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{size_download}", "http://"+p.name+"/?size=1000&chunk=10&chunk-delay=100ms")
				done <- answer{out, err}
			}()
			c.Until("the answer is on its way", cluster.Patience, func() string {
				out, err := c.Exec("caller", "istio-proxy", "weir-proxy", "request", "--debug-port=15000", "GET", "/clusters")
				for line := range strings.Lines(out) {
					if strings.HasPrefix(line, "outbound|80||"+p.name+".") && strings.Contains(line, ":8080::rq_active::1") {
						return ""
					}
				}
				return fmt.Sprint(err, out)
			})
			began := time.Now()
			if err := c.Client.CoreV1().Pods(c.Namespace).Delete(t.Context(), p.name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			a := <-done
			if a.err != nil || a.text != "1000" {
				t.Errorf("the answer is not whole: %s %v", a.text, a.err)
			}
			c.Until("the pod has ended", 40*time.Second, func() string {
				if ps, err := c.Client.CoreV1().Pods(c.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + p.name}); err != nil || len(ps.Items) > 0 {
					return fmt.Sprint(len(ps.Items), err)
				}
				return ""
			})
			t.Logf("%s: %s bytes, the pod ended after %v", p.name, a.text, time.Since(began).Round(time.Second))
		})
	}
}

// wrong is an object that may be applied, and leads to nobody.
const wrong = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong, namespace: NAMESPACE}
spec: {hosts: [web], http: [{route: [{destination: {host: nobody-there}}]}]}
`

// Who applies an object with kubectl is told what is wrong with it, and finds it in its status afterwards, until it is mended.
func TestKubectl(t *testing.T) {
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("there is no kubectl")
	}
	c, _ := meshed(t)
	c.Apply(withImages(t, web))
	c.Ready("app", booting)
	run := func(stdin string, args ...string) (out, errs string) {
		cmd := exec.CommandContext(t.Context(), kubectl, args...)
		var o, e strings.Builder
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
		if err := cmd.Run(); err != nil {
			e.WriteString(err.Error())
		}
		return o.String(), e.String()
	}
	text := strings.ReplaceAll(wrong, "NAMESPACE", c.Namespace)
	c.Until("kubectl prints a warning", cluster.Patience, func() string { // the control plane knows the service by now, or soon
		c.Delete(text)
		out, errs := run(text, "apply", "-f", "-")
		if !strings.Contains(out, "created") || !strings.Contains(errs, "Warning: ") || !strings.Contains(errs, "nobody-there") {
			return "kubectl says " + out + errs
		}
		t.Log(strings.TrimSpace(errs))
		return ""
	})
	status := func() string {
		out, errs := run("", "get", "virtualservice", "wrong", "-n", c.Namespace, "-o", "yaml")
		_, s, _ := strings.Cut(out, "\nstatus:")
		return s + errs
	}
	c.Until("its status says so", cluster.Patience, func() string {
		if s := status(); !strings.Contains(s, "conditions:") || !strings.Contains(s, "nobody-there") {
			return "status:" + s
		}
		return ""
	})
	t.Log(status())
	out, errs := run(strings.ReplaceAll(text, "nobody-there", "web"), "apply", "-f", "-")
	if strings.Contains(errs, "Warning: ") {
		t.Error(out, errs)
	}
	c.Until("its status says that it is in force", cluster.Patience, func() string {
		if s := status(); !strings.Contains(s, "conditions:") || strings.Contains(s, "nobody-there") {
			return "status:" + s
		}
		return ""
	})
	out, errs = run(strings.ReplaceAll(text, "destination: {host: nobody-there}", "destination: {}"), "apply", "-f", "-")
	if !strings.Contains(errs, "denied the request") && !strings.Contains(errs, "Invalid") && !strings.Contains(errs, "invalid") {
		t.Errorf("an object that says nothing is taken: %s%s", out, errs)
	}
}
