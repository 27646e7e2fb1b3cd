package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/restore"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// nowhere opens no sockets.
type nowhere struct{}

func (nowhere) Listen(_ loop.Addr, n int, _ listener.SocketOptions) ([]int, error) {
	return slices.Repeat([]int{-1}, n), nil
}

// starting is a proxy to which a control plane sends its first configuration.
type starting struct {
	*Proxy
	t *testing.T
}

func newStarting(t *testing.T, o Options) *starting {
	o.Node, o.Listen = observe.Node{ID: "test"}, nowhere{}
	o.Log, o.Level = slog.New(slog.DiscardHandler), &slog.LevelVar{}
	if o.Static == nil {
		o.Control = &Control{Strange: true, Dial: func(context.Context, *identity.Manager) (client.Conn, error) {
			return nil, errors.New("nobody is there")
		}}
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &starting{p, t}
}

// sends is an update of resources in YAML, of their types.
func (s *starting) sends(resources ...string) {
	s.t.Helper()
	for _, u := range updatesOf(s.t, resources...) {
		if err := s.state.update(u); err != nil {
			s.t.Fatal(err)
		}
	}
}

func updatesOf(t *testing.T, resources ...string) (out []state.Update) {
	t.Helper()
	for _, text := range resources {
		j, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		a := &anypb.Any{}
		if err := protojson.Unmarshal(j, a); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		name, err := resource.NameOf(a.GetTypeUrl(), a.GetValue())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, state.Update{TypeURL: a.GetTypeUrl(), Set: []state.Resource{{Name: name, Version: "1", Body: a}}})
	}
	return out
}

// open are the listeners that are.
func (s *starting) open() string {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	var names []string
	for name := range s.state.active {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func relay(name, to string) string {
	return fmt.Sprintf(`{"@type": type.googleapis.com/envoy.config.listener.v3.Listener, name: %s, address: {socket_address: {address: 127.0.0.1, port_value: %d}},
 filter_chains: [{filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: %s}}]}]}`, name, name[0], to)
}

func byEDS(name, source string) string {
	return fmt.Sprintf(`{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: %s, type: EDS, eds_cluster_config: {eds_config: {ads: {}%s}}}`, name, source)
}

func assigned(name string) string {
	return fmt.Sprintf(`{"@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: %s}`, name)
}

const byName = `{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: c, type: STRICT_DNS, load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: c.example, port_value: 80}}}}]}]}}`

const withRoots = `{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: c, type: STATIC, transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
 common_tls_context: {validation_context_sds_secret_config: {name: roots, sds_config: {ads: {}}}}}}}`

// The first listeners of a control plane open when what they lead to can be reached: each step is what comes, or how much time passes,
// and which listeners are open then.
func TestFirstListenersWaitForTheirClusters(t *testing.T) {
	type step struct {
		comes any
		open  string
	}
	wait := func(d time.Duration, open string) step { return step{d, open} }
	for _, c := range []struct {
		what  string
		steps []step
		lacks string // at the end, of what keeps a proxy from being ready
	}{
		{"in the order of the protocol", []step{{byEDS("c", ""), ""}, {assigned("c"), ""}, {relay("l", "c"), "l"}}, ""},
		{"in any other", []step{{relay("l", "c"), ""}, {byEDS("c", ""), ""}, {assigned("c"), "l"}}, ""},
		{"a listener that comes later opens at once, and those before go on", []step{{byEDS("c", ""), ""}, {assigned("c"), ""}, {relay("l", "c"), "l"}, {byEDS("d", ""), "l"}, {relay("m", "d"), "l m"}}, "endpoints d have not come yet"},
		{"without clusters", []step{{relay("l", "c"), ""}, {state.Update{TypeURL: resource.ClusterType}, "l"}}, ""},
		{"a control plane that sends no clusters", []step{{relay("l", "c"), ""}, wait(wholeIn-1, ""), wait(1, "l")}, ""},
		{"endpoints that never come", []step{{relay("l", "c"), ""}, {byEDS("c", ""), ""}, wait(wholeIn-1, ""), wait(1, "l")}, ""},
		{"endpoints of which there are none", []step{{relay("l", "c"), ""}, {byEDS("c", ""), ""}, {state.Update{TypeURL: resource.EndpointType, Removed: []string{"c"}, Absent: []string{"c"}}, "l"}}, ""},
		{"less patience", []step{{relay("l", "c"), ""}, {byEDS("c", ", initial_fetch_timeout: 3s"), ""}, wait(3*time.Second-1, ""), wait(1, "l")}, ""},
		{"patience without end: listeners open, and it is said", []step{{relay("l", "c"), ""}, {byEDS("c", ", initial_fetch_timeout: 0s"), ""}, wait(wholeIn-1, ""), wait(1, "l"), wait(time.Hour, "l")}, "endpoints c have not come yet"},
		{"a name server that does not answer", []step{{relay("l", "c"), ""}, {byName, ""}, wait(time.Second-1, ""), wait(1, "l")}, ""},
		{"a name", []step{{relay("l", "c"), ""}, {byName, ""}, {[]cluster.Found{{AddrPort: netip.MustParseAddrPort("127.0.0.1:80")}}, "l"}}, ""},
		{"a secret", []step{{relay("l", "c"), ""}, {withRoots, ""}, wait(wholeIn-1, ""), wait(1, "l")}, ""},
		{"a secret that does not exist", []step{{relay("l", "c"), ""}, {withRoots, ""}, {state.Update{TypeURL: resource.SecretType, Removed: []string{"roots"}}, "l"}}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newStarting(t, Options{})
				if err := p.state.begin(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				for i, s := range c.steps {
					switch x := s.comes.(type) {
					case string:
						p.sends(x)
					case state.Update:
						p.state.mu.Lock()
						next, gone, err := p.state.builder.Apply(x)
						if err != nil {
							t.Fatal(err)
						}
						p.state.first.note(x, true)
						p.state.publish(next, gone)
						p.state.mu.Unlock()
					case []cluster.Found:
						p.state.resolved(func() (*state.State, []*cluster.Endpoint) { return p.state.builder.Resolved("c", x) })
					case time.Duration:
						time.Sleep(x)
						synctest.Wait()
					}
					if got := p.open(); got != s.open {
						t.Fatalf("step %d: open: %q, want %q", i+1, got, s.open)
					}
				}
				lacks := ""
				if err := p.state.missing(false); err != nil {
					lacks = err.Error()
				}
				if lacks != c.lacks {
					t.Errorf("missing: %q, want %q", lacks, c.lacks)
				}
				if err := p.state.missing(true); err != nil {
					t.Errorf("a proxy that was ready is not any more: %v", err)
				}
			})
		})
	}
}

