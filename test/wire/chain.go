// Package wire attacks chains of proxies: a client gives raw bytes, one or more
// proxies stand in a row as bootstrap files describe them, and a back end of our own
// records what reached it, byte by byte.
//
// Bytes and frames enter (testdata, Client, Backend); what the client was answered, why
// the proxies say so, and which requests the back end read leave (Report). The proxies
// are proxy/listener, proxy/http and proxy/state as cmd/weir-proxy assembles them, on
// loops over a network in memory and in virtual time: a proxy that waits for more is
// seen to wait, without a clock. Readers of bytes on both ends are this package's own
// and stricter than any server: they share no code with the codecs they judge.
//
// A Chain belongs to one test and one goroutine.
package wire

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/resource"
)

// Protocol is what is spoken on one hop.
type Protocol uint8

// Protocols.
const (
	H1 Protocol = iota
	H2
)

func (p Protocol) String() string { return [...]string{"H1", "H2"}[p] }

// Hops are the protocols from the client to the back end: the first is the client's,
// the last the back end's, and a proxy stands between each two.
type Hops []Protocol

func (h Hops) String() string {
	names := make([]string, len(h))
	for i, p := range h {
		names[i] = p.String()
	}
	return strings.Join(names, "→")
}

// Options of a Chain.
type Options struct {
	// Manager are fields of the HttpConnectionManager of the first proxy, as YAML, over those it has.
	Manager string
	// Everywhere makes that the settings of every proxy.
	Everywhere bool
	// Segment is how many bytes anybody reads at once; 0: as many as there are.
	Segment int
	// Cluster are fields of the Cluster of every proxy, as YAML, in place of those it has.
	Cluster string
	// Workers of every proxy; 0: 1.
	Workers int
	// Alone leaves the back end's place, Behind, to the test.
	Alone bool
}

// Chain is a row of proxies with a back end behind them.
type Chain struct {
	Hops Hops
	Net  *mem.Net
	Back *Backend // nil: Alone

	t     testing.TB
	nodes []*node
}

// node is one proxy.
type node struct {
	loops   []*loop.Loop
	workers []*http.Worker
	begun   int
	log     []Entry
	ended   []int // exchanges, by worker
}

// Entry is what a proxy says about one exchange.
type Entry struct {
	Status  int
	Details string
}

// Lab makes chains. It remembers the bootstraps that it has read.
type Lab struct {
	read map[string][]state.Update
}

// Chain starts the proxies and the back end.
func (b *Lab) Chain(t testing.TB, hops Hops, o Options) *Chain {
	t.Helper()
	c := &Chain{Hops: hops, Net: mem.New(), t: t}
	c.Net.SegmentSize = o.Segment
	last := len(hops) - 1
	for i := range last {
		manager := ""
		if i == 0 || o.Everywhere {
			manager = o.Manager
		}
		config, err := b.config(hops, i, manager, o.Cluster)
		if err != nil {
			t.Fatalf("%v: proxy %d: %v", hops, i+1, err)
		}
		n, err := c.start(i, config, max(o.Workers, 1))
		if err != nil {
			t.Fatalf("%v: proxy %d: %v", hops, i+1, err)
		}
		c.nodes = append(c.nodes, n)
	}
	if !o.Alone {
		l, err := c.Net.Listen(c.Behind())
		if err != nil {
			t.Fatal(err)
		}
		c.Back = newBackend(l, hops[last])
	}
	c.Settle()
	return c
}

// Front is where clients connect to.
func (c *Chain) Front() netip.AddrPort { return address(0) }

// Behind is where the last proxy connects to.
func (c *Chain) Behind() netip.AddrPort { return address(len(c.Hops) - 1) }

// address is where hop i goes to: proxies listen on 10.0.0.1, .2, …, the back end on the one after.
func address(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80)
}

// bootstrap has the settings Istio gives its sidecars, and takes HTTP/1.0.
const bootstrap = `
static_resources:
  listeners:
  - name: in
    traffic_direction: %s
    address: {socket_address: {address: %s, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: wire
          codec_type: %s
          normalize_path: true
          stream_idle_timeout: 0s
          http_protocol_options: {accept_http_10: true}
          upgrade_configs: [{upgrade_type: websocket}]
          route_config:
            name: wire
            virtual_hosts:
            - name: any
              domains: ["*"]
              routes:
              - match: {path: "*"}
                route: {cluster: next, timeout: 0s}
              - match: {prefix: /}
                route: {cluster: next, timeout: 0s}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: next
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {%s: {}}
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: %s, port_value: %d}}}
`

// config is the configuration of proxy i.
func (b *Lab) config(hops Hops, i int, manager, cluster string) ([]state.Update, error) {
	direction := "INBOUND"
	if i == 0 {
		direction = "OUTBOUND"
	}
	codec := [...]string{"HTTP1", "HTTP2"}[hops[i]]
	upstream := [...]string{"http_protocol_options", "http2_protocol_options"}[hops[i+1]]
	at, to := address(i), address(i+1)
	text := fmt.Sprintf(bootstrap, direction, at.Addr(), at.Port(), codec, upstream, to.Addr(), to.Port())
	key := text + manager + cluster
	if u, ok := b.read[key]; ok {
		return u, nil
	}
	m := &bootstrapv3.Bootstrap{}
	if err := fromYAML(text, m); err != nil {
		return nil, err
	}
	if err := override(m, manager); err != nil {
		return nil, err
	}
	if cluster != "" {
		over := &clusterv3.Cluster{}
		if err := fromYAML(cluster, over); err != nil {
			return nil, err
		}
		replace(m.GetStaticResources().GetClusters()[0], over)
	}
	u, err := updates(m)
	if b.read == nil {
		b.read = map[string][]state.Update{}
	}
	b.read[key] = u
	return u, err
}

