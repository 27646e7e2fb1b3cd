// Package tls secures connections: contexts made of identity material or of
// certificates from files and secrets, and Session, which shakes hands on a
// goroutine and afterwards turns records into bytes and back on a loop, in memory.
// crypto/tls shakes hands; records of TLS 1.3 are Weir's own afterwards (own.go), those
// of TLS 1.2 stay with crypto/tls (bio.go).
//
// What enters: certificates and what is expected of peers (ServerOptions,
// ClientOptions), ciphertext. What leaves: plaintext, a Peer who was verified, or an
// Error with a reason. Contexts are immutable and shared by all workers: a change
// makes a new one and leaves existing connections alone. A Session belongs to one
// connection. proxy/conn moves its bytes; nothing here touches a socket.
//
// A resumed session spares certificates and signatures, and is judged like a new one:
// the peer's certificate, its names and the bundle of the moment are looked at each
// time (resume.go). Tickets never pass from one context to another.
package tls

import (
	"cmp"
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirmesh/weir/identity"
)

// Versions, as in crypto/tls.
const (
	TLS12 = stdtls.VersionTLS12
	TLS13 = stdtls.VersionTLS13
)

// HandshakeTimeout bounds a server's handshake unless it says otherwise: enough for
// several round trips to the far side of the world and a retransmission.
const HandshakeTimeout = 10 * time.Second

// ClientAuth is what a server wants of its clients.
type ClientAuth uint8

const (
	NoClientCert       ClientAuth = iota
	OptionalClientCert            // verified if shown
	RequireClientCert
)

// ServerOptions describe a DownstreamTlsContext.
type ServerOptions struct {
	// Identity is the mesh's own: its certificate of the moment is shown. Otherwise
	// Certificates are, the first that fits the client's SNI, else the first.
	Identity     identity.Source
	Certificates []*stdtls.Certificate

	Clients ClientAuth
	// Trust judges client certificates; needed unless Clients is NoClientCert.
	Trust Trust

	// ALPN in order of preference. A client that offers only others is served
	// without ALPN, as Envoy does.
	ALPN []string
	// MinVersion defaults to TLS 1.3 where Trust is the mesh, else 1.2; MaxVersion to 1.3.
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16 // of TLS 1.2; nil: crypto/tls's
	Curves                 []stdtls.CurveID
	// RequireSNI refuses clients that do not say whom they want.
	RequireSNI bool
	// Tickets lets clients resume sessions for TicketLifetime, 0: 2 hours, as OpenSSL and
	// BoringSSL do. They are sealed with TicketKeys, the first one for new tickets; nil: with
	// keys of the context's own, new every day.
	Tickets        bool
	TicketLifetime time.Duration
	TicketKeys     [][32]byte
	// StdRecords leaves all records to crypto/tls.
	StdRecords bool
	Timeout    time.Duration // of a handshake, from its first byte; 0: HandshakeTimeout
	Gate       *Gate         // nil: no limit
}

// ClientOptions describe an UpstreamTlsContext.
type ClientOptions struct {
	// SNI is sent as it is; the mesh's names (outbound_.80_._.host) are no host names.
	SNI  string
	ALPN []string
	// Identity's certificate is shown to servers that ask; nil shows Certificate,
	// or none.
	Identity    identity.Source
	Certificate *stdtls.Certificate
	Trust       Trust
	// MinVersion defaults to TLS 1.3 where Trust is the mesh, else 1.2.
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16
	Curves                 []stdtls.CurveID
	// Sessions is how many resumable sessions are kept for an endpoint at most; 0: none.
	Sessions   int
	StdRecords bool
	Gate       *Gate
}

// defaultCurves are Envoy's. crypto/tls would put X25519MLKEM768 first (as of Go
// 1.26), which makes a handshake about a quarter dearer; it can be asked for.
var defaultCurves = []stdtls.CurveID{stdtls.X25519, stdtls.CurveP256}

