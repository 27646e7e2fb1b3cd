package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// Each client's proxy keeps to its limits, whatever the number of its workers: never more connections, requests under way
// and requests that wait than the DestinationRule says, and as many as it says.
func TestLimitsHoldWhateverTheNumberOfWorkers(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			t.Parallel()
			m := mesh.New(t, nil)
			const connections, pending, callers = 3, 2, 12
			m.Config("limited.yaml", documents(strings.NewReplacer("name: echo}", "name: limited}", "app: echo", "app: limited").Replace(echoService),
				destinationRule("limited", fmt.Sprintf("{host: limited, trafficPolicy: {connectionPool: {tcp: {maxConnections: %d}, http: {http1MaxPendingRequests: %d}}}}", connections, pending))))
			client := caller("client")
			client.Proxy = func(o *proxy.Options) { o.Workers = workers }
			all := m.Workloads(client, mesh.Spec{Name: "limited-0", NoProxy: true, Labels: map[string]string{"app": "limited"}, Ports: []mesh.Port{{Name: "http", Number: 8080}, {Name: "tcp", Number: 9000}}})
			w, server := all[0], all[1]

			// A request that has come holds one of the connections until it is answered: it waits until all that may come are there.
			var under, most, ok, refused atomic.Int64
			full := make(chan struct{})
			srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				n := under.Add(1)
				for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
				}
				<-full
				under.Add(-1)
			})}
			l, err := net.Listen("tcp", server.App(8080).String())
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = srv.Serve(l) }()
			t.Cleanup(func() { _ = srv.Close() })

			load := startLoadOf(t, callers, 0, func() *mesh.Response {
				c := &http.Client{Transport: &http.Transport{DialContext: w.Client().Transport.(*http.Transport).DialContext, DisableKeepAlives: true}, Timeout: time.Minute} // another worker each time
				return mesh.Do(c, http.MethodGet, "http://limited:8080/", nil)
			}, func(r *mesh.Response) error {
				switch {
				case r.Err == nil && r.Status == http.StatusOK:
					ok.Add(1)
				case r.Err == nil && r.Status == http.StatusServiceUnavailable && r.Header.Get("x-envoy-overloaded") == "true":
					refused.Add(1)
				default:
					return fmt.Errorf("%v", r)
				}
				return nil
			})
			m.Eventually("all that may come are there, and the others are refused", func() error {
				if under.Load() == connections && refused.Load() >= 100 {
					return nil
				}
				return fmt.Errorf("%d are under way, %d were refused", under.Load(), refused.Load())
			})
			stats := string(w.Admin(http.MethodGet, "/stats?filter=limited").Body)
			for _, want := range []string{"upstream_cx_active: 3", "upstream_rq_pending_active: 2", "circuit_breakers.default.cx_open: 1", "circuit_breakers.default.rq_pending_open: 1", "circuit_breakers.default.remaining_cx: 0"} {
				if !strings.Contains(stats, "|8080||limited.default.svc.cluster.local."+want+"\n") {
					t.Errorf("no %s in\n%s", want, stats)
				}
			}
			close(full)
			m.Eventually("those that waited are served, and many after them", func() error {
				if ok.Load() < 200 {
					return errors.New("not yet")
				}
				return nil
			})
			load.cancel()
			load.wg.Wait()
			if most.Load() > connections {
				t.Errorf("%d requests were under way at once, over %d connections at most", most.Load(), connections)
			}
			for _, f := range load.failed {
				t.Error(f)
			}
			t.Logf("%d were served, %d refused", ok.Load(), refused.Load())
		})
	}
}
