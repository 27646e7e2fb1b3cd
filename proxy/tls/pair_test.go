package tls

import (
	"net/netip"
	"sync"
	"testing"
)

// end is one side of a connection in memory.
type end struct {
	s       *Session
	changed chan struct{}
	mu      sync.Mutex
	done    bool
	err     error
}

func (e *end) Output() { e.tell() }
func (e *end) Park()   {}

func (e *end) tell() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *end) finished() (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.done, e.err
}

func (e *end) run() {
	err := e.s.Handshake()
	e.mu.Lock()
	e.done, e.err = true, err
	e.mu.Unlock()
	e.tell()
}

// pair is two Sessions that have shaken hands.
type pair struct {
	server, client *Session
	toServer       []byte // what was fed beyond the handshake
	toClient       []byte
}

var somewhere = Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:443")}

// join shakes hands between two contexts and reports how each side took it. A client of TLS
// 1.3 is done before the server has judged it.
func join(server *Server, client *Client) (p *pair, serverErr, clientErr error) {
	changed := make(chan struct{}, 1)
	a, b := &end{changed: changed}, &end{changed: changed}
	a.s, b.s = server.Session(a), client.Session(b, somewhere)
	go a.run()
	go b.run()
	move := func(from, to *end) {
		out := from.s.TakeOutput(nil)
		if len(out) > 0 && to.s.Feed(out) {
			to.s.Wake()
		}
		if done, err := from.finished(); done && err != nil && to.s.FeedEnd() {
			to.s.Wake()
		}
	}
	for {
		doneA, errA := a.finished()
		doneB, errB := b.finished()
		move(a, b)
		move(b, a)
		if doneA && doneB {
			serverErr, clientErr = errA, errB
			break
		}
		<-changed
	}
	p = &pair{server: a.s, client: b.s}
	if serverErr == nil {
		p.toServer = a.s.Established()
	}
	if clientErr == nil {
		p.toClient = b.s.Established()
		if serverErr != nil {
			// Its verdict comes as an alert.
			var out [64]byte
			for len(p.toClient) > 0 && clientErr == nil {
				n := RecordLength(p.toClient)
				_, _, clientErr = p.client.Open(out[:], p.toClient[:n])
				p.toClient = p.toClient[n:]
			}
		}
	}
	return p, serverErr, clientErr
}

// mustJoin is join that succeeds.
func mustJoin(t testing.TB, server *Server, client *Client) *pair {
	t.Helper()
	p, serr, cerr := join(server, client)
	if serr != nil || cerr != nil {
		t.Fatalf("server: %v; client: %v", serr, cerr)
	}
	return p
}

// read opens whole records of raw and returns the payload and the rest.
func read(s *Session, raw []byte, room int) (plain, rest []byte, err error) {
	buf := make([]byte, room)
	for {
		size := RecordLength(raw)
		if size == 0 || size > len(raw) {
			return plain, raw, nil
		}
		if size < 0 {
			size = len(raw)
		}
		n, pending, err := s.Open(buf, raw[:size])
		plain, raw = append(plain, buf[:n]...), raw[size:]
		if err != nil {
			return plain, raw, err
		}
		for pending {
			n, pending, _ = s.Open(buf, nil)
			plain = append(plain, buf[:n]...)
		}
	}
}

// send seals plain at one end and opens it at the other.
func send(t testing.TB, from, to *Session, plain []byte) []byte {
	t.Helper()
	raw, err := from.Seal(nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	got, rest, err := read(to, raw, 64<<10)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%d bytes left of %d, %v", len(rest), len(raw), err)
	}
	return got
}
