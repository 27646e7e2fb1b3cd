package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/test/mesh"
)

const secret = "the-secret-that-must-not-be-seen"

// What passes between two sidecars is TLS 1.3 and nothing else, for HTTP and for TCP, with
// Istio's names; each side knows who the other is.
func TestOnlyTLS13WithSPIFFECertificatesIsOnTheWire(t *testing.T) {
	t.Parallel()
	pod := echoPod("echo-0", "v1")
	pod.Tap = true
	m, client, pods := echoMesh(t, nil, pod)
	echo := pods[0]

	report := client.Do(http.MethodPost, "http://echo:8080/"+secret, []byte(secret), "x-secret: "+secret).Report(t)
	if report.Identity != client.ID() || report.Clients[0].By != echo.ID() {
		t.Errorf("the server was told of %+v", report.Clients)
	}
	if got := exchange(t, client, "echo:9000", secret+"\n"); got != secret+"\n" {
		t.Errorf("TCP answered %q", got)
	}

	for port, want := range map[uint16][]string{8080: {"istio-http/1.1", "istio", "http/1.1"}, 9000: {"istio-peer-exchange", "istio"}} {
		flows := echo.Wire(port).Flows()
		if len(flows) == 0 {
			t.Fatalf("nothing passed to port %d", port)
		}
		for _, f := range flows {
			hello, version := handshake(t, f)
			if version != tls.VersionTLS13 {
				t.Errorf("port %d: the server chose %s", port, tls.VersionName(version))
			}
			if sni := fmt.Sprintf("outbound_.%d_._.echo.default.svc.cluster.local", port); hello.ServerName != sni {
				t.Errorf("port %d: SNI %q, want %q", port, hello.ServerName, sni)
			}
			if !slices.Equal(hello.SupportedProtos, want) {
				t.Errorf("port %d: ALPN %q, want %q", port, hello.SupportedProtos, want)
			}
			for _, b := range [][]byte{f.Sent(), f.Received()} {
				if bytes.Contains(b, []byte(secret)) {
					t.Errorf("port %d: the secret is on the wire", port)
				}
			}
		}
	}

	// The certificate is encrypted in TLS 1.3; a peer sees it.
	c := dialTLS(t, echo, 8080, m.Certificate("default", "client"), "istio-http/1.1")
	defer c.Close()
	state := c.ConnectionState()
	leaf := state.PeerCertificates[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != echo.ID() || state.Version != tls.VersionTLS13 {
		t.Errorf("the server showed %v in %s", leaf.URIs, tls.VersionName(state.Version))
	}
	if key := fmt.Sprintf("%v", leaf.PublicKeyAlgorithm); key != "ECDSA" {
		t.Errorf("the server's key is %s", key)
	}
}

func TestPermissiveTakesPlaintextStrictRefusesIt(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo := pods[0]
	outside := client.Outside()

	inside := func(what string) {
		t.Helper()
		r := client.Get("http://echo:8080/").Report(t)
		if r.Identity != client.ID() {
			t.Errorf("%s: the mesh's request came as %q", what, r.Identity)
		}
		if got := exchange(t, client, "echo:9000", "hi\n"); got != "hi\n" {
			t.Errorf("%s: TCP through the mesh answered %q", what, got)
		}
	}
	plain := func(what string, http, tcp bool) {
		t.Helper()
		r := mesh.Do(outside, "GET", echo.At(8080), nil)
		if (r.Err == nil) != http || http && r.Report(t).Identity != "" {
			t.Errorf("%s: plaintext HTTP got %v", what, r)
		}
		got, err := exchangeWith(func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("%s:9000", echo.IP()))
		}, "hi\n")
		if (got == "hi\n") != tcp {
			t.Errorf("%s: plaintext TCP got %q, %v", what, got, err)
		}
	}
	inside("no policy")
	plain("no policy", true, true)

	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	inside("strict")
	plain("strict", false, false)
	echo.AccessLog(`"- - -" 0 NR filter_chain_not_found`)

	m.Config("policy.yaml", documents(peerAuthentication("default", "{mtls: {mode: STRICT}}"),
		peerAuthentication("echo", "{selector: {matchLabels: {app: echo}}, portLevelMtls: {9000: {mode: PERMISSIVE}}}")))
	inside("port 9000 is permissive")
	plain("port 9000 is permissive", false, true)

	m.Config("policy.yaml", documents(peerAuthentication("default", "{mtls: {mode: STRICT}}"),
		peerAuthentication("echo", "{selector: {matchLabels: {app: echo}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {8080: {mode: STRICT}}}")))
	inside("port 8080 is strict")
	plain("port 8080 is strict", false, true)

	m.Remove("policy.yaml")
	plain("the policy is gone", true, true)
}

