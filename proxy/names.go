package proxy

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/weirmesh/weir/proxy/hosts"
)

// newHosts makes what knows the names of clients. In a mesh on loopback addresses (env capture) everybody has one, and only this
// proxy's own and the machine's usual one are nobody else's.
func (p *Proxy) newHosts() *hosts.Hosts {
	own := p.address()
	find := p.lookupHost()
	if p.o.LookupHost == nil {
		relative := find // names are whole: no search list has a say
		find = func(ctx context.Context, name string) ([]netip.Addr, error) { return relative(ctx, name+".") }
	}
	usual := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return hosts.New(hosts.Options{Find: find,
		Permit: func(a netip.Addr) bool {
			return a != own && (hosts.Foreign(a) || own.IsLoopback() && a.Is4() && a.IsLoopback() && a != usual)
		},
		Changed: func() {
			for _, w := range p.workers {
				w.loop.Post(w.demand.Look)
			}
		}})
}

// address is the node's own, as its ID says: "type~address~name~domain".
func (p *Proxy) address() netip.Addr {
	parts := strings.Split(p.o.Node.ID, "~")
	if len(parts) < 2 {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(parts[1])
	return a
}

// writeHosts writes metrics of the names that clients ask for, once there are any.
func (p *Proxy) writeHosts(out io.Writer) error {
	s, names := p.hosts.Stats()
	if s == (hosts.Stats{}) {
		return nil
	}
	var b strings.Builder
	one := func(name, kind, help string, value any) {
		fmt.Fprintf(&b, "# HELP weir_proxy_dynamic_dns_%[1]s %[3]s\n# TYPE weir_proxy_dynamic_dns_%[1]s %[2]s\nweir_proxy_dynamic_dns_%[1]s %[4]v\n", name, kind, help, value)
	}
	one("names", "gauge", "Names that clients asked for and that are known.", names)
	one("queries_total", "counter", "Questions to DNS for such names.", s.Asked)
	one("failures_total", "counter", "Questions that brought no address that may be called.", s.Failed)
	one("refused_total", "counter", "Answers that led to no other than forbidden addresses: this machine's, its link's, or those of many.", s.Refused)
	one("overflow_total", "counter", "Names that found no room.", s.Overflow)
	_, err := io.WriteString(out, b.String())
	return err
}
