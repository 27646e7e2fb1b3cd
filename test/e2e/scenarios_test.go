package e2e_test

import (
	"bufio"
	"crypto/sha1" // RFC 6455 asks for it
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// What other meshes were found to do wrong, and this one must not; docs/scenarios.md lists all of them by their numbers.

// bare is a workload without a proxy and without a program: the test listens at its port 8080.
func bare(app string) mesh.Spec {
	return mesh.Spec{Name: app + "-0", NoProxy: true, Labels: map[string]string{"app": app}, Ports: []mesh.Port{{Name: "http", Number: 8080}, {Name: "tcp", Number: 9000}}}
}

// serviceOf is echoService for another app.
func serviceOf(app string) string {
	return strings.NewReplacer("name: echo}", "name: "+app+"}", "app: echo", "app: "+app).Replace(echoService)
}

// serveAt serves HTTP at a workload's port 8080 for as long as the test.
func serveAt(t *testing.T, w *mesh.Workload, s *http.Server) {
	t.Helper()
	l, err := net.Listen("tcp", w.App(8080).String())
	if err != nil {
		t.Fatal(err)
	}
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// S05: a proxy that asks its clients to go, because its pod ends, does not ask its own program to.
func TestLeavingIsNotSaidToTheOwnProgram(t *testing.T) {
	t.Parallel()
	_, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	c, err := client.Dial(t.Context(), "echo:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	client.Leave()
	for i := range 3 {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nhost: echo:8080\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if r.StatusCode != http.StatusOK || r.Close || r.Header.Get("Connection") != "" {
			t.Errorf("request %d: %s, %v, close %v", i, r.Status, r.Header, r.Close)
		}
	}
}

// S06: a server closes idle connections just when they are used again. Nobody notices.
func TestKeepAliveRacesFailNothing(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("short.yaml", serviceOf("short"))
	all := m.Workloads(caller("client"), bare("short"))
	const idle = 20 * time.Millisecond
	serveAt(t, all[1], &http.Server{IdleTimeout: idle, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	l := startLoadOf(t, 20, idle, func() *mesh.Response { return all[0].Get("http://short:8080/") }, func(r *mesh.Response) error {
		if r.Err != nil || r.Status != http.StatusOK {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	l.await(3000)
	l.stop(t)
}

const causesConfig = `
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: http, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x,
      access_log: [{name: log, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout, log_format:
         {text_format_source: {inline_string: "%%REQ(:PATH)%% %%RESPONSE_CODE%% %%RESPONSE_FLAGS%% %%RESPONSE_CODE_DETAILS%%\n"}}}}],
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}],
      route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [%s]}]}}}]}]
  clusters:
%s`

// S07: whatever becomes of a request, its cause is told from every other.
func TestCausesAreToldApart(t *testing.T) {
	t.Parallel()
	reset := func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() }
	after := func(answer string, end func(net.Conn)) int {
		return serveTCP(t, func(c net.Conn) {
			if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
				_, _ = io.WriteString(c, answer)
			}
			end(c)
		}).(*net.TCPAddr).Port
	}
	demanding := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	demanding.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	demanding.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	demanding.StartTLS()
	t.Cleanup(demanding.Close)
	const settingsAndGoAway = "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // RFC 9113 sections 6.5 and 6.8, last stream 0
	const h2 = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`
	const overTLS = `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}`
	cases := []struct {
		name   string
		port   int
		more   string
		header string
		want   string
	}{
		{"refused", 1, "", "", "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"},
		{"timeout", unaccepting(t), "", "", "503 UF upstream_reset_before_response_started{connection_timeout}"},
		{"rst-in-head", after("HTTP/1.1 200 OK\r\ncontent-le", reset), "", "", "503 UC upstream_reset_before_response_started{connection_termination}"},
		{"rst-in-body", after("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", reset), "", "", "200 UC upstream_reset_after_response_started{connection_termination}"},
		{"tls-alert", demanding.Listener.Addr().(*net.TCPAddr).Port, overTLS, "", "503 UF upstream_reset_before_response_started{remote_connection_failure|*}"},
		{"goaway", after(settingsAndGoAway, func(net.Conn) {}), h2, "", "503 UR upstream_reset_before_response_started{remote_refused_stream_reset}"},
		{"too-large", 1, "", strings.Repeat("x", 100<<10), "431 DPE http1.*"},
	}
	var routes, clusters strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&routes, "{match: {prefix: /%[1]s}, route: {cluster: %[1]s}}, ", c.name)
		fmt.Fprintf(&clusters, "  - {name: %[1]s, connect_timeout: 0.5s, load_assignment: {cluster_name: %[1]s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}}}]}]}, %[3]s}\n", c.name, c.port, c.more)
	}
	log := &lines{}
	admin := staticProxy(t, fmt.Sprintf(causesConfig, routes.String(), clusters.String()), func(o *proxy.Options) { o.AccessLog = log })
	_, at, _ := strings.Cut(strings.TrimSpace(string(admin("/listeners"))), "::")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	seen := map[string]string{}
	for _, c := range cases {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+at+"/"+c.name, nil)
		if err != nil {
			t.Fatal(err)
		}
		prefix := "/" + c.name + " "
		if c.header != "" {
			req.Header.Set("x-large", c.header)
			prefix = "" // its path is not known
		}
		if r, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		var got string
		if prefix == "" {
			eventually(t, func() bool {
				_, after, ok := strings.Cut(log.String(), " 431 ")
				got, _, _ = strings.Cut("431 "+after, "\n")
				return ok
			}, log.String)
		} else {
			got = log.await(t, prefix)
		}
		if !like(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if other := seen[got]; other != "" {
			t.Errorf("%s and %s cannot be told apart: %s", c.name, other, got)
		}
		seen[got] = c.name
	}
}

// unaccepting is a port whose queue of connections is full: further ones are not answered.
func unaccepting(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	a, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := a.(*syscall.SockaddrInet4).Port
	for range 8 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 300*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("this kernel accepts more connections than it was told to")
	return 0
}

// S17: all endpoints of a service are replaced at once; callers' proxies have only the new ones after a second at most.
func TestEndpointsReplacedAtOnceAreGone(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil)
	const n = 700
	entry := func(net int) string {
		var b strings.Builder
		b.WriteString("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: many}\nspec:\n  hosts: [many.example]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  endpoints:\n")
		for i := range n {
			fmt.Fprintf(&b, "  - {address: 127.%d.%d.%d}\n", net, i/250, i%250+1)
		}
		return b.String()
	}
	const cluster = "outbound|80||many.example"
	only := func(net int) error {
		all := client.Endpoints(cluster)
		for _, e := range all {
			if !strings.HasPrefix(e, fmt.Sprintf("127.%d.", net)) {
				return fmt.Errorf("%s is there", e)
			}
		}
		if len(all) != n {
			return fmt.Errorf("there are %d", len(all))
		}
		return nil
	}
	m.Config("many.yaml", entry(101))
	m.Eventually("the first endpoints are there", func() error { return only(101) })
	began := time.Now()
	m.Write("many.yaml", entry(102))
	m.Eventually("only the second endpoints are there", func() error { return only(102) })
	t.Logf("%d endpoints were replaced within %v", n, time.Since(began).Round(time.Millisecond)) // the row's second is for a machine of its own
}

// S27: a client that is silent before it begins TLS is served.
func TestSilenceBeforeTLSIsNoFault(t *testing.T) {
	t.Parallel()
	m, _, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	c, err := net.Dial("tcp", strings.TrimPrefix(pods[0].At(8080), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-time.After(300 * time.Millisecond) // silence is what this is about; Envoy's listeners gave up after 100 ms
	own := m.Certificate("default", "client")
	s := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*own}, NextProtos: []string{"istio-http/1.1"}, InsecureSkipVerify: true}) // SPIFFE certificates have no DNS names
	if err := s.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, "GET / HTTP/1.1\r\nhost: echo:8080\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(s), nil)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("%v %v", r, err)
	}
}

// S43, the half about the log: the log gets another format while WebSockets are open. None is closed.
func TestLogFormatChangesCloseNothing(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("ws.yaml", serviceOf("ws"))
	all := m.Workloads(caller("client"), bare("ws"))
	client := all[0]
	serveAt(t, all[1], &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		c, in, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 section 4.2.2
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		_, _ = io.Copy(c, in)
		c.Close()
	})})
	type socket struct {
		net.Conn
		in *bufio.Reader
	}
	echo := func(s *socket, text string) error {
		if _, err := io.WriteString(s, text+"\n"); err != nil {
			return err
		}
		if got, err := s.in.ReadString('\n'); got != text+"\n" {
			return fmt.Errorf("%q: %w", got, err)
		}
		return nil
	}
	var sockets []*socket
	for range 100 {
		c, err := client.Dial(t.Context(), "ws:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := &socket{c, bufio.NewReader(c)}
		if _, err := io.WriteString(c, "GET /socket HTTP/1.1\r\nhost: ws:8080\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if r, err := http.ReadResponse(s.in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v %v", r, err)
		}
		sockets = append(sockets, s)
	}
	change := func(format, encoding, line string) {
		t.Helper()
		m.Config("mesh.yaml", fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    accessLogEncoding: %s\n    accessLogFormat: '%s'\n", encoding, format))
		m.Eventually("requests are logged in the new format", func() error {
			if r := client.Get("http://ws:8080/plain"); r.Status != http.StatusOK {
				return fmt.Errorf("%v", r)
			}
			if len(client.LoggedWith(line)) == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		for i, s := range sockets {
			if err := echo(s, fmt.Sprint(encoding, i)); err != nil {
				t.Fatalf("socket %d after the change to %s: %v", i, encoding, err)
			}
		}
	}
	change(`text %REQ(:PATH)% %RESPONSE_CODE%`, "TEXT", "text /plain 200")
	change(`{"path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%"}`, "JSON", `{"flags":"-","path":"/plain","status":200}`)
	if n := len(client.LoggedWith("/socket")); n != 0 {
		t.Errorf("%d of the sockets have ended", n)
	}
	for _, s := range sockets {
		s.Close()
	}
	m.Eventually("the sockets are logged as they end", func() error {
		if n := len(client.LoggedWith("/socket")); n != len(sockets) {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	// A format that cannot be used changes nothing, and its finding says what is wrong.
	m.Config("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFormat: '%CEL(request.path)%'\n")
	found := false
	for _, f := range m.Findings() {
		found = found || f.Field == "data.mesh.accessLogFormat" && strings.Contains(f.Message, "expressions are not evaluated")
	}
	if !found {
		t.Errorf("findings are %+v", m.Findings())
	}
}
