package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize is what one direction holds before writes wait. It is small for a socket, so
// that tests meet back-pressure, and larger than an HTTP/2 frame.
const bufferSize = 64 << 10

// Pipe is a connection without a listener: what is written to one end is read at the other.
func Pipe() (net.Conn, net.Conn) { return pipe("a", "b") }

func pipe(a, b addr) (*conn, *conn) {
	ab, ba := newHalf(), newHalf()
	return &conn{local: a, remote: b, in: ba, out: ab}, &conn{local: b, remote: a, in: ab, out: ba}
}

// conn is one end. It also has CloseWrite, as *net.TCPConn has.
type conn struct {
	local, remote addr
	in, out       *half
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.opError("read", err)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// Close lets the peer read what was written, then gives it io.EOF; its writes fail.
func (c *conn) Close() error {
	c.out.closeWriter()
	if !c.in.closeReader() {
		return c.opError("close", net.ErrClosed)
	}
	return nil
}

// CloseWrite gives the peer io.EOF after what was written; reading goes on.
func (c *conn) CloseWrite() error {
	c.out.closeWriter()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: network, Source: c.local, Addr: c.remote, Err: err}
}

// half is one direction: a bounded buffer between a writer and a reader.
type half struct {
	mu                         sync.Mutex
	changed                    sync.Cond // something below changed
	buf                        []byte
	writerClosed, readerClosed bool
	readBy, writeBy            deadline
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newHalf() *half {
	h := &half{}
	h.changed.L = &h.mu
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readerClosed:
			return 0, net.ErrClosed
		case h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil
			}
			h.changed.Broadcast()
			return n, nil
		case h.writerClosed:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.writerClosed:
			return n, net.ErrClosed
		case h.readerClosed:
			return n, syscall.EPIPE
		case h.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		}
		if room := min(bufferSize-len(h.buf), len(p)-n); room > 0 {
			h.buf = append(h.buf, p[n:n+room]...)
			n += room
			h.changed.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		h.changed.Wait()
	}
}

func (h *half) closeWriter() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writerClosed = true
	h.writeBy.stop()
	h.changed.Broadcast()
}

// closeReader reports whether the reader was open.
func (h *half) closeReader() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.readerClosed
	h.readerClosed = true
	h.buf = nil
	h.readBy.stop()
	h.changed.Broadcast()
	return !was
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (h *half) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.stop()
	d.at = t
	if !t.IsZero() {
		// The waiter looks at the clock itself; the timer only wakes it.
		d.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changed.Broadcast()
		})
	}
	h.changed.Broadcast()
}
