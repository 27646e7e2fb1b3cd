package plainxds

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// both runs a test in state of the world and in delta.
func both(t *testing.T, test func(t *testing.T, p *plane)) {
	for _, sotw := range []bool{true, false} {
		name := map[bool]string{true: "state of the world", false: "delta"}[sotw]
		t.Run(name, func(t *testing.T) { test(t, newPlane(t, sotw)) })
	}
}

// answers asks until each path is answered as it is to be.
func (p *plane) answers(want map[string]string) {
	p.t.Helper()
	for path, answer := range want {
		var header []string
		path, more, _ := strings.Cut(path, " ")
		if more != "" {
			header = strings.SplitN(more, "=", 2)
		}
		p.until(path, func() error {
			got, err := p.get("http://"+p.vars["IP"]+path, header...)
			for a := range strings.SplitSeq(answer, "|") {
				if err == nil && got == a {
					return nil
				}
			}
			return fmt.Errorf("%q, %w; want %q", got, err, answer)
		})
	}
}

// relayed makes one request through a TCP listener.
func (p *plane) relayed(port, from string) (string, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return p.ask(&http.Transport{DisableKeepAlives: true, DialContext: d.DialContext}, "http://"+p.vars["IP"]+":"+port+"/tcp")
}

// Everything a person configures for Envoy does here what it does there.
func TestEverything(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.publish(nil, "envoy.yaml")
		p.run()
		p.answers(map[string]string{
			":10000/static":              "200 a /static|200 b /static",
			":10000/strict":              "200 a /strict",
			":10000/logical":             "200 b /logical",
			":10000/eds/x":               "200 c /x /eds/x",
			":10000/split":               "200 a /split|200 b /split|200 c /split",
			":10000/answer?q=1 x-who=me": "200 42",
			":10000/answer?q=1 x-who=Me": "404",
			":10000/answer x-who=me":     "404",
			":10000/elsewhere/y":         "302 https://elsewhere.example/elsewhere/y|302 https://elsewhere.example:10000/elsewhere/y",
			":10000/secret":              "403 RBAC: access denied",
			":10000/closed":              "403 RBAC: access denied",
			":10000/open":                "200 open",
			":10002/original":            "200 original /original",
		})
		for from, want := range map[string]string{"127.0.0.1": "200 c /tcp", "127.0.1.1": "200 a /tcp|200 b /tcp"} {
			if got, err := p.relayed("10001", from); err != nil || !strings.Contains(want, got) {
				t.Errorf("from %s: %q, %v; want %q", from, got, err, want)
			}
		}
		if got, err := p.relayed("10001", "127.0.0.2"); err == nil {
			t.Errorf("the network RBAC lets everybody in: %q", got)
		}
		for name, want := range map[string]string{"a.example": "first.a.example", "x.b.example": "first.b.example"} {
			p.until(name, func() error {
				if got, err := p.shown(name); err != nil || got != want {
					return fmt.Errorf("%q, %w", got, err)
				}
				return nil
			})
		}
		if got, err := p.shown("c.example"); err == nil {
			t.Errorf("a server name without a chain is shown %q", got)
		}
		tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{ServerName: "a.example", InsecureSkipVerify: true}}
		if got, err := p.ask(tr, "https://"+p.vars["IP"]+":10443/tls"); err != nil || !strings.HasSuffix(got, "/tls") {
			t.Errorf("over TLS: %q, %v", got, err)
		}
		if n := p.nacked(); len(n) > 0 {
			t.Errorf("refused: %v", n)
		}
	})
}

// Whoever finds an address open for the first time is served: nothing is open before what it leads to is known.
func TestFirstIsServed(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.publish(nil, "envoy.yaml")
		p.run()
		for path, want := range map[string]string{":10000/eds/x": "200 c /x /eds/x", ":10000/strict": "200 a /strict"} {
			var got string
			p.until(path, func() (err error) { got, err = p.get("http://" + p.vars["IP"] + path); return err })
			if got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
	})
}

