package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	// maxRequest bounds a request in PEM: one of RSA 8192 with a few names has
	// 3 KB.
	maxRequest = 16 << 10
	// minRSA is what NIST SP 800-57 asks for until 2030; maxRSA is what crypto/tls
	// accepts from a peer (as of Go 1.26), and bounds the work of verifying.
	minRSA = 2048
	maxRSA = 8192
)

// RequestError says what is wrong with a certificate request: the asker's fault.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return "certificate request: " + e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// parseRequest returns a request with a usable key whose sender holds its private part.
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	req, err := readRequest(text)
	if err != nil {
		return nil, &RequestError{err}
	}
	return req, nil
}

func readRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxRequest {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(text), maxRequest)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New(`no PEM block "CERTIFICATE REQUEST"`)
	}
	// The second name is what old OpenSSL and Java's keytool write.
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("the PEM block is %q, want CERTIFICATE REQUEST", block.Type)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("something follows the PEM block; one request at a time")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	// Before the signature: verifying with a huge key is what a flood would be of.
	if err := checkKey(req.PublicKey); err != nil {
		return nil, err
	}
	switch req.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA:
		return nil, fmt.Errorf("signed with %s; want SHA-256 or better, or Ed25519", req.SignatureAlgorithm)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("its signature is not by its key: %w", err)
	}
	return req, nil
}

// checkKey refuses keys that are too weak to trust or too large to handle.
func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("an ECDSA key on curve %s; want P-256, P-384 or P-521", k.Curve.Params().Name)
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return fmt.Errorf("an RSA key of %d bits; want %d to %d", bits, minRSA, maxRSA)
		}
		return nil
	}
	return fmt.Errorf("a key of unknown kind (%T); want ECDSA, Ed25519 or RSA", key)
}
