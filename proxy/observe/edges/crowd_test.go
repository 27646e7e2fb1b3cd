package edges

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/observe"
)

// Peers that make up too many series are told of: how often, when, and at which service most.
func TestCrowd(t *testing.T) {
	w := observe.NewWorker()
	request := func(host string, i int) {
		l := called(200, 0)
		l.Service.Host, l.DestPrincipal = host, fmt.Sprint("spiffe://x/", i)
		w.Request(l, 0, 0, 0)
	}
	full := 0
	for ; w.Overflow == 0; full++ {
		request("reviews", full)
	}
	for i := range 5 {
		request("ratings", full+i)
	}
	var c crowd
	at := time.Unix(1000, 0)
	if got := c.tell(&observev1.Condition{}); got.GetOverflow() != 0 || got.GetCrowd() != nil {
		t.Errorf("before it was looked at: %v", got)
	}
	c.note(totals(w), at)
	c.note(totals(w), at.Add(time.Minute)) // no more since
	want := &observev1.Condition{Overflow: 6, OverflowUnixNano: uint64(at.UnixNano()), Crowd: &observev1.Edge{Side: observev1.Side_SIDE_SOURCE, Protocol: "http",
		Service: &observev1.Service{Host: "ratings", Name: service.Name, Namespace: service.Namespace, Port: 9080}}}
	if d := cmp.Diff(want, c.tell(&observev1.Condition{}), protocmp.Transform()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if got := c.tell(&observev1.Condition{RenewalError: strings.Repeat("ä", 300)}).GetRenewalError(); len(got) != maxText || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	if got := c.tell(&observev1.Condition{RenewalError: "x" + strings.Repeat("ä", 300)}).GetRenewalError(); len(got) != maxText-1 || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// A condition is told when there is one, again on each stream, and when it changes, however often within a few seconds once. A proxy with
// nothing to tell says nothing.
func TestSenderTellsOfItsCondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		said := &observev1.Condition{}
		again := make(chan struct{})
		set := func(text string) {
			mu.Lock()
			defer mu.Unlock()
			said = &observev1.Condition{RenewalError: text}
			close(again)
			again = make(chan struct{})
		}
		conns := make(chan *conn)
		s := NewSender(Options{Hello: &observev1.Hello{NodeId: "n"}, Log: slog.New(slog.DiscardHandler),
			Collect: observe.NewTotals, Stirred: make(chan struct{}),
			Certificate: func() (*observev1.Certificate, <-chan struct{}) { return nil, nil },
			Aside:       func() []*observev1.Ejection { return nil },
			Tap:         func(*observev1.TapRequest) {},
			Condition: func() (*observev1.Condition, <-chan struct{}) {
				mu.Lock()
				defer mu.Unlock()
				return &observev1.Condition{RenewalError: said.GetRenewalError()}, again
			},
			Connect: func(ctx context.Context) (grpc.ClientConnInterface, error) {
				select {
				case c := <-conns:
					return c, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}})
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		connect := func() *conn {
			c := &conn{ctx: ctx, sent: make(chan *observev1.ProxyMessage), heard: make(chan *observev1.ControlMessage)}
			conns <- c
			<-c.sent // hello
			return c
		}
		a := connect()
		time.Sleep(time.Hour) // of the bubble's clock: it is idle, and has said nothing
		for i := range 100 {
			set(fmt.Sprint("refused ", i))
			time.Sleep(time.Millisecond)
		}
		c := (<-a.sent).GetCondition()
		if c.GetRenewalError() != "refused 99" || c.GetTimeUnixNano() != uint64(time.Now().UnixNano()) {
			t.Errorf("told %v", c)
		}
		set("refused 99")
		time.Sleep(time.Hour) // the same is not told again
		set("")
		if c := (<-a.sent).GetCondition(); c == nil || c.GetRenewalError() != "" {
			t.Errorf("that it is well again: %v", c)
		}
		set("away")
		close(a.heard)
		b := connect()
		if c := (<-b.sent).GetCondition(); c.GetRenewalError() != "away" {
			t.Errorf("on another stream: %v", c)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
