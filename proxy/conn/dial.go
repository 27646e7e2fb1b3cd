package conn

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/tls"
)

// Target says where to connect and how.
type Target struct {
	Addr loop.Addr
	// Also are further addresses of the same peer; see race.
	Also []netip.AddrPort
	// Preface is sent first, in the clear: a PROXY protocol header. It is not counted.
	Preface []byte
	// TLS secures the connection; nil does not.
	TLS *tls.Client
	// Timeout of the connection attempt, TLS handshake included; 0 is 10 s.
	Timeout time.Duration
	// Socket makes the socket; nil takes it from the loop's own kernel and namespace.
	Socket SocketSource
	// Bind is the local address, where valid, towards addresses of its family; port 0 lets
	// the kernel choose.
	Bind netip.AddrPort
	// Transparent lets Bind be an address that is not local, and Mark is the packet mark of
	// such a connection, 0 for none: see OriginalSource.
	Transparent bool
	Mark        uint32
	Keepalive   Keepalive
}

// Keepalive asks the kernel to probe a silent peer. The zero value does not.
// Zero fields of one that is On leave the kernel's default (2 h, 75 s, 9 on Linux).
type Keepalive struct {
	On             bool
	Idle, Interval time.Duration
	Count          int
}

// From makes connections to t carry the address of source, where that is valid.
func (t *Target) From(source netip.AddrPort, mark uint32) {
	if source.IsValid() && t.Addr.Path == "" {
		t.Bind, t.Mark, t.Transparent = source, mark, true
	}
}

// SocketSource makes unconnected, non-blocking, close-on-exec stream sockets, for
// a proxy whose outbound connections begin in another network namespace. It must
// never make the loop wait: Take answers at once, from sockets made ahead of demand.
type SocketSource interface {
	// Take returns a socket, or EAGAIN when none is ready. Loop threads call it.
	Take(f loop.Family) (fd int, errno syscall.Errno)
	// Order asks for one socket after EAGAIN. done is called once, later, from any
	// goroutine, with a descriptor that is done's to close, or an error.
	Order(f loop.Family, done func(fd int, err error))
}

// dialing is what only a connection that is not connected yet needs.
type dialing struct {
	Target
	race *race // nil: there is one address
}

// dialTimeout is Istio's default (meshConfig.connectTimeout), for a Target that
// does not say.
const dialTimeout = 10 * time.Second

// Dial begins to connect. h hears Open or Closed, never during this call; what
// is written before Open is sent then.
func Dial(l *loop.Loop, t Target, h Handler) *Conn {
	c := newConn(l, h)
	c.state = connecting | dialled
	c.info.Remote = t.Addr.AddrPort
	c.dial = &dialing{Target: t}
	timeout := t.Timeout
	if timeout <= 0 {
		timeout = dialTimeout
	}
	c.within(timeout)
	if len(t.Also) > 0 {
		c.dial.race = newRace(c)
		c.dial.race.try()
		return c
	}
	c.socket(t.Addr.Family(), c.connect)
	return c
}

// socket gets a socket, now or later.
func (c *Conn) socket(f loop.Family, then func(fd int, e syscall.Errno, err error)) {
	l, source := c.l, c.dial.Socket
	if source == nil {
		fd, e := l.Poller().Socket(f)
		then(fd, e, nil)
		return
	}
	fd, e := source.Take(f)
	if e != syscall.EAGAIN {
		then(fd, e, nil)
		return
	}
	source.Order(f, func(fd int, err error) {
		if !l.Post(func() { c.ordered(fd, err, then) }) && err == nil {
			l.Poller().Close(fd)
		}
	})
}

// ordered gets the socket that a SocketSource had to make first.
func (c *Conn) ordered(fd int, err error, then func(fd int, e syscall.Errno, err error)) {
	c.l.Blame((*ready)(c))
	if !c.is(connecting) {
		if err == nil {
			c.l.Poller().Close(fd)
		}
		return
	}
	then(fd, 0, err)
}

