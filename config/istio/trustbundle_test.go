package istio

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Roots of other trust domains are taken, those of one domain together; what nobody is judged by is said.
func TestTrustBundles(t *testing.T) {
	root := func() string {
		a, err := ca.OpenSelfSigned(t.TempDir(), "partner.example", ca.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return string(a.Bundle().PEM())
	}
	one, two := root(), root()
	doc, err := document.ParseYAML("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n", 1)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := config.NewObject(doc, document.Part{}, "in.yaml", "default")
	settings := &mesh.Settings{TrustDomain: "cluster.local"}
	entry := func(pem, more string) string {
		return "- pem: |\n" + "    " + strings.ReplaceAll(strings.TrimSpace(pem), "\n", "\n    ") + "\n  " + more + "\n"
	}
	for _, c := range []struct{ name, text, want, finding string }{
		{"two of one domain, and another", entry(one, "trustDomains: [b.example]") + entry(two, "trustDomains: [b.example, a.example]"), "a.example 1, b.example 2", ""},
		{"not fetched", "- spiffeBundleUrl: https://b.example/bundle\n  trustDomains: [b.example]\n", "", "bundles are not fetched"},
		{"one signer for all", entry(one, "certSigners: [x]\n  trustDomains: [b.example]"), "b.example 1", "there is one signer for all"},
		{"of nobody in particular", entry(one, "certSigners: []"), "", "roots of the mesh's own trust domain are not taken from here"},
		{"the mesh's own", entry(one, "trustDomains: [cluster.local, b.example]"), "b.example 1", "cluster.local is the mesh's own trust domain"},
		{"no root", "- pem: nothing\n  trustDomains: [b.example]\n", "", "nobody is trusted by it"},
		{"no trust domain", entry(one, "trustDomains: ['spiffe://b.example']"), "", "trust domain"},
	} {
		m, findings := LowerMeshConfig(o, "data.mesh", "caCertificates:\n"+c.text, settings)
		if m == nil {
			t.Errorf("%s: %v", c.name, findings)
			continue
		}
		var got []string
		for _, b := range m.Settings(settings).TrustBundles {
			got = append(got, b.Domain+" "+string(rune('0'+strings.Count(b.PEM, "BEGIN CERTIFICATE"))))
		}
		said := ""
		for _, f := range findings {
			said += f.Message + "\n"
		}
		if strings.Join(got, ", ") != c.want || c.finding == "" && said != "" || !strings.Contains(said, c.finding) {
			t.Errorf("%s: %q, %s", c.name, got, said)
		}
	}
}
