package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// S43, the half about policies: policies, certificates and the log's format change while WebSockets and streams of HTTP/2 are open. Those go on
// whose caller may still call, whatever else changed; the others end after the drain time, not all at once, with the policy's name in the log.
// STREAMS is how many WebSockets (make streams: 10,000). A relayed one takes two descriptors of each proxy, one of its client and one of the
// application; so many are spread over processes: this one with the control plane and the clients, the application, and four proxies.
func TestPoliciesChangeUnderOpenStreams(t *testing.T) {
	t.Parallel()
	each, life := 50, 15*time.Second
	server := bare("ws")
	server.NoProxy, server.ServiceAccount = false, "ws"
	server.Proxy = func(o *proxy.Options) { o.ListenerDrain = 300 * time.Millisecond }
	second := server
	second.Name = "ws-1"
	specs := []mesh.Spec{caller("client"), caller("other"), server, second}
	many, _ := strconv.Atoi(os.Getenv("STREAMS"))
	if many > 0 {
		each, life = many/2, 40*time.Second
		var has syscall.Rlimit
		must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &has))
		if most := uint64(many + many/2 + 1000); has.Cur < most { // should one server have three quarters of them
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: max(most, has.Max)}); err != nil {
				t.Fatalf("%d streams need %d descriptors in a process: %v; use fewer STREAMS, or ulimit -n", many, most, err)
			}
		}
		binary := filepath.Join(t.TempDir(), "weir-proxy")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-o", binary, "../../cmd/weir-proxy").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for i := range specs {
			specs[i].Binary = binary
		}
	}
	m := mesh.New(t, func(o *control.Options) { o.CertTTL = life })
	m.Config("ws.yaml", serviceOf("ws"))
	all := m.Workloads(specs...)
	servers := all[2:]
	if many > 0 {
		talkElsewhere(t, servers)
	} else {
		for _, w := range servers {
			serveAt(t, w, talker())
		}
	}

	socket := func(from *mesh.Workload) *stream {
		c, err := from.Dial(t.Context(), "ws:8080")
		must(t, err)
		return webSocket(t, c, "ws:8080", "/socket", "x-request-id: socket-of-"+from.Name)
	}
	// over is HTTP/2 of somebody without a proxy.
	over := func(id string) *stream {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(tr.CloseIdleConnections)
		body, w := io.Pipe()
		t.Cleanup(func() { w.Close() })
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, all[2].At(8080)+"/stream", body)
		must(t, err)
		q.Header.Set("x-request-id", id)
		r, err := tr.RoundTrip(q)
		must(t, err)
		t.Cleanup(func() { r.Body.Close() })
		return &stream{w, bufio.NewReader(r.Body)}
	}
	begun := time.Now()
	var stay, leave []*stream
	for range each {
		stay = append(stay, socket(all[0]))
		leave = append(leave, socket(all[1]))
	}
	stay, leave = append(stay, over("stream-that-stays")), append(leave, over("stream-that-goes"))
	working := func(what string, streams []*stream) {
		t.Helper()
		for i, s := range streams {
			if err := s.echo(); err != nil {
				t.Fatalf("%s: stream %d: %v", what, i, err)
			}
		}
	}
	const of = "selector: {matchLabels: {app: ws}}"
	both := "{from: [{source: {serviceAccounts: [client, other]}}]}, {from: [{source: {notPrincipals: ['*']}}]}"
	working("before", append(stay, leave...))
	t.Logf("%d streams are open after %v", 2*each+2, time.Since(begun).Round(time.Millisecond))
	m.Config("authz.yaml", authorizationPolicy("callers", "{"+of+", rules: ["+both+"]}"))
	working("who may call is said", append(stay, leave...))
	m.Config("authz.yaml", documents(authorizationPolicy("callers", "{"+of+", rules: ["+both+", {to: [{operation: {paths: [/more]}}]}]}"),
		authorizationPolicy("else", "{"+of+", action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}")))
	working("rules that are not about them", append(stay, leave...))
	m.Config("log.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n"+
		`    accessLogFormat: "ended %REQ(X-REQUEST-ID)% %RESPONSE_CODE_DETAILS%\n"`+"\n")
	working("another format of the log", append(stay, leave...))
	held := map[*mesh.Workload]string{}
	for _, w := range all {
		held[w] = serial(t, w)
	}
	for _, w := range all {
		m.Eventually("the certificate is renewed", func() error {
			if now, err := w.Serial(); err != nil || now == held[w] {
				return fmt.Errorf("%s has certificate %s: %w", w.Name, now, err)
			}
			return nil
		})
	}
	working("other certificates", append(stay, leave...))
	denied := time.Now()
	m.Config("authz.yaml", authorizationPolicy("not-other", "{"+of+", action: DENY, rules: [{from: [{source: {serviceAccounts: [other]}}]}, {when: [{key: 'request.headers[x-request-id]', values: [stream-that-goes]}]}]}"))
	for i, s := range leave {
		if _, err := s.in.ReadByte(); errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	working("those who may call", stay)
	t.Logf("%d streams ended within %v, and %d go on", len(leave), time.Since(denied).Round(time.Millisecond), len(stay))
	logged := func(id string) (lines []string) {
		for _, w := range servers {
			lines = append(lines, w.LoggedWith(id)...)
		}
		return lines
	}
	for id, n := range map[string]int{"socket-of-other": each, "stream-that-goes": 1} {
		m.Eventually("the log says why", func() error {
			lines := logged(id)
			if len(lines) != n || !strings.Contains(strings.Join(lines, "\n"), "rbac_access_denied_matched_policy[ns[default]-policy[not-other]-rule[") {
				return fmt.Errorf("%d lines of %d: %.300q", len(lines), n, lines)
			}
			return nil
		})
	}
	m.Eventually("weir why names the policy and its rule", func() error {
		if text := weir(t, m, "why", "socket-of-other"); !regexp.MustCompile(`access_denied: [^\0]*decided +AuthorizationPolicy default/not-other, rules\[0\], `).MatchString(text) {
			return errors.New(text)
		}
		return nil
	})
	for _, id := range []string{"socket-of-client", "stream-that-stays"} {
		if lines := logged(id); len(lines) != 0 {
			t.Errorf("%d of those who may call have ended: %q", len(lines), lines)
		}
	}
}

