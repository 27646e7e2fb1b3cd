package loop_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

func newLoop(t testing.TB) *loop.Loop {
	t.Helper()
	p, err := loop.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	return loop.New(p, loop.Options{Census: new(loop.Census)})
}

// run runs l until the test ends, and fails the test if it does not end.
func run(t testing.TB, l *loop.Loop) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// No posted function is lost or overtaken, however many goroutines post.
func TestPost(t *testing.T) {
	l := newLoop(t)
	run(t, l)
	const posters, each = 8, 2000
	got := make([][]int, posters)
	var wg, posted sync.WaitGroup
	posted.Add(posters * each)
	for p := range posters {
		wg.Go(func() {
			for i := range each {
				l.Post(func() { got[p] = append(got[p], i); posted.Done() })
			}
		})
	}
	wg.Wait()
	posted.Wait()
	for p := range got {
		if len(got[p]) != each || !slices.IsSorted(got[p]) {
			t.Errorf("poster %d: %d functions in the wrong order or number", p, len(got[p]))
		}
	}
}

func TestPostAfterEnd(t *testing.T) {
	l := newLoop(t)
	stop := run(t, l)
	stop()
	if l.Post(func() { t.Error("called") }) {
		t.Error("a loop that has ended took a function")
	}
}

// Timers fire in time order, not before their time, at most a tick late, whatever
// level of the wheel they start in; and stopped ones do not fire.
func TestTimers(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	var log []string
	begin := l.Now()
	delays := []time.Duration{
		0, 1, time.Millisecond, 63 * time.Millisecond, 64 * time.Millisecond, 65 * time.Millisecond,
		time.Second, time.Second + 1, 4096 * time.Millisecond, 5 * time.Minute, time.Hour, 30 * time.Hour, 400 * 24 * time.Hour,
	}
	timers := make([]loop.Timer, len(delays))
	for i := len(delays) - 1; i >= 0; i-- {
		timers[i].Fire = func() {
			late := time.Duration(l.Now()-begin) - delays[i]
			log = append(log, delays[i].String())
			if late < 0 || late > time.Millisecond {
				t.Errorf("timer of %v fired %v late", delays[i], late)
			}
		}
		l.Arm(&timers[i], begin+int64(delays[i]))
	}
	var stopped loop.Timer
	stopped.Fire = func() { t.Error("a stopped timer fired") }
	l.Arm(&stopped, begin+int64(70*time.Millisecond))
	stopped.Stop()
	stopped.Stop()
	for n.Next() {
	}
	var want []string
	for _, d := range delays {
		want = append(want, d.String())
	}
	slices.Sort(log[:3]) // 0, 1 ns and 1 ms share a tick
	slices.Sort(want[:3])
	slices.Sort(log[6:8])
	slices.Sort(want[6:8])
	if !slices.Equal(log, want) {
		t.Errorf("fired %v, want %v", log, want)
	}
	if stopped.Armed() || timers[3].Armed() {
		t.Error("a timer that fired or was stopped says it is armed")
	}
}

// A timer callback may stop and arm any timer, those due in the same moment included.
func TestTimersChangeEachOther(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	var log []string
	var a, b, c loop.Timer
	a.Fire = func() {
		log = append(log, "a")
		b.Stop()
		l.Arm(&c, l.Now())
		if len(log) < 3 {
			l.Arm(&a, l.Now()+int64(time.Millisecond))
		}
	}
	b.Fire = func() { log = append(log, "b") }
	c.Fire = func() { log = append(log, "c") }
	at := l.Now() + int64(10*time.Millisecond)
	l.Arm(&a, at)
	l.Arm(&b, at)
	l.Arm(&c, at)
	n.Advance(time.Second)
	if got := strings.Join(log, ""); got != "acac" {
		t.Errorf("fired %s, want acac", got)
	}
}

// Random arming, moving and stopping against a plain list.
func TestTimersProperty(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{Seed: 7})
	const count = 300
	var timers [count]loop.Timer
	due := map[int]int64{}
	for i := range timers {
		timers[i].Fire = func() {
			at, ok := due[i]
			if !ok {
				t.Fatalf("timer %d fired and was not armed", i)
			}
			if l.Now() < at || l.Now() > at+2_000_000 {
				t.Fatalf("timer %d fired at %d, due %d", i, l.Now(), at)
			}
			delete(due, i)
		}
	}
	for range 20_000 {
		i := int(l.Rand() % count)
		switch l.Rand() % 4 {
		case 0:
			timers[i].Stop()
			delete(due, i)
		case 1:
			n.Advance(time.Duration(l.Rand() % 5_000_000))
		default:
			at := l.Now() + int64(l.Rand()%(1<<(l.Rand()%40)))
			l.Arm(&timers[i], at)
			due[i] = at
		}
	}
	for n.Next() {
	}
	if len(due) != 0 {
		t.Errorf("%d timers never fired", len(due))
	}
}

