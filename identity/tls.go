package identity

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

// Source gives what a TLS end needs, anew for each handshake: so a renewed
// certificate or a changed bundle takes effect on the next connection and closes
// none. *Material is a Source that stays as it is, *Manager one that renews.
type Source interface {
	Certificate() *tls.Certificate // nil: there is none yet
	Bundle() *Bundle               // nil: no peer can be judged yet
}

// ClientTLS is for connections of a proxy to its control plane over gRPC: TLS 1.3,
// the server judged by VerifyPeer, or by VerifyServerName if servers is a DNSName. Our own certificate is shown if it is valid now
// and of an authority the server named; otherwise none, so that a workload
// whose certificate expired while it slept, or whose authority was replaced, can
// still come back with its token.
func ClientTLS(source Source, servers Accept) *tls.Config {
	name, _ := servers.(DNSName)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		ServerName: string(name),
		// crypto/tls knows host names; VerifyConnection below judges identities.
		InsecureSkipVerify: true,
		VerifyConnection:   verifyConnection(source, Server, servers, true),
		GetClientCertificate: func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := source.Certificate()
			if cert == nil || !validNow(cert) || asked.SupportsCertificate(cert) != nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		},
	}
}

// ServerTLS is for the control plane's gRPC port: TLS 1.3, clients judged by
// VerifyPeer. A client without a certificate is let in only if require is false
// (that is how a workload asks for its first one); a certificate that is shown
// must be good in either case.
func ServerTLS(source Source, clients Accept, require bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := &tls.Config{
				MinVersion: tls.VersionTLS13,
				NextProtos: []string{"h2"},
				ClientAuth: tls.RequestClientCert,
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					return source.Certificate(), nil // nil: crypto/tls says that there is none
				},
				VerifyConnection: verifyConnection(source, Client, clients, require),
				// Ticket keys live in a config, and this one lives for one handshake.
				SessionTicketsDisabled: true,
			}
			if b := source.Bundle(); b != nil {
				c.ClientCAs = b.pool // names the authorities to the client
			}
			return c, nil
		},
	}
}

// PeerID is the identity of the other end of a connection made with ClientTLS or
// ServerTLS; false if it showed no certificate. On other connections it is a
// claim that nobody checked.
func PeerID(state tls.ConnectionState) (ID, bool) {
	if len(state.PeerCertificates) == 0 {
		return ID{}, false
	}
	id, err := FromCertificate(state.PeerCertificates[0])
	return id, err == nil
}

func verifyConnection(source Source, peer Role, accept Accept, require bool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if !require && len(state.PeerCertificates) == 0 {
			return nil
		}
		if name, ok := accept.(DNSName); ok && peer == Server {
			return VerifyServerName(rawOf(state.PeerCertificates), source.Bundle(), time.Now(), name)
		}
		_, err := VerifyPeer(rawOf(state.PeerCertificates), source.Bundle(), time.Now(), peer, accept)
		return err
	}
}

func rawOf(certs []*x509.Certificate) [][]byte {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	return raw
}

func validNow(c *tls.Certificate) bool {
	now := time.Now()
	return c.Leaf != nil && !now.Before(c.Leaf.NotBefore) && now.Before(c.Leaf.NotAfter)
}
