package tls

import (
	stdtls "crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

// RecordHeader and MaxRecord bound a record on the wire: header, 2^14 bytes, and
// what encryption may add (RFC 8446, section 5.2; 1024 more in TLS 1.2, section 6.2.3).
const (
	RecordHeader = 5
	MaxPlaintext = 16 << 10
	MaxRecord    = RecordHeader + MaxPlaintext + 2048
)

// Host is what a Session needs of the connection around it. Its methods are called
// on the goroutine of Handshake and must not block.
type Host interface {
	// Output: there is handshake output; the loop should take it by TakeOutput.
	Output()
	// Park: the goroutine is about to wait for Feed.
	Park()
}

// Session is the TLS state of one connection, on top of memory. First Handshake
// runs on a goroutine while the loop feeds it; after it returned, Open, Seal and the
// others belong to the loop's thread. Records go to crypto/tls one by one, whole, so
// that it never holds a part of one: what an idle session costs is its keys.
type Session struct {
	tc     *stdtls.Conn
	config *stdtls.Config
	trust  *Trust
	gate   *Gate
	peerIs *Peer

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

// Session begins a session for an accepted connection.
func (s *Server) Session(h Host) *Session {
	n := &Session{config: s.config, trust: &s.trust, gate: s.gate, host: h, wake: make(chan struct{}, 1)}
	n.tc = stdtls.Server((*wire)(n), s.config)
	return n
}

// Session begins a session for a dialled connection.
func (c *Client) Session(h Host) *Session {
	n := &Session{config: c.config, trust: &c.trust, gate: c.gate, host: h, wake: make(chan struct{}, 1)}
	n.tc = stdtls.Client((*wire)(n), c.config)
	return n
}

// Gate is the process's limit that this session counts against, or nil.
func (s *Session) Gate() *Gate { return s.gate }

// Handshake blocks until the handshake has succeeded or failed; an error is an *Error.
func (s *Session) Handshake() error {
	err := s.tc.Handshake()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host, s.wake = nil, nil
	if err != nil {
		return classify(err)
	}
	s.peerIs = s.peer()
	s.established = true
	s.end = errAgain
	return nil
}

// Peer is who the other end is; nil before the handshake is done.
func (s *Session) Peer() *Peer { return s.peerIs }

// Feed gives the handshake input. woke says that its goroutine waited: the caller
// must call Wake when the goroutine may go on. b is copied.
func (s *Session) Feed(b []byte) (woke bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in = append(s.in, b...)
	woke, s.waiting = s.waiting, false
	return woke
}

// FeedEnd ends the input of the handshake: no more comes, or the connection is gone.
// woke is as with Feed.
func (s *Session) FeedEnd() (woke bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = io.EOF
	woke, s.waiting = s.waiting, false
	return woke
}

// Wake lets the goroutine go on after Feed or FeedEnd said that it waited.
func (s *Session) Wake() { s.wake <- struct{}{} }

// Fed is how much input the handshake has not read yet.
func (s *Session) Fed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.in)
}

// HasRecord reports whether a whole record was fed, so that a goroutine has
// something to do; or something that is no record, so that it has to complain.
func (s *Session) HasRecord() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := RecordLength(s.in)
	return n < 0 || n > 0 && len(s.in) >= n
}

// TakeOutput appends the handshake's output so far to dst.
func (s *Session) TakeOutput(dst []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	dst = append(dst, s.out...)
	s.out = nil
	return dst
}

// TakeInput returns what was fed beyond the handshake: records of the application.
func (s *Session) TakeInput() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.in
	s.in = nil
	return b
}

// RecordLength is the length on the wire of the record that b begins with: 0 if b
// is too short to tell, -1 if it is no record, or one that is too long.
func RecordLength(b []byte) int {
	if len(b) > 0 && (b[0] < 20 || b[0] > 24) { // change_cipher_spec … heartbeat
		return -1
	}
	if len(b) < RecordHeader {
		return 0
	}
	if b[1] != 3 {
		return -1
	}
	n := RecordHeader + int(b[3])<<8 + int(b[4])
	if n > MaxRecord {
		return -1
	}
	return n
}

// Open decrypts one whole record and appends what it says to dst[:0], as much as
// fits in dst; pending says that the rest waits for another call of Open with no
// record. An alert close_notify is io.EOF. Answers of the protocol itself (to a
// KeyUpdate) are appended to sealed by the next call of Seal or TakeSealed.
// Other errors are final and an *Error.
func (s *Session) Open(dst, record []byte) (n int, pending bool, err error) {
	s.record = record
	for n < len(dst) {
		k, err := s.tc.Read(dst[n:])
		n += k
		if err == errAgain {
			return n, false, nil
		}
		if err == io.EOF {
			return n, false, io.EOF
		}
		if err != nil {
			return n, false, classify(err)
		}
		if len(s.record) == 0 && n < len(dst) {
			// The record is used up and Read left room, so nothing is pending; asking
			// again would only make crypto/tls look for the next header.
			return n, false, nil
		}
	}
	return n, true, nil
}

// Seal encrypts plain and appends the records to dst. What Open had to answer goes first.
func (s *Session) Seal(dst, plain []byte) ([]byte, error) {
	s.sealed = append(dst, s.sealed...)
	_, err := s.tc.Write(plain)
	dst, s.sealed = s.sealed, nil
	if err != nil {
		return dst, classify(err)
	}
	return dst, nil
}

// SealEnd appends close_notify to dst: nothing is sealed after it.
func (s *Session) SealEnd(dst []byte) []byte {
	s.sealed = append(dst, s.sealed...)
	s.tc.CloseWrite() // fails only if an alert was sent already
	dst, s.sealed = s.sealed, nil
	return dst
}

// TakeSealed appends to dst what Open had to answer, alerts included.
func (s *Session) TakeSealed(dst []byte) []byte {
	dst = append(dst, s.sealed...)
	s.sealed = nil
	return dst
}

// HasSealed reports whether TakeSealed has anything.
func (s *Session) HasSealed() bool { return len(s.sealed) > 0 }

// wire is what crypto/tls sees as its network.
type wire Session

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

func (*wire) Close() error                     { return nil }
func (*wire) LocalAddr() net.Addr              { return memAddr{} }
func (*wire) RemoteAddr() net.Addr             { return memAddr{} }
func (*wire) SetDeadline(time.Time) error      { return nil }
func (*wire) SetReadDeadline(time.Time) error  { return nil }
func (*wire) SetWriteDeadline(time.Time) error { return nil }

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "memory" }
