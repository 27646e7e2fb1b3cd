// Package loop is the event loop under the data plane: one loop is one worker
// and one operating system thread.
//
// What enters: readiness from a Poller (the kernel's, or the in-memory one of
// loop/mem), timers that come due, and functions posted by other goroutines.
// What leaves: calls to Handlers, Timers and TurnNodes, all on the loop's
// thread. Everything reachable from a loop belongs to it and is not locked;
// Post, Park, Unpark, Away and Panics are the only methods for other goroutines.
//
// Time passes in turns: wait, posted functions, at most 32 ready descriptors,
// due timers, then the work put off to the end of the turn (writes are flushed
// there, once per connection). Nothing here allocates in steady state, and an
// idle loop costs nothing: there is no tick.
package loop

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// maxEvents bounds a turn. Writes leave at the end of a turn, so a long turn
// would keep peers idle while we work through everybody else's input; with 32,
// the wait costs about 10 ns an event and a full turn ends within about 0.3 ms.
const maxEvents = 32

// ScratchSize is the size of the one read buffer of a loop.
const ScratchSize = 64 << 10

// Events says what a descriptor is ready for. Registration is edge-triggered:
// an event is reported once, when it begins to hold (and once at registration
// if it holds then); read or write until EAGAIN, or remember that you did not.
type Events uint8

const (
	Readable Events = 1 << iota
	Writable
	HangUp   // the peer will send no more (or reset); read to learn which
	Error    // an error is pending on the socket
	Panicked // a callback on behalf of this handler panicked: release everything now
	Ending   // the loop ends: release everything now
)

// Handler receives the events of one registered descriptor.
type Handler interface {
	Ready(ev Events)
}

// Token names one registration. It is never reused, so an event that was under
// way when its descriptor was closed cannot reach the next owner of the number.
type Token uint64

// Event is what a Poller reports.
type Event struct {
	Token Token
	Ev    Events
}

// Options of a loop. The zero value works: no raw waiting, no logging, random seed.
type Options struct {
	Log *slog.Logger
	// Census counts the loops of the process; loops that share one wait in raw
	// system calls while that leaves the scheduler a processor.
	Census *Census
	// Seed of Rand; 0 takes one from crypto/rand. Tests that print choices set it.
	Seed uint64
}

// Loop is one event loop. Make it with New, give it work before or during Run.
type Loop struct {
	poller Poller
	log    *slog.Logger
	census *Census

	slots slots
	free  uint32 // head of the list of free slots, chained by slot.next; 0 is the end
	live  int

	events        [maxEvents]Event
	ready, readyN int // progress through events, kept here so that a panic skips one handler only

	now     int64
	wall    time.Time
	wallSet bool

	timers  wheel
	soon    turnList // run in the next turn
	end     turnList // run at the end of this turn
	flushes turnList // run after end is empty
	scratch []byte
	records []byte // made when the first record is read
	pool    Pool
	spares  []interface{ trim() (more bool) }
	look    Timer
	pipes   pipes
	rng     mrand.PCG
	blame   Handler
	gave    atomic.Bool
	calls   uint64 // of handlers, timers, nodes and posted functions, ever
	stirred func()
	still   uint64 // what calls was when stirred was set
	panics  atomic.Uint64
	turns   uint64

	running []func() // taken from posted, being run
	runNext int

	away atomic.Int64 // goroutines started by Go that are neither finished nor parked

	mu     sync.Mutex
	posted []func()
	woken  bool
	ended  bool
	posts  atomic.Bool // posted is not empty; saves the lock in every turn
}

type slot struct {
	h    Handler
	gen  uint32
	next uint32
}

// slots are all there ever were, in pieces: a list that grows by copying would leave several times its size as garbage.
type slots struct {
	n      uint32
	pieces []*[slotsAPiece]slot
}

const slotsAPiece = 64

func (s *slots) at(i uint32) *slot { return &s.pieces[i/slotsAPiece][i%slotsAPiece] }

func (s *slots) more() (i uint32) {
	i = s.n
	if s.n++; int(i/slotsAPiece) == len(s.pieces) {
		s.pieces = append(s.pieces, new([slotsAPiece]slot))
	}
	return i
}

// New makes a loop over a poller, which it owns from now on.
func New(p Poller, o Options) *Loop {
	l := &Loop{poller: p, log: o.Log, census: o.Census, scratch: make([]byte, ScratchSize)}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	seed := [2]uint64{o.Seed, o.Seed}
	if o.Seed == 0 {
		var b [16]byte
		rand.Read(b[:]) // never fails, by its documentation
		seed = [2]uint64{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
	}
	l.rng.Seed(seed[0], seed[1])
	l.slots.more() // slot 0 is never used: a zero Token is no registration
	l.now = p.Now()
	l.timers.init(l.now)
	l.look.Fire = l.lookAtSpares
	l.pool.init(l)
	return l
}

// Run works until ctx ends, then tells every registered handler Ending and
// returns nil. It locks its goroutine to a thread; call it once.
func (l *Loop) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if l.census != nil {
		l.census.join(1)
		defer l.census.join(-1)
	}
	stop := context.AfterFunc(ctx, l.poller.Wake)
	defer stop()
	for ctx.Err() == nil {
		l.turn(-1)
	}
	l.End()
	return nil
}

