package scripts

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"

	"github.com/weirmesh/weir/test/mesh"
)

// dialer connects as a call says.
type dialer struct {
	s  *stage
	c  *call
	w  *mesh.Workload // who calls, or, from outside, whose proxy is called
	at string         // host:port
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	if d.c.socket != "" {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(d.s.certs, d.c.socket))
	}
	if d.c.from == "outside" {
		return new(net.Dialer).DialContext(ctx, "tcp", d.at)
	}
	return d.w.Dial(ctx, d.at)
}

// tls is what a client of the call does in a handshake.
func (d *dialer) tls() *tls.Config {
	o := &tls.Config{ServerName: d.c.sni, InsecureSkipVerify: true}
	if d.c.version == "1.2" {
		o.MaxVersion = tls.VersionTLS12
	}
	if d.c.cert != "" { // whatever authorities the server names
		pair := d.s.vault.pairs[d.c.cert]
		o.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return o
}

// seen adds to answers whose certificate the server showed.
type seen struct{ *http.Transport }

// RoundTrip is described at http.RoundTripper.
func (s seen) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := s.Transport.RoundTrip(r)
	if err == nil && res.TLS != nil {
		res.Header.Set("x-seen-shown", res.TLS.PeerCertificates[0].Subject.CommonName)
	}
	return res, err
}

// client is for the call alone, unless it is an ordinary one of a workload.
func (d *dialer) client() (c *http.Client, own bool) {
	t := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true, TLSClientConfig: d.tls(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.dial(ctx) }}
	if d.c.kind == "grpc" {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	c = d.w.Client()
	if own = d.c.kind != "" || d.c.from == "outside" || d.c.socket != ""; own {
		c.Transport = seen{t}
	}
	return c, own
}

// relay sends a line, or a ClientHello, and waits for anything that comes back. It reports
// whether a TLS server let nobody in.
func (d *dialer) relay() (refused bool) {
	ctx := context.Background()
	conn, err := d.dial(ctx)
	if err != nil { // a proxy that has nowhere to send it to may reset it at once: what it logs is what counts
		return false
	}
	defer func() { _ = conn.Close() }()
	if d.c.kind == "tls" {
		secured := tls.Client(conn, d.tls())
		if err := secured.HandshakeContext(ctx); err != nil { // the program may send back what it gets, which is no ServerHello
			return true
		}
		conn = secured
	}
	_, _ = io.WriteString(conn, "hello\n")
	_, err = conn.Read(make([]byte, 64))
	var alert tls.AlertError
	var op *net.OpError
	return errors.As(err, &alert) || errors.As(err, &op) && op.Op == "remote error"
}
