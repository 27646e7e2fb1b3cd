package http_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A redirect that is followed here gets nobody where he may not go himself: policies and rules for tokens judge the request that it makes,
// by its own path and what is verified for it.
func TestRedirectsPassPolicies(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(`{"iss": "i", "sub": "me"}`))
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`name: "l" address { socket_address { address: "0.0.0.0" port_value: 80 } } filter_chains { filters { name: "http" typed_config {
		[type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { stat_prefix: "l" normalize_path { value: true }
		route_config { name: "r" virtual_hosts { name: "v" domains: "*"
			routes { match { prefix: "/first" } route { cluster: "a" internal_redirect_policy { max_internal_redirects { value: 3 } response_headers_to_copy: "x-role" } } }
			routes { match { prefix: "/known/first" } route { cluster: "a" internal_redirect_policy {} } }
			routes { match { prefix: "/" } route { cluster: "b" } } } }
		http_filters { name: "envoy.filters.http.jwt_authn" typed_config { [type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication] {
			providers { key: "p" value { issuer: "i" forward: true payload_in_metadata: "payload" local_jwks { inline_string: %q } claim_to_headers { header_name: "x-sub" claim_name: "sub" } } }
			rules { match { prefix: "/known" } requires { provider_name: "p" } } } } }
		http_filters { name: "envoy.filters.http.rbac" typed_config { [type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC] { rules { action: DENY
			policies { key: "never" value { permissions { url_path { path { prefix: "/denied" } } } principals { any: true } } }
			policies { key: "role" value { permissions { url_path { path { prefix: "/role" } } } principals { not_id { header { name: "x-role" string_match { exact: "admin" } } } } } }
			policies { key: "claims" value { permissions { url_path { path { prefix: "/claims" } } } principals { not_id { metadata { filter: "envoy.filters.http.jwt_authn" path { key: "payload" } path { key: "sub" } value { string_match { exact: "me" } } } } } } } } } } }
		http_filters { name: "router" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] {} } } } } } }`, keys)
	for _, tc := range []struct{ what, path, to, header, want string }{
		{"where anybody may go", "/first", "/open", "", "b GET /open host=h"},
		{"another host of ours", "/first", "http://other/open", "", "b GET /open host=other"},
		{"where nobody may go", "/first", "/denied", "", "403"},
		{"by another way of writing it", "/first", "/x/../%64enied", "", "403"},
		{"over another redirect", "/first", "/first/2", "", "403"},
		{"a token is asked for there", "/first", "/known", "", "401"},
		{"and is there", "/first", "/known", "Authorization: Bearer " + token, "b GET /known host=h x-sub=me"},
		{"one that is none", "/first", "/known", "Authorization: Bearer x", "401"},
		{"what a token said of where it was asked for is not known where it is not", "/known/first", "/claims", "Authorization: Bearer " + token, "403"},
		{"nor are headers made of it", "/known/first", "/open", "Authorization: Bearer " + token, "b GET /open host=h"},
		{"a header that the client has made up is there, as it was", "/first", "/open", "X-Role: admin", "b GET /open host=h"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := served(t)
			defer s.end()
			if err := s.xds("listener", text); err != nil {
				t.Fatal(err)
			}
			request := "GET " + tc.path + " HTTP/1.1\nHost: h"
			if tc.header != "" {
				request += "\n" + tc.header
			}
			answer := "HTTP/1.1 302 There\r\nlocation: " + tc.to + "\r\ncontent-length: 0\r\n\r\n"
			if tc.to == "/first/2" { // which leads on
				answer = "HTTP/1.1 302 There\r\nlocation: /denied\r\ncontent-length: 0\r\n\r\n"
			}
			c, err := s.net.Dial(front)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Send(wire(t, request+"\n\n\\c")); err != nil {
				t.Fatal(err)
			}
			got, first := "", true
			for range 6 { // more than may follow on one another
				s.net.Advance(100 * time.Millisecond)
				for _, name := range []string{"a", "b"} {
					u := s.listeners[name].Accept()
					if u == nil {
						continue
					}
					b, _ := u.Recv()
					line, head, _ := strings.Cut(string(b), " HTTP/1.1\r\n")
					if got = name + " " + line; first && got != "a GET "+tc.path {
						t.Fatalf("the first request: %q", got)
					}
					first = false
					for l := range strings.SplitSeq(head, "\r\n") {
						for _, h := range []string{"host", "x-sub"} {
							if v, ok := strings.CutPrefix(l, h+": "); ok {
								got += " " + h + "=" + v
							}
						}
					}
					if _, err := u.Send([]byte(map[string]string{"a": answer, "b": empty}[name])); err != nil {
						t.Fatal(err)
					}
					s.net.Step()
					u.Close()
				}
			}
			if b, _ := c.Recv(); !strings.HasPrefix(string(b), "HTTP/1.1 200") {
				got = strings.Fields(string(b) + " nothing nothing")[1]
			}
			if got != tc.want {
				t.Errorf("redirected: %q, want %q", got, tc.want)
			}
		})
	}
}
