package mesh

import (
	"bytes"
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/sample"
)

// IngressGateway is the Service of the ingress gateway, as `weir up` has it.
const IngressGateway = `
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  ports:
  - {name: http2, port: 80, targetPort: 8080}
  - {name: https, port: 443, targetPort: 8443}
`

// Gateway is the ingress gateway. Give its Service, IngressGateway, first.
func Gateway() Spec {
	return Spec{Name: "istio-ingressgateway-0", Namespace: "istio-system", ServiceAccount: "istio-ingressgateway-service-account", Owner: "istio-ingressgateway",
		Labels: map[string]string{"istio": "ingressgateway", "app": "istio-ingressgateway"}, Gateway: true}
}

// Pods are the workloads of the Deployments in a YAML text: the sample programs that
// their images stand for. replicas, if not 0, is how many of each.
func (m *Mesh) Pods(text []byte, replicas int) []Spec {
	m.T.Helper()
	var out []Spec
	for doc := range bytes.SplitSeq(text, []byte("\n---")) {
		var d appsv1.Deployment
		if err := yaml.Unmarshal(doc, &d); err != nil || d.Kind != "Deployment" {
			continue
		}
		n := 1
		if d.Spec.Replicas != nil {
			n = int(*d.Spec.Replicas)
		}
		if replicas > 0 {
			n = replicas
		}
		c := d.Spec.Template.Spec.Containers[0]
		argv, ok := sample.ByImage(c.Image, c.Command, c.Args)
		if !ok || argv[0] != sample.Binary {
			m.T.Fatalf("Deployment %s: no sample program stands for image %q", d.Name, c.Image)
		}
		s := Spec{Namespace: d.Namespace, Labels: d.Spec.Template.Labels, ServiceAccount: d.Spec.Template.Spec.ServiceAccountName, Owner: d.Name,
			Program: argv[1:], Env: map[string]string{}}
		for _, e := range c.Env {
			s.Env[e.Name] = e.Value
		}
		for _, p := range c.Ports {
			s.Ports = append(s.Ports, Port{p.Name, uint16(p.ContainerPort)})
		}
		for i := range n {
			s.Name = fmt.Sprintf("%s-%s", d.Name, strconv.Itoa(i))
			out = append(out, s)
		}
	}
	return out
}
