package dns

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/api/nds"
	"github.com/weirmesh/weir/proxy/dns/names"
)

var table = func() *names.Table {
	m := &nds.NameTable{Table: map[string]*nds.NameTable_NameInfo{
		"ratings.default.svc.cluster.local":  {Ips: []string{"10.96.0.4"}, AltHosts: []string{"ratings"}},
		"dual.default.svc.cluster.local":     {Ips: []string{"10.96.0.5", "fd00::5"}},
		"headless.default.svc.cluster.local": {Ips: []string{"10.0.0.7", "10.0.0.6"}},
		"api.example.com":                    {Ips: []string{"240.240.0.1"}},
	}}
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	t, err := names.Parse(b)
	if err != nil {
		panic(err)
	}
	return t
}()

// start runs a Server on loopback and returns a function that asks it.
func start(t *testing.T, o Options) func(network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Names, o.Log = table.Find, slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- New(o).Run(ctx, []net.PacketConn{p}, []net.Listener{l}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(network, name string, qtype uint16) *dns.Msg {
		t.Helper()
		addr := p.LocalAddr().String()
		if network == "tcp" {
			addr = l.Addr().String()
		}
		c := dns.Client{Net: network, Timeout: 5 * time.Second}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, qtype), addr)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func answers(m *dns.Msg) []string {
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, r := range m.Answer {
		f := strings.Fields(r.String())
		out = append(out, f[0]+" "+f[3]+" "+f[4])
	}
	return out
}

// Mesh names are answered by us, in both families, over both transports, whatever
// their case and with search domains in front.
func TestMeshNames(t *testing.T) {
	ask := start(t, Options{Search: []string{"default.svc.cluster.local", "svc.cluster.local"}})
	for _, c := range []struct {
		name  string
		qtype uint16
		want  []string
	}{
		{"ratings.default.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "ratings.default.svc.cluster.local. A 10.96.0.4"}},
		{"Ratings.Default.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "Ratings.Default.svc.cluster.local. A 10.96.0.4"}},
		{"ratings.", dns.TypeA, []string{"NOERROR", "ratings. A 10.96.0.4"}},
		{"ratings.default.svc.cluster.local.", dns.TypeAAAA, []string{"NOERROR"}},
		{"dual.default.svc.cluster.local.", dns.TypeAAAA, []string{"NOERROR", "dual.default.svc.cluster.local. AAAA fd00::5"}},
		{"headless.default.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "headless.default.svc.cluster.local. A 10.0.0.7", "headless.default.svc.cluster.local. A 10.0.0.6"}},
		{"ratings.default.svc.cluster.local.", dns.TypeTXT, []string{"NOERROR"}},
		{"api.example.com.default.svc.cluster.local.", dns.TypeA, []string{"NOERROR", "api.example.com.default.svc.cluster.local. CNAME api.example.com.", "api.example.com. A 240.240.0.1"}},
		{"nowhere.invalid.", dns.TypeA, []string{"SERVFAIL"}},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if d := cmp.Diff(c.want, answers(ask(network, c.name, c.qtype))); d != "" {
				t.Errorf("%s %s %s (-want +got):\n%s", network, c.name, dns.TypeToString[c.qtype], d)
			}
		}
	}
}

// Other names go to the host's resolvers: the first that answers wins, a dead one
// costs only its share of the time.
func TestForward(t *testing.T) {
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = append(m.Answer, &dns.A{Hdr: header(q.Question[0].Name, dns.TypeA), A: net.IPv4(192, 0, 2, 1)})
		_ = w.WriteMsg(m)
	})}
	go func() { _ = up.ActivateAndServe() }()
	t.Cleanup(func() { _ = p.Close() })
	refused := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "dead:53" {
			return nil, net.ErrClosed
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	ask := start(t, Options{Resolvers: []string{"dead:53", p.LocalAddr().String()}, Dial: refused})
	if d := cmp.Diff([]string{"NOERROR", "example.org. A 192.0.2.1"}, answers(ask("udp", "example.org.", dns.TypeA))); d != "" {
		t.Error(d)
	}
}

// What no resolver sends is refused before it is looked at.
func TestAccept(t *testing.T) {
	for _, c := range []struct {
		name string
		h    dns.Header
		want dns.MsgAcceptAction
	}{
		{"a query", dns.Header{Qdcount: 1, Arcount: 1}, dns.MsgAccept},
		{"an answer", dns.Header{Bits: 1 << 15, Qdcount: 1}, dns.MsgIgnore},
		{"an update", dns.Header{Bits: uint16(dns.OpcodeUpdate) << 11, Qdcount: 1}, dns.MsgRejectNotImplemented},
		{"two questions", dns.Header{Qdcount: 2}, dns.MsgReject},
		{"no question", dns.Header{}, dns.MsgReject},
	} {
		if got := accept(c.h); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
