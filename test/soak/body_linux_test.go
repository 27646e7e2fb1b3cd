package soak_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

//go:embed body.yaml
var bodyConfig string

// bodyGrowth is how much private memory may grow once all transfers are under way: what Go's collector leaves
// uncollected of 20 to 30 MB varies by so much.
const bodyGrowth = 4 << 20

// held is how much private memory the proxy may have in all: 10 MB of its own, and for each transfer, on both of its
// connections and on the two of the hop in between, 256 KiB of output above the mark and a window of as much.
const held = 10<<20 + transfers*4*2*256<<10

// transfers: six ways, in both directions.
const transfers = 12

// TestLargeBodies sends bodies of 1 GB through a weir-proxy to readers that take 1 MB a second (up to 4, if the soak is
// shorter than the 17 minutes which that takes; then less than 1 GB), over HTTP/1.1 and HTTP/2, in cleartext and over TLS
// on either side, in both directions, all at the same time. Its private memory stays flat, and nothing is left of them.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	long, soak := length(t)
	seconds := int(long.Seconds())
	size := min(1<<30, seconds*4<<20)
	rate := max(1<<20, size/seconds)
	app := newApp(t, size, rate)
	p := startProxy(t, app)
	idle, before := p.memory(t), p.descriptors(t)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var passed atomic.Int64
	var wg sync.WaitGroup
	var clients []*http.Client
	failed := make(chan error, transfers)
	for _, way := range []struct {
		scheme string
		http2  bool
		path   string // the application's protocol, behind a hop with TLS
	}{
		{"http", false, "/h1"}, {"http", true, "/h2"}, {"https", false, "/h2"}, {"https", true, "/h1"},
		{"http", false, "/tls/h2"}, {"http", true, "/tls/h1"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			c := p.client(way.scheme, way.http2)
			clients = append(clients, c)
			wg.Go(func() {
				if err := transfer(ctx, c, method, p.url(way.scheme)+way.path, size, rate, &passed); err != nil {
					failed <- fmt.Errorf("%s %s%s, HTTP/2 %v: %w", method, way.scheme, way.path, way.http2, err)
					cancel()
				}
			})
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()

	// What readers have got says how far we are.
	total := int64(transfers) * int64(size)
	var memory curve
	begin := time.Now()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-tick.C:
		}
		at := float64(passed.Load()+app.passed.Load()) / float64(total)
		// Of small bodies kernels keep so much that nothing has settled after a quarter.
		if err := memory.add(p.memory(t), at, bodyGrowth); err != nil && soak && ctx.Err() == nil {
			t.Error(err)
			cancel()
		}
	}
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	t.Logf("%d transfers of %d MB in %v: RssAnon %.1f MB idle, %v", transfers, size>>20, time.Since(begin).Round(time.Second), mb(idle), &memory)
	if memory.most > held {
		t.Errorf("RssAnon was %.1f MB, at most %.1f MB should do", mb(memory.most), mb(held))
	}
	if at := passed.Load() + app.passed.Load(); at != total && !t.Failed() {
		t.Errorf("%d of %d bytes came", at, total)
	}
	app.end()
	eventually(t, "all connections are closed", func() error {
		for _, c := range clients { // one with HTTP/2 is idle some time after its last answer was read
			c.CloseIdleConnections()
		}
		// Each worker keeps a spare descriptor, from soon after it began to listen on.
		if now := p.descriptors(t); len(now) > len(before)+runtime.NumCPU() || p.sockets(now, before) != "" {
			return fmt.Errorf("the proxy has %v open, it had %v: %s", now, before, p.sockets(now, before))
		}
		return nil
	})
}

// transfer sends a body or gets one.
func transfer(ctx context.Context, c *http.Client, method, url string, size, rate int, passed *atomic.Int64) error {
	var body io.Reader
	if method == http.MethodPost {
		body = &pattern{left: size}
	}
	q, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	if body != nil {
		q.ContentLength = int64(size)
	}
	r, err := c.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(r.Body, 1000))
		return fmt.Errorf("%s: %s", r.Status, text)
	}
	if method == http.MethodPost {
		_, err = io.Copy(io.Discard, r.Body)
		return err
	}
	return (&pattern{left: size}).slowly(r.Body, rate, passed)
}

// app serves bodies, and reads them slowly.
type app struct {
	port   int
	passed atomic.Int64
	end    func()
}

func newApp(t *testing.T, size, rate int) *app {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &app{port: l.Addr().(*net.TCPAddr).Port}
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: both, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if want := map[string]int{"/h1": 1, "/h2": 2}[q.URL.Path]; q.ProtoMajor != want {
			http.Error(w, "came over "+q.Proto, http.StatusHTTPVersionNotSupported)
			return
		}
		if q.Method == http.MethodPost {
			if err := (&pattern{left: size}).slowly(q.Body, rate, &a.passed); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = io.Copy(w, &pattern{left: size})
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	a.end = sync.OnceFunc(func() {
		_ = s.Close()
		<-done
	})
	t.Cleanup(a.end)
	return a
}

// lone is a weir-proxy without a mesh, configured by body.yaml.
type lone struct {
	process
	host  string
	roots *x509.CertPool
}

func startProxy(t *testing.T, a *app) *lone {
	t.Helper()
	dir := t.TempDir()
	pid := os.Getpid()
	p := &lone{host: fmt.Sprintf("127.%d.%d.1", 1+pid>>8&127, pid&255), roots: certificate(t, dir)}
	file := filepath.Join(dir, "body.yaml")
	text := strings.NewReplacer("HOST", p.host, "CERTS", dir, "APP", strconv.Itoa(a.port)).Replace(bodyConfig)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.adopt(exec.Command(build(t, dir), "run", "-c", file, "--drain", "1s"))
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil || p.log.Len() > 0 {
			t.Errorf("the proxy ended with %v, after it said\n%s", err, p.log.String())
		}
	})
	eventually(t, "the proxy listens", func() error {
		c, err := net.Dial("tcp", p.host+":10443")
		if err == nil {
			err = c.Close()
		}
		return err
	})
	return p
}

func (p *lone) url(scheme string) string {
	return scheme + "://" + p.host + map[string]string{"http": ":10080", "https": ":10443"}[scheme]
}

// client has one connection, of one protocol.
func (p *lone) client(scheme string, http2 bool) *http.Client {
	one := new(http.Protocols)
	one.SetHTTP1(!http2)
	one.SetHTTP2(http2 && scheme == "https")
	one.SetUnencryptedHTTP2(http2 && scheme == "http")
	return &http.Client{Transport: &http.Transport{Protocols: one, DisableCompression: true, IdleConnTimeout: time.Second,
		TLSClientConfig: &tls.Config{RootCAs: p.roots, ServerName: "soak"}}}
}
