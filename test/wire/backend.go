package wire

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455 says so; it protects nothing
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/weirmesh/weir/proxy/loop/mem"
)

// Backend is what stands behind the last proxy. It records every request, answers it, and notes whatever is not
// written in the one way this package's readers take.
type Backend struct {
	// Answer is what the next requests are answered with, one after the other, instead of the default: 200 with the
	// beginning of the request line as body. Bytes are sent as they are; {accept} becomes what a WebSocket's key asks for. For HTTP/2 they
	// are in the notation of frames.
	Answer [][]byte
	// Early sends an answer when the head of a request is there.
	Early bool

	Requests []*Message // complete or not, in order
	Problems []string

	protocol Protocol
	l        *mem.Listener
	conns    []backConn
	most     int
}

// Open is the number of connections that are open.
func (b *Backend) Open() (n int) {
	for _, c := range b.conns {
		if c.open() {
			n++
		}
	}
	return n
}

// Most is the most connections that were ever open at once.
func (b *Backend) Most() int { return b.most }

// backConn is one connection of a Backend.
type backConn interface {
	work() bool // reports whether anything was done
	say(text []byte)
	open() bool
	close()
}

// backConn1 speaks HTTP/1.1.
type backConn1 struct {
	b       *Backend
	p       *mem.Peer
	in, out []byte
	now     *Message // being received
	early   bool     // it was answered
	tunnel  bool
	ended   bool
	refused bool // could not be read any further
}

func newBackend(l *mem.Listener, p Protocol) *Backend { return &Backend{l: l, protocol: p} }

// work does what can be done, and reports whether anything was.
func (b *Backend) work() (worked bool) {
	for p := b.l.Accept(); p != nil; p = b.l.Accept() {
		if b.protocol == H2 {
			b.conns = append(b.conns, newBackConn2(b, p))
		} else {
			b.conns = append(b.conns, &backConn1{b: b, p: p})
		}
		worked = true
	}
	for _, c := range b.conns {
		worked = c.work() || worked
	}
	b.most = max(b.most, b.Open())
	return worked
}

func (c *backConn1) work() bool {
	if c.ended {
		return false
	}
	got, err := c.p.Recv()
	c.in = append(c.in, got...)
	if err != nil {
		c.ended = true
		c.p.Close()
	}
	switch {
	case c.tunnel:
		c.now.Body = append(c.now.Body, got...)
	case !c.refused:
		c.read()
	}
	n, _ := c.p.Send(c.out)
	c.out = c.out[n:]
	return len(got) > 0 || n > 0
}

// read takes requests out of what was received.
func (c *backConn1) read() {
	for len(c.in) > 0 {
		m, n, err := readRequest(c.in)
		if err != nil {
			c.refused = true
			c.b.problem("%v", err)
			return
		}
		if m == nil {
			return
		}
		if c.now == nil {
			c.now = m
			c.b.Requests = append(c.b.Requests, m)
		} else {
			*c.now = *m
		}
		if c.b.Early || n > 0 {
			c.answer()
		}
		if c.tunnel {
			c.now.Body, c.in = append([]byte(nil), c.in[n:]...), nil
			return
		}
		if n == 0 {
			return
		}
		c.now.raw = c.in[:n:n]
		c.in = c.in[n:]
		c.now, c.early = nil, false
	}
}

// answer sends the answer to the request being read, once.
func (c *backConn1) answer() {
	if c.early || c.ended {
		return
	}
	c.early = true
	body := c.now.Start[:min(len(c.now.Start), 1000)]
	text := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", len(body))
	if !strings.HasPrefix(c.now.Start, "HEAD ") {
		text = append(text, body...)
	}
	if len(c.b.Answer) > 0 {
		text, c.b.Answer = c.b.Answer[0], c.b.Answer[1:]
		text = bytes.ReplaceAll(text, []byte("{accept}"), accept(c.now.Get("sec-websocket-key")))
		c.tunnel = bytes.HasPrefix(text, []byte("HTTP/1.1 101 ")) || bytes.HasPrefix(text, []byte("HTTP/1.1 2")) && strings.HasPrefix(c.now.Start, "CONNECT ")
	}
	c.out = append(c.out, text...)
}

// accept is the answer to a key (RFC 6455 section 4.2.2).
func accept(key string) []byte {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}

// Send sends bytes on the newest connection, asked for or not.
func (b *Backend) Send(text []byte) {
	if len(b.conns) == 0 {
		b.problem("no connection to send %q on", text)
		return
	}
	b.conns[len(b.conns)-1].say(text)
}

func (c *backConn1) say(text []byte) { c.out = append(c.out, text...) }

func (c *backConn1) open() bool { return !c.ended }

func (c *backConn1) close() {
	if !c.ended {
		c.p.Close()
	}
}

func (b *Backend) problem(format string, args ...any) {
	b.Problems = append(b.Problems, fmt.Sprintf(format, args...))
}

func (b *Backend) forget() {
	b.Requests, b.Problems, b.Answer, b.Early = nil, nil, nil, false
}

func (b *Backend) close() {
	b.l.Close()
	for _, c := range b.conns {
		c.close()
	}
}