// Security objects with errors that were never in force open nothing: a client is not let
// through with less than its DestinationRule asks for, a server not called by whom its
// PeerAuthentication may refuse. Others go on.
func TestErrorsDoNotOpenAnything(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {portLevelSettings: [{port: {number: 8080}, tls: {mode: MUTUAL}}]}}"))
	r := client.Get("http://echo:8080/")
	if r.Status != http.StatusServiceUnavailable || !strings.Contains(string(r.Body), "DestinationRule default/echo") {
		t.Errorf("the destination that cannot be secured: %v", r)
	}
	client.AccessLog("503 UH destination_refused{DestinationRule:default/echo}")
	if got := exchange(t, client, "echo:9000", "hi\n"); got != "hi\n" {
		t.Errorf("another port: %q", got)
	}
	if !slices.ContainsFunc(m.Findings(), func(f apiv1.Finding) bool { return f.Code == "WEIR0013" && f.Name == "echo" }) {
		t.Errorf("findings: %+v", m.Findings())
	}

	m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"))
	if r := client.Get("http://echo:8080/"); r.Status != http.StatusOK {
		t.Errorf("after the repair: %v", r)
	}

	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: strict}}"))
	if r := client.Get("http://echo:8080/"); r.Status != http.StatusOK {
		t.Errorf("inside the mesh, with a policy that cannot be read: %v", r)
	}
	if r := mesh.Do(client.Outside(), "GET", pods[0].At(8080), nil); r.Err == nil {
		t.Errorf("plaintext, with a policy that cannot be read: %v", r)
	}
}

func TestDisableIsPlaintextEvenInsideTheMesh(t *testing.T) {
	t.Parallel()
	pod := echoPod("echo-0", "v1")
	pod.Tap = true
	m, client, pods := echoMesh(t, nil, pod)
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: DISABLE}}"))
	if r := client.Get("http://echo:8080/" + secret).Report(t); r.Identity != "" {
		t.Errorf("the request came as %q", r.Identity)
	}
	flows := pods[0].Wire(8080).Flows()
	if !bytes.Contains(flows[len(flows)-1].Sent(), []byte("GET /"+secret)) {
		t.Error("the request is not on the wire in plaintext")
	}
	// TLS is the application's business, which speaks none; the mesh's is for peers that have not heard of the change yet.
	c, err := tls.Dial("tcp", fmt.Sprintf("%s:8080", pods[0].IP()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err == nil {
		c.Close()
		t.Error("TLS was accepted")
	}
}

// A DestinationRule written for other times cannot break a destination that demands TLS.
func TestMutualTLSCannotContradictItself(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	for _, mode := range []string{"DISABLE", "ISTIO_MUTUAL"} {
		m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {tls: {mode: "+mode+"}}}"))
		if r := client.Get("http://echo:8080/").Report(t); r.Identity != client.ID() {
			t.Errorf("mode %s: the request came as %q", mode, r.Identity)
		}
	}
}

func TestAWorkloadWithoutProxyIsCalledInPlaintextUnlessMutualTLSIsDemanded(t *testing.T) {
	t.Parallel()
	pod := echoPod("echo-0", "v1")
	pod.NoProxy = true
	m, client, _ := echoMesh(t, nil, pod)
	if r := client.Get("http://echo:8080/").Report(t); r.Identity != "" {
		t.Errorf("the request came as %q", r.Identity)
	}
	m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"))
	r := client.Get("http://echo:8080/", "x-request-id: demanded")
	if r.Status != http.StatusServiceUnavailable {
		t.Fatal(r)
	}
	line := client.AccessLog("demanded")[0]
	if !strings.Contains(line, "503 UF") || !strings.Contains(line, "TLS") {
		t.Errorf("the log does not say why: %s", line)
	}
}

