package conn_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

var addr = netip.MustParseAddrPort("127.0.0.1:9080")

// owner records what a connection tells its Handler, and does what the test says.
type owner struct {
	c       *conn.Conn
	log     []string
	why     conn.Why
	onData  func(c *conn.Conn, b []byte) int
	onEOF   func(c *conn.Conn)
	onDrain func(c *conn.Conn)
	onOpen  func(c *conn.Conn)
}

func (o *owner) say(format string, a ...any) { o.log = append(o.log, fmt.Sprintf(format, a...)) }

func (o *owner) Open(c *conn.Conn) {
	o.c = c
	o.say("open")
	if o.onOpen != nil {
		o.onOpen(c)
	}
}

func (o *owner) Data(c *conn.Conn, b []byte) int {
	if o.onData != nil {
		return o.onData(c, b)
	}
	o.say("data %q", b)
	return len(b)
}

func (o *owner) EOF(c *conn.Conn) {
	o.say("eof")
	if o.onEOF != nil {
		o.onEOF(c)
	}
}

func (o *owner) Drained(c *conn.Conn) {
	o.say("drained")
	if o.onDrain != nil {
		o.onDrain(c)
	}
}

func (o *owner) Closed(c *conn.Conn, why conn.Why) { o.why = why; o.say("closed: %v", why) }

func (o *owner) take() string {
	s := strings.Join(o.log, "; ")
	o.log = nil
	return s
}

func (o *owner) want(t *testing.T, want string) {
	t.Helper()
	if got := o.take(); got != want {
		t.Errorf("handler heard %q, want %q", got, want)
	}
}

// accept makes the loop's end of a connection from a test's peer.
func accept(t *testing.T, n *mem.Net, l *loop.Loop, o *owner) *mem.Peer {
	t.Helper()
	p := l.Poller()
	fd, _ := p.Socket(loop.IPv4)
	p.Bind(fd, loop.TCP(addr))
	if e := p.Listen(fd, 10); e != 0 {
		t.Fatal(e)
	}
	peer, err := n.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	nfd, remote, e := p.Accept(fd)
	if e != 0 {
		t.Fatal(e)
	}
	p.Close(fd)
	o.c = conn.Accept(l, nfd, conn.Info{Remote: remote.AddrPort, Local: addr}, o)
	n.Step()
	o.want(t, "open")
	return peer
}

func dial(t *testing.T, n *mem.Net, l *loop.Loop, o *owner) *mem.Peer {
	t.Helper()
	ln, err := n.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	o.c = conn.Dial(l, conn.Target{Addr: loop.TCP(addr)}, o)
	n.Step()
	peer := ln.Accept()
	o.want(t, "open")
	ln.Close()
	return peer
}

func recv(t *testing.T, p *mem.Peer, want string, wantErr error) {
	t.Helper()
	b, err := p.Recv()
	if string(b) != want || !errors.Is(err, wantErr) {
		t.Errorf("peer received %q, %v; want %q, %v", b, err, want, wantErr)
	}
}

func setup() (*mem.Net, *loop.Loop, *owner) {
	n := mem.New()
	return n, n.Loop(loop.Options{}), &owner{}
}

// Whatever the peer's segments are, the handler sees its bytes in order, and what
// it leaves is shown again with more behind it.
func TestInputIsKept(t *testing.T) {
	for _, segment := range []int{0, 1, 3} {
		n, l, o := setup()
		n.SegmentSize = segment
		peer := accept(t, n, l, o)
		var lines []string
		o.onData = func(c *conn.Conn, b []byte) int {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				return 0
			}
			lines = append(lines, string(b[:i]))
			c.Kick() // there may be more
			return i + 1
		}
		peer.Send([]byte("one\ntwo\nth"))
		n.Step()
		if got := o.c.Kept(); got != 2 {
			t.Errorf("segment %d: %d bytes kept, want 2", segment, got)
		}
		peer.Send([]byte("ree\n"))
		n.Step()
		if want := []string{"one", "two", "three"}; !slices.Equal(lines, want) {
			t.Errorf("segment %d: lines %q, want %q", segment, lines, want)
		}
		if o.c.Kept() != 0 || o.c.Received() != 14 {
			t.Errorf("kept %d, received %d", o.c.Kept(), o.c.Received())
		}
	}
}

func TestHalfClose(t *testing.T) {
	n, l, o := setup()
	peer := accept(t, n, l, o)
	peer.Send([]byte("question"))
	peer.CloseWrite()
	n.Step()
	o.want(t, `data "question"; eof`)
	o.c.Write([]byte("answer"))
	n.Step()
	recv(t, peer, "answer", nil)
	o.c.CloseWrite()
	o.c.Write([]byte("too late"))
	n.Step()
	o.want(t, "closed: finished by both sides")
	recv(t, peer, "", io.EOF)
	if got := n.Open(); got != 1 {
		t.Errorf("%d sockets, want the peer's only", got)
	}
}

