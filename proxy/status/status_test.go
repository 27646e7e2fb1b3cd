package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weirmesh/weir/internal/memnet"
)

const pod = "10.0.0.7"

// options are of a proxy whose application is on network.
func options(network *memnet.Network) Options {
	return Options{Ready: func() error { return nil }, Drain: func() {}, Quit: func() {}, PodIP: netip.MustParseAddr(pod), Dial: network.DialContext,
		Stats: func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "# TYPE istio_requests_total counter\nistio_requests_total 7\n")
			return err
		}, Log: slog.New(slog.DiscardHandler)}
}

// application serves h at an address until the test ends.
func application(t *testing.T, network *memnet.Network, address string, h http.HandlerFunc) {
	t.Helper()
	l, err := network.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
}

func call(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		if header[i] == "from" {
			r.RemoteAddr = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Who may end or drain a proxy is inside the pod, and not a browser's GET.
func TestCalls(t *testing.T) {
	var drained, quit int
	o := options(&memnet.Network{})
	o.Drain, o.Quit = func() { drained++ }, func() { quit++ }
	ready := errors.New("no certificate yet: the control plane refused the token")
	o.Ready = func() error { return ready }
	h := Handler(o)
	for _, c := range []struct {
		method, path, from string
		status             int
		body               string
	}{
		{"GET", "/healthz/ready", "10.0.0.1:1", 503, "not ready: no certificate yet: the control plane refused the token"},
		{"POST", "/drain", "10.0.0.1:1", 403, "containers of this pod"},
		{"POST", "/quitquitquit", "10.0.0.1:1", 403, "containers of this pod"},
		{"GET", "/quitquitquit", "127.0.0.1:1", 405, ""},
		{"GET", "/drain", "127.0.0.1:1", 405, ""},
		{"POST", "/drain", "127.0.0.1:1", 200, "draining"},
		{"POST", "/quitquitquit", "[::1]:1", 200, "bye"},
		{"POST", "/quitquitquit", "[::ffff:127.0.0.1]:1", 200, "bye"},
		{"GET", "/app-health/web/readyz", "10.0.0.1:1", 404, "no such probe"},
		{"GET", "/config_dump", "127.0.0.1:1", 404, ""},
		{"GET", "/stats/prometheus", "10.0.0.1:1", 200, "istio_requests_total 7"},
	} {
		w := call(h, c.method, c.path, "from", c.from)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s %s from %s: %d %q, want %d %q", c.method, c.path, c.from, w.Code, w.Body, c.status, c.body)
		}
	}
	if drained != 1 || quit != 2 {
		t.Errorf("drained %d times and quit %d, want 1 and 2", drained, quit)
	}
	ready = nil
	if w := call(h, "GET", "/healthz/ready"); w.Code != 200 {
		t.Errorf("ready: %d", w.Code)
	}
}

// A probe asks the application what the kubelet would have asked, where the kubelet would
// have asked it, and hands on the answer.
func TestProbes(t *testing.T) {
	network := &memnet.Network{}
	application(t, network, pod+":8080", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sick":
			http.Error(w, "the database is away", http.StatusInternalServerError)
		case "/long":
			_, _ = w.Write(make([]byte, maxProbeAnswer*2))
		case "/here":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/there":
			http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
		default:
			fmt.Fprintf(w, "%s %s %s %s %s", r.Host, r.RequestURI, r.UserAgent(), r.Header.Values("X-Token"), r.Header.Get("Accept"))
		}
	})
	checks := health.NewServer()
	checks.SetServingStatus("shop", healthv1.HealthCheckResponse_SERVING)
	checks.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	l, err := network.Listen(pod + ":9090")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	healthv1.RegisterHealthServer(g, checks)
	served := make(chan error)
	go func() { served <- g.Serve(l) }()
	defer func() { g.Stop(); <-served }()

	o := options(network)
	for path, p := range map[string]string{
		"/app-health/a/livez":         `{"httpGet":{"path":"/ok?x=1","port":8080,"httpHeaders":[{"name":"Host","value":"shop.example"},{"name":"x-token","value":"1"},{"name":"X-Token","value":"2"},{"name":"user-agent","value":"mine"}]}}`,
		"/app-health/a/readyz":        `{"httpGet":{"path":"sick","port":"8080","scheme":"HTTP"},"timeoutSeconds":3}`,
		"/app-health/long/readyz":     `{"httpGet":{"path":"/long","port":8080}}`,
		"/app-health/here/readyz":     `{"httpGet":{"path":"/here","port":8080}}`,
		"/app-health/there/readyz":    `{"httpGet":{"path":"/there","port":8080}}`,
		"/app-health/away/readyz":     `{"httpGet":{"port":8081}}`,
		"/app-health/open/startupz":   `{"tcpSocket":{"port":8080}}`,
		"/app-health/shut/startupz":   `{"tcpSocket":{"port":8082}}`,
		"/app-health/g/readyz":        `{"grpc":{"port":9090,"service":"shop"}}`,
		"/app-health/bad/readyz":      `{"grpc":{"port":9090,"service":null}}`,
		"/app-health/unk/readyz":      `{"grpc":{"port":9090,"service":"x"}}`,
		"/app-lifecycle/a/prestopz":   `{"httpGet":{"path":"/bye","port":8080}}`,
		"/app-lifecycle/a/poststartz": `{"tcpSocket":{"port":8080,"host":"10.0.0.7"}}`,
	} {
		one, err := ParseProbes(fmt.Sprintf("{%q: %s}", path, p))
		if err != nil {
			t.Fatal(err)
		}
		if o.Probes == nil {
			o.Probes = map[string]Probe{}
		}
		o.Probes[path] = one[path]
	}
	h := Handler(o)
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/app-health/a/livez", 200, "shop.example /ok?x=1 mine [1 2] */*"},
		{"/app-health/a/readyz", 500, "the database is away"},
		{"/app-health/long/readyz", 200, strings.Repeat("\x00", maxProbeAnswer)},
		{"/app-health/here/readyz", 200, "10.0.0.7:8080 /ok kube-probe/1.34 [] */*"},
		{"/app-health/there/readyz", 302, ""},
		{"/app-health/away/readyz", 503, "connection refused"},
		{"/app-health/open/startupz", 200, "ok"},
		{"/app-health/shut/startupz", 503, "connection refused"},
		{"/app-health/g/readyz", 200, "ok"},
		{"/app-health/bad/readyz", 503, "NOT_SERVING"},
		{"/app-health/unk/readyz", 503, "unknown service"},
		{"/app-lifecycle/a/prestopz", 200, "/bye"},
		{"/app-lifecycle/a/poststartz", 200, "ok"},
	} {
		w := call(h, "GET", c.path, "User-Agent", "kube-probe/1.34")
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) || w.Body.Len() > maxProbeAnswer {
			t.Errorf("%s: %d %q, want %d %q", c.path, w.Code, w.Body, c.status, c.body)
		}
	}
}

