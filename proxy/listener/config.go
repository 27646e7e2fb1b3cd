// Package listener is where connections enter: it accepts them, finds out where
// they were going before capture redirected them, looks at their first bytes, and
// chooses the filter chain that serves them.
//
// What enters: a Table of Configs (made by proxy/state from xDS, immutable) and
// the connections of listening sockets. What leaves: open connections with an
// Arrival, given to the worker's Serve function; those without a place are closed
// and told to Refused. A Group holds the listening sockets of all workers and is
// called by whoever applies state, one call at a time; each Acceptor belongs to its
// worker's loop.
package listener

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/ratelimit"
	"github.com/weirmesh/weir/proxy/tls"
)

// Direction is a listener's traffic_direction.
type Direction uint8

const (
	Unspecified Direction = iota // a gateway
	Inbound
	Outbound
)

func (d Direction) String() string { return [...]string{"unspecified", "inbound", "outbound"}[d] }

// Config is one listener. It is immutable once a Table was made of it.
type Config struct {
	Name      string
	Direction Direction
	// Address stands for the listener in the search by original destination. A
	// listener with bind_to_port false has no Binds.
	Address netip.AddrPort
	Binds   []loop.Addr
	// UseOriginalDst: connections come here by redirection. They are given to the
	// listener of the same direction whose Address they were going to, if there is
	// one, and are refused if they were going here. (use_original_dst, or the
	// listener filter original_dst, which asks for the address without giving away.)
	UseOriginalDst bool
	HandOff        bool
	// Early stands for a listener that has not come yet: connections wait so long until one of its Name takes its place. It has no
	// chains. 0: it is here.
	Early          time.Duration
	Transparent    bool                 // IP_TRANSPARENT: capture by TPROXY
	OriginalSource *conn.OriginalSource // original_src: what is dialled for clients carries their addresses
	FreeBind       bool                 // IP_FREEBIND: its address may appear later
	Backlog        int                  // tcp_backlog_size; 0: 4096

	// Proxy, where set, has a PROXY protocol header read first, whatever the chains are.
	Proxy *ProxyHeader

	// Inspectors run only if a chain for the connection's destination depends on what
	// they find, so a port with one chain never waits for a client to speak.
	InspectTLS, InspectHTTP bool
	// InspectTimeout is how long they wait, 0 without end; after it the connection is
	// served by what is known (ContinueOnTimeout) or closed. It matters where the
	// server speaks first.
	InspectTimeout    time.Duration
	ContinueOnTimeout bool

	Chains  []*Chain
	Default *Chain // default_filter_chain; nil: no match closes the connection

	// MaxConnections is the limit of open connections over all workers, 0 none.
	MaxConnections   int
	IgnoreGroupLimit bool // ignore_global_conn_limit: they do not count for Group.MaxConnections
	Keepalive        conn.Keepalive

	// Use is when it was used, nil where nobody keeps account of that.
	Use *demand.Use

	match *matcher
	count *atomic.Int64 // open connections, the Group's, by Name
}

// ProxyHeader is what is wanted of the PROXY protocol headers of a listener.
type ProxyHeader struct {
	Optional bool // connections without one are served too
	// Refused are versions that are not read; with Optional, their bytes belong to the client.
	Refused []proxyproto.Version
}

// Chain is one filter chain.
type Chain struct {
	Name  string
	Match Match
	TLS   *tls.Server // nil: plaintext
	// MaxConnections is the limit of open connections over all workers, 0 none (the filter
	// connection_limit). One more is closed after RefuseDelay.
	MaxConnections int64
	RefuseDelay    time.Duration
	// Rate limits how fast connections come; nil: it does not.
	Rate *ratelimit.Bucket
	// ServerFirst says that Filters relay bytes to a server that may speak before its client.
	ServerFirst bool
	// Filters is what the worker's Serve makes a Handler of: the decoded HTTP
	// connection manager or TCP proxy.
	Filters any

	listener string
	count    *atomic.Int64 // open connections, the Group's
}

