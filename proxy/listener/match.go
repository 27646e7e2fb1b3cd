package listener

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A connection is what chains are matched against.
type connection struct {
	dst, src  netip.AddrPort
	direct    netip.Addr // src before a PROXY header
	sni       string
	transport string
	alpn      [][]byte
}

// String describes the connection to who asks why no chain matches.
func (c *connection) String() string {
	if c.transport != TLS {
		return fmt.Sprintf("plaintext to %v, with %q found", c.dst, bytes.Join(c.alpn, []byte(", ")))
	}
	return fmt.Sprintf("TLS to %v for server name %q, offering %q", c.dst, c.sni, bytes.Join(c.alpn, []byte(", ")))
}

// matcher is the chains of a listener as a tree, one level a criterion. At every
// level the most specific entry that fits is taken, and there is no way back: a
// chain for port 80 hides all chains without a port from connections to port 80.
type matcher struct {
	ports map[uint16]*byPrefix
	any   *byPrefix
}

type byPrefix struct {
	entries []prefixEntry // longest prefix first; the last may be everything
	// What the chains below depend on, and whether one of them terminates TLS.
	needTLS, needHTTP, terminates bool
}

type prefixEntry struct {
	prefix netip.Prefix // invalid: everything
	names  *byName
}

type byName struct {
	names map[string]*byTransport // "example.com", ".example.com" for a wildcard, "" for all
}

type byTransport struct{ protocols map[string]*byProtocol }

type byProtocol struct{ protocols map[string]*bySource }

type bySource struct{ chains []sourceEntry }

type sourceEntry struct {
	direct, source netip.Prefix
	typ            SourceType
	port           uint16
	chain          *Chain
}

func compile(chains []*Chain) (*matcher, error) {
	m := &matcher{ports: map[uint16]*byPrefix{}}
	for _, c := range chains {
		if err := m.insert(c); err != nil {
			return nil, fmt.Errorf("filter chain %q: %w", c.Name, err)
		}
	}
	for _, p := range m.ports {
		p.finish()
	}
	if m.any != nil {
		m.any.finish()
	}
	return m, nil
}

// orAny is a list with the one entry that stands for everything, if it is empty.
func orAny[T any](list []T) []T {
	if len(list) == 0 {
		return make([]T, 1)
	}
	return list
}

func (m *matcher) insert(c *Chain) error {
	x := &c.Match
	at := m.any
	if x.DestinationPort != 0 {
		at = m.ports[x.DestinationPort]
	}
	if at == nil {
		at = &byPrefix{}
		if x.DestinationPort != 0 {
			m.ports[x.DestinationPort] = at
		} else {
			m.any = at
		}
	}
	for _, prefix := range orAny(x.DestinationPrefixes) {
		names := at.get(prefix)
		for _, name := range orAny(x.ServerNames) {
			key, err := nameKey(name)
			if err != nil {
				return err
			}
			transports := get(names.names, key, func() *byTransport { return &byTransport{map[string]*byProtocol{}} })
			protocols := get(transports.protocols, x.TransportProtocol, func() *byProtocol { return &byProtocol{map[string]*bySource{}} })
			for _, alpn := range orAny(x.ApplicationProtocols) {
				sources := get(protocols.protocols, alpn, func() *bySource { return &bySource{} })
				for _, direct := range orAny(x.DirectSourcePrefixes) {
					for _, source := range orAny(x.SourcePrefixes) {
						for _, port := range orAny(x.SourcePorts) {
							e := sourceEntry{direct.Masked(), source.Masked(), x.SourceType, port, c}
							if err := sources.add(e); err != nil {
								return err
							}
						}
					}
				}
			}
		}
	}
	return nil
}

func nameKey(name string) (string, error) {
	name = strings.ToLower(name)
	if rest, ok := strings.CutPrefix(name, "*"); ok {
		if !strings.HasPrefix(rest, ".") || strings.Contains(rest, "*") || rest == "." {
			return "", fmt.Errorf("server name %q: a wildcard has the form *.example.com", name)
		}
		return rest, nil
	}
	if strings.Contains(name, "*") {
		return "", fmt.Errorf("server name %q: a wildcard has the form *.example.com", name)
	}
	return name, nil
}

func get[K comparable, V any](m map[K]*V, k K, make func() *V) *V {
	v := m[k]
	if v == nil {
		v = make()
		m[k] = v
	}
	return v
}

func (p *byPrefix) get(prefix netip.Prefix) *byName {
	prefix = prefix.Masked()
	for _, e := range p.entries {
		if e.prefix == prefix {
			return e.names
		}
	}
	n := &byName{map[string]*byTransport{}}
	p.entries = append(p.entries, prefixEntry{prefix, n})
	return n
}

