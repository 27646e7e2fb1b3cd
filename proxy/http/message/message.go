// Package message is the parsed HTTP request and response: what a codec makes of
// bytes, what routes and filters read and change, and what a codec serialises
// again. It is the same for every HTTP version: the target is held as method,
// scheme, authority and path (RFC 9113 section 8.3.1), never as a Host header or
// a request line, and connection-level headers (RFC 9110 section 7.6.1) are
// never in it.
//
// All bytes of a message live in an Arena owned by the exchange, or are constants
// of the configuration. A message refers to bytes and never copies them: whoever
// puts a slice in guarantees that it does not change until Reset. Nothing here is
// safe for concurrent use; nothing allocates once the arena and the field list
// have grown to their working size.
package message

import "bytes"

// Protocol is the HTTP version a message arrived in.
type Protocol uint8

const (
	HTTP11 Protocol = iota
	HTTP10
	HTTP2
)

// String is the form access logs use (%PROTOCOL%).
func (p Protocol) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP2:
		return "HTTP/2"
	}
	return "HTTP/1.1"
}

// Unknown as ContentLength means: the length is not known before the body ends.
const Unknown int64 = -1

// Request is one request without its body.
//
// ContentLength is the truth about the length of the body; the content-length
// field in Headers, when there, is what matchers and logs see and is not what a
// codec writes. NoBody says that the message ends with its head: a GET without
// framing headers has NoBody and an Unknown length, a POST with
// "content-length: 0" has NoBody and length 0.
type Request struct {
	Method    Method
	RawMethod []byte // as sent; set together with Method
	Scheme    []byte // "http" or "https"
	Authority []byte // host or host:port, as sent
	Path      []byte // path and query ("/a?b=c"), or "*"

	Protocol      Protocol
	ContentLength int64
	NoBody        bool
	Upgrade       []byte // the protocol asked for (RFC 9110 section 7.8), nil without
	Continue      bool   // the client waits for 100 before it sends the body (RFC 9110 section 10.1.1)
	Headers       Headers
	// Claims are what verified tokens say, by the name under which a filter put it (in Envoy, its dynamic metadata); nil: nothing.
	Claims map[string]any
	// Certified says that its client showed a certificate, and that it was verified.
	Certified bool
}

// Reset empties the request and keeps its memory.
func (r *Request) Reset() {
	h := r.Headers
	h.Reset()
	*r = Request{ContentLength: Unknown, NoBody: true, Headers: h}
}

// SetMethod sets Method and RawMethod from the method's name.
func (r *Request) SetMethod(name []byte) {
	r.RawMethod, r.Method = name, MethodOf(name)
}

// IsGRPC recognises gRPC by its content type ("application/grpc", "application/grpc+proto", …).
func (r *Request) IsGRPC() bool {
	t := r.Headers.Get(ContentType)
	return bytes.HasPrefix(t, grpcType) && (len(t) == len(grpcType) || t[len(grpcType)] == '+' || t[len(grpcType)] == ';')
}

var grpcType = []byte("application/grpc")

// PathQuery splits Path at the first '?'. query is without the '?', and nil when there is none.
func (r *Request) PathQuery() (path, query []byte) {
	if i := bytes.IndexByte(r.Path, '?'); i >= 0 {
		return r.Path[:i], r.Path[i+1:]
	}
	return r.Path, nil
}

// Pseudo returns the value of a pseudo-header (":method", ":scheme", ":authority", ":path"), and of "host", which is
// the authority in every version. ok is false for any other name and for an empty value.
func (r *Request) Pseudo(name string) (value []byte, ok bool) {
	switch name {
	case ":method":
		value = r.RawMethod
	case ":scheme":
		value = r.Scheme
	case ":authority", "host":
		value = r.Authority
	case ":path":
		value = r.Path
	}
	return value, len(value) > 0
}

// Response is one response without its body. ContentLength and NoBody as in
// Request; the response to a HEAD has NoBody and the length GET would have.
type Response struct {
	Status        int
	Protocol      Protocol
	ContentLength int64
	NoBody        bool
	Upgrade       []byte // of a 101
	Headers       Headers
}

// Reset empties the response and keeps its memory.
func (r *Response) Reset() {
	h := r.Headers
	h.Reset()
	*r = Response{ContentLength: Unknown, NoBody: true, Headers: h}
}

// Method is a well-known request method, or MethodOther.
type Method uint8

const (
	MethodOther Method = iota
	GET
	HEAD
	POST
	PUT
	DELETE
	CONNECT
	OPTIONS
	TRACE
	PATCH
)

// MethodOf is case-sensitive, as methods are (RFC 9110 section 9.1).
func MethodOf(name []byte) Method {
	switch string(name) {
	case "GET":
		return GET
	case "HEAD":
		return HEAD
	case "POST":
		return POST
	case "PUT":
		return PUT
	case "DELETE":
		return DELETE
	case "CONNECT":
		return CONNECT
	case "OPTIONS":
		return OPTIONS
	case "TRACE":
		return TRACE
	case "PATCH":
		return PATCH
	}
	return MethodOther
}

// Idempotent reports whether repeating the request is intended to have the effect of one (RFC 9110 section 9.2.2).
func (m Method) Idempotent() bool {
	switch m {
	case GET, HEAD, PUT, DELETE, OPTIONS, TRACE:
		return true
	}
	return false
}
