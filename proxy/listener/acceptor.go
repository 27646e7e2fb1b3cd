package listener

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/loop"
)

// acceptsPerTurn bounds a turn under a flood of connections: an accept with what
// follows takes about 5 µs.
const acceptsPerTurn = 16

// Options of an Acceptor.
type Options struct {
	Log *slog.Logger
	// Serve makes the owner of a connection whose chain was chosen, with TLS after the
	// handshake. The connection opens for it afterwards. nil refuses it: the chain is gone.
	Serve func(c *conn.Conn, a Arrival) conn.Handler
	// Begin, where set, begins to serve a connection whose client has said nothing yet by
	// the chain for clients that never do, which is ServerFirst; see Tentative. nil refuses it.
	Begin func(c *conn.Conn, a Arrival, spoke func()) Tentative
	// Demand, where set, says which connections wait for their listener.
	Demand *demand.Worker
	// Room, where set, reports whether the process has descriptors for another connection and
	// for what it will need. Without, all are accepted until none is left.
	Room func() bool
	// Full, where set, reports whether memory is nearly used up: newcomers are refused, but for listeners with IgnoreGroupLimit.
	Full func() bool
	// Relief, where set, is called when there is no room, to close what nobody uses.
	Relief func()
	// Refused, where set, hears of connections that were never served. err is what
	// failed, if something did.
	Refused func(info *conn.Info, c *Config, chain *Chain, why Refusal, err error)
}

// Refusal is why a connection was not served: a closed set.
type Refusal uint8

const (
	Looping        Refusal = iota // it came to the capture port directly; serving it would call ourselves
	NoChain                       // no filter chain matches it
	TooMany                       // MaxConnections of its listener or chain are open
	TooManyInAll                  // MaxConnections of the process are open
	TooFast                       // its chain's Rate of connections is used up
	Exhausted                     // the process has no descriptors to spare
	OutOfMemory                   // the process has no memory to spare
	InspectTimeout                // it said nothing within InspectTimeout
	Handshake                     // TLS failed
	BadHeader                     // its PROXY protocol header is missing or wrong
	Crowded                       // too much was held for clients that did not finish their first words
	Misjudged                     // its ClientHello came after the application had spoken
	Unconfigured                  // its listener did not come in time, or too many wait for theirs
	refusals
)

var refusalNames = [refusals]string{
	Looping:        "the connection was made to the capture port itself",
	NoChain:        "no filter chain matches",
	TooMany:        "too many connections to this listener",
	TooManyInAll:   "too many connections to this proxy",
	TooFast:        "connections come faster than the local rate limit allows",
	Exhausted:      "the limit of open files is reached",
	OutOfMemory:    "the limit of memory is near",
	InspectTimeout: "the client said nothing to choose a filter chain by",
	Handshake:      "the TLS handshake failed",
	BadHeader:      "the PROXY protocol header is missing or wrong",
	Crowded:        "it did not finish its first words, and too much is held for others that do not",
	Unconfigured:   "the configuration of its destination did not come in time, or too much waits for some already",
	Misjudged:      "a workload of the mesh began TLS when the application had spoken in plaintext; its next connection is waited for",
}

// Refusals are all reasons there are.
func Refusals() []Refusal {
	return []Refusal{Looping, NoChain, TooMany, TooManyInAll, TooFast, Exhausted, OutOfMemory, InspectTimeout, Handshake, BadHeader, Crowded, Misjudged, Unconfigured}
}

func (r Refusal) String() string { return refusalNames[r] }

// Stats count what one acceptor did.
type Stats struct {
	Accepted  uint64
	Inbound   uint64 // of them, those that the workload did not make
	Moved     uint64 // of them, given to another worker
	Exhausted uint64 // times that accepting failed for want of descriptors or memory
	Refused   [refusals]uint64
}

// Acceptor is the listening of one worker. It belongs to the worker's loop.
type Acceptor struct {
	l        *loop.Loop
	o        Options
	group    *Group
	table    *Table
	sockets  map[loop.Addr]*socket
	leaving  map[loop.Addr]*socket // deaf ones
	open     atomic.Int64
	stats    Stats
	tallies  map[*atomic.Int64]*held
	hello    greeting
	scratch  []byte // for hellos in several records
	keeping  keeping
	spare    spare
	relieved int64 // when
	waiting  int   // for their listeners
}

