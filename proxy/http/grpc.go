package http

import (
	"bytes"
	"strconv"

	"github.com/weirmesh/weir/proxy/http/message"
)

var grpcType = []byte("application/grpc")

// isGRPC recognises gRPC by its content type ("application/grpc", "application/grpc+proto", …).
func isGRPC(q *message.Request) bool {
	t := q.Headers.Get(message.ContentType)
	return bytes.HasPrefix(t, grpcType) && (len(t) == len(grpcType) || t[len(grpcType)] == '+' || t[len(grpcType)] == ';')
}

// grpcHead makes a response of only a head that gRPC clients understand.
func (x *Exchange) grpcHead(status int, text []byte) {
	p := &x.Response
	p.Status = 200
	p.ContentLength = 0
	p.Headers.Add(message.ContentType, grpcType)
	p.Headers.Add(message.GRPCStatus, x.arena.Close(strconv.AppendInt(x.arena.Open(4), int64(status), 10)))
	if len(text) > 0 {
		p.Headers.Add(message.GRPCMessage, x.percentEncode(text))
	}
}

// grpcStatus maps an HTTP status to the gRPC one that clients would take it for
// (gRPC's "HTTP to gRPC Status Code Mapping").
func grpcStatus(status int) int {
	switch status {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// percentEncode writes grpc-message as its specification asks: printable ASCII except '%' as it is.
func (x *Exchange) percentEncode(text []byte) []byte {
	const hex = "0123456789ABCDEF"
	b := x.arena.Open(3 * len(text))
	for _, c := range text {
		if c < ' ' || c > '~' || c == '%' {
			b = append(b, '%', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return x.arena.Close(b)
}

// grpcStatusOf is the gRPC status of the response, in trailers or in a response of only a head; -1: none.
func (x *Exchange) grpcStatusOf() int8 {
	v := x.ResponseTrailers.Get(message.GRPCStatus)
	if v == nil {
		v = x.Response.Headers.Get(message.GRPCStatus)
	}
	if n, ok := parseUint(v, 127); ok {
		return int8(n)
	}
	return -1
}
