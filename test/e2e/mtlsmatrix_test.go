package e2e_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/identity"
)

// serverMode is what a PeerAuthentication says of the ports of echo.
type serverMode struct {
	name, policy string
	http, tcp    string // "": nothing
}

// serverModes are those of the namespace, and of one port in a namespace that says something else.
func serverModes() []serverMode {
	out := []serverMode{{name: "without a policy", policy: "[]"}}
	for _, mode := range []string{"PERMISSIVE", "STRICT", "DISABLE"} {
		out = append(out, serverMode{mode, peerAuthentication("default", "{mtls: {mode: "+mode+"}}"), mode, mode})
	}
	for _, x := range [][2]string{{"STRICT", "DISABLE"}, {"DISABLE", "STRICT"}, {"PERMISSIVE", "STRICT"}, {"STRICT", "PERMISSIVE"}} {
		out = append(out, serverMode{x[0] + " at port 8080, else " + x[1], documents(peerAuthentication("default", "{mtls: {mode: "+x[1]+"}}"),
			peerAuthentication("echo", "{selector: {matchLabels: {app: echo}}, portLevelMtls: {8080: {mode: "+x[0]+"}}}")), x[0], x[1]})
	}
	return out
}

// What a server accepts, what a DestinationRule asks of the client, and where in the rule that stands:
// in no combination does one end speak TLS and the other not. No call fails, but for those to a port without HTTP that takes no mTLS
// (DISABLE) where the rule demands the mesh's (ISTIO_MUTUAL): they are refused (destination_refused).
func TestNoCombinationOfModesContradictsItself(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	kinds := map[string]string{
		"top level":    "{host: echo, trafficPolicy: {tls: {mode: %s}}}",
		"whole name":   "{host: echo.default.svc.cluster.local, trafficPolicy: {tls: {mode: %s}}}",
		"subset":       "{host: echo, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: %s}}}]}",
		"port":         "{host: echo, trafficPolicy: {portLevelSettings: [{port: {number: 8080}, tls: {mode: %s}}]}}",
		"wildcard":     `{host: "*.default.svc.cluster.local", trafficPolicy: {tls: {mode: %s}}}`,
		"all wildcard": `{host: "*.local", trafficPolicy: {tls: {mode: %s}}}`,
		"no rule":      "{host: nobody, trafficPolicy: {tls: {mode: %s}}}",
		"no tls":       "{host: echo, trafficPolicy: {loadBalancer: {simple: RANDOM}}} # %s",
	}
	toSubset := virtualService("echo", "{hosts: [echo], http: [{route: [{destination: {host: echo, subset: v1}}]}]}")
	for _, server := range serverModes() {
		m.Config("policy.yaml", server.policy)
		for kind, spec := range kinds {
			for _, mode := range []string{"DISABLE", "ISTIO_MUTUAL"} {
				text := destinationRule("echo", fmt.Sprintf(spec, mode))
				if kind == "subset" {
					text = documents(text, toSubset)
				}
				m.Config("rule.yaml", text)
				at := fmt.Sprintf("server %s, client %s in %s", server.name, mode, kind)
				asks := kind != "no tls" && kind != "no rule"
				r := client.Get("http://echo:8080/")
				if r.Err != nil || r.Status != http.StatusOK {
					t.Errorf("%s: %v", at, r)
					continue
				}
				// Plaintext where the server asks for none and the rule does not ask for mutual TLS, or where the
				// server admits plaintext and the rule asks for it. A port that is set to DISABLE still
				// knows the mesh's TLS: a rule can raise what is spoken.
				want := client.ID()
				if mutual := asks && mode == "ISTIO_MUTUAL"; server.http == "DISABLE" && !mutual || asks && mode == "DISABLE" && server.http != "STRICT" {
					want = ""
				}
				if got := r.Report(t).Identity; got != want {
					t.Errorf("%s: the request came as %q, want %q", at, got, want)
				}
				// Subsets and ports of rules are not about the other port. It does not look for TLS where the server
				// asks for none, because servers that speak first are served there: a rule that demands TLS nevertheless gets
				// no connection, which the client's proxy explains, and a finding: neither plaintext nor a ClientHello to the
				// application.
				contradicts := asks && mode == "ISTIO_MUTUAL" && server.tcp == "DISABLE" && kind != "subset" && kind != "port"
				got, err := exchangeWith(func(ctx context.Context) (net.Conn, error) { return client.Dial(ctx, "echo:9000") }, "hi\n")
				if (got == "hi\n") == contradicts {
					t.Errorf("%s: TCP answered %q, %v", at, got, err)
				}
				if contradicts {
					client.AccessLog("destination_refused{DestinationRule:default/echo:against:PeerAuthentication:default/default}")
				}
				if contradicts && !slices.ContainsFunc(m.Findings(), func(f apiv1.Finding) bool {
					return f.Name == "echo" && strings.Contains(f.Message, "accepts no mesh mTLS (DISABLE)")
				}) {
					t.Errorf("%s: no finding says so: %+v", at, m.Findings())
				}
			}
		}
		m.Remove("rule.yaml")
	}
}

