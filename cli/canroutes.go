package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/access"
	"github.com/weirmesh/weir/xds/simulate"
)

// follow is what becomes of a call by the routes of a proxy, at everyone who may serve it.
func (w *world) follow(ctx context.Context, p *simulate.Proxy, call simulate.Call, c access.Call, who, via string) ([]arrival, error) {
	outcomes, err := p.Call(call)
	if err != nil {
		return nil, fmt.Errorf("the routes of %s: %w", who, err)
	}
	var out []arrival
	for _, o := range outcomes {
		if o.Status != 0 || len(o.Endpoints) == 0 {
			why := who + " answers"
			if o.Refused != "" {
				why = who + " ends the handshake: " + o.Refused
			}
			if o.Status != 0 {
				why += fmt.Sprintf(" %d", o.Status)
			}
			if o.Flags != "" {
				why += " (" + o.Flags + ")"
			}
			out = add(out, arrival{Share: o.Share, Via: via, Answer: access.Answer{Verdict: unreached, Why: why}})
			continue
		}
		total := 0.0
		for _, e := range o.Endpoints {
			total += float64(e.Weight)
		}
		for _, e := range o.Endpoints {
			c := c
			x := arrival{Share: o.Share / float64(len(o.Endpoints)), Via: via}
			if total > 0 {
				x.Share = o.Share * float64(e.Weight) / total
			}
			if c.Method != "" && c.Own == "" {
				if c.Host, c.Path = o.Request.Authority, o.Request.Path; c.Host != call.Host || c.Path != call.Path {
					x.Request = c.Method + " http://" + c.Host + c.Path
				}
				c.Headers = maps.Clone(c.Headers)
				for _, h := range o.Request.Headers {
					c.Headers[h.Name] = h.Value
				}
			}
			sni := c.Own
			if strings.HasSuffix(e.TLS.GetName(), "tls") {
				began, _, err := p.Originate(e.TLS, simulate.Peer{Mesh: true})
				if err != nil {
					return nil, err
				}
				sni, c.TLS = began.SNI, began.Mesh
			}
			c.SNI = &sni
			got, err := w.arrive(ctx, x, e.Address, c)
			if err != nil {
				return nil, err
			}
			out = add(out, got...)
		}
	}
	return out, nil
}

// arrive asks the proxy at an address.
func (w *world) arrive(ctx context.Context, x arrival, address string, c access.Call) ([]arrival, error) {
	b := w.backend(address)
	if b == nil || b.Workload == "" {
		x.Workload, x.Answer = address, access.Answer{Verdict: access.Allowed, Why: "it is no workload of the mesh: nobody checks"}
		return []arrival{x}, nil
	}
	ns, name, _ := strings.Cut(b.Workload, "/")
	x.Workload, x.Port = b.Workload, b.Port
	if i := slices.IndexFunc(w.workloads, func(o apiv1.Workload) bool { return o.Namespace == ns && o.Name == name }); i >= 0 {
		x.Workload = ns + "/" + cmp.Or(w.workloads[i].Owner, name)
		if a, err := netip.ParseAddr(first(w.workloads[i].Addresses)); err == nil {
			c.To = netip.AddrPortFrom(a, b.Port)
		}
	}
	if !c.To.IsValid() {
		c.To = netip.AddrPortFrom(netip.IPv4Unspecified(), b.Port)
	}
	if !b.Proxied {
		x.Transport, x.Answer = "plaintext", access.Answer{Verdict: access.Allowed, Why: "it has no proxy: nobody checks"}
		return []arrival{x}, nil
	}
	p, err := w.config(ctx, ns, name, "^"+inboundListener+"$")
	if err != nil {
		return nil, err
	}
	l := p.Listeners[inboundListener]
	if l == nil {
		return w.enter(ctx, x, ns, name, c)
	}
	if c.TLS && c.SNI == nil { // whoever has an identity and can use it does
		c.TLS = access.Takes(l, c)
	}
	if x.Transport = transport(c); c.Own != "" { // it ends further on
		c.Method, c.Shown, c.Unshown = "", nil, false
	}
	x.Answer, err = access.Inbound(l, c)
	if err == nil && x.Why == access.Refused {
		x.Why += w.strict(ctx, x.Workload, x.Port)
	}
	if bad := (access.TokenError{}); errors.As(err, &bad) {
		err = fmt.Errorf("%s port %d, where a RequestAuthentication asks for tokens: %w", x.Workload, x.Port, err)
	}
	return []arrival{x}, err
}

// transport names how a call comes.
func transport(c access.Call) string {
	switch {
	case c.TLS:
		return "mtls"
	case c.Own != "":
		return "tls"
	}
	return "plaintext"
}

// gatewayed reports whether a whole configuration is a gateway's.
func gatewayed(p *simulate.Proxy) bool {
	return p.Listeners[inboundListener] == nil && p.Listeners["virtualOutbound"] == nil
}

// maxGateways is how many a call may pass; more call each other.
const maxGateways = 4

