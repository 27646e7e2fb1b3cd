package grpcweb

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/weirmesh/weir/proxy/http/message"
)

// What follows application/grpc-web is a suffix, parameters, or another type.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		typ, suffix string
		text, ok    bool
	}{
		{"application/grpc-web", "", false, true},
		{"application/grpc-web+proto", "+proto", false, true},
		{"application/grpc-web;charset=utf-8", ";charset=utf-8", false, true},
		{"application/grpc-web-text", "", true, true},
		{"application/grpc-web-text+proto", "+proto", true, true},
		{"application/grpc-webbing", "", false, false},
		{"application/grpc-web-texture", "", true, false},
		{"application/grpc", "", false, false},
		{"text/html", "", false, false},
		{"", "", false, false},
	} {
		suffix, text, ok := kind([]byte(c.typ))
		if ok != c.ok || ok && (string(suffix) != c.suffix || text != c.text) {
			t.Errorf("%q: %q, %v, %v", c.typ, suffix, text, ok)
		}
	}
}

// The trailers' frame says its own length, whatever is in it.
func TestTrailersAreAFrame(t *testing.T) {
	var h message.Headers
	h.AddName([]byte("grpc-status"), []byte("0"))
	h.AddName([]byte("x"), bytes.Repeat([]byte("y"), 300))
	b := appendTrailers(nil, &h)
	if b[0] != 0x80 || b[1] != 0 || b[2] != 0 || int(b[3])<<8|int(b[4]) != len(b)-5 {
		t.Errorf("frame %q of %d bytes", b[:5], len(b))
	}
	if want := "grpc-status:0\r\nx:"; string(b[5:5+len(want)]) != want {
		t.Errorf("%q", b)
	}
}

// However a text is cut, the same bytes come out: a whole one, and parts that were padded by themselves.
func FuzzText(f *testing.F) {
	f.Add([]byte("hello"), uint8(1), uint8(3))
	f.Add([]byte{}, uint8(0), uint8(0))
	f.Add(bytes.Repeat([]byte{0xff}, 100), uint8(50), uint8(7))
	f.Fuzz(func(t *testing.T, b []byte, part, cut uint8) {
		at := min(int(part), len(b))
		text := base64.StdEncoding.EncodeToString(b[:at]) + base64.StdEncoding.EncodeToString(b[at:])
		var r textReader
		var got []byte
		for i := 0; i < len(text); i += int(cut) + 1 {
			var ok bool
			if got, ok = r.read(got, []byte(text[i:min(len(text), i+int(cut)+1)])); !ok {
				t.Fatalf("refused %q", text)
			}
		}
		if !bytes.Equal(got, b) || r.n != 0 {
			t.Errorf("%q became %q, %d bytes are left", b, got, r.n)
		}
		r.read(nil, b) // anything at all: no panic
	})
}
