package latency_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// TestBegin shows how soon a sidecar is ready after it was executed: without anything, it needs a certificate and all its
// configuration; with what it had kept, it waits for nobody, whether there is a control plane or not.
func TestBegin(t *testing.T) {
	m := mesh.New(t, nil)
	m.Config("app.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: app}\nspec: {selector: {app: app}, ports: [{name: http, port: 8080}]}\n")
	program := build(t)
	labels := map[string]string{"app": "app"}
	ports := []mesh.Port{{Name: "http", Number: 8080}}
	var began time.Time
	command := func(c *exec.Cmd) { began = time.Now() }
	var cold, warm, alone figures
	var last *mesh.Workload
	for i := range times(20) {
		last = m.Launch(mesh.Spec{Name: "app-" + string(rune('a'+i)), ServiceAccount: "app", Labels: labels, Ports: ports, Binary: program, Command: command})
		last.AwaitReady()
		cold = append(cold, time.Since(began))
	}
	again := func(f *figures) {
		for range times(20) {
			last.StopProxy()
			last.StartProxy()
			*f = append(*f, time.Since(began))
		}
	}
	again(&warm)
	m.StopControl()
	again(&alone)
	judge(t, "cold, from exec to ready", cold, 1, 500*time.Millisecond)
	judge(t, "with what it had kept", warm, 1, 100*time.Millisecond)
	judge(t, "the same without a control plane", alone, 1, 100*time.Millisecond)
}
