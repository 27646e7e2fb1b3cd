package http_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/route"
)

// holding is a proxy with one stage of the test's before the router, which answers 200 by itself.
func holding(t *testing.T, stage http.Stage) (*mem.Net, *mem.Peer, *http.Worker, *balance) {
	t.Helper()
	n := mem.New()
	l := n.Loop(loop.Options{})
	seen := &balance{}
	w := http.NewWorker(http.Options{Loop: l, Observer: seen})
	table, err := route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6}, Direct: &route.Direct{Status: 200}}}}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &http.Config{Table: table, Stages: []http.Stage{stage, http.Match(), http.Router()}}
	listen(t, l, front, func(c *conn.Conn) { c.HandOver(w.Serve(c, cfg)) })
	p, err := n.Dial(front)
	if err != nil {
		t.Fatal(err)
	}
	p.Send([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	n.Step()
	return n, p, w, seen
}

func statusOf(p *mem.Peer) string {
	b, err := p.Recv()
	line, _, _ := strings.Cut(string(b), "\r\n")
	return fmt.Sprint(line, " ", err)
}

// A stage may hold an exchange until another goroutine has an answer. One that comes after the client is gone reaches nobody,
// not even the exchange that uses the same memory by then.
func TestHold(t *testing.T) {
	var tickets []http.Ticket
	n, p, w, seen := holding(t, http.Stage{Request: func(x *http.Exchange) http.Verdict {
		tickets = append(tickets, x.Ticket())
		return http.Hold
	}})
	if got := statusOf(p); got != " <nil>" {
		t.Fatalf("answered while held: %s", got)
	}
	done := make(chan bool)
	go func() {
		tickets[0].Resume(func(*http.Exchange) http.Verdict { return http.Continue })
		close(done)
	}()
	<-done
	n.Step()
	if got := statusOf(p); got != "HTTP/1.1 200 OK <nil>" {
		t.Errorf("after Continue: %s", got)
	}

	p.Send([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	n.Step()
	p.Close()
	n.Step()
	q, err := n.Dial(front)
	if err != nil {
		t.Fatal(err)
	}
	q.Send([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	n.Step()
	tickets[1].Resume(func(x *http.Exchange) http.Verdict {
		t.Error("a ticket reached another exchange")
		return http.Continue
	})
	n.Step()
	tickets[2].Resume(func(x *http.Exchange) http.Verdict { return x.Reply(causes.UpgradeRefused) })
	tickets[2].Resume(func(x *http.Exchange) http.Verdict {
		t.Error("a ticket worked twice")
		return http.Continue
	})
	n.Step()
	if got := statusOf(q); got != "HTTP/1.1 403 Forbidden <nil>" {
		t.Errorf("after Reply: %s", got)
	}
	if w.Active() != 0 || seen.begun != 3 || seen.ended != 3 {
		t.Errorf("%d active, %d begun, %d ended", w.Active(), seen.begun, seen.ended)
	}
}

// A panic costs the connection it happened for, in a stage or in a timer, and nothing else.
func TestPanicCostsOneConnection(t *testing.T) {
	n, p, w, seen := holding(t, http.Stage{Request: func(x *http.Exchange) http.Verdict {
		switch string(x.Request.Path) {
		case "/now":
			panic("now")
		case "/later":
			x.Request.SetMethod([]byte("LATER"))
			return x.HoldFor(time.Second)
		}
		if x.Request.Method == 0 {
			panic("unreachable")
		}
		return http.Continue
	}, Response: func(x *http.Exchange) {
		if string(x.Request.RawMethod) == "LATER" {
			panic("later")
		}
	}})
	statusOf(p)
	for _, path := range []string{"/now", "/later"} {
		q, err := n.Dial(front)
		if err != nil {
			t.Fatal(err)
		}
		q.Send([]byte("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n"))
		n.Advance(2 * time.Second)
		if got := statusOf(q); got != " EOF" && got != " connection reset by peer" {
			t.Errorf("%s: the client got %s", path, got)
		}
		p.Send([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
		n.Step()
		if got := statusOf(p); got != "HTTP/1.1 200 OK <nil>" {
			t.Errorf("%s: another client got %s", path, got)
		}
	}
	if w.Active() != 0 || seen.begun != seen.ended {
		t.Errorf("%d active, %d begun, %d ended", w.Active(), seen.begun, seen.ended)
	}
}

// With HTTP/2 a panic costs the stream it happened for, whether its stages, its timers or its upstream's answer come to it.
func TestPanicCostsOneStream(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	seen := &balance{}
	w := http.NewWorker(http.Options{Loop: l, Observer: seen})
	limits := &cluster.Limits{}
	for _, m := range []interface{ Store(uint32) }{&limits.MaxConnections, &limits.MaxPending, &limits.MaxRequests, &limits.MaxRetries} {
		m.Store(cluster.Unlimited)
	}
	at := netip.MustParseAddrPort("10.2.0.1:80")
	c := &cluster.Cluster{Protocol: cluster.HTTP2, Limits: limits, Endpoints: []*cluster.Endpoint{{Addr: at, Limits: limits}}}
	c.Seal()
	table, err := route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6},
		Forward: &route.Forward{Clusters: []route.Weighted{{Weight: 1}}, Total: 1}}}}})
	if err != nil {
		t.Fatal(err)
	}
	w.SetState(&state{clusters: []*cluster.Cluster{c}, table: table})
	stage := http.Stage{Request: func(x *http.Exchange) http.Verdict {
		switch string(x.Request.Path) {
		case "/now":
			panic("now")
		case "/later":
			tk := x.Ticket()
			tk.Resume(func(*http.Exchange) http.Verdict { panic("later") })
			return http.Hold
		}
		return http.Continue
	}, Response: func(x *http.Exchange) {
		if string(x.Request.Path) == "/back" {
			panic("on the way back")
		}
	}}
	cfg := &http.Config{TableName: "t", Stages: []http.Stage{stage, http.Match(), http.Router()}}
	listen(t, l, front, func(c *conn.Conn) { c.HandOver(w.Serve(c, cfg)) })
	ln, err := n.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	p, err := n.Dial(front)
	if err != nil {
		t.Fatal(err)
	}
	client := newPeer2(p, func() { n.Step() }, false)
	client.begin(t, "")
	for i, path := range []string{"/good", "/now", "/later", "/back"} {
		client.send(t, fmt.Sprintf("HEADERS %d END\n  :method: GET\n  :scheme: http\n  :authority: a\n  :path: %s", 2*i+1, path))
		n.Step()
	}
	u := ln.Accept()
	server := newPeer2(u, func() { n.Step() }, true)
	server.begin(t, "")
	server.send(t, "HEADERS 3\n  :status: 200\nHEADERS 1 END\n  :status: 204")
	n.Step()
	b, _ := p.Recv()
	got := client.recv(t, b)
	for _, want := range []string{"RST_STREAM 3 INTERNAL_ERROR\n", "RST_STREAM 5 INTERNAL_ERROR\n", "RST_STREAM 7 INTERNAL_ERROR\n", "HEADERS 1 END\n  :status: 204\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the client did not get %q in\n%s", want, got)
		}
	}
	b, _ = u.Recv()
	if got := server.recv(t, b); !strings.Contains(got, "RST_STREAM 3 CANCEL\n") || strings.Contains(got, "GOAWAY") {
		t.Errorf("the upstream got\n%s", got)
	}
	if l.Panics() != 3 || w.Active() != 0 || seen.begun != 4 || seen.ended != 4 || limits.Requests.Load() != 0 {
		t.Errorf("%d panics, %d exchanges active, %d of %d ended, %d requests", l.Panics(), w.Active(), seen.ended, seen.begun, limits.Requests.Load())
	}
}
