package http_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/xds/ondemand"
)

// demanding is a proxy that answers "here" for the hosts that have come, and 404 for others. The index has a, b and c.
type demanding struct {
	t       testing.TB
	net     *mem.Net
	worker  *http.Worker
	demand  *demand.Worker
	demands *demand.Demands
	view    *demand.View
	hosts   []*route.VirtualHost
	seen    *balance
}

var shopPlace = &ondemand.Place{Namespace: "default", Suffix: "cluster.local"}

func newDemanding(t testing.TB) *demanding {
	d := &demanding{t: t, net: mem.New(), demands: demand.New(), seen: &balance{}}
	l := d.net.Loop(loop.Options{})
	d.demand = d.demands.NewWorker(l, shopPlace)
	d.worker = http.NewWorker(http.Options{Loop: l, Observer: d.seen, Demand: d.demand})
	d.view = &demand.View{Index: ondemand.Of("80/a", "80/b", "80/c")}
	d.come()
	cfg := &http.Config{TableName: "80", Upgrades: []string{"websocket"}, Stages: []http.Stage{http.Canonical(), http.Match(), http.Router()}}
	listen(t, l, front, func(c *conn.Conn) { c.HandOver(d.worker.Serve(c, cfg)) })
	return d
}

// come makes the hosts there, besides those that are.
func (d *demanding) come(names ...string) {
	for _, n := range names {
		d.hosts = append(d.hosts, &route.VirtualHost{Name: "80/" + n, Domains: []string{n}, Use: d.demands.Use(demand.Key{TypeURL: "v", Name: "80/" + n}),
			Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6}, Direct: &route.Direct{Status: 200, Body: []byte("here")}}}})
	}
	table, err := route.New("80", "1", false, d.hosts)
	if err != nil {
		d.t.Fatal(err)
	}
	table.OnDemand = true
	d.worker.SetState(&state{clusters: []*cluster.Cluster{}, table: table})
	d.demand.Changed(d.view)
	d.net.Step()
}

func (d *demanding) dial() *mem.Peer {
	p, err := d.net.Dial(front)
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *demanding) ask(request string) *mem.Peer {
	p := d.dial()
	p.Send([]byte(request))
	d.net.Step()
	return p
}

func get(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

func (d *demanding) held(want int) {
	d.t.Helper()
	if n, _ := d.demands.Held(); n != want {
		d.t.Errorf("%d held, want %d", n, want)
	}
}

// A request waits for a secret that its cluster names, by whatever configuration, and is told which one if that does not come.
func TestHeldForSecrets(t *testing.T) {
	d := newDemanding(t)
	forward := &route.VirtualHost{Name: "80/web", Domains: []string{"web"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6},
		Forward: &route.Forward{Clusters: []route.Weighted{{Cluster: 0, Name: "web", Weight: 1}}, Total: 1}}}}
	table, err := route.New("80", "1", false, []*route.VirtualHost{forward})
	if err != nil {
		t.Fatal(err)
	}
	cluster := func(refused string, awaited bool) {
		c := &cluster.Cluster{Name: "web", Limits: &cluster.Limits{}, Refused: refused, Awaited: awaited}
		c.Seal()
		d.worker.SetState(&state{clusters: []*cluster.Cluster{c}, table: table})
		d.demand.Changed(nil) // nothing is on demand
		d.net.Step()
	}
	cluster("secret s has not come", true)
	p, q := d.ask(get("web")), d.ask(get("web"))
	d.held(2)
	cluster("secret s has not come", true)
	d.held(2)
	q.Close()
	d.net.Step()
	d.held(1)
	cluster("", false)
	if got := statusOf(p); got != "HTTP/1.1 503 Service Unavailable <nil>" || d.seen.last != "no_healthy_upstream UH" { // it goes on: the cluster has no endpoints here
		t.Errorf("with the secret: %s, %s", got, d.seen.last)
	}
	d.held(0)

	cluster("secret s has not come", true)
	p = d.ask(get("web"))
	cluster("secret s does not exist", false)
	if got, _ := p.Recv(); !strings.Contains(string(got), "503 Service Unavailable") || !strings.Contains(string(got), "(secret s does not exist)") {
		t.Errorf("there is none: %q", got)
	}
	cluster("secret s has not come", true)
	p = d.ask(get("web"))
	d.net.Advance(demand.Patience)
	if got, _ := p.Recv(); !strings.Contains(string(got), "503 Service Unavailable") || !strings.Contains(string(got), "(secret s has not come)") {
		t.Errorf("in vain: %q", got)
	}
	d.held(0)
}

