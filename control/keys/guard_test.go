package keys

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// What means another thing here than to who wrote a policy is not dialled, however it is written; what the operator allows is.
func TestReachable(t *testing.T) {
	allowed := []netip.Prefix{netip.MustParsePrefix("127.0.0.8/32"), netip.MustParsePrefix("169.254.20.0/24")}
	for address, want := range map[string]bool{
		"203.0.113.7:443": true, "10.96.0.10:443": true, "[2001:db8::1]:443": true,
		"127.0.0.1:15014": false, "127.0.0.8:80": true, "[::1]:80": false, "[::ffff:127.0.0.1]:80": false, "[::ffff:127.0.0.8]:80": true,
		"169.254.169.254:80": false, "169.254.20.10:80": true, "[fe80::1%eth0]:80": false, "0.0.0.0:80": false, "[::]:80": false,
		"224.0.0.1:80": false, "[ff02::1]:80": false, "255.255.255.255:80": false, "somewhere:80": false,
	} {
		if err := reachable(address, allowed); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// A redirect leads no further than an address does; the error names the remedy, and nothing of what is there.
func TestGuardedRedirect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip("this machine has one loopback address: ", err)
	}
	inside := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") }))
	_ = inside.Listener.Close()
	inside.Listener = l
	inside.Start()
	defer inside.Close()
	issuer := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusFound))
	defer issuer.Close()
	for _, x := range []struct{ allowed, uri, want string }{
		{"203.0.113.0/24", issuer.URL, "--keys-allow=127.0.0.1/32"},
		{"127.0.0.1/32", issuer.URL, "--keys-allow=127.0.0.2/32"},
		{"127.0.0.1/32", inside.URL, "--keys-allow=127.0.0.2/32"},
		{"127.0.0.0/8", issuer.URL, ""},
	} {
		f := New(nil, "", slog.New(slog.DiscardHandler))
		f.Guard([]netip.Prefix{netip.MustParsePrefix(x.allowed)})
		body, err := f.get(t.Context(), x.uri)
		if x.want == "" && (err != nil || body != "secret") || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s allowed, asked for %s: %q, %v", x.allowed, x.uri, body, err)
		}
		f.client.CloseIdleConnections()
	}
}
