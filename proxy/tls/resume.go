package tls

import (
	"bytes"
	"crypto/sha256"
	stdtls "crypto/tls"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/identity"
)

// A resumed session skips certificates and signatures, not judgement: VerifyConnection sees
// the certificates of the first handshake again and asks whether they are good now, by the
// trust bundle of now. What could make such a session fail where a full handshake would
// succeed (other roots, another certificate of ours) makes the ticket void instead.

// Endpoint is where a client connects to: tickets of one are not shown to another.
type Endpoint struct {
	Addr netip.AddrPort
	Path string // of a Unix socket
}

// What bounds a client's memory of sessions, 2 KB each: an endpoint has room for one ticket, and for more, up to
// maxSessions, while all endpoints together have less than moreSessions beyond their first.
const (
	maxEndpoints = 64
	maxSessions  = 32
	moreSessions = 192
)

// sessions are the resumable sessions of one client context. Safe for concurrent use.
type sessions struct {
	most int // tickets an endpoint

	mu    sync.Mutex
	under standing
	of    map[Endpoint]*kept
	more  int // room of all endpoints beyond their first tickets
}

// kept are the tickets of one endpoint. Connections that are used again and again leave more tickets than anybody will
// want; where many short ones begin at once, each can use its own. So an endpoint has room for another ticket only after
// one was looked for in vain that had been thrown away.
type kept struct {
	tickets []*stdtls.ClientSessionState
	room    int
	thrown  int // away for want of room, and not missed yet
}

// standing is who we were and whom we believed when a session was made. Both are
// replaced, never changed.
type standing struct {
	cert   *stdtls.Certificate
	bundle *identity.Bundle
}

// sessionView shows crypto/tls the sessions with one endpoint, for one handshake and the
// tickets that come after it. A nil one stands for no resumption.
type sessionView struct {
	all   *sessions
	to    Endpoint
	under standing
	taken *stdtls.ClientSessionState
}

func (s *sessions) view(to Endpoint, under standing) *sessionView {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.under != under {
		s.under, s.of, s.more = under, nil, 0
	}
	return &sessionView{all: s, to: to, under: under}
}

// Get is of stdtls.ClientSessionCache. A ticket is used once, so that nobody on the way
// can tell that two connections have the same client (RFC 8446, appendix C.4).
func (v *sessionView) Get(string) (*stdtls.ClientSessionState, bool) {
	s := v.all
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.of[v.to]
	if k == nil || s.under != v.under {
		return nil, false
	}
	last := len(k.tickets) - 1
	if last < 0 {
		if k.thrown > 0 && k.room < s.most && s.more < moreSessions {
			k.room, k.thrown, s.more = k.room+1, k.thrown-1, s.more+1
		}
		return nil, false
	}
	v.taken = k.tickets[last]
	k.tickets[last] = nil
	k.tickets = k.tickets[:last]
	return v.taken, true
}

// Put is of stdtls.ClientSessionCache.
func (v *sessionView) Put(_ string, cs *stdtls.ClientSessionState) {
	if cs == nil {
		v.taken = nil // found to be of no use
		return
	}
	s := v.all
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.under != v.under {
		return
	}
	k := s.of[v.to]
	if k == nil {
		if len(s.of) >= maxEndpoints {
			for e, other := range s.of {
				delete(s.of, e)
				s.more -= other.room - 1
				break
			}
		}
		if s.of == nil {
			s.of = map[Endpoint]*kept{}
		}
		k = &kept{room: 1}
		s.of[v.to] = k
	}
	if len(k.tickets) >= k.room {
		k.tickets = append(k.tickets[:0], k.tickets[1:]...) // the oldest
		k.thrown = min(k.thrown+1, maxSessions)
	}
	k.tickets = append(k.tickets, cs)
}

// done is told of a handshake that succeeded. TLS 1.2 uses its tickets again and again, and
// servers send a new one only with a full handshake.
func (v *sessionView) done(st *stdtls.ConnectionState) {
	if v != nil && v.taken != nil && st.DidResume && st.Version == TLS12 {
		v.Put("", v.taken)
	}
}

// follow lets crypto/tls have the tickets that come after the handshake.
func (v *sessionView) follow(tc *stdtls.Conn, w *wire) *tickets {
	if v == nil {
		return nil
	}
	return &tickets{tc: tc, w: w, left: maxTickets}
}

