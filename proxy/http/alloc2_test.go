package http_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

// end2 is one end of an HTTP/2 connection that says the same again and again, on a new stream each time.
type end2 struct {
	p      *mem.Peer
	frames []byte // of one message, on stream 0
	id     uint32
	taken  int // since the window of its connection was last opened
}

// frames2 makes HEADERS of the fields and DATA of the body, on stream 0.
func frames2(body int, fields ...string) []byte {
	var b, block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0) // the same bytes again and again
	block.Reset()
	for i := 0; i < len(fields); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	f.WriteHeaders(http2.HeadersFrameParam{BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == 0})
	for body > 0 {
		n := min(body, 16<<10)
		body -= n
		f.WriteData(0, body == 0, make([]byte, n))
	}
	return b.Bytes()
}

// hello2 is what an end begins with, behind the preface if it is a client.
func hello2(preface string) []byte {
	var b bytes.Buffer
	b.WriteString(preface)
	f := http2.NewFramer(&b, nil)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 100},
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	f.WriteSettingsAck()
	f.WriteWindowUpdate(0, 1<<30)
	return b.Bytes()
}

func (e *end2) begin(t testing.TB, preface string) {
	e.id = 1
	if _, err := e.p.Send(hello2(preface)); err != nil {
		t.Fatal(err)
	}
}

// onStream puts frames on a stream.
func onStream(frames []byte, id uint32) []byte {
	for at := 0; at < len(frames); {
		binary.BigEndian.PutUint32(frames[at+5:], id)
		at += 9 + int(frames[at])<<16 + int(frames[at+1])<<8 + int(frames[at+2])
	}
	return frames
}

// say sends the message on stream id.
func (e *end2) say(id uint32) { e.p.Send(onStream(e.frames, id)) }

// took counts what came, and opens the window of the connection again; half of it is left.
func (e *end2) took(n int) {
	if e.taken += n; e.taken > 1<<29 {
		var b bytes.Buffer
		http2.NewFramer(&b, nil).WriteWindowUpdate(0, uint32(e.taken))
		e.p.Send(b.Bytes())
		e.taken = 0
	}
}

// ends counts the frames that end a stream in b.
func ends(b []byte) (n int) {
	for len(b) >= 9 {
		if b[3] <= 1 && b[4]&1 != 0 {
			n++
		}
		b = b[9+int(b[0])<<16+int(b[1])<<8+int(b[2]):]
	}
	return n
}

// path2 is a path with HTTP/2 on one or both sides.
type path2 struct {
	*path
	client, upstream *end2 // nil: HTTP/1.1
	begun            bool
}

func newPath2(t testing.TB, down, up bool, request, response []byte) *path2 {
	p := &path2{path: &path{}}
	if down {
		p.client = &end2{frames: request}
	}
	if up {
		p.upstream = &end2{frames: response}
	}
	proto := cluster.HTTP1
	if up {
		proto = cluster.HTTP2
	}
	p.path = makePath(t, http.Outbound, request, response, proto)
	if down {
		p.client.p = p.path.client
		p.client.begin(t, http2.ClientPreface)
	}
	p.ask()
	p.path.upstream = p.listener.Accept()
	if up {
		p.upstream.p = p.path.upstream
		p.upstream.begin(t, "")
	}
	p.net.Step()
	p.answer(t)
	return p
}

func (p *path2) ask() {
	if p.client != nil {
		p.client.say(p.client.id)
		p.client.id += 2
	} else {
		p.path.client.Send(p.request)
	}
	p.net.Step()
}

func (p *path2) answer(t testing.TB) {
	asked := p.path.upstream.Take(p.buf)
	if asked == 0 {
		t.Fatal("nothing reached the upstream")
	}
	if p.upstream != nil {
		p.upstream.took(asked)
		p.upstream.say(p.upstream.id)
		p.upstream.id += 2
	} else {
		p.path.upstream.Send(p.response)
	}
	p.net.Step()
	n := p.path.client.Take(p.buf)
	if p.client != nil {
		p.client.took(n)
	}
	switch {
	case p.client == nil && !bytes.HasPrefix(p.buf[:n], []byte("HTTP/1.1 200 OK\r\n")):
		t.Fatalf("the client got %q", p.buf[:n])
	case p.client != nil && p.begun && ends(p.buf[:n]) != 1:
		t.Fatalf("the client got %d ends of streams in %d bytes: %.200q", ends(p.buf[:n]), n, p.buf[:n])
	}
	p.begun = true
}

func (p *path2) exchange(t testing.TB) {
	p.ask()
	p.answer(t)
}

func paths2(t testing.TB) map[string]func() *path2 {
	head := []string{":method", "GET", ":scheme", "http", ":authority", "reviews:9080", ":path", "/reviews/0?x=y", "user-agent", "grpc-go/1.80", "accept", "*/*", "end-user", "jason"}
	post := append([]string{":method", "POST"}, head[2:]...)
	ok := []string{":status", "200", "content-type", "application/json", "server", "gunicorn"}
	return map[string]func() *path2{
		"h2-h2":      func() *path2 { return newPath2(t, true, true, frames2(0, head...), frames2(1024, ok...)) },
		"h2-h2 POST": func() *path2 { return newPath2(t, true, true, frames2(1000, post...), frames2(1024, ok...)) },
		"h2-h2 60KB": func() *path2 { return newPath2(t, true, true, frames2(60<<10, post...), frames2(60<<10, ok...)) },
		"h2-h1":      func() *path2 { return newPath2(t, true, false, frames2(1000, post...), []byte(okResponse(1024))) },
		"h1-h2":      func() *path2 { return newPath2(t, false, true, []byte(getRequest), frames2(1024, ok...)) },
	}
}

// A proxied request leaves no garbage with HTTP/2 on either side either.
func TestExchange2AllocatesNothing(t *testing.T) {
	for name, start := range paths2(t) {
		t.Run(name, func(t *testing.T) {
			p := start()
			for range 300 {
				p.exchange(t) // buffers, lists and tables grow to their working size
			}
			if n := testing.AllocsPerRun(500, func() { p.exchange(t) }); n != 0 {
				t.Errorf("%v allocations per exchange, want 0", n)
			}
		})
	}
}

// BenchmarkExchange2 is BenchmarkExchange with HTTP/2.
func BenchmarkExchange2(b *testing.B) {
	for name, start := range paths2(b) {
		b.Run(name, func(b *testing.B) {
			p := start()
			b.ReportAllocs()
			for b.Loop() {
				p.exchange(b)
			}
		})
	}
}
