package control

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// Proxies are asked while somebody looks, those that come later, too, and are asked to stop when that one has gone; taps are bounded,
// and what a filter cannot be is refused.
func TestTap(t *testing.T) {
	p := start(t, t.TempDir())
	const node = "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local"
	for _, bad := range []string{"status=abc", "status=6xx", "status=5", "status=600", "min=soon", "header=x", "rate=0", "service=nosuch"} {
		if code, body := p.call(t, "GET", "/api/v1/tap?"+bad, ""); code != 400 && code != 404 {
			t.Errorf("%s: %d %s", bad, code, body)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &pipe{lines: make(chan []byte, 10), head: http.Header{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/tap?status=5xx&min=3ms&header=End-User=jason&from=page", nil)
		p.handleTap(w, r)
	}()
	p.until(t, "there is a tap", func() bool { return len(p.edges.taps.all()) == 1 })
	page := p.observe(t, "page", node, 1)
	m, err := page.Recv()
	q := m.GetTap()
	if err != nil || q.GetStop() || q.GetStatus() != 5 || q.GetMinNano() != 3e6 || q.GetHeader() != "end-user" || q.GetValue() != "jason" || q.GetFrom() != "page" || q.GetMostASecond() != tapRate {
		t.Fatal(m, err)
	}
	say := func(tap uint64) {
		_ = page.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Tapped{Tapped: &observev1.Tapped{Tap: tap, Dropped: 2, Record: &observev1.Record{Id: "id", Status: 503, EndedNano: 4e6,
			Edge: &observev1.Edge{Side: observev1.Side_SIDE_DESTINATION, Peer: &observev1.Peer{Workload: "cart", Namespace: "shop"}}}}}})
	}
	say(q.GetTap())
	var line apiv1.Tapped
	if data := <-w.lines; json.Unmarshal(data, &line) != nil || line.Source != "shop/cart" || line.Destination != "default/page-v1" || line.Milliseconds != 4 || line.Dropped != 2 || line.Proxy != "default/page-0" {
		t.Errorf("%s", data)
	}
	for i := range mostTaps {
		if x := p.edges.taps.begin(&observev1.TapRequest{}); (x == nil) != (i == mostTaps-1) {
			t.Errorf("tap %d: %v", i, x)
		}
	}
	stopped := func() {
		t.Helper()
		for m, err = page.Recv(); err == nil && !m.GetTap().GetStop(); m, err = page.Recv() { // one that came just then is asked twice
		}
		if err != nil || m.GetTap().GetTap() != q.GetTap() {
			t.Error(m, err)
		}
	}
	cancel()
	stopped()
	<-ended
	say(q.GetTap()) // it has not heard
	stopped()
}

// pipe is a ResponseWriter for a test that reads along.
type pipe struct {
	head  http.Header
	lines chan []byte
}

func (p *pipe) Header() http.Header { return p.head }
func (p *pipe) WriteHeader(int)     {}
func (p *pipe) Flush()              {}
func (p *pipe) Write(b []byte) (int, error) {
	if len(b) > 1 { // not those that only say that we are there
		p.lines <- append([]byte(nil), b...)
	}
	return len(b), nil
}
