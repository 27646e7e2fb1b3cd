package mesh

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/weirmesh/weir/internal/locked"
)

// Wire carries connections from one address to another and keeps what passes.
type Wire struct {
	l  net.Listener
	to netip.AddrPort

	mu    sync.Mutex
	flows []*Flow
	open  map[net.Conn]bool
	wg    sync.WaitGroup
}

// Flow is one connection over a Wire.
type Flow struct{ there, back locked.Buffer }

// Sent is what the side that connected sent.
func (f *Flow) Sent() []byte { return []byte(f.there.String()) }

// Received is what it got back.
func (f *Flow) Received() []byte { return []byte(f.back.String()) }

func newWire(from, to netip.AddrPort) (*Wire, error) {
	l, err := net.Listen("tcp", from.String())
	if err != nil {
		return nil, err
	}
	w := &Wire{l: l, to: to, open: map[net.Conn]bool{}}
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.carry(c) })
		}
	})
	return w, nil
}

func (w *Wire) carry(c net.Conn) {
	defer func() { _ = c.Close() }()
	up, err := net.Dial("tcp", w.to.String())
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	f := &Flow{}
	w.mu.Lock()
	w.flows = append(w.flows, f)
	w.open[c], w.open[up] = true, true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.open, c)
		delete(w.open, up)
	}()
	var both sync.WaitGroup
	both.Go(func() { half(up, io.TeeReader(c, &f.there)) })
	both.Go(func() { half(c, io.TeeReader(up, &f.back)) })
	both.Wait()
}

// half copies one direction, and ends it as it ended.
func half(to net.Conn, from io.Reader) {
	_, _ = io.Copy(to, from)
	if c, ok := to.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
}

// Flows are the connections so far.
func (w *Wire) Flows() []*Flow {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.flows)
}

func (w *Wire) close() {
	_ = w.l.Close()
	w.mu.Lock()
	for c := range w.open {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// Wire is the wire before a port of a workload with Tap.
func (w *Workload) Wire(port uint16) *Wire { return w.taps[port] }
