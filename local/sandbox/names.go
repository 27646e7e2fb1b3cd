package sandbox

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/local/nameproxy"
	"github.com/weirmesh/weir/local/plan"
)

// serveNames gives the workload's programs a proxy that knows names.
func (p *loopbackPlace) serveNames() error {
	if p.spec.Template.Gateway || p.spec.Host == nil {
		return nil
	}
	l := p.in.claim(p.net)
	if l == nil {
		port, err := p.takePort()
		if err != nil {
			return err
		}
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			return err
		}
	}
	p.names = l
	go nameproxy.Serve(l, p.lookup)
	return nil
}

// lookup says where the workload calls a host's port.
func (p *loopbackPlace) lookup(host string, port uint16) (at netip.AddrPort, ok bool, err error) {
	s := p.spec.Host(host)
	if s == nil {
		return at, false, nil
	}
	if s.Port(port) == nil {
		var has []string
		for _, o := range s.Ports {
			has = append(has, strconv.Itoa(int(o.Number)))
		}
		return at, false, fmt.Errorf("%s has no port %d, only %s", s.Hostname, port, strings.Join(has, ", "))
	}
	if at, ok = p.called(s, port); !ok {
		return at, false, fmt.Errorf("port %d of %s came after %s was started, which must be started again to call it", port, s.Hostname, p.spec.Name)
	}
	return at, true, nil
}

// proxyVariables lead programs to the proxy of names, and around it to what has an address
// of this machine. A container that sets one of them, in whatever case, or all_proxy,
// knows better.
func (p *loopbackPlace) proxyVariables(c plan.Container) []string {
	if p.names == nil {
		return nil
	}
	set := func(name string) bool {
		return slices.ContainsFunc(c.Env, func(v plan.Variable) bool { return strings.EqualFold(v.Name, name) })
	}
	if set("all_proxy") {
		return nil
	}
	at := "http://" + p.names.Addr().String()
	var out []string
	for _, v := range [][2]string{
		{"http_proxy", at},
		// For services that speak TLS, and for gRPC, whose libraries ask this variable for
		// clear text, too.
		{"https_proxy", at},
		{"no_proxy", "localhost,127.0.0.0/8,::1"},
	} {
		if !set(v[0]) { // some programs read one case only, as curl does http_proxy
			out = append(out, v[0]+"="+v[1], strings.ToUpper(v[0])+"="+v[1])
		}
	}
	if node := "NODE_USE_ENV_PROXY"; !set(node) { // without it Node.js ignores the others
		out = append(out, node+"=1")
	}
	return out
}