func TestTimersDoNotAllocate(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	timers := make([]loop.Timer, 1000)
	for i := range timers {
		timers[i].Fire = func() {}
	}
	i := 0
	if a := testing.AllocsPerRun(1000, func() {
		i++
		l.Arm(&timers[i%1000], l.Now()+int64(i)*1_000_000)
		timers[(i*7)%1000].Stop()
		l.Step()
	}); a != 0 {
		t.Errorf("%v allocations to arm, stop and step", a)
	}
	if s := unsafe.Sizeof(loop.Timer{}); s > 48 {
		t.Errorf("a timer has %d bytes", s)
	}
}

// A turn ends with the ordinary nodes, then the flushes, and a node that asks for
// the next turn gets exactly that.
func TestTurnOrder(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	var log []string
	say := func(s string) func() { return func() { log = append(log, s) } }
	flush := loop.TurnNode{Do: say("flush")}
	end := loop.TurnNode{Do: say("end")}
	next := loop.TurnNode{}
	again := 0
	next.Do = func() {
		log = append(log, "next")
		l.AtTurnEnd(&end)
		if again++; again < 2 {
			l.NextTurn(&next)
		}
	}
	l.Post(func() {
		l.AtFlush(&flush)
		l.AtTurnEnd(&end)
		l.AtTurnEnd(&end) // queued already
		l.NextTurn(&next)
	})
	for l.Step() {
		log = append(log, ".")
	}
	want := "next end flush . next end ." // next runs once more in the very turn that asked for it from a post
	if got := strings.Join(log, " "); got != want {
		t.Errorf("order %q, want %q", got, want)
	}
}

type handlerFunc func(loop.Events)

func (f handlerFunc) Ready(ev loop.Events) { f(ev) }

// A panic costs the handler it happened in, nobody else; a timer's costs whom it blames.
func TestPanics(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	var log []string
	p := l.Poller()
	socket := func(name string, on func(loop.Events)) loop.Handler {
		ln, err := n.ListenAt(loop.Addr{Path: "/" + name})
		if err != nil {
			t.Fatal(err)
		}
		_ = ln
		fd, _ := p.Socket(loop.Unix)
		var h loop.Handler = handlerFunc(func(ev loop.Events) {
			log = append(log, fmt.Sprint(name, " ", ev))
			if ev != loop.Panicked {
				on(ev)
			}
		})
		if _, err := l.Register(fd, h); err != nil {
			t.Fatal(err)
		}
		p.Connect(fd, loop.Addr{Path: "/" + name})
		return h
	}
	socket("bad", func(loop.Events) { panic("bad") })
	good := socket("good", func(loop.Events) {})
	n.Step()
	tm := loop.Timer{Fire: func() { l.Blame(good); panic("timer") }}
	l.Arm(&tm, l.Now())
	n.Advance(time.Second)
	nobody := loop.TurnNode{Do: func() { panic("nobody is blamed") }}
	l.AtTurnEnd(&nobody)
	n.Step()
	want := []string{fmt.Sprint("bad ", loop.Writable), fmt.Sprint("bad ", loop.Panicked), fmt.Sprint("good ", loop.Writable), fmt.Sprint("good ", loop.Panicked)}
	if !slices.Equal(log, want) || l.Panics() != 3 {
		t.Errorf("events %v, %d panics; want %v, 3", log, l.Panics(), want)
	}
}

// An event of a closed descriptor does not reach the one that got its number.
func TestStaleEvents(t *testing.T) {
	l := newLoop(t)
	p := l.Poller()
	pair := func() (int, int) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fds[0], fds[1]
	}
	a, a2 := pair()
	b, b2 := pair()
	var at, bt loop.Token
	calls, stale := 0, 0
	first := handlerFunc(func(loop.Events) {
		// Whoever is first closes the other, whose event is in the same batch, and
		// opens something with the same number.
		if calls++; calls > 1 {
			return
		}
		l.Close(at, a)
		l.Close(bt, b)
		c, d := pair()
		t.Cleanup(func() { p.Close(c); p.Close(d) })
		if c != min(a, b) {
			t.Errorf("descriptor %d was not reused (got %d): the test proves nothing", min(a, b), c)
		}
		if _, err := l.Register(c, handlerFunc(func(ev loop.Events) {
			if ev&loop.Readable != 0 {
				stale++
			}
		})); err != nil {
			t.Error(err)
		}
	})
	at, _ = l.Register(a, first)
	bt, _ = l.Register(b, first)
	syscall.Write(a2, []byte("x"))
	syscall.Write(b2, []byte("x"))
	for range 3 {
		l.Step()
	}
	if calls != 1 || stale != 0 {
		t.Errorf("%d calls, %d stale events", calls, stale)
	}
	p.Close(a2)
	p.Close(b2)
}

// A loop with nothing to do does nothing: no turns but those that look.
func TestIdleCostsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a second")
	}
	l := newLoop(t)
	run(t, l)
	turns := func() uint64 {
		c := make(chan uint64)
		l.Post(func() { c <- l.Turns() })
		return <-c
	}
	far := loop.Timer{Fire: func() {}}
	l.Post(func() { l.Arm(&far, l.Now()+int64(time.Hour)) })
	before := turns()
	<-time.After(250 * time.Millisecond)
	if n := turns() - before; n > 2 {
		t.Errorf("%d turns while idle", n)
	}
}

