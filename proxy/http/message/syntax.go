package message

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"unsafe"
)

// tokenByte maps a token character (RFC 9110 section 5.6.2) to its lower case and all others to 0.
var tokenByte = func() (t [256]byte) {
	for c := byte('a'); c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = c, c
	}
	for _, c := range []byte("0123456789!#$%&'*+-.^_`|~") {
		t[c] = c
	}
	return t
}()

// LowerToken is the lower case of a token character (RFC 9110 section 5.6.2), 0 for any other byte.
func LowerToken(c byte) byte { return tokenByte[c] }

// EqualFold compares a token with a lower-case one.
func EqualFold(token []byte, lower string) bool {
	if len(token) != len(lower) {
		return false
	}
	for i, c := range token {
		if c != lower[i] && tokenByte[c] != lower[i] {
			return false
		}
	}
	return true
}

// BadValueByte finds the first byte that no field value may have (RFC 9110 section 5.5): a control character other than
// HTAB. It looks at eight bytes at a time as long as nothing is suspicious.
func BadValueByte(v []byte) (c byte, bad bool) {
	if n := len(v); n >= 8 {
		i := 0
		for ; i+8 < n && !suspicious(binary.LittleEndian.Uint64(v[i:])); i += 8 {
		}
		if i+8 >= n && !suspicious(binary.LittleEndian.Uint64(v[n-8:])) {
			return 0, false
		}
	}
	for _, c := range v {
		if c < ' ' && c != '\t' || c == 0x7f {
			return c, true
		}
	}
	return 0, false
}

// suspicious reports whether any of eight bytes is below 0x20 or is 0x7f.
func suspicious(x uint64) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	del := x ^ 0x7f*ones
	return ((x-0x20*ones)&^x|(del-ones)&^del)&tops != 0
}

// noTarget holds the bytes no request target has (RFC 9112 section 3.2), '#' among them.
var noTarget = func() (t [256]bool) {
	for c := range ' ' + 1 {
		t[c] = true
	}
	t[0x7f], t['#'] = true, true
	return t
}()

// BadTargetByte finds the first byte that no request target may have: white space, a control character or '#'.
func BadTargetByte(target []byte) (c byte, bad bool) {
	for _, c := range target {
		if noTarget[c] {
			return c, true
		}
	}
	return 0, false
}

// hostByte holds the characters of a name in an authority: unreserved and sub-delims (RFC 3986 section 3.2.2), without ','
// and escapes. Whoever takes a list for one host, or reads escapes, would see another host than its neighbour.
var hostByte = func() (t [256]bool) {
	for c := byte('a'); c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range []byte("0123456789-._~!$&'()*+;=") {
		t[c] = true
	}
	return t
}()

// Fault is what is wrong with an authority.
type Fault uint8

const (
	NoFault Fault = iota
	Userinfo
	NoHost // neither a host nor a host with port
)

// CheckAuthority looks at a host or host:port (RFC 9110 section 4.2), where nothing at all is left to the caller. A port
// has one spelling, or is empty (RFC 3986 section 3.2.3): see WithoutEmptyPort.
func CheckAuthority(a []byte) Fault {
	end := 0 // of the host
	if len(a) > 0 && a[0] == '[' {
		end = bytes.IndexByte(a, ']') + 1
		if end == 0 || !isIPv6(a[1:end-1]) {
			return badAuthority(a)
		}
	} else {
		for end < len(a) && hostByte[a[end]] {
			end++
		}
	}
	if end == len(a) {
		return NoFault
	}
	port := a[end+1:]
	if a[end] != ':' || end == 0 || len(port) > 5 || len(port) > 1 && port[0] == '0' {
		return badAuthority(a)
	}
	n := 0
	for _, c := range port {
		if c < '0' || c > '9' {
			return badAuthority(a)
		}
		n = n*10 + int(c-'0')
	}
	if n > 65535 {
		return NoHost
	}
	return NoFault
}

// WithoutEmptyPort gives an authority that CheckAuthority found good the form that is compared.
func WithoutEmptyPort(a []byte) []byte {
	if n := len(a) - 1; n >= 0 && a[n] == ':' {
		return a[:n]
	}
	return a
}

// HasPort reports whether a host is followed by a port other than 0, as CONNECT must have it (RFC 9110 section 9.3.6).
func HasPort(a []byte) bool {
	for i := len(a) - 1; i > 0; i-- {
		switch c := a[i]; {
		case c == ':':
			return len(bytes.Trim(a[i+1:], "0")) > 0
		case c < '0' || c > '9':
			return false
		}
	}
	return false
}

func badAuthority(a []byte) Fault {
	if bytes.IndexByte(a, '@') >= 0 {
		return Userinfo
	}
	return NoHost
}

func isIPv6(b []byte) bool {
	// The string is looked at and not kept; netip keeps zones only.
	a, err := netip.ParseAddr(unsafe.String(unsafe.SliceData(b), len(b)))
	return err == nil && a.Is6() && a.Zone() == ""
}

// ParseLength reads a Content-Length (RFC 9110 section 8.6).
func ParseLength(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return int64(n), n <= math.MaxInt64
}

// AllowedTrailer keeps fields out of the trailers that frame, route or authenticate a message (RFC 9110 section 6.5.1):
// a recipient that merges trailers into the head must not be led by them.
func AllowedTrailer(id ID) bool {
	switch id {
	case Host, ContentLength, TransferEncoding, Connection, KeepAlive, ProxyConnection, TE, Trailer, Upgrade, Expect,
		Authorization, ProxyAuthorization, ProxyAuthenticate, WWWAuthenticate,
		Cookie, SetCookie, Age, CacheControl, Date, Location, RetryAfter, Vary,
		ContentEncoding, ContentType, Range, Forwarded,
		XForwardedFor, XForwardedHost, XForwardedProto, XForwardedPort, XForwardedClientCert:
		return false
	}
	return true
}
