package proxy

import (
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/tcp"
)

type oneCluster struct{ c *cluster.Cluster }

func (s oneCluster) Cluster(cluster.ID) *cluster.Cluster  { return s.c }
func (s oneCluster) ClusterNamed(string) *cluster.Cluster { return s.c }

// Connections to one workload are one series, however many there are and whether or not it introduces itself.
func TestRelaysToOneWorkload(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	limits := &cluster.Limits{}
	limits.MaxConnections.Store(cluster.Unlimited)
	app := netip.MustParseAddrPort("10.0.0.2:3306")
	c := &cluster.Cluster{Name: "db", Limits: limits, Endpoints: []*cluster.Endpoint{{Addr: app, Limits: limits, Workload: cluster.Workload{Name: "mysql-v1", Namespace: "default"}}}}
	c.Seal()
	server, err := n.Listen(app)
	if err != nil {
		t.Fatal(err)
	}
	o := &relays{self: &observe.Peer{Workload: "client"}, loop: l, numbers: observe.NewWorker(), records: records.New(1), reported: map[*tcp.Relay]*tally{}}
	w := tcp.NewWorker(tcp.Options{Loop: l, Observer: o})
	front := netip.MustParseAddrPort("10.0.0.1:80")
	p := l.Poller()
	fd, _ := p.Socket(loop.IPv4)
	p.Bind(fd, loop.TCP(front))
	p.Listen(fd, 10)
	for range 3 {
		client, err := n.Dial(front)
		if err != nil {
			t.Fatal(err)
		}
		n.Step()
		in, remote, e := p.Accept(fd)
		if e != 0 {
			t.Fatal(e)
		}
		a := conn.Accept(l, in, conn.Info{Remote: remote.AddrPort, Local: front}, nil)
		a.HandOver(w.Serve(a, &tcp.Config{}, oneCluster{c}))
		n.Step()
		client.Reset()
		n.Step()
	}
	total := observe.NewTotals()
	total.Add(o.numbers)
	if len(total.TCP) != 1 {
		t.Fatalf("%d series: %v", len(total.TCP), total.TCP)
	}
	for labels, s := range total.TCP {
		if labels.Destination == nil || labels.Destination.Workload != "mysql-v1" || s.Opened != 3 || s.Closed != 3 {
			t.Errorf("%+v to %+v: %+v", labels, labels.Destination, s)
		}
	}
	// One that fails is recorded: the program is not there any more.
	server.Close()
	client, err := n.Dial(front)
	if err != nil {
		t.Fatal(err)
	}
	n.Step()
	in, remote, _ := p.Accept(fd)
	a := conn.Accept(l, in, conn.Info{Remote: remote.AddrPort, Local: front}, nil)
	a.HandOver(w.Serve(a, &tcp.Config{}, oneCluster{c}))
	n.Step()
	if last := o.records.LastFailed(9); len(last) != 1 || last[0].Cause != causes.UpstreamConnectRefused || last[0].Cluster != "db" || last[0].Client.String() != client.Local().String() ||
		last[0].Tries()[0].Endpoint.String() != app.String() || last[0].Tries()[0].Cause != causes.UpstreamConnectRefused {
		t.Errorf("recorded: %+v", last)
	}
}
