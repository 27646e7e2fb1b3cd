package tls

import (
	"io"
	"net"
	"sync"
	"time"
)

// wire is what crypto/tls sees as its network: memory. During the handshake a
// goroutine blocks in Read while the loop feeds it; afterwards Read hands out one
// record at a time and Write collects what is to be sent, both on the loop's thread.
type wire struct {
	mu      sync.Mutex // during the handshake
	host    Host
	in      []byte
	left    int // of the record that in begins within
	out     []byte
	end     error // what Read says when in is empty
	waiting bool
	wake    chan struct{}

	// After the handshake: the record being opened, and where sealed ones go.
	established bool
	record      []byte
	sealed      []byte
}

func newWire(h Host) *wire { return &wire{host: h, wake: make(chan struct{}, 1)} }

// establish ends the handshake's way of working.
func (w *wire) establish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.established, w.end = true, errAgain
	w.host, w.wake = nil, nil
}

// errAgain is temporary to crypto/tls: it forgets it and can be asked again.
var errAgain net.Error = again{}

type again struct{}

func (again) Error() string   { return "no more input yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

func (w *wire) Read(b []byte) (int, error) {
	if w.established {
		n := copy(b, w.record)
		w.record = w.record[n:]
		if n == 0 {
			return 0, errAgain
		}
		return n, nil
	}
	for {
		w.mu.Lock()
		// Nothing beyond the record that crypto/tls wants now: what follows the
		// handshake is left for Open.
		if n := w.window(); n > 0 {
			n = copy(b, w.in[:n])
			w.in = w.in[:copy(w.in, w.in[n:])]
			w.left -= n
			w.mu.Unlock()
			return n, nil
		}
		if w.end != nil {
			w.mu.Unlock()
			return 0, w.end
		}
		w.waiting = true
		w.host.Park()
		w.mu.Unlock()
		<-w.wake
	}
}

// window is how much of the input may be read: at most to the end of the record
// under way.
func (w *wire) window() int {
	if w.left == 0 {
		n := RecordLength(w.in)
		if n == 0 && w.end == nil {
			return 0
		}
		if n <= 0 {
			n = len(w.in) // no record: crypto/tls knows what to say
		}
		w.left = n
	}
	return min(len(w.in), w.left)
}

func (w *wire) Write(b []byte) (int, error) {
	if w.established {
		w.sealed = append(w.sealed, b...)
		return len(b), nil
	}
	w.mu.Lock()
	first := len(w.out) == 0
	w.out = append(w.out, b...)
	w.mu.Unlock()
	if first {
		w.host.Output()
	}
	return len(b), nil
}

// feed gives the handshake input; true: its goroutine waited, and is to be woken.
func (w *wire) feed(b []byte) (woke bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in = append(w.in, b...)
	woke, w.waiting = w.waiting, false
	return woke
}

func (w *wire) feedEnd() (woke bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = io.EOF
	woke, w.waiting = w.waiting, false
	return woke
}

func (*wire) Close() error                     { return nil }
func (*wire) LocalAddr() net.Addr              { return memAddr{} }
func (*wire) RemoteAddr() net.Addr             { return memAddr{} }
func (*wire) SetDeadline(time.Time) error      { return nil }
func (*wire) SetReadDeadline(time.Time) error  { return nil }
func (*wire) SetWriteDeadline(time.Time) error { return nil }

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "memory" }
