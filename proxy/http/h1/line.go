package h1

import (
	"bytes"
	"iter"
	"math"

	"github.com/weirmesh/weir/proxy/http/message"
)

// nameByte maps a token character (RFC 9110 section 5.6.2) to its lower case and all others to 0.
var nameByte = func() (t [256]byte) {
	for c := byte('a'); c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = c, c
	}
	for _, c := range []byte("0123456789!#$%&'*+-.^_`|~") {
		t[c] = c
	}
	return t
}()

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

// noTarget holds the characters no request target has, '#' among them.
var noTarget = func() (t [256]bool) {
	for c := range ' ' + 1 {
		t[c] = true
	}
	t[0x7f], t['#'] = true, true
	return t
}()

// requestLine parses "method SP target SP HTTP/1.x" (RFC 9112 section 3).
func (d *Decoder) requestLine(line []byte) Reason {
	i := 0
	for i < len(line) && nameByte[line[i]] != 0 {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ' ' {
		return InvalidMethod
	}
	rest := line[i+1:]
	j := len(rest) - len(" HTTP/1.1")
	if j < 0 || string(rest[j:j+8]) != " HTTP/1." {
		if string(line) == "PRI * HTTP/2.0" {
			return HTTP2Preface
		}
		return InvalidVersion
	}
	switch rest[len(rest)-1] {
	case '1':
	case '0':
		d.protocol = message.HTTP10
	default:
		return InvalidVersion
	}
	d.req.Protocol = d.protocol
	if j == 0 {
		return InvalidTarget
	}
	for _, c := range rest[:j] {
		if noTarget[c] {
			switch c {
			case 0:
				return NULByte
			case '\r':
				return BareCR
			case '#':
				return FragmentInTarget
			}
			return InvalidTarget
		}
	}
	// One copy holds method and target.
	own := d.arena.Copy(line[:i+1+j])
	d.req.SetMethod(own[:i:i])
	d.state = fields
	return d.target(own[i+1:])
}

// target tells the four forms apart (RFC 9112 section 3.2).
func (d *Decoder) target(t []byte) Reason {
	q := d.req
	switch {
	case q.Method == message.CONNECT:
		q.Authority = t
		return checkAuthority(t)
	case t[0] == '/':
		q.Path = t
		return OK
	case len(t) == 1 && t[0] == '*':
		if q.Method != message.OPTIONS {
			return InvalidTarget
		}
		q.Path = t
		return OK
	}
	var rest []byte
	switch {
	case len(t) > 7 && equalFold(t[:7], "http://"):
		q.Scheme, rest = t[:4:4], t[7:]
	case len(t) > 8 && equalFold(t[:8], "https://"):
		q.Scheme, rest = t[:5:5], t[8:]
	default:
		return InvalidTarget
	}
	lowerInPlace(q.Scheme)
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	q.Authority = rest[:end:end]
	switch {
	case end == len(rest) && q.Method == message.OPTIONS:
		q.Path = d.arena.CopyString("*") // RFC 9112 section 3.2.4
	case end == len(rest):
		q.Path = d.arena.CopyString("/")
	case rest[end] == '?':
		p := append(d.arena.Open(1+len(rest)-end), '/')
		q.Path = d.arena.Close(append(p, rest[end:]...))
	default:
		q.Path = rest[end:]
	}
	if end == 0 {
		return InvalidTarget
	}
	return checkAuthority(q.Authority)
}

// statusLine parses "HTTP/1.x SP status [SP reason]" (RFC 9112 section 4). The reason phrase is not kept.
func (d *Decoder) statusLine(line []byte) Reason {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return InvalidStatusLine
	}
	switch line[7] {
	case '1':
	case '0':
		d.protocol = message.HTTP10
	default:
		return InvalidStatusLine
	}
	status := 0
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return InvalidStatusLine
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 || status > 599 || checkValue(line[12:]) != OK {
		return InvalidStatusLine
	}
	d.resp.Status, d.resp.Protocol = status, d.protocol
	d.state = fields
	return OK
}

// checkAuthority answers OK for host or host:port, where an empty host is left to the caller.
func checkAuthority(a []byte) Reason {
	colons, brackets, port := 0, 0, len(a)
	for i, c := range a {
		switch hostByte[c] {
		case hostChar:
		case hostColon:
			colons++
			port = i
		case hostBracket:
			brackets++
		default:
			if c == '@' {
				return UserinfoInTarget
			}
			return InvalidHost
		}
	}
	if brackets > 0 { // [address] or [address]:port
		end := bytes.IndexByte(a, ']')
		if brackets != 2 || a[0] != '[' || end < 0 {
			return InvalidHost
		}
		if port < end {
			port = len(a)
		}
		if port != end+1 {
			return InvalidHost
		}
	} else if colons > 1 {
		return InvalidHost
	}
	if port == len(a) {
		return OK
	}
	if len(a)-port-1 > 5 {
		return InvalidHost
	}
	for _, c := range a[port+1:] {
		if c < '0' || c > '9' {
			return InvalidHost
		}
	}
	return OK
}

func parseLength(v []byte) (int64, bool) {
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

// parseChunkSize reads "size [OWS] [; extensions]". White space behind the size is what some old servers pad with.
func parseChunkSize(line []byte) (int64, Reason) {
	var n int64
	i := 0
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			c = 255
		}
		if c == 255 {
			break
		}
		if i == 15 {
			return 0, InvalidChunkSize
		}
		n = n<<4 | int64(c)
	}
	if i == 0 {
		return 0, InvalidChunkSize
	}
	rest := bytes.TrimLeft(line[i:], " \t")
	if len(rest) > 0 && rest[0] != ';' {
		return 0, InvalidChunkSize
	}
	return n, checkValue(rest)
}

// tokens yields the elements of a comma-separated list without the white space around them.
func tokens(v []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for more := true; more; {
			t := v
			i := bytes.IndexByte(v, ',')
			if more = i >= 0; more {
				t, v = v[:i], v[i+1:]
			}
			if !yield(bytes.Trim(t, " \t")) {
				return
			}
		}
	}
}

// equalFold compares with a lower-case ASCII string.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c != lower[i] && nameByte[c] != lower[i] {
			return false
		}
	}
	return true
}

func lowerInPlace(b []byte) {
	for i, c := range b {
		b[i] = nameByte[c]
	}
}

// allowedTrailer keeps fields out of the trailers that frame, route or authenticate a message (RFC 9110 section 6.5.1):
// a recipient that merges trailers into the head must not be led by them.
func allowedTrailer(id message.ID) bool {
	switch id {
	case message.Host, message.ContentLength, message.TransferEncoding, message.Connection, message.KeepAlive,
		message.ProxyConnection, message.TE, message.Trailer, message.Upgrade, message.Expect,
		message.Authorization, message.ProxyAuthorization, message.ProxyAuthenticate, message.WWWAuthenticate,
		message.Cookie, message.SetCookie, message.Age, message.CacheControl, message.Date, message.Location, message.RetryAfter, message.Vary,
		message.ContentEncoding, message.ContentType, message.Range, message.Forwarded,
		message.XForwardedFor, message.XForwardedHost, message.XForwardedProto, message.XForwardedPort, message.XForwardedClientCert:
		return false
	}
	return true
}
