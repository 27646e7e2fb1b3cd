package control

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/control/why"
)

const (
	// Taps at once, lines that may wait for a reader, and how many of a proxy come a second unless somebody says otherwise.
	mostTaps, tapRoom, tapRate = 4, 1024, 20
	// tapSilence is how often a tap on which nothing happens says that it is there.
	tapSilence = 5 * time.Second
)

// taps are the requests that somebody looks at as they happen.
type taps struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*tap
}

type tap struct {
	q       *observev1.TapRequest
	lines   chan told
	dropped atomic.Uint64 // here
}

// told is a request of which a proxy tells.
type told struct {
	node, workload string // namespace/name
	m              *observev1.Tapped
	silent         string // instead: a replica whose proxies cannot tell
}

// take keeps a line for the reader, if there is room.
func (t *tap) take(x told) {
	select {
	case t.lines <- x:
	default:
		t.dropped.Add(1)
	}
}

func order(q *observev1.TapRequest) *observev1.ControlMessage {
	return &observev1.ControlMessage{Message: &observev1.ControlMessage_Tap{Tap: q}}
}

// begin opens a tap; nil: there are too many.
func (s *taps) begin(q *observev1.TapRequest) *tap {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= mostTaps {
		return nil
	}
	s.last++
	q.Tap = s.last
	t := &tap{q: q, lines: make(chan told, tapRoom)}
	s.open[q.GetTap()] = t
	return t
}

func (s *taps) end(t *tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, t.q.GetTap())
}

// all are what a proxy that has just come is to be asked for.
func (s *taps) all() (out []*observev1.ControlMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.open {
		out = append(out, order(t.q))
	}
	return out
}

// heard takes a request; of a tap that nobody looks at any more, it answers with what stops it.
func (s *taps) heard(who *reporter, m *observev1.Tapped) *observev1.ControlMessage {
	s.mu.Lock()
	t := s.open[m.GetTap()]
	s.mu.Unlock()
	if t == nil {
		return order(&observev1.TapRequest{Tap: m.GetTap(), Stop: true})
	}
	t.take(told{node: who.node, workload: workloadName(&who.self), m: m})
	return nil
}

func tapped(x told) apiv1.Tapped {
	if x.silent != "" {
		return apiv1.Tapped{Time: time.Now(), Silent: x.silent}
	}
	m, self := x.m, x.workload
	r := m.GetRecord()
	e := r.GetEdge()
	peer := e.GetPeer().GetWorkload()
	if peer != "" {
		peer = qualified(e.GetPeer().GetNamespace(), peer)
	}
	out := apiv1.Tapped{Time: time.Unix(0, int64(r.GetTimeUnixNano())), ID: r.GetId(), Proxy: workloadOf(x.node), Source: self, Destination: peer, Service: e.GetService().GetHost(), Port: int(e.GetService().GetPort()), Protocol: r.GetProtocol(),
		Transport: transports[e.GetTransport()], Method: r.GetMethod(), Authority: r.GetAuthority(), Path: r.GetPath(), Status: int(r.GetStatus()), Flags: r.GetFlags(), Cause: why.Cause(r), Milliseconds: float64(r.GetEndedNano()) / 1e6, Dropped: m.GetDropped()}
	if e.GetSide() == observev1.Side_SIDE_DESTINATION {
		out.Source, out.Destination = peer, self
	}
	return out
}

// tell has every connected proxy begin or end a tap, and waits no longer than askTime for any.
func (s *edges) tell(q *observev1.TapRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	for _, r := range s.asking.list() {
		select {
		case r.orders <- order(q):
		case <-r.gone:
		case <-ctx.Done():
			return
		}
	}
}

// tap begins a tap of the proxies that are connected here, also of those that come later, and ends it; nil: there are too many.
func (s *edges) tap(q *observev1.TapRequest) (t *tap, end func()) {
	if t = s.taps.begin(q); t == nil {
		return nil, nil
	}
	s.tell(q)
	return t, func() {
		s.taps.end(t)
		s.tell(&observev1.TapRequest{Tap: q.GetTap(), Stop: true})
	}
}

// handleTap is GET /api/v1/tap: lines of JSON until the caller goes away.
func (p *Plane) handleTap(w http.ResponseWriter, r *http.Request) {
	_, host, ok := p.asked(w, r)
	if !ok {
		return
	}
	v := r.URL.Query()
	q := &observev1.TapRequest{Host: host, From: v.Get("from"), To: v.Get("to"), Method: v.Get("method"), PathPrefix: v.Get("path"), Flag: v.Get("flag"), MostASecond: tapRate}
	if s := v.Get("status"); s != "" {
		n, err := strconv.ParseUint(strings.TrimSuffix(s, "xx"), 10, 32)
		class := n
		if !strings.HasSuffix(s, "xx") {
			class = n / 100
		}
		if err != nil || class < 1 || class > 5 {
			fail(w, http.StatusBadRequest, "status "+quote(s)+" is none", "for example status=503, status=5xx")
			return
		}
		q.Status = uint32(n)
	}
	if s := v.Get("rate"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n == 0 || n > 999 {
			fail(w, http.StatusBadRequest, "rate "+quote(s)+" is not a number from 1 to 999", "for example rate=100")
			return
		}
		q.MostASecond = uint32(n)
	}
	if s := v.Get("min"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			fail(w, http.StatusBadRequest, "min "+quote(s)+" is not a duration", "for example min=100ms")
			return
		}
		q.MinNano = uint64(d)
	}
	if s := v.Get("header"); s != "" {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			fail(w, http.StatusBadRequest, "header "+quote(s)+" is not NAME=VALUE", "for example header=end-user=jason")
			return
		}
		q.Header, q.Value = strings.ToLower(name), value
	}
	if len(r.URL.RawQuery) > 4*maxReportText {
		fail(w, http.StatusBadRequest, "the filters are too long", "")
		return
	}
	t, end := p.edges.tap(q)
	if t == nil {
		fail(w, http.StatusTooManyRequests, "there are "+strconv.Itoa(mostTaps)+" taps already", "end one of them")
		return
	}
	defer end()
	go p.replicas.tap(r.Context(), q, t)
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	out := json.NewEncoder(w)
	alive := time.NewTicker(tapSilence)
	defer alive.Stop()
	for {
		var err error
		select {
		case x := <-t.lines:
			line := tapped(x)
			if x.silent == "" {
				line.Dropped += t.dropped.Load()
			}
			err = out.Encode(line)
		case <-alive.C: // a reader that is gone is noticed, an empty line is none
			_, err = w.Write([]byte("\n"))
		case <-r.Context().Done():
			return
		case <-p.edges.stop:
			return
		}
		if err != nil || len(t.lines) == 0 && flush.Flush() != nil {
			return
		}
	}
}