// Step does one turn without waiting and reports whether anything was done. It
// is for owners that drive the loop themselves instead of calling Run: loop/mem
// does, and so may a test or a benchmark.
func (l *Loop) Step() bool {
	before := l.calls
	l.turn(0)
	return l.calls != before
}

// End tells every handler Ending and releases the poller. Run calls it; who
// drives the loop by Step calls it at the end.
func (l *Loop) End() {
	l.protect((*Loop).runPosted)
	for i := uint32(1); i < l.slots.n; i++ {
		if h := l.slots.at(i).h; h != nil {
			l.tell(h, Ending)
		}
	}
	// What the handlers left to the end of the turn (Closed calls, mostly).
	l.protect((*Loop).turnEnd)
	l.mu.Lock()
	l.ended = true
	l.posted = nil
	l.mu.Unlock()
	for _, p := range l.pipes.free {
		l.PutPipe(p, false)
	}
	l.poller.End()
}

func (l *Loop) turn(timeout int64) {
	if l.posts.Load() || !l.soon.empty() {
		timeout = 0
	} else if at, ok := l.timers.next(); ok && timeout != 0 {
		timeout = max(at-l.poller.Now(), 0)
	}
	if l.gave.Load() {
		// The goroutine we started may sit in this processor's queue, and a raw
		// wait would keep it there.
		l.gave.Store(false)
		runtime.Gosched()
	}
	l.readyN = l.poller.Wait(l.events[:], timeout, l.census != nil && l.census.raw.Load())
	l.ready = 0
	l.now = l.poller.Now()
	l.wallSet = false
	l.turns++
	l.protect((*Loop).work)
}

// work is one turn. Its progress lives in l, so that after a panic protect
// calls it again and it goes on behind the culprit.
func (l *Loop) work() {
	l.runPosted()
	for l.ready < l.readyN {
		e := l.events[l.ready]
		l.ready++
		l.calls++
		i, gen := uint32(e.Token), uint32(e.Token>>32)
		if s := l.slots.at(i); s.gen == gen && s.h != nil {
			l.blame = s.h
			s.h.Ready(e.Ev)
		}
	}
	for {
		t := l.timers.pop(l.now)
		if t == nil {
			break
		}
		l.calls++
		l.blame = nil
		t.Fire()
	}
	for n := l.soon.cut(); n != nil; n = l.soon.popCut() {
		l.call(n)
	}
	l.turnEnd()
	if fn := l.stirred; fn != nil && l.calls != l.still {
		l.stirred = nil
		fn()
	}
}

func (l *Loop) turnEnd() {
	for {
		n := l.end.pop()
		if n == nil {
			n = l.flushes.pop()
		}
		if n == nil {
			l.blame = nil
			return
		}
		l.call(n)
	}
}

func (l *Loop) call(n *TurnNode) {
	l.calls++
	l.blame = nil
	n.Do()
}

func (l *Loop) runPosted() {
	if l.posts.Load() {
		l.mu.Lock()
		if l.runNext == len(l.running) {
			l.running, l.posted = l.posted, l.running[:0]
			l.runNext = 0
			l.posts.Store(false)
			l.woken = false
		}
		l.mu.Unlock()
	}
	for l.runNext < len(l.running) {
		fn := l.running[l.runNext]
		l.running[l.runNext] = nil
		l.runNext++
		l.calls++
		l.blame = nil
		fn()
	}
}

func (l *Loop) protect(phase func(*Loop)) {
	for !l.attempt(phase) {
	}
}

func (l *Loop) attempt(phase func(*Loop)) (done bool) {
	defer func() {
		if v := recover(); v != nil {
			l.Recovered(v)
			if h := l.blame; h != nil {
				l.blame = nil
				l.tell(h, Panicked)
			}
		}
	}()
	phase(l)
	return true
}

