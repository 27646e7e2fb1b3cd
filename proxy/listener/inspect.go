package listener

import (
	"bytes"
	"strings"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
)

// Tentative is the service of a connection whose client has said nothing yet, by the
// chain of clients that leave the first word to the server: the application is being
// connected, and nothing is written to it. HandOver of the connection to it makes the
// service final; Withdraw ends it without a trace. Begin's function spoke is called, on
// the loop, when the application has said something, or there is none: that settles the
// question, and the connection is handed over within the call.
type Tentative interface {
	conn.Handler
	Withdraw()
}

// inspection owns a connection until its chain is chosen.
//
// Where a chain relays to a server that may speak first, nothing is waited for: the
// application is connected at once, and whoever speaks first decides. Only from an
// address known to begin with TLS is the ClientHello waited for, because a fast
// application would speak before it arrives. Nothing is decided by a clock.
type inspection struct {
	a         *Acceptor
	c         *conn.Conn
	config    *Config
	table     *Table
	names     *byName
	on        connection
	tls, http bool // still to be looked for
	timer     loop.Timer

	silent   *Chain // for clients that leave the first word to the server; nil: they all speak
	secure   bool   // another chain terminates TLS
	expected bool   // TLS is expected, by where the client is
	begin    loop.TurnNode
	guess    Tentative
	state    looking

	kept kept
}

// looking is how far an inspection has come.
type looking uint8

const (
	undecided looking = iota
	hello             // it begins as a ClientHello does, and may become one
	spoken            // the application spoke first; a ClientHello now would mean that we misjudged
	decided
)

func (a *Acceptor) inspect(c *conn.Conn, config *Config, table *Table, names *byName, level *byPrefix, on *connection, tls, http bool) {
	x := &inspection{a: a, c: c, config: config, table: table, names: names, on: *on, tls: tls, http: http}
	if chain := config.chain(names, on); chain != nil && chain.ServerFirst && config.Direction == Inbound && a.o.Begin != nil {
		x.silent, x.secure = chain, tls && level.terminates
		x.expected = x.secure && a.group.peers.expect(on.direct, on.dst.Port())
	}
	x.begin.Do, x.timer.Fire = x.start, x.expired
	c.HandOver(x)
	if x.silent == nil || x.expected {
		x.arm()
	}
}

func (x *inspection) arm() {
	if x.config.InspectTimeout > 0 {
		x.a.l.Arm(&x.timer, x.a.l.Now()+int64(x.config.InspectTimeout))
	}
}

func (x *inspection) Open(c *conn.Conn) {
	switch {
	case x.state == spoken:
		x.guess.Open(c)
	case x.silent != nil && !x.expected:
		// Not at once: what the client sent with its connection is about to be read.
		x.a.l.NextTurn(&x.begin)
	}
}

// start lets the application speak.
func (x *inspection) start() {
	x.c.Blame()
	if x.state != undecided || x.c.Ended() {
		return
	}
	if x.guess = x.a.o.Begin(x.c, Arrival{x.table, x.config, x.silent}, x.spoke); x.guess == nil {
		x.refuse(NoChain)
	}
}

// spoke: the application did, before the client.
func (x *inspection) spoke() {
	x.timer.Stop()
	x.a.keeping.release(&x.kept)
	x.state = spoken
	if x.secure {
		x.c.HandOver(x) // until the client has shown that it is no workload of the mesh
	} else {
		x.c.HandOver(x.guess)
	}
}

func (x *inspection) Drained(c *conn.Conn) {
	if x.state == spoken {
		x.guess.Drained(c)
	}
}

func (x *inspection) Closed(c *conn.Conn, why conn.Why) {
	x.timer.Stop()
	x.a.keeping.release(&x.kept)
	if x.state == undecided && why.Kind == conn.ResetByPeer {
		x.learn(false) // it left without a word, or with plaintext
	}
	x.state = decided
	if x.guess != nil {
		x.guess.Closed(c, why)
	}
}

