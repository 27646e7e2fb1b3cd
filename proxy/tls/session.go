package tls

import (
	stdtls "crypto/tls"
	"slices"
)

// RecordHeader and MaxRecord bound a record on the wire: header, 2^14 bytes, and
// what encryption may add (RFC 8446, section 5.2; 1024 more in TLS 1.2, section 6.2.3).
const (
	RecordHeader = 5
	MaxPlaintext = 16 << 10
	MaxRecord    = RecordHeader + MaxPlaintext + 2048
	// RecordOverhead is the least that a record is longer than what it says.
	RecordOverhead = RecordHeader + 16
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
// runs on a goroutine while the loop feeds it; after it returned, Established ends that
// part, and Open, Seal and the others belong to the loop's thread.
type Session struct {
	gate    *Gate
	peer    *Peer
	records records // nil until the handshake is done

	*handshake // nil after Established
}

// handshake is what a Session needs until it is established.
type handshake struct {
	client  bool
	w       *wire
	tc      *stdtls.Conn
	config  *stdtls.Config
	trust   *Trust
	secrets *secrets                // nil: crypto/tls is to keep the records
	view    *sessionView            // of the client's resumable sessions; nil: none
	hello   *stdtls.ClientHelloInfo // what our client offered
	wanted  bool                    // the server asked for a certificate, and there is none to show
}

// records turns bytes into records and back, once the handshake is done: own or bio.
type records interface {
	open(dst, record []byte) (n int, pending bool, err error)
	seal(dst, plain []byte) ([]byte, error)
	sealEnd(dst []byte) []byte
	take(dst []byte) []byte
	owes() bool
	forget()
}

// Session begins a session for an accepted connection.
func (s *Server) Session(h Host) *Session {
	if !s.config.SessionTicketsDisabled {
		// Makes or renews the keys that Clone copies, lest every copy makes its own.
		_, _ = s.config.DecryptTicket(nil, stdtls.ConnectionState{})
	}
	n := &handshake{w: newWire(h), config: s.config.Clone(), trust: &s.trust}
	if !s.std {
		n.secrets = &secrets{}
		n.config.KeyLogWriter = n.secrets
	}
	n.config.GetConfigForClient = func(h *stdtls.ClientHelloInfo) (*stdtls.Config, error) { return s.meet(n, h) }
	if !s.config.SessionTicketsDisabled {
		n.config.WrapSession = func(cs stdtls.ConnectionState, ss *stdtls.SessionState) ([]byte, error) {
			return s.wrap(n.secrets, cs, ss)
		}
		n.config.UnwrapSession = s.unwrap
	}
	n.tc = stdtls.Server(n.w, n.config)
	return &Session{gate: s.gate, handshake: n}
}

// meet looks at what a client offers.
func (s *Server) meet(n *handshake, h *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
	n.hello = h
	if s.requireSNI && h.ServerName == "" {
		return nil, errNoSNI
	}
	for _, p := range h.SupportedProtos {
		if slices.Contains(n.config.NextProtos, p) {
			return nil, nil
		}
	}
	if len(n.config.NextProtos) == 0 || len(h.SupportedProtos) == 0 {
		return nil, nil
	}
	// It offers none of ours: served without, as Envoy does.
	n.config = n.config.Clone()
	n.config.NextProtos = nil
	return n.config, nil
}

// Session begins a session for a connection dialled to an endpoint.
func (c *Client) Session(h Host, to Endpoint) *Session {
	n := &handshake{client: true, w: newWire(h), config: c.config, trust: &c.trust}
	bare := c.config.GetClientCertificate == nil
	if !c.std || c.sessions != nil || bare {
		n.config = c.config.Clone()
	}
	if bare {
		n.config.GetClientCertificate = n.none
	}
	if !c.std {
		n.secrets = &secrets{}
		n.config.KeyLogWriter = n.secrets
	}
	if c.sessions != nil {
		var now standing
		if c.identity != nil {
			now.cert = c.identity.Certificate()
		}
		if c.trust.Mesh != nil {
			now.bundle = c.trust.Mesh.Bundle()
		}
		n.view = c.sessions.view(to, now)
		n.config.ClientSessionCache = n.view
	}
	n.tc = stdtls.Client(n.w, n.config)
	return &Session{gate: c.gate, handshake: n}
}

// none notes that the server asks for a certificate where there is none: before TLS 1.3 some say no more than "handshake failure" then.
func (n *handshake) none(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) {
	n.wanted = true
	return &stdtls.Certificate{}, nil
}

// Gate is the process's limit that this session counts against, or nil.
func (s *Session) Gate() *Gate { return s.gate }

// Handshake blocks until the handshake has succeeded or failed; an error is an *Error.
func (s *Session) Handshake() error {
	err := s.tc.Handshake()
	if err != nil {
		s.secrets.clear()
		return s.explain(classify(err))
	}
	st := s.tc.ConnectionState()
	s.peer = s.describe(&st)
	s.records = &bio{tc: s.tc, w: s.w}
	if s.secrets != nil && st.Version == TLS13 {
		if own := newOwn(s.secrets, st.CipherSuite, s.client); own != nil {
			own.tickets = s.view.follow(s.tc, s.w)
			s.records = own
		}
	}
	s.secrets.clear()
	s.view.done(&st)
	s.w.establish()
	return nil
}

// Established ends the handshake on the loop's side, after Handshake succeeded: it returns what
// was fed beyond it, records of the application, and lets go of what only a handshake needs.
func (s *Session) Established() (input []byte) {
	s.w.mu.Lock()
	input, s.w.in = s.w.in, nil
	s.w.mu.Unlock()
	s.handshake = nil
	return input
}

// Peer is who the other end is; nil before the handshake is done.
func (s *Session) Peer() *Peer { return s.peer }

// Feed gives the handshake input. woke says that its goroutine waited: the caller
// must call Wake when the goroutine may go on. b is copied.
func (s *Session) Feed(b []byte) (woke bool) { return s.w.feed(b) }

// FeedEnd ends the input of the handshake: no more comes, or the connection is gone.
// woke is as with Feed.
func (s *Session) FeedEnd() (woke bool) { return s.w.feedEnd() }

// Wake lets the goroutine go on after Feed or FeedEnd said that it waited.
func (s *Session) Wake() { s.w.wake <- struct{}{} }

// Fed is how much input the handshake has not read yet.
func (s *Session) Fed() int {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return len(s.w.in)
}

// HasRecord reports whether a whole record was fed, so that a goroutine has
// something to do; or something that is no record, so that it has to complain.
func (s *Session) HasRecord() bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n := RecordLength(s.w.in)
	return n < 0 || n > 0 && len(s.w.in) >= n
}