// Rules may ask for TLS that is the application's own (SIMPLE, MUTUAL): it reaches the application, with the certificate that was asked for, wherever
// the port takes more than the mesh's; where only that is taken (STRICT) nothing reaches it, the caller is told why, and so is the operator.
func TestTLSOfApplicationsInEveryCombination(t *testing.T) {
	t.Parallel()
	pod := echoPod("echo-0", "v1")
	pod.Program = nil
	m, client, pods := echoMesh(t, nil, pod)
	held := foreign(t, "applications.example")
	dir := t.TempDir()
	key, err := identity.EncodeKey(held.PrivateKey.(crypto.Signer))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "key.pem"), key.Reveal(), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: held.Certificate[0]}), 0o600))
	l, err := tls.Listen("tcp", pods[0].App(8080).String(), &tls.Config{Certificates: []tls.Certificate{*held}, ClientAuth: tls.RequestClientCert})
	must(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%d certificates", len(r.TLS.PeerCertificates))
	})}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { server.Close() })
	raw, err := tls.Listen("tcp", pods[0].App(9000).String(), &tls.Config{Certificates: []tls.Certificate{*held}, ClientAuth: tls.RequestClientCert})
	must(t, err)
	t.Cleanup(func() { raw.Close() })
	go func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
					fmt.Fprintf(c, "%d certificates\n", len(c.(*tls.Conn).ConnectionState().PeerCertificates))
				}
			}()
		}
	}()

	kinds := map[string]string{
		"top level": "{host: echo, trafficPolicy: {tls: {%s}}}",
		"subset":    "{host: echo, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {%s}}}]}",
		"port":      "{host: echo, trafficPolicy: {portLevelSettings: [{port: {number: 8080}, tls: {%s}}]}}",
		"wildcard":  `{host: "*.default.svc.cluster.local", trafficPolicy: {tls: {%s}}}`,
	}
	modes := map[string]string{
		"SIMPLE": "mode: SIMPLE, insecureSkipVerify: true",
		"MUTUAL": "mode: MUTUAL, insecureSkipVerify: true, clientCertificate: " + dir + "/cert.pem, privateKey: " + dir + "/key.pem",
	}
	toSubset := virtualService("echo", "{hosts: [echo], http: [{route: [{destination: {host: echo, subset: v1}}]}]}")
	for _, s := range serverModes() {
		m.Config("policy.yaml", s.policy)
		for kind, spec := range kinds {
			for mode, settings := range modes {
				text := destinationRule("echo", fmt.Sprintf(spec, settings))
				if kind == "subset" {
					text = documents(text, toSubset)
				}
				m.Config("rule.yaml", text)
				at := fmt.Sprintf("server %s, client %s in %s", s.name, mode, kind)
				want := map[string]string{"SIMPLE": "0 certificates", "MUTUAL": "1 certificates"}[mode]
				// The rule's port, and the route to its subset, are those of HTTP: TCP is spoken to as by itself, in the mesh's TLS where the server takes
				// it, of which the application's server understands nothing, and neither of plaintext.
				if kind != "subset" && kind != "port" {
					got, err := exchangeWith(dialer(client, "echo:9000"), "hi\n")
					if s.tcp == "STRICT" && err == nil || s.tcp != "STRICT" && (err != nil || got != want+"\n") {
						t.Errorf("%s: TCP is answered %q, %v", at, got, err)
					}
				}
				r := client.Get("http://echo:8080/")
				if s.http == "STRICT" {
					if r.Err != nil || r.Status != http.StatusServiceUnavailable {
						t.Errorf("%s: %v", at, r)
					}
					if !slices.ContainsFunc(m.Findings(), func(f apiv1.Finding) bool {
						return f.Name == "echo" && strings.Contains(f.Message, "speak "+mode+", but PeerAuthentication default/") && strings.Contains(f.Message, "accepts only mesh mTLS (STRICT)")
					}) {
						t.Errorf("%s: no finding says so: %+v", at, m.Findings())
					}
					continue
				}
				if r.Err != nil || r.Status != http.StatusOK || string(r.Body) != want {
					t.Errorf("%s: %v, want %s", at, r, want)
				}
			}
		}
		m.Remove("rule.yaml") // and with it connections that were let in by what was said before, which end when the listener has drained
	}
}

// Others' programs accept what this mesh shows and are accepted with what it signed: openssl, and a
// client of go-spiffe. What is forged, of another trust domain or for somebody else they refuse.
func TestOthersAcceptOurCertificates(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*control.Options){"ECDSA": nil, "RSA": pluggedRSA(t)} {
		t.Run(name, func(t *testing.T) { othersAccept(t, change) })
	}
}

