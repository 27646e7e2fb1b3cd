package listener

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/proxyproto"
)

// header owns a connection until its PROXY protocol header was read.
type header struct {
	a      *Acceptor
	c      *conn.Conn
	config *Config
	table  *Table
	timer  loop.Timer
	kept   kept
}

func (a *Acceptor) readHeader(c *conn.Conn, config *Config, table *Table) {
	h := &header{a: a, c: c, config: config, table: table}
	if config.InspectTimeout > 0 {
		h.timer.Fire = h.expired
		a.l.Arm(&h.timer, a.l.Now()+int64(config.InspectTimeout))
	}
	c.HandOver(h)
}

func (h *header) Open(*conn.Conn)    {}
func (h *header) Drained(*conn.Conn) {}

func (h *header) Closed(*conn.Conn, conn.Why) { h.done() }

func (h *header) done() {
	h.timer.Stop()
	h.a.keeping.release(&h.kept)
}

func (h *header) Data(c *conn.Conn, b []byte) int {
	p, n, err := proxyproto.Parse(b)
	switch {
	case errors.Is(err, proxyproto.ErrShort):
		h.a.keeping.keep(&h.kept, len(b), h.crowd)
		return 0
	case err == nil && slices.Contains(h.config.Proxy.Refused, p.Version):
		err, n = fmt.Errorf("version %d of the PROXY protocol is not accepted here", p.Version), 0
		if h.config.Proxy.Optional {
			err = nil
		}
	case errors.Is(err, proxyproto.ErrNone) && h.config.Proxy.Optional:
		err = nil
	case err == nil && p.Source.IsValid():
		info := c.Info()
		direct := info.Remote
		info.Direct, info.Remote, info.Local = &direct, p.Source, p.Destination
		if info.Original.IsValid() {
			info.Original = p.Destination
		}
	}
	if err != nil {
		h.refuse(BadHeader, err)
		return len(b)
	}
	h.done()
	h.a.sort(c, h.config, h.table)
	return n
}

// EOF: nobody to serve, as with a health check of the load balancer that only connects;
// or a client without a header that has finished.
func (h *header) EOF(c *conn.Conn) {
	h.done()
	if h.config.Proxy.Optional {
		h.a.sort(c, h.config, h.table)
		return
	}
	c.Close()
}

func (h *header) expired() {
	h.c.Blame()
	if h.config.ContinueOnTimeout && h.config.Proxy.Optional {
		h.done()
		h.a.sort(h.c, h.config, h.table)
		return
	}
	h.refuse(InspectTimeout, nil)
}

func (h *header) crowd() { h.refuse(Crowded, nil) }

func (h *header) refuse(why Refusal, err error) {
	h.done()
	h.a.refused(h.c.Info(), h.config, why, err)
	h.c.Reset()
}