// Every change of policy, in whatever order proxies hear of it, is without a failed request: changes
// that are waited for, and changes so close together that proxies hear of them late, in part, and one of them
// when the other is two ahead. Callers come by themselves and go; some keep their connections.
func TestFlippingPoliciesUnderLoadFailsNothing(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"), echoPod("echo-1", "v1"))
	load := startLoad(t, client, 4, "http://echo:8080/")
	for i := range 12 {
		mode := []string{"STRICT", "PERMISSIVE", "DISABLE"}[i%3]
		m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: "+mode+"}}"))
		if mode == "DISABLE" { // STRICT from here would refuse what is under way in plaintext
			m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: PERMISSIVE}}"))
		}
	}
	load.noneFailed(t, "flips that are waited for")
	const flips = 100
	for i := range flips {
		m.Write("policy.yaml", peerAuthentication("default", "{mtls: {mode: "+[]string{"STRICT", "PERMISSIVE"}[i%2]+"}}"))
		load.await(int64(1 + i%7*3)) // some change meanwhile, some right behind another
		if i%10 == 9 {
			m.Settle()
		}
	}
	m.Settle()
	load.stop(t)
}

// Whoever calls in plaintext stands in the ledger of the port, by name if it has a proxy, and
// stands against STRICT; others do not.
func TestPlaintextCallersAreKnown(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	port := func(number uint16) (x apiv1.MTLSPort, err error) {
		v, err := m.API().MTLS(t.Context(), "default", "", 24*time.Hour, false)
		if err != nil {
			return x, err
		}
		i := slices.IndexFunc(v.Ports, func(p apiv1.MTLSPort) bool { return strings.HasPrefix(p.Workload, "echo") && p.Port == number })
		if i < 0 {
			return x, fmt.Errorf("port %d is not in %+v", number, v.Ports)
		}
		return v.Ports[i], nil
	}
	await := func(what string, number uint16, ok func(apiv1.MTLSPort) bool) {
		t.Helper()
		m.Eventually(what, func() error {
			x, err := port(number)
			if err == nil && !ok(x) {
				err = fmt.Errorf("%+v", x)
			}
			return err
		})
	}
	client.Get("http://echo:8080/").Report(t)
	await("a call by mutual TLS", 8080, func(x apiv1.MTLSPort) bool {
		return x.Mode == "PERMISSIVE" && !x.LastTLS.IsZero() && len(x.Callers) == 0
	})
	if r := mesh.Do(client.Outside(), "GET", pods[0].At(8080), nil); r.Err != nil {
		t.Fatal(r.Err)
	}
	await("a stranger in plaintext", 8080, func(x apiv1.MTLSPort) bool {
		return len(x.Callers) == 1 && x.Callers[0].Workload == "" && !x.Ready && strings.Contains(x.Blockers[0], "somebody without a proxy")
	})
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	await("the mode", 8080, func(x apiv1.MTLSPort) bool { return x.Mode == "STRICT" && len(x.Policies) == 1 })
}

func TestACertificateOfAnotherAuthorityIsRefusedByName(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo := pods[0]
	for name, cert := range map[string]*tls.Certificate{
		"another mesh's":          foreign(t, "cluster.local"),
		"another trust domain's":  foreign(t, "other.example"),
		"no certificate at all":   nil,
		"a self-made certificate": selfMade(t),
	} {
		if err := tryTLS(t, echo, cert); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	lines := echo.AccessLog("downstream_tls_failure{peer_refused}")
	if len(lines) < 1 {
		t.Errorf("lines: %q", lines)
	}
	if err := tryTLS(t, echo, m.Certificate("default", "anybody")); err != nil {
		t.Errorf("a certificate of this mesh: %v", err)
	}
	_ = client
}

// What the authority's own key has signed is refused, too, if it is not a certificate of a workload of this mesh within its time;
// the proxy records the reason, who shows it is told nothing.
func TestForgedCertificatesAreRefusedWithTheirReason(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*control.Options){"ECDSA": nil, "RSA": pluggedRSA(t)} {
		t.Run(name+" authority", func(t *testing.T) { forgedAreRefused(t, change) })
	}
}

