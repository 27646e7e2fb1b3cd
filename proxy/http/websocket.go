package http

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455 says so; it protects nothing
	"encoding/base64"
	"encoding/binary"
	"slices"

	"github.com/weirmesh/weir/proxy/http/message"
)

// WebSocket over HTTP/2 (RFC 8441 section 5) has no sec-websocket-key and -accept, which HTTP/1.1 insists on (RFC 6455
// section 4). Between a client and an upstream of different versions they end or begin here.

const (
	keyHeader    = "sec-websocket-key"
	acceptHeader = "sec-websocket-accept"
	// acceptGUID is what RFC 6455 section 1.3 has hashed behind the key.
	acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

var webSocket = []byte("websocket")

// hideWebSocketKey prepares the request for an upstream that speaks HTTP/2.
func (x *Exchange) hideWebSocketKey() {
	if q := &x.Request; q.Upgrade != nil && bytes.EqualFold(q.Upgrade, webSocket) {
		if key := q.Headers.GetName(keyHeader); key != nil && !x.is(ownKey) {
			x.webSocketKey = key
		}
		q.Headers.RemoveName(keyHeader)
	}
}

// showWebSocketKey prepares the request for an upstream that speaks HTTP/1.1.
func (x *Exchange) showWebSocketKey() {
	q := &x.Request
	if q.Upgrade == nil || !bytes.EqualFold(q.Upgrade, webSocket) || q.Headers.GetName(keyHeader) != nil {
		return
	}
	if x.webSocketKey == nil {
		if x.Request.Protocol != message.HTTP2 {
			return // it is the client's business
		}
		// It shows that the upstream understood, and is no secret (RFC 6455 section 10.8).
		var nonce [16]byte
		binary.LittleEndian.PutUint64(nonce[:], x.w.loop.Rand())
		binary.LittleEndian.PutUint64(nonce[8:], x.w.loop.Rand())
		x.webSocketKey = x.arena.Close(base64.StdEncoding.AppendEncode(x.arena.Open(24), nonce[:]))
		x.flags |= ownKey
	}
	q.Headers.AddName([]byte(keyHeader), x.webSocketKey)
}

// switched completes a 101 for the client. It reports whether the upstream has understood the key.
func (x *Exchange) switched() bool {
	h := &x.Response.Headers
	if x.webSocketKey == nil || !bytes.EqualFold(x.Response.Upgrade, webSocket) {
		return true
	}
	sum := sha1.Sum(slices.Concat(x.webSocketKey, []byte(acceptGUID))) //nolint:gosec // as above
	accept := base64.StdEncoding.AppendEncode(nil, sum[:])
	switch got := h.GetName(acceptHeader); {
	case x.is(ownKey):
		if got != nil && !bytes.Equal(got, accept) || got == nil && x.Request.Headers.GetName(keyHeader) != nil {
			return false
		}
		h.RemoveName(acceptHeader)
	case got == nil:
		h.AddName([]byte(acceptHeader), accept)
	}
	return true
}