// start makes proxy i.
func (c *Chain) start(i int, config []state.Update, workers int) (*node, error) {
	builder := state.NewBuilder(state.Options{})
	for _, u := range config {
		if _, _, err := builder.Apply(u); err != nil {
			return nil, err
		}
	}
	built := builder.State()
	log := slog.New(slog.DiscardHandler)
	n := &node{ended: make([]int, workers)}
	pools := &pool.Group{}
	var acceptors []*listener.Acceptor
	for k := range workers {
		l := c.Net.Loop(loop.Options{Log: log, Seed: uint64(k + 1)})
		w := http.NewWorker(http.Options{Loop: l, Group: pools, Observer: n, Hostname: fmt.Sprintf("proxy-%d", i+1)})
		w.SetState(built)
		n.loops, n.workers = append(n.loops, l), append(n.workers, w)
		acceptors = append(acceptors, listener.NewAcceptor(l, listener.Options{Log: log, Serve: func(cc *conn.Conn, a listener.Arrival) conn.Handler {
			return w.Serve(cc, a.Chain.Filters.(*http.Config))
		}}))
	}
	var configs []*listener.Config
	for l := range built.Listeners() {
		configs = append(configs, l.Config)
	}
	table, err := listener.NewTable(configs)
	if err != nil {
		return nil, err
	}
	_, err = listener.NewGroup(listener.Sockets{Sockets: c.Net.Sockets()}, c.Net.Sockets(), nil, log, acceptors...).Apply(table)
	return n, err
}

func fromYAML(text string, m proto.Message) error {
	json, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return err
	}
	return protojson.Unmarshal(json, m)
}

// override puts fields of an HttpConnectionManager in place of those in the bootstrap.
func override(b *bootstrapv3.Bootstrap, manager string) error {
	if manager == "" {
		return nil
	}
	over := &hcmv3.HttpConnectionManager{}
	if err := fromYAML(manager, over); err != nil {
		return err
	}
	f := b.GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()[0]
	m := &hcmv3.HttpConnectionManager{}
	if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
		return err
	}
	replace(m, over)
	return f.GetTypedConfig().MarshalFrom(m)
}

// replace puts fields in place of those m has. proto.Merge takes false for nothing.
func replace(m, over proto.Message) {
	over.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		m.ProtoReflect().Set(fd, v)
		return true
	})
}

// updates are the static resources of a bootstrap.
func updates(b *bootstrapv3.Bootstrap) ([]state.Update, error) {
	clusters := state.Update{TypeURL: resource.ClusterType}
	for _, c := range b.GetStaticResources().GetClusters() {
		a, err := anypb.New(c)
		if err != nil {
			return nil, err
		}
		clusters.Set = append(clusters.Set, state.Resource{Name: c.GetName(), Body: a})
	}
	listeners := state.Update{TypeURL: resource.ListenerType}
	for _, l := range b.GetStaticResources().GetListeners() {
		a, err := anypb.New(l)
		if err != nil {
			return nil, err
		}
		listeners.Set = append(listeners.Set, state.Resource{Name: l.GetName(), Body: a})
	}
	return []state.Update{clusters, listeners}, nil
}

// Begin and End are http.Observer.
func (n *node) Begin(*http.Exchange) { n.begun++ }

// End is described at Begin.
func (n *node) End(x *http.Exchange) {
	n.begun--
	n.ended[slices.Index(n.workers, x.Worker())]++
	n.log = append(n.log, Entry{x.Response.Status, x.Details})
}

// Settle lets proxies and back end work until nothing is left to do.
func (c *Chain) Settle() {
	for range 10_000 {
		c.Net.Step()
		if c.Back == nil || !c.Back.work() {
			return
		}
	}
	c.t.Fatalf("%v: proxies and back end do not come to rest", c.Hops)
}

// Entry is what the proxy at a place in the row, from 0, said about its i-th exchange since Forget.
func (c *Chain) Entry(place, i int) (Entry, bool) {
	if place >= len(c.nodes) || i >= len(c.nodes[place].log) {
		return Entry{}, false
	}
	return c.nodes[place].log[i], true
}

// Ended is how many exchanges each worker of the first proxy has ended.
func (c *Chain) Ended() []int { return c.nodes[0].ended }

// Forget drops what proxies and back end noted so far.
func (c *Chain) Forget() {
	for _, n := range c.nodes {
		n.log = nil
	}
	if c.Back != nil {
		c.Back.forget()
	}
}

// Close ends everything and looks for what was left behind.
func (c *Chain) Close() {
	c.t.Helper()
	if c.Back != nil {
		c.Back.close()
	}
	c.Net.Advance(3 * time.Hour)
	listening := 0
	for i, n := range c.nodes {
		if n.begun != 0 {
			c.t.Errorf("%v: proxy %d: %d exchanges did not end", c.Hops, i+1, n.begun)
		}
		for k, w := range n.workers {
			listening++
			if p := w.Pool().Counts(); w.Active() != 0 || p.Busy+p.Connecting+p.Waiting+p.Idle != 0 {
				c.t.Errorf("%v: proxy %d is left with %d exchanges, pool %+v", c.Hops, i+1, w.Active(), p)
			}
			if n.loops[k].Panics() != 0 {
				c.t.Errorf("%v: proxy %d: a callback panicked", c.Hops, i+1)
			}
		}
	}
	if n := c.Net.Open(); n != listening {
		c.t.Errorf("%v: %d sockets are open at the end, %d of them listen", c.Hops, n, listening)
	}
}
