package http_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/observe/records"
)

// local is a request that the proxy answers itself, or that fails.
func (p *path) local(t testing.TB, request []byte) {
	p.client.Send(request)
	p.net.Step()
	if p.client.Take(p.buf) == 0 {
		t.Fatal("no answer")
	}
}

// What fails is recorded with what was decided and what became of each attempt; of what goes well a sample is.
func TestRecords(t *testing.T) {
	p := newPath(t, http.Outbound, getRequest, okResponse(10))
	for range 10 {
		p.exchange(t)
	}
	if last := p.records.LastFailed(9); len(last) != 0 {
		t.Fatalf("%d failures of what went well", len(last))
	}
	id := "0c7cd0b4-3f21-4d2b-9a55-5f0b7cfe5e21"
	ask := func(host, more string) []byte {
		return []byte("GET /reviews/7?secret=1 HTTP/1.1\r\nHost: " + host + "\r\nx-request-id: " + id + "\r\n" + more + "\r\n")
	}
	newest := func() *records.Record {
		t.Helper()
		all := p.records.LastFailed(1)
		if len(all) != 1 {
			t.Fatal("nothing is recorded")
		}
		return &all[0]
	}

	p.local(t, ask("nobody", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"))
	c := newest()
	if c.Cause != causes.HostNotFound || c.Labels.Status != 404 || c.Text(records.ID) != id || c.Text(records.Path) != "/reviews/7" || c.Text(records.Authority) != "nobody" || c.Attempts != 0 || c.Stopped != records.Unstopped ||
		c.Text(records.Method) != "GET" || c.Text(records.Trace) != "4bf92f3577b34da6a3ce929d0e0e4736" || c.Client.String() == "" {
		t.Errorf("no host: %+v", c)
	}

	// An answer of the upstream that says that something is wrong.
	p.client.Send(ask("reviews", ""))
	p.net.Step()
	p.upstream.Take(p.buf)
	p.upstream.Send([]byte("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"))
	p.net.Step()
	p.client.Take(p.buf)
	c = newest()
	if a := c.Tries()[0]; c.Cause != causes.NoCause || c.Labels.Status != 500 || c.Route != "default" || c.Host != "reviews" || !strings.HasPrefix(c.Cluster, "outbound|9080|") ||
		c.Attempts != 1 || a.Cause != causes.NoCause || a.Status != 500 || a.Endpoint.String() != "10.2.0.1:9080" || a.Local.String() == "" || a.Requests != 11 || c.Stopped != records.ByCondition {
		t.Errorf("500: %+v", c)
	}

	// An answer below 500 is no failure, whoever sends it here: who says that it is a proxy's has proved no identity.
	for range 70 {
		p.client.Send(ask("reviews", ""))
		p.net.Step()
		p.upstream.Take(p.buf)
		p.upstream.Send([]byte("HTTP/1.1 403 No\r\nx-weir-why: denied; id=r1\r\ncontent-length: 0\r\n\r\n"))
		p.net.Step()
		p.client.Take(p.buf)
	}
	if all := p.records.LastFailed(9); len(all) != 2 || len(p.records.Find(id, 200)) > 4 {
		t.Errorf("%d failures, %d records", len(all), len(p.records.Find(id, 200)))
	}

	// Nobody is there any more: three attempts.
	p.upstream.Close()
	p.listener.Close()
	p.net.Step()
	p.client.Send(ask("reviews", ""))
	for p.net.Step(); p.client.Pending() == 0; p.net.Advance(10 * time.Millisecond) { // back-off
	}
	p.client.Take(p.buf)
	c = newest()
	if c.Cause != causes.UpstreamConnectRefused || c.Attempts != 3 || c.Stopped != records.ByAttempts {
		t.Errorf("refused: %+v", c)
	}
	for i := range 3 {
		if a := c.Tries()[i]; a.Cause != causes.UpstreamConnectRefused || a.Local.String() != "" || !strings.Contains(a.Failure, "refused") || a.Ended < a.Began {
			t.Errorf("attempt %d: %+v", i, a)
		}
	}
	if found := p.records.LastFailed(9); len(found) != 3 {
		t.Errorf("%d failures", len(found))
	}
}

// A request that fails leaves no garbage for being recorded, nor for the client being told.
func TestFailuresAllocateNothing(t *testing.T) {
	get := strings.Replace(getRequest, "reviews:9080", "nobody:9080", 1)
	for name, request := range map[string]string{"HTTP": get, "gRPC": strings.Replace(get, "Accept:", "content-type: application/grpc\r\nAccept:", 1)} {
		t.Run(name, func(t *testing.T) {
			p := makePath(t, http.Outbound, nil, nil, cluster.HTTP1)
			again := []byte(request)
			for range 1200 {
				p.local(t, again)
			}
			if n := testing.AllocsPerRun(500, func() { p.local(t, again) }); n != 0 {
				t.Errorf("%v allocations per exchange, want 0", n)
			}
		})
	}
}

// BenchmarkFailure is the user code of a request that no route takes, recorded.
func BenchmarkFailure(b *testing.B) {
	for _, keep := range []bool{false, true} {
		b.Run(map[bool]string{false: "forgotten", true: "recorded"}[keep], func(b *testing.B) {
			p := makePath(b, http.Outbound, nil, nil, cluster.HTTP1)
			if !keep {
				p.report.Records = nil
			}
			request := bytes.Replace([]byte(getRequest), []byte("reviews:9080"), []byte("nobody:9080"), 1)
			b.ReportAllocs()
			for b.Loop() {
				p.local(b, request)
			}
		})
	}
}
