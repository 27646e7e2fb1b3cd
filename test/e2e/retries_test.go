package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/test/mesh"
)

// ledger is an application that notes whose requests it began to process, and dies as by kill -9: what is on its
// connections gets RST.
type ledger struct {
	address string
	mu      sync.Mutex
	seen    map[string]int
	conns   map[net.Conn]bool
	server  *http.Server
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	l.seen[r.Header.Get("x-id")]++
	l.mu.Unlock()
	if r.URL.Query().Has("reset") {
		_, _ = io.Copy(io.Discard, r.Body) // until then all of it may still be there to be sent again
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
		return
	}
	if s := r.URL.Query().Get("status"); s != "" {
		n, _ := strconv.Atoi(s)
		w.WriteHeader(n)
	}
}

func (l *ledger) start(m *mesh.Mesh) {
	var listen net.Listener
	m.Eventually("the application can listen at "+l.address, func() (err error) {
		listen, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", l.address)
		return err
	})
	l.server = &http.Server{Handler: l, ConnState: func(c net.Conn, s http.ConnState) {
		l.mu.Lock()
		defer l.mu.Unlock()
		switch s {
		case http.StateNew:
			l.conns[c] = true
		case http.StateClosed:
			delete(l.conns, c)
		}
	}}
	go func() { _ = l.server.Serve(listen) }()
}

func (l *ledger) kill() {
	l.mu.Lock()
	for c := range l.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
	}
	l.mu.Unlock()
	_ = l.server.Close()
}

func (l *ledger) executions(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[id]
}

// ledgers are two workloads behind Service echo, and their applications.
func ledgers(t *testing.T, change func(*control.Options)) (m *mesh.Mesh, client *mesh.Workload, apps [2]*ledger) {
	t.Helper()
	var specs []mesh.Spec
	for i := range apps {
		s := echoPod(fmt.Sprintf("echo-v1-%d", i), "v1")
		s.Program = nil
		specs = append(specs, s)
	}
	m, client, pods := echoMesh(t, change, specs...)
	for i, w := range pods {
		apps[i] = &ledger{address: w.App(8080).String(), seen: map[string]int{}, conns: map[net.Conn]bool{}}
		apps[i].start(m)
		t.Cleanup(apps[i].kill)
	}
	return m, client, apps
}

// Applications die by kill -9 and come back, over and over, under requests that must not be processed twice (S45): each is
// processed once at most, and every one that did not reach an application is told from one that may have.
func TestPaymentsAreMadeOnce(t *testing.T) {
	t.Parallel()
	m, client, apps := ledgers(t, nil)
	payments := 10_000
	if testing.Short() {
		payments = 2_000
	}
	var next, ok, lost, other atomic.Int64
	l := startLoadOf(t, 8, 0, func() *mesh.Response {
		n := next.Add(1)
		if n > int64(payments) {
			return &mesh.Response{Err: errors.New("enough")}
		}
		return client.Do(http.MethodPost, "http://echo:8080/pay", []byte("1 EUR"), "x-id: "+strconv.FormatInt(n, 10))
	}, func(r *mesh.Response) error {
		switch {
		case r.Status == http.StatusOK:
			ok.Add(1)
		case r.Status == http.StatusServiceUnavailable:
			lost.Add(1)
		case next.Load() <= int64(payments):
			other.Add(1)
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	for i := 0; next.Load() < int64(payments); i++ {
		l.await(100)
		apps[i%2].kill()
		l.await(50)
		apps[i%2].start(m)
	}
	l.cancel()
	l.wg.Wait()
	twice := 0
	for n := 1; n <= payments; n++ {
		id := strconv.Itoa(n)
		if apps[0].executions(id)+apps[1].executions(id) > 1 {
			twice++
		}
	}
	t.Logf("%d payments: %d answered, %d answered 503", payments, ok.Load(), lost.Load())
	if twice > 0 {
		t.Errorf("%d payments were made twice", twice)
	}
	if ok.Load() < int64(payments)*9/10 {
		t.Errorf("%d of %d payments were answered", ok.Load(), payments)
	}
	if other.Load() > 0 {
		t.Errorf("%d answers were neither 200 nor 503, the first: %v", other.Load(), l.failed[0])
	}
}

// What an application itself answers is never asked again, whatever the method; with the defaults of Istio 1.1 a 503 is.
func TestAnswersAreNotRetried(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version string
		want    int
	}{{istio.Weir, 1}, {istio.Istio131, 1}, {istio.Istio11, 3}, {istio.Istio10, 1}} {
		t.Run("compatibility version "+c.version, func(t *testing.T) {
			t.Parallel()
			_, client, apps := ledgers(t, func(o *control.Options) {
				if err := istio.Compatible(c.version, &o.Settings); err != nil {
					t.Fatal(err)
				}
			})
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				if r := client.Do(method, "http://echo:8080/?status=503", nil, "x-id: "+method); r.Err != nil || r.Status != 503 {
					t.Fatalf("%s: %v", method, r)
				}
				if n := apps[0].executions(method) + apps[1].executions(method); n != c.want {
					t.Errorf("%s: %d requests reached applications, want %d", method, n, c.want)
				}
			}
		})
	}
}

// Who resets a connection may have processed what was on it: only what is harmless twice is sent again, and only if all
// of it still can be.
func TestResetRequestsAreRetriedIfIdempotent(t *testing.T) {
	t.Parallel()
	_, client, apps := ledgers(t, nil)
	for _, c := range []struct {
		id, method string
		body       int
		again      bool
	}{{"get", http.MethodGet, 0, true}, {"put", http.MethodPut, 5, true}, {"post", http.MethodPost, 5, false}, {"patch", http.MethodPatch, 0, false}, {"upload", http.MethodPut, 300_000, false}} {
		r := client.Do(c.method, "http://echo:8080/?reset", make([]byte, c.body), "x-id: "+c.id)
		if r.Err != nil || r.Status != http.StatusServiceUnavailable {
			t.Errorf("%s: %v", c.id, r)
		}
		if n := apps[0].executions(c.id) + apps[1].executions(c.id); n == 0 || n > 1 != c.again {
			t.Errorf("%s reached applications %d times; again: %v", c.id, n, c.again)
		}
	}
}