func forgedAreRefused(t *testing.T, change func(*control.Options)) {
	t.Parallel()
	m, _, pods := echoMesh(t, change, echoPod("echo-0", "v1"))
	good := m.Certificate("default", "anybody")
	named := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, n := range names {
				u, err := url.Parse(n)
				must(t, err)
				c.URIs = append(c.URIs, u)
			}
		}
	}
	const workload = "spiffe://cluster.local/ns/default/sa/anybody"
	type spoilt struct {
		spoil  func(*x509.Certificate)
		reason string
	}
	forgeries := map[string]spoilt{
		"expired": {func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(-48*time.Hour), c.NotAfter.Add(-48*time.Hour)
		}, "expired"},
		"not yet valid":        {func(c *x509.Certificate) { c.NotBefore = c.NotAfter.Add(-time.Minute) }, "becomes valid in"},
		"of another domain":    {named("spiffe://other.domain/ns/default/sa/anybody"), "presented spiffe://other.domain/ns/default/sa/anybody, expected"},
		"of a longer domain":   {named("spiffe://cluster.local.evil/ns/default/sa/anybody"), "presented spiffe://cluster.local.evil/ns/default/sa/anybody, expected"},
		"of two names":         {named(workload, "spiffe://cluster.local/ns/default/sa/client"), "2 URI names"},
		"of no name":           {named(), "no URI name"},
		"with DNS names alone": {func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"echo.default.svc.cluster.local"} }, "no URI name"},
		"of another form":      {named("spiffe://cluster.local/anybody"), "want the form"},
		"of an authority":      {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, "certificate authority"},
		"that may sign":        {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "may sign"},
		"for servers alone":    {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "may not be used by a TLS client"},
		"for e-mail":           {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }, "may not be used by a TLS client"},
		"with an unknown demand": {func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, "unhandled critical extension"},
	}
	refused := func(good *tls.Certificate, name string, c spoilt) {
		t.Helper()
		forged := m.Forge(good, c.spoil)
		err := tryTLS(t, pods[0], forged)
		if err == nil {
			t.Errorf("a certificate %s is accepted", name)
			return
		}
		if strings.Contains(err.Error(), c.reason) {
			t.Errorf("who shows a certificate %s is told: %v", name, err)
		}
		m.Eventually("it is recorded why a certificate "+name+" is refused", func() error {
			last := string(pods[0].Admin(http.MethodGet, "/why?last=1").Body)
			if strings.Contains(last, c.reason) {
				return nil
			}
			_ = tryTLS(t, pods[0], forged) // a few a second are recorded: strangers do not fill the memory
			return fmt.Errorf("no %q in %s", c.reason, last)
		})
	}
	// Workloads may show keys of each kind that the authority certifies.
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for kind, key := range map[string]crypto.Signer{"a P-256": good.PrivateKey.(crypto.Signer), "an RSA": rsaKey, "a P-384": p384, "an Ed25519": edKey} {
		own := *good
		own.PrivateKey = key
		if err := tryTLS(t, pods[0], m.Forge(&own, func(*x509.Certificate) {})); err != nil {
			t.Errorf("as the authority would have signed it for %s key: %v", kind, err)
		}
		for _, name := range []string{"expired", "of another domain", "of an authority", "for servers alone"} {
			refused(&own, name+" for "+kind+" key", forgeries[name])
		}
		// Who has a certificate has no key of it.
		stolen := m.Forge(&own, func(*x509.Certificate) {})
		if stolen.PrivateKey = good.PrivateKey; kind == "a P-256" {
			stolen.PrivateKey = p384
		}
		if err := tryTLS(t, pods[0], stolen); err == nil {
			t.Errorf("the certificate for %s key is accepted from who has another", kind)
		}
	}
	for name, c := range forgeries {
		refused(good, name, c)
	}
}