// tickets passes records with NewSessionTicket on to crypto/tls, which knows what to do with
// them. It has to see every record from the first on, because it counts them too; so it ends
// with the first other one. Servers send tickets right after the handshake.
type tickets struct {
	tc   *stdtls.Conn
	w    *wire
	left int
}

// maxTickets is how many records of tickets are looked at: OpenSSL sends two.
const maxTickets = 8

// offer reports whether it wants more.
func (t *tickets) offer(record []byte) bool {
	if t == nil || record == nil || t.left == 0 {
		return false
	}
	t.left--
	t.w.record = record
	var b [1]byte
	n, err := t.tc.Read(b[:])
	t.w.record, t.w.sealed = nil, nil // alerts are for own to send
	return n == 0 && err == errAgain
}

// ticketMark begins what is added to a server's tickets: when it was issued, and the sum of
// what was demanded of the client and the roots by which it was judged.
var ticketMark = []byte("weir1")

func (s *Server) mark() []byte {
	b := binary.BigEndian.AppendUint64(bytes.Clone(ticketMark), uint64(time.Now().Unix()))
	sum := s.rootsSum()
	return append(b, sum[:]...)
}

// rootsSum tells one trust bundle from another, and what contexts with the same ticket keys demand.
func (s *Server) rootsSum() (sum [sha256.Size]byte) {
	if s.trust.Mesh == nil {
		return s.demand // a context's other roots never change
	}
	bundle := s.trust.Mesh.Bundle()
	s.roots.Lock()
	defer s.roots.Unlock()
	if bundle == nil || s.roots.of != bundle {
		h := sha256.New()
		h.Write(s.demand[:])
		if bundle != nil {
			for _, c := range bundle.Roots() {
				h.Write(c.Raw)
			}
		}
		s.roots.of, s.roots.sum = bundle, [sha256.Size]byte(h.Sum(nil))
	}
	return s.roots.sum
}

// demanded sums up what a context wants of clients. Where ticket keys are given, others may have the same: chains for
// other server names, or the one before a change of configuration. A session by other demands would be judged by ours and
// refused, where a full handshake lets the client show what is wanted now.
func demanded(clients ClientAuth, t *Trust) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprint(h, clients, t.SkipVerify, t.RevokedLeafOnly)
	for _, n := range t.Names {
		fmt.Fprintf(h, "%q %v", n, n.IgnoreCase)
	}
	for _, domain := range slices.Sorted(maps.Keys(t.Foreign)) {
		fmt.Fprintf(h, "%q", domain)
		for _, c := range t.Foreign[domain].Roots() {
			h.Write(c.Raw)
		}
	}
	for _, pin := range slices.Concat(t.Hashes, t.Keys) {
		h.Write(pin[:])
	}
	if t.Roots != nil {
		for _, s := range t.Roots.Subjects() { //nolint:staticcheck // the system's roots, which it leaves out, are everybody's
			h.Write(s)
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// judged is the sum of the bundle last seen.
type judged struct {
	sync.Mutex
	of  *identity.Bundle
	sum [sha256.Size]byte
}

// wrap makes a ticket, and notes how many records it fills.
func (s *Server) wrap(k *secrets, cs stdtls.ConnectionState, ss *stdtls.SessionState) ([]byte, error) {
	ss.Extra = append(ss.Extra, s.mark())
	ticket, err := s.config.EncryptTicket(cs, ss)
	if k != nil {
		// Header, lifetime, age_add, nonce (empty), ticket, extensions (RFC 8446, section 4.6.1).
		message := 4 + 4 + 4 + 1 + 2 + len(ticket) + 2
		k.sent += uint64((message-1)/MaxPlaintext + 1)
	}
	return ticket, err
}

// unwrap reads a ticket; nil makes a full handshake of it.
func (s *Server) unwrap(ticket []byte, cs stdtls.ConnectionState) (*stdtls.SessionState, error) {
	ss, err := s.config.DecryptTicket(ticket, cs)
	if err != nil || ss == nil {
		return nil, err
	}
	for _, e := range ss.Extra {
		b, ok := bytes.CutPrefix(e, ticketMark)
		if !ok || len(b) != 8+sha256.Size {
			continue
		}
		age := time.Since(time.Unix(int64(binary.BigEndian.Uint64(b)), 0))
		if sum := s.rootsSum(); age < s.lifetime && bytes.Equal(b[8:], sum[:]) {
			return ss, nil
		}
	}
	return nil, nil
}