// pluggedRSA plugs in an authority with an RSA key, below a root with one.
func pluggedRSA(t *testing.T) func(*control.Options) {
	t.Helper()
	key := func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		return k
	}
	signed := func(name string, serial int64, by *x509.Certificate, key, with *rsa.PrivateKey) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		if by == nil {
			by = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
		must(t, err)
		c, err = x509.ParseCertificate(der)
		must(t, err)
		return c
	}
	rootKey, caKey := key(), key()
	root := signed("Root", 1, nil, rootKey, rootKey)
	authority := signed("Authority", 2, root, caKey, rootKey)
	private, err := identity.EncodeKey(caKey)
	must(t, err)
	return func(o *control.Options) {
		o.CA = filepath.Join(o.State, "ca") // where a mesh of tests finds its root
		must(t, os.MkdirAll(o.CA, 0o700))
		for name, text := range map[string][]byte{"ca-key.pem": private.Reveal(), "ca-cert.pem": identity.EncodeCertificates(authority), "cert-chain.pem": identity.EncodeCertificates(authority), "root-cert.pem": identity.EncodeCertificates(root)} {
			must(t, os.WriteFile(filepath.Join(o.CA, name), text, 0o600))
		}
	}
}

func othersAccept(t *testing.T, change func(*control.Options)) {
	m, client, pods := echoMesh(t, change, echoPod("echo-0", "v1"))
	echo := pods[0]
	if r := client.Get("http://echo:8080/"); r.Err != nil || r.Status != http.StatusOK {
		t.Errorf("from proxy to proxy: %v", r)
	}
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	ours := m.Certificate("default", "client")
	roots, err := m.Roots()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("%s:8080", echo.IP())

	t.Run("openssl", func(t *testing.T) {
		program, err := exec.LookPath("openssl")
		if err != nil && os.Getenv("WEIR_OPENSSL") == "require" {
			t.Fatal(err)
		}
		if err != nil {
			t.Skip("openssl is not installed")
		}
		dir := t.TempDir()
		chain, key, ca := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "roots.pem")
		private, err := identity.EncodeKey(ours.PrivateKey.(crypto.Signer))
		if err != nil {
			t.Fatal(err)
		}
		var text []byte
		for _, der := range ours.Certificate {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		for path, content := range map[string][]byte{chain: text, key: private.Reveal(), ca: roots.PEM()} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run := func(stdin string, args ...string) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.Stdin = strings.NewReader(stdin)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		if out, err := run("", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", ca, "-untrusted", chain, chain); err != nil {
			t.Errorf("openssl verify: %v\n%s", err, out)
		}
		request := "GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n"
		connect := []string{"s_client", "-connect", address, "-CAfile", ca, "-verify_return_error", "-alpn", "istio-http/1.1,istio", "-ign_eof"}
		out, err := run(request, append(connect, "-cert", chain, "-cert_chain", chain, "-key", key)...)
		if err != nil || !strings.Contains(out, "Verify return code: 0 (ok)") || !strings.Contains(out, "200 OK") {
			t.Errorf("openssl s_client: %v\n%s", err, out)
		}
		if out, err := run(request, connect...); err == nil && strings.Contains(out, "200 OK") {
			t.Errorf("without a certificate openssl is answered:\n%s", out)
		}
	})

	t.Run("go-spiffe", func(t *testing.T) {
		domain := spiffeid.RequireTrustDomainFromString("cluster.local")
		// What pods and machines are given as a file.
		bundle, err := x509bundle.Parse(domain, roots.PEM())
		if err != nil || len(bundle.X509Authorities()) != len(roots.Roots()) {
			t.Fatalf("our bundle is read as %v, %v", bundle, err)
		}
		svid := func(cert *tls.Certificate) *x509svid.SVID {
			var chain []*x509.Certificate
			for _, der := range cert.Certificate {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				chain = append(chain, c)
			}
			id, err := x509svid.IDFromCert(chain[0])
			if err != nil {
				t.Fatal(err)
			}
			return &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: cert.PrivateKey.(crypto.Signer)}
		}
		if _, _, err := x509svid.Verify(svid(ours).Certificates, bundle); err != nil {
			t.Errorf("our certificate is refused: %v", err)
		}
		for name, cert := range map[string]*tls.Certificate{"another authority's": foreign(t, "cluster.local"), "another domain's": foreign(t, "other.domain")} {
			if _, _, err := x509svid.Verify(svid(cert).Certificates, bundle); err == nil {
				t.Errorf("%s certificate is accepted", name)
			}
		}
		get := func(authorize tlsconfig.Authorizer) (int, error) {
			config := tlsconfig.MTLSClientConfig(svid(ours), bundle, authorize)
			config.NextProtos = []string{"istio-http/1.1", "istio"}
			c := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}
			r, err := c.Get("https://" + address + "/")
			if err != nil {
				return 0, err
			}
			return r.StatusCode, r.Body.Close()
		}
		if code, err := get(tlsconfig.AuthorizeID(spiffeid.RequireFromString(echo.ID()))); err != nil || code != http.StatusOK {
			t.Errorf("the right server: %d, %v", code, err)
		}
		if _, err := get(tlsconfig.AuthorizeID(spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/somebody-else"))); err == nil {
			t.Error("another server than expected is accepted")
		}
	})
}
