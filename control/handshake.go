package control

import (
	"fmt"
	"net"
	"runtime"
	"sync"

	"google.golang.org/grpc/credentials"
)

// maxUnproven bounds the connections from one address that show no certificate, at some 50 KB each. Pods have an address
// each, and connect that way once, or (Istio's agents) once and for all; behind one address, of a gateway between
// networks or a node, may be thousands. It is a bound for whoever opens connections and asks for nothing.
const maxUnproven = 5_000

// inTurn has TLS handshakes computed a few at a time, in the order in which there is something
// to compute. When thousands of proxies come at once, those that were first are served while
// the others wait, and not all late; and reading the configuration, without which none of
// them can be served, is not one of thousands that want the processor.
type inTurn struct {
	credentials.TransportCredentials
	places   chan struct{} // holds a token for each handshake that is computed
	unproven *perAddress
}

// newInTurn leaves a processor to others, if there is one.
func newInTurn(c credentials.TransportCredentials) inTurn {
	return inTurn{c, make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)), &perAddress{most: maxUnproven}}
}

// ServerHandshake is credentials.TransportCredentials.
func (c inTurn) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t := &turn{Conn: conn, places: c.places}
	secured, info, err := c.TransportCredentials.ServerHandshake(t)
	t.end()
	if tls, ok := info.(credentials.TLSInfo); err != nil || !ok || len(tls.State.PeerCertificates) > 0 {
		return secured, info, err
	}
	// TLS keeps t, and closes it with the connection; but gRPC closes what is below both if it fails before it serves.
	if t.left = c.unproven.enter(conn.RemoteAddr()); t.left == nil {
		return nil, nil, fmt.Errorf("%s has %d connections without a certificate already", conn.RemoteAddr(), c.unproven.most)
	}
	runtime.AddCleanup(t, func(left func()) { left() }, t.left)
	return secured, info, nil
}

// Clone is credentials.TransportCredentials.
func (c inTurn) Clone() credentials.TransportCredentials {
	return inTurn{c.TransportCredentials.Clone(), c.places, c.unproven}
}

// perAddress counts what comes from each address. It is safe for concurrent use.
type perAddress struct {
	most int
	mu   sync.Mutex
	n    map[string]int
}

// enter counts one more and returns how to take it back, once; nil if there are too many.
func (p *perAddress) enter(from net.Addr) func() {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		host = from.String()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n[host] >= p.most {
		return nil
	}
	if p.n == nil {
		p.n = map[string]int{}
	}
	p.n[host]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.n[host]--; p.n[host] == 0 {
			delete(p.n, host)
		}
	})
}

// turn is a connection whose handshake has a place whenever it does not wait for the peer: who is
// slow, or never says anything, keeps nobody waiting. Until the handshake is over
// one goroutine has it.
type turn struct {
	net.Conn
	places chan struct{}
	held   bool
	over   bool   // the handshake is
	left   func() // of who counts as unproven; set before anybody else has the connection
}

// Close is net.Conn.
func (t *turn) Close() error {
	if t.left != nil {
		t.left()
	}
	return t.Conn.Close()
}

func (t *turn) Read(b []byte) (int, error) {
	if t.over {
		return t.Conn.Read(b)
	}
	t.giveBack()
	defer t.take()
	return t.Conn.Read(b)
}

func (t *turn) Write(b []byte) (int, error) {
	if t.over {
		return t.Conn.Write(b)
	}
	t.giveBack()
	defer t.take()
	return t.Conn.Write(b)
}

func (t *turn) take() {
	t.places <- struct{}{}
	t.held = true
}

func (t *turn) giveBack() {
	if t.held {
		<-t.places
		t.held = false
	}
}

func (t *turn) end() {
	t.giveBack()
	t.over = true
}
