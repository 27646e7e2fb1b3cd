package http

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/tls"
)

func identified(cfg *Config, info *conn.Info, headers ...string) *Exchange {
	w := NewWorker(Options{Loop: mem.New().Loop(loop.Options{})})
	x := w.newExchange(nil, cfg, info, &origin{})
	for i := 0; i < len(headers); i += 2 {
		x.Request.Headers.AddName([]byte(headers[i]), []byte(headers[i+1]))
	}
	identify(x)
	return x
}

// x-forwarded-client-cert says what is configured about whom this connection's TLS vouches for, and never what a stranger claims.
func TestClientCert(t *testing.T) {
	peer := &tls.Peer{Presented: true, Subject: `CN="a",O=b`, URI: "spiffe://cluster.local/ns/default/sa/client", DNS: []string{"a.example", "b.example"},
		Local: "spiffe://cluster.local/ns/default/sa/server"}
	peer.Hash[0], peer.Hash[31] = 0xab, 0x01
	const hash = "ab00000000000000000000000000000000000000000000000000000000000001"
	const own = "By=spiffe://cluster.local/ns/default/sa/server;Hash=" + hash
	const full = own + `;Subject="CN=\"a\",O=b";URI=spiffe://cluster.local/ns/default/sa/client;DNS=a.example;DNS=b.example`
	for _, c := range []struct {
		what  string
		mode  ClientCert
		parts ClientCertPart
		tls   *tls.Peer
		sent  string
		want  string
	}{
		{"sanitize", CertSanitize, 0, peer, "By=x", ""},
		{"forward over mTLS", CertForwardOnly, 0, peer, "By=x", "By=x"},
		{"forward without TLS", CertForwardOnly, 0, nil, "By=x", ""},
		{"forward without a client certificate", CertForwardOnly, 0, &tls.Peer{}, "By=x", ""},
		{"append", CertAppendForward, 0, peer, "By=x", "By=x," + own},
		{"append to nothing", CertAppendForward, CertSubject | CertURI | CertDNS, peer, "", full},
		{"append without TLS", CertAppendForward, 0, nil, "By=x", ""},
		{"set", CertSanitizeSet, CertURI, peer, "By=x", own + ";URI=spiffe://cluster.local/ns/default/sa/client"},
		{"set without TLS", CertSanitizeSet, 0, nil, "By=x", ""},
		{"names that would say more than one thing", CertSanitizeSet, CertDNS | CertURI, &tls.Peer{Presented: true, URI: "spiffe://a/b;By=c", DNS: []string{"a\r\nx-admin: 1", `b",c`}},
			"", "Hash=" + strings.Repeat("0", 64) + `;URI="spiffe://a/b;By=c";DNS="a\r\nx-admin: 1";DNS="b\",c"`},
		{"always", CertAlwaysForwardOnly, 0, nil, "By=x", "By=x"},
	} {
		var headers []string
		if c.sent != "" {
			headers = []string{"x-forwarded-client-cert", c.sent}
		}
		x := identified(&Config{ClientCert: c.mode, CertParts: c.parts}, &conn.Info{TLS: c.tls}, headers...)
		if got := string(x.Request.Headers.Get(message.XForwardedClientCert)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// Of a client that is not of the mesh only its own certificate is told, not what it says of those before it.
func TestClientCertOfStrangers(t *testing.T) {
	x := identified(&Config{ClientCert: CertAppendForward, Strangers: true}, &conn.Info{TLS: &tls.Peer{Presented: true}}, "x-forwarded-client-cert", "By=x")
	if got, want := string(x.Request.Headers.Get(message.XForwardedClientCert)), "Hash="+strings.Repeat("0", 64); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A connection that goes on under another configuration says of its client what that wants to be said.
func TestClientCertAfterChange(t *testing.T) {
	x := identified(&Config{ClientCert: CertSanitizeSet, CertParts: CertURI}, &conn.Info{TLS: &tls.Peer{Presented: true, Subject: "CN=a", URI: "spiffe://a/b"}})
	for _, c := range []struct {
		parts ClientCertPart
		want  string
	}{{CertURI, ";URI=spiffe://a/b"}, {CertSubject, `;Subject="CN=a"`}, {0, ""}} {
		x.Config = &Config{ClientCert: CertSanitizeSet, CertParts: c.parts}
		identify(x)
		if _, got, _ := strings.Cut(string(x.Request.Headers.Get(message.XForwardedClientCert)), strings.Repeat("0", 64)); got != c.want {
			t.Errorf("parts %d: %q, want %q", c.parts, got, c.want)
		}
	}
}

// Which address counts as the client's depends on how many proxies in front are trusted.
func TestRemoteAddress(t *testing.T) {
	info := &conn.Info{Remote: netip.MustParseAddrPort("10.0.0.9:5000")}
	for _, c := range []struct {
		what, xff    string
		cfg          Config
		remote, sent string
	}{
		{"a sidecar believes the last hop", "192.0.2.1, 192.0.2.2", Config{}, "192.0.2.2:0", "192.0.2.1, 192.0.2.2"},
		{"a port is kept", "192.0.2.2:77", Config{}, "192.0.2.2:77", "192.0.2.2:77"},
		{"IPv6", "2001:db8::1", Config{}, "[2001:db8::1]:0", "2001:db8::1"},
		{"one hop further", "192.0.2.1, 192.0.2.2", Config{TrustedHops: 1}, "192.0.2.1:0", "192.0.2.1, 192.0.2.2"},
		{"more hops than there are", "192.0.2.1", Config{TrustedHops: 1}, "10.0.0.9:5000", "192.0.2.1"},
		{"nonsense", "unknown", Config{}, "10.0.0.9:5000", "unknown"},
		{"nothing", "", Config{}, "10.0.0.9:5000", ""},
		{"the edge believes the connection", "192.0.2.1", Config{Edge: true}, "10.0.0.9:5000", "192.0.2.1,10.0.0.9"},
		{"the edge behind one trusted proxy", "192.0.2.1, 192.0.2.2", Config{Edge: true, TrustedHops: 1}, "192.0.2.2:0", "192.0.2.1, 192.0.2.2,10.0.0.9"},
		{"the edge without appending", "192.0.2.1", Config{Edge: true, SkipXFF: true}, "10.0.0.9:5000", "192.0.2.1"},
		{"lines are one list", "192.0.2.1\n192.0.2.2", Config{}, "192.0.2.2:0", "192.0.2.1"},
		{"a line made up before that of the trusted proxy", "192.0.2.66\n192.0.2.2", Config{Edge: true, TrustedHops: 1}, "192.0.2.2:0", "192.0.2.66,192.0.2.2,10.0.0.9"},
		{"two lines before two trusted proxies", "192.0.2.66\n192.0.2.1, 192.0.2.2", Config{Edge: true, TrustedHops: 2}, "192.0.2.1:0", "192.0.2.66,192.0.2.1, 192.0.2.2,10.0.0.9"},
		{"one form for one address", "::ffff:192.0.2.1", Config{}, "192.0.2.1:0", "::ffff:192.0.2.1"},
		{"one form with a port", "[::ffff:192.0.2.1]:7", Config{}, "192.0.2.1:7", "[::ffff:192.0.2.1]:7"},
		{"no zone", "fe80::1%eth0", Config{}, "[fe80::1]:0", "fe80::1%eth0"},
		{"who has not proved to be of the mesh says nothing to the proxy", "192.0.2.1", Config{Strangers: true}, "10.0.0.9:5000", "192.0.2.1"},
		{"the edge first", "", Config{Edge: true}, "10.0.0.9:5000", "10.0.0.9"},
	} {
		var headers []string
		for line := range strings.SplitSeq(c.xff, "\n") {
			if line != "" {
				headers = append(headers, "x-forwarded-for", line)
			}
		}
		x := identified(&c.cfg, info, headers...)
		if got := x.Remote.String(); got != c.remote {
			t.Errorf("%s: the client is %s, want %s", c.what, got, c.remote)
		}
		if got := string(x.Request.Headers.Get(message.XForwardedFor)); got != c.sent {
			t.Errorf("%s: x-forwarded-for %q, want %q", c.what, got, c.sent)
		}
	}
}

// What steers proxies ends at the edge, and where somebody calls who has not proved to be of the mesh. Whose proxy a caller
// has is told there nevertheless: that is telemetry, and who still calls in plaintext is to be found by it.
func TestStrangers(t *testing.T) {
	told := []message.ID{message.XEnvoyPeerMetadata, message.XEnvoyPeerMetadataID}
	for _, c := range []Config{{}, {Edge: true}, {Strangers: true}} {
		var headers []string
		all := append(slices.Clone(strangers[:]), told...)
		for _, id := range all {
			headers = append(headers, id.String(), "1")
		}
		x := identified(&c, &conn.Info{}, headers...)
		for _, id := range all {
			want := !c.Edge && (!c.Strangers || slices.Contains(told, id)) && id != message.XEnvoyDecoratorOperation
			if got := x.Request.Headers.Has(id); got != want {
				t.Errorf("edge %v, strangers %v: %s there: %v", c.Edge, c.Strangers, id, got)
			}
		}
	}
}

func TestScheme(t *testing.T) {
	for _, c := range []struct {
		tls         *tls.Peer
		edge        bool
		sent        string
		scheme, xfp string
	}{
		{nil, false, "", "http", "http"},
		{&tls.Peer{}, false, "", "https", "https"},
		{nil, false, "https", "https", "https"}, // TLS ended at an earlier hop
		{nil, true, "https", "http", "http"},
		{&tls.Peer{}, true, "http", "https", "https"},
		{nil, false, "gopher", "http", "gopher"},
		{nil, false, "https\nhttp", "http", "https"}, // two opinions are none
	} {
		var headers []string
		for line := range strings.SplitSeq(c.sent, "\n") {
			if line != "" {
				headers = append(headers, "x-forwarded-proto", line)
			}
		}
		x := identified(&Config{Edge: c.edge}, &conn.Info{TLS: c.tls}, headers...)
		if got, xfp := string(x.Request.Scheme), string(x.Request.Headers.Get(message.XForwardedProto)); got != c.scheme || xfp != c.xfp {
			t.Errorf("%+v: scheme %q, x-forwarded-proto %q", c, got, xfp)
		}
	}
}

// Request IDs are UUIDs version 4 (RFC 9562 section 5.4), and all different.
func TestRequestID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	x := identified(&Config{}, &conn.Info{})
	seen := map[string]bool{}
	for range 1000 {
		id := string(x.newRequestID())
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("%q", id)
		}
		seen[id] = true
	}
	if x := identified(&Config{NoRequestID: true}, &conn.Info{}); x.Request.Headers.Has(message.XRequestID) {
		t.Error("an ID was made though none is wanted")
	}
	if x := identified(&Config{Edge: true, KeepRequestID: true}, &conn.Info{}, "x-request-id", "mine"); string(x.Request.Headers.Get(message.XRequestID)) != "mine" {
		t.Error("the client's ID was not kept")
	}
}