// A request for what is in the index and not there is held until it has come, is told to be absent, or its time is over.
func TestHeldForConfiguration(t *testing.T) {
	d := newDemanding(t)
	if got := statusOf(d.ask(get("outside"))); got != "HTTP/1.1 404 Not Found <nil>" {
		t.Errorf("outside the mesh: %s", got)
	}
	d.held(0)
	p, q := d.ask(get("a")+get("outside")), d.ask(get("b")) // the first is pipelined
	late := d.ask(get("c"))
	d.held(3)
	if add, _ := d.demands.Take(); len(add) != 3 {
		t.Errorf("asked for %v", add)
	}
	d.come("a")
	b, _ := p.Recv()
	if got := string(b); strings.Count(got, "HTTP/1.1 ") != 2 || !strings.Contains(got, "here") || strings.Index(got, "200 OK") > strings.Index(got, "404") {
		t.Errorf("pipelined requests got %q", got)
	}
	d.held(2)
	d.view = &demand.View{Index: d.view.Index, Absent: map[string]bool{"80/b": true}}
	d.come()
	if got := statusOf(q); got != "HTTP/1.1 404 Not Found <nil>" {
		t.Errorf("absent: %s", got)
	}
	d.net.Advance(demand.Patience - 10*time.Millisecond)
	if got := statusOf(late); got != " <nil>" {
		t.Errorf("before its time is over: %s", got)
	}
	d.net.Advance(20 * time.Millisecond)
	if got := statusOf(late); got != "HTTP/1.1 503 Service Unavailable <nil>" {
		t.Errorf("after: %s", got)
	}
	if r := d.seen; r.last != "destination_config_unavailable NC" {
		t.Errorf("logged %s", r.last)
	}
	d.held(0)
	if w := d.demand.Waits(); w.Count != 3 || w.Expired != 1 || w.Refused != 0 || w.Longest < demand.Patience {
		t.Errorf("%+v", w)
	}

	// What says that nothing is on demand any more lets everybody go by what is there.
	p = d.ask(get("c"))
	d.view = nil
	d.come()
	if got := statusOf(p); got != "HTTP/1.1 404 Not Found <nil>" {
		t.Errorf("without a view: %s", got)
	}
	// Without an index nobody knows what there is.
	d.view = &demand.View{}
	d.come()
	p = d.ask(get("outside"))
	d.held(1)
	d.view = &demand.View{Index: ondemand.Of("80/c")}
	d.come()
	if got := statusOf(p); got != "HTTP/1.1 404 Not Found <nil>" {
		t.Errorf("once the index has come: %s", got)
	}
	if d.worker.Active() != 0 || d.seen.begun != d.seen.ended {
		t.Errorf("%d active, %d of %d ended", d.worker.Active(), d.seen.ended, d.seen.begun)
	}
}

