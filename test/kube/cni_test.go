package kube

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// restricted makes a pod of ours one that the strictest level of pod security takes.
func restricted(text string) string {
	return strings.ReplaceAll(text, "terminationGracePeriodSeconds: 1\n", `terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
`)
}

func locked(text string) string {
	return strings.ReplaceAll(restricted(text), "{name: app, ", "{name: app, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}, ")
}

// Nodes capture pods without rights, where only such are allowed; through every change of
// the node agent no pod runs that is not captured; and at the end the node is as it was.
func TestCNI(t *testing.T) {
	bin := cmp.Or(os.Getenv("WEIR_CNI_BIN"), "/opt/cni/bin")
	enabled := func(more ...string) []string {
		flags := []string{"--set", "cni.enabled=true", "--set", "cni.cniBinDir=" + bin}
		for _, m := range more {
			flags = append(flags, "--set", m)
		}
		return flags
	}
	c := cluster.Connect(t, "istio-injection=enabled", "pod-security.kubernetes.io/enforce=restricted")
	t.Cleanup(func() { install(t) }) // without, so that other tests find what they expect
	before := ""
	if os.Getenv("WEIR_NODE") != "" {
		install(t)
		c.Until("no plugin is there", booting, func() string {
			if before = networks(t); strings.Contains(before, "weir-cni") {
				return before
			}
			return ""
		})
	}
	install(t, enabled()...)

	named := func(text, name string) string {
		return withImages(t, strings.NewReplacer("name: caller", "name: "+name, "app: caller", "app: "+name).Replace(locked(text)))
	}
	// reached is how the web application sees a pod's calls, "" if as the pod's own identity.
	reached := func(c *cluster.Cluster, from string) string {
		r, err := echo(c, from, "http://web/")
		if want := "spiffe://cluster.local/ns/" + c.Namespace + "/sa/default"; err != nil || r.Identity != want {
			return fmt.Sprintf("%+v %v", r, err)
		}
		return ""
	}
	proved := func(c *cluster.Cluster, name string) *corev1.ContainerStatus {
		for _, s := range c.MustPod(name).Status.InitContainerStatuses {
			if s.Name == "istio-validation" {
				return &s
			}
		}
		return &corev1.ContainerStatus{} // kubelet has said nothing yet
	}

	t.Run("pods without rights", func(t *testing.T) {
		c := c.In(t)
		c.Apply(withImages(t, locked(web)))
		c.Apply(named(caller, "caller"))
		c.Ready("app in (web, caller)", booting)
		for _, name := range []string{"web", "caller"} {
			p := c.MustPod(name)
			for _, x := range append(p.Spec.InitContainers, p.Spec.Containers...) {
				if s := x.SecurityContext; s == nil || s.Capabilities == nil || len(s.Capabilities.Add) > 0 || x.Name == "istio-init" {
					t.Errorf("%s: container %s has %+v", name, x.Name, s)
				}
			}
			if s := proved(c, name); s.RestartCount > 0 {
				t.Errorf("%s: its rules were not there at once: %+v", name, s)
			}
		}
		c.Until("the caller reaches web through both proxies", cluster.Patience, func() string { return reached(c, "caller") })
		if m := agentMetrics(c); !strings.Contains(m, `istio_cni_plugin_requests_total{operation="ADD",result="captured"}`) || !strings.Contains(m, "istio_cni_install_ready 1") {
			t.Errorf("metrics: %s", m)
		}
	})

	t.Run("the node agent is replaced", func(t *testing.T) {
		c := c.In(t)
		patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"restarted":%q}}}}}`, c.Namespace)
		if _, err := c.Client.AppsV1().DaemonSets("istio-system").Patch(t.Context(), "istio-cni-node", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		var names []string
		c.Until("the new agent is ready", booting, func() string {
			if len(names) < 5 { // pods that start while there is none
				names = append(names, fmt.Sprintf("during-%d", len(names)))
				c.Apply(named(caller, names[len(names)-1]))
			}
			return behind(c)
		})
		for _, name := range names {
			c.Ready("app="+name, booting)
			if s := proved(c, name); s.RestartCount > 0 {
				t.Errorf("%s: its rules were not there at once: %+v", name, s)
			}
			c.Until(name+" reaches web", cluster.Patience, func() string { return reached(c, name) })
		}
	})

	t.Run("a pod begins before the plugin is there", func(t *testing.T) {
		c := c.In(t)
		if err := c.Client.AppsV1().DaemonSets("istio-system").Delete(t.Context(), "istio-cni-node", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Until("the node agents have ended", booting, func() string {
			l, err := c.Client.CoreV1().Pods("istio-system").List(t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=istio-cni-node"})
			if err != nil || len(l.Items) > 0 {
				return fmt.Sprint(len(l.Items), err)
			}
			return ""
		})
		c.Apply(named(caller, "early"))
		c.Until("the pod could not prove its rules", booting, func() string {
			s := proved(c, "early")
			if e := cmp.Or(s.State.Terminated, s.LastTerminationState.Terminated); e == nil || e.ExitCode != 126 {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
		if p := c.MustPod("early"); p.Status.Phase != corev1.PodPending {
			t.Errorf("it runs: %s", p.Status.Phase)
		}
		uid, node := c.MustPod("early").UID, c.MustPod("early").Spec.NodeName
		agentAway := func() string {
			for _, f := range findings(t) {
				if strings.Contains(f, `"WEIR0137"`) && strings.Contains(f, `"`+node+`"`) {
					return f
				}
			}
			return ""
		}
		c.Until("the node without its agent is named, and since when", cluster.Patience, func() string {
			if f := agentAway(); !strings.Contains(f, "since 20") {
				return "nothing is said of " + node + ": " + f
			}
			return ""
		})
		install(t, enabled("cni.repair.repairPods=false", "cni.repair.labelPods=true")...)
		c.Until("the pod is labelled", booting, func() string {
			if p := c.MustPod("early"); p.Labels["cni.istio.io/uninitialized"] != "true" {
				return fmt.Sprint(p.Labels)
			}
			return ""
		})
		c.Until("the control plane says so", cluster.Patience, func() string {
			all := strings.Join(findings(t), "\n")
			if !strings.Contains(all, `"WEIR0311"`) || !strings.Contains(all, `"early"`) {
				return all
			}
			return ""
		})
		install(t, enabled()...)
		c.Ready("app=early", booting)
		c.Until("early reaches web", cluster.Patience, func() string { return reached(c, "early") })
		if p := c.MustPod("early"); p.UID != uid || p.Labels["cni.istio.io/uninitialized"] != "" {
			t.Errorf("uid %s, was %s; labels %v", p.UID, uid, p.Labels)
		}
		c.Until("the agent is not away any more", cluster.Patience, agentAway)
		c.Until("the finding is gone", cluster.Patience, func() string {
			if all := strings.Join(findings(t), "\n"); strings.Contains(all, `"WEIR0311"`) {
				return all
			}
			return ""
		})
	})

	t.Run("taken away", func(t *testing.T) {
		c := c.In(t)
		install(t)
		c.Apply(withImages(t, strings.NewReplacer("name: caller", "name: plain", "app: caller", `app: plain, sidecar.istio.io/inject: "false"`).Replace(locked(caller))))
		c.Ready("app=plain", booting) // the plugin would have refused it: nobody gives it a token any more
		if l, err := c.Client.AppsV1().DaemonSets("istio-system").List(t.Context(), metav1.ListOptions{}); err != nil || len(l.Items) > 0 {
			t.Errorf("%v %v", l, err)
		}
		if why := reached(c, "caller"); why != "" { // who was captured stays so
			t.Error(why)
		}
		if before == "" {
			return // nobody can look at a node
		}
		c.Until("the node is as it was, byte for byte", booting, func() string {
			if now := networks(t); now != before {
				return now
			}
			if out, err := node(t, "ls -d "+bin+"/weir-cni* /var/run/weir-cni/* /run/weir-cni/* 2>/dev/null; true").Output(); err != nil || len(out) > 0 {
				return fmt.Sprintf("%s %v", out, err)
			}
			return ""
		})
	})
}

// behind says what the agents' rollout lacks.
func behind(c *cluster.Cluster) string {
	d, err := c.Client.AppsV1().DaemonSets("istio-system").Get(c.T.Context(), "istio-cni-node", metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberAvailable < s.DesiredNumberScheduled {
		return fmt.Sprintf("%+v", s)
	}
	return ""
}

// agentMetrics are those of one node's agent.
func agentMetrics(c *cluster.Cluster) string {
	l, err := c.Client.CoreV1().Pods("istio-system").List(c.T.Context(), metav1.ListOptions{LabelSelector: "k8s-app=istio-cni-node"})
	if err != nil || len(l.Items) == 0 {
		return fmt.Sprint(err)
	}
	ctx, cancel := context.WithTimeout(c.T.Context(), 30*time.Second)
	defer cancel()
	b, err := c.Client.CoreV1().RESTClient().Get().Namespace("istio-system").Resource("pods").Name(l.Items[0].Name + ":15014").SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