// NewAcceptor makes an acceptor for a loop; it accepts nothing until its Group applies a Table.
func NewAcceptor(l *loop.Loop, o Options) *Acceptor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Acceptor{l: l, o: o, sockets: map[loop.Addr]*socket{}, leaving: map[loop.Addr]*socket{}, tallies: map[*atomic.Int64]*held{}}
}

// Stats are the counts so far; on the loop.
func (a *Acceptor) Stats() Stats { return a.stats }

// Open is the number of connections accepted here that did not end yet. Any goroutine.
func (a *Acceptor) Open() int64 { return a.open.Load() }

// Table is what the acceptor uses now; on the loop.
func (a *Acceptor) Table() *Table { return a.table }

// apply changes to t, on the loop; drained: without its sockets.
func (a *Acceptor) apply(t *Table, fresh map[loop.Addr]int, drained bool) {
	a.table = t
	clear(a.tallies)
	listening := t.Configs
	if drained {
		listening = nil
	}
	if len(listening) > 0 {
		a.spare.refill(a)
	} else {
		a.spare.empty(a.l.Poller())
	}
	owner := map[loop.Addr]*Config{}
	for _, c := range listening {
		for _, b := range c.Binds {
			owner[b] = c
		}
	}
	for at, s := range a.sockets {
		if c := owner[at]; c != nil {
			s.config, s.table = c, t
			continue
		}
		// Its last connections are served by what it was.
		delete(a.sockets, at)
		s.leave(at)
	}
	for at, fd := range fresh {
		a.hurry(at) // part of those who come would come to the old one, and not be heard
		s := &socket{a: a, fd: fd, at: a.l.Poller().Local(fd), config: owner[at], table: t}
		s.more.Do, s.retry.Fire = s.accept, s.accept
		token, err := a.l.Register(fd, s)
		if err != nil {
			a.o.Log.Error("cannot listen", "listener", s.config.Name, "err", err)
			a.l.Poller().Close(fd)
			continue
		}
		s.token = token
		a.sockets[at] = s
	}
	if a.o.Demand != nil {
		a.o.Demand.Look()
	}
}

// socket is a listening socket of one worker.
type socket struct {
	a       *Acceptor
	fd      int
	token   loop.Token
	at      loop.Addr
	config  *Config
	table   *Table
	more    loop.TurnNode
	retry   loop.Timer
	closing bool // close when the queue is empty
	closed  bool
	until   int64 // not before this, by the loop's clock
}

// lastWords is how long a socket that is to be closed stays for handshakes that have begun: their last segment is on its way, and the kernel
// would reset who is in the middle of one, or in the queue. It is a few times what a round trip takes in a data centre. Whoever begins meanwhile is not heard, and is
// refused when it tries again, after a second: so it is not longer.
const lastWords = 20 * time.Millisecond

// leave takes what comes until nothing does, and closes.
func (s *socket) leave(at loop.Addr) {
	s.closing = true
	if at.Path == "" && s.a.l.Poller().Set(s.fd, loop.Deaf, 1) == 0 {
		s.until = s.a.l.Now() + int64(lastWords)
		s.a.leaving[at] = s
	}
	s.accept()
}

// hurry ends the leaving of an address: somebody else needs it.
func (a *Acceptor) hurry(at loop.Addr) {
	if s := a.leaving[at]; s != nil {
		s.until = 0
		s.accept()
	}
}

// emptied is called when nobody waits in the queue.
func (s *socket) emptied() {
	switch {
	case !s.closing:
	case s.a.l.Now() < s.until:
		s.a.l.Arm(&s.retry, s.until)
	default:
		s.close()
	}
}

// Ready is described at loop.Handler.
func (s *socket) Ready(ev loop.Events) {
	switch {
	case ev&loop.Ending != 0:
		s.close()
	case ev&loop.Panicked != 0:
		// Accepting for one connection went wrong; the others are served.
		s.a.l.NextTurn(&s.more)
	default:
		s.accept()
	}
}

