package state

import (
	"fmt"
	"net/netip"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/simulate"
)

// Of chains that differ in who they are for, connections come by those that a reading of the specification without the proxy says.
func TestSourcesMatchAsSimulated(t *testing.T) {
	relay, err := anypb.New(&tcpproxyv3.TcpProxy{StatPrefix: "x", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "c"}})
	if err != nil {
		t.Fatal(err)
	}
	addresses := []string{"127.0.0.1", "10.0.0.1", "10.0.0.2", "10.1.0.1", "fd00::1", "::1"}
	ranges := []string{"127.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "0.0.0.0/0", "fd00::/64", "::/0"}
	hits := 0
	rapid.Check(t, func(t *rapid.T) {
		prefixes := func(what string) (out []*corev3.CidrRange) {
			for _, s := range rapid.SliceOfNDistinct(rapid.SampledFrom(ranges), 0, 2, rapid.ID).Draw(t, what) {
				p := netip.MustParsePrefix(s)
				out = append(out, &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))})
			}
			return out
		}
		l := &listenerv3.Listener{Name: "l", Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "0.0.0.0", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80}}}}}
		chain := func(name string, m *listenerv3.FilterChainMatch) *listenerv3.FilterChain {
			return &listenerv3.FilterChain{Name: name, FilterChainMatch: m, Filters: []*listenerv3.Filter{{Name: "tcp", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: relay}}}}
		}
		for i := range rapid.IntRange(1, 5).Draw(t, "chains") {
			l.FilterChains = append(l.FilterChains, chain(fmt.Sprint(i), &listenerv3.FilterChainMatch{
				DirectSourcePrefixRanges: prefixes("direct"), SourcePrefixRanges: prefixes("source"),
				SourceType:  rapid.SampledFrom([]listenerv3.FilterChainMatch_ConnectionSourceType{0, 0, 1, 2}).Draw(t, "type"),
				SourcePorts: rapid.SliceOfNDistinct(rapid.SampledFrom([]uint32{1000, 2000}), 0, 1, rapid.ID).Draw(t, "ports"),
			}))
		}
		if rapid.Bool().Draw(t, "default") {
			l.DefaultFilterChain = chain("default", nil)
		}
		body, err := anypb.New(l)
		if err != nil {
			t.Fatal(err)
		}
		s, _, err := newBuilder().Apply(Update{TypeURL: resource.ListenerType, Set: []Resource{{Name: "l", Body: body}}})
		if err != nil {
			t.Fatal(err)
		}
		config := s.Listener("l").Config
		table, err := listener.NewTable([]*listener.Config{config})
		if err != nil {
			t.Skip("two chains are for the same connections, which is refused")
		}
		for range 20 {
			address := func() netip.Addr { return netip.MustParseAddr(rapid.SampledFrom(addresses).Draw(t, "address")) }
			c := simulate.Connection{Destination: netip.AddrPortFrom(address(), 80), Transport: "raw_buffer", Source: netip.AddrPortFrom(address(), rapid.SampledFrom([]uint16{1000, 2000, 3000}).Draw(t, "port"))}
			info := &conn.Info{Local: c.Destination, Remote: c.Source}
			if rapid.Bool().Draw(t, "on behalf") {
				c.Direct = address()
				direct := netip.AddrPortFrom(c.Direct, 5)
				info.Direct = &direct
			}
			if rapid.IntRange(0, 7).Draw(t, "unix") == 0 {
				c.Source, c.Direct, c.Local = netip.AddrPort{}, netip.Addr{}, true
				info.Remote, info.Direct = netip.AddrPort{}, nil
			}
			want, got := "none", "none"
			if f := simulate.Pick(l, c); f != nil {
				want = f.GetName()
			}
			if f := table.Again(config.Chains[0], info); f != nil {
				got = f.Name
			}
			if got != want {
				t.Fatalf("%+v: the proxy takes %s, simulated is %s\n%v", c, got, want, l)
			}
			hits++
		}
	})
	if hits == 0 {
		t.Error("nothing was compared")
	}
}