// Match is a FilterChainMatch. Empty criteria match everything; a chain matches if
// every criterion does. Among several the more specific wins, criterion by criterion in
// the order of the fields, without coming back to an earlier one (Envoy's rule).
type Match struct {
	DestinationPort      uint16
	DestinationPrefixes  []netip.Prefix
	ServerNames          []string // exact, or "*.example.com"
	TransportProtocol    string   // "tls" or "raw_buffer"
	ApplicationProtocols []string
	DirectSourcePrefixes []netip.Prefix
	SourceType           SourceType
	SourcePrefixes       []netip.Prefix
	SourcePorts          []uint16
}

// SourceType says where a client must be.
type SourceType uint8

const (
	AnySource SourceType = iota
	SameHost             // loopback, the address connected to, or a Unix socket
	External
)

// Transport protocols of Match.
const (
	RawBuffer = "raw_buffer"
	TLS       = "tls"
)

// Arrival is what is known of a connection when its chain is chosen.
type Arrival struct {
	Table  *Table
	Config *Config
	Chain  *Chain
}

// Table is an immutable set of listeners: those of one State.
type Table struct {
	Configs []*Config
	byName  map[string]*Config
	byDst   [3]map[netip.AddrPort]*Config // by direction
}

// NewTable checks the listeners and compiles their chains.
func NewTable(configs []*Config) (*Table, error) {
	t := &Table{Configs: configs, byName: map[string]*Config{}}
	var errs []error
	bound := map[loop.Addr]*Config{}
	for i := range t.byDst {
		t.byDst[i] = map[netip.AddrPort]*Config{}
	}
	for _, c := range configs {
		if c.match == nil { // one of an earlier Table is in use by workers and not touched
			m, err := compile(c.Chains)
			if err != nil {
				errs = append(errs, fmt.Errorf("listener %q: %w", c.Name, err))
				continue
			}
			c.match = m
			for _, ch := range c.Chains {
				ch.listener = c.Name
			}
			if c.Default != nil {
				c.Default.listener = c.Name
			}
		}
		t.byName[c.Name] = c
		for _, b := range c.Binds {
			if o := bound[b]; o != nil {
				errs = append(errs, fmt.Errorf("listener %q: address %v is already that of listener %q", c.Name, b, o.Name))
			}
			bound[b] = c
		}
		if len(c.Binds) == 0 {
			if !c.Address.IsValid() {
				errs = append(errs, fmt.Errorf("listener %q: it is not bound to a port and has no address to be found by", c.Name))
			}
			if o := t.byDst[c.Direction][c.Address]; o != nil {
				errs = append(errs, fmt.Errorf("listener %q: destination %v is already that of listener %q", c.Name, c.Address, o.Name))
			}
			t.byDst[c.Direction][c.Address] = c
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

// Holds reports whether there is a listener of that name.
func (t *Table) Holds(name []byte) bool { return t.byName[string(name)] != nil }

// ForDestination finds the listener for a redirected connection: the exact address,
// the wildcard of its family and port, else the one that caught it.
func (t *Table) ForDestination(dst netip.AddrPort, caught *Config) *Config {
	c, _, _ := t.search(dst, caught)
	return c
}

// search is ForDestination, and says which kind was found.
func (t *Table) search(dst netip.AddrPort, caught *Config) (c *Config, exact, wildcard bool) {
	m := t.byDst[caught.Direction]
	if c := m[dst]; c != nil {
		return c, true, false
	}
	if dst.Addr().Is6() {
		if c := m[netip.AddrPortFrom(netip.IPv6Unspecified(), dst.Port())]; c != nil {
			return c, false, true
		}
		// Istio's control plane names only 0.0.0.0 where a mesh has both families.
	}
	if c := m[netip.AddrPortFrom(netip.IPv4Unspecified(), dst.Port())]; c != nil {
		return c, false, true
	}
	return caught, false, false
}
