package tls

import "sync"

// Gate bounds the handshakes of a process. Running ones compete with the event
// loops and the control connection for processors; ones that wait for the peer
// only cost memory. Make one per process and give it to every context. Safe for
// concurrent use.
type Gate struct {
	running, total int

	mu      sync.Mutex
	run     int
	all     int
	waiting []func()
	head    int
}

// Limits of a Gate that NewGate takes for 0. A handshake computes 0.2 to 0.4 ms:
// 32 of them pass in about 10 ms on one processor, so nobody else waits longer. A
// waiting one holds about 20 KB: 4096 are 80 MB at the worst, for at most
// HandshakeTimeout.
const (
	defaultRunning = 32
	defaultTotal   = 4096
)

// NewGate makes a gate for so many computing handshakes, and so many altogether;
// 0 is the default of either.
func NewGate(running, total int) *Gate {
	if running <= 0 {
		running = defaultRunning
	}
	if total <= 0 {
		total = defaultTotal
	}
	return &Gate{running: running, total: max(total, running)}
}

// Begin counts a handshake; false means that there are too many, and that this one
// is to be refused. A nil Gate lets everybody in.
func (g *Gate) Begin() bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= g.total {
		return false
	}
	g.all++
	return true
}

// End is the counterpart of Begin.
func (g *Gate) End() {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.all--
	g.mu.Unlock()
}

// Enter reports true if the caller may compute now. Otherwise start is called once,
// from any goroutine, as soon as it may.
func (g *Gate) Enter(start func()) bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run < g.running {
		g.run++
		return true
	}
	if g.head > len(g.waiting)/2 {
		n := copy(g.waiting, g.waiting[g.head:])
		clear(g.waiting[n:])
		g.waiting, g.head = g.waiting[:n], 0
	}
	g.waiting = append(g.waiting, start)
	return false
}

// Leave lets the next one in; start of it is called before Leave returns.
func (g *Gate) Leave() {
	if g == nil {
		return
	}
	g.mu.Lock()
	var start func()
	if g.head < len(g.waiting) {
		start = g.waiting[g.head]
		g.waiting[g.head] = nil
		g.head++
	} else {
		g.run--
	}
	g.mu.Unlock()
	if start != nil {
		start()
	}
}