// A server that is not who the registry says is not talked to.
func TestAServerWithAnotherIdentityIsNotTalkedTo(t *testing.T) {
	t.Parallel()
	pod := echoPod("echo-0", "v1")
	pod.Pod = func(p *corev1.Pod) { p.Spec.ServiceAccountName = "somebody" }
	_, client, _ := echoMesh(t, nil, pod)
	r := client.Get("http://echo:8080/", "x-request-id: impostor")
	if r.Status != http.StatusServiceUnavailable {
		t.Fatal(r)
	}
	line := client.AccessLog("impostor")[0]
	for _, want := range []string{"503 UF,URX upstream_reset_before_response_started{remote_connection_failure|", "spiffe://cluster.local/ns/default/sa/echo", "sa/somebody"} {
		if !strings.Contains(line, want) {
			t.Errorf("the log has no %q: %s", want, line)
		}
	}
}

// exchange sends a line over TCP as a workload's program and returns the answer.
func exchange(t *testing.T, w *mesh.Workload, target, line string) string {
	t.Helper()
	got, err := exchangeWith(dialer(w, target), line)
	if err != nil {
		t.Errorf("TCP to %s: %v", target, err)
	}
	return got
}

func exchangeWith(dial func(context.Context) (net.Conn, error), line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if _, err := io.WriteString(c, line); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

// handshake reads what a TLS handshake shows to everybody.
func handshake(t *testing.T, f *mesh.Flow) (hello tls.ClientHelloInfo, version uint16) {
	t.Helper()
	stop := errors.New("seen enough")
	s := tls.Server(replay{bytes.NewReader(f.Sent())}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hello = *h
		return nil, stop
	}})
	if err := s.Handshake(); !errors.Is(err, stop) {
		t.Fatalf("not a ClientHello: %v", err)
	}
	return hello, serverVersion(t, f.Received())
}

// replay is a connection from which recorded bytes come.
type replay struct{ *bytes.Reader }

func (replay) Write(p []byte) (int, error)      { return len(p), nil }
func (replay) Close() error                     { return nil }
func (replay) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (replay) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (replay) SetDeadline(time.Time) error      { return nil }
func (replay) SetReadDeadline(time.Time) error  { return nil }
func (replay) SetWriteDeadline(time.Time) error { return nil }

// serverVersion checks that b is TLS records only and returns the version that the
// ServerHello has chosen (RFC 8446, 4.1.3 and 4.2.1: extension supported_versions).
func serverVersion(t *testing.T, b []byte) uint16 {
	t.Helper()
	const recordHandshake, recordChangeCipher, recordData, serverHello, supportedVersions = 22, 20, 23, 2, 43
	first := b
	for rest := b; len(rest) > 0; {
		if len(rest) < 5 || rest[0] != recordHandshake && rest[0] != recordChangeCipher && rest[0] != recordData {
			t.Fatalf("not a TLS record: % x", rest[:min(len(rest), 16)])
		}
		n := 5 + int(binary.BigEndian.Uint16(rest[3:]))
		rest = rest[min(n, len(rest)):]
	}
	if len(first) < 5+4+2+32+1 || first[0] != recordHandshake || first[5] != serverHello {
		t.Fatalf("not a ServerHello: % x", first[:min(len(first), 16)])
	}
	body := first[9:]
	body = body[2+32:]
	body = body[1+int(body[0]):] // legacy_session_id_echo
	body = body[2+1+2:]          // cipher_suite, legacy_compression_method, length of the extensions
	for len(body) >= 4 {
		kind, n := binary.BigEndian.Uint16(body), int(binary.BigEndian.Uint16(body[2:]))
		if kind == supportedVersions {
			return binary.BigEndian.Uint16(body[4:])
		}
		body = body[4+n:]
	}
	return tls.VersionTLS12
}

