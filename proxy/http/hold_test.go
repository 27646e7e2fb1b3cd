package http_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
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
	tickets[2].Resume(func(x *http.Exchange) http.Verdict { return x.Reply(observe.UpgradeRefused) })
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
