package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"

	"github.com/weirmesh/weir/internal/redact"
)

// PEM types of private keys, by the encoding inside.
const (
	keyPKCS8 = "PRIVATE KEY"
	keyPKCS1 = "RSA PRIVATE KEY"
	keySEC1  = "EC PRIVATE KEY"
)

// NewKey makes the kind of key workloads use: ECDSA on P-256, the fastest to
// sign with of those that every TLS library takes.
func NewKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a private key: %w", err)
	}
	return key, nil
}

// ParseKey reads the first PEM private key: PKCS #8, PKCS #1 or SEC 1. The EC
// PARAMETERS block that openssl writes before a SEC 1 key is passed over.
func ParseKey(text redact.Bytes) (crypto.Signer, error) {
	for rest := text.Reveal(); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New(`private key: no readable PEM block "PRIVATE KEY", "RSA PRIVATE KEY" or "EC PRIVATE KEY"`)
		}
		var key any
		var err error
		switch block.Type {
		case keyPKCS8:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case keyPKCS1:
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case keySEC1:
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("private key: it is encrypted; store it decrypted (openssl pkey -in FILE) and protect the file instead")
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("private key: damaged, encrypted or of an unknown kind: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("private key: a %T cannot sign; want RSA, ECDSA or Ed25519", key)
		}
		return signer, nil
	}
}

// EncodeKey writes a key as PEM in PKCS #8, which ParseKey reads.
func EncodeKey(key crypto.Signer) (redact.Bytes, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return redact.Bytes{}, fmt.Errorf("encoding a private key: %w", err)
	}
	return redact.New(pem.EncodeToMemory(&pem.Block{Type: keyPKCS8, Bytes: der})), nil
}

// NewRequest makes a certificate request (PEM, PKCS #10) for id by key. Our own
// authority goes by who asks, not by the name in the request; others want it.
func NewRequest(key crypto.Signer, id ID) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}