// TakeOutput appends the handshake's output so far to dst.
func (s *Session) TakeOutput(dst []byte) []byte {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	dst = append(dst, s.w.out...)
	s.w.out = nil
	return dst
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
// KeyUpdate) go out with the next call of Seal or TakeSealed.
// Other errors are final and an *Error.
func (s *Session) Open(dst, record []byte) (n int, pending bool, err error) {
	return s.records.open(dst, record)
}

// Seal encrypts plain and appends the records to dst. What Open had to answer goes first.
// It allocates nothing if dst has room for RecordOverhead+1 more bytes a record.
func (s *Session) Seal(dst, plain []byte) ([]byte, error) { return s.records.seal(dst, plain) }

// SealEnd appends close_notify to dst: nothing is sealed after it.
func (s *Session) SealEnd(dst []byte) []byte { return s.records.sealEnd(dst) }

// TakeSealed appends to dst what Open had to answer, alerts included.
func (s *Session) TakeSealed(dst []byte) []byte { return s.records.take(dst) }

// HasSealed reports whether TakeSealed has anything; never after a failed handshake.
func (s *Session) HasSealed() bool { return s.records != nil && s.records.owes() }

// Forget clears the session's secrets, once the connection has ended.
func (s *Session) Forget() {
	if s.handshake == nil {
		s.records.forget()
	}
}
