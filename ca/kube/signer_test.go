package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/identity"
)

// organisation is an authority that the mesh does not have the key of.
type organisation struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newOrganisation(t *testing.T) *organisation {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &organisation{key, c}
}

// sign certifies what a request asks for, with change.
func (o *organisation) sign(t *testing.T, r *certificatesv1.CertificateSigningRequest, change func(*x509.Certificate)) []byte {
	t.Helper()
	block, _ := pem.Decode(r.Spec.Request)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second), URIs: req.URIs, DNSNames: req.DNSNames,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, PublicKey: req.PublicKey}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, o.cert, c.PublicKey, o.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A signer of the cluster certifies whom the mesh knows, and what it gives is judged; what it was asked stays nowhere.
func TestSigner(t *testing.T) { synctest.Test(t, testSigner) }

func testSigner(t *testing.T) {
	org := newOrganisation(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mesh := newOrganisation(t) // has a root of its own beside that of the signer
	secret, err := identity.EncodeKey(mesh.key)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ca.ParsePlugged(map[string][]byte{"ca-key.pem": secret.Reveal(), "ca-cert.pem": identity.EncodeCertificates(mesh.cert), "root-cert.pem": identity.EncodeCertificates(mesh.cert, org.cert)}, "cluster.local", ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	right, err := identity.NewRequest(key, cart)
	if err != nil {
		t.Fatal(err)
	}
	thief, err := identity.NewRequest(key, identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		csr     []byte
		change  func(*x509.Certificate)
		verdict certificatesv1.RequestConditionType
		after   int    // how often it is looked at before it is signed; -1: never
		err     string // "" for a certificate
		blame   bool   // of the signer
	}{
		{name: "signed at once", csr: right},
		{name: "signed after a while", csr: right, after: 5},
		{name: "never", csr: right, after: -1, err: "nothing was signed in time", blame: true},
		{name: "denied", csr: right, verdict: certificatesv1.CertificateDenied, err: "Denied: not today", blame: true},
		{name: "failed", csr: right, verdict: certificatesv1.CertificateFailed, err: "Failed: not today", blame: true},
		{name: "the identity of another", csr: thief, err: "it has to ask for spiffe://cluster.local/ns/shop/sa/cart"},
		{name: "for another key", csr: right, change: func(c *x509.Certificate) { c.PublicKey = other.Public() }, err: "another key", blame: true},
		{name: "of another identity", csr: right, change: func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/shop/sa/admin"}}
		}, err: "cannot be used", blame: true},
		{name: "with a name beside it", csr: right, change: func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} }, err: "more names", blame: true},
		{name: "of an authority", csr: right, change: func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }, err: "certificate authority's", blame: true},
		{name: "for a year", csr: right, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(999 * time.Hour) }, err: "it lives for", blame: true},
		{name: "over already", csr: right, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, err: "cannot be used", blame: true},
		{name: "for clients only", csr: right, change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, err: "cannot be used", blame: true},
	} {
		api := fake.NewClientset()
		looked := 0
		var asked *certificatesv1.CertificateSigningRequest
		api.PrependReactor("create", "certificatesigningrequests", func(a k8stesting.Action) (bool, runtime.Object, error) {
			r := a.(k8stesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
			r.Name = r.GenerateName + "1" // as the API server does
			return false, nil, nil
		})
		api.PrependReactor("update", "certificatesigningrequests", func(a k8stesting.Action) (bool, runtime.Object, error) {
			asked = a.(k8stesting.UpdateAction).GetObject().(*certificatesv1.CertificateSigningRequest).DeepCopy()
			return true, asked, nil
		})
		api.PrependReactor("get", "certificatesigningrequests", func(k8stesting.Action) (bool, runtime.Object, error) {
			r := asked.DeepCopy()
			switch looked++; {
			case c.verdict != "":
				r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: c.verdict, Status: "True", Message: "not today"})
			case c.after >= 0 && looked > c.after:
				r.Status.Certificate = org.sign(t, r, c.change)
			}
			return true, r, nil
		})
		s := &Signer{Requests: api.CertificatesV1().CertificateSigningRequests(), Name: "org.example/mesh", Approve: true, Log: slog.New(slog.DiscardHandler)}
		issued, err := own.SignBy(t.Context(), s, c.csr, ca.Grant{ID: cart, TTL: time.Hour})
		if (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || errors.Is(err, ca.ErrExternal) != c.blame) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if left, err := api.CertificatesV1().CertificateSigningRequests().List(context.Background(), metav1.ListOptions{}); err != nil || len(left.Items) > 0 {
			t.Errorf("%s: %d requests are left, %v", c.name, len(left.Items), err)
		}
		if err != nil {
			continue
		}
		if n := asked.Spec; n.SignerName != "org.example/mesh" || *n.ExpirationSeconds != 3600 || !slices.Contains(n.Usages, certificatesv1.UsageServerAuth) || asked.Status.Conditions[0].Type != certificatesv1.CertificateApproved {
			t.Errorf("%s: it was asked %+v", c.name, asked)
		}
		if len(issued.Chain) != 3 || issued.Leaf.URIs[0].String() != cart.String() { // the leaf and two roots
			t.Errorf("%s: a chain of %d of %v", c.name, len(issued.Chain), issued.Leaf.URIs)
		}
	}
}