func (c *Conn) connect(fd int, e syscall.Errno, err error) {
	if e != 0 || err != nil {
		c.fail(Why{Kind: SocketFailed, Errno: e, Err: err})
		return
	}
	c.fd = fd
	if why := c.begin(fd, c.dial.Addr); why.Kind != ClosedHere {
		c.fail(why)
		return
	}
	c.adopt(fd)
}

// begin lets a socket connect. ClosedHere means that nothing is wrong so far.
func (c *Conn) begin(fd int, to loop.Addr) Why {
	p, d, e := c.l.Poller(), c.dial, syscall.Errno(0)
	if to.Path == "" {
		p.Set(fd, loop.NoDelay, 1)
		d.Keepalive.Set(p, fd)
	}
	if d.Mark != 0 {
		e = p.Set(fd, loop.Mark, int(d.Mark))
	}
	if d.Transparent && e == 0 {
		e = p.Set(fd, loop.Transparent, 1)
	}
	if bind := loop.TCP(d.Bind); d.Bind.IsValid() && bind.Family() == to.Family() && e == 0 {
		if d.Bind.Port() == 0 {
			// A port for each connection of one source would be 28,000 of them; where the kernel
			// cannot choose later, that is how it is.
			p.Set(fd, loop.BindAddress, 1)
		}
		e = p.Bind(fd, bind)
	}
	if e != 0 {
		return Why{Kind: SocketFailed, Errno: e}
	}
	switch e := p.Connect(fd, to); e {
	case 0, syscall.EINPROGRESS, syscall.EINTR:
		return Why{} // a socket that is connected at once reports Writable too
	case syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS:
		return Why{Kind: SocketFailed, Errno: e}
	default:
		return connectError(e)
	}
}

// Set applies k to a socket; on a listening one, to all it accepts.
func (k Keepalive) Set(p loop.Sockets, fd int) {
	if !k.On {
		return
	}
	p.Set(fd, loop.Keepalive, 1)
	if k.Idle > 0 {
		p.Set(fd, loop.KeepIdle, int(k.Idle/time.Second))
	}
	if k.Interval > 0 {
		p.Set(fd, loop.KeepInterval, int(k.Interval/time.Second))
	}
	if k.Count > 0 {
		p.Set(fd, loop.KeepCount, k.Count)
	}
}

func connectError(e syscall.Errno) Why {
	switch e {
	case syscall.ECONNREFUSED, syscall.ENOENT: // ENOENT: no such Unix socket
		return Why{Kind: ConnectRefused, Errno: e}
	case syscall.ETIMEDOUT:
		return Why{Kind: ConnectTimeout, Errno: e}
	}
	return Why{Kind: ConnectFailed, Errno: e}
}

// connectResult is the first event of a socket that was connecting.
func (c *Conn) connectResult(ev loop.Events) {
	if ev&(loop.Writable|loop.Error|loop.HangUp) == 0 {
		return
	}
	if e := c.l.Poller().SocketError(c.fd); e != 0 {
		c.fail(connectError(e))
		return
	}
	if ev&loop.Writable != 0 {
		c.connected(ev)
	}
}

func (c *Conn) connected(ev loop.Events) {
	secure, to := c.dial.TLS, tls.Endpoint{Addr: c.dial.Addr.AddrPort, Path: c.dial.Addr.Path}
	if p := c.dial.Preface; len(p) > 0 {
		// A new socket has room for it.
		if n, e := c.l.Poller().Write(c.fd, p); n < len(p) {
			if e == 0 {
				e = syscall.ENOBUFS
			}
			c.fail(connectError(e))
			return
		}
	}
	c.dial = nil
	c.info.Local = c.l.Poller().Local(c.fd).AddrPort
	c.state &^= connecting
	// Input may have come with the same event.
	c.state |= unread
	if ev&(loop.HangUp|loop.Error) != 0 {
		c.state |= hungUp
	}
	if secure != nil {
		c.secure(func(h tls.Host) *tls.Session { return secure.Session(h, to) })
		c.startHandshake()
		return
	}
	c.idleTimer()
	if len(c.out) > 0 || c.is(closeWrite) {
		c.l.AtFlush(&c.flush)
	}
	c.doWork()
}
