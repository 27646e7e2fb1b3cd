package h2

import (
	"bytes"

	"github.com/weirmesh/weir/proxy/http/hpack"
	"github.com/weirmesh/weir/proxy/http/message"
)

// fields reads a block's fields one after the other and checks what is the same for all of them.
type fields struct {
	hpack.Field
	bytes, left int // what the list may still have
	cookies     int
	length      int64
	regular     bool  // a regular field was seen
	seen        uint8 // pseudo-headers
	host        []byte
}

// next reads the next field into f; more is false at the end of the block.
func (m *Machine) next(f *fields, a *message.Arena) (more bool, r Reason) {
	if !m.dec.Next(a, &f.Field) {
		return false, OK
	}
	if f.bytes -= int(f.Size); f.bytes < 0 {
		return false, HeadTooLarge
	}
	if f.left--; f.left < 0 {
		return false, TooManyFields
	}
	if f.Kind.Pseudo() {
		if f.regular {
			return false, LatePseudo
		}
		bit := uint8(1) << (f.Kind - hpack.Authority)
		if f.seen&bit != 0 {
			return false, DuplicatePseudo
		}
		f.seen |= bit
	} else {
		f.regular = true
	}
	switch f.Fault {
	case hpack.NoFault:
		return true, OK
	case hpack.UpperCase:
		r = UpperCaseName
	case hpack.InvalidName:
		r = InvalidName
	case hpack.InvalidValue:
		r = InvalidValue
	case hpack.PaddedValue:
		r = PaddedValue
	}
	return false, r
}

// connectionField refuses what is about the connection (RFC 9113 section 8.2.2).
func connectionField(f *fields) Reason {
	switch f.Kind.ID() {
	case message.Connection, message.KeepAlive, message.ProxyConnection, message.TransferEncoding, message.Upgrade:
		return ConnectionField
	case message.TE:
		if !message.EqualFold(f.Value, "trailers") {
			return InvalidTE
		}
	}
	return OK
}

// take takes a regular field of a head.
func (f *fields) take(h *message.Headers) Reason {
	switch id := f.Kind.ID(); id {
	case message.Cookie:
		f.cookies++
	case message.ContentLength:
		n, ok := message.ParseLength(f.Value)
		switch {
		case !ok:
			return InvalidContentLength
		case f.length != message.Unknown && f.length != n:
			return DifferingContentLengths
		case f.length == n:
			return OK
		}
		f.length = n
	case message.OtherHeader:
	default:
		if r := connectionField(f); r != OK {
			return r
		}
	}
	h.Append(message.Field{Name: f.Name, Value: f.Value, ID: f.Kind.ID(), Never: f.Never})
	return OK
}

// joinCookies makes one field of the crumbs (RFC 9113 section 8.2.3).
func joinCookies(h *message.Headers, a *message.Arena) {
	all := h.Fields()
	size, never := 0, false
	for i := range all {
		if all[i].ID == message.Cookie {
			size += len(all[i].Value) + 2
			never = never || all[i].Never
		}
	}
	b := a.Open(size)
	first := -1
	for i := range all {
		if all[i].ID != message.Cookie {
			continue
		}
		if first < 0 {
			first = i
		} else {
			b = append(b, ';', ' ')
		}
		b = append(b, all[i].Value...)
	}
	all[first].Never = never
	h.Set(message.Cookie, a.Close(b))
}

// readRequest reads a request's head (RFC 9113 section 8.3.1).
func (m *Machine) readRequest(s *Stream) Reason {
	q := s.req
	f := fields{bytes: m.o.HeadBytes, left: m.o.Fields, length: message.Unknown}
	var method, protocol []byte
	q.Protocol = message.HTTP2
	for {
		more, r := m.next(&f, s.arena)
		if r != OK {
			return r
		}
		if !more {
			break
		}
		switch f.Kind {
		case hpack.Method:
			method = f.Value
		case hpack.Scheme:
			q.Scheme = f.Value
		case hpack.Authority:
			q.Authority = f.Value
		case hpack.Path:
			q.Path = f.Value
		case hpack.Protocol:
			protocol = f.Value
		case hpack.Status, hpack.UnknownPseudo:
			return UnknownPseudo
		case hpack.Kind(message.Host):
			if f.host != nil {
				return DuplicateHost
			}
			f.host = f.Value
		case hpack.Kind(message.Expect):
			if !message.EqualFold(f.Value, "100-continue") {
				return UnknownExpectation
			}
			q.Continue = !m.blockEnds
		default:
			if r := f.take(&q.Headers); r != OK {
				return r
			}
		}
	}
	if f.cookies > 1 {
		joinCookies(&q.Headers, s.arena)
	}
	if len(method) == 0 {
		return MissingPseudo
	}
	for _, c := range method {
		if message.LowerToken(c) == 0 {
			return InvalidMethod
		}
	}
	q.SetMethod(method)
	if r := m.target(q, &f, protocol); r != OK {
		return r
	}
	q.NoBody = m.blockEnds
	if q.Method == message.CONNECT || q.Upgrade != nil { // no body, a tunnel
		f.length, q.NoBody = message.Unknown, true
		q.Headers.Remove(message.ContentLength)
	}
	q.ContentLength = f.length
	s.left = f.length
	return OK
}

