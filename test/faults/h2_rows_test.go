package faults

import (
	"io"
	"net"

	"golang.org/x/net/http2"
)

// HTTP/2 upstreams, and those that are none.
func h2Rows() []fault {
	return []fault{
		{name: "goaway", how: "an endpoint that answers with GOAWAY before any stream", protocol: "http2", far: framed(func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }),
			cause: "upstream_going_away", at: "default/client", client: "upstream_going_away", unknown: "default/far"},
		{name: "stream refused", how: "an endpoint that refuses each stream (RST_STREAM, REFUSED_STREAM)", protocol: "http2", far: framed(func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeRefusedStream) }),
			cause: "upstream_refused", at: "default/client", client: "upstream_refused", unknown: "default/far"},
		{name: "stream reset", how: "an endpoint that resets each stream (RST_STREAM, INTERNAL_ERROR)", protocol: "http2", far: framed(func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeInternal) }),
			cause: "upstream_reset", at: "default/client", client: "upstream_reset", unknown: "default/far"},
		{name: "HTTP2 to HTTP1", how: "a port named http2 whose application speaks HTTP/1.1", protocol: "http2", app: wholly("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
			cause: "upstream_protocol_error", at: "default/server", object: "Service ports[0].name", client: "-", server: "upstream_protocol_error", detail: "http1_response"},
		{name: "HTTP1 to HTTP2", how: "a port named http whose endpoint speaks HTTP/2 only", far: wholly("\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
			cause: "upstream_protocol_error", at: "default/client", object: "Service ports[0].name", client: "upstream_protocol_error"},
	}
}

// framed speaks HTTP/2, and does the same whenever a stream begins.
func framed(do func(f *http2.Framer, stream uint32)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(c, c)
		if f.WriteSettings() != nil {
			return
		}
		for {
			in, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch in := in.(type) {
			case *http2.HeadersFrame:
				do(f, in.StreamID)
			case *http2.SettingsFrame:
				if !in.IsAck() {
					_ = f.WriteSettingsAck()
				}
			}
		}
	}
}

// wholly answers whatever comes first, and ends.
func wholly(text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := c.Read(make([]byte, 100)); err == nil {
			_, _ = io.WriteString(c, text)
			_ = c.(*net.TCPConn).CloseWrite()
			silence(c)
		}
	}
}
