package http_test

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// sessions is a script with one cluster c of endpoints a, b and d (draining), by whose listener sessions are kept; filter is the filter's
// configuration.
func sessions(t *testing.T, filter, cluster, routes string) *script {
	s := served(t)
	s.listeners["d"] = s.listeners["c"]
	delete(s.listeners, "c")
	endpoint := func(address, status string) string {
		return fmt.Sprintf(`lb_endpoints { health_status: %s endpoint { address { socket_address { address: %q port_value: 80 } } } }`, status, address)
	}
	for kind, text := range map[string]string{
		"cluster": `name: "s" type: STATIC connect_timeout { seconds: 1 } ` + cluster + ` load_assignment { cluster_name: "s" endpoints { ` +
			endpoint("10.2.0.1", "HEALTHY") + endpoint("10.2.0.2", "DEGRADED") + endpoint("10.2.0.3", "DRAINING") + `} }`,
		"listener": `name: "l" address { socket_address { address: "10.1.0.1" port_value: 80 } } traffic_direction: OUTBOUND filter_chains { filters { name: "h" typed_config {
			[type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { stat_prefix: "l" rds { route_config_name: "80" config_source { ads {} } }
			http_filters { name: "s" typed_config { [type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession] { ` + filter + ` } } }
			http_filters { name: "r" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] {} } } } } } }`,
		"routes": `name: "80" virtual_hosts { name: "v" domains: "*" ` + routes + ` }`,
	} {
		if err := s.xds(kind, text); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

const (
	byCookie = `session_state { name: "c" typed_config { [type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState] { cookie { name: "at" path: "/shop" ttl { seconds: 60 } } } } }`
	byHeader = `session_state { name: "c" typed_config { [type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState] { name: "X-At" } } }`
	toS      = `routes { match { prefix: "/" } route { cluster: "s" } }`
)

// header is base64 of an address.
func header(address string) string { return base64.StdEncoding.EncodeToString([]byte(address)) }

// A client that brings back the cookie gets to the endpoint that gave it, until it expires; elsewhere than below its path there are no
// sessions.
func TestSessionsByCookie(t *testing.T) {
	s := sessions(t, byCookie, "", toS)
	defer s.end()
	cookie := regexp.MustCompile(`set-cookie: (at="[^"]+"); Max-Age=60; Path=/shop; HttpOnly\r`)
	given := ""
	for range 20 {
		s.asked("GET /shop/1 HTTP/1.1\nHost: h", empty)
		m := cookie.FindStringSubmatch(s.answer)
		if m == nil {
			t.Fatalf("no cookie in\n%s", s.answer)
		}
		given = m[1]
	}
	b := `at="` + base64.StdEncoding.EncodeToString([]byte("\n\x0b10.2.0.2:80\x10\xff\xff\xff\xff\x0f")) + `"`
	for range 20 {
		if got := s.asked("GET /shop HTTP/1.1\nHost: h\nCookie: x=y; "+b, empty); !strings.HasPrefix(got, "b ") || strings.Contains(s.answer, "set-cookie") {
			t.Errorf("the session of b is at %s\n%s", got, s.answer)
		}
	}
	for path, want := range map[string]bool{"/shop?q": true, "/shops": false, "/": false, "/shop/": true} {
		if s.asked("GET "+path+" HTTP/1.1\nHost: h", empty); strings.Contains(s.answer, "set-cookie") != want {
			t.Errorf("%s: a cookie: %v", path, !want)
		}
	}
	for what, value := range map[string]string{"garbage": "at=%%%", "empty": "at=", "expired": `at="` + base64.StdEncoding.EncodeToString([]byte("\n\x0b10.2.0.2:80\x10\x01")) + `"`,
		"an address without expiry": `at="` + header("10.2.0.2:80") + `"`, "somebody else's address": strings.Replace(b, "MC4yLjAuMj", "MC4yLjAuOT", 1)} {
		if s.asked("GET /shop HTTP/1.1\nHost: h\nCookie: "+value, empty); !strings.Contains(s.answer, "set-cookie") {
			t.Errorf("%s:\n%s", what, s.answer)
		}
	}
	s.net.Advance(61 * time.Second)
	if s.asked("GET /shop HTTP/1.1\nHost: h\nCookie: "+given, empty); !strings.Contains(s.answer, "set-cookie") {
		t.Errorf("an expired session goes on\n%s", s.answer)
	}
}

// Whom sessions stay with is the cluster's matter; a strict one stays, or fails.
func TestSessionsByHeader(t *testing.T) {
	for _, tc := range []struct{ what, filter, cluster, routes, at, want string }{
		{"degraded, by default", byHeader, "", toS, "10.2.0.2:80", "b"},
		{"draining, by default not", byHeader, "", toS, "10.2.0.3:80", ""},
		{"draining", byHeader, "common_lb_config { healthy_panic_threshold {} override_host_status { statuses: DRAINING } }", toS, "10.2.0.3:80", "d"},
		{"degraded no more", byHeader, "common_lb_config { healthy_panic_threshold {} override_host_status { statuses: DRAINING } }", toS, "10.2.0.2:80", ""},
		{"strictly", byHeader + " strict: true", "", toS, "10.2.0.2:80", "b"},
		{"strictly, and unhealthy", byHeader + " strict: true status_on_strict_destination_not_found: 410", "", toS, "10.2.0.3:80", "503 no healthy upstream"},
		{"strictly, and not there", byHeader + " strict: true status_on_strict_destination_not_found: 410", "", toS, "10.2.0.9:80", "410 no healthy upstream"},
		{"by the route alone", "", "", `routes { match { prefix: "/" } route { cluster: "s" } typed_per_filter_config { key: "envoy.filters.http.stateful_session" value {
			[type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute] { stateful_session { ` + byHeader + ` } } } } }`, "10.2.0.2:80", "b"},
		{"not on this route", byHeader, "", `routes { match { prefix: "/" } route { cluster: "s" } typed_per_filter_config { key: "envoy.filters.http.stateful_session" value {
			[type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute] { disabled: true } } } }`, "10.2.0.9:80", "untold"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := sessions(t, tc.filter, tc.cluster, tc.routes)
			defer s.end()
			got := s.asked("GET / HTTP/1.1\nHost: h\nX-At: "+header(tc.at), empty)
			at, _, _ := strings.Cut(got, " GET")
			told := regexp.MustCompile(`x-at: (.*)\r`).FindString(s.answer)
			switch tc.want {
			case "": // wherever, and the client is told
				if address := map[string]string{"a": "10.2.0.1:80", "b": "10.2.0.2:80"}[at]; told != "x-at: "+header(address)+"\r" {
					t.Errorf("%s, and told %q", got, told)
				}
			case "untold":
				if told != "" {
					t.Errorf("told %q", told)
				}
			default:
				if at != tc.want || told != "" {
					t.Errorf("%s, and told %q; want %s", got, told, tc.want)
				}
			}
		})
	}
}

// The endpoint of a session that cannot be reached is not asked again, and who answers is the session's from then on; a strict one fails.
func TestSessionMovesOn(t *testing.T) {
	for filter, want := range map[string]string{byHeader: "a", byHeader + " strict: true": "503"} {
		s := sessions(t, filter, "", `routes { match { prefix: "/" } route { cluster: "s" retry_policy { retry_on: "connect-failure" num_retries { value: 2 } retry_back_off { base_interval { nanos: 1000000 } } } } }`)
		s.listeners["b"].Close()
		delete(s.listeners, "b")
		got := s.asked("GET / HTTP/1.1\nHost: h\nX-At: "+header("10.2.0.2:80"), empty)
		if at, _, _ := strings.Cut(got, " "); at != want || strings.Contains(s.answer, "x-at: ") != (want == "a") {
			t.Errorf("%s\n%s", got, s.answer)
		}
		s.end()
	}
}
