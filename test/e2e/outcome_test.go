package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"text/template"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/proxy"
)

// lines is what a proxy has logged.
type lines struct{ locked.Buffer }

// await waits for a line that begins with a text, and returns what follows it.
func (l *lines) await(t *testing.T, prefix string) string {
	t.Helper()
	var found string
	eventually(t, func() bool {
		for line := range strings.Lines(l.String()) {
			if rest, ok := strings.CutPrefix(line, prefix); ok && strings.HasSuffix(rest, "\n") {
				found = strings.TrimSuffix(rest, "\n")
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprintf("no line begins with %q:\n%s", prefix, l) })
	return found
}

func eventually(t *testing.T, ok func() bool, why func() string) {
	t.Helper()
	end := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end:
			t.Fatal(why())
		case <-tick.C:
		}
	}
}

// outcomes is a proxy whose routes end in every way there is. Each line of its log begins with the path, or the listener.
type outcomes struct {
	*lines
	ports   map[string]string // by listener: address
	admin   func(path string) []byte
	waiting atomic.Int64 // requests that reached the upstream and get no answer
}

const outcomesConfig = `
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: http, typed_config: &manager
      {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x,
       request_timeout: {{.Patient}}, request_headers_timeout: {{.Patient}},
       upgrade_configs: [],
       access_log: [{name: log, typed_config: {"@type": &file type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout, log_format:
         {text_format_source: {inline_string: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}}}],
       http_filters: [{name: envoy.filters.http.fault, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}},
         {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, strict_check_headers: [x-envoy-max-retries]}}],
       route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [
         {match: {prefix: /ok}, route: {cluster: ok}},
         {match: {prefix: /direct}, direct_response: {status: 200}},
         {match: {prefix: /nc}, route: {cluster: nowhere}},
         {match: {prefix: /uh}, route: {cluster: empty}},
         {match: {prefix: /uf}, route: {cluster: refuses}},
         {match: {prefix: /urx}, route: {cluster: refuses, retry_policy: &once {retry_on: "5xx,reset", num_retries: 1, retry_back_off: {base_interval: 0.001s}}}},
         {match: {prefix: /answer-urx}, route: {cluster: ok, prefix_rewrite: /503, retry_policy: *once}},
         {match: {prefix: /uc}, route: {cluster: ok, prefix_rewrite: /close}},
         {match: {prefix: /late-uc}, route: {cluster: ok, prefix_rewrite: /half}},
         {match: {prefix: /ut}, route: {cluster: ok, prefix_rewrite: /slow, timeout: {{.Short}}}},
         {match: {prefix: /per-try-ut}, route: {cluster: ok, prefix_rewrite: /slow, timeout: 0s, retry_policy: {retry_on: connect-failure, num_retries: 0, per_try_timeout: {{.Short}}}}},
         {match: {prefix: /per-try-urx}, route: {cluster: ok, prefix_rewrite: /slow, timeout: 0s, retry_policy: {retry_on: gateway-error, num_retries: 1, per_try_timeout: {{.Short}}, retry_back_off: {base_interval: 0.001s}}}},
         {match: {prefix: /ur}, route: {cluster: h2, prefix_rewrite: /abort}},
         {match: {prefix: /upe}, route: {cluster: garbage}},
         {match: {prefix: /uo}, route: {cluster: full}},
         {match: {prefix: /fi}, route: {cluster: ok}, typed_per_filter_config: {envoy.filters.http.fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {http_status: 418, percentage: &all {numerator: 100}}}}},
         {match: {prefix: /di}, route: {cluster: ok}, typed_per_filter_config: {envoy.filters.http.fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: {fixed_delay: 0.001s, percentage: *all}}}},
         {match: {prefix: /both}, route: {cluster: ok}, typed_per_filter_config: {envoy.filters.http.fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: {fixed_delay: 0.001s, percentage: *all}, abort: {http_status: 418, percentage: *all}}}},
         {match: {prefix: /si}, route: {cluster: ok, prefix_rewrite: /slow, timeout: 0s, idle_timeout: {{.Short}}}},
         {match: {prefix: /umsdr}, route: {cluster: brief, prefix_rewrite: /slow, timeout: 0s}},
         {match: {prefix: /dc}, route: {cluster: ok, prefix_rewrite: /slow, timeout: 0s}},
         {match: {prefix: /dr}, route: {cluster: ok, prefix_rewrite: /slow, timeout: 0s}}]}]}}}]}]
  - name: impatient
    address: {socket_address: {address: 127.0.0.2, port_value: 0}}
    filter_chains: [{filters: [{name: http, typed_config: {<<: *manager, request_timeout: {{.Short}}, request_headers_timeout: {{.Short}}, common_http_protocol_options: {max_stream_duration: {{.Patient}}}}}]}]
  - name: hurried
    address: {socket_address: {address: 127.0.0.3, port_value: 0}}
    filter_chains: [{filters: [{name: http, typed_config: {<<: *manager, common_http_protocol_options: {max_stream_duration: {{.Short}}}}}]}]
{{range $i, $_ := .TCP}}
  - name: {{.Name}}
    address: {socket_address: {address: 127.0.1.{{$i}}, port_value: 0}}
    filter_chains: [{filters: [{{if .Limited}}{name: limit, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, stat_prefix: x, max_connections: 1}}, {{end}}{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: {{.Cluster}}, {{if .Brief}}max_downstream_connection_duration: {{$.Short}}, {{end}}
      access_log: [{name: log, typed_config: {"@type": *file, path: /dev/stdout, log_format: {text_format_source: {inline_string: "{{.Name}} %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n"}}}}]}}]}]
{{end}}
  clusters:
{{range .Clusters}}
  - name: {{.Name}}
    connect_timeout: 10s
    load_assignment: {cluster_name: {{.Name}}, endpoints: [{lb_endpoints: [{{with .Address}}{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{.}}}}}}{{end}}]}]}
{{with .More}}    {{.}}
{{end}}{{end}}`

