package message

import (
	"encoding/binary"
	"math"
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

const (
	hostChar = iota + 1
	hostColon
	hostBracket
)

// hostByte holds the characters of a host with port (RFC 3986 section 3.2): unreserved, sub-delims, ':', brackets and '%'.
var hostByte = func() (t [256]uint8) {
	for c := byte('a'); c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = hostChar, hostChar
	}
	for _, c := range []byte("0123456789-._~!$&'()*+,;=%") {
		t[c] = hostChar
	}
	t[':'], t['['], t[']'] = hostColon, hostBracket, hostBracket
	return t
}()

// Fault is what is wrong with an authority.
type Fault uint8

const (
	NoFault Fault = iota
	Userinfo
	NoHost // neither a host nor a host with port
)

// CheckAuthority looks at a host or host:port (RFC 9110 section 4.2), where an empty host is left to the caller.
func CheckAuthority(a []byte) Fault {
	colons, brackets, open, end, port := 0, 0, -1, -1, len(a)
	for i, c := range a {
		switch hostByte[c] {
		case hostChar:
		case hostColon:
			colons++
			port = i
		case hostBracket:
			brackets++
			if c == '[' {
				open = i
			} else if end < 0 {
				end = i
			}
		default:
			if c == '@' {
				return Userinfo
			}
			return NoHost
		}
	}
	if brackets > 0 { // [address] or [address]:port
		if brackets != 2 || open != 0 || end < 0 {
			return NoHost
		}
		if port < end {
			port = len(a)
		}
		if port != end+1 {
			return NoHost
		}
	} else if colons > 1 {
		return NoHost
	}
	if port == len(a) {
		return NoFault
	}
	if len(a)-port-1 > 5 {
		return NoHost
	}
	for _, c := range a[port+1:] {
		if c < '0' || c > '9' {
			return NoHost
		}
	}
	return NoFault
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
