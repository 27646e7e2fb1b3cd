package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// organisation is a root that signs.
type organisation struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newOrganisation(t *testing.T, name string) *organisation {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"cluster.local"}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &organisation{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// sign makes what a request asks for.
func (o *organisation) sign(r *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return nil, fmt.Errorf("request %s is no PEM", r.Name)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, URIs: csr.URIs, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, o.cert, csr.PublicKey, o.key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), o.pem...), nil
}

// serve signs what is approved, until the test ends, and counts.
func (o *organisation) serve(c *cluster.Cluster, signer string) *atomic.Int64 {
	signed := &atomic.Int64{}
	api := c.Client.CertificatesV1().CertificateSigningRequests()
	ctx, cancel := context.WithCancel(c.T.Context())
	done := make(chan struct{})
	c.T.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			w, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + signer})
			if err != nil {
				continue
			}
			for e := range w.ResultChan() {
				r, ok := e.Object.(*certificatesv1.CertificateSigningRequest)
				if !ok || len(r.Status.Certificate) > 0 || len(r.Status.Conditions) == 0 || r.Status.Conditions[0].Type != certificatesv1.CertificateApproved {
					continue
				}
				if r.Status.Certificate, err = o.sign(r); err == nil {
					_, err = api.UpdateStatus(ctx, r, metav1.UpdateOptions{})
				}
				switch {
				case err == nil:
					signed.Add(1)
				case ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
					c.T.Errorf("signing %s: %v", r.Name, err)
				}
			}
		}
	}()
	return signed
}

// Certificates of workloads are made by a signer of the cluster's CertificateSigningRequests, are
// good for mutual TLS, and no request is left behind.
func TestClusterSigner(t *testing.T) {
	const signer = "signer.weir.test/mesh"
	c := cluster.Connect(t)
	bare(t, c)
	ours, theirs := newOrganisation(t, "the mesh"), newOrganisation(t, "the organisation")
	key, err := x509.MarshalPKCS8PrivateKey(ours.key)
	if err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "istio-system"}}
	if _, err := c.Client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		must(t, "uninstall", "--yes")
		c.EndNamespace("istio-system") // with its authority
		c.Until("it is gone", booting, func() string {
			if _, err := c.Client.CoreV1().Namespaces().Get(context.WithoutCancel(t.Context()), "istio-system", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprint(err)
			}
			return ""
		})
	})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cacerts"}, Data: map[string][]byte{
		"ca-cert.pem": ours.pem, "cert-chain.pem": ours.pem, "root-cert.pem": append(ours.pem, theirs.pem...),
		"ca-key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})}}
	if _, err := c.Client.CoreV1().Secrets("istio-system").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	signed := theirs.serve(c, signer)
	install(t, "--set", "ca.signer="+signer, "--set", "ca.approve=true")
	c.Namespace = c.NewNamespace("istio-injection=enabled")
	c.Apply(withImages(t, web))
	c.Apply(withImages(t, caller))
	c.Apply(strict)
	c.Ready("app", booting)
	reachesByMutualTLS(c)
	if n := signed.Load(); n < 3 { // two workloads and the gateway
		t.Errorf("the signer made %d certificates", n)
	}
	c.Until("no request is left", cluster.Patience, func() string {
		l, err := c.Client.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{FieldSelector: "spec.signerName=" + signer})
		if err != nil || len(l.Items) > 0 {
			return fmt.Sprint(len(l.Items), err)
		}
		return ""
	})
}

// strict asks a namespace for mutual TLS.
const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
`
