package e2e_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// askOver sends a request over a connection, which it closes, and returns what came back.
func askOver(c net.Conn, err error) (*http.Response, error) {
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		_ = r.Body.Close()
	}
	return r, err
}

// A workload's ports are served as its Sidecar says: by an application at a Unix socket, at another address, with TLS that
// ends at the proxy. Clients of the mesh go on with the mesh's own TLS, and in plaintext nobody gets in where TLS is asked for.
func TestSidecarIngress(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo, dir := pods[0], t.TempDir()

	socket := filepath.Join(dir, "app.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	app := &http.Server{ReadHeaderTimeout: 20 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "by the socket") })}
	go func() { _ = app.Serve(l) }()
	defer app.Close()

	outside := httptest.NewTLSServer(nil) // for its certificate, of example.com
	defer outside.Close()
	pair := outside.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "s.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "s.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	certs := fmt.Sprintf("serverCertificate: %s/s.pem, privateKey: %s/s.key", dir, dir)

	sidecar := func(ingress ...string) {
		m.Config("sidecar.yaml", "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: echo}\nspec:\n  workloadSelector: {labels: {app: echo}}\n  ingress:\n  - "+
			strings.Join(ingress, "\n  - ")+"\n")
	}
	at := func(port uint16) string { return netip.AddrPortFrom(echo.IP(), port).String() }
	trusting := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com", MinVersion: tls.VersionTLS12}
	trusting.RootCAs.AddCert(outside.Certificate())
	byTLS := func(addr string) (*http.Response, error) {
		c, err := tls.Dial("tcp", addr, trusting)
		if err != nil {
			return nil, err
		}
		return askOver(c, nil)
	}
	served := func(what string, ask func(string) (*http.Response, error), addr string) {
		t.Helper()
		m.Eventually(what, func() error {
			r, err := ask(addr)
			if err == nil && r.StatusCode != http.StatusOK {
				err = errors.New(r.Status)
			}
			return err
		})
	}
	refused := func(what string, ask func(string) (*http.Response, error), addr string) {
		t.Helper()
		m.Eventually(what, func() error {
			if r, err := ask(addr); err == nil {
				return fmt.Errorf("somebody got in: %s", r.Status)
			}
			return nil
		})
	}
	inPlaintext := func(addr string) (*http.Response, error) { return askOver(net.Dial("tcp", addr)) }

	sidecar(
		`{port: {number: 8080, protocol: HTTP, name: http}, defaultEndpoint: "unix://`+socket+`"}`,
		`{port: {number: 9000, protocol: HTTPS, name: https}, defaultEndpoint: "127.0.0.1:8080", tls: {mode: SIMPLE, `+certs+`}}`,
		`{port: {number: 9443, protocol: HTTPS, name: mutual}, captureMode: NONE, defaultEndpoint: "127.0.0.1:8080", tls: {mode: MUTUAL, `+certs+`, caCertificates: `+dir+`/s.pem}}`)
	m.Eventually("the application at the socket answers", func() error {
		if r := client.Get("http://echo:8080/"); string(r.Body) != "by the socket" {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	served("TLS ends at the proxy", byTLS, at(9000))
	refused("in plaintext nobody gets in", inPlaintext, at(9000))
	refused("without a certificate nobody gets in", byTLS, at(9443))

	other := netip.AddrPortFrom(echo.App(8080).Addr().Next().Next(), 8080)
	sidecar(fmt.Sprintf("{port: {number: 8080, protocol: HTTP, name: http}, bind: %s, captureMode: NONE}", other.Addr()))
	served("the port is served where it is bound", inPlaintext, other.String())
	refused("it is served nowhere else", inPlaintext, at(8080))
}

// An ingress whose certificate is not there is that port's trouble: nobody gets in, also where no mesh TLS would be left
// beside it, all other ports and rules are those of now, and the status of the Sidecar says which file it is.
func TestAMissingFileOfAnIngressIsOnePortsTrouble(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo := pods[0]
	m.Write("sidecar.yaml", `apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: echo}
spec:
  workloadSelector: {labels: {app: echo}}
  ingress:
  - {port: {number: 8080, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:8080"}
  - {port: {number: 9000, protocol: HTTPS, name: https}, defaultEndpoint: "127.0.0.1:8080", tls: {mode: SIMPLE, serverCertificate: /no/such/s.pem, privateKey: /no/such/s.key}}
`)
	m.Eventually("the status of the Sidecar says which proxy has not got all of it, and why", func() error {
		r, err := m.API().Receipt(t.Context(), "Sidecar", "default", "echo")
		if err != nil {
			return err
		}
		for _, missing := range r.Missing {
			if said := fmt.Sprintf("%+v", missing); strings.Contains(said, "echo-0") && strings.Contains(said, "/no/such/s.pem") {
				return nil
			}
		}
		return fmt.Errorf("%+v", r.Missing)
	})
	closed := func(why string) {
		t.Helper()
		at := netip.AddrPortFrom(echo.IP(), 9000).String()
		if r, err := askOver(net.Dial("tcp", at)); err == nil {
			t.Errorf("%s: in plaintext somebody gets in: %s", why, r.Status)
		}
		if c, err := tls.Dial("tcp", at, &tls.Config{InsecureSkipVerify: true}); err == nil {
			c.Close()
			t.Errorf("%s: somebody gets in by TLS", why)
		}
	}
	closed("beside mesh TLS")
	client.Get("http://echo:8080/").Report(t)
	m.Write("policies.yaml", documents(peerAuthentication("default", "{mtls: {mode: PERMISSIVE}, selector: {matchLabels: {app: echo}}, portLevelMtls: {9000: {mode: DISABLE}}}"),
		authorizationPolicy("deny", "{selector: {matchLabels: {app: echo}}, action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}")))
	m.Eventually("rules that came later are in force", func() error {
		if r := client.Get("http://echo:8080/secret"); r.Status != http.StatusForbidden {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	closed("alone")
	client.Get("http://echo:8080/").Report(t)
}
