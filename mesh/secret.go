package mesh

// Secret is a certificate with its key, and, or, certificates of authorities, for the
// Gateways of its namespace (credentialName).
type Secret struct {
	Ref         Ref
	Certificate []byte // PEM, leaf first; empty if there is none
	// Key returns the private key of Certificate in PEM. It is a function so that
	// whatever prints a Secret does not print the key.
	Key func() []byte `json:"-"`
	// CA are the certificates in PEM that client certificates must chain to; empty if
	// there are none.
	CA []byte
	// CRL are lists of certificates that those authorities have revoked; empty if there are none.
	CRL []byte
}