// Whoever goes away while it is held, whatever it asks for, leaves nothing behind; and a panic costs one.
func TestHeldAndGone(t *testing.T) {
	d := newDemanding(t)
	for _, c := range []struct{ name, request, want string }{
		{"CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "HTTP/1.1 503 Service Unavailable EOF"},
		{"upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "HTTP/1.1 503 Service Unavailable <nil>"},
		{"gRPC", "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK <nil>"},
		{"body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 503 Service Unavailable <nil>"},
		{"expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 503 Service Unavailable EOF"},
	} {
		gone := d.ask(c.request)
		d.held(1)
		gone.Close()
		d.net.Step()
		d.held(0)
		late := d.ask(c.request)
		d.net.Advance(demand.Patience + time.Millisecond)
		if got := statusOf(late); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		d.held(0)
	}
	if n, body := d.demands.Held(); n != 0 || body != 0 {
		t.Errorf("%d held with %d bytes", n, body)
	}
	if d.worker.Active() != 0 || d.seen.begun != d.seen.ended {
		t.Errorf("%d active, %d of %d ended", d.worker.Active(), d.seen.ended, d.seen.begun)
	}
}

// Streams of one HTTP/2 connection are held one by one; the others go on.
func TestHeldStreams(t *testing.T) {
	d := newDemanding(t)
	p := d.dial()
	client := newPeer2(p, func() { d.net.Step() }, false)
	client.begin(t, "")
	for i, host := range []string{"a", "b", "c", "outside"} {
		client.send(t, fmt.Sprintf("HEADERS %d END\n  :method: GET\n  :scheme: http\n  :authority: %s\n  :path: /", 2*i+1, host))
	}
	d.net.Step()
	d.held(3)
	client.send(t, "RST_STREAM 5 CANCEL")
	d.net.Step()
	d.held(2)
	d.come("b")
	b, _ := p.Recv()
	if got := client.recv(t, b); !strings.Contains(got, "HEADERS 3") || !strings.Contains(got, "DATA 3") || !strings.Contains(got, "HEADERS 7") || strings.Contains(got, "HEADERS 1\n") {
		t.Errorf("the client got\n%s", got)
	}
	d.demand.Close() // the proxy ends
	d.net.Step()
	b, _ = p.Recv()
	if got := client.recv(t, b); !strings.Contains(got, ":status: 503") {
		t.Errorf("the client got\n%s", got)
	}
	d.held(0)
	if got := statusOf(d.ask(get("a"))); got != "HTTP/1.1 503 Service Unavailable <nil>" {
		t.Errorf("while the proxy ends: %s", got)
	}
}

// What is held is bounded, in number and in bytes.
func TestHoldsAreBounded(t *testing.T) {
	d := newDemanding(t)
	var peers []*mem.Peer
	for range demand.MaxHeld {
		peers = append(peers, d.ask(get("a")))
	}
	d.held(demand.MaxHeld)
	if got := statusOf(d.ask(get("b"))); got != "HTTP/1.1 503 Service Unavailable <nil>" {
		t.Errorf("one too many: %s", got)
	}
	if got := statusOf(d.ask(get("outside"))); got != "HTTP/1.1 404 Not Found <nil>" {
		t.Errorf("who need not wait: %s", got)
	}
	d.come("a")
	for range demand.MaxHeld / 100 {
		d.net.Step()
	}
	for _, p := range peers {
		if got := statusOf(p); got != "HTTP/1.1 200 OK <nil>" {
			t.Fatalf("held: %s", got)
		}
		p.Close()
	}
	d.held(0)

	const body = 60 << 10
	refused := 0
	for range demand.MaxBody/body + 2 {
		p := d.ask(fmt.Sprintf("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n%s", body, bytes.Repeat([]byte{'x'}, body)))
		if statusOf(p) == "HTTP/1.1 503 Service Unavailable <nil>" {
			refused++
		}
	}
	if n, bytes := d.demands.Held(); refused != 2 || bytes > demand.MaxBody || bytes != int64(n*body) {
		t.Errorf("%d refused, %d held with %d bytes", refused, n, bytes)
	}
}

// A request to a host outside the mesh costs an on-demand table next to nothing, and no allocation.
func BenchmarkOutsideTheMesh(b *testing.B) {
	for _, c := range []struct {
		name string
		view bool
	}{{"everything", false}, {"on demand", true}} {
		b.Run(c.name, func(b *testing.B) {
			d := newDemanding(b)
			if !c.view {
				d.view = nil
				d.come()
			}
			x, buf := []byte(get("api.somewhere.example.com")), make([]byte, 4096)
			p := d.dial()
			b.ReportAllocs()
			for b.Loop() {
				p.Send(x)
				d.net.Step()
				if p.Take(buf) == 0 {
					b.Fatal("no answer")
				}
			}
		})
	}
}
