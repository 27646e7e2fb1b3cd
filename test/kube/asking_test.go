package kube

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// stray is a Deployment whose pods ask for a proxy with a label of their own.
const stray = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 1
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME, LABEL}}
    spec: {HOST containers: [{name: app, image: "HUB/weir-sample:TAG", args: [echo, --version, NAME]}]}
`

// In a namespace without labels the pods' own count: what asks for a revision that nobody has runs without a proxy, and the Deployment whose template
// says so is named; what cannot have one is told why; what asks for one that is there has it.
func TestPodsThatAsk(t *testing.T) {
	c := cluster.Connect(t)
	install(t)
	for name, how := range map[string][2]string{"lost": {"istio.io/rev: nobody"}, "found": {`sidecar.istio.io/inject: "true"`}, "node": {`sidecar.istio.io/inject: "true"`, "hostNetwork: true,"}} {
		c.Apply(withImages(t, strings.NewReplacer("NAME", name, "LABEL", how[0], "HOST", how[1]).Replace(stray)))
	}
	c.Ready("app in (lost, found)", booting)
	for name, proxied := range map[string]bool{"lost": false, "found": true} {
		p := c.Pod("app=" + name)
		has := false
		for _, x := range append(p.Spec.InitContainers, p.Spec.Containers...) {
			has = has || x.Name == "istio-proxy"
		}
		if has != proxied {
			t.Errorf("%s has a proxy: %v", name, has)
		}
	}
	about := func(code, name string) string {
		for _, f := range findings(t) {
			if strings.Contains(f, code) && strings.Contains(f, `"`+name+`"`) && strings.Contains(f, `"Deployment"`) && strings.Contains(f, c.Namespace) {
				return f
			}
		}
		return ""
	}
	c.Until("both are named", cluster.Patience, func() string {
		lost, node := about("WEIR0119", "lost"), about("WEIR0302", "node")
		if !strings.Contains(lost, "spec.template.metadata.labels") || !strings.Contains(node, "hostNetwork") {
			return lost + node
		}
		return ""
	})
	for _, code := range []string{"WEIR0119", "IST0103", "WEIR0302"} {
		if f := about(code, "found"); f != "" {
			t.Errorf("it has what it asks for, and: %s", f)
		}
	}
}