// target checks what a request is for.
func (m *Machine) target(q *message.Request, f *fields, protocol []byte) Reason {
	if len(q.Authority) == 0 {
		q.Authority = f.host
	} else if f.host != nil && !bytes.EqualFold(f.host, q.Authority) {
		return DifferingHost
	}
	switch message.CheckAuthority(q.Authority) {
	case message.Userinfo:
		return UserinfoInAuthority
	case message.NoHost:
		return InvalidAuthority
	}
	q.Authority = message.WithoutEmptyPort(q.Authority)
	const has = uint8(1)
	if protocol != nil {
		if q.Method != message.CONNECT || !m.o.ExtendedConnect || len(protocol) == 0 {
			return InvalidProtocol
		}
		for _, c := range protocol {
			if message.LowerToken(c) == 0 && c != '/' {
				return InvalidProtocol
			}
		}
		// RFC 8441: the same as an HTTP/1.1 request with Upgrade.
		q.SetMethod(get)
		q.Upgrade = protocol
	} else if q.Method == message.CONNECT { // RFC 9113 section 8.5
		switch {
		case f.seen&(has<<(hpack.Scheme-hpack.Authority)|has<<(hpack.Path-hpack.Authority)) != 0:
			return UnexpectedPseudo
		case len(q.Authority) == 0:
			return MissingPseudo
		case !message.HasPort(q.Authority):
			return InvalidAuthority
		}
		return OK
	}
	switch {
	case len(q.Scheme) == 0 || len(q.Path) == 0:
		return MissingPseudo
	case message.EqualFold(q.Scheme, "http"):
		q.Scheme = schemeHTTP
	case message.EqualFold(q.Scheme, "https"):
		q.Scheme = schemeHTTPS
	default:
		return InvalidScheme
	}
	if _, bad := message.BadTargetByte(q.Path); bad || q.Path[0] != '/' && (len(q.Path) > 1 || q.Path[0] != '*' || q.Method != message.OPTIONS) {
		return InvalidPath
	}
	if len(q.Authority) == 0 {
		return MissingAuthority
	}
	return OK
}

// Never changed.
var get, schemeHTTP, schemeHTTPS = []byte("GET"), []byte("http"), []byte("https")

// readResponse reads a response's head (RFC 9113 section 8.3.2).
func (m *Machine) readResponse(s *Stream) Reason {
	p := s.resp
	f := fields{bytes: int(s.left), left: m.o.Fields, length: message.Unknown}
	p.Protocol, p.Status = message.HTTP2, 0
	for {
		more, r := m.next(&f, s.arena)
		if r != OK {
			return r
		}
		if !more {
			break
		}
		switch {
		case f.Kind == hpack.Status:
			v := f.Value
			if len(v) != 3 || v[0] < '1' || v[0] > '5' || v[1]-'0' > 9 || v[2]-'0' > 9 {
				return InvalidStatus
			}
			p.Status = int(v[0]-'0')*100 + int(v[1]-'0')*10 + int(v[2]-'0')
			if p.Status == 101 { // RFC 9113 section 8.6
				return InvalidStatus
			}
		case f.Kind.Pseudo():
			return UnknownPseudo
		default:
			if r := f.take(&p.Headers); r != OK {
				return r
			}
		}
	}
	if p.Status == 0 {
		return MissingPseudo
	}
	if p.Status < 200 {
		p.ContentLength, p.NoBody = message.Unknown, true
		s.left = int64(f.bytes)
		return OK
	}
	p.ContentLength, p.NoBody = f.length, m.blockEnds
	s.left = message.Unknown
	switch {
	case s.is(asksConnect) && p.Status < 300: // a tunnel (RFC 9110 section 9.3.6, RFC 8441 section 5)
		p.ContentLength = message.Unknown
		p.Headers.Remove(message.ContentLength)
		if s.upgrade != nil {
			p.Status, p.Upgrade = 101, s.upgrade
		}
	case p.Status == 204:
		p.ContentLength, p.NoBody = message.Unknown, true
		p.Headers.Remove(message.ContentLength)
	case p.Status == 304 || s.is(asksHead):
		p.NoBody = true
	default:
		s.left = f.length
	}
	return OK
}

// readTrailers reads what follows the body (RFC 9113 section 8.1).
func (m *Machine) readTrailers(s *Stream) Reason {
	f := fields{bytes: m.o.HeadBytes, left: m.o.Fields}
	for {
		more, r := m.next(&f, s.arena)
		switch {
		case r == HeadTooLarge || r == TooManyFields:
			return TrailersTooLarge
		case r != OK:
			return r
		case !more:
			return OK
		case f.Kind.Pseudo():
			return UnexpectedPseudo
		}
		id := f.Kind.ID()
		if r := connectionField(&f); r != OK {
			return r
		}
		if message.AllowedTrailer(id) && !s.is(dropBody) {
			s.trailers.Append(message.Field{Name: f.Name, Value: f.Value, ID: id, Never: f.Never})
		}
	}
}
