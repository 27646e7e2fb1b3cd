package scripts

import (
	"fmt"
	"strings"

	"github.com/weirmesh/weir/test/mesh"
)

// services is what every script begins with.
const services = `
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  clusterIP: 10.96.0.10
  selector: {app: echo}
  ports: [{name: http, port: 8080}, {name: tcp, port: 9000}, {name: tls, port: 9443}]
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: other}
spec:
  clusterIP: 10.96.0.20
  selector: {app: shop}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: calc, namespace: default}
spec:
  clusterIP: 10.96.0.30
  selector: {app: calc}
  ports: [{name: grpc, port: 7070}]
---
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec:
  clusterIP: 10.96.0.40
  selector: {istio: egressgateway}
  ports: [{name: http2, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}, {name: tls, port: 15443}]
---` + mesh.IngressGateway

func pod(name, ns, app, version string, program ...string) mesh.Spec {
	s := mesh.Spec{Name: name, Namespace: ns, Owner: name, ServiceAccount: app, Labels: map[string]string{"app": app, "version": version}}
	if len(program) > 0 {
		s.Program = append(program, "--version", version)
		s.Ports = []mesh.Port{{Name: "http", Number: 8080}}
	}
	return s
}

// cast is who acts in every script.
func cast() []mesh.Spec {
	var out []mesh.Spec
	for _, ns := range []string{"default", "other"} {
		s := pod(map[string]string{"default": "client", "other": "other"}[ns], ns, map[string]string{"default": "client", "other": "other"}[ns], "v1")
		s.Captured = true
		out = append(out, s)
	}
	for _, v := range []string{"v1", "v2"} {
		s := pod("echo-"+v, "default", "echo", v, "echo", "--port", "8080", "--tcp-port", "9000,9443")
		s.Ports = append(s.Ports, mesh.Port{Name: "tcp", Number: 9000}, mesh.Port{Name: "tls", Number: 9443})
		out = append(out, s)
	}
	out = append(out, pod("shop-v1", "other", "shop", "v1", "echo", "--port", "8080"))
	calc := pod("calc", "default", "calc", "v1")
	calc.Ports = []mesh.Port{{Name: "grpc", Number: 7070}}
	out = append(out, calc)
	for _, v := range []string{"1", "2"} {
		web := pod("web-"+v, "outside", "web", "v"+v, "echo", "--port", "8080", "--tcp-port", "9000,9001")
		web.Ports = append(web.Ports, mesh.Port{Name: "tcp", Number: 9000}, mesh.Port{Name: "tcp2", Number: 9001})
		web.NoProxy = true
		out = append(out, web)
	}
	g := mesh.Gateway()
	g.Name = "gateway"
	e := mesh.Gateway()
	e.Name, e.Owner, e.ServiceAccount, e.Labels = "egress", "istio-egressgateway", "istio-egressgateway-service-account", map[string]string{"istio": "egressgateway", "app": "istio-egressgateway"}
	return append(out, g, e)
}

// outside are the names of DNS, with the member of the cast that has each.
var outside = map[string]string{"web.example": "web-1", "web-2.example": "web-2", "db.example": "web-1", "a.wild.example": "web-1", "b.wild.example": "web-2"}

// secure is where web-1 speaks TLS, as web.example.
const secure = 8443

// address of a member of the cast in the simulation.
func address(i int) string { return fmt.Sprintf("10.1.0.%d", i+1) }

// pods is the cast as Pods, for the simulation.
func pods() string {
	var b strings.Builder
	for i, s := range cast() {
		proxy := "{sidecar.istio.io/status: '{}'}"
		if s.NoProxy {
			proxy = "{}"
		}
		if s.Gateway {
			proxy = "{sidecar.istio.io/status: '{}', inject.istio.io/templates: gateway}"
		}
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: %s\n  annotations: %s\n  labels: {", s.Name, s.Namespace, proxy)
		for k, v := range s.Labels {
			fmt.Fprintf(&b, "%q: %q, ", k, v)
		}
		fmt.Fprintf(&b, "}\nspec:\n  serviceAccountName: %s\n  containers: [{name: app, image: x, ports: [", s.ServiceAccount)
		for _, p := range s.Ports {
			fmt.Fprintf(&b, "{containerPort: %d}, ", p.Number)
		}
		fmt.Fprintf(&b, "]}]\nstatus: {podIP: %s, conditions: [{type: Ready, status: 'True'}]}\n", address(i))
	}
	return b.String()
}
