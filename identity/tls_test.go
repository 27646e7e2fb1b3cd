package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"
)

const istiod = "spiffe://cluster.local/ns/istio-system/sa/istiod"

// source is a Source that a test changes between handshakes.
type source struct {
	cert   *tls.Certificate
	bundle *Bundle
}

func (s *source) Certificate() *tls.Certificate { return s.cert }
func (s *source) Bundle() *Bundle               { return s.bundle }

// exchange makes one connection: the client says hello, the server answers with
// the identity it saw.
func exchange(t *testing.T, client, server *tls.Config) (seen string, clientErr, serverErr error) {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		s := tls.Server(c, server)
		defer s.Close()
		if err := s.Handshake(); err != nil {
			done <- err
			return
		}
		id, _ := PeerID(s.ConnectionState())
		_, err = s.Write([]byte("you are " + id.String() + "\n"))
		done <- err
	}()
	raw, err := l.Dial()
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, client)
	defer c.Close()
	answer, clientErr := io.ReadAll(c)
	raw.Close()
	return strings.TrimSpace(string(answer)), clientErr, <-done
}

func TestTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		root := newForge(t, "root", now, now.Add(1000*time.Hour))
		other := newForge(t, "other root", now, now.Add(1000*time.Hour))
		material := func(f *forge, id string) *Material { return f.material(id, now, now.Add(24*time.Hour)) }
		var (
			servers = OneOf{mustParse(t, istiod)}
			clients = TrustDomains{"cluster.local"}
			server  = &source{material(root, istiod).Certificate(), root.bundle()}
			client  = &source{nil, root.bundle()}
			open    = ServerTLS(server, clients, false)
			closed  = ServerTLS(server, clients, true)
			dial    = ClientTLS(client, servers)
		)
		expect := func(what, want string, serverConfig *tls.Config) {
			t.Helper()
			if got, cerr, serr := exchange(t, dial, serverConfig); got != want || cerr != nil || serr != nil {
				t.Errorf("%s: %q, client %v, server %v; want %q", what, got, cerr, serr, want)
			}
		}
		refused := func(what string, want Reason, byClient bool, serverConfig *tls.Config) {
			t.Helper()
			got, cerr, serr := exchange(t, dial, serverConfig)
			err := serr
			if byClient {
				err = cerr
			}
			if e, ok := errors.AsType[*PeerError](err); !ok || e.Reason != want || got != "" {
				t.Errorf("%s: %q, client %v, server %v; want %s", what, got, cerr, serr, want)
			}
		}

		expect("a first connection, without a certificate", "you are", open)
		refused("the same where one is demanded", NoCertificate, false, closed)

		client.cert = material(root, cart).Certificate()
		expect("a renewed client on the same configuration", "you are "+cart, closed)
		expect("a renewed client where it is voluntary", "you are "+cart, open)

		client.cert = material(root, "spiffe://other.domain/ns/shop/sa/cart").Certificate()
		refused("a foreign trust domain", WrongIdentity, false, open)

		client.cert = material(other, cart).Certificate()
		expect("a certificate the server would not know is not shown", "you are", open)
		server.bundle = root.bundle().Union(other.bundle())
		expect("a second root on the server, known on the next connection", "you are "+cart, open)
		server.bundle = root.bundle()

		client.cert = material(root, cart).Certificate()
		server.cert = material(root, cart).Certificate()
		refused("a workload in the server's place", WrongIdentity, true, open)
		server.cert = material(other, istiod).Certificate()
		refused("a server of another authority", UnknownAuthority, true, open)
		server.cert = material(root, istiod).Certificate()
		client.bundle = nil
		refused("a client without roots", UnknownAuthority, true, open)
		client.bundle = root.bundle()

		time.Sleep(30 * time.Hour)
		refused("a server that slept over its renewal", Expired, true, open)
		server.cert = root.material(istiod, now, now.Add(100*time.Hour)).Certificate()
		expect("an expired certificate is not shown", "you are", open)

		server.cert = nil
		if _, _, err := exchange(t, dial, open); err == nil {
			t.Error("a server without a certificate made a connection")
		}
		dial.MaxVersion, dial.MinVersion = tls.VersionTLS12, tls.VersionTLS12
		if _, _, err := exchange(t, dial, open); err == nil {
			t.Error("TLS 1.2 was accepted")
		}
	})
}

// Istio's control plane proves a DNS name and no SPIFFE identity.
func TestServerByDNSName(t *testing.T) {
	now := time.Now()
	root, other := newForge(t, "root", now.Add(-time.Hour), now.Add(time.Hour)), newForge(t, "other", now.Add(-time.Hour), now.Add(time.Hour))
	names := func(dns ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, dns }
	}
	const istiodName = "istiod.istio-system.svc"
	for _, tc := range []struct {
		name   string
		by     *forge
		spoil  func(*x509.Certificate)
		accept Accept
		reason Reason // 0: accepted
		text   string
	}{
		{"the name", root, names("istiod.istio-system", istiodName), DNSName(istiodName), 0, ""},
		{"another case", root, names("ISTIOD.istio-system.svc"), DNSName(istiodName), 0, ""},
		{"a wildcard", root, names("*.istio-system.svc"), DNSName(istiodName), 0, ""},
		{"another name", root, names("pilot.istio-system.svc"), DNSName(istiodName), WrongIdentity,
			`presented no identity, expected the DNS name "istiod.istio-system.svc": the certificate is good, but its DNS names are pilot.istio-system.svc`},
		{"a SPIFFE identity instead", root, nil, DNSName(istiodName), WrongIdentity, "its DNS names are none"},
		{"no name to prove", root, names(""), DNSName(""), WrongIdentity, ""},
		{"another authority", other, names(istiodName), DNSName(istiodName), UnknownAuthority, ""},
		{"a client's certificate", root, func(c *x509.Certificate) {
			names(istiodName)(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, DNSName(istiodName), WrongUsage, ""},
		{"a DNS name where an identity is wanted", root, names(istiodName), OneOf{mustParse(t, istiod)}, NotSPIFFE, ""},
	} {
		leaf, key := tc.by.leaf(istiod, now.Add(-time.Minute), now.Add(time.Hour), tc.spoil)
		server := &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
		asked := ""
		server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			asked = h.ServerName
			return nil, nil
		}
		_, cerr, _ := exchange(t, ClientTLS(&source{nil, root.bundle()}, tc.accept), server)
		e, ok := errors.AsType[*PeerError](cerr)
		if tc.reason == 0 && cerr != nil || tc.reason != 0 && (!ok || e.Reason != tc.reason || !strings.Contains(e.Error(), tc.text)) {
			t.Errorf("%s: %v, want %v with %q", tc.name, cerr, tc.reason, tc.text)
		}
		if name, _ := tc.accept.(DNSName); asked != string(name) {
			t.Errorf("%s: asked for %q", tc.name, asked)
		}
	}
}
