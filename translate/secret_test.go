package translate_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

func selfSigned(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk})
}

// A gateway gets the credentials its servers name, from its own namespace, and nobody
// else gets them; one that cannot be used is not sent, and said.
func TestCredentials(t *testing.T) {
	cert, key := selfSigned(t)
	w := bookinfo()
	put := func(ns, name string, s mesh.Secret) {
		w.snap.Secrets = w.snap.Secrets.Set(mesh.NewKey(ns, name), &s)
	}
	put("istio-system", "good", mesh.Secret{Certificate: cert, Key: func() []byte { return key }, CA: cert})
	put("istio-system", "bad", mesh.Secret{Certificate: cert, Key: func() []byte { return []byte("x") }})
	put("default", "foreign", mesh.Secret{Certificate: cert, Key: func() []byte { return key }})
	server := func(port uint16, mode, credential string) mesh.Server {
		return mesh.Server{Port: port, PortName: "https", Protocol: mesh.HTTPS, Hosts: []mesh.GatewayHost{{Namespace: "*", Host: "*"}},
			TLS: &mesh.ServerTLS{Mode: mode, Credentials: []string{credential}}}
	}
	w.gateway("default", "tls", mesh.Gateway{Selector: mesh.Labels{"istio": "ingressgateway"}, Servers: []mesh.Server{
		server(443, "MUTUAL", "good"), server(444, "SIMPLE", "bad"), server(445, "SIMPLE", "foreign")}})
	gateway := &mesh.Workload{Namespace: "istio-system", Name: ingress().Name, ServiceAccount: "gateway", Labels: ingress().Labels}
	w.snap.Workloads = w.snap.Workloads.Set(gateway.Key(), gateway)
	snap := w.publish()
	cache := translate.New()
	for _, c := range []struct {
		who, name, account string
		unproven           bool
		said               int
	}{
		{"somebody who only says that it is the gateway", gateway.Name, "gateway", true, 0},
		{"another service account that says it is the gateway's pod", gateway.Name, "other", false, 1},
		{"another service account with the gateway's labels", "nobody-knows", "other", false, 1},
		{"a pod that nobody knows", "nobody-knows", "gateway", false, 1},
	} {
		stranger := *ingress()
		stranger.Name, stranger.ServiceAccount, stranger.Unproven = c.name, c.account, c.unproven
		cache := translate.New()
		if n := cache.View(snap, &stranger).Set(resource.SecretType).Len(); n != 0 {
			t.Errorf("%d secrets for %s", n, c.who)
		}
		var said int
		for _, p := range cache.Problems() {
			if strings.Contains(p.Text, "is not given") && p.Ref.Name == "tls" {
				said++
			}
		}
		if said != c.said {
			t.Errorf("%s: %d problems, want %d: %v", c.who, said, c.said, cache.Problems())
		}
	}
	proven := ingress()
	proven.ServiceAccount = "gateway"
	secrets := cache.View(snap, proven).Set(resource.SecretType)
	if secrets.Len() != 2 {
		t.Errorf("%d secrets, want 2", secrets.Len())
	}
	got := decode(t, secrets.At("kubernetes://good")).(*tlsv3.Secret).GetTlsCertificate()
	if !bytes.Equal(got.GetCertificateChain().GetInlineBytes(), cert) || !bytes.Equal(got.GetPrivateKey().GetInlineBytes(), key) {
		t.Error("the certificate or its key is not what the Secret holds")
	}
	if ca := decode(t, secrets.At("kubernetes://good-cacert")).(*tlsv3.Secret).GetValidationContext().GetTrustedCa().GetInlineBytes(); !bytes.Equal(ca, cert) {
		t.Error("the authorities are not what the Secret holds")
	}
	if n := cache.View(snap, sidecar("istio-system", "x", nil)).Set(resource.SecretType).Len(); n != 0 {
		t.Errorf("a sidecar gets %d secrets", n)
	}
	var said []string
	for _, p := range cache.Problems() {
		if strings.Contains(p.Text, "credentialName") {
			said = append(said, p.Text)
		}
	}
	if len(said) != 2 || !strings.Contains(said[0], "is not a certificate and its key") || !strings.Contains(said[1], "does not exist") {
		t.Errorf("problems: %q", said)
	}
	s := snap.Secrets.At("istio-system/good")
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if out := fmt.Sprintf("%v %+v %#v %s", s, *s, s, js); strings.Contains(out, "PRIVATE KEY") {
		t.Error("a printed Secret shows its key")
	}
}
