package e2e_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

func serviceEntry(name, spec string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

// A TCP connection goes where the VirtualService says, knows both sides by their labels,
// and bytes pass in both directions until both have ended.
func TestTCPIsRelayedAndBothSidesKnowEachOther(t *testing.T) {
	t.Parallel()
	prefixed := func(name, version string) mesh.Spec {
		s := echoPod(name, version)
		s.Program = append(s.Program, "--prefix", version)
		return s
	}
	m, client, pods := echoMesh(t, nil, prefixed("echo-1", "v1"), prefixed("echo-2", "v2"))
	rule := destinationRule("echo", "{host: echo, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}")
	m.Config("routes.yaml", documents(rule, virtualService("echo",
		"{hosts: [echo], tcp: [{match: [{port: 9000}], route: [{destination: {host: echo, port: {number: 9000}, subset: v1}}]}]}")))
	for range 8 {
		if got := exchange(t, client, "echo:9000", "hello\n"); got != "v1 hello\n" {
			t.Errorf("got %q", got)
		}
	}
	m.Config("routes.yaml", documents(rule, virtualService("echo", "{hosts: [echo], tcp: [{match: [{port: 9000}], route: ["+
		"{destination: {host: echo, port: {number: 9000}, subset: v1}, weight: 50}, {destination: {host: echo, port: {number: 9000}, subset: v2}, weight: 50}]}]}")))
	seen := map[string]int{}
	for range 40 {
		seen[exchange(t, client, "echo:9000", "hello\n")]++
	}
	if seen["v1 hello\n"]+seen["v2 hello\n"] != 40 || len(seen) != 2 {
		t.Errorf("half and half gave %v", seen)
	}

	m.Eventually("both sides count the connections with the other's labels", func() error {
		source := client.Metrics()["istio_tcp_connections_opened_total"]
		n := mesh.Count(source, "reporter=source", "source_workload=client", "source_principal=spiffe://cluster.local/ns/default/sa/client",
			"destination_workload=echo-v1", "destination_version=v1", "destination_app=echo", "destination_canonical_service=echo", "destination_canonical_revision=v1",
			"destination_service=echo.default.svc.cluster.local", "destination_service_name=echo", "destination_service_namespace=default",
			"destination_principal=spiffe://cluster.local/ns/default/sa/echo", "request_protocol=tcp", "response_flags=-")
		if want := float64(8 + seen["v1 hello\n"]); n != want {
			return fmt.Errorf("the client has %v, want %v: %v", n, want, source)
		}
		destination := pods[0].Metrics()["istio_tcp_connections_closed_total"]
		n = mesh.Count(destination, "reporter=destination", "source_workload=client", "source_app=client", "source_canonical_service=client", "source_version=v1",
			"source_workload_namespace=default", "destination_workload=echo-v1", "connection_security_policy=mutual_tls",
			"source_principal=spiffe://cluster.local/ns/default/sa/client", "destination_principal=spiffe://cluster.local/ns/default/sa/echo")
		if want := float64(8 + seen["v1 hello\n"]); n != want {
			return fmt.Errorf("the server has %v, want %v: %v", n, want, destination)
		}
		return nil
	})
	if n := mesh.Count(client.Metrics()["istio_tcp_received_bytes_total"]); n != 48*6 {
		t.Errorf("the client's proxy counts %v bytes received, want %d", n, 48*6)
	}

	// The TCP service of a destination that is not there ends the connection, and says why.
	m.Config("routes.yaml", documents(rule, virtualService("echo",
		"{hosts: [echo], tcp: [{match: [{port: 9000}], route: [{destination: {host: echo, port: {number: 9000}, subset: v7}}]}]}")))
	if got, err := exchangeWith(dialer(client, "echo:9000"), "hello\n"); err == nil {
		t.Errorf("an unknown subset answered %q", got)
	}
	client.AccessLog(`"- - -" 0 NC - cluster_not_found`)
}

func TestServersThatSpeakFirstAreNotKeptWaiting(t *testing.T) {
	t.Parallel()
	banner := echoPod("echo-0", "v1")
	banner.Program = append(banner.Program, "--banner", "220 hello\n")
	m, client, _ := echoMesh(t, nil, banner)
	for _, mode := range []string{"PERMISSIVE", "STRICT"} {
		m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: "+mode+"}}"))
		if got := exchange(t, client, "echo:9000", ""); got != "220 hello\n" {
			t.Errorf("%s: got %q", mode, got)
		}
	}
}

