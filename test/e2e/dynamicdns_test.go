package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// nameServer answers on loopback what a test says, and remembers what it was asked.
type nameServer struct {
	at string

	mu      sync.Mutex
	records map[string][]string // addresses, by name with the dot at its end
	asked   map[string]int
}

func startNameServer(t *testing.T, records map[string][]string) *nameServer {
	p, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{at: p.LocalAddr().String(), records: records, asked: map[string]int{}}
	s := &dns.Server{PacketConn: p, Handler: n}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = p.Close(); <-done })
	return n
}

// ServeDNS is dns.Handler.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	name := strings.ToLower(q.Question[0].Name)
	n.asked[name]++
	addrs, ok := n.records[name]
	n.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	if !ok {
		m.Rcode = dns.RcodeNameError
	}
	for _, a := range addrs {
		kind := "A"
		if strings.Contains(a, ":") {
			kind = "AAAA"
		}
		if r, err := dns.NewRR(fmt.Sprintf("%s 1 IN %s %s", name, kind, a)); err == nil && r.Header().Rrtype == q.Question[0].Qtype {
			m.Answer = append(m.Answer, r)
		}
	}
	_ = w.WriteMsg(m)
}

func (n *nameServer) names() (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.asked {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Names that only clients know: each is resolved when it is asked for, by the proxy's own name server; who has no address, or one that
// leads back here or to the link, is not called, and the log says why; nothing but such names is ever asked for.
func TestDynamicDNS(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	outside := m.Workloads(func() mesh.Spec { s := echoPod("echo-v1-0", "v1"); s.NoProxy = true; return s }())[0]
	server := startNameServer(t, map[string][]string{
		"a.wild.test.": {outside.IP().String(), "::1", "fe80::1"}, "b.wild.test.": {outside.IP().String()},
		"home.wild.test.": {"127.0.0.1", "::1"}, "link.wild.test.": {"169.254.169.254"}, "empty.wild.test.": {}, "a.wild.test.default.svc.cluster.local.": {"127.0.0.1"},
	})
	spec := caller("client")
	spec.Captured = true
	spec.Proxy = func(o *proxy.Options) {
		o.LookupHost, o.DNS = nil, &proxy.DNS{Resolvers: []string{server.at}, Search: []string{"default.svc.cluster.local"}}
	}
	client := m.Workloads(spec)[0]
	m.Config("wild.yaml", `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.test"]
  location: MESH_EXTERNAL
  resolution: DYNAMIC_DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 443, name: tls, protocol: TLS, targetPort: 9000}]
`)
	get := func(host string) *mesh.Response { return client.Get("http://192.0.2.1:80/", "host: "+host) }
	m.Eventually("the first call", func() error {
		if r := get("a.wild.test"); r.Err != nil || r.Status != 200 {
			return errors.New(r.String())
		}
		return nil
	})
	for _, host := range []string{"a.wild.test", "A.wild.test", "b.wild.test:80"} {
		if r := get(host); r.Err != nil || r.Status != 200 {
			t.Errorf("%s: %v", host, r)
		}
	}
	for _, host := range []string{"home.wild.test", "link.wild.test", "empty.wild.test", "none.wild.test", "x--.-.wild.test"} {
		if r := get(host); r.Err != nil || r.Status != 503 {
			t.Errorf("%s: %v", host, r)
		}
		if lines := client.AccessLog(host, "503", "UH"); len(lines) != 1 {
			t.Errorf("%s: %q", host, lines)
		}
	}
	if lines := client.AccessLog("none.wild.test", "no_such_host"); len(lines) != 1 {
		t.Errorf("the log does not say why: %q", client.AccessLog("none.wild.test"))
	}
	if lines := client.AccessLog("home.wild.test", "no_address_that_may_be_called"); len(lines) != 1 {
		t.Errorf("the log does not say why: %q", client.AccessLog("home.wild.test"))
	}
	// TLS goes by the name of the server, and ends without a byte where there is none.
	handshake := func(name string) {
		c, err := client.Dial(context.Background(), "192.0.2.1:443")
		if err != nil {
			t.Fatal(err)
		}
		_ = tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() // nobody there speaks it
		_ = c.Close()
	}
	handshake("none.wild.test")
	m.Eventually("the log of a TLS connection", func() error {
		if lines := client.AccessLog("outbound|443||*.wild.test", "UH"); len(lines) != 1 {
			return fmt.Errorf("%q", client.Logged())
		}
		return nil
	})
	if got, want := strings.Join(server.names(), " "), "a.wild.test. b.wild.test. empty.wild.test. home.wild.test. link.wild.test. none.wild.test."; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	series := client.Metrics()
	if s := series["weir_proxy_dynamic_dns_names"]; len(s) != 1 || s[0].Value != 6 {
		t.Errorf("names: %v", s)
	}
	if s := series["weir_proxy_dynamic_dns_refused_total"]; len(s) != 1 || s[0].Value < 2 {
		t.Errorf("refused answers: %v", s)
	}
}
