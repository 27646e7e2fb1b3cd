package kube

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/sample/client"
	"github.com/weirmesh/weir/test/kube/cluster"
)

// manifest reads one of our own, for the images that the nodes have.
func manifest(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return withImages(t, string(b))
}

func withImages(t *testing.T, text string) string {
	t.Helper()
	hub, tag := images(t)
	if tag == "" {
		t.Skip("pods need a tag: WEIR_KUBE_IMAGES=HUB:TAG")
	}
	return strings.NewReplacer("HUB/", hub+"/", ":TAG", ":"+tag).Replace(text)
}

// report is what the echo sample says of a request; sample/echo/README.md.
type report struct {
	Hostname, Version, Identity string
}

// reachesByMutualTLS waits until the caller's calls arrive at web as its own.
func reachesByMutualTLS(c *cluster.Cluster) {
	c.T.Helper()
	c.Until("the caller reaches web by mutual TLS", cluster.Patience, func() string {
		if r, err := echo(c, "caller", "http://web/"); err != nil || !strings.HasSuffix(r.Identity, "/sa/default") {
			return fmt.Sprintf("%+v %v", r, err)
		}
		return ""
	})
}

// echo calls an echo sample from a pod's container app.
func echo(c *cluster.Cluster, from, url string) (report, error) {
	var r report
	out, err := c.Exec(from, "app", "curl", "-sS", "-m", "10", url)
	if err == nil {
		err = json.Unmarshal([]byte(out), &r)
	}
	if err != nil {
		err = fmt.Errorf("%w: %.300s", err, out)
	}
	return r, err
}

// calls runs the client sample in a pod's container app.
func calls(c *cluster.Cluster, from string, args ...string) (client.Summary, error) {
	out, err := c.Exec(from, "app", append([]string{"weir-sample", "client"}, args...)...)
	return summary(out), err
}

// summary is the last line of the client sample, which may be followed by why it failed.
func summary(out string) (s client.Summary) {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "{") {
			_ = json.Unmarshal([]byte(line), &s) // zero if it is none
		}
	}
	return s
}

// Pods that know nothing of the mesh work in it as they did before, whatever they are.
func TestWorkloads(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(manifest(t, "workloads.yaml"))
	c.Ready("app in (caller,outside,web,db,store,rpc,early,on-node,two,root)", booting)
	c.Apply(manifest(t, "jobs.yaml")) // now that who they call is there
	id := func(account string) string { return "spiffe://cluster.local/ns/" + c.Namespace + "/sa/" + account }

	for _, p := range []struct {
		name, from, url string
		want            report
	}{
		{"an ordinary pod", "caller", "http://web/", report{c.Pod("app=web").Name, "v1", id("caller")}},
		{"by its full name", "caller", "http://web." + c.Namespace + ".svc.cluster.local/", report{c.Pod("app=web").Name, "v1", id("caller")}},
		{"by a pod that is not in the mesh", "outside", "http://web/", report{c.Pod("app=web").Name, "v1", ""}},
		{"the first pod of a StatefulSet", "caller", "http://store-0.store:8080/", report{"store-0", "v1", id("caller")}},
		{"the second pod of a StatefulSet", "caller", "http://store-1.store:8080/", report{"store-1", "v1", id("caller")}},
		{"the first of two containers", "caller", "http://two:8080/", report{"two", "first", id("caller")}},
		{"the second of two containers", "caller", "http://two:8081/", report{"two", "second", id("caller")}},
		{"a pod that runs as root", "caller", "http://root:8080/", report{"root", "v1", id("caller")}},
		{"a pod of the node's network, without a sidecar", "caller", "http://on-node:18080/", report{Version: "v1"}},
	} {
		got, err := echo(c, p.from, p.url)
		if p.want.Hostname == "" {
			got.Hostname = "" // the node's
		}
		if err != nil || got != p.want {
			t.Errorf("%s: %+v, %v, want %+v", p.name, got, err, p.want)
		}
	}
	for name, sidecar := range map[string]bool{"caller": true, "outside": false, "on-node": false, "root": true, "two": true, "early": true} {
		if got := c.MustPod(name).Annotations["sidecar.istio.io/status"] != ""; got != sidecar {
			t.Errorf("pod %s has a sidecar: %t", name, got)
		}
	}
	// As root, too: what the application itself sends goes through its proxy.
	if out, err := c.Exec("root", "app", "curl", "-sS", "-m", "10", "http://web/"); err != nil || !strings.Contains(out, id("default")) {
		t.Errorf("from a pod that runs as root: %s, %v", out, err)
	}

	began := time.Now()
	if s, err := calls(c, "caller", "--url", "tcp://db:3306", "--count", "20"); err != nil || s.First != "5.7.44-log mysql_native_password" {
		t.Errorf("a server that speaks first: %+v, %v", s, err)
	} else {
		t.Logf("20 greetings of a server that speaks first: median %v ms, all in %v", s.P50, time.Since(began).Round(time.Millisecond))
	}
	if s, err := calls(c, "caller", "--url", "grpc://rpc:50051", "--count", "20"); err != nil || !strings.HasPrefix(s.First, "rpc-") {
		t.Errorf("gRPC: %+v, %v", s, err)
	}
	if how := cluster.Ended(c.MustPod("early"), "fetch"); how == nil || how.ExitCode != 0 {
		t.Errorf("an init container that needs the network ended with %v: %s", how, c.Logs("early", "fetch"))
	}

	finished := func(selector string) string {
		jobs, err := c.Client.BatchV1().Jobs(c.Namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, j := range jobs.Items {
			if j.Spec.Template.Labels["app"] != selector {
				continue
			}
			for _, x := range j.Status.Conditions {
				if x.Status == corev1.ConditionTrue && x.Type == batchv1.JobFailed {
					t.Fatalf("job %s: %s %s\n%s", j.Name, x.Reason, x.Message, logsOf(c, "app="+selector))
				}
				if x.Status == corev1.ConditionTrue && x.Type == batchv1.JobComplete {
					return ""
				}
			}
			return "job " + j.Name + " runs"
		}
		return "there is no job"
	}
	c.Until("the Job is complete", booting, func() string { return finished("once") })
	// The schedule's first minute may begin a minute after the manifest came.
	c.Until("a Job of the CronJob is complete", time.Minute+booting, func() string { return finished("tick") })
}

func logsOf(c *cluster.Cluster, selector string) string {
	var b strings.Builder
	for _, p := range c.Pods(selector) {
		fmt.Fprintf(&b, "%s:\n%s", p.Name, c.Logs(p.Name, "app"))
	}
	return b.String()
}
