package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/test/kube/cluster"
)

var deleteNow = func() metav1.DeleteOptions {
	zero := int64(0)
	return metav1.DeleteOptions{GracePeriodSeconds: &zero}
}()

// job is a Pod that ends by itself; NATIVE says which kind of sidecar it has.
const job = `
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  labels: {app: NAME}
  annotations:
    sidecar.istio.io/nativeSidecar: "NATIVE"
    proxy.istio.io/config: "holdApplicationUntilProxyStarts: true" # which a native sidecar does by itself
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 40
  containers: [{name: app, image: "HUB/weir-sample:TAG", args: [client, ARGS]}]
`

const web = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "HUB/weir-sample:TAG", args: [echo]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

func runJob(t *testing.T, c *cluster.Cluster, name string, native bool, args ...string) {
	t.Helper()
	quoted := `"` + strings.Join(args, `", "`) + `"`
	c.Apply(withImages(t, strings.NewReplacer("NAME", name, "NATIVE", fmt.Sprint(native), "ARGS", quoted).Replace(job)))
}

// ends waits until a pod has ended, and returns how its application and its proxy did.
func ends(c *cluster.Cluster, name string) (app, proxy *corev1.ContainerStateTerminated, phase corev1.PodPhase) {
	c.T.Helper()
	c.Until("pod "+name+" has ended", booting, func() string {
		p := c.MustPod(name)
		app, proxy, phase = cluster.Ended(p, "app"), cluster.Ended(p, "istio-proxy"), p.Status.Phase
		if phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			return "it is " + string(phase) + " " + cluster.Unready(p)
		}
		return ""
	})
	if app == nil || proxy == nil {
		c.T.Fatalf("pod %s is %s, and its application ended with %v, its proxy with %v", name, phase, app, proxy)
	}
	return app, proxy, phase
}

// Pains S02 and S03: a Job's proxy ends with it, the exit status is the application's, and
// connections that are open and idle keep nobody. A native sidecar does so unasked; one that is
// an ordinary container is told so by the Job's last step (docs/weir-proxy.md).
func TestJobsEnd(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(withImages(t, web))
	c.Ready("app=web", booting)
	for _, native := range []bool{true, false} {
		for _, test := range []struct {
			name   string
			args   []string
			status int32
			phase  corev1.PodPhase
		}{
			{"done", []string{"--count", "3"}, 0, corev1.PodSucceeded},
			{"wrong", []string{"--count", "3", "--exit", "3"}, 3, corev1.PodFailed},
			{"idle", []string{"--count", "3", "--idle", "20"}, 0, corev1.PodSucceeded},
		} {
			name := fmt.Sprintf("%s-native-%t", test.name, native)
			args := append(test.args, "--url", "http://web/", "--timeout", "30s")
			if !native {
				args = append(args, "--quit", "http://127.0.0.1:15020/quitquitquit")
			}
			runJob(t, c, name, native, args...)
			app, proxy, phase := ends(c, name)
			if app.ExitCode != test.status || phase != test.phase {
				t.Errorf("%s: status %d, %s, want %d, %s\n%s", name, app.ExitCode, phase, test.status, test.phase, c.Logs(name, "app"))
			}
			// In whole seconds, as the API server has them.
			if late := proxy.FinishedAt.Sub(app.FinishedAt.Time); late > 2*time.Second {
				t.Errorf("%s: the proxy ended %v after the application", name, late)
			}
			if proxy.ExitCode != 0 {
				t.Errorf("%s: the proxy ended with %d", name, proxy.ExitCode)
			}
		}
	}
}

// Pain S04: an application that is told to end and takes its time may call others until it has ended.
func TestCallsWhileEnding(t *testing.T) {
	const linger = 20 * time.Second
	c, _ := meshed(t)
	c.Apply(withImages(t, web))
	c.Ready("app=web", booting)
	logs := map[string]*cluster.Lines{}
	for _, native := range []bool{true, false} {
		name := fmt.Sprintf("ending-native-%t", native)
		runJob(t, c, name, native, "--rate", "20", "--linger", linger.String(), "--url", "http://web/")
		c.Until(name+" is ready", booting, func() string { return cluster.Unready(c.MustPod(name)) })
		logs[name] = c.Follow(name, "app")
		if err := c.Client.CoreV1().Pods(c.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, log := range logs {
		select {
		case <-log.Ended():
		case <-time.After(linger + booting):
			t.Fatalf("%s does not end", name)
		}
		s := summary(log.All())
		if s.Failed > 0 || s.Calls < int(linger.Seconds())*20*9/10 {
			t.Errorf("%s: %+v\n%s", name, s, log.All())
		}
		t.Logf("%s: %d calls while it ended, %d failed", name, s.Calls, s.Failed)
	}
}
