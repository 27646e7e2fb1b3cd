package istio

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// What stands in front of gateways is taken from defaultConfig, whatever else is there; what cannot be is refused by its name.
func TestGatewayTopology(t *testing.T) {
	o := configMap(t)
	for _, c := range []struct {
		text    string
		want    mesh.Topology
		refused string
	}{
		{"{}", mesh.Topology{}, ""},
		{"{gatewayTopology: {}}", mesh.Topology{}, ""},
		{"{gatewayTopology: {proxyProtocol: {}}}", mesh.Topology{}, ""},
		{"{concurrency: 2, gatewayTopology: {numTrustedProxies: 2}}", mesh.Topology{TrustedProxies: 2}, ""},
		{"{gatewayTopology: {forwardClientCertDetails: UNDEFINED}}", mesh.Topology{}, ""},
		{"{gatewayTopology: {forwardClientCertDetails: SANITIZE}}", mesh.Topology{ClientCert: "SANITIZE"}, ""},
		{"{gatewayTopology: {numTrustedProxies: 1, forwardClientCertDetails: ALWAYS_FORWARD_ONLY}}", mesh.Topology{TrustedProxies: 1, ClientCert: "ALWAYS_FORWARD_ONLY"}, ""},
		{"{gatewayTopology: {numTrustedProxies: 101}}", mesh.Topology{}, "gatewayTopology.numTrustedProxies"},
		{"{gatewayTopology: {numTrustedProxies: -1}}", mesh.Topology{}, "gatewayTopology.numTrustedProxies"},
		{"{gatewayTopology: {numTrustedProxies: many}}", mesh.Topology{}, "gatewayTopology.numTrustedProxies"},
		{"{gatewayTopology: {forwardClientCertDetails: PASS_ON}}", mesh.Topology{}, "gatewayTopology.forwardClientCertDetails"},
		{"{gatewayTopology: {forwardClientCertDetails: 9}}", mesh.Topology{}, "gatewayTopology.forwardClientCertDetails"},
	} {
		m, findings := LowerMeshConfig(o, "mesh", "defaultConfig: "+c.text, &mesh.Settings{})
		if c.refused != "" {
			if m != nil || len(findings) != 1 || findings[0].Code != config.SchemaError || !strings.Contains(findings[0].Message, c.refused) {
				t.Errorf("%s: %+v", c.text, findings)
			}
		} else if len(findings) > 0 || m.Settings(&mesh.Settings{}).Topology != c.want {
			t.Errorf("%s: %+v, %v", c.text, m, findings)
		}
	}
}
