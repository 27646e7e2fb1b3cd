// Package session lets requests that belong together stay with one endpoint (Envoy's stateful_session filter).
//
// What enters: the policy of the request's route, or the filter's own, and what the request carries: a cookie, or a header, with the
// address of an endpoint. What leaves: the endpoint for the first attempt, a reply where a strict policy has nobody else to ask, and in
// answers of another endpoint its address. The stage keeps nothing and is shared by all workers. What clients send is never more than a
// choice among the endpoints of the route's own cluster.
package session

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"
	"unsafe"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

// Stage is the filter; own is its configuration, for routes that have none.
func Stage(own *route.Session) http.Stage {
	of := func(x *http.Exchange) *route.Session {
		s := own
		if x.Route != nil && x.Route.Session != nil {
			s = x.Route.Session
		}
		if s.Cookie == "" && s.Header == "" || x.Cluster == nil || !covers(s.Path, path(x)) {
			return nil
		}
		return s
	}
	return http.Stage{Name: "session", Request: func(x *http.Exchange) http.Verdict {
		if s := of(x); s != nil {
			return request(x, s)
		}
		return http.Continue
	}, Response: func(x *http.Exchange) {
		// An endpoint that did not answer is none to stay with; one that no list has cannot be found again.
		if x.Cause != causes.NoCause || x.Endpoint == nil || x.Endpoint.ID < 0 || !x.Endpoint.Addr.IsValid() || x.Endpoint == x.Stays() {
			return
		}
		if s := of(x); s != nil {
			response(x, s)
		}
	}}
}

// path is the request's, before it was rewritten.
func path(x *http.Exchange) []byte {
	p := x.Request.Path
	if x.OriginalPath != nil {
		p = x.OriginalPath
	}
	if i := bytes.IndexByte(p, '?'); i >= 0 {
		p = p[:i]
	}
	return p
}

// covers reports whether clients send a cookie of one path with requests of another (RFC 6265 section 5.1.4).
func covers(cookie string, path []byte) bool {
	if len(path) < len(cookie) || string(path[:len(cookie)]) != cookie {
		return false
	}
	return len(path) == len(cookie) || cookie == "" || strings.HasSuffix(cookie, "/") || path[len(cookie)] == '/'
}

func request(x *http.Exchange, s *route.Session) http.Verdict {
	var addr netip.AddrPort
	var ok bool
	if s.Cookie != "" {
		addr, ok = fromCookie(decoded(x.Arena(), x.Request.Headers.Cookie(s.Cookie)), s.TTL > 0, x.Worker().Loop().Wall().Unix())
	} else {
		addr, ok = parse(decoded(x.Arena(), x.Request.Headers.GetName(s.Header)))
	}
	if !ok {
		return http.Continue
	}
	e, known := x.Cluster.Kept(addr)
	switch {
	case e != nil:
		x.Stay(e, s.Strict)
	case s.Strict && known:
		return x.Reply(causes.NoHealthyUpstream)
	case s.Strict:
		return x.ReplyWith(causes.NoHealthyUpstream, s.Missing, x.Arena().CopyString(causes.NoHealthyUpstream.Body()))
	}
	return http.Continue
}

func response(x *http.Exchange, s *route.Session) {
	if s.Cookie == "" {
		name := x.Arena().CopyString(s.Header)
		x.Response.Headers.SetName(name, x.Arena().Close(appendHeader(x.Arena().Open(maxValue), x.Endpoint)))
		return
	}
	expires := int64(0)
	if s.TTL > 0 {
		expires = x.Worker().Loop().Wall().Unix() + int64(s.TTL/time.Second)
	}
	b := append(x.Arena().Open(len(s.Cookie)+len(s.SetCookie)+maxValue), s.Cookie...)
	b = appendCookie(append(b, '=', '"'), x.Endpoint, expires)
	x.Response.Headers.AddName(setCookie, x.Arena().Close(append(append(b, '"'), s.SetCookie...)))
}

var setCookie = []byte("set-cookie")

// maxValue is longer than any value made here: an IPv6 address with a port and a moment, in base64.
const maxValue = 128

// appendHeader appends what Envoy's header-based sessions carry: the address, in base64.
func appendHeader(b []byte, e *cluster.Endpoint) []byte {
	var raw [maxValue]byte
	return base64.StdEncoding.AppendEncode(b, e.Addr.AppendTo(raw[:0]))
}

// appendCookie appends what Envoy's cookie-based ones do: a message of two fields, the address and the second at which it expires (0: it does
// not, and is left out), in base64.
func appendCookie(b []byte, e *cluster.Endpoint, expires int64) []byte {
	var raw, text [maxValue]byte
	addr := e.Addr.AppendTo(text[:0])
	m := append(append(raw[:0], addressField, byte(len(addr))), addr...)
	if expires > 0 {
		m = binary.AppendUvarint(append(m, expiresField), uint64(expires))
	}
	return base64.StdEncoding.AppendEncode(b, m)
}

// Tags of the fields (protobuf): number and wire type, bytes of a length and a varint (0).
const (
	addressField = 1<<3 | 2
	expiresField = 2 << 3
)

// fromCookie reads what appendCookie wrote, or older Envoys, which wrote the address alone; false: it says nothing, or has expired.
func fromCookie(m []byte, expires bool, now int64) (netip.AddrPort, bool) {
	if len(m) < 2 || m[0] != addressField {
		if expires {
			return netip.AddrPort{}, false
		}
		return parse(m)
	}
	n := int(m[1])
	if n > len(m)-2 {
		return netip.AddrPort{}, false
	}
	addr, rest := m[2:2+n], m[2+n:]
	if len(rest) > 0 && rest[0] == expiresField {
		if until, size := binary.Uvarint(rest[1:]); size <= 0 || until < uint64(now) {
			return netip.AddrPort{}, false
		}
	} else if expires {
		return netip.AddrPort{}, false
	}
	return parse(addr)
}

// decoded is a value that was in base64; nil: it was not, or it is longer than any that this proxy made.
func decoded(a *message.Arena, v []byte) []byte {
	if len(v) == 0 || len(v) > maxValue {
		return nil
	}
	b, err := base64.StdEncoding.AppendDecode(a.Open(maxValue), v)
	if err != nil {
		return nil
	}
	return a.Close(b)
}

// parse reads an address; b is not looked at any more when it returns.
func parse(b []byte) (netip.AddrPort, bool) {
	if len(b) == 0 || bytes.IndexByte(b, '%') >= 0 { // nothing, or a zone, which no endpoint has
		return netip.AddrPort{}, false
	}
	a, err := netip.ParseAddrPort(unsafe.String(unsafe.SliceData(b), len(b)))
	return a, err == nil
}