// enter is what becomes of a call at a gateway: whether it is let in, and then by the gateway's routes, as the gateway's call.
func (w *world) enter(ctx context.Context, x arrival, namespace, name string, c access.Call) ([]arrival, error) {
	p, err := w.config(ctx, namespace, name, "")
	if err != nil {
		return nil, err
	}
	if !gatewayed(p) {
		return nil, fmt.Errorf("the proxy of %s has no listener for what comes in", x.Workload)
	}
	p.Bound = true
	at := netip.AddrPortFrom(netip.IPv4Unspecified(), x.Port)
	l := p.Listener(at)
	if l == nil {
		x.Answer = access.Answer{Verdict: unreached, Why: fmt.Sprintf("no Gateway opens port %d of it", x.Port)}
		return []arrival{x}, nil
	}
	if c.SNI == nil || !c.TLS { // whoever calls without routes of a proxy does so as it is
		c.TLS, c.SNI = false, new(c.Own)
	}
	x.Transport = transport(c)
	door, err := access.Enter(l, c)
	switch {
	case err != nil:
		return nil, err
	case !door.Open && x.Transport != "plaintext":
		x.Answer = access.Answer{Verdict: unreached, Why: fmt.Sprintf("no server of a Gateway takes TLS for %q at port %d", *c.SNI, x.Port)}
		return []arrival{x}, nil
	case !door.Open, door.TLS && x.Transport == "plaintext":
		x.Answer = access.Answer{Verdict: unreached, Why: "the Gateway takes TLS there, and the call comes in plaintext"}
		return []arrival{x}, nil
	}
	mesh := c.TLS
	if x.Answer, err = admitted(l, door, c); err != nil || x.Verdict != access.Allowed {
		return []arrival{x}, err
	}
	via := strings.TrimPrefix(x.Via+", "+x.Workload, ", ")
	if strings.Count(via, ",") >= maxGateways {
		return nil, fmt.Errorf("the call passes more than %d gateways: %s", maxGateways, via)
	}
	call := simulate.Call{To: at, From: netip.AddrPortFrom(c.From, 0), Method: c.Method, Host: c.Host, Path: c.Path, Bytes: c.Method == "", SNI: *c.SNI, Peer: simulate.Peer{Taken: true}}
	if door.TLS && !mesh {
		c.Own, c.Shown, c.Unshown = "", nil, false
	}
	for _, h := range slices.Sorted(maps.Keys(c.Headers)) {
		if v := c.Headers[h]; v != "" {
			call.Headers = append(call.Headers, simulate.Header{Name: h, Value: v})
		}
	}
	if keepsTokens(p) {
		c.Token = access.Token{}
	}
	c.From = netip.Addr{}
	if i := slices.IndexFunc(w.workloads, func(o apiv1.Workload) bool { return o.Namespace == namespace && o.Name == name }); i >= 0 {
		c.ID = w.workloads[i].Identity
		if ip, err := netip.ParseAddr(first(w.workloads[i].Addresses)); err == nil {
			c.From = ip
		}
	}
	out, err := w.follow(ctx, p, call, c, "the gateway "+x.Workload, via)
	for i := range out {
		out[i].Share *= x.Share
		out[i].Notes = append(slices.Clip(out[i].Notes), x.Notes...)
	}
	return out, err
}

// admitted is what the policies of a gateway say of a call, and its demand for a certificate.
func admitted(l *listenerv3.Listener, door access.Door, c access.Call) (access.Answer, error) {
	own := c.Own != "" && !c.TLS
	switch {
	case own && !door.TLS:
		c.Method = ""
	case !door.Asks, !own:
		c.Shown, c.Unshown = nil, false
	}
	if own || !door.Asks {
		c.ID = ""
	}
	if own && door.Demands && c.Shown == nil && !c.Unshown {
		return access.Answer{Verdict: access.Denied, Why: "the Gateway demands a certificate of the client's, and the call comes without"}, nil
	}
	a, err := access.Inbound(l, c)
	if own && door.Demands && c.Unshown && a.Verdict == access.Allowed {
		a = access.Answer{Verdict: access.Unknown, Why: "the Gateway demands a certificate of the client's", Needs: []string{"the client's certificate"}, Notes: a.Notes}
	}
	return a, err
}

// keepsTokens reports whether a proxy takes tokens out of requests: what it sends on has those no more.
func keepsTokens(p *simulate.Proxy) bool {
	for _, l := range p.Listeners {
		for _, chain := range l.GetFilterChains() {
			for _, f := range chain.GetFilters() {
				m := &hcmv3.HttpConnectionManager{}
				if f.GetTypedConfig().UnmarshalTo(m) != nil {
					continue
				}
				for _, h := range m.GetHttpFilters() {
					j := &jwtauthnv3.JwtAuthentication{}
					if h.GetTypedConfig().UnmarshalTo(j) != nil {
						continue
					}
					for _, provider := range j.GetProviders() {
						if !provider.GetForward() {
							return true
						}
					}
				}
			}
		}
	}
	return false
}