// startOutcomes runs the proxy, and the upstreams that misbehave.
func startOutcomes(t *testing.T, change func(*proxy.Options)) *outcomes {
	t.Helper()
	o := &outcomes{lines: &lines{}, ports: map[string]string{}}
	ended := make(chan struct{})
	app := http.NewServeMux()
	app.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	app.HandleFunc("/503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	slow := func(_ http.ResponseWriter, r *http.Request) {
		o.waiting.Add(1)
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}
	app.HandleFunc("/slow", slow)
	app.HandleFunc("/slow/", slow)
	app.HandleFunc("/close", func(w http.ResponseWriter, _ *http.Request) { hijack(t, w).Close() })
	app.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) {
		c := hijack(t, w)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
		c.Close()
	})
	app.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	upstream := httptest.NewUnstartedServer(app)
	upstream.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	upstream.Config.Protocols = new(http.Protocols)
	upstream.Config.Protocols.SetHTTP1(true)
	upstream.Config.Protocols.SetUnencryptedHTTP2(true)
	upstream.Start()
	t.Cleanup(upstream.Close)
	t.Cleanup(func() { close(ended) })
	garbage := serveTCP(t, func(c net.Conn) {
		if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			_, _ = io.WriteString(c, "I do not speak HTTP\r\n\r\n")
		}
		c.Close()
	})
	port := func(a net.Addr) int { return a.(*net.TCPAddr).Port }
	ok := port(upstream.Listener.Addr())
	type cluster struct {
		Name    string
		Address int
		More    string
	}
	type relay struct {
		Name, Cluster  string
		Limited, Brief bool
	}
	const options = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, `
	var text strings.Builder
	err := template.Must(template.New("").Parse(outcomesConfig)).Execute(&text, map[string]any{
		"Short": "0.05s", "Patient": "60s",
		"TCP": []relay{{Name: "tcp-uf", Cluster: "refuses"}, {Name: "tcp-uh", Cluster: "empty"}, {Name: "tcp-nc", Cluster: "nowhere"}, {Name: "tcp-uo", Cluster: "full"},
			{Name: "tcp-om", Cluster: "ok", Limited: true}, {Name: "tcp-dt", Cluster: "ok", Brief: true}, {Name: "tcp-ok", Cluster: "garbage"}},
		"Clusters": []cluster{{"ok", ok, ""}, {"empty", 0, ""}, {"refuses", 1, ""}, // tcpmux: nobody has it
			{"h2", ok, options + `explicit_http_config: {http2_protocol_options: {}}}}`},
			{"garbage", port(garbage), ""},
			{"full", ok, `circuit_breakers: {thresholds: [{max_connections: 0, max_pending_requests: 0, max_requests: 0}]}`},
			{"brief", ok, options + `explicit_http_config: {http_protocol_options: {}}, common_http_protocol_options: {max_stream_duration: 0.05s}}}`}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.admin = staticProxy(t, text.String(), func(options *proxy.Options) {
		options.AccessLog = o.lines
		if change != nil {
			change(options)
		}
	})
	for line := range strings.Lines(string(o.admin("/listeners"))) {
		name, at, _ := strings.Cut(strings.TrimSpace(line), "::")
		o.ports[name] = at
	}
	return o
}

func hijack(t *testing.T, w http.ResponseWriter) net.Conn {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
	}
	return c
}

// serveTCP accepts connections for as long as the test runs.
func serveTCP(t *testing.T, serve func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr()
}

// staticProxy runs a proxy from a bootstrap for as long as the test; what it returns asks its admin interface.
func staticProxy(t *testing.T, config string, change func(*proxy.Options)) func(path string) []byte {
	t.Helper()
	json, err := yaml.YAMLToJSON([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(json, b); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "a")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	o := proxy.Options{Static: b, Log: discard, Level: &slog.LevelVar{}, Admin: []net.Listener{l}}
	change(&o)
	p, err := proxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, func() bool { return p.Ready() == nil }, func() string { return fmt.Sprint(p.Ready()) })
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	return func(path string) []byte {
		t.Helper()
		r, err := c.Get("http://proxy" + path) //nolint:noctx // it answers
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
}

// Every response flag that a proxy can give, with the details, status and body of Envoy. What is missing here stands in
// TestFlagsThatAreNotProduced.
func TestResponseFlags(t *testing.T) {
	t.Parallel()
	o := startOutcomes(t, nil)
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	const reset = "upstream connect error or disconnect/reset before headers. reset reason: "
	for _, c := range []struct{ path, method, header, want, body string }{
		{path: "/ok", want: "200 - via_upstream"},
		{path: "/direct", want: "200 - direct_response"},
		{path: "/nothing", want: "404 NR route_not_found"},
		{path: "/nc", want: "503 NC cluster_not_found"},
		{path: "/uh", want: "503 UH no_healthy_upstream", body: "no healthy upstream"},
		{path: "/uf", want: "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
			body: reset + "remote connection failure, transport failure reason: delayed connect error: Connection refused"},
		{path: "/urx", want: "503 UF,URX upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
			body: "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure, transport failure reason: delayed connect error: Connection refused"},
		{path: "/answer-urx", want: "503 URX via_upstream"},
		{path: "/late-uc", want: "200 UC upstream_reset_after_response_started{connection_termination}", body: "half"},
		{path: "/uc", method: "POST", want: "503 UC upstream_reset_before_response_started{connection_termination}", body: reset + "connection termination"},
		{path: "/ut", want: "504 UT response_timeout", body: "upstream request timeout"},
		{path: "/per-try-ut", want: "504 UT upstream_per_try_timeout", body: "upstream request timeout"},
		{path: "/per-try-urx", want: "504 UT,URX upstream_per_try_timeout", body: "upstream request timeout"},
		{path: "/ur", method: "POST", want: "503 UR upstream_reset_before_response_started{remote_reset}", body: reset + "remote reset"},
		{path: "/upe", want: "502 UPE upstream_reset_before_response_started{protocol_error|http1.*}", body: reset + "protocol error*"},
		{path: "/uo", want: "503 UO upstream_reset_before_response_started{overflow}", body: reset + "overflow"},
		{path: "/fi", want: "418 FI fault_filter_abort", body: "fault filter abort"},
		{path: "/di", want: "200 DI via_upstream"},
		{path: "/both", want: "418 DI,FI fault_filter_abort", body: "fault filter abort"},
		{path: "/si", want: "504 SI stream_idle_timeout", body: "stream timeout"},
		{path: "/umsdr", want: "504 UMSDR upstream_max_stream_duration_reached", body: "upstream max stream duration reached"},
		{path: "/ok-ih", header: "many", want: "400 IH request_headers_failed_strict_check{x-envoy-max-retries}", body: "invalid header 'x-envoy-max-retries' with value 'many'"},
	} {
		req, err := http.NewRequest(c.method, "http://"+o.ports["http"]+c.path, nil) //nolint:noctx // the client has a timeout
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set("x-envoy-max-retries", c.header)
		}
		r, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if (err != nil) != (c.path == "/late-uc") || !like(string(body), c.body) {
			t.Errorf("%s: body %q (%v), want %q", c.path, body, err, c.body)
		}
		if got := o.await(t, c.path+" "); !like(got, c.want) {
			t.Errorf("%s: %s, want %s", c.path, got, c.want)
		}
		if overloaded := r.Header.Get("x-envoy-overloaded") == "true"; overloaded != (c.path == "/uo") {
			t.Errorf("%s: x-envoy-overloaded is %q", c.path, r.Header.Get("x-envoy-overloaded"))
		}
	}
	// The counters have counted each.
	stats, prometheus := string(o.admin("/stats")), string(o.admin("/stats/prometheus"))
	for name, want := range map[string]int{
		"refuses.upstream_cx_connect_fail": 3, "refuses.upstream_cx_connect_timeout": 0, "refuses.upstream_rq_retry": 1, "refuses.upstream_rq_retry_limit_exceeded": 1,
		"ok.upstream_rq_timeout": 1, "ok.upstream_rq_per_try_timeout": 3, "ok.upstream_rq_retry": 2, "ok.upstream_rq_retry_success": 0, "ok.upstream_rq_retry_limit_exceeded": 2,
		"h2.upstream_rq_rx_reset": 1, "full.upstream_rq_pending_overflow": 1, "full.upstream_cx_overflow": 0, "empty.membership_total": 0, "ok.membership_healthy": 1,
		"refuses.upstream_rq_total": 3, "refuses.upstream_cx_total": 3, "full.upstream_rq_total": 0, "empty.upstream_rq_total": 0,
	} {
		if !strings.Contains(stats, fmt.Sprintf("cluster.%s: %d\n", name, want)) {
			t.Errorf("/stats has no cluster.%s: %d:\n%s", name, want, stats)
		}
		if cluster, stat, _ := strings.Cut(name, "."); cluster != "empty" && !strings.Contains(prometheus, fmt.Sprintf("envoy_cluster_%s{cluster_name=%q} %d\n", stat, cluster, want)) {
			t.Errorf("/stats/prometheus has no %s of %s", stat, cluster)
		}
	}
	for _, want := range []string{"cluster.refuses.upstream_rq_5xx: 2\n", "cluster.empty.upstream_rq_5xx: 1\n", "cluster.ok.upstream_rq_2xx: 3\n"} {
		if !strings.Contains(stats, want) {
			t.Errorf("/stats has no %s", want)
		}
	}
	if want := `envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",cluster_name="refuses"} 2`; !strings.Contains(prometheus, want+"\n") {
		t.Errorf("/stats/prometheus has no %s", want)
	}
}