// Recovered reports a panic, also for a callback that contains those of its parts by itself.
func (l *Loop) Recovered(v any) {
	l.panics.Add(1)
	l.log.Error("callback panicked", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// tell gives h a last event; if that panics too, nothing more can be done for it.
func (l *Loop) tell(h Handler, ev Events) {
	defer func() {
		if v := recover(); v != nil {
			l.panics.Add(1)
			l.log.Error("handler panicked while being released", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	h.Ready(ev)
}

// Blame names the handler that is told Panicked should the callback under way
// panic. A handler's Ready is blamed on it already; timers, turn nodes and
// posted functions that work for a connection say so first.
func (l *Loop) Blame(h Handler) { l.blame = h }

// Panics counts the callbacks that panicked. Any goroutine.
func (l *Loop) Panics() uint64 { return l.panics.Load() }

// Turns counts the turns so far; an idle loop has none.
func (l *Loop) Turns() uint64 { return l.turns }

// Stirred calls fn once, at the end of the turn in which anything is called after this: for
// who looks at what the loop's handlers count, and need not look while nothing happens. It
// takes the place of an earlier fn, and must not block.
func (l *Loop) Stirred(fn func()) { l.stirred, l.still = fn, l.calls }

// Post runs fn on the loop in a coming turn, in the order of posting. Any
// goroutine may call it, the loop's own included. It reports false when the loop has
// ended; a function posted just before that may be dropped as well.
func (l *Loop) Post(fn func()) bool {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return false
	}
	l.posted = append(l.posted, fn)
	l.posts.Store(true)
	wake := !l.woken
	l.woken = true
	if wake {
		l.poller.Wake() // under the lock: End releases the poller after taking it
	}
	l.mu.Unlock()
	return true
}

// Go runs fn on a goroutine of its own, for work too long for a turn (a
// handshake). The loop yields to it before it waits again. fn returns its
// result by Post. A panic in it is logged and counted, like one in a callback.
func (l *Loop) Go(fn func()) {
	l.gave.Store(true)
	l.away.Add(1)
	go func() {
		defer l.away.Add(-1)
		defer func() {
			if v := recover(); v != nil {
				l.panics.Add(1)
				l.log.Error("goroutine of a loop panicked", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
			}
		}()
		fn()
	}()
}

// Park and Unpark bracket a wait, inside fn of Go, for something only the loop
// can bring; a stepped loop is not quiescent while an unparked goroutine is away.
// Who ends the wait calls Unpark, before it wakes the goroutine. Any goroutine.
func (l *Loop) Park() { l.away.Add(-1) }

// Unpark is described at Park.
func (l *Loop) Unpark() {
	l.gave.Store(true)
	l.away.Add(1)
}

// Away is the number of goroutines of Go that are working right now.
func (l *Loop) Away() int { return int(l.away.Load()) }

// Poller gives access to the sockets.
func (l *Loop) Poller() Poller { return l.poller }

// Now is the time of this turn: monotonic nanoseconds, the same clock for all
// loops of a process, never 0.
func (l *Loop) Now() int64 { return l.now }

// Wall is the wall clock at about the same moment, read at most once a turn.
func (l *Loop) Wall() time.Time {
	if !l.wallSet {
		l.wall, l.wallSet = l.poller.Wall(), true
	}
	return l.wall
}

// Rand is a random number for choices (load balancing, jitter), not for secrets.
func (l *Loop) Rand() uint64 { return l.rng.Uint64() }

// Scratch is the loop's read buffer, ScratchSize bytes. What is in it is
// overwritten by the next read of any connection of this loop.
func (l *Loop) Scratch() []byte { return l.scratch }

// Records is a second buffer of ScratchSize, for what has to be decrypted into
// Scratch; the same rule holds for it.
func (l *Loop) Records() []byte {
	if l.records == nil {
		l.records = make([]byte, ScratchSize)
	}
	return l.records
}

// Buffers is the loop's pool of byte buffers.
func (l *Loop) Buffers() *Pool { return &l.pool }

// Register adds a descriptor to the poller and returns its token. The handler
// hears of it until Close.
func (l *Loop) Register(fd int, h Handler) (Token, error) {
	i := l.free
	if i != 0 {
		l.free = l.slots.at(i).next
	} else {
		i = l.slots.more()
	}
	s := l.slots.at(i)
	t := Token(s.gen)<<32 | Token(i)
	if errno := l.poller.Add(fd, t); errno != 0 {
		s.next, l.free = l.free, i
		return 0, fmt.Errorf("registering descriptor: %w", errno)
	}
	s.h = h
	l.live++
	if l.census != nil {
		l.census.descriptors.Add(1)
	}
	return t, nil
}

// Close forgets a registration and closes its descriptor.
func (l *Loop) Close(t Token, fd int) {
	i := uint32(t)
	if s := l.slots.at(i); s.gen == uint32(t>>32) && s.h != nil {
		s.h = nil
		s.gen++
		s.next, l.free = l.free, i
		l.live--
		if l.census != nil {
			l.census.descriptors.Add(-1)
		}
	}
	l.poller.Close(fd)
}

// Registered is the number of registered descriptors.
func (l *Loop) Registered() int { return l.live }

// Census counts the running loops of a process, so that they wait in raw system
// calls (invisible to Go's scheduler, and cheaper) only while at least one
// processor (GOMAXPROCS) is left for everything else. Make one per process and
// give it to every loop.
type Census struct {
	loops       atomic.Int64
	raw         atomic.Bool
	descriptors atomic.Int64
}

// Descriptors is the number of descriptors registered with the loops. The process has
// some more: pollers, pipes, and what goroutines hold.
func (c *Census) Descriptors() int64 { return c.descriptors.Load() }

func (c *Census) join(n int64) {
	c.raw.Store(c.loops.Add(n) < int64(runtime.GOMAXPROCS(0)))
}