// finish sorts and finds out what has to be inspected.
func (p *byPrefix) finish() {
	slices.SortStableFunc(p.entries, func(a, b prefixEntry) int { return comparePrefixes(a.prefix, b.prefix) })
	for _, e := range p.entries {
		for name, t := range e.names.names {
			p.needTLS = p.needTLS || name != "" || len(t.protocols) > 1 || t.protocols[""] == nil
			for transport, a := range t.protocols {
				for alpn := range a.protocols {
					p.needTLS = p.needTLS || alpn != ""
					if transport != TLS && (alpn == "http/1.1" || alpn == "http/1.0" || alpn == "h2c") {
						p.needHTTP = true
					}
				}
				for _, s := range a.protocols {
					s.finish()
					p.terminates = p.terminates || slices.ContainsFunc(s.chains, func(e sourceEntry) bool { return e.chain.TLS != nil })
				}
			}
		}
	}
}

func (s *bySource) add(e sourceEntry) error {
	for _, o := range s.chains {
		if o.direct == e.direct && o.source == e.source && o.typ == e.typ && o.port == e.port {
			return fmt.Errorf("it matches the same connections as filter chain %q", o.chain.Name)
		}
	}
	s.chains = append(s.chains, e)
	return nil
}

// finish puts the more specific sources first: direct prefix, type, prefix, port.
func (s *bySource) finish() {
	slices.SortStableFunc(s.chains, func(a, b sourceEntry) int {
		return cmp.Or(
			comparePrefixes(a.direct, b.direct),
			cmp.Compare(b.typ, a.typ),
			comparePrefixes(a.source, b.source),
			cmp.Compare(b.port, a.port),
		)
	})
}

// comparePrefixes orders longest first, alike ones together, "everything" last.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
}

// forDestination is the first two levels, known at once: nil if no chain can match.
func (m *matcher) forDestination(dst netip.AddrPort) (*byName, *byPrefix) {
	p := m.ports[dst.Port()]
	if p == nil {
		p = m.any
	}
	if p == nil {
		return nil, nil
	}
	for _, e := range p.entries {
		if !e.prefix.IsValid() || e.prefix.Contains(dst.Addr()) {
			return e.names, p
		}
	}
	return nil, p
}

// chain is the one for a connection, nil if there is none.
func (c *Config) chain(names *byName, on *connection) *Chain {
	if names != nil {
		if ch := names.find(on); ch != nil {
			return ch
		}
	}
	return c.Default
}

// find is the other levels.
func (n *byName) find(c *connection) *Chain {
	t := n.byName(c.sni)
	if t == nil {
		return nil
	}
	a := t.byTransport(c.transport)
	if a == nil {
		return nil
	}
	return a.byProtocol(c.alpn).bySource(c)
}

func (t *byTransport) byTransport(name string) *byProtocol {
	if a := t.protocols[name]; a != nil {
		return a
	}
	return t.protocols[""]
}

func (s *bySource) bySource(c *connection) *Chain {
	if s == nil {
		return nil
	}
	list := s.chains
	list = narrow(list, func(e *sourceEntry) bool { return fits(e.direct, c.direct) }, func(a, b *sourceEntry) bool { return a.direct == b.direct })
	list = narrow(list, func(e *sourceEntry) bool { return e.typ.fits(c) }, func(a, b *sourceEntry) bool { return a.typ == b.typ })
	list = narrow(list, func(e *sourceEntry) bool { return fits(e.source, c.src.Addr()) }, func(a, b *sourceEntry) bool { return a.source == b.source })
	for i := range list {
		if list[i].port == 0 || list[i].port == c.src.Port() {
			return list[i].chain
		}
	}
	return nil
}

// narrow is the entries that share the criterion of the first that fits.
func narrow(list []sourceEntry, fits func(*sourceEntry) bool, same func(a, b *sourceEntry) bool) []sourceEntry {
	for i := range list {
		if fits(&list[i]) {
			j := i + 1
			for j < len(list) && same(&list[i], &list[j]) {
				j++
			}
			return list[i:j]
		}
	}
	return nil
}

func fits(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || p.Contains(a) }

func (t SourceType) fits(c *connection) bool {
	if t == AnySource {
		return true
	}
	local := !c.src.IsValid() || c.src.Addr().IsLoopback() || c.src.Addr() == c.dst.Addr()
	return local == (t == SameHost)
}

func (n *byName) byName(sni string) *byTransport {
	if t := n.names[sni]; t != nil && sni != "" {
		return t
	}
	for i := 1; i < len(sni); i++ {
		if sni[i] == '.' {
			if t := n.names[sni[i:]]; t != nil {
				return t
			}
		}
	}
	return n.names[""]
}

func (a *byProtocol) byProtocol(alpn [][]byte) *bySource {
	for _, p := range alpn {
		if s := a.protocols[string(p)]; s != nil && len(p) > 0 {
			return s
		}
	}
	return a.protocols[""]
}
