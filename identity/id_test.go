package identity

import (
	"crypto/x509"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long := strings.Repeat("a", 300)
	for _, c := range []struct {
		in   string
		want ID
		err  string // part of the message
	}{
		{in: "spiffe://cluster.local/ns/default/sa/bookinfo-reviews", want: ID{"cluster.local", "default", "bookinfo-reviews"}},
		{in: "spiffe://proj.svc.id.goog/ns/shop/sa/cart_1.Prod", want: ID{"proj.svc.id.goog", "shop", "cart_1.Prod"}},
		{in: "spiffe://td/ns/ns/sa/sa", want: ID{"td", "ns", "sa"}},

		{in: "", err: "cannot be empty"},
		{in: "cluster.local/ns/default/sa/x", err: "scheme"},
		{in: "https://cluster.local/ns/default/sa/x", err: "scheme"},
		{in: "SPIFFE://cluster.local/ns/default/sa/x", err: "scheme"},
		{in: "spiffe:///ns/default/sa/x", err: "trust domain is missing"},
		{in: "spiffe://Cluster.Local/ns/default/sa/x", err: "lowercase"},
		{in: "spiffe://cluster.local:8080/ns/default/sa/x", err: "trust domain characters"},
		{in: "spiffe://user@cluster.local/ns/default/sa/x", err: "trust domain characters"},
		{in: "spiffe://cluster.local", err: "want the form"},
		{in: "spiffe://cluster.local/ns/default/sa", err: "want the form"},
		{in: "spiffe://cluster.local/ns/default/sa/x/y", err: "want the form"},
		{in: "spiffe://cluster.local/ns/default/sa/x/", err: "trailing slash"},
		{in: "spiffe://cluster.local/sa/default/ns/x", err: "want the form"},
		{in: "spiffe://cluster.local/NS/default/sa/x", err: "want the form"},
		{in: "spiffe://cluster.local/ns//sa/x", err: "empty segments"},
		{in: "spiffe://cluster.local/ns/../sa/x", err: "dot segments"},
		{in: "spiffe://cluster.local/ns/default/sa/.", err: "dot segments"},
		{in: "spiffe://cluster.local/ns/a%2Fb/sa/x", err: "path segment characters"},
		{in: "spiffe://cluster.local/ns/a b/sa/x", err: "path segment characters"},
		{in: "spiffe://cluster.local/ns/default/sa/x?admin", err: "path segment characters"},
		{in: "spiffe://cluster.local/ns/default/sa/x#y", err: "path segment characters"},
		{in: "spiffe://cluster.local/ns/default/sa/x\x00", err: "path segment characters"},
		{in: "spiffe://" + long + "/ns/default/sa/x", err: "at most 255"},
		{in: "spiffe://td/ns/" + long[:64] + "/sa/x", err: "at most 63"},
		{in: "spiffe://td/ns/default/sa/" + long[:254], err: "at most 253"},
		{in: "spiffe://td/ns/default/sa/" + strings.Repeat(long, 8), err: "at most 2048"},
	} {
		got, err := Parse(c.in)
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.in, err)
		case c.err == "" && (got != c.want || got.String() != c.in || got.URL().String() != c.in):
			t.Errorf("%s: parsed %#v, written back as %s and %s", c.in, got, got, got.URL())
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want one with %q", c.in, err, c.err)
		case err != nil && len(err.Error()) > 400:
			t.Errorf("the message repeats %d bytes of input", len(err.Error()))
		}
	}
}

// An identity of parts is held to the same rules as a parsed one: parts cannot
// smuggle in further parts.
func TestNew(t *testing.T) {
	for _, c := range [][3]string{
		{"", "default", "x"}, {"td", "", "x"}, {"td", "default", ""},
		{"spiffe://td", "default", "x"}, {"td/ns/a", "default", "x"}, {"td", "a/sa/root", "x"}, {"td", "default", "x/y"},
	} {
		if id, err := New(c[0], c[1], c[2]); err == nil {
			t.Errorf("%q was accepted as %s", c, id)
		}
	}
}

func TestIDAsText(t *testing.T) {
	type report struct{ Peer, Self ID }
	want := report{Self: ID{"td", "shop", "cart"}}
	b, err := json.Marshal(want)
	if err != nil || string(b) != `{"Peer":"","Self":"spiffe://td/ns/shop/sa/cart"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var got report
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("read back as %v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`{"Self":"spiffe://td/x"}`), &got); err == nil {
		t.Error("a broken identity was read")
	}
}

func TestFromCertificate(t *testing.T) {
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, c := range []struct {
		names []*url.URL
		ok    bool
	}{
		{nil, false},
		{[]*url.URL{uri("https://example.com")}, false},
		{[]*url.URL{uri("spiffe://td/ns/shop/sa/cart")}, true},
		{[]*url.URL{uri("spiffe://td/ns/sh%2Fop/sa/cart")}, false},
		{[]*url.URL{uri("spiffe://td/ns/shop/sa/cart"), uri("spiffe://td/ns/shop/sa/admin")}, false},
		{[]*url.URL{uri("spiffe://td/ns/shop/sa/cart"), uri("https://example.com")}, false},
	} {
		id, err := FromCertificate(&x509.Certificate{URIs: c.names, DNSNames: []string{"cart.shop"}})
		if (err == nil) != c.ok {
			t.Errorf("%v: %v, %v", c.names, id, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"spiffe://cluster.local/ns/default/sa/x", "spiffe://td", "spiffe://td/ns/%41/sa/b", "spiffe://td/ns/a/sa/b/c", "spiffe://[::1]/ns/a/sa/b", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		if id.String() != s || id.URL().String() != s {
			t.Fatalf("%q became %q and %q", s, id, id.URL())
		}
		if again, err := Parse(id.String()); err != nil || again != id {
			t.Fatalf("%q: %v, %v", s, again, err)
		}
		if err := id.Validate(); err != nil {
			t.Fatalf("%q: parsed but not valid: %v", s, err)
		}
	})
}
