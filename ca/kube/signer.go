package kube

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certificatesv1client "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

const (
	// signedWithin is less than the 10 s a proxy waits for its certificate.
	signedWithin = 8 * time.Second
	askAgain     = 250 * time.Millisecond
	// shortest is the least that spec.expirationSeconds takes.
	shortest = 10 * time.Minute
)

// Signer is a ca.External: a signer of the cluster's CertificateSigningRequests (certificates.k8s.io/v1), such as that of
// cert-manager or of a cloud. Each request becomes an object, which is approved, looked at until it is signed, and deleted.
type Signer struct {
	Requests certificatesv1client.CertificateSigningRequestInterface
	Name     string // spec.signerName: "DOMAIN/PATH"
	// Approve says that requests are approved here, which needs the right to; otherwise somebody else approves them.
	Approve bool
	Log     *slog.Logger
}

// Certify has a request signed.
func (s *Signer) Certify(ctx context.Context, csr []byte, key crypto.PublicKey, ttl time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signedWithin)
	defer cancel()
	seconds := int32(max(ttl, shortest) / time.Second)
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth}
	if _, ok := key.(*rsa.PublicKey); ok {
		usages = append(usages, certificatesv1.UsageKeyEncipherment)
	}
	r, err := s.Requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "weir-workload-"},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Request: csr, SignerName: s.Name, ExpirationSeconds: &seconds, Usages: usages},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("asking signer %s: %w", s.Name, err)
	}
	defer s.remove(context.WithoutCancel(ctx), r.Name)
	if s.Approve {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "WeirControlPlane", Message: "the workload proved to be whom the request names"})
		if r, err = s.Requests.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{}); err != nil {
			return nil, fmt.Errorf("approving a request to signer %s: %w", s.Name, err)
		}
	}
	for {
		for _, c := range r.Status.Conditions {
			if (c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed) && c.Status == corev1.ConditionTrue {
				return nil, fmt.Errorf("signer %s: %s: %.*s", s.Name, c.Type, maxReason, c.Message)
			}
		}
		if len(r.Status.Certificate) > 0 {
			return r.Status.Certificate, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("signer %s: nothing was signed in time: is it there, and does somebody approve its requests? %w", s.Name, context.Cause(ctx))
		case <-time.After(askAgain):
		}
		next, err := s.Requests.Get(ctx, r.Name, metav1.GetOptions{})
		switch {
		case err == nil:
			r = next
		case !errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("signer %s: reading the request: %w", s.Name, err)
		}
	}
}

// remove deletes a request that was answered; Kubernetes deletes those that are left after an hour.
func (s *Signer) remove(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, signedWithin)
	defer cancel()
	if err := s.Requests.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		s.Log.Warn("a certificate request stays where it is", "name", name, "err", err)
	}
}
