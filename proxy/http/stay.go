package http

import "github.com/weirmesh/weir/proxy/cluster"

// Stay sends the first attempt, or all of them if only says so, to an endpoint of the exchange's cluster.
func (x *Exchange) Stay(e *cluster.Endpoint, only bool) {
	if x.stays = e; only {
		x.flags |= strict
	}
}

// Stays is the endpoint that Stay was told of; nil: none.
func (x *Exchange) Stays() *cluster.Endpoint { return x.stays }
