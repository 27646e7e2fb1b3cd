package listener

import (
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/tls"
)

// Has reports whether there is a listener of that name.
func (t *Table) Has(name string) bool { return t.byName[name] != nil }

// Again finds the chain that a connection would come by if it came now, to the same listener and for the same kind of
// service. It came by the chain was of an earlier Table, and is described by info. nil: it would not be let in.
//
// So connections outlive every change of their listener but those that refuse them: a permissive port that became strict,
// client certificates that are required now.
func (t *Table) Again(was *Chain, info *conn.Info) *Chain {
	c := t.byName[was.listener]
	if c == nil {
		return nil
	}
	on := connection{dst: info.Asked(), src: info.Remote, direct: direct(info), sni: info.ServerName, transport: was.Match.TransportProtocol}
	switch {
	case info.TLS != nil:
		on.sni, on.transport = strings.ToLower(info.TLS.SNI), TLS
	case on.sni != "":
		on.transport = TLS
	}
	var found *Chain
	take := func(ch *Chain) bool { // whether to look no further
		if ch != nil && ch.again(was, info.TLS) && (found == nil || ch == was) {
			found = ch
		}
		return found == was
	}
	if names, _ := c.match.forDestination(on.dst); names != nil {
		names.again(&on, was.Match.ApplicationProtocols, take)
	}
	if found == nil {
		take(c.Default)
	}
	return found
}

// again reports whether c takes over a connection from was.
func (c *Chain) again(was *Chain, p *tls.Peer) bool {
	if c.ServerFirst != was.ServerFirst || (c.TLS != nil) != (p != nil) {
		return false
	}
	return c.TLS == was.TLS || c.TLS.Admits(p, was.TLS)
}

// again shows the chains that find might choose from. What the connection began with was looked at once and not kept: it
// is known as far as its chain depended on it. Of the protocols in alpn, if there are any, the client offered one.
func (n *byName) again(on *connection, alpn []string, enough func(*Chain) bool) {
	t := n.byName(on.sni)
	if t == nil {
		return
	}
	transports := []string{on.transport}
	if on.transport == "" {
		transports = []string{RawBuffer, TLS}
	}
	for _, transport := range transports {
		a := t.byTransport(transport)
		if a == nil {
			continue
		}
		for _, p := range alpn {
			if enough(a.protocols[p].bySource(on)) {
				return
			}
		}
		if enough(a.protocols[""].bySource(on)) {
			return
		}
		if len(alpn) > 0 || len(a.protocols) <= 1 {
			continue
		}
		for _, p := range slices.Sorted(maps.Keys(a.protocols)) {
			if enough(a.protocols[p].bySource(on)) {
				return
			}
		}
	}
}
