package proxy

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/edges"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/ratelimit"
)

const (
	// Taps at once, what one may have of this proxy a second, and how many may wait to be sent.
	mostTaps, mostTapped, tapRoom = 4, 100, 256
)

// taps are who looks at requests as they end. Workers know of them only while there are some.
type taps struct {
	mu     sync.Mutex
	open   map[uint64]*tap
	caught chan func() *observev1.Tapped
}

func newTaps() taps {
	return taps{open: map[uint64]*tap{}, caught: make(chan func() *observev1.Tapped, tapRoom)}
}

type tap struct {
	q       *observev1.TapRequest
	bucket  *ratelimit.Bucket
	dropped atomic.Uint64
}

// tap begins or ends one; nil ends all. It waits for the workers.
func (p *Proxy) tap(q *observev1.TapRequest) {
	p.taps.mu.Lock()
	defer p.taps.mu.Unlock()
	before := len(p.taps.open)
	switch {
	case q == nil:
		clear(p.taps.open)
	case q.GetStop():
		delete(p.taps.open, q.GetTap())
	case len(p.taps.open) < mostTaps:
		most := q.GetMostASecond()
		if most == 0 || most > mostTapped {
			most = mostTapped
		}
		p.taps.open[q.GetTap()] = &tap{q: q, bucket: ratelimit.NewBucket(most, most, time.Second)}
	}
	if before == 0 && len(p.taps.open) == 0 {
		return
	}
	list := slices.Collect(maps.Values(p.taps.open))
	p.each(func(w *worker) {
		if w.report.Tap = nil; len(list) > 0 {
			w.report.Tap = func(x *http.Exchange, l *observe.Labels, took time.Duration) { p.caught(list, w, x, l, took) }
		}
	})
}

// caught gives an exchange to the taps that want it, on the worker's loop. Who is too slow misses it.
func (p *Proxy) caught(list []*tap, w *worker, x *http.Exchange, l *observe.Labels, took time.Duration) {
	var c *records.Record
	for _, t := range list {
		if !t.wants(x, l, took) {
			continue
		}
		if !t.bucket.Take(w.loop.Now()) {
			t.dropped.Add(1)
			continue
		}
		if c == nil {
			c = &records.Record{}
			x.Record(c, l, took)
		}
		select {
		case p.taps.caught <- func() *observev1.Tapped {
			return &observev1.Tapped{Tap: t.q.GetTap(), Record: edges.Record(c), Dropped: t.dropped.Load()}
		}:
		default:
			t.dropped.Add(1)
		}
	}
}

// wants reports whether a request is one that a tap is for.
func (t *tap) wants(x *http.Exchange, l *observe.Labels, took time.Duration) bool {
	q := t.q
	if l.Reporter == observe.Destination && l.SourcePrincipal != "" {
		return false // its caller's proxy tells
	}
	is := func(p *observe.Peer, name string) bool {
		if name == "" || p == nil {
			return name == ""
		}
		own := p.Workload
		if strings.Contains(name, "/") {
			own = p.Namespace + "/" + own
		}
		return own == name || strings.HasPrefix(own, name+"-") // of an app, as weir why has it
	}
	if q.GetHost() != "" && l.Service.Host != q.GetHost() || !is(l.Source, q.GetFrom()) || !is(l.Destination, q.GetTo()) ||
		q.GetMethod() != "" && !strings.EqualFold(q.GetMethod(), string(x.Request.RawMethod)) || took < time.Duration(q.GetMinNano()) {
		return false
	}
	if s := q.GetStatus(); s != 0 && s != uint32(l.Status) && s != uint32(l.Status)/100 {
		return false
	}
	if f := q.GetFlag(); f != "" && !slices.Contains(strings.Split(l.Flags.String(), ","), f) {
		return false
	}
	path := x.Request.Path
	if x.OriginalPath != nil {
		path = x.OriginalPath
	}
	if !bytes.HasPrefix(path, []byte(q.GetPathPrefix())) {
		return false
	}
	return q.GetHeader() == "" || string(x.Request.Headers.GetName(q.GetHeader())) == q.GetValue()
}
