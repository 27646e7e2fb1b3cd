package extauthz

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

var (
	methodPost    = []byte("POST")
	schemeHTTP    = []byte("http")
	pathCheck     = []byte("/envoy.service.auth.v3.Authorization/Check")
	typeGRPC      = []byte("application/grpc")
	valueTrailers = []byte("trailers")
)

// question makes one: a CheckRequest, as a message of gRPC.
func (c *Service) question(q *message.Request, a *message.Arena, b []byte, m *authv3.CheckRequest) []byte {
	q.Protocol = message.HTTP2
	q.SetMethod(methodPost)
	q.Scheme, q.Path, q.Authority = schemeHTTP, pathCheck, a.CopyString(c.Authority)
	q.Headers.Set(message.ContentType, typeGRPC)
	q.Headers.Set(message.TE, valueTrailers)
	if c.Timeout > 0 {
		q.Headers.Set(message.GRPCTimeout, a.CopyString(strconv.FormatInt(min(max(c.Timeout.Milliseconds(), 1), 99_999_999), 10)+"m"))
	}
	for _, h := range c.Add {
		q.Headers.SetName(a.CopyString(h[0]), a.CopyString(h[1]))
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(append(b, 0, 0, 0, 0, 0), m)
	if err != nil { // a string is not UTF-8, and cannot be: text makes them so
		return b[:0]
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5))
	return b
}

// request describes the exchange (AttributeContext).
func (c *Config) request(x *http.Exchange, body []byte, partial bool) *authv3.CheckRequest {
	q := &x.Request
	h := &authv3.AttributeContext_HttpRequest{Id: text(q.Headers.Get(message.XRequestID)), Method: text(q.RawMethod), Headers: map[string]string{}, Path: text(q.Path),
		Host: text(q.Authority), Scheme: text(q.Scheme), Size: q.ContentLength, Protocol: q.Protocol.String()}
	if q.NoBody {
		h.Size = 0
	}
	show := func(name, value []byte) {
		if c.Show != nil && !c.Show.match(name) || c.Hide.match(name) {
			return
		}
		n, v := text(name), text(value)
		if was, ok := h.Headers[n]; ok {
			v = was + "," + v
		}
		h.Headers[n] = v
	}
	for _, p := range []struct{ name, value []byte }{{[]byte(":authority"), q.Authority}, {[]byte(":method"), q.RawMethod}, {[]byte(":path"), q.Path}, {[]byte(":scheme"), q.Scheme}} {
		show(p.name, p.value)
	}
	for _, f := range q.Headers.Fields() {
		show(f.Name, f.Value)
	}
	if c.Body != nil {
		h.Headers[partialBody] = string(said(partial))
		if c.Body.Bytes {
			h.RawBody = body
		} else {
			h.Body = text(body)
		}
	}
	at := peers(x.Conn, x.Remote, c.TLSSession, &authv3.AttributeContext_Request{Time: timestamppb.New(x.Start()), Http: h})
	if x.Route != nil && x.Route.ExtAuthz != nil {
		at.ContextExtensions = x.Route.ExtAuthz.Context
	}
	return &authv3.CheckRequest{Attributes: at}
}

// peers describes who is at the two ends of a connection, and what is asked for by it. remote is who it comes from.
func peers(info *conn.Info, remote netip.AddrPort, session bool, what *authv3.AttributeContext_Request) *authv3.AttributeContext {
	at := &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address(remote)},
		Destination: &authv3.AttributeContext_Peer{Address: address(info.Asked())},
		Request:     what,
	}
	if t := info.TLS; t != nil {
		name := t.URI
		if name == "" && len(t.DNS) > 0 {
			name = t.DNS[0]
		} else if name == "" {
			name = t.Subject
		}
		// What a peer chooses must not make a question that cannot be asked.
		at.Source.Principal, at.Destination.Principal = valid(name), valid(t.Local)
		if session {
			at.TlsSession = &authv3.AttributeContext_TLSSession{Sni: valid(t.SNI)}
		}
	}
	return at
}

func text(b []byte) string { return valid(string(b)) }

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func address(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())}}}}
}

// parse reads one message of gRPC, not compressed, that is all of the answer.
func parse(b []byte) (*authv3.CheckResponse, bool) {
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return nil, false
	}
	r := &authv3.CheckResponse{}
	return r, proto.Unmarshal(b[5:], r) == nil
}

// answered is the answer to a question; false: there is none that can be used.
func answered(a *http.Answer) (*authv3.CheckResponse, bool) {
	if a.Cause != causes.NoCause || a.Response.Status != 200 || a.GRPCStatus() != 0 || a.Cut {
		return nil, false
	}
	return parse(a.Body)
}

func (c *Config) answeredGRPC(x *http.Exchange, a *http.Answer) http.Verdict {
	r, ok := answered(a)
	if !ok {
		return c.failed(x, a.Cause)
	}
	if r.GetStatus().GetCode() != 0 {
		d := r.GetDeniedResponse()
		if !each(d.GetHeaders(), func(name, value []byte, appends bool) { answer(x, name, value, !appends) }) {
			return c.closed(x, causes.NoCause)
		}
		status := int(d.GetStatus().GetCode())
		if status < 200 || status > 599 {
			status = causes.ExtAuthzDenied.Status()
		}
		return c.denied(x, status, []byte(d.GetBody()))
	}
	k := r.GetOkResponse()
	none := func([]byte, []byte, bool) {}
	if !each(k.GetHeaders(), none) || !each(k.GetResponseHeadersToAdd(), none) || len(k.GetQueryParametersToSet())+len(k.GetQueryParametersToRemove()) > 0 {
		return c.closed(x, causes.NoCause) // a yes that cannot be carried out is none
	}
	each(k.GetHeaders(), func(name, value []byte, appends bool) { setRequest(x, name, value, appends) })
	for _, name := range k.GetHeadersToRemove() {
		if name = strings.ToLower(name); name != "host" && !strings.HasPrefix(name, ":") {
			x.Request.Headers.RemoveName(name)
		}
	}
	each(k.GetResponseHeadersToAdd(), func(name, value []byte, appends bool) { answer(x, name, value, !appends) })
	return c.allowed(x, len(k.GetHeaders())+len(k.GetHeadersToRemove()) > 0)
}

// each goes through headers that the service gave; false: one of them cannot be a header.
func each(list []*corev3.HeaderValueOption, do func(name, value []byte, appends bool)) bool {
	for _, o := range list {
		name, value := []byte(strings.ToLower(o.GetHeader().GetKey())), []byte(o.GetHeader().GetValue())
		if len(value) == 0 {
			value = o.GetHeader().GetRawValue()
		}
		if !sound(trimColon(name), value) {
			return false
		}
		do(name, value, o.GetAppend().GetValue())
	}
	return true
}

func trimColon(name []byte) []byte {
	if len(name) > 1 && name[0] == ':' {
		return name[1:]
	}
	return name
}
