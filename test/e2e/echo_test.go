package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/test/mesh"
)

// echoService is a Service called echo, HTTP on 8080 and TCP on 9000, over workloads
// with the label app: echo.
const echoService = `
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 8080}
  - {name: tcp, port: 9000}
`

// echoPod is one workload behind it.
func echoPod(name, version string) mesh.Spec {
	return mesh.Spec{Name: name, Owner: "echo-" + version, ServiceAccount: "echo",
		Labels:  map[string]string{"app": "echo", "version": version},
		Ports:   []mesh.Port{{Name: "http", Number: 8080}, {Name: "tcp", Number: 9000}},
		Program: []string{"echo", "--port", "8080", "--tcp-port", "9000", "--version", version}}
}

// caller is a workload that only calls.
func caller(name string) mesh.Spec {
	return mesh.Spec{Name: name, Owner: name, ServiceAccount: name, Labels: map[string]string{"app": name, "version": "v1"}}
}

// echoMesh is a mesh with a caller and workloads of echo.
func echoMesh(t *testing.T, change func(*control.Options), specs ...mesh.Spec) (*mesh.Mesh, *mesh.Workload, []*mesh.Workload) {
	t.Helper()
	m := mesh.New(t, change)
	m.Config("echo.yaml", echoService)
	all := m.Workloads(append([]mesh.Spec{caller("client")}, specs...)...)
	return m, all[0], all[1:]
}

// documents joins YAML documents.
func documents(texts ...string) string { return strings.Join(texts, "\n---\n") }

func peerAuthentication(name, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

func destinationRule(name, spec string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

func virtualService(name, spec string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}
