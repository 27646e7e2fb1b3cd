package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weirmesh/weir/ca/internal/secretfile"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
)

const (
	// rootLife is Istio's CITADEL_SELF_SIGNED_CA_CERT_TTL, ten years.
	rootLife = 3650 * 24 * time.Hour

	// Files of a self-signed authority. Key and certificate are one file because
	// two cannot be replaced at once.
	authorityFile = "ca.pem"
	rootFile      = "root-cert.pem" // the roots alone, for whoever wants to trust them (curl --cacert)
)

// OpenSelfSigned opens the authority that lives in a folder, or makes one there: a
// root of ECDSA P-256 for ten years. Processes that start at the same time get the
// same one. The file holds the private key, the root, and any further roots that
// are to be trusted.
//
// A file that is damaged, or whose parts do not belong together, or that is gone while
// the roots it had are there, is an error and never replaced: making a new root cuts
// off every workload that trusts the old.
func OpenSelfSigned(dir, trustDomain string, o Options) (*Authority, error) {
	path, roots := filepath.Join(dir, authorityFile), filepath.Join(dir, rootFile)
	text, err := secretfile.LoadOrCreate(dir, authorityFile, func() (redact.Bytes, error) {
		if _, err := os.Lstat(roots); !errors.Is(err, fs.ErrNotExist) {
			return redact.Bytes{}, fmt.Errorf("%s, the private key of the mesh, is gone, and workloads trust %s: restore it from a copy, "+
				"or remove %s to start with a new root, which workloads trust once they are restarted", path, roots, rootFile)
		}
		return makeSelfSigned(trustDomain)
	})
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a, err := parseSelfSigned(text, trustDomain, o)
	if err != nil {
		first := "restore the file from a copy"
		if errors.Is(err, ErrEnded) {
			first = "set this machine's clock right if it is wrong"
		}
		return nil, fmt.Errorf("certificate authority %s: %w; %s, or move it and %s away to start with a new root, "+
			"which workloads trust once they are restarted", path, err, first, rootFile)
	}
	if err := secretfile.Replace(roots, a.bundle.PEM(), 0o644); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return a, nil
}

func makeSelfSigned(trustDomain string) (redact.Bytes, error) {
	key, err := identity.NewKey()
	if err != nil {
		return redact.Bytes{}, err
	}
	cert, err := newRoot(trustDomain, key, time.Now(), rootLife)
	if err != nil {
		return redact.Bytes{}, err
	}
	text, err := identity.EncodeKey(key)
	if err != nil {
		return redact.Bytes{}, err
	}
	return redact.New(append(bytes.Clone(text.Reveal()), identity.EncodeCertificates(cert)...)), nil
}

func parseSelfSigned(text redact.Bytes, trustDomain string, o Options) (*Authority, error) {
	block, certs := pem.Decode(text.Reveal())
	if block == nil {
		return nil, errors.New("the file is damaged: it does not begin with a private key in PEM")
	}
	key, err := identity.ParseKey(redact.New(pem.EncodeToMemory(block)))
	if err != nil {
		return nil, err
	}
	roots, err := identity.ParseCertificates(certs)
	if err != nil {
		return nil, err
	}
	bundle, err := identity.NewBundle(roots...)
	if err != nil {
		return nil, err
	}
	return newAuthority(o, trustDomain, key, roots[0], nil, bundle)
}

// layouts of a plugged-in authority: Istio's Secret cacerts, and a Kubernetes TLS
// Secret as cert-manager makes it.
var layouts = []struct{ key, cert, roots, chain string }{
	{"ca-key.pem", "ca-cert.pem", "root-cert.pem", "cert-chain.pem"},
	{"tls.key", "tls.crt", "ca.crt", ""},
}

// OpenPlugged opens an organisation's authority from the files of a folder:
// ca-key.pem, ca-cert.pem, root-cert.pem and (if there are intermediates)
// cert-chain.pem, or tls.key, tls.crt and ca.crt. RSA, ECDSA and Ed25519 keys in
// PKCS #8, PKCS #1 or SEC 1.
func OpenPlugged(dir, trustDomain string, o Options) (*Authority, error) {
	a, err := openPlugged(dir, trustDomain, o)
	if err != nil {
		return nil, fmt.Errorf("plugged-in certificate authority in %s: %w", dir, err)
	}
	return a, nil
}

func openPlugged(dir, trustDomain string, o Options) (*Authority, error) {
	var found []int
	for i, l := range layouts {
		if _, err := os.Stat(filepath.Join(dir, l.key)); err == nil {
			found = append(found, i)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("want one private key, either %s or %s, and found %d", layouts[0].key, layouts[1].key, len(found))
	}
	l := layouts[found[0]]
	keyText, err := os.ReadFile(filepath.Join(dir, l.key))
	if err != nil {
		return nil, err
	}
	key, err := identity.ParseKey(redact.New(keyText))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.key, err)
	}
	certs, err := readCertificates(dir, l.cert)
	if err != nil {
		return nil, err
	}
	roots, err := readCertificates(dir, l.roots)
	if err != nil {
		return nil, err
	}
	bundle, err := identity.NewBundle(roots...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.roots, err)
	}
	others := certs[1:]
	if l.chain != "" {
		switch more, err := readCertificates(dir, l.chain); {
		case err == nil:
			others = append(others, more...)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	a, err := newAuthority(o, trustDomain, key, certs[0], others, bundle)
	if err != nil {
		files := []string{l.key, l.cert, l.roots}
		if l.chain != "" {
			files = append(files, l.chain)
		}
		return nil, fmt.Errorf("%w (files %s)", err, strings.Join(files, ", "))
	}
	return a, nil
}

func readCertificates(dir, name string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	certs, err := identity.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}
