package wire_test

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/test/wire"
)

// Who reads slowly holds back who sends: what two proxies hold of a body is bounded by the watermarks of their
// connections, however large it is, in both directions and with both protocols on every hop. (make soak does it with a
// gigabyte over real sockets.)
func TestSlowReader(t *testing.T) {
	lab := &wire.Lab{}
	for _, hops := range []wire.Hops{{wire.H1, wire.H1, wire.H1}, {wire.H1, wire.H2, wire.H1}, {wire.H2, wire.H1, wire.H2}, {wire.H2, wire.H2, wire.H2}} {
		for _, upload := range []bool{false, true} {
			name := fmt.Sprintf("%v upload=%v", hops, upload)
			t.Run(name, func(t *testing.T) { slowReader(t, lab, hops, upload, false) })
			if hops[0] == wire.H2 {
				t.Run(name+" wide", func(t *testing.T) { slowReader(t, lab, hops, upload, true) })
			}
		}
	}
}

// slowReader sends a body through a chain. wide: a reader of HTTP/2 opens its windows as far as they go and reads slowly,
// instead of opening them slowly.
func slowReader(t *testing.T, lab *wire.Lab, hops wire.Hops, upload, wide bool) {
	const size = 32 << 20
	bound := 0
	for _, p := range hops {
		// Of each connection, what its writer keeps beyond the high mark (256 KiB and a read of 64 KiB), and the sockets'
		// buffers (64 KiB each way); of one of HTTP/2, a window of 256 KiB too, and a frame.
		bound += (256 + 64 + 2*64) << 10
		if p == wire.H2 {
			bound += (256 + 16) << 10
		}
	}
	c := lab.Chain(t, hops, wire.Options{Alone: true})
	l, err := c.Net.Listen(c.Behind())
	if err != nil {
		t.Fatal(err)
	}
	front, err := c.Net.Dial(c.Front())
	if err != nil {
		t.Fatal(err)
	}
	client := newEnd(t, hops[0], front, true, wide)
	method, length := "GET", 0
	if upload {
		method, length = "POST", size
	}
	client.ask(method, length)
	c.Net.Step()
	behind := l.Accept()
	if behind == nil {
		t.Fatal("nothing reached the back end")
	}
	back := newEnd(t, hops[len(hops)-1], behind, false, wide)
	hear(t, c, back, method)
	from, to := client, back
	if !upload {
		from, to = back, client
		back.answer("200", size)
		c.Net.Step()
		hear(t, c, client, "200")
	}
	before := heap()
	sent, got, most, idle, measured := 0, 0, 0, 0, false
	for got < size {
		for n := from.send(); n > 0; n = from.send() {
			sent += n
			c.Net.Step()
			from.recv()
			if most = max(most, sent-got); most > 2*bound {
				t.Fatalf("%d KiB are on their way, at most %d can be", most>>10, bound>>10)
			}
		}
		if got >= size/2 && !measured {
			measured = true
			// Buffers may have room for twice what is in them.
			if grown := int(heap()) - int(before); grown > 2*bound {
				t.Errorf("%d KiB of memory are needed, at most %d should be", grown>>10, 2*bound>>10)
			}
		}
		n := to.recv()
		c.Net.Step()
		from.recv()
		if got += n; n > 0 {
			idle = 0
		} else if idle++; idle > 10 {
			t.Fatalf("%d of %d bytes were sent, %d came: it is stuck", sent, size, got)
		}
	}
	if most > bound {
		t.Errorf("%d KiB were on their way at once, at most %d can be", most>>10, bound>>10)
	}
	if upload {
		back.answer("202", 0)
		c.Net.Step()
		hear(t, c, client, "202")
	}
	// It is over, for everybody: on the same connections there is room for another request.
	client.ask("PUT", 0)
	c.Net.Step()
	hear(t, c, back, "PUT")
	back.answer("201", 0)
	c.Net.Step()
	hear(t, c, client, "201")
	front.Close()
	behind.Close()
	l.Close()
	c.Close()
}

// readAtOnce is what a slow reader reads.
const readAtOnce = 8 << 10

// end is one end of a chain, where messages come and go, one of them with a large body.
type end interface {
	// ask and answer say that a body of length follows.
	ask(method string, length int)
	answer(status string, length int)
	// send sends some of it, as far as it is taken; 0: nothing is.
	send() int
	// recv reads a little and returns how much of it was body.
	recv() int
	// heard is the method or status that came, "" before.
	heard() string
}

func newEnd(t *testing.T, p wire.Protocol, peer *mem.Peer, client, wide bool) end {
	if p == wire.H1 {
		return &end1{t: t, p: peer}
	}
	return newEnd2(t, peer, client, wide)
}

