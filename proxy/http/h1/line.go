package h1

import (
	"bytes"
	"iter"

	"github.com/weirmesh/weir/proxy/http/message"
)

// requestLine parses "method SP target SP HTTP/1.x" (RFC 9112 section 3).
func (d *Decoder) requestLine(line []byte) Reason {
	i := 0
	for i < len(line) && message.LowerToken(line[i]) != 0 {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ' ' {
		return InvalidMethod
	}
	rest := line[i+1:]
	j := len(rest) - len(" HTTP/1.1")
	if j < 0 || string(rest[j:j+8]) != " HTTP/1." {
		return badVersion(line)
	}
	switch rest[len(rest)-1] {
	case '1':
	case '0':
		d.protocol = message.HTTP10
	default:
		return badVersion(line)
	}
	d.req.Protocol = d.protocol
	if j == 0 {
		return InvalidTarget
	}
	if c, bad := message.BadTargetByte(rest[:j]); bad {
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
	// One copy holds method and target.
	own := d.arena.Copy(line[:i+1+j])
	d.req.SetMethod(own[:i:i])
	d.state = fields
	if r := d.target(own[i+1:]); r != OK {
		return r
	}
	if d.protocol == message.HTTP10 && !d.rules.HTTP10 {
		return LowVersion
	}
	return OK
}

// badVersion says what is wrong with a request line that does not end with one of our versions.
func badVersion(line []byte) Reason {
	if string(line) == "PRI * HTTP/2.0" {
		return HTTP2Preface
	}
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	if i := bytes.LastIndexByte(line, ' '); bytes.IndexByte(line, ' ') != i {
		if v, ok := bytes.CutPrefix(line[i+1:], []byte("HTTP/")); ok && (len(v) == 1 && digit(v[0]) || len(v) == 3 && digit(v[0]) && v[1] == '.' && digit(v[2])) {
			return InvalidVersion
		}
	}
	return InvalidRequestLine
}

// target tells the four forms apart (RFC 9112 section 3.2).
func (d *Decoder) target(t []byte) Reason {
	q := d.req
	switch {
	case q.Method == message.CONNECT:
		q.Authority = t
		if !message.HasPort(t) {
			return InvalidTarget
		}
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
	case len(t) > 7 && message.EqualFold(t[:7], "http://"):
		q.Scheme, rest = t[:4:4], t[7:]
	case len(t) > 8 && message.EqualFold(t[:8], "https://"):
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
	if r := checkAuthority(q.Authority); r != OK {
		return r
	}
	q.Authority = message.WithoutEmptyPort(q.Authority)
	return OK
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
	switch message.CheckAuthority(a) {
	case message.Userinfo:
		return UserinfoInTarget
	case message.NoHost:
		return InvalidHost
	}
	return OK
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

// sameFold compares two ASCII strings.
func sameFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if c != b[i] && (message.LowerToken(c) == 0 || message.LowerToken(c) != message.LowerToken(b[i])) {
			return false
		}
	}
	return true
}

func lowerInPlace(b []byte) {
	for i, c := range b {
		b[i] = message.LowerToken(c)
	}
}
