package istio

import (
	"slices"
	"strings"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

// trustBundles reads roots of other trust domains, and says what of caCertificates nobody is judged by.
func trustBundles(l *lowerer, path string, all []*meshv1alpha1.MeshConfig_CertificateData, started *mesh.Settings) []mesh.TrustBundle {
	var out []mesh.TrustBundle
	for i, d := range all {
		at := document.Index(path, i)
		if d.GetSpiffeBundleUrl() != "" {
			l.Add(config.FieldNotEnforced, at+".spiffeBundleUrl", "bundles are not fetched, and nobody is trusted by this one", "write its certificates as pem")
			continue
		}
		if len(d.CertSigners) > 0 {
			l.Add(config.FieldNotEnforced, at+".certSigners", "there is one signer for all: the roots are those of its trust domains, whoever signed", "leave it out")
		}
		roots, err := identity.ParseBundle([]byte(d.GetPem()))
		if err != nil {
			l.Add(config.FieldNotEnforced, at+".pem", "nobody is trusted by it: "+err.Error(), "write root certificates in PEM")
			continue
		}
		if len(d.TrustDomains) == 0 {
			l.Add(config.FieldNotEnforced, at, "roots of the mesh's own trust domain are not taken from here", "put them into root-cert.pem of the certificate authority (Secret cacerts), or name other trustDomains")
		}
		for j, domain := range d.TrustDomains {
			switch _, err := identity.New(domain, "a", "a"); {
			case err != nil:
				l.Add(config.FieldNotEnforced, document.Index(at+".trustDomains", j), err.Error(), "write the name alone, for example partner.example")
				continue
			case domain == started.TrustDomain:
				l.Add(config.FieldNotEnforced, document.Index(at+".trustDomains", j), domain+" is the mesh's own trust domain, whose roots are not taken from here", "put them into root-cert.pem of the certificate authority (Secret cacerts)")
				continue
			}
			text := string(roots.PEM())
			if at, ok := slices.BinarySearchFunc(out, domain, func(b mesh.TrustBundle, d string) int { return strings.Compare(b.Domain, d) }); ok {
				out[at].PEM += text
			} else {
				out = slices.Insert(out, at, mesh.TrustBundle{Domain: domain, PEM: text})
			}
		}
	}
	return out
}
