package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/mesh"
)

// lasting is a certificate, or several, in PEM, that end after so many days.
func lasting(t *testing.T, now time.Time, authority bool, days ...int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for i, n := range days {
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: fmt.Sprintf("%d days", n)}, NotBefore: now.AddDate(0, 0, -100), NotAfter: now.AddDate(0, 0, n), IsCA: authority || i > 0, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// What people put into Secrets and files is listed by what names it, field by field, with its end: of a chain the first, of authorities the last.
func TestGivenCertificates(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	const edge, shop = "istio-system", "shop"
	ref := func(kind, ns, name string) mesh.Ref { return mesh.Ref{Kind: kind, Namespace: ns, Name: name} }
	secret := func(ns, name string, chain, authorities []byte) *mesh.Secret {
		return &mesh.Secret{Ref: ref("Secret", ns, name), Certificate: chain, CA: authorities}
	}
	ingress := mesh.Labels{"istio": "ingressgateway"}
	s := &mesh.Snapshot{Settings: &mesh.Settings{}}
	for _, w := range []*mesh.Workload{{Name: "in-0", Namespace: edge, Labels: ingress}, {Name: "cart-0", Namespace: shop, Labels: mesh.Labels{"app": "cart"}}} {
		s.Workloads = s.Workloads.Set(w.Key(), w)
	}
	for _, x := range []*mesh.Secret{
		secret(edge, "web", lasting(t, now, false, 30), lasting(t, now, true, 300, 40)),
		secret(edge, "two", lasting(t, now, false, 60, 50), nil),
		secret(edge, "two-cacert", nil, lasting(t, now, true, 70)),
		secret(edge, "bank", lasting(t, now, false, 80), lasting(t, now, true, 90)),
		secret(shop, "bank", lasting(t, now, false, 81), lasting(t, now, true, 91)),
		secret(shop, "web", lasting(t, now, false, 1), nil), // beside no gateway
		secret(edge, "unused", lasting(t, now, false, 2), nil),
	} {
		s.Secrets = s.Secrets.Set(mesh.NewKey(x.Ref.Namespace, x.Ref.Name), x)
	}
	gateway := func(ns, name string, labels mesh.Labels, servers ...mesh.ServerTLS) {
		g := &mesh.Gateway{Ref: ref("Gateway", ns, name), Selector: labels}
		for i := range servers {
			g.Servers = append(g.Servers, mesh.Server{Port: uint16(443 + i), TLS: &servers[i]})
		}
		s.Gateways = s.Gateways.Set(mesh.NewKey(ns, name), g)
	}
	gateway("shop", "web", ingress,
		mesh.ServerTLS{Mode: "SIMPLE", Credentials: []string{"web"}},
		mesh.ServerTLS{Mode: "OPTIONAL_MUTUAL", Credentials: []string{"web", "two"}},
		mesh.ServerTLS{Mode: "MUTUAL", Credentials: []string{"missing"}, CACredential: "two"},
		mesh.ServerTLS{Mode: "MUTUAL", Certificate: "/etc/tls.crt", CACertificates: "/etc/ca.crt"},
		mesh.ServerTLS{Mode: "ISTIO_MUTUAL"}, mesh.ServerTLS{Mode: "PASSTHROUGH"})
	gateway("shop", "nobody", mesh.Labels{"app": "nobody"}, mesh.ServerTLS{Mode: "SIMPLE", Credentials: []string{"web"}})
	rule := func(name string, selector mesh.Labels, policy mesh.TrafficPolicy, subsets ...mesh.Subset) {
		s.DestinationRules = s.DestinationRules.Set(mesh.NewKey(shop, name), &mesh.DestinationRule{Ref: ref("DestinationRule", shop, name), Host: name + ".example", Policy: policy, Subsets: subsets, WorkloadSelector: selector})
	}
	tls := func(t mesh.ClientTLS) mesh.TrafficPolicy { return mesh.TrafficPolicy{TLS: &t} }
	rule("bank", nil, tls(mesh.ClientTLS{Mode: "MUTUAL", CredentialName: "bank"}))
	rule("picked", mesh.Labels{"app": "cart"}, tls(mesh.ClientTLS{Mode: "SIMPLE", CredentialName: "bank"}))
	ported := mesh.Subset{Name: "v1", PortPolicies: map[uint16]mesh.TrafficPolicy{443: tls(mesh.ClientTLS{Mode: "MUTUAL", Certificate: "/etc/client.pem", CACertificates: "/etc/bank.pem"})}}
	rule("files", nil, tls(mesh.ClientTLS{Mode: "SIMPLE", CredentialName: "bank", SkipVerify: true}), ported)

	file := func(workload, path string, days int) heldFile {
		return heldFile{workload, path, fmt.Sprintf("CN=%d days", days), now.AddDate(0, 0, -100), now.AddDate(0, 0, days)}
	}
	files := []heldFile{file("shop/cart-0", "/etc/client.pem", 20), file("shop/cart-0", "/etc/client.pem", 20), file("shop/cart-1", "/etc/client.pem", 20), file("shop/cart-2", "/etc/client.pem", 200),
		file("istio-system/in-0", "/etc/tls.crt", 10), file("istio-system/in-0", "/etc/elsewhere.pem", 3)}
	for i := range 7 {
		files = append(files, file(fmt.Sprintf("shop/many-%d", i), "/etc/bank.pem", 25))
	}
	var got []string
	for _, g := range append(inSecrets(s), inFiles(s, files)...) {
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s %d", g.Object, g.Field, g.Source, g.Name, strings.Join(g.Workloads, ","), g.Readers))
		if g.Breaks == "" || g.Until.Sub(now) <= 0 || g.From.IsZero() {
			t.Errorf("%+v", g)
		}
	}
	want := []string{
		"DestinationRule shop/bank|spec.trafficPolicy.tls.credentialName|Secret istio-system/bank: tls.crt|CN=80 days| 0",
		"DestinationRule shop/bank|spec.trafficPolicy.tls.credentialName|Secret istio-system/bank: ca.crt|CN=90 days| 0",
		"DestinationRule shop/picked|spec.trafficPolicy.tls.credentialName|Secret shop/bank: ca.crt|CN=91 days| 0",
		"Gateway shop/web|spec.servers[0].tls.credentialName|Secret istio-system/web: tls.crt|CN=30 days| 0",
		"Gateway shop/web|spec.servers[1].tls.credentialNames[0]|Secret istio-system/web: tls.crt|CN=30 days| 0",
		"Gateway shop/web|spec.servers[1].tls.credentialNames[1]|Secret istio-system/two: tls.crt|CN=50 days| 0",
		"Gateway shop/web|spec.servers[1].tls.credentialNames[0]|Secret istio-system/web: ca.crt|CN=300 days| 0",
		"Gateway shop/web|spec.servers[2].tls.caCertCredentialName|Secret istio-system/two-cacert: ca.crt|CN=70 days| 0",
		"DestinationRule shop/files|spec.subsets[0].trafficPolicy.portLevelSettings (port 443).tls.caCertificates|file /etc/bank.pem|CN=25 days|shop/many-0,shop/many-1,shop/many-2,shop/many-3,shop/many-4 7",
		"DestinationRule shop/files|spec.subsets[0].trafficPolicy.portLevelSettings (port 443).tls.clientCertificate|file /etc/client.pem|CN=20 days|shop/cart-0,shop/cart-1 2",
		"DestinationRule shop/files|spec.subsets[0].trafficPolicy.portLevelSettings (port 443).tls.clientCertificate|file /etc/client.pem|CN=200 days|shop/cart-2 1",
		"||file /etc/elsewhere.pem|CN=3 days|istio-system/in-0 1",
		"Gateway shop/web|spec.servers[3].tls.serverCertificate|file /etc/tls.crt|CN=10 days|istio-system/in-0 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for days, want := range map[int]bool{-1: true, 29: true, 31: false, 200: false} {
		if got := endsSoon(now, now.AddDate(-1, 0, 0), now.AddDate(0, 0, days)); got != want {
			t.Errorf("what ends in %d days of more than a year is told of: %v", days, got)
		}
	}
	if endsSoon(now, now.Add(-2*time.Hour), now.Add(time.Hour)) {
		t.Error("what lives for three hours is told of an hour before its end")
	}
	all := inFiles(s, files)
	if f := ending(&all[3]); f.Object.Kind != "Pod" || f.Object.Name != "in-0" || !strings.Contains(f.Message, "/etc/elsewhere.pem (CN=3 days) ends 2026-11-25") {
		t.Errorf("%+v", f)
	}
	if f := ending(&all[0]); f.Object.Kind != "DestinationRule" || !strings.Contains(f.Hint, "shop/many-4 and 2 more") {
		t.Errorf("%+v", f)
	}
}