func (s *socket) close() {
	if !s.closed {
		s.closed = true
		s.retry.Stop()
		maps.DeleteFunc(s.a.leaving, func(_ loop.Addr, other *socket) bool { return other == s })
		s.a.l.Close(s.token, s.fd)
	}
}

func (s *socket) accept() {
	if s.closed {
		return
	}
	a := s.a
	a.l.Blame(s)
	for range acceptsPerTurn {
		fd, remote, e := a.l.Poller().Accept(s.fd)
		switch e {
		case 0:
			a.stats.Accepted++
			if s.config.Direction != Outbound {
				a.stats.Inbound++
			}
			if w := a.group.idler(a); w != a {
				at, config, table := s.at, s.config, s.table
				if w.l.Post(func() { w.arrive(fd, remote, at, config, table) }) {
					a.stats.Moved++
					continue
				}
			}
			a.arrive(fd, remote, s.at, s.config, s.table)
		case syscall.EAGAIN:
			s.emptied()
			return
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
			a.exhausted(s)
			return
		case syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP:
			a.o.Log.Error("listening socket is broken", "listener", s.config.Name, "err", e)
			s.close()
			return
		default:
			// Linux reports errors of the connection in the queue here (accept(2)); the
			// next one may be good.
		}
	}
	a.l.NextTurn(&s.more)
}

// arrive finds out where a connection was going, and its listener and chain.
func (a *Acceptor) arrive(fd int, remote, at loop.Addr, config *Config, table *Table) {
	p := a.l.Poller()
	info := conn.Info{Local: at.AddrPort, Remote: remote.AddrPort, OriginalSource: config.OriginalSource}
	if at.Path == "" && (at.Addr().IsUnspecified() || config.Transparent) {
		info.Local = p.Local(fd).AddrPort
	}
	if config.UseOriginalDst {
		if !a.recover(fd, &info, at) {
			a.refuse(fd, info, config, Looping)
			return
		}
		if info.Original == proof {
			p.Close(fd)
			return
		}
		if config.HandOff {
			found, waits := a.handOff(table, info.Original, config)
			if waits {
				a.hold(fd, info, config)
				return
			}
			config = found
		}
	}
	why, ok := a.admit(config)
	if !ok {
		a.refuse(fd, info, config, why)
		return
	}
	info.Holder = a.tally(config)
	a.begin(conn.Accept(a.l, fd, info, refused{}), config, table)
}

// begin serves a connection whose listener is known.
func (a *Acceptor) begin(c *conn.Conn, config *Config, table *Table) {
	config.Use.Touch()
	if config.Proxy != nil {
		a.readHeader(c, config, table)
		return
	}
	a.sort(c, config, table)
}

// sort gives the connection to its chain, or to an inspection where that depends on what
// the client says.
func (a *Acceptor) sort(c *conn.Conn, config *Config, table *Table) {
	info := c.Info()
	dst := info.Asked()
	names, level := config.match.forDestination(dst)
	on := connection{dst: dst, src: info.Remote, direct: direct(info), transport: RawBuffer}
	tls := config.InspectTLS && names != nil && level.needTLS
	http := config.InspectHTTP && names != nil && level.needHTTP
	if !tls && !http {
		a.choose(c, config, table, names, &on)
		return
	}
	a.inspect(c, config, table, names, level, &on, tls, http)
}

// direct is the address that connected.
func direct(info *conn.Info) netip.Addr {
	if info.Direct != nil {
		return info.Direct.Addr()
	}
	return info.Remote.Addr()
}