// What changes is in force, of each kind of resource, and what is taken away is gone.
func TestChanges(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.publish(nil, "envoy.yaml")
		p.run()
		p.answers(map[string]string{":10000/eds/x": "200 c /x /eds/x", ":10000/closed": "403 RBAC: access denied", ":10000/open": "200 open"})
		p.vars["EDS"], p.vars["CLOSED"], p.vars["ANSWER"] = p.vars["A"], "open", "43"
		p.rotate("second.a.example")
		p.secret.rotate("second.b.example")
		p.publish(nil, "envoy.yaml")
		p.answers(map[string]string{":10000/eds/x": "200 a /x /eds/x", ":10000/closed": "200 closed", ":10000/open": "403 RBAC: access denied", ":10000/answer?q=1 x-who=me": "200 43"})
		for name, want := range map[string]string{"a.example": "second.a.example", "x.b.example": "second.b.example"} {
			p.until(name, func() error {
				if got, err := p.shown(name); err != nil || got != want {
					return fmt.Errorf("%q, %w", got, err)
				}
				return nil
			})
		}
		p.publish(without("tcp", "strict"), "envoy.yaml")
		p.answers(map[string]string{":10000/strict": "503"})
		p.until("the listener is gone", func() error {
			if got, err := p.relayed("10001", "127.0.0.1"); err == nil {
				return fmt.Errorf("it answers %q", got)
			}
			return nil
		})
		if n := p.nacked(); len(n) > 0 {
			t.Errorf("refused: %v", n)
		}
	})
}

// One resource is wrong: it is refused by its path, what it was before stays, and whatever else is new is in force. Put right,
// it is in force too.
func TestRefusal(t *testing.T) {
	for _, c := range []struct{ what, right, wrong, says string }{
		{"a filter nobody knows", "name: envoy.filters.http.cors\n        typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}",
			"name: mystery\n        typed_config: {\"@type\": type.googleapis.com/xds.type.v3.TypedStruct, type_url: type.googleapis.com/mystery.Filter}",
			"listener http.filter_chains[0].filters[0] envoy.filters.network.http_connection_manager.http_filters[2] mystery: filter type.googleapis.com/mystery.Filter is not supported"},
		{"a route that cannot be", `{safe_regex: {regex: "[a-z]+"}}`, `{safe_regex: {regex: "[a-"}}`, "headers[0]"},
		{"a configuration by ECDS", `principals: [{any: true}]`, `principals: [{authenticated: {principal_name: {safe_regex: {regex: "("}}}}]`, "http_filters[1] doors"},
		{"a certificate without its key", `private_key: {inline_string: "${KEY}"}`, `private_key: {inline_string: ""}`, "secret default"},
		{"endpoints nowhere", `endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${EDS}}}}`, `endpoint: {address: {socket_address: {address: nowhere, port_value: 1}}}`, "eds"},
	} {
		t.Run(c.what, func(t *testing.T) {
			both(t, func(t *testing.T, p *plane) {
				p.publish(nil, "envoy.yaml")
				p.run()
				all := map[string]string{":10000/static": "200 a /static|200 b /static", ":10000/eds/x": "200 c /x /eds/x", ":10000/closed": "403 RBAC: access denied"}
				p.answers(all)
				change := func(s string) string {
					if !strings.Contains(s, c.right) {
						t.Fatalf("no %q", c.right)
					}
					// logical is another cluster's business
					return strings.Replace(strings.Replace(s, c.right, c.wrong, 1), "address: logical.example, port_value: ${B}", "address: logical.example, port_value: ${C}", 1)
				}
				p.publish(change, "envoy.yaml")
				p.until("it is refused", func() error {
					n := strings.Join(p.nacked(), "; ")
					if strings.Contains(n, c.says) {
						return nil
					}
					return errors.New("refused: " + n)
				})
				p.answers(map[string]string{":10000/logical": "200 c /logical"})
				p.answers(all)
				p.vars["ANSWER"] = "43"
				p.publish(nil, "envoy.yaml")
				p.answers(map[string]string{":10000/answer?q=1 x-who=me": "200 43"})
				p.answers(all)
			})
		})
	}
}

// The control plane goes and comes back with something else: what was said last is in force until then.
func TestControlPlaneGone(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.publish(nil, "envoy.yaml")
		p.run()
		all := map[string]string{":10000/static": "200 a /static|200 b /static", ":10000/answer?q=1 x-who=me": "200 42"}
		p.answers(all)
		p.stop()
		p.answers(all)
		p.vars["ANSWER"] = "43"
		p.publish(nil, "envoy.yaml")
		p.again()
		p.answers(map[string]string{":10000/answer?q=1 x-who=me": "200 43", ":10000/static": "200 a /static|200 b /static"})
	})
}

// Virtual hosts as resources of their own.
func TestVirtualHosts(t *testing.T) {
	p := newPlane(t, false)
	p.publish(nil, "vhds.yaml")
	p.run()
	p.answers(map[string]string{":10003/ host=vhost.first": "200 first", ":10003/ host=vhost.second": "200 second", ":10003/ host=vhost.third": "404"})
	p.vars["SECOND"] = "418"
	p.publish(nil, "vhds.yaml")
	p.answers(map[string]string{":10003/ host=vhost.first": "200 first", ":10003/ host=vhost.second": "418 second"})
}
