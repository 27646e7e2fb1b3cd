package h1

import (
	"strconv"

	"github.com/weirmesh/weir/proxy/http/message"
)

type framing uint8

const (
	noBody framing = iota
	byLength
	byChunks
	byClose // until the connection ends: a response to an HTTP/1.0 client, or the raw bytes after 101
)

// Encoder writes the messages of one direction of one connection. It appends to
// the slice it is given. The zero value is ready.
type Encoder struct {
	Names Names // how the names of fields are written

	left int64
	mode framing
}

// Request appends the head of q. Hop-by-hop fields a configuration may have added are left out. final announces that
// the connection is closed after the response.
func (e *Encoder) Request(dst []byte, q *message.Request, final bool) []byte {
	target := q.Path
	if q.Method == message.CONNECT {
		target = q.Authority
	}
	dst = append(dst, q.RawMethod...)
	dst = append(dst, ' ')
	dst = append(dst, target...)
	w := &ourWords[e.Names]
	dst = append(dst, " HTTP/1.1\r\n"...)
	dst = append(dst, w.host...)
	dst = append(dst, q.Authority...)
	dst = append(dst, '\r', '\n')
	dst = appendFields(dst, &q.Headers, e.Names)
	if q.Continue {
		dst = append(dst, w.expect...)
	}
	switch {
	case q.Upgrade != nil:
		dst = w.appendUpgrade(dst, q.Upgrade)
	case final:
		dst = append(dst, w.close...)
	}
	e.mode, e.left = noBody, 0
	switch {
	case q.ContentLength != message.Unknown:
		dst = w.appendLength(dst, q.ContentLength)
		e.mode, e.left = byLength, q.ContentLength
	case !q.NoBody:
		dst = append(dst, w.chunked...)
		e.mode = byChunks
	}
	return append(dst, '\r', '\n')
}

// Response appends the head of p, the answer to q. keep says that another request may follow on the connection. After a
// head with a status below 200 other than 101 another head follows.
func (e *Encoder) Response(dst []byte, p *message.Response, q *message.Request, keep bool) []byte {
	w := &ourWords[e.Names]
	dst = appendStatusLine(dst, p.Status)
	dst = appendFields(dst, &p.Headers, e.Names)
	e.mode, e.left = noBody, 0
	switch {
	case p.Status == 101:
		dst = w.appendUpgrade(dst, p.Upgrade)
		e.mode = byClose
	case q.Method == message.CONNECT && p.Status >= 200 && p.Status < 300:
		e.mode, keep = byClose, true // it says nothing about the connection, which is the tunnel's
	case p.Status < 200 || p.Status == 204:
	case p.NoBody && p.ContentLength != message.Unknown:
		dst = w.appendLength(dst, p.ContentLength)
	case p.NoBody:
		if p.Status != 304 && q.Method != message.HEAD {
			dst = w.appendLength(dst, 0)
		}
	case p.ContentLength != message.Unknown:
		dst = w.appendLength(dst, p.ContentLength)
		e.mode, e.left = byLength, p.ContentLength
	case q.Protocol == message.HTTP10:
		e.mode, keep = byClose, false
	default:
		dst = append(dst, w.chunked...)
		e.mode = byChunks
	}
	switch {
	case p.Status < 200:
	case !keep:
		dst = append(dst, w.close...)
	case q.Protocol == message.HTTP10:
		dst = append(dst, w.keep...)
	}
	return append(dst, '\r', '\n')
}

// Prefix appends what precedes n > 0 bytes of body and reports whether so many may follow. Where the bytes themselves
// go is the caller's choice, so that large ones need no copy; behind them comes Suffix.
func (e *Encoder) Prefix(dst []byte, n int) (_ []byte, ok bool) {
	switch e.mode {
	case byLength:
		if int64(n) > e.left {
			return dst, false
		}
		e.left -= int64(n)
	case byChunks:
		dst = strconv.AppendUint(dst, uint64(n), 16)
		dst = append(dst, '\r', '\n')
	case noBody:
		return dst, false
	}
	return dst, true
}

// Suffix appends what follows the bytes announced by Prefix.
func (e *Encoder) Suffix(dst []byte) []byte {
	if e.mode == byChunks {
		dst = append(dst, '\r', '\n')
	}
	return dst
}

// End appends what follows the body; trailers may be nil. complete is false when
// fewer bytes were written than announced, or when only closing the connection
// tells the peer about the end: then it must be closed.
func (e *Encoder) End(dst []byte, trailers *message.Headers) (_ []byte, complete bool) {
	complete = e.left == 0 && e.mode != byClose
	if e.mode == byChunks {
		dst = append(dst, '0', '\r', '\n')
		if trailers != nil {
			dst = appendFields(dst, trailers, e.Names)
		}
		dst = append(dst, '\r', '\n')
	}
	e.mode, e.left = noBody, 0
	return dst, complete
}

// Tunnel makes the encoder pass bytes as they are, until the connection ends: a request's side after its 101.
func (e *Encoder) Tunnel() { e.mode, e.left = byClose, 0 }

// Chunked reports that the body being written has chunks, so that its parts have a Prefix and a Suffix.
func (e *Encoder) Chunked() bool { return e.mode == byChunks }

// UntilClose reports that the end of the connection will end the body being written.
func (e *Encoder) UntilClose() bool { return e.mode == byClose }

// TrailersRoom is how many bytes End adds at most.
func TrailersRoom(trailers *message.Headers) int {
	if trailers == nil {
		return 8
	}
	return 8 + fieldsRoom(trailers)
}

// RequestRoom is how many bytes the head of q takes at most.
func RequestRoom(q *message.Request) int {
	return 160 + len(q.RawMethod) + len(q.Path) + 2*len(q.Authority) + len(q.Upgrade) + fieldsRoom(&q.Headers)
}

// ResponseRoom is how many bytes the head of p takes at most.
func ResponseRoom(p *message.Response) int {
	return 192 + len(p.Upgrade) + fieldsRoom(&p.Headers)
}

func fieldsRoom(h *message.Headers) (n int) {
	all := h.Fields()
	for i := range all {
		n += len(all[i].Name) + len(all[i].Value) + len(": \r\n")
	}
	return n
}

func appendStatusLine(dst []byte, status int) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10), ' ')
	dst = append(dst, StatusText(status)...)
	return append(dst, '\r', '\n')
}

// StatusText is the reason phrase of a status code (RFC 9110 section 15), "Unknown" for unregistered ones.
func StatusText(status int) string {
	if uint(status) < uint(len(statusText)) && statusText[status] != "" {
		return statusText[status]
	}
	return "Unknown"
}

var statusText = [512]string{
	100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
	200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
	205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
	305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
	409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large",
	414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
	418: "I'm a teapot", 421: "Misdirected Request", 422: "Unprocessable Content", 423: "Locked", 424: "Failed Dependency",
	425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
	431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
	504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates", 507: "Insufficient Storage",
	508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}