// We may end first, and still read what the peer has to say.
func TestHalfCloseFirst(t *testing.T) {
	n, l, o := setup()
	peer := dial(t, n, l, o)
	o.c.Write([]byte("bye"))
	o.c.CloseWrite()
	n.Step()
	recv(t, peer, "bye", io.EOF)
	peer.Send([]byte("one more thing"))
	n.Step()
	o.want(t, `data "one more thing"`)
	peer.Close()
	n.Step()
	o.want(t, "eof; closed: finished by both sides")
}

// The end of the stream waits until the reader wants it.
func TestPauseHoldsDataAndEOF(t *testing.T) {
	n, l, o := setup()
	peer := accept(t, n, l, o)
	o.onData = func(c *conn.Conn, b []byte) int {
		o.say("data %q", b)
		c.Pause()
		return 1
	}
	peer.Send([]byte("abc"))
	n.Step()
	o.want(t, `data "abc"`)
	peer.Send([]byte("d"))
	peer.CloseWrite()
	n.Step()
	o.want(t, "")
	o.c.Resume()
	o.want(t, "") // never from inside the call
	n.Step()
	o.want(t, `data "bc"`)
	o.onData = nil
	o.c.Resume()
	n.Step()
	o.want(t, `data "c"; data "d"; eof`)
}

// A reset is noticed although nobody reads.
func TestResetWhilePaused(t *testing.T) {
	n, l, o := setup()
	peer := accept(t, n, l, o)
	o.c.Pause()
	peer.Reset()
	n.Step()
	o.want(t, "closed: reset by the peer: connection reset by peer")
}

// All the writes of a turn leave in one call; a reader that does not read makes
// Buffered grow, and Drained says when to go on.
func TestBackPressure(t *testing.T) {
	n, l, o := setup()
	n.Buffer = 10_000
	peer := accept(t, n, l, o)
	block := bytes.Repeat([]byte("0123456789"), 5_000)
	var sent, got bytes.Buffer
	for o.c.Buffered() <= conn.HighWater {
		o.c.Write(block)
		sent.Write(block)
	}
	o.c.Write([]byte("tail"))
	sent.WriteString("tail")
	n.Step()
	for o.c.Buffered() > conn.LowWater {
		o.want(t, "")
		b, _ := peer.RecvUpTo(7_000)
		got.Write(b)
		n.Step()
	}
	o.want(t, "drained")
	for o.c.Buffered() > 0 || peer.Pending() > 0 {
		b, _ := peer.Recv()
		got.Write(b)
		n.Step()
	}
	if !bytes.Equal(sent.Bytes(), got.Bytes()) {
		t.Errorf("sent %d bytes, received %d, or others", sent.Len(), got.Len())
	}
	o.want(t, "")
	if o.c.Sent() != uint64(sent.Len()) {
		t.Errorf("counted %d bytes sent, want %d", o.c.Sent(), sent.Len())
	}
}

// Out and SetOut, mixed with writes of all sizes and partial sends, keep the order.
func TestOutputOrder(t *testing.T) {
	n, l, o := setup()
	n.Buffer = 3_000
	peer := accept(t, n, l, o)
	var sent, got bytes.Buffer
	for i := range 400 {
		b := bytes.Repeat([]byte{byte('a' + i%26)}, int(l.Rand()%600)*int(1+l.Rand()%60))
		sent.Write(b)
		if i%3 == 0 {
			o.c.SetOut(l.Buffers().Append(o.c.Out(), b))
		} else {
			o.c.Write(b)
		}
		if i%2 == 0 {
			n.Step()
			r, _ := peer.RecvUpTo(2_000)
			got.Write(r)
		}
	}
	for o.c.Buffered() > 0 || peer.Pending() > 0 {
		n.Step()
		r, _ := peer.Recv()
		got.Write(r)
	}
	if !bytes.Equal(sent.Bytes(), got.Bytes()) {
		t.Error("bytes lost or out of order")
	}
}

