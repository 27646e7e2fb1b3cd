package h1

import (
	"strconv"

	"github.com/weirmesh/weir/proxy/http/message"
)

// Names says how the names of header fields are written. They mean the same in any case (RFC 9110 section 5.1); some old
// peers do not know.
type Names uint8

// Spellings.
const (
	LowerCase    Names = iota // as everything inside the proxy, and as HTTP/2
	ProperCase                // X-Request-Id (header_key_format.proper_case_words)
	PreserveCase              // as they were received (preserve_case), those of the proxy in lower case
	// PreserveOrProperCase is PreserveCase with the proxy's own fields in proper case.
	PreserveOrProperCase
	spellings
)

// words are what the codec itself writes about framing and connection, in one spelling.
type words struct{ host, expect, chunked, length, close, keep, upgrade, protocol string }

var ourWords = [spellings]words{LowerCase: lowerWords, ProperCase: properWords, PreserveCase: properWords, PreserveOrProperCase: properWords}

var lowerWords = words{"host: ", "expect: 100-continue\r\n", "transfer-encoding: chunked\r\n", "content-length: ",
	"connection: close\r\n", "connection: keep-alive\r\n", "connection: upgrade\r\n", "upgrade: "}

var properWords = words{"Host: ", "Expect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: ",
	"Connection: close\r\n", "Connection: keep-alive\r\n", "Connection: Upgrade\r\n", "Upgrade: "}

func (w *words) appendLength(dst []byte, n int64) []byte {
	dst = append(dst, w.length...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, '\r', '\n')
}

func (w *words) appendUpgrade(dst, protocol []byte) []byte {
	dst = append(append(dst, w.upgrade...), w.protocol...)
	dst = append(dst, protocol...)
	return append(dst, '\r', '\n')
}

func appendFields(dst []byte, h *message.Headers, names Names) []byte {
	all := h.Fields()
	for i := range all {
		f := &all[i]
		switch f.ID {
		case message.Host, message.ContentLength, message.TransferEncoding, message.Connection, message.KeepAlive,
			message.ProxyConnection, message.TE, message.Upgrade, message.Expect, message.HTTP2Settings:
			continue
		}
		if names == LowerCase {
			dst = append(dst, f.Name...)
		} else {
			dst = appendName(dst, f, names)
		}
		dst = append(dst, ':', ' ')
		dst = append(dst, f.Value...)
		dst = append(dst, '\r', '\n')
	}
	return dst
}

func appendName(dst []byte, f *message.Field, names Names) []byte {
	known := f.Case.Known() && names != ProperCase
	start := true // of a word
	for i, c := range f.Name {
		letter := c >= 'a' && c <= 'z'
		if letter && (known && f.Case.Upper(i, start) || !known && names != PreserveCase && start) {
			c -= 'a' - 'A'
		}
		start = !letter && (c < '0' || c > '9')
		dst = append(dst, c)
	}
	return dst
}