// like compares with a text that may have one star.
func like(got, want string) bool {
	before, after, star := strings.Cut(want, "*")
	return !star && got == want || star && strings.HasPrefix(got, before) && strings.HasSuffix(got, after)
}

// await waits for a line that matches, and says which there are if none does.
func (o *outcomes) matching(t *testing.T, what, pattern string) {
	t.Helper()
	r := regexp.MustCompile("(?m)^" + pattern + "$")
	eventually(t, func() bool { return r.MatchString(o.String()) }, func() string { return fmt.Sprintf("%s: no line is %s:\n%s", what, pattern, o) })
}

func (o *outcomes) dial(t *testing.T, listener string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", o.ports[listener])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// reached waits until one more request than there were waits at the upstream.
func (o *outcomes) reached(t *testing.T, were int64) {
	t.Helper()
	eventually(t, func() bool { return o.waiting.Load() > were }, func() string { return "the request did not reach the upstream" })
}

// Clients that misbehave, go away or are slow.
func TestResponseFlagsOfClients(t *testing.T) {
	t.Parallel()
	o := startOutcomes(t, nil)
	for _, c := range []struct{ name, listener, send, want string }{
		{"a header without a colon", "http", "GET /dpe HTTP/1.1\r\nhost: a\r\nbad\r\n\r\n", `\S* 400 DPE http1\.\w+`},
		{"two lengths", "http", "POST /dpe2 HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", `\S* 400 DPE http1\.length_and_transfer_encoding`},
		{"no host", "http", "GET /no-host HTTP/1.1\r\n\r\n", `\S* 400 - missing_host_header`},
		{"HTTP/1.0", "http", "GET /old HTTP/1.0\r\nhost: a\r\n\r\n", `\S* 426 - low_version`},
		{"an upgrade that is not allowed", "http", "GET /ok/up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", `/ok/up 403 - upgrade_failed`},
		{"a head that does not end", "impatient", "GET /head HTTP/1.1\r\n", `\S* 408 - request_header_timeout`},
		{"a body that does not come", "impatient", "POST /dc/body HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n", `/dc/body 408 - request_overall_timeout`},
		{"an answer that does not come", "hurried", "GET /dc/long HTTP/1.1\r\nhost: a\r\n\r\n", `/dc/long 504 - max_duration_timeout`},
		{"a request that takes too long", "hurried", "POST /dc/send HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n", `/dc/send 408 - max_duration_timeout`},
	} {
		if _, err := io.WriteString(o.dial(t, c.listener), c.send); err != nil {
			t.Fatal(err)
		}
		o.matching(t, c.name, c.want)
	}

	were := o.waiting.Load()
	c := o.dial(t, "http")
	if _, err := io.WriteString(c, "GET /dc/gone HTTP/1.1\r\nhost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	o.reached(t, were)
	c.Close()
	o.matching(t, "a client that is gone", `/dc/gone 0 DC downstream_remote_disconnect`)

	were = o.waiting.Load()
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.ports["http"]+"/dr", nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		r, err := h2.RoundTrip(req)
		if err == nil {
			r.Body.Close()
		}
		done <- err
	}()
	o.reached(t, were)
	cancel()
	if err := <-done; err == nil {
		t.Error("the request was not cancelled")
	}
	o.matching(t, "a client that cancels", `/dr 0 DR http2\.remote_reset`)
}

// Connections end by the same flags; what connected to nobody has used up its attempts.
func TestResponseFlagsOfConnections(t *testing.T) {
	t.Parallel()
	o := startOutcomes(t, nil)
	for listener, want := range map[string]string{
		"tcp-uf": "0 UF,URX - - delayed_connect_error:_Connection_refused",
		"tcp-uh": "0 UH - no_healthy_upstream -",
		"tcp-nc": "0 NC - cluster_not_found -",
		"tcp-uo": `0 UO - \S+ -`,
		"tcp-dt": "0 DT - duration_timeout -",
	} {
		if c, err := net.Dial("tcp", o.ports[listener]); err == nil { // a reset may be faster than the news that it is connected
			defer c.Close()
		}
		o.matching(t, listener, listener+" "+want)
	}
	c := o.dial(t, "tcp-ok")
	if _, err := io.WriteString(c, "x\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	o.matching(t, "a connection that ends in order", "tcp-ok 0 - - - -")
	o.dial(t, "tcp-om")
	if second, err := net.Dial("tcp", o.ports["tcp-om"]); err == nil {
		defer second.Close()
	}
	o.matching(t, "a connection over the limit", `tcp-om 0 OM connection_limit - -`)
}