// Who asks to be told when something happens is told of whatever comes after, in the same
// turn too, but not of its own asking, and once.
func TestStirred(t *testing.T) {
	p, err := loop.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	l := loop.New(p, loop.Options{})
	t.Cleanup(l.End)
	told := 0
	ask := func() { l.Stirred(func() { told++ }) }
	expect := func(n int, why string) {
		t.Helper()
		l.Step()
		l.Step()
		if told != n {
			t.Errorf("%s: told %d times", why, told)
		}
		told = 0
	}
	l.Post(ask)
	expect(0, "nothing happened")
	l.Post(func() {})
	expect(1, "a posted function")
	l.Post(func() {})
	expect(0, "another one")
	l.Post(ask)
	l.Post(func() {})
	expect(1, "a posted function of the same turn")
	var n loop.TurnNode
	n.Do = func() {}
	l.Post(func() { ask(); l.AtFlush(&n) })
	expect(1, "a node of the same turn")
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fds[1]) })
	tok, err := l.Register(fds[0], handlerFunc(func(loop.Events) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(tok, fds[0]) })
	l.Step()
	syscall.Write(fds[1], []byte("x"))
	l.Post(ask)
	expect(1, "readiness in the same turn")
}

// A worker that never rests leaves room for the goroutines beside it, those it
// started itself included. Measured: below 1 ms; asserted is what is promised.
func TestSaturatedLoopLeavesRoom(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps a processor busy")
	}
	l := newLoop(t)
	run(t, l)
	var busy loop.TurnNode
	busy.Do = func() {
		for begin := time.Now(); time.Since(begin) < 200*time.Microsecond; {
		}
		l.NextTurn(&busy)
	}
	l.Post(func() { l.NextTurn(&busy) })
	var took []time.Duration
	for range 30 {
		begin := time.Now()
		done := make(chan struct{})
		l.Post(func() {
			l.Go(func() { l.Post(func() { close(done) }) })
		})
		<-done
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("there and back: median %v, worst %v", took[len(took)/2], took[len(took)-1])
	if m := took[len(took)/2]; m > 20*time.Millisecond {
		t.Errorf("a goroutine of a saturated loop is answered after %v (median)", m)
	}
}

// A goroutine that panics is counted and takes nobody with it.
func TestGoPanics(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	l.Post(func() { l.Go(func() { panic("a bug") }) })
	n.Step()
	if l.Panics() != 1 || l.Away() != 0 {
		t.Errorf("%d panics, %d goroutines", l.Panics(), l.Away())
	}
}

func TestPool(t *testing.T) {
	p := mem.New().Loop(loop.Options{}).Buffers()
	b := p.Get(10)
	if len(b) != 0 || cap(b) != 4096 {
		t.Errorf("len %d cap %d", len(b), cap(b))
	}
	b = p.Append(b, make([]byte, 5000))
	if len(b) != 5000 || cap(b) != 16<<10 {
		t.Errorf("after growing: len %d cap %d", len(b), cap(b))
	}
	p.Put(b)
	p.Put(nil)
	p.Put(make([]byte, 3000))
	if a := testing.AllocsPerRun(100, func() {
		x := p.Get(4096)
		y := p.Get(9000)
		p.Put(x)
		p.Put(y)
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
	if huge := p.Get(3 << 20); cap(huge) != 3<<20 {
		t.Errorf("cap %d", cap(huge))
	}
}

// Whatever the level of the work is, its buffers are kept; what only a peak needed is given back, and then the loop has
// no timer left.
func TestPoolFollowsTheWork(t *testing.T) {
	n := mem.New()
	p := n.Loop(loop.Options{}).Buffers()
	hold := func(k int) {
		var held [][]byte
		for range k {
			held = append(held, p.Get(64<<10))
		}
		for _, b := range held {
			p.Put(b)
		}
	}
	spare := func() (k int) {
		for ; p.Spare(64<<10) > 0; k++ {
			p.Get(64 << 10)
		}
		return k
	}
	for range 3 {
		hold(200)
		n.Advance(5 * time.Second)
	}
	if a := testing.AllocsPerRun(1, func() { p.Put(p.Get(64 << 10)) }); a != 0 {
		t.Errorf("%v allocations", a)
	}
	hold(100)
	n.Advance(5 * time.Second) // still what the first third of these seconds needed
	hold(100)
	n.Advance(5 * time.Second)
	if got := p.Spare(64 << 10); got != 100 {
		t.Errorf("%d buffers are kept for work that needs 100", got)
	}
	n.Advance(10 * time.Second)
	if got := spare(); got != 8 {
		t.Errorf("%d buffers are kept for nobody, want the few", got)
	}
	hold(1000)
	if got := spare(); got != 256 {
		t.Errorf("%d buffers are kept, the limit is 256", got)
	}
}

func BenchmarkTimer(b *testing.B) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	timers := make([]loop.Timer, 10000)
	for i := range timers {
		timers[i].Fire = func() {}
		l.Arm(&timers[i], l.Now()+int64(i)*10_000_000)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Arm(&timers[i%10000], l.Now()+15_000_000_000+int64(i%977)*1_000_000)
	}
}
