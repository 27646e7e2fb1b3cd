package http

import (
	"strconv"
	"time"

	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

var grpcType = []byte("application/grpc")

// IsGRPC reports whether the request is one of gRPC.
func (x *Exchange) IsGRPC() bool { return x.Request.IsGRPC() }

// askedDeadline lets the timeout of a gRPC request take the place of the route's.
func (x *Exchange) askedDeadline(f *route.Forward) {
	if f.GRPC != nil {
		d, _ := parseGRPCTimeout(x.Request.Headers.Get(message.GRPCTimeout))
		x.total = f.GRPC.Grant(d)
	}
}

// bound bounds the whole exchange as the route says.
func (x *Exchange) bound(f *route.Forward, grpc bool) {
	if f.StreamMax != nil {
		x.streamMax = *f.StreamMax
	}
	if grpc && f.StreamGRPC != nil {
		if d, ok := parseGRPCTimeout(x.Request.Headers.Get(message.GRPCTimeout)); ok {
			x.streamMax = f.StreamGRPC.Grant(d)
		}
	}
	if x.streamMax > 0 {
		x.w.loop.Arm(&x.maximum, x.Began+int64(x.streamMax))
	} else {
		x.maximum.Stop()
	}
}

// parseGRPCTimeout reads grpc-timeout: at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").
func parseGRPCTimeout(b []byte) (time.Duration, bool) {
	if len(b) < 2 {
		return 0, false
	}
	n, ok := parseUint(b[:len(b)-1], 99_999_999)
	if !ok {
		return 0, false
	}
	var unit time.Duration
	switch b[len(b)-1] {
	case 'H':
		// 2^63 nanoseconds are 2,562,047 hours.
		n, unit = min(n, 2_000_000), time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// appendGRPCTimeout writes d as grpc-timeout, in milliseconds as long as 8 digits hold them.
func appendGRPCTimeout(dst []byte, d time.Duration) []byte {
	const most = 99_999_999
	switch {
	case d/time.Millisecond <= most:
		return append(strconv.AppendInt(dst, int64(max(d/time.Millisecond, 1)), 10), 'm')
	case d/time.Second <= most:
		return append(strconv.AppendInt(dst, int64(d/time.Second), 10), 'S')
	case d/time.Minute <= most:
		return append(strconv.AppendInt(dst, int64(d/time.Minute), 10), 'M')
	}
	return append(strconv.AppendInt(dst, int64(d/time.Hour), 10), 'H')
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

// httpStatusOf maps a gRPC status to the HTTP status that stands for it (google.rpc.Code).
func httpStatusOf(status int8) int {
	switch status {
	case 0:
		return 200
	case 1: // CANCELLED
		return 499
	case 3, 9, 11: // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
		return 400
	case 4: // DEADLINE_EXCEEDED
		return 504
	case 5: // NOT_FOUND
		return 404
	case 6, 10: // ALREADY_EXISTS, ABORTED
		return 409
	case 7: // PERMISSION_DENIED
		return 403
	case 8: // RESOURCE_EXHAUSTED
		return 429
	case 12: // UNIMPLEMENTED
		return 501
	case 14: // UNAVAILABLE
		return 503
	case 16: // UNAUTHENTICATED
		return 401
	}
	return 500
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