// An application that hangs fails its probe when its time is over, not later.
func TestProbeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &memnet.Network{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		application(t, network, pod+":8080", func(http.ResponseWriter, *http.Request) { <-ctx.Done() })
		o := options(network)
		o.Probes = map[string]Probe{"/app-health/a/livez": {HTTP: &HTTPProbe{Port: 8080}, Seconds: 3}, "/app-health/b/livez": {HTTP: &HTTPProbe{Port: 8080}}}
		h := Handler(o)
		for path, want := range map[string]time.Duration{"/app-health/a/livez": 3 * time.Second, "/app-health/b/livez": time.Second} {
			began := time.Now()
			if w := call(h, "GET", path); w.Code != 503 || time.Since(began) != want {
				t.Errorf("%s: %d after %v, want 503 after %v", path, w.Code, time.Since(began), want)
			}
		}
		cancel()
	})
}

func TestProbesRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                                    "unexpected end",
		`{"/healthz": {"httpGet":{"port":1}}}`: "begins with /app-health/",
		`{"/app-health/a": {"httpGet":{"port":1}}}`:                           "<container>/<probe>",
		`{"/app-health/a/b/c": {"httpGet":{"port":1}}}`:                       "<container>/<probe>",
		`{"/app-health/a/livez": {}}`:                                         "exactly one",
		`{"/app-health/a/livez": {"httpGet":{"port":1},"grpc":{"port":1}}}`:   "exactly one",
		`{"/app-health/a/livez": {"httpGet":{"path":"/"}}}`:                   "httpGet.port is missing",
		`{"/app-health/a/livez": {"tcpSocket":{}}}`:                           "tcpSocket.port is missing",
		`{"/app-health/a/livez": {"grpc":{}}}`:                                "grpc.port is missing",
		`{"/app-health/a/livez": {"httpGet":{"port":"web"}}}`:                 "want a number from 1 to 65535",
		`{"/app-health/a/livez": {"httpGet":{"port":1,"scheme":"ftp"}}}`:      "want HTTP or HTTPS",
		`{"/app-health/a/livez": {"httpGet":{"port":1},"timeoutSeconds":-1}}`: "negative",
		`{"/app-health/a/livez": {"httpGet":{"port":1,"path":"/%zz"}}}`:       "httpGet.path",
	} {
		if _, err := ParseProbes(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Prometheus gets the proxy's metrics whatever the application does, and the application's
// in the same format.
func TestMerge(t *testing.T) {
	const own = "# TYPE istio_requests_total counter\nistio_requests_total 7\n"
	for _, c := range []struct {
		name, kind, body string
		app              http.HandlerFunc // instead
		address          string
		want             string // after our own
		failures         int
	}{
		{name: "text", kind: "text/plain; version=0.0.4", body: "# TYPE jobs gauge\njobs 3\n", want: "# TYPE jobs gauge\njobs 3\n"},
		{name: "no content type, no newline at the end", body: "jobs 3", want: "jobs 3\n"},
		{name: "listening on the pod's address only", address: pod + ":9102", body: "jobs 3\n", want: "jobs 3\n"},
		{name: "a family that the proxy describes, too", kind: "text/plain", body: "# HELP istio_requests_total x\n# TYPE istio_requests_total gauge\nistio_requests_total{app=\"1\"} 1\n",
			want: "istio_requests_total{app=\"1\"} 1\n"},
		{name: "OpenMetrics", kind: "application/openmetrics-text; version=1.0.0", body: "# TYPE hits counter\n# UNIT hits hits\n# HELP hits all # of them\n" +
			`hits_total{a="x } # y",b="\"} "} 5 1700000000.5 # {trace_id="1"} 0.5 1700000000` + "\n# TYPE build info\nbuild_info{v=\"1\"} 1\n# TYPE on stateset\non{on=\"a\"} 1\nplain 2 # {} 1\n# EOF\n",
			want: "# TYPE hits_total counter\n# HELP hits all # of them\n" + `hits_total{a="x } # y",b="\"} "} 5` + "\nbuild_info{v=\"1\"} 1\n# TYPE on gauge\non{on=\"a\"} 1\nplain 2\n"},
		{name: "protobuf", kind: "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily", body: "\x01\x02", failures: 1},
		{name: "an error", app: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, failures: 1},
		{name: "a redirect", app: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, failures: 1},
		{name: "away", address: "other:1", failures: 1},
		{name: "breaking off", app: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "jobs 3\ndone 12")
		}, want: "jobs 3\n", failures: 1},
		{name: "a line without end", body: "a 1\n" + strings.Repeat("b", maxAppLine+1) + " 1\nc 1\n", want: "a 1\n", failures: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			network := &memnet.Network{}
			if c.address == "" {
				c.address = "127.0.0.1:9102"
			}
			var accept string
			application(t, network, c.address, func(w http.ResponseWriter, r *http.Request) {
				accept = r.Header.Get("Accept")
				if c.app != nil {
					c.app(w, r)
					return
				}
				w.Header()["Content-Type"] = nil
				if c.kind != "" {
					w.Header().Set("Content-Type", c.kind)
				}
				_, _ = io.WriteString(w, c.body)
			})
			o := options(network)
			o.Scrape = &Scrape{Port: 9102, Path: "/metrics"}
			w := call(Handler(o), "GET", "/stats/prometheus", "Accept", "application/openmetrics-text")
			got, ok := strings.CutPrefix(w.Body.String(), own)
			got, tail, ok2 := strings.Cut(got, "# HELP istio_agent_scrapes_total")
			if !ok || !ok2 || got != c.want || w.Code != 200 || w.Header().Get("Content-Type") != textFormat {
				t.Errorf("%d %s\n%s\nwant\n%s", w.Code, w.Header(), got, c.want)
			}
			if !strings.Contains(tail, fmt.Sprintf("{type=\"application\"} %d\n", c.failures)) {
				t.Errorf("failures: %s, want %d", tail, c.failures)
			}
			if accept != "" && !strings.HasPrefix(accept, "text/plain") {
				t.Errorf("the application was asked for %q", accept)
			}
		})
	}
}