func hear(t *testing.T, c *wire.Chain, e end, want string) {
	t.Helper()
	for range 10 {
		if e.recv() > 0 {
			t.Fatal("a body came before it was sent")
		}
		c.Net.Step()
	}
	if e.heard() != want {
		t.Fatalf("it got %q, want %q", e.heard(), want)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

var someBody = bytes.Repeat([]byte{'x'}, 64<<10)

// end1 speaks HTTP/1.1.
type end1 struct {
	t    *testing.T
	p    *mem.Peer
	left int // of the body to send
	head []byte
}

func (e *end1) ask(method string, length int) {
	e.say(method+" / HTTP/1.1\r\nHost: a\r\n", length)
}

func (e *end1) answer(status string, length int) { e.say("HTTP/1.1 "+status+" x\r\n", length) }

func (e *end1) say(head string, length int) {
	if e.left = length; !strings.HasPrefix(head, "GET ") {
		head += fmt.Sprintf("Content-Length: %d\r\n", length)
	}
	e.head = nil
	if n, err := e.p.Send([]byte(head + "\r\n")); err != nil || n < len(head) {
		e.t.Fatalf("sent %d bytes of a head: %v", n, err)
	}
}

func (e *end1) send() int {
	n, err := e.p.Send(someBody[:min(len(someBody), e.left)])
	if err != nil {
		e.t.Fatal(err)
	}
	e.left -= n
	return n
}

func (e *end1) recv() int {
	b, err := e.p.RecvUpTo(readAtOnce)
	if err != nil {
		e.t.Fatalf("the connection ended: %v", err)
	}
	if bytes.HasSuffix(e.head, []byte("\r\n\r\n")) {
		return len(b)
	}
	e.head = append(e.head, b...)
	return 0
}

var startLine = regexp.MustCompile(`^(?:HTTP/1\.1 )?(\w+) (?s:.*)\r\n\r\n$`)

func (e *end1) heard() string {
	if m := startLine.FindSubmatch(e.head); m != nil {
		return string(m[1])
	}
	return ""
}

// end2 speaks HTTP/2, on one stream after the other.
type end2 struct {
	t             *testing.T
	p             *mem.Peer
	w             *http2.Framer
	out, block    bytes.Buffer
	in            []byte
	enc           *hpack.Encoder
	dec           *hpack.Decoder
	wide          bool
	left          int // of the body to send
	prefaced      bool
	initial       int // window of a stream, as the peer says
	stream, whole int // windows to send in
	first         string
	client        bool
	id            uint32 // of the stream
}

func newEnd2(t *testing.T, p *mem.Peer, client, wide bool) *end2 {
	const most = 1<<31 - 1
	e := &end2{t: t, p: p, wide: wide, prefaced: client, client: client, initial: 65535, stream: 65535, whole: 65535}
	e.w = http2.NewFramer(&e.out, nil)
	e.enc, e.dec = hpack.NewEncoder(&e.block), hpack.NewDecoder(4096, nil)
	if client {
		e.out.WriteString(http2.ClientPreface)
	}
	if wide {
		_ = e.w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: most})
		_ = e.w.WriteWindowUpdate(0, most-65535)
	} else {
		_ = e.w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 16 << 10})
	}
	e.flush()
	return e
}

func (e *end2) flush() {
	n, err := e.p.Send(e.out.Bytes())
	if err != nil {
		e.t.Fatal(err)
	}
	e.out.Next(n)
}

func (e *end2) ask(method string, length int) {
	e.say([]hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}}, length)
}

func (e *end2) answer(status string, length int) {
	e.say([]hpack.HeaderField{{Name: ":status", Value: status}}, length)
}

func (e *end2) say(fields []hpack.HeaderField, length int) {
	e.left, e.first = length, ""
	if e.client {
		e.id += 1 + e.id&1 // 1, 3, …
		e.stream = e.initial
	}
	for _, f := range fields {
		_ = e.enc.WriteField(f)
	}
	_ = e.w.WriteHeaders(http2.HeadersFrameParam{StreamID: e.id, BlockFragment: e.block.Bytes(), EndHeaders: true, EndStream: length == 0})
	e.block.Reset()
	e.flush()
}

func (e *end2) send() int {
	if e.flush(); e.out.Len() > 0 {
		return 0
	}
	n := min(16<<10, e.left, e.stream, e.whole)
	if n <= 0 {
		return 0
	}
	e.left, e.stream, e.whole = e.left-n, e.stream-n, e.whole-n
	_ = e.w.WriteData(e.id, e.left == 0, someBody[:n])
	e.flush()
	return n
}

func (e *end2) recv() (body int) {
	b, err := e.p.RecvUpTo(readAtOnce)
	if err != nil {
		e.t.Fatalf("the connection ended: %v", err)
	}
	e.in = append(e.in, b...)
	if !e.prefaced && len(e.in) >= len(http2.ClientPreface) {
		e.in, e.prefaced = e.in[len(http2.ClientPreface):], true
	}
	const head = 9
	for e.prefaced && len(e.in) >= head {
		n := head + int(e.in[0])<<16 + int(e.in[1])<<8 + int(e.in[2])
		if len(e.in) < n {
			break
		}
		f, err := http2.NewFramer(io.Discard, bytes.NewReader(e.in[:n])).ReadFrame()
		if err != nil {
			e.t.Fatal(err)
		}
		body += e.take(f)
		e.in = e.in[n:]
	}
	e.flush()
	return body
}

// take does what a frame asks for, and returns how much of it was body.
func (e *end2) take(f http2.Frame) (body int) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			break
		}
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			e.stream += int(v) - e.initial
			e.initial = int(v)
		}
		_ = e.w.WriteSettingsAck()
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = e.w.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		switch f.StreamID {
		case 0:
			e.whole += int(f.Increment)
		case e.id:
			e.stream += int(f.Increment)
		}
	case *http2.HeadersFrame:
		fields, err := e.dec.DecodeFull(f.HeaderBlockFragment())
		if err != nil || !f.HeadersEnded() {
			e.t.Fatalf("the head cannot be read: %v", err)
		}
		e.id, e.first = f.StreamID, fields[0].Value
	case *http2.DataFrame:
		if body = len(f.Data()); !e.wide && body > 0 {
			_ = e.w.WriteWindowUpdate(0, uint32(body))
			if !f.StreamEnded() {
				_ = e.w.WriteWindowUpdate(e.id, uint32(body))
			}
		}
	case *http2.GoAwayFrame, *http2.RSTStreamFrame:
		e.t.Fatalf("it got %v", f)
	}
	return body
}

func (e *end2) heard() string { return e.first }