// Close flushes, half-closes and swallows what the client still sends, so that no
// RST destroys the answer; a client that never ends costs Linger.
func TestCloseLingers(t *testing.T) {
	n, l, o := setup()
	peer := accept(t, n, l, o)
	o.c.Pause()
	peer.Send([]byte("a long upload"))
	n.Step()
	o.c.Write([]byte("413"))
	o.c.Close()
	o.c.Write([]byte("never sent"))
	o.c.SetOut(append(o.c.Out(), "nor this"...))
	n.Step()
	recv(t, peer, "413", io.EOF)
	peer.Send([]byte("more of it"))
	n.Step()
	o.want(t, "")
	n.Advance(conn.Linger - time.Millisecond)
	o.want(t, "")
	n.Advance(time.Millisecond)
	o.want(t, "closed: closed by the proxy")

	n, l, o = setup()
	peer = accept(t, n, l, o)
	o.c.Close()
	n.Step()
	recv(t, peer, "", io.EOF)
	peer.Close()
	n.Step()
	o.want(t, "closed: closed by the proxy")
	if n.Elapsed() != 0 {
		t.Errorf("took %v", n.Elapsed())
	}
}

// A dialled connection is closed as soon as its output is out.
func TestCloseDialled(t *testing.T) {
	n, l, o := setup()
	peer := dial(t, n, l, o)
	o.c.Write([]byte("last words"))
	o.c.Close()
	n.Step()
	recv(t, peer, "last words", io.EOF)
	o.want(t, "closed: closed by the proxy")
}

// A peer that takes nothing cannot hold a closed connection for ever.
func TestCloseGivesUp(t *testing.T) {
	n, l, o := setup()
	n.Buffer = 10
	peer := accept(t, n, l, o)
	o.c.Write(make([]byte, 100))
	o.c.Close()
	n.Step()
	n.Advance(time.Minute)
	o.want(t, "closed: the peer did not take the rest of the output in time")
	if _, err := peer.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer saw %v, want a reset: the answer is cut", err)
	}
}

func TestReset(t *testing.T) {
	n, l, o := setup()
	peer := accept(t, n, l, o)
	o.c.Write([]byte("dropped"))
	o.c.Reset()
	o.c.Reset()
	o.c.Close()
	o.want(t, "")
	n.Step()
	o.want(t, "closed: reset by the proxy")
	recv(t, peer, "", syscall.ECONNRESET)
}

// Errors of a write come by Closed, once, and never from inside Write.
func TestWriteToAGonePeer(t *testing.T) {
	n, l, o := setup()
	peer := accept(t, n, l, o)
	peer.Reset()
	o.c.Write(make([]byte, 100_000))
	o.c.Write([]byte("x"))
	o.want(t, "")
	n.Step()
	o.want(t, "closed: reset by the peer: connection reset by peer")
	if n.Open() != 0 || l.Registered() != 0 {
		t.Errorf("%d sockets, %d registrations left", n.Open(), l.Registered())
	}
}

func TestDialFailures(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(n *mem.Net)
		target  conn.Target
		want    string
		retry   bool
		after   time.Duration
	}{
		{"nobody listens", nil, conn.Target{Addr: loop.TCP(addr)}, "closed: connection refused: connection refused", true, 0},
		{"no answer", func(n *mem.Net) { n.Silence(addr, true) }, conn.Target{Addr: loop.TCP(addr), Timeout: time.Second}, "closed: connecting timed out", true, time.Second},
		{"no descriptors", func(n *mem.Net) { n.Descriptors = 1; n.Loop(loop.Options{}).Poller().Socket(loop.IPv4) }, conn.Target{Addr: loop.TCP(addr)}, "closed: no socket could be made: too many open files", true, 0},
		{"no address", nil, conn.Target{}, "closed: connecting failed: invalid argument", true, 0},
	} {
		n, l, o := setup()
		if tc.prepare != nil {
			tc.prepare(n)
		}
		c := conn.Dial(l, tc.target, o)
		c.Write([]byte("never sent"))
		o.want(t, "")
		n.Step()
		for n.Next() {
		}
		if got := o.take(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if n.Elapsed() != tc.after {
			t.Errorf("%s: after %v, want %v", tc.name, n.Elapsed(), tc.after)
		}
	}
}

// What is written while connecting is sent as soon as that is done.
func TestWriteBeforeOpen(t *testing.T) {
	n, l, o := setup()
	ln, _ := n.ListenAt(loop.Addr{Path: "/run/app.sock"})
	c := conn.Dial(l, conn.Target{Addr: loop.Addr{Path: "/run/app.sock"}}, o)
	c.Write([]byte("early"))
	n.Step()
	o.want(t, "open")
	recv(t, ln.Accept(), "early", nil)
}

// slowSource has no socket ready; the test delivers it later.
type slowSource struct{ done func(int, error) }

func (s *slowSource) Take(loop.Family) (int, syscall.Errno)      { return -1, syscall.EAGAIN }
func (s *slowSource) Order(_ loop.Family, done func(int, error)) { s.done = done }