// A slow application costs a scrape at most what the scraper can spare, and a large one is
// cut off.
func TestMergeLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &memnet.Network{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		application(t, network, "127.0.0.1:80", func(http.ResponseWriter, *http.Request) { <-ctx.Done() })
		o := options(network)
		o.Scrape = &Scrape{Port: 80, Path: "/metrics"}
		h := Handler(o)
		for header, want := range map[string]time.Duration{"5": 4 * time.Second, "": scrapeTimeout, "x": scrapeTimeout} {
			began := time.Now()
			w := call(h, "GET", "/stats/prometheus", "X-Prometheus-Scrape-Timeout-Seconds", header)
			if !strings.Contains(w.Body.String(), "istio_requests_total 7") || time.Since(began) != want {
				t.Errorf("time-out %q: %v, want %v\n%s", header, time.Since(began), want, w.Body)
			}
		}
		cancel()
	})
	network := &memnet.Network{}
	line := strings.Repeat("a", 999) + "\n"
	application(t, network, "127.0.0.1:80", func(w http.ResponseWriter, _ *http.Request) {
		for range maxAppMetrics/len(line) + 10 {
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		}
	})
	o := options(network)
	o.Scrape = &Scrape{Port: 80, Path: "/metrics"}
	if w := call(Handler(o), "GET", "/stats/prometheus"); w.Body.Len() > maxAppMetrics+1000 || !strings.Contains(w.Body.String(), `{type="application"} 1`) {
		t.Errorf("%d bytes were passed on", w.Body.Len())
	}
}

