package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

var (
	block = regexp.MustCompile("(?s)```(yaml|console)\n(.*?)```")
	curl  = regexp.MustCompile(`^\$ curl .*?(https?)://([^/:]+):10000(\S+)$`)
)

// The page says what happens: each bootstrap on it is run, and each command behind it asked.
func TestReverseProxyPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/reverse-proxy.md")
	if err != nil {
		t.Fatal(err)
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the application got %s %s\n", r.Method, r.URL)
	}))
	defer app.Close()
	_, port, _ := net.SplitHostPort(app.Listener.Addr().String())
	ca := tlstest.New(t)
	chain, key := tlstest.PEM(t, ca.Server("www.example.com"))
	dir := t.TempDir()
	for name, content := range map[string][]byte{"cert.pem": chain, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	blocks := block.FindAllStringSubmatch(string(page), -1)
	for i := 0; i+1 < len(blocks); i += 2 { // a bootstrap, and what to do with it
		t.Run(fmt.Sprint(i/2), func(t *testing.T) {
			text := strings.ReplaceAll(blocks[i][2], "%", "%%")
			text = strings.ReplaceAll(text, "address: 127.0.0.1, port_value: 10000", "address: %s, port_value: 10080")
			text = strings.ReplaceAll(text, "port_value: 9000", "port_value: "+port)
			for _, f := range []string{"cert.pem", "key.pem"} {
				text = strings.ReplaceAll(text, "filename: "+f, "filename: "+filepath.Join(dir, f))
			}
			p := startProgram(t, text, "--log-level", "error") // who looks whether it listens says nothing, which may be warned of
			lines := strings.Split(strings.TrimSuffix(blocks[i+1][2], "\n"), "\n")
			for j := 0; j+1 < len(lines); j += 2 {
				m := curl.FindStringSubmatch(lines[j])
				if m == nil {
					t.Fatalf("%q is not understood", lines[j])
				}
				if got := ask(t, p.addr, ca.Pool(), m[1]+"://"+m[2]+":10000"+m[3]); got != lines[j+1] {
					t.Errorf("%s\n%s\nwant %s", lines[j], got, lines[j+1])
				}
				asked++
			}
		})
	}
	if asked < 10 {
		t.Errorf("the page has %d commands", asked)
	}
}

// ask asks a proxy that is elsewhere than the page says.
func ask(t *testing.T, addr string, roots *x509.CertPool, url string) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(b), "\n")
}
