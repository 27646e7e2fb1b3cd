package control

import (
	"net"
	"runtime"

	"google.golang.org/grpc/credentials"
)

// inTurn has TLS handshakes computed a few at a time, in the order in which there is something
// to compute. When thousands of proxies come at once, those that were first are served while
// the others wait, and not all late; and reading the configuration, without which none of
// them can be served, is not one of thousands that want the processor.
type inTurn struct {
	credentials.TransportCredentials
	places chan struct{} // holds a token for each handshake that is computed
}

// newInTurn leaves a processor to others, if there is one.
func newInTurn(c credentials.TransportCredentials) inTurn {
	return inTurn{c, make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))}
}

// ServerHandshake is credentials.TransportCredentials.
func (c inTurn) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t := &turn{Conn: conn, places: c.places}
	secured, info, err := c.TransportCredentials.ServerHandshake(t)
	t.end()
	return secured, info, err
}

// Clone is credentials.TransportCredentials.
func (c inTurn) Clone() credentials.TransportCredentials {
	return inTurn{c.TransportCredentials.Clone(), c.places}
}

// turn is a connection whose handshake has a place whenever it does not wait for the peer: who is
// slow, or never says anything, keeps nobody waiting. Until the handshake is over
// one goroutine has it.
type turn struct {
	net.Conn
	places chan struct{}
	held   bool
	over   bool // the handshake is
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
