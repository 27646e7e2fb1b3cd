// Package grpcweb lets gRPC-Web clients call gRPC servers (Envoy's GrpcWeb; see
// README.md).
//
// One stage. What enters: requests with a content type of application/grpc-web.
// What leaves: gRPC requests, and answers whose trailers are the last frame of
// the body. A translation belongs to one exchange; the stage keeps nothing and
// is shared by all workers.
package grpcweb

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

var (
	grpc     = []byte("application/grpc")
	web      = []byte("application/grpc-web")
	webText  = []byte("application/grpc-web-text")
	trailers = []byte("trailers")
	// acceptEncoding is what a gRPC client of a library would send; without it some servers compress nothing at all.
	acceptEncoding = []byte("identity,deflate,gzip")
)

const grpcAcceptEncoding = "grpc-accept-encoding"

// trailerFrame is the flag of a frame that holds trailers instead of a message.
const trailerFrame = 0x80

// Stage translates. It comes before all that looks at the content type.
func Stage() http.Stage {
	return http.Stage{Name: "gRPC-Web", Request: request, Response: response}
}

// kind tells the content types apart: the type without its prefix. ok is false for all that is not gRPC-Web.
func kind(contentType []byte) (suffix []byte, text, ok bool) {
	if suffix, ok = bytes.CutPrefix(contentType, webText); ok {
		text = true
	} else if suffix, ok = bytes.CutPrefix(contentType, web); !ok {
		return nil, false, false
	}
	return suffix, text, len(suffix) == 0 || suffix[0] == '+' || suffix[0] == ';'
}

func request(x *http.Exchange) http.Verdict {
	q := &x.Request
	suffix, text, ok := kind(q.Headers.Get(message.ContentType))
	if !ok {
		return http.Continue
	}
	t := &translation{asked: q.Headers.Get(message.ContentType), text: text}
	typ := append(append(x.Arena().Open(len(grpc)+len(suffix)), grpc...), suffix...)
	q.Headers.Set(message.ContentType, x.Arena().Close(typ))
	q.Headers.Set(message.TE, trailers)
	if q.Headers.GetName(grpcAcceptEncoding) == nil {
		q.Headers.AddName([]byte(grpcAcceptEncoding), acceptEncoding)
	}
	if text && !q.NoBody {
		q.Headers.Remove(message.ContentLength)
		q.ContentLength = message.Unknown
	}
	x.RewriteRequest(t)
	return http.Continue
}

func response(x *http.Exchange) {
	t, ok := x.RewritesRequest().(*translation)
	p := &x.Response
	if !ok || !isGRPC(p.Headers.Get(message.ContentType)) {
		return
	}
	p.Headers.Set(message.ContentType, t.asked)
	if p.NoBody {
		return
	}
	p.Headers.Remove(message.ContentLength)
	p.ContentLength = message.Unknown
	x.RewriteResponse((*answer)(t))
	x.WithoutTrailers()
}

func isGRPC(contentType []byte) bool {
	rest, ok := bytes.CutPrefix(contentType, grpc)
	return ok && (len(rest) == 0 || rest[0] == '+' || rest[0] == ';')
}

// translation is that of one exchange; as an http.Body it reads the request.
type translation struct {
	asked []byte // the content type of the request
	text  bool
	in    textReader
}

// Data implements http.Body.
func (t *translation) Data(x *http.Exchange, out, b []byte) []byte {
	if !t.text {
		return append(out, b...)
	}
	out, ok := t.in.read(out, b)
	if !ok {
		refuse(x)
	}
	return out
}

// End implements http.Body.
func (t *translation) End(x *http.Exchange, out []byte) []byte {
	if t.text && t.in.n > 0 {
		refuse(x)
	}
	return out
}

func refuse(x *http.Exchange) {
	x.Details = "grpc_web.invalid_base64"
	x.ReplyWith(causes.DownstreamProtocolError, 400, x.Arena().CopyString("the body of a grpc-web-text request must be base64"))
}

// answer is a translation as an http.Body that writes the response.
type answer translation

// Data implements http.Body.
func (t *answer) Data(_ *http.Exchange, out, b []byte) []byte {
	if !t.text {
		return append(out, b...)
	}
	return base64.StdEncoding.AppendEncode(out, b)
}

// End implements http.Body.
func (t *answer) End(x *http.Exchange, out []byte) []byte {
	frame := appendTrailers(make([]byte, 0, 128), &x.ResponseTrailers)
	if !t.text {
		return append(out, frame...)
	}
	return base64.StdEncoding.AppendEncode(out, frame)
}

// appendTrailers appends the frame that holds h: flag, length, and a line for each field.
func appendTrailers(dst []byte, h *message.Headers) []byte {
	start := len(dst)
	dst = append(dst, trailerFrame, 0, 0, 0, 0)
	for _, f := range h.Fields() {
		dst = append(append(append(append(dst, f.Name...), ':'), f.Value...), '\r', '\n')
	}
	binary.BigEndian.PutUint32(dst[start+1:], uint32(len(dst)-start-5))
	return dst
}

// textReader decodes base64 that comes in pieces. Padding may come anywhere between two groups: every part that was
// encoded by itself may have its own.
type textReader struct {
	group [4]byte
	n     int // of group
}

// read appends the bytes that b stands for. false: it is not base64.
func (r *textReader) read(out, b []byte) (_ []byte, ok bool) {
	for _, c := range b {
		r.group[r.n] = c
		if r.n++; r.n < len(r.group) {
			continue
		}
		r.n = 0
		var err error
		if out, err = base64.StdEncoding.AppendDecode(out, r.group[:]); err != nil {
			return out, false
		}
	}
	return out, true
}
