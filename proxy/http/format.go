package http

import (
	"net/netip"
	"strconv"

	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

// format evaluates a header value into the arena.
func (x *Exchange) format(f *route.Format) []byte {
	if len(f.Parts) == 0 {
		return x.arena.CopyString(f.Text)
	}
	b := x.arena.Open(128)
	for i := range f.Parts {
		p := &f.Parts[i]
		start := len(b)
		b = x.operator(b, p)
		if p.Op != route.OpLiteral && p.Max > 0 && len(b)-start > p.Max {
			b = b[:start+p.Max]
		}
	}
	return x.arena.Close(b)
}

// operator appends the value of one operator, "-" where there is none (Envoy's substitution format).
func (x *Exchange) operator(b []byte, p *route.Part) []byte {
	switch p.Op {
	case route.OpLiteral:
		return append(b, p.Literal...)
	case route.OpReq:
		v := requestValue(&x.Request, p.Arg)
		if v == nil && p.Alt != "" {
			v = requestValue(&x.Request, p.Alt)
		}
		return orDash(b, v)
	case route.OpResp:
		v := x.Response.Headers.GetName(p.Arg)
		if v == nil && p.Alt != "" {
			v = x.Response.Headers.GetName(p.Alt)
		}
		return orDash(b, v)
	case route.OpDownstreamRemoteAddress:
		return appendAddr(b, x.Remote)
	case route.OpDownstreamRemoteAddressWithoutPort:
		if !x.Remote.IsValid() {
			return append(b, '-')
		}
		return x.Remote.Addr().Unmap().AppendTo(b)
	case route.OpDownstreamLocalAddress:
		return appendAddr(b, x.Conn.Local)
	case route.OpDownstreamLocalPort:
		return strconv.AppendUint(b, uint64(x.Conn.Local.Port()), 10)
	case route.OpDownstreamPeerURISAN:
		if x.Conn.TLS == nil {
			return append(b, '-')
		}
		return orDash(b, x.Conn.TLS.URI)
	case route.OpUpstreamHost:
		if x.Endpoint == nil {
			return append(b, '-')
		}
		return appendAddr(b, x.Endpoint.Addr)
	case route.OpUpstreamCluster:
		if x.Target == nil {
			return append(b, '-')
		}
		return append(b, x.Target.Name...)
	case route.OpProtocol:
		return append(b, x.Request.Protocol.String()...)
	case route.OpResponseCode:
		return strconv.AppendInt(b, int64(x.Response.Status), 10)
	case route.OpResponseFlags:
		return append(b, x.Flags.String()...)
	case route.OpRouteName:
		if x.Route == nil {
			return append(b, '-')
		}
		return orDash(b, x.Route.Name)
	case route.OpRequestedServerName:
		if x.Conn.TLS == nil {
			return append(b, '-')
		}
		return orDash(b, x.Conn.TLS.SNI)
	case route.OpStartTime:
		return x.Start().UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	case route.OpHostname:
		return orDash(b, x.w.o.Hostname)
	}
	return append(b, '-')
}

func requestValue(q *message.Request, name string) []byte {
	if v, ok := q.Pseudo(name); ok {
		return v
	}
	return q.Headers.GetName(name)
}

func orDash[S ~string | ~[]byte](b []byte, v S) []byte {
	if len(v) == 0 {
		return append(b, '-')
	}
	return append(b, v...)
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, '-')
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(b)
}
