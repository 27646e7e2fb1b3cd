package http

import (
	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/hosts"
)

// named finds the addresses of the name that the client asks for, as it asks: routes change the authority later. wait: they are
// not known yet.
func (x *Exchange) named() (wait bool) {
	x.found = nil
	if x.w.o.Hosts == nil {
		return false
	}
	name, ok := hosts.AppendName(x.arena.Open(len(x.Request.Authority)), x.Request.Authority, x.Cluster.Pattern)
	if ok {
		x.found, wait = x.w.o.Hosts.Find(name)
	}
	x.arena.Close(name)
	return wait && x.w.o.Demand != nil
}

// awaitName holds the request until the addresses of its name are known.
func (x *Exchange) awaitName() Verdict {
	if x.hold = x.w.o.Demand.Hold(x.nameAgain); x.hold == nil {
		return x.Reply(causes.NameNotResolved)
	}
	if !x.hold.Keep(len(x.body)) {
		return x.crowd()
	}
	return Hold
}

func (x *Exchange) nameAgain(over bool) {
	x.down.blame()
	if x.named() && !over {
		return
	}
	x.release()
	x.send()
}

// dynamic is an endpoint at one of the addresses of the request's name, another than those tried if there is one; nil: there is
// none.
func (x *Exchange) dynamic(c *cluster.Cluster) *cluster.Endpoint {
	addr := c.Pick(x.found.Addresses(), x.tried, x.w.loop.Rand())
	if !addr.IsValid() {
		x.Failure = x.found.Reason()
		return nil
	}
	return x.w.pool.OriginalDst(c, addr)
}