// choose gives the connection to its chain.
func (a *Acceptor) choose(c *conn.Conn, config *Config, table *Table, names *byName, on *connection) {
	chain := config.chain(names, on)
	if chain == nil {
		a.refused(c.Info(), config, NoChain, errors.New(on.String()))
		if on.transport == TLS {
			// A client that is told so does not look for the fault in the network.
			c.Write(unrecognizedName)
			c.Close()
			return
		}
		c.Reset()
		return
	}
	if chain.MaxConnections > 0 && !a.enter(c, config, chain) {
		return
	}
	if chain.Rate != nil && !chain.Rate.Take(a.l.Now()) {
		a.refused(c.Info(), config, TooFast, nil)
		c.Reset()
		return
	}
	arrival := Arrival{table, config, chain}
	if chain.TLS != nil {
		c.StartTLS(chain.TLS, &securing{a, arrival})
		return
	}
	h := a.o.Serve(c, arrival)
	if h == nil {
		a.turnAway(c, config)
		return
	}
	c.HandOver(h)
}

// turnAway refuses a connection whose chain was there when it came.
func (a *Acceptor) turnAway(c *conn.Conn, config *Config) {
	a.refused(c.Info(), config, NoChain, errGone)
	c.Reset()
}

var errGone = errors.New("the filter chain is gone by which it came")

// unrecognizedName is a record with the fatal alert of RFC 6066, section 3, for a client
// whose ClientHello no chain is for.
var unrecognizedName = []byte{21, 3, 3, 0, 2, 2, 112}

// securing owns a connection during its handshake.
type securing struct {
	a       *Acceptor
	arrival Arrival
}

func (s *securing) Open(c *conn.Conn) {
	if info := c.Info(); info.TLS.ID != (identity.ID{}) && s.arrival.Config.Direction == Inbound {
		s.a.group.peers.vouch(direct(info))
	}
	h := s.a.o.Serve(c, s.arrival)
	if h == nil {
		s.a.turnAway(c, s.arrival.Config)
		return
	}
	c.SetHandler(h)
	h.Open(c)
}

func (s *securing) Data(*conn.Conn, []byte) int { return 0 }
func (s *securing) EOF(*conn.Conn)              {}
func (s *securing) Drained(*conn.Conn)          {}

func (s *securing) Closed(c *conn.Conn, why conn.Why) {
	switch why.Kind {
	case conn.ResetHere, conn.Panicked, conn.LoopEnded: // not the handshake's fault
		return
	default:
	}
	err := why.Err
	if err == nil {
		err = errors.New(why.String())
	}
	s.a.refusedAt(c.Info(), s.arrival.Config, s.arrival.Chain, Handshake, err)
}

// refused owns a connection that has no owner.
type refused struct{}

func (refused) Open(*conn.Conn)                 {}
func (refused) Data(_ *conn.Conn, b []byte) int { return len(b) }
func (refused) EOF(*conn.Conn)                  {}
func (refused) Drained(*conn.Conn)              {}
func (refused) Closed(*conn.Conn, conn.Why)     {}

// proof is where nobody listens, and capture rules lead here all the same: who connects proves that they are in force (capture.InForce), and wants nothing else.
var proof = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 6}), 15002)

// recover finds the original destination; false refuses the connection.
func (a *Acceptor) recover(fd int, info *conn.Info, at loop.Addr) bool {
	if info.Local.Port() != at.Port() {
		info.Original = info.Local // TPROXY leaves the destination in place
		return true
	}
	dst, e := a.l.Poller().OriginalDst(fd)
	if e != 0 {
		// Nothing was redirected, and nothing tracks connections: it came here directly.
		dst = info.Local
	}
	info.Original = dst
	return dst != info.Local
}

// refuse closes a connection that never became one.
func (a *Acceptor) refuse(fd int, info conn.Info, c *Config, why Refusal) { // info by value: only here it leaves the stack
	a.l.Poller().Set(fd, loop.ResetOnClose, 1)
	a.l.Poller().Close(fd)
	a.refused(&info, c, why, nil)
}

func (a *Acceptor) refused(info *conn.Info, c *Config, why Refusal, err error) {
	a.refusedAt(info, c, nil, why, err)
}

// refusedAt is refused of a connection that was at a chain already.
func (a *Acceptor) refusedAt(info *conn.Info, c *Config, chain *Chain, why Refusal, err error) {
	a.stats.Refused[why]++
	if a.o.Refused != nil {
		a.o.Refused(info, c, chain, why, err)
	}
}