// A half-closed connection still carries the answer.
func TestTheEndOfOneDirectionLeavesTheOtherOpen(t *testing.T) {
	t.Parallel()
	_, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	c, err := client.Dial(t.Context(), "echo:9000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 3 << 20
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i * 7)
	}
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got := make([]byte, 0, size)
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			break
		}
	}
	if string(got) != string(sent) {
		t.Errorf("%d bytes came back of %d, or others", len(got), size)
	}
}

// Addresses and names outside the mesh, made known by ServiceEntry.
func TestExternalServicesAreReachedByAddressAndByName(t *testing.T) {
	t.Parallel()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "plain %s", r.Host) }))
	defer backend.Close()
	_, port, _ := net.SplitHostPort(backend.Listener.Addr().String())
	m, client, _ := echoMesh(t, nil)
	m.Resolve("far.away", netip.MustParseAddr("127.0.0.1"))
	m.Config("outside.yaml", documents(
		serviceEntry("static", "{hosts: [static.example], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {http: "+port+"}}]}"),
		serviceEntry("named", "{hosts: [named.example], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: DNS, endpoints: [{address: far.away, ports: {http: "+port+"}}]}"),
		serviceEntry("gone", "{hosts: [gone.example], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: DNS, endpoints: [{address: no-such-name.invalid}]}"),
	))
	for _, host := range []string{"static.example", "named.example"} {
		m.Eventually("the name is resolved", func() error { // a name needs a moment
			if e := client.Endpoints("outbound|8080||" + host); len(e) == 0 {
				return fmt.Errorf("%s has no endpoint", host)
			}
			return nil
		})
		if r := client.Get("http://" + host + ":8080/"); string(r.Body) != "plain "+host+":8080" {
			t.Errorf("%s: %v", host, r)
		}
		client.AccessLog(`"`+host+`:8080"`, "outbound|8080||"+host)
	}
	// The outside has no sidecar, and is labelled as what it is.
	if n := mesh.Count(client.Metrics()["istio_requests_total"], "destination_service=static.example", "destination_service_name=static.example",
		"destination_workload=unknown", "connection_security_policy=unknown"); n != 1 {
		t.Errorf("the request to static.example is not counted as such: %v", client.Metrics()["istio_requests_total"])
	}
	if r := client.Get("http://gone.example:8080/", "x-request-id: nobody-home"); r.Status != http.StatusServiceUnavailable {
		t.Error(r)
	}
	client.AccessLog("nobody-home", "503 UH no_healthy_upstream")
}

// TLS to the outside is made by the proxy and judged by the certificate's names.
func TestTLSToTheOutsideIsJudgedByNames(t *testing.T) {
	t.Parallel()
	backend := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.TLS.ServerName, r.Host)
	}))
	defer backend.Close()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	certificate, err := x509.ParseCertificate(backend.TLS.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(backend.Listener.Addr().(*net.TCPAddr).Port)
	m, client, _ := echoMesh(t, nil)
	entry := func(host string) string {
		return serviceEntry(strings.ReplaceAll(host, ".", "-"), "{hosts: ["+host+"], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {http: "+port+"}}]}")
	}
	rule := func(host, tls string) string {
		return destinationRule(strings.ReplaceAll(host, ".", "-"), "{host: "+host+", trafficPolicy: {tls: {"+tls+"}}}")
	}
	m.Config("outside.yaml", documents(
		// httptest's certificate is for example.com.
		entry("example.com"), rule("example.com", "mode: SIMPLE, caCertificates: "+roots),
		entry("named.test"), rule("named.test", "mode: SIMPLE, sni: example.com, subjectAltNames: [example.com], caCertificates: "+roots),
		entry("wrong.test"), rule("wrong.test", "mode: SIMPLE, caCertificates: "+roots),
		entry("other.test"), rule("other.test", "mode: SIMPLE, sni: example.com, subjectAltNames: [other.test], caCertificates: "+roots),
		entry("system.test"), rule("system.test", "mode: SIMPLE"),
		entry("careless.test"), rule("careless.test", "mode: SIMPLE, insecureSkipVerify: true"),
	))
	for host, want := range map[string]string{"example.com": "example.com example.com:8080", "named.test": "example.com named.test:8080", "careless.test": "careless.test careless.test:8080"} {
		if r := client.Get("http://" + host + ":8080/"); string(r.Body) != want {
			t.Errorf("%s: %v", host, r)
		}
	}
	for host, why := range map[string]string{"wrong.test": "example.com", "other.test": "other.test", "system.test": "is_not_vouched_for"} {
		if r := client.Get("http://"+host+":8080/", "x-request-id: to-"+host); r.Status != http.StatusServiceUnavailable {
			t.Errorf("%s: %v", host, r)
		}
		client.AccessLog("to-"+host, "503 UF", why)
	}
}

func dialer(w *mesh.Workload, target string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return w.Dial(ctx, target) }
}