func TestParseScrape(t *testing.T) {
	for _, c := range []struct {
		text string
		want string // JSON, or a part of the error
	}{
		{`{"scrape":"true","path":"/stats","port":"9102"}`, `{"Port":9102,"Path":"/stats"}`},
		{`{"scrape":"true"}`, `{"Port":80,"Path":"/metrics"}`},
		{`{"scrape":"true","path":"m","port":""}`, `{"Port":80,"Path":"/m"}`},
		{`{"scrape":"false"}`, `null`},
		{`{"port":"http"}`, `null`},
		{`{"scrape":"true","port":"http"}`, "want a number"},
		{`{"scrape":"true","path":"/%zz"}`, "path"},
		{`[]`, "cannot unmarshal"},
	} {
		s, err := ParseScrape(c.text)
		got, _ := json.Marshal(s)
		if err != nil {
			got = []byte(err.Error())
		}
		if !strings.Contains(string(got), c.want) {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
}

// The application's metrics are bytes of somebody else.
func FuzzClassic(f *testing.F) {
	for _, s := range []string{"", "a", "# EOF", "# TYPE a counter", "# TYPE ", `a{b="\`, `a{b="c"} 1 # {}`, "a 1 2 3", "# TYPE a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ReplaceAll(s, "\n", "")
		out := string(classic([]byte(s)))
		if strings.Contains(out, "\n") || len(out) > len(s)+len("_total") {
			t.Errorf("%q → %q", s, out)
		}
		if again := string(classic([]byte(out))); !strings.HasPrefix(out, "#") && again != out {
			t.Errorf("%q → %q → %q", s, out, again)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(`{"/app-health/a/livez": {"httpGet":{"port":1,"path":"/x"},"timeoutSeconds":1}}`)
	f.Add(`{"scrape":"true","path":"/m","port":"80"}`)
	f.Fuzz(func(t *testing.T, s string) {
		probes, err := ParseProbes(s)
		for path, p := range probes {
			if err == nil && p.HTTP != nil {
				if u, err := p.HTTP.url(pod); err != nil || u.Host == "" {
					t.Errorf("%s: %v, %v", path, u, err)
				}
			}
		}
		if x, err := ParseScrape(s); err == nil && x != nil && (x.Port == 0 || x.Path[0] != '/') {
			t.Errorf("%+v", x)
		}
	})
}
