package kube

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// seed are files as people wrote them for Istio 1.0.
const seed = "../../../shared/fixtures"

func fixture(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(seed, name))
	if err != nil {
		t.Skipf("the fixtures are needed: %v", err)
	}
	return string(b)
}

// byHand is a Pod with the init container and the sidecar of the fixtures, as they stand.
func byHand(t *testing.T, name string) string {
	t.Helper()
	var p struct{ InitContainers, Containers []corev1.Container }
	for _, f := range []string{"init-container.yaml", "sidecar-container.yaml"} {
		if err := yaml.Unmarshal([]byte(fixture(t, f)), &p); err != nil {
			t.Fatal(err)
		}
	}
	second := int64(1)
	pod := corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: p.InitContainers, ServiceAccountName: name, TerminationGracePeriodSeconds: &second,
		Containers: append(p.Containers, corev1.Container{Name: "app", Image: withImages(t, "HUB/weir-sample:TAG"), Args: []string{"echo", "--version", name}}),
		Volumes:    []corev1.Volume{{Name: "istio-envoy", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
	}}
	pod.APIVersion, pod.Kind, pod.Name = "v1", "Pod", name
	pod.Labels = map[string]string{"app": name}
	b, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %[1]s}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: %[1]s}\nspec: {selector: {app: %[1]s}, ports: [{name: http, port: 8080}]}\n---\n", name) + string(b)
}

// findings are what the mesh in the cluster says, each as a line.
func findings(t *testing.T) []string {
	t.Helper()
	out, errs, err := weir(t, "analyze", "--severity", "info", "-o", "json")
	var list []json.RawMessage
	if json.Unmarshal([]byte(out), &list) != nil {
		t.Fatalf("weir analyze: %v %s %s", err, out, errs)
	}
	var lines []string
	for _, l := range list {
		lines = append(lines, string(l))
	}
	return lines
}

// A sidecar written by hand in 2018 runs as it stands in an injected namespace: its flags
// lead to the secure port, and it has an identity like any other.
func TestSidecarByHand(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(withImages(t, web))
	c.Apply(byHand(t, "old"))
	c.Ready("app in (old,web)", booting)
	old := c.MustPod("old")
	if n := len(old.Spec.Containers); n != 2 {
		t.Errorf("the pod has %d containers, want its own two", n)
	}
	want := "spiffe://cluster.local/ns/" + c.Namespace + "/sa/old"
	c.Until("the old sidecar calls with its identity", cluster.Patience, func() string {
		if r, err := echo(c, "old", "http://web/"); err != nil || r.Identity != want {
			return fmt.Sprintf("%+v, %v", r, err)
		}
		return ""
	})
	c.Until("the old sidecar is called with mutual TLS", cluster.Patience, func() string {
		if r, err := echo(c, "web", "http://old:8080/"); err != nil || r.Version != "old" || !strings.HasSuffix(r.Identity, "/sa/default") {
			return fmt.Sprintf("%+v, %v", r, err)
		}
		return ""
	})
	log := c.Logs("old", "istio-proxy")
	for _, flag := range []string{"parentShutdownDuration", "discoveryRefreshDelay", "connectTimeout", "serviceCluster"} {
		if !strings.Contains(log, flag) {
			t.Errorf("nothing says what became of --%s:\n%s", flag, log)
		}
	}
}

// With compatibilityVersion=1.0 such a sidecar also runs where nothing injects, in
// plaintext and without certificates, which is a finding.
func TestCompatibility(t *testing.T) {
	c, _ := meshed(t, "--set", "compatibilityVersion=1.0")
	t.Cleanup(func() { install(t) }) // the others' installation
	mesh := c.Namespace
	c.Apply(withImages(t, web))
	c.Ready("app=web", booting)
	plain := c.NewNamespace()
	c.Namespace = plain
	c.Apply(byHand(t, "plain"))
	c.Ready("app=plain", booting)
	c.Until("the plaintext sidecar routes", cluster.Patience, func() string {
		r, err := echo(c, "plain", "http://web."+mesh+"/")
		if err != nil || r.Hostname != "web" || r.Identity != "" {
			return fmt.Sprintf("%+v, %v", r, err)
		}
		return ""
	})
	out, err := c.Exec("plain", "istio-proxy", "pilot-agent", "request", "GET", "/config_dump")
	if err != nil || !strings.Contains(out, "outbound|80||web."+mesh+".svc.cluster.local") {
		t.Errorf("the plaintext sidecar has no configuration of the mesh: %v, %d bytes", err, len(out))
	}
	all := strings.Join(findings(t), "\n")
	for _, what := range []string{`"WEIR0113"`, `"` + plain + `"`, `"plain"`} {
		if !strings.Contains(all, what) {
			t.Errorf("no finding names the plaintext sidecar %s/plain: %s is not in\n%s", plain, what, all)
		}
	}
}

// The mesh ConfigMap of 2018 is taken as it stands, and every field that is done otherwise
// today is a finding.
func TestMeshConfigMap(t *testing.T) {
	c, _ := meshed(t)
	before := c.Get("v1", "ConfigMap", "istio-system", "istio")
	if before == nil {
		t.Fatal("there is no ConfigMap istio")
	}
	text := fixture(t, "mesh-configmap.yaml")
	t.Cleanup(func() { install(t) })
	c.Apply(text)
	obsolete := []string{"rdsRefreshDelay", "discoveryRefreshDelay", "parentShutdownDuration", "controlPlaneAuthPolicy", "zipkinAddress"}
	c.Until("each obsolete field is a finding", cluster.Patience, func() string {
		all := strings.Join(findings(t), "\n")
		for _, f := range obsolete {
			if !strings.Contains(all, f) {
				return f + " is not in:\n" + all
			}
		}
		return ""
	})
	c.Apply(withImages(t, web+"---"+caller))
	c.Ready("app", booting)
	c.Until("pods of this configuration talk to each other", cluster.Patience, func() string {
		if r, err := echo(c, "caller", "http://web/"); err != nil || !strings.HasSuffix(r.Identity, "/sa/default") {
			return fmt.Sprintf("%+v, %v", r, err)
		}
		return ""
	})
}

const caller = `
apiVersion: v1
kind: Pod
metadata: {name: caller, labels: {app: caller}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "HUB/weir-sample:TAG", args: [sleep]}]
`

// The selector and rules of the injection webhook of 2018 inject: it asks the Service of that name.
func TestInjectionWebhook(t *testing.T) {
	text := fixture(t, "injection-webhook.yaml")
	c, _ := meshed(t)
	t.Cleanup(func() { install(t) })
	c.Delete(text) // what was installed has the same name
	c.Apply(text)
	c.Until("the root certificate is in the webhook", cluster.Patience, func() string {
		if u := c.Get("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "", "istio-sidecar-injector"); u == nil || !strings.Contains(fmt.Sprint(u.Object), "caBundle") {
			return "no caBundle"
		}
		return ""
	})
	c.Until("a pod is injected", booting, func() string {
		c.Delete(withImages(t, caller))
		if err := c.TryApply(withImages(t, caller)); err != nil {
			return err.Error()
		}
		if c.MustPod("caller").Annotations["sidecar.istio.io/status"] == "" {
			return "no sidecar"
		}
		return ""
	})
	c.Ready("app=caller", booting)
}