// Listeners of a file open when the names of its clusters have been asked for, and a name server that does not answer keeps them for a second.
func TestFileListenersWaitForNames(t *testing.T) {
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, l := &clusterv3.Cluster{}, &listenerv3.Listener{}
			for i, m := range []proto.Message{c, l} {
				if err := updatesOf(t, byName, relay("l", "c"))[i].Set[0].Body.UnmarshalTo(m); err != nil {
					t.Fatal(err)
				}
			}
			var p *starting
			p = newStarting(t, Options{Static: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{c}, Listeners: []*listenerv3.Listener{l}}},
				LookupHost: func(ctx context.Context, host string) ([]netip.Addr, error) {
					if got := p.open(); got != "" {
						t.Errorf("%q is open before there is an answer", got)
					}
					if silent {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
				}})
			began := time.Now()
			if err := p.state.begin(t.Context(), p.o.Static); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); p.open() != "l" || took > time.Second || !silent && took > 0 {
				t.Errorf("after %v: %q is open", took, p.open())
			}
			if n := len(p.state.current().ClusterNamed("c").Endpoints); (n == 1) == silent {
				t.Errorf("%d endpoints", n)
			}
		})
	}
}

// Whoever goes on with what a former process had, and on demand, waits for nothing but what a listener needs itself.
func TestKeptListenersOpenAtOnce(t *testing.T) {
	kept := newStarting(t, Options{})
	kept.state.saved = &restore.Saved{Updates: updatesOf(t, byEDS("c", ""), relay("l", "c"))}
	if err := kept.state.begin(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := kept.open(); got != "l" {
		t.Errorf("kept: %q is open", got)
	}
	demanded := newStarting(t, Options{OnDemand: true})
	if err := demanded.state.begin(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	demanded.state.builder.OnDemand(true)
	demanded.sends(byEDS("d", ""), byEDS("c", ""), relay("l", "c"), assigned("c"))
	if got := demanded.open(); got != "l" {
		t.Errorf("on demand: %q is open", got)
	}
}