// Data looks and uses nothing: what was seen belongs to the chain.
func (x *inspection) Data(c *conn.Conn, b []byte) int {
	switch x.state {
	case decided:
		return 0
	case spoken:
		return x.witness(c, b)
	case undecided:
		if x.tls && len(b) > 0 && b[0] == handshakeRecord {
			x.state = hello
			if x.withdraw() {
				x.arm()
			}
		}
	}
	if x.look(b) {
		x.done()
	} else {
		x.a.keeping.keep(&x.kept, len(b), x.crowd)
	}
	return 0
}

// EOF: a client that has nothing to say, to a server that perhaps has.
func (x *inspection) EOF(c *conn.Conn) {
	switch x.state {
	case decided:
	case spoken:
		c.HandOver(x.guess) // shows it what is kept, and the end
	default:
		x.done()
	}
}

// done goes by what is known.
func (x *inspection) done() {
	x.timer.Stop()
	x.a.keeping.release(&x.kept)
	x.state = decided
	x.learn(x.on.transport == TLS)
	if x.guess != nil && x.config.chain(x.names, &x.on) == x.silent {
		x.c.HandOver(x.guess)
		return
	}
	x.withdraw()
	x.a.choose(x.c, x.config, x.table, x.names, &x.on)
}

func (x *inspection) withdraw() bool {
	if x.guess == nil {
		return false
	}
	x.guess.Withdraw()
	x.guess = nil
	return true
}

// learn corrects what was expected.
func (x *inspection) learn(tls bool) {
	if x.silent != nil && x.secure && tls != x.expected {
		x.a.group.peers.note(x.on.direct, x.on.dst.Port(), tls)
	}
}

func (x *inspection) expired() {
	x.c.Blame()
	if x.config.ContinueOnTimeout {
		x.done()
		return
	}
	x.learn(false)
	x.refuse(InspectTimeout)
}

func (x *inspection) crowd() { x.refuse(Crowded) }

func (x *inspection) refuse(why Refusal) {
	x.timer.Stop()
	x.a.keeping.release(&x.kept)
	if x.state != spoken { // else its owner still has to hear of the end
		x.state = decided
		x.withdraw()
	}
	x.a.refused(x.c.Info(), x.config, why, nil)
	x.c.Reset()
}

// witness looks at the first words of a client after those of the application. The
// ClientHello of a workload of the mesh is no answer to them: it was on its way when we
// took the client for another. It is told to try again, which is safe because nothing of
// it was passed on, and is waited for then.
func (x *inspection) witness(c *conn.Conn, b []byte) int {
	if len(b) > 0 && b[0] == handshakeRecord {
		switch x.readHello(b) {
		case errShort:
			if len(b) < maxInspected {
				x.a.keeping.keep(&x.kept, len(b), x.crowd)
				return 0
			}
		case nil:
			if chain := x.config.chain(x.names, &x.on); chain != nil && chain.TLS != nil {
				x.learn(true)
				x.refuse(Misjudged)
				return len(b)
			}
		}
	}
	x.a.keeping.release(&x.kept)
	x.state = decided
	c.SetHandler(x.guess)
	return x.guess.Data(c, b)
}

// look reports whether everything that matters is known.
func (x *inspection) look(b []byte) bool {
	if x.tls {
		switch x.readHello(b) {
		case errShort:
			if len(b) < maxInspected {
				return false
			}
		case nil:
			return true
		}
		// Something else, or so damaged or long that no server would answer it.
		x.tls, x.state = false, undecided
	}
	if x.http {
		proto, err := sniffHTTP(b)
		if err == errShort {
			return false
		}
		if proto != "" {
			x.on.alpn = [][]byte{[]byte(proto)}
		}
	}
	return true
}

func (x *inspection) readHello(b []byte) error {
	a := x.a
	if a.scratch == nil {
		a.scratch = make([]byte, maxHello)
	}
	err := parseHello(b, a.scratch, &a.hello)
	if err == nil {
		x.on.transport = TLS
		x.on.sni = strings.ToLower(string(a.hello.sni))
		x.c.Info().ServerName = x.on.sni
		for _, p := range a.hello.alpn {
			x.on.alpn = append(x.on.alpn, bytes.Clone(p))
		}
	}
	return err
}

// maxInspected bounds what is looked at of one connection: the longest hello, and as
// much again for the headers of its records.
const maxInspected = 2 * maxHello
