package up

import (
	"net/netip"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/sandbox"
	"github.com/weirmesh/weir/mesh"
)

// The ingress gateway's names and labels are those of Istio's default installation, which
// Gateway objects select by istio: ingressgateway.
const (
	gatewayNamespace = "istio-system"
	gatewayName      = "istio-ingressgateway"
	gatewayPort      = 8080
)

// gatewayYAML is the Service as Istio installs it: a Gateway object may name its ports or
// those the gateway really has.
const gatewayYAML = `apiVersion: v1
kind: Namespace
metadata:
  name: istio-system
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: istio-ingressgateway-service-account
  namespace: istio-system
---
apiVersion: v1
kind: Service
metadata:
  name: istio-ingressgateway
  namespace: istio-system
  labels:
    app: istio-ingressgateway
    istio: ingressgateway
spec:
  type: LoadBalancer
  selector:
    app: istio-ingressgateway
    istio: ingressgateway
  ports:
  - {name: status-port, port: 15021, targetPort: 15021}
  - {name: http2, port: 80, targetPort: 8080}
  - {name: https, port: 443, targetPort: 8443}
  - {name: tcp, port: 31400, targetPort: 31400}
  - {name: tls, port: 15443, targetPort: 15443}
`

var gatewayLabels = map[string]string{"app": gatewayName, "istio": "ingressgateway"}

// gatewayGroup is the pod of the ingress gateway.
func gatewayGroup() *plan.Group {
	return &plan.Group{
		Namespace: gatewayNamespace, Name: gatewayName, Replicas: 1, Surge: 1, Hash: "built in",
		Template: plan.Template{Namespace: gatewayNamespace, Owner: gatewayName, ServiceAccount: gatewayName + "-service-account", Labels: gatewayLabels, Gateway: true},
	}
}

// gatewayWorkload is what selectors of Gateway objects may pick.
func gatewayWorkload() *mesh.Workload {
	return &mesh.Workload{Name: gatewayName + "-0", Namespace: gatewayNamespace, Labels: gatewayLabels, ServiceAccount: gatewayName + "-service-account"}
}

// gatewayListen maps the gateway's listeners to this machine: 8080 to the ingress
// address, others to the same port beside it, never to all interfaces by accident.
func gatewayListen(ingress netip.AddrPort) []sandbox.Listen {
	var out []sandbox.Listen
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		out = append(out, sandbox.Listen{From: netip.AddrPortFrom(any, gatewayPort), To: ingress}, sandbox.Listen{From: netip.AddrPortFrom(any, 0), To: netip.AddrPortFrom(ingress.Addr(), 0)})
	}
	return out
}