// ticketLifetime is the default of ServerOptions.TicketLifetime.
const ticketLifetime = 2 * time.Hour

// Server is an immutable context for accepted connections.
type Server struct {
	config     *stdtls.Config
	clients    ClientAuth
	trust      Trust
	gate       *Gate
	std        bool
	requireSNI bool
	timeout    time.Duration
	lifetime   time.Duration // of tickets
	shown      []*stdtls.Certificate
	demand     [sha256.Size]byte // of clients; see demanded
	roots      judged
}

// Client is an immutable context for dialled connections.
type Client struct {
	config   *stdtls.Config
	trust    Trust
	gate     *Gate
	std      bool
	identity identity.Source
	sessions *sessions // nil: none are kept
}

// NewServer checks o and makes a context of it.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Identity == nil && len(o.Certificates) == 0 {
		return nil, errors.New("tls server: neither an identity nor a certificate to show")
	}
	if o.Clients != NoClientCert {
		if err := o.Trust.resolve(); err != nil {
			return nil, fmt.Errorf("tls server: %w", err)
		}
	}
	lowest := uint16(TLS12)
	if o.Trust.Mesh != nil {
		lowest = TLS13
	}
	if err := versions(&o.MinVersion, &o.MaxVersion, lowest); err != nil {
		return nil, err
	}
	s := &Server{clients: o.Clients, trust: o.Trust, gate: o.Gate, std: o.StdRecords, requireSNI: o.RequireSNI,
		timeout: cmp.Or(o.Timeout, HandshakeTimeout), lifetime: cmp.Or(o.TicketLifetime, ticketLifetime), shown: o.Certificates}
	if o.Tickets {
		s.demand = demanded(o.Clients, &o.Trust)
	}
	c := &stdtls.Config{
		MinVersion: o.MinVersion, MaxVersion: o.MaxVersion, CipherSuites: o.CipherSuites,
		CurvePreferences:            curves(o.Curves),
		NextProtos:                  slices.Clone(o.ALPN),
		SessionTicketsDisabled:      !o.Tickets,
		DynamicRecordSizingDisabled: true, // as own records
	}
	if len(o.TicketKeys) > 0 {
		c.SetSessionTicketKeys(o.TicketKeys)
	}
	if o.Identity != nil {
		c.GetCertificate = func(*stdtls.ClientHelloInfo) (*stdtls.Certificate, error) {
			if cert := identity.Fresh(o.Identity); cert != nil {
				return cert, nil
			}
			return nil, errNoCertificate
		}
	} else {
		shelf, err := newShelf(o.Certificates)
		if err != nil {
			return nil, fmt.Errorf("tls server: %w", err)
		}
		c.GetCertificate = shelf.choose
	}
	if o.Clients != NoClientCert {
		// The chain is judged in VerifyConnection, in the goroutine of the handshake.
		c.ClientAuth = stdtls.RequestClientCert
		if o.Trust.Roots != nil {
			c.ClientCAs = o.Trust.Roots // named to the client, so that it can choose
		}
		required := o.Clients == RequireClientCert
		c.VerifyConnection = func(st stdtls.ConnectionState) error {
			if len(st.PeerCertificates) == 0 {
				if required && o.Trust.Mesh == nil {
					return errNotShown
				}
				if !required {
					return nil
				}
			}
			_, err := o.Trust.verify(st.PeerCertificates, identity.Client)
			return err
		}
	}
	s.config = c
	return s, nil
}

// Timeout bounds a handshake, from its first byte on.
func (s *Server) Timeout() time.Duration { return s.timeout }