// The same at a gateway, whose routes change path, authority and headers: who calls is judged by what was asked for, and so
// are the requests that are under way when a policy comes.
func TestPoliciesChangeUnderOpenStreamsOfAGateway(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("ws.yaml", documents(serviceOf("ws"), mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [ws.example]}]}
`, virtualService("ws", `
  hosts: [ws.example]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /public}}]
    rewrite: {uri: /socket, authority: ws.internal}
    headers: {request: {remove: [x-key], set: {x-added: "yes"}}}
    route: &ws [{destination: {host: ws, port: {number: 8080}}}]
  - {route: *ws}
`)))
	server := bare("ws")
	server.NoProxy, server.ServiceAccount = false, "ws"
	edge := mesh.Gateway()
	edge.Proxy = func(o *proxy.Options) { o.ListenerDrain = 300 * time.Millisecond }
	all := m.Workloads(edge, server)
	serveAt(t, all[1], talker())
	socket := func(path, key string) *stream {
		c, err := net.Dial("tcp", fmt.Sprintf("%s:8080", all[0].IP()))
		must(t, err)
		return webSocket(t, c, "ws.example", path, "x-key: "+key)
	}
	stay := []*stream{socket("/public/a", "stays"), socket("/as/it/is", "stays")}
	leave := []*stream{socket("/public/b", "goes"), socket("/public/c", "revoked"), socket("/other", "goes")}
	const at = "selector: {matchLabels: {istio: ingressgateway}}, "
	policy := func(rules string) string {
		return strings.Replace(authorizationPolicy("edge", "{"+at+rules+"}"), "metadata: {name: edge", "metadata: {namespace: istio-system, name: edge", 1)
	}
	// None of them is what the route made of it, and each is what was asked for.
	m.Config("authz.yaml", policy("rules: [{to: [{operation: {hosts: [ws.example], notPaths: [/socket*], methods: [GET]}}], when: [{key: 'request.headers[x-key]', values: ['*']}, {key: 'request.headers[x-added]', notValues: ['*']}]}]"))
	for i, s := range append(stay, leave...) {
		if err := s.echo(); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	m.Config("authz.yaml", policy("action: DENY, rules: [{to: [{operation: {paths: [/public/b, /other]}}]}, {when: [{key: 'request.headers[x-key]', values: [revoked]}]}]"))
	for i, s := range leave {
		for s.echo() == nil {
		}
		if _, err := s.in.ReadByte(); errors.Is(err, net.ErrClosed) || err == nil {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	for _, path := range []string{"/public/b", "/public/c", "/other"} {
		all[0].AccessLog("GET "+path+" HTTP", "rbac_access_denied_matched_policy[ns[istio-system]-policy[edge]-rule[")
	}
	for i, s := range stay {
		if err := s.echo(); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
	}
}

// talkElsewhere has talkers at port 8080 of workloads, in a process of their own, which ends with the test.
func talkElsewhere(t *testing.T, all []*mesh.Workload) {
	t.Helper()
	var at []string
	for _, w := range all {
		at = append(at, w.App(8080).String())
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestTalker$")
	c.Env = append(os.Environ(), "TALK_AT="+strings.Join(at, ","))
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "talking\n" {
		t.Fatalf("the application says %q: %v", line, err)
	}
}

// TestTalker is the application of talkElsewhere.
func TestTalker(t *testing.T) {
	at := os.Getenv("TALK_AT")
	if at == "" {
		t.Skip("a process of TestPoliciesChangeUnderOpenStreams")
	}
	for a := range strings.SplitSeq(at, ",") {
		l, err := net.Listen("tcp", a)
		must(t, err)
		go func() { _ = talker().Serve(l) }()
	}
	fmt.Println("talking")
	select {}
}

// talker takes WebSockets, and streams of HTTP/2, and says again what it hears.
func talker() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{ReadHeaderTimeout: time.Minute, Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" { // a stream that says again what it hears
			c := http.NewResponseController(w)
			_ = c.EnableFullDuplex()
			w.WriteHeader(http.StatusOK)
			_ = c.Flush()
			for in := bufio.NewReader(r.Body); ; {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				fmt.Fprint(w, line)
				_ = c.Flush()
			}
		}
		c, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
		_, _ = io.Copy(c, in)
		c.Close()
	})}
}

type stream struct {
	io.Writer
	in *bufio.Reader
}

// echo says something in a stream, and hears it.
func (s *stream) echo() error {
	if _, err := io.WriteString(s, "hello\n"); err != nil {
		return err
	}
	if got, err := s.in.ReadString('\n'); got != "hello\n" {
		return fmt.Errorf("%q: %w", got, err)
	}
	return nil
}

// webSocket opens one by a connection, which is closed when the test ends.
func webSocket(t *testing.T, c net.Conn, host, path string, headers ...string) *stream {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(10*time.Minute)))
	_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nhost: "+host+"\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+
		strings.Join(headers, "\r\n")+"\r\n\r\n")
	must(t, err)
	s := &stream{c, bufio.NewReader(c)}
	if r, err := http.ReadResponse(s.in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", r, err)
	}
	return s
}

// A TCP connection that a policy ends while it is open is told of like one that is denied when it comes: the server's log and `weir why` name
// the policy, and its rule. Who may stay goes on.
func TestPoliciesEndOpenConnections(t *testing.T) {
	t.Parallel()
	pod := echoPod("echo-0", "v1")
	pod.Proxy = func(o *proxy.Options) { o.ListenerDrain = 300 * time.Millisecond }
	m, client, all := echoMesh(t, nil, caller("other"), pod)
	m.Config("log.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: \"accessLogFile: /dev/stdout\"\n")
	other, echo := all[0], all[1]
	stays := open(t, client)
	for _, c := range []struct{ name, spec, log, why string }{
		{name: "no", spec: "action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}, {from: [{source: {serviceAccounts: [other]}}]}]",
			log: "rbac_access_denied_matched_policy[ns[default]-policy[no]-rule[1]]", why: `access_denied: [^\0]*decided +AuthorizationPolicy default/no, rules\[1\], `},
		{name: "only", spec: "rules: [{from: [{source: {serviceAccounts: [client]}}]}]",
			log: "rbac_access_denied_matched_policy[none]", why: `not_allowed: [^\0]*decided +AuthorizationPolicy default/only, rules, `},
	} {
		goes := open(t, other)
		goes.says(t, "before "+c.name)
		m.Config("authz.yaml", authorizationPolicy(c.name, "{"+echoOnly+", "+c.spec+"}"))
		if _, err := goes.r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection goes on: %v", c.name, err)
		}
		m.Eventually(c.name+" is in the log", func() error {
			if n := len(echo.LoggedWith(c.log)); n != 1 {
				return fmt.Errorf("%d lines of %q", n, echo.Logged())
			}
			return nil
		})
		m.Eventually("weir why names "+c.name, func() error {
			if text := weir(t, m, "why", "--from", "other", "--to", "echo"); !regexp.MustCompile(c.why).MatchString(text) {
				return errors.New(text)
			}
			return nil
		})
		stays.says(t, "after "+c.name)
		m.Remove("authz.yaml")
		m.Settle()
	}
}
