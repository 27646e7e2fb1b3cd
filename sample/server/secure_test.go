package server

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
)

// Behind TLS there is what was behind the listener, under the host's name.
func TestSecure(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lns := []net.Listener{ln}
	if err := Secure(lns, "pod-1"); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })}
	go func() { _ = s.Serve(lns[0]) }()
	t.Cleanup(func() { _ = s.Close() })
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // nobody signed it
	c := http.Client{Transport: &http.Transport{DialTLSContext: d.DialContext, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ln.Addr().String()+"/x", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != "/x" {
		t.Errorf("%q %v", b, err)
	}
	conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].VerifyHostname("pod-1"); got != nil {
		t.Error(got)
	}
}
