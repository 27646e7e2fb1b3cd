package http

import (
	"testing"

	"github.com/weirmesh/weir/proxy/http/message"
)

// Where an upstream's redirect leads, if it is followed here.
func TestLocated(t *testing.T) {
	for location, want := range map[string]string{
		"/a?b#c": "https h:1 /a?b", "http://x": "http x /", "HTTPS://x:8?q#f": "https x:8 /?q", "http://x//y": "http x //y", "http://[::1]:80/z": "http [::1]:80 /z",
		"": "", "a": "", "//x/y": "", "ftp://x/": "", "http:///y": "", "http://u@x/": "", "http://x:99999/": "", "#": "", "http:/x": "", "/a b": "", "?q": "",
	} {
		q := &message.Request{Scheme: []byte("https"), Authority: []byte("h:1")}
		scheme, authority, path, ok := located([]byte(location), q)
		if got := string(scheme) + " " + string(authority) + " " + string(path); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q %v, want %q", location, got, ok, want)
		}
	}
}

// Whatever an upstream says, the request that follows is one that a client could have sent.
func FuzzLocated(f *testing.F) {
	for _, s := range []string{"/a", "http://x/y", "https://x?z", "//", "http://\x00/", "http://a/\r\nb: c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scheme, authority, path, ok := located([]byte(s), &message.Request{Scheme: []byte("http"), Authority: []byte("h")})
		if !ok {
			return
		}
		if _, bad := message.BadTargetByte(path); bad || path[0] != '/' || message.CheckAuthority(authority) != message.NoFault || len(authority) == 0 || string(scheme) != "http" && string(scheme) != "https" {
			t.Errorf("%q: %q %q %q", s, scheme, authority, path)
		}
	})
}