// dialTLS connects to a workload's proxy as another proxy would.
func dialTLS(t *testing.T, w *mesh.Workload, port uint16, cert *tls.Certificate, alpn ...string) *tls.Conn {
	t.Helper()
	o := &tls.Config{InsecureSkipVerify: true, NextProtos: alpn, MinVersion: tls.VersionTLS12}
	if cert != nil {
		o.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	c, err := tls.Dial("tcp", fmt.Sprintf("%s:%d", w.IP(), port), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tryTLS sends a request with a certificate. A refusal comes, in TLS 1.3, after the
// client's part of the handshake.
func tryTLS(t *testing.T, w *mesh.Workload, cert *tls.Certificate) error {
	t.Helper()
	c := dialTLS(t, w, 8080, cert, "istio-http/1.1", "istio")
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

// foreign is a certificate of the right shape from an authority of its own.
func foreign(t *testing.T, trustDomain string) *tls.Certificate {
	t.Helper()
	authority, err := ca.OpenSelfSigned(t.TempDir(), trustDomain, ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	id := identity.ID{TrustDomain: trustDomain, Namespace: "default", ServiceAccount: "client"}
	m, err := identity.NewManager(identity.Options{ID: id, Signer: authority.Signer(ca.Grant{ID: id}), Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	held, changed := m.Watch()
	for held == nil {
		<-changed
		held, changed = m.Watch()
	}
	cancel()
	<-done
	return m.Certificate()
}

// selfMade is a certificate that nobody signed but its owner.
func selfMade(t *testing.T) *tls.Certificate {
	t.Helper()
	cert := foreign(t, "cluster.local")
	return &tls.Certificate{Certificate: [][]byte{selfSign(t, cert)}, PrivateKey: cert.PrivateKey}
}

func selfSign(t *testing.T, cert *tls.Certificate) []byte {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(nil, leaf, leaf, leaf.PublicKey, cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Trust domains with roots of their own: whoever such a root vouches for is let in, as somebody of that domain and of no other,
// and the mesh's own root makes nobody of theirs.
func TestTrustBundlesPerTrustDomain(t *testing.T) {
	t.Parallel()
	m, _, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	open := func(domain string) *ca.Authority {
		a, err := ca.OpenSelfSigned(t.TempDir(), domain, ca.Options{})
		must(t, err)
		return a
	}
	partner, other := open("partner.example"), open("other.example")
	of := func(a *ca.Authority, domain string) *tls.Certificate {
		got, err := a.Issue(ca.Grant{ID: identity.ID{TrustDomain: domain, Namespace: "default", ServiceAccount: "client"}})
		must(t, err)
		return got.Certificate()
	}
	ours := m.Forge(m.Certificate("default", "client"), func(c *x509.Certificate) {
		c.URIs[0].Host = "partner.example"
	})
	if err := tryTLS(t, pods[0], of(partner, "partner.example")); err == nil {
		t.Error("somebody of a trust domain without roots is let in")
	}
	indent := func(a *ca.Authority) string {
		return strings.ReplaceAll("\n"+strings.TrimSpace(string(a.Bundle().PEM())), "\n", "\n        ")
	}
	m.Config("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    caCertificates:\n"+
		"    - trustDomains: [partner.example]\n      pem: |"+indent(partner)+"\n    - trustDomains: [other.example]\n      pem: |"+indent(other)+"\n")
	for _, c := range []struct {
		name string
		cert *tls.Certificate
		ok   bool
	}{
		{"partner.example by its root", of(partner, "partner.example"), true},
		{"other.example by its root", of(other, "other.example"), true},
		{"our own", m.Certificate("default", "client"), true},
		{"partner.example by the root of other.example", of(other, "partner.example"), false},
		{"partner.example by our root", ours, false},
		{"our domain by the root of partner.example", of(partner, "cluster.local"), false},
		{"a domain that nobody named, by the root of partner.example", of(partner, "third.example"), false},
	} {
		if err := tryTLS(t, pods[0], c.cert); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	m.Config("authz.yaml", authorizationPolicy("partners", "{rules: [{from: [{source: {principals: [partner.example/ns/default/sa/client]}}]}]}"))
	if err := tryTLS(t, pods[0], of(partner, "partner.example")); err != nil {
		t.Errorf("who is meant by a policy: %v", err)
	}
	if err := tryTLS(t, pods[0], of(other, "other.example")); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("the same name in another trust domain: %v", err)
	}
	m.Remove("mesh.yaml")
	if err := tryTLS(t, pods[0], of(partner, "partner.example")); err == nil {
		t.Error("somebody of a trust domain whose roots are gone is let in")
	}
}
