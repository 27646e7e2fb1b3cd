package http

import (
	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
)

// raw is a connection to an endpoint that carries the payload of one CONNECT (connect_config): it knows no HTTP. It is
// lent once and never given back.
type raw struct {
	pool.Item
	w      *Worker
	x      *Exchange
	memory Memory
}

func (c *raw) Pooled() *pool.Item { return &c.Item }
func (c *raw) Goodbye()           {}
func (c *raw) Open(*conn.Conn)    { c.Item.Opened(1) }

// serve opens the tunnel of x: the endpoint has accepted the connection, which is all that a CONNECT asks for (RFC 9110
// section 9.3.6).
func (c *raw) serve(x *Exchange) {
	c.x, x.up = x, c
	x.lent(&c.Item)
	p := &x.Response
	p.Status, p.ContentLength, p.NoBody = 200, message.Unknown, false
	x.responseHead()
}

func (c *raw) Data(cc *conn.Conn, b []byte) (used int) {
	if c.x == nil {
		cc.Close()
		return len(b)
	}
	c.x.responseData(b, false)
	return len(b)
}

func (c *raw) EOF(cc *conn.Conn) {
	if c.x == nil {
		cc.Close()
		return
	}
	c.x.upstreamTunnelEnd()
}

func (c *raw) Drained(*conn.Conn) {
	if c.x != nil {
		c.x.upstreamDrained()
	}
}

func (c *raw) Closed(_ *conn.Conn, why conn.Why) {
	x := c.x
	c.x = nil
	c.Item.Closed(why)
	if x != nil {
		cause, text := why.Upstream()
		x.upstreamFailed(cause, text, false, false, false)
	}
}

// The upstream of an exchange.

func (c *raw) writeData(_ *Exchange, b []byte, _ bool) { c.Conn.Write(b) }
func (c *raw) writeEnd(*Exchange)                      { c.Conn.CloseWrite() }
func (c *raw) tunnel(*Exchange)                        {}
func (c *raw) pause(*Exchange)                         { c.Conn.Pause() }
func (c *raw) resume(*Exchange)                        { c.Conn.Resume() }
func (c *raw) full() bool                              { return c.Conn.Buffered() > conn.HighWater }
func (c *raw) remembers() *Memory                      { return &c.memory }

func (c *raw) cancel(*Exchange) {
	c.x = nil
	c.Discard(true)
}

func (c *raw) finish(*Exchange) {
	c.x = nil
	c.Discard(false)
}

// upgrade settles whether a request that asks for another protocol, or for a tunnel, gets it: as its route says, or as its
// listener does. false: it was answered.
func (x *Exchange) upgrade() bool {
	q := &x.Request
	kind, refused := q.Upgrade, causes.UpgradeRefused
	if q.Method == message.CONNECT {
		kind, refused = q.RawMethod, causes.ConnectRefused
	}
	allowed := x.Config.allows(kind)
	for i := range x.Route.Forward.Upgrades {
		if u := &x.Route.Forward.Upgrades[i]; foldsTo(kind, u.Name) {
			allowed = u.Enabled
			if allowed && u.Terminate && q.Method == message.CONNECT {
				x.flags |= terminates
			}
			break
		}
	}
	if !allowed {
		x.Reply(refused)
	}
	return allowed
}