// Admits reports whether a peer that was let in by was, an earlier context, would be let in by s, as far as its certificate
// need not be seen again: who is judged by other roots or pins than before is not, but for workloads of the mesh, whose
// names are compared. Renewed revocation lists are for new connections.
func (s *Server) Admits(p *Peer, was *Server) bool {
	switch {
	case p.Version < s.config.MinVersion || s.requireSNI && p.SNI == "":
		return false
	case s.clients == NoClientCert || s.clients <= was.clients && s.trust.same(&was.trust):
		return true
	case !p.Presented:
		return s.clients == OptionalClientCert
	case s.trust.Mesh != nil && !s.trust.pins():
		return p.ID != identity.ID{} && s.trust.Names.Accepts(p.ID)
	}
	return s.trust.same(&was.trust)
}

// Leaves are the certificates of configuration that clients are shown; none if they are
// shown the workload's own.
func (s *Server) Leaves() []*x509.Certificate {
	var leaves []*x509.Certificate
	for _, c := range s.shown {
		if c.Leaf != nil {
			leaves = append(leaves, c.Leaf)
		}
	}
	return leaves
}

// NewClient checks o and makes a context of it.
func NewClient(o ClientOptions) (*Client, error) {
	if err := o.Trust.resolve(); err != nil {
		return nil, fmt.Errorf("tls client: %w", err)
	}
	lowest := uint16(TLS12)
	if o.Trust.Mesh != nil {
		lowest = TLS13
	}
	if err := versions(&o.MinVersion, &o.MaxVersion, lowest); err != nil {
		return nil, err
	}
	c := &stdtls.Config{
		ServerName: o.SNI, NextProtos: slices.Clone(o.ALPN),
		MinVersion: o.MinVersion, MaxVersion: o.MaxVersion, CipherSuites: o.CipherSuites,
		CurvePreferences:            curves(o.Curves),
		DynamicRecordSizingDisabled: true, // a proxy is never on the slow side of a last mile
		// crypto/tls knows host names; VerifyConnection judges instead, always.
		InsecureSkipVerify: true,
		VerifyConnection: func(st stdtls.ConnectionState) error {
			_, err := o.Trust.verify(st.PeerCertificates, identity.Server)
			return err
		},
	}
	switch {
	case o.Identity != nil:
		c.GetClientCertificate = func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) {
			if cert := identity.Fresh(o.Identity); cert != nil {
				return cert, nil
			}
			return nil, errNoCertificate
		}
	case o.Certificate != nil:
		c.GetClientCertificate = func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) {
			return o.Certificate, nil
		}
	}
	client := &Client{config: c, trust: o.Trust, gate: o.Gate, std: o.StdRecords, identity: o.Identity}
	if o.Sessions > 0 {
		client.sessions = &sessions{most: min(o.Sessions, maxSessions)}
	}
	return client, nil
}

// With is the same context with another SNI and other protocols: HTTP through the
// mesh offers istio-http/1.1 where TCP offers istio-peer-exchange. Keep the result;
// it costs an allocation.
func (c *Client) With(sni string, alpn []string) *Client {
	d := *c
	d.config = c.config.Clone()
	d.config.ServerName, d.config.NextProtos = sni, slices.Clone(alpn)
	if c.sessions != nil {
		d.sessions = &sessions{most: c.sessions.most}
	}
	return &d
}

// SNI is the server name the context sends.
func (c *Client) SNI() string { return c.config.ServerName }

// ALPN are the protocols the context offers.
func (c *Client) ALPN() []string { return slices.Clone(c.config.NextProtos) }

func versions(lo, hi *uint16, fallback uint16) error {
	if *hi == 0 {
		*hi = TLS13
	}
	if *lo == 0 {
		*lo = min(fallback, *hi)
	}
	if *lo < TLS12 || *hi > TLS13 || *lo > *hi {
		return fmt.Errorf("tls: versions %s to %s: want 1.2 or 1.3, the lower one first", stdtls.VersionName(*lo), stdtls.VersionName(*hi))
	}
	return nil
}

func curves(c []stdtls.CurveID) []stdtls.CurveID {
	if len(c) == 0 {
		return defaultCurves
	}
	return c
}
