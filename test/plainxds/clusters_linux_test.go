package plainxds

import (
	stdtls "crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// secured is a backend that asks for certificates of this authority and answers with the name in the client's. It closes every
// connection, so that each request needs a handshake.
func (p *plane) secured(ca *tlstest.Authority) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("connection", "close")
		fmt.Fprint(w, r.TLS.PeerCertificates[0].DNSNames[0])
	}))
	s.TLS = &stdtls.Config{Certificates: []stdtls.Certificate{*ca.Server("backend.example")}, ClientCAs: p.ca.Pool(), ClientAuth: stdtls.RequireAnyClientCert}
	s.StartTLS()
	p.t.Cleanup(s.Close)
	_, p.vars["SECURE"], _ = net.SplitHostPort(s.Listener.Addr().String())
}

// What clusters show and whom they trust comes by ADS or from an SDS server. It changes while requests are made, each with a handshake:
// none fails, and the new certificate is shown. Who is not trusted is not spoken to, until the roots say otherwise.
func TestSecretsOfClusters(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		other := tlstest.New(t)
		p.secured(p.ca)
		p.vars["ROOTS"] = escaped(p.ca.PEM())
		p.publish(nil, "clusters.yaml")
		p.run()
		p.answers(map[string]string{":10100/ads": "200 first.a.example", ":10100/socket": "200 first.b.example"})

		var stop atomic.Bool
		var made atomic.Int64
		var clients sync.WaitGroup
		for _, path := range []string{"/ads", "/socket"} {
			url := "http://" + p.ip + ":10100" + path
			clients.Go(func() {
				for !stop.Load() {
					if got, err := p.get(url); err != nil || len(got) < 4 || got[:4] != "200 " {
						t.Errorf("%s: %q, %v", path, got, err)
						return
					}
					made.Add(1)
				}
			})
		}
		for i := range 5 {
			a, b := fmt.Sprintf("n%d.a.example", i), fmt.Sprintf("n%d.b.example", i)
			p.rotate(a)
			p.secret.rotate(b)
			p.publish(nil, "clusters.yaml")
			p.answers(map[string]string{":10100/ads": "200 " + a, ":10100/socket": "200 " + b})
		}
		// Roots are exchanged as one does it: both for a while.
		p.vars["ROOTS"] = escaped(append(p.ca.PEM(), other.PEM()...))
		p.publish(nil, "clusters.yaml")
		stop.Store(true)
		clients.Wait()
		t.Logf("%d handshakes", made.Load())

		p.vars["ROOTS"] = escaped(other.PEM())
		p.publish(nil, "clusters.yaml")
		const refused = "503 upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
		p.until("the backend is not trusted", func() error {
			for _, path := range []string{"/ads", "/socket"} {
				if got, err := p.get("http://" + p.ip + ":10100" + path); err != nil || len(got) < len(refused) || got[:len(refused)] != refused {
					return fmt.Errorf("%s: %q, %w", path, got, err)
				}
			}
			return nil
		})
		p.secured(other)
		p.publish(nil, "clusters.yaml")
		p.answers(map[string]string{":10100/ads": "200 n4.a.example", ":10100/socket": "200 n4.b.example"})
		if n := p.nacked(); len(n) > 0 {
			t.Errorf("refused: %v", n)
		}
	})
}