func TestSocketSource(t *testing.T) {
	n, l, o := setup()
	ln, _ := n.Listen(addr)
	src := &slowSource{}
	conn.Dial(l, conn.Target{Addr: loop.TCP(addr), Socket: src}, o)
	n.Step()
	o.want(t, "")
	fd, _ := l.Poller().Socket(loop.IPv4)
	src.done(fd, nil)
	n.Step()
	o.want(t, "open")
	if ln.Accept() == nil {
		t.Error("not connected")
	}

	o = &owner{}
	c := conn.Dial(l, conn.Target{Addr: loop.TCP(addr), Socket: src}, o)
	src.done(-1, errors.New("the workload is gone"))
	n.Step()
	o.want(t, "closed: no socket could be made: the workload is gone")

	o = &owner{}
	c = conn.Dial(l, conn.Target{Addr: loop.TCP(addr), Socket: src}, o)
	c.Close()
	before := n.Open()
	fd, _ = l.Poller().Socket(loop.IPv4)
	src.done(fd, nil)
	n.Step()
	o.want(t, "closed: closed by the proxy")
	if n.Open() != before {
		t.Error("the socket that came too late was not closed")
	}
}

// A handler that cannot use a full buffer stops the reading, and nothing is lost.
func TestFullInput(t *testing.T) {
	n, l, o := setup()
	n.Buffer = 1 << 20
	peer := accept(t, n, l, o)
	o.onData = func(*conn.Conn, []byte) int { return 0 }
	sent := bytes.Repeat([]byte("abcdefg"), 30_000)
	peer.Send(sent)
	n.Step()
	if got := o.c.Kept(); got != loop.ScratchSize {
		t.Errorf("kept %d", got)
	}
	var got []byte
	o.onData = func(_ *conn.Conn, b []byte) int {
		got = append(got, b...)
		return len(b)
	}
	o.c.Kick()
	n.Step()
	if !bytes.Equal(got, sent) {
		t.Errorf("received %d of %d bytes, or others", len(got), len(sent))
	}
}

func TestPanicClosesTheConnection(t *testing.T) {
	n, l, o := setup()
	peer := accept(t, n, l, o)
	o.onData = func(*conn.Conn, []byte) int { panic("a bug") }
	peer.Send([]byte("x"))
	n.Step()
	o.want(t, "closed: a callback panicked")
	if n.Open() != 1 || l.Panics() != 1 {
		t.Errorf("%d sockets, %d panics", n.Open(), l.Panics())
	}
}

func TestEndOfLoop(t *testing.T) {
	n, l, o := setup()
	accept(t, n, l, o)
	l.End()
	o.want(t, "closed: the worker stopped")
	if n.Open() != 1 {
		t.Error("socket left open")
	}
}

func TestSizes(t *testing.T) {
	// 416 is a size class of the allocator, the next is 448; two functions come to it, of 16 bytes each.
	if s := unsafe.Sizeof(conn.Conn{}); s > 416 {
		t.Errorf("a connection has %d bytes", s)
	}
	n, l, o := setup()
	peer := accept(t, n, l, o)
	peer.Send([]byte("x"))
	o.c.Write([]byte("y"))
	n.Step()
	if o.c.Kept() != 0 || o.c.Buffered() != 0 || conn.HoldsBuffers(o.c) {
		t.Error("an idle connection holds buffers")
	}
}

// echo is the smallest honest owner.
type echo struct{}

func (echo) Open(*conn.Conn)             {}
func (echo) EOF(c *conn.Conn)            { c.CloseWrite() }
func (echo) Drained(c *conn.Conn)        { c.Resume() }
func (echo) Closed(*conn.Conn, conn.Why) {}
func (echo) Data(c *conn.Conn, b []byte) int {
	c.Write(b)
	if c.Buffered() > conn.HighWater {
		c.Pause()
	}
	return len(b)
}

func TestEchoDoesNotAllocate(t *testing.T) {
	n, l, o := setup()
	n.Buffer = 1 << 20
	accepted := accept(t, n, l, o)
	_ = accepted
	o.c.SetHandler(echo{})
	for _, size := range []int{1, 1000, 5000, 100_000} {
		msg := make([]byte, size)
		buf := make([]byte, size)
		round := func() {
			accepted.Send(msg)
			for got := 0; got < size; {
				n.Step()
				b := accepted.Take(buf)
				got += b
			}
		}
		round()
		if a := testing.AllocsPerRun(100, round); a != 0 {
			t.Errorf("%v allocations to echo %d bytes", a, size)
		}
	}
}
