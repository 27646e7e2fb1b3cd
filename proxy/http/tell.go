package http

import (
	"bytes"
	"encoding/base64"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http/message"
)

// Confidants are the clients of a listener that are told why a proxy of the mesh answered instead of the upstream: by
// x-weir-why, and gRPC clients by a google.rpc.ErrorInfo in grpc-status-details-bin.
type Confidants uint8

// Confidants.
const (
	Nobody   Confidants = iota // a gateway
	Peers                      // who has an identity of the mesh (inbound)
	Workload                   // the proxy's own workload, also of what its peers with an identity say (outbound)
)

// tell adds to a local reply why it was made, and takes that from answers that have no say in it.
func (x *Exchange) tell() {
	h := &x.Response.Headers
	if x.Cause == causes.NoCause {
		if h.Has(message.XWeirWhy) && x.Config.Tells != Peers && x.UpstreamTLS.OfMesh() { // what an application says is no proxy's word
			x.Said = causes.Heard(h.Get(message.XWeirWhy))
		}
		if !x.believes() {
			silence(h)
		}
		return
	}
	silence(h) // a service that decides about requests may have sent it
	if !x.Cause.Failure() || x.Config.Tells == Nobody || x.Config.Tells == Peers && !x.Conn.TLS.OfMesh() {
		return
	}
	code, id := x.Cause.Told(), x.Request.Headers.Get(message.XRequestID)
	id = id[:min(len(id), longestID)]
	b := append(x.arena.Open(len(code)+len(whyID)+len(id)), code...)
	if len(id) > 0 {
		b = append(append(b, whyID...), id...)
	}
	h.Set(message.XWeirWhy, x.arena.Close(b))
	if status, ok := parseUint(h.Get(message.GRPCStatus), 127); ok && !h.Has(message.GRPCStatusDetailsBin) {
		text := h.Get(message.GRPCMessage)
		text = x.arena.Close(unescape(x.arena.Open(len(text)), text))
		size := detailsRoom + len(text) + len(code) + len(id)
		raw := x.arena.Close(appendDetails(x.arena.Open(size), status, text, code, id))
		h.Add(message.GRPCStatusDetailsBin, x.arena.Close(base64.RawStdEncoding.AppendEncode(x.arena.Open(base64.RawStdEncoding.EncodedLen(len(raw))), raw)))
	}
}

// believes reports whether what an upstream says about causes is passed on.
func (x *Exchange) believes() bool { return x.Config.Tells == Workload && x.UpstreamTLS.OfMesh() }

// silence takes from an answer what only proxies of the mesh may say.
func silence(h *message.Headers) {
	h.Remove(message.XWeirWhy)
	if !h.Has(message.GRPCStatusDetailsBin) {
		return
	}
	h.RemoveFunc(func(f *message.Field) bool {
		if f.ID != message.GRPCStatusDetailsBin {
			return false
		}
		var ours bool
		f.Value, ours = withoutOurs(f.Value)
		return ours && f.Value == nil
	})
}

const (
	whyID = "; id="
	// longestID is what records keep of a request's id.
	longestID = 63

	infoType = "type.googleapis.com/google.rpc.ErrorInfo"
	domain   = "weir.dev"
	idKey    = "request_id"
	// detailsRoom is what google.rpc.Status has besides its texts: tags and lengths.
	detailsRoom = len(infoType) + len(domain) + len(idKey) + 64
)

// Fields of google.rpc.Status, google.protobuf.Any, google.rpc.ErrorInfo and of the entries of its map.
const (
	statusCode, statusMessage, statusDetails protowire.Number = 1, 2, 3
	anyType, anyValue                        protowire.Number = 1, 2
	infoReason, infoDomain, infoMetadata     protowire.Number = 1, 2, 3
	mapKey, mapValue                         protowire.Number = 1, 2
)

// appendDetails appends a google.rpc.Status with one ErrorInfo.
func appendDetails(b []byte, status uint64, text []byte, reason string, id []byte) []byte {
	entry, info := 0, field(len(reason))+field(len(domain))
	if len(id) > 0 {
		entry = field(len(idKey)) + field(len(id))
		info += field(entry)
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, statusCode, protowire.VarintType), status)
	b = appendField(b, statusMessage, text)
	b = appendHead(b, statusDetails, field(len(infoType))+field(info))
	b = appendField(b, anyType, infoType)
	b = appendHead(b, anyValue, info)
	b = appendField(b, infoReason, reason)
	b = appendField(b, infoDomain, domain)
	if len(id) > 0 {
		b = appendHead(b, infoMetadata, entry)
		b = appendField(b, mapKey, idKey)
		b = appendField(b, mapValue, id)
	}
	return b
}

// field is the size of a field of n bytes: all numbers here are below 16, whose tags are one byte.
func field(n int) int { return 1 + protowire.SizeBytes(n) }

func appendHead(b []byte, n protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.BytesType), uint64(size))
}

func appendField[S ~string | ~[]byte](b []byte, n protowire.Number, value S) []byte {
	return append(appendHead(b, n, len(value)), value...)
}

// withoutOurs is a value of grpc-status-details-bin without the details that are of this mesh's domain, nil if there are no
// others; ours: there were some. What no client could read is left alone.
func withoutOurs(value []byte) (rest []byte, ours bool) {
	raw, err := base64.RawStdEncoding.AppendDecode(nil, bytes.TrimRight(value, "="))
	if err != nil || !bytes.Contains(raw, []byte(domain)) {
		return value, false
	}
	var kept []byte
	others := false
	ok := eachField(raw, func(n protowire.Number, whole, content []byte) {
		switch {
		case n != statusDetails:
		case isOurs(content):
			ours = true
			return
		default:
			others = true
		}
		kept = append(kept, whole...)
	})
	switch {
	case !ok || !ours:
		return value, false
	case !others:
		return nil, true
	}
	return base64.RawStdEncoding.AppendEncode(nil, kept), true
}

// isOurs reports whether an Any may be an ErrorInfo of this mesh, however it is written.
func isOurs(detail []byte) bool {
	info, found := false, false
	eachField(detail, func(n protowire.Number, _, content []byte) {
		switch n {
		case anyType:
			info = info || bytes.HasSuffix(content, []byte("google.rpc.ErrorInfo"))
		case anyValue:
			eachField(content, func(n protowire.Number, _, content []byte) {
				found = found || n == infoDomain && string(content) == domain
			})
		}
	})
	return info && found
}

// eachField visits the fields of a message, of those that have a length with their content; false: it is none.
func eachField(b []byte, visit func(n protowire.Number, whole, content []byte)) bool {
	for len(b) > 0 {
		n, typ, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return false
		}
		size := protowire.ConsumeFieldValue(n, typ, b[tag:])
		if size < 0 {
			return false
		}
		var content []byte
		if typ == protowire.BytesType {
			content, _ = protowire.ConsumeBytes(b[tag:])
		}
		visit(n, b[:tag+size], content)
		b = b[tag+size:]
	}
	return true
}

// unescape is the reverse of percentEncode.
func unescape(dst, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			hi, lo := bytes.IndexByte(upperHex, text[i+1]), bytes.IndexByte(upperHex, text[i+2])
			if hi >= 0 && lo >= 0 {
				dst = append(dst, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		dst = append(dst, text[i])
	}
	return dst
}

var upperHex = []byte("0123456789ABCDEF")
