package translate_test

import (
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

func coreNode(t testing.TB, id, metadata string) *corev3.Node {
	t.Helper()
	n := &corev3.Node{Id: id, Metadata: &structpb.Struct{}}
	if err := protojson.Unmarshal([]byte(metadata), n.Metadata); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestParseNode(t *testing.T) {
	const id = "sidecar~10.1.0.1~reviews-v1-0.default~default.svc.cluster.local"
	const gateway = "router~10.1.0.1~reviews-v1-0.default~default.svc.cluster.local"
	plain := &translate.Node{Type: translate.Sidecar, Namespace: "default", Name: "reviews-v1-0", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, Interception: translate.Redirect, AsksConnections: true}
	for _, c := range []struct {
		name, id, metadata string
		agent              string
		peer               translate.Peer
		want               func(n *translate.Node)
		err                string
	}{
		{name: "the least a node says", id: id, metadata: "{}", want: func(*translate.Node) {}},
		{name: "an id without end", id: "sidecar~10.1.0.1~" + strings.Repeat("x", 1000) + ".default~d", metadata: "{}", err: "node.id: 1027 bytes, at most 1024"},
		{name: "an Istio proxy", id: id, peer: translate.Peer{Namespace: "default", ServiceAccount: "reviews"},
			metadata: `{"NAMESPACE": "default", "SERVICE_ACCOUNT": "reviews", "LABELS": {"app": "reviews"}, "INSTANCE_IPS": "10.1.0.1,fd00::1", "INTERCEPTION_MODE": "TPROXY", "DNS_CAPTURE": "true", "PROXY_CONFIG": {}}`,
			want: func(n *translate.Node) {
				n.ServiceAccount, n.Labels = "reviews", mesh.Labels{"app": "reviews"}
				n.Addresses = append(n.Addresses, netip.MustParseAddr("fd00::1"))
				n.Interception, n.DNS = translate.TProxy, true
			}},
		{name: "env capture", id: id,
			metadata: `{"DNS_CAPTURE": true, "UNPRIVILEGED_POD": "true", "WEIR": {"VIRTUAL_NET": "127.7", "INBOUND": [{"bind": "127.7.0.1:9080", "port": 9080, "app": "127.0.0.1:41234"}],
				"OUTBOUND": [{"service": "a.b:80", "bind": "127.7.1.0:10080"}]}}`,
			want: func(n *translate.Node) {
				n.Outbound = map[string]netip.AddrPort{"a.b:80": addrPort("127.7.1.0:10080")}
				n.DNS, n.Unprivileged, n.VirtualNet, n.Interception = true, true, 7, translate.NoInterception
				n.Inbound = []translate.Inbound{{Bind: addrPort("127.7.0.1:9080"), Port: 9080, App: addrPort("127.0.0.1:41234")}}
			}},
		{name: "the certificate says who it is", id: id, metadata: "{}", peer: translate.Peer{Namespace: "default", ServiceAccount: "x"}, want: func(n *translate.Node) { n.ServiceAccount = "x" }},
		{name: "a foreign namespace", id: id, metadata: "{}", peer: translate.Peer{Namespace: "other"}, err: `node.id: namespace "default", but the certificate is for namespace "other"`},
		{name: "a proxy of ours that says no word", id: id, agent: "weir-proxy", metadata: `{"WEIR": {"VHDS": true}}`, want: func(n *translate.Node) { n.VHDS, n.AsksConnections = true, false }},
		{name: "a proxy of ours that asks about connections", id: id, agent: "weir-proxy", metadata: `{"WEIR": {"NETWORK_EXT_AUTHZ": true}}`, want: func(*translate.Node) {}},
		{name: "a foreign account", id: id, metadata: `{"SERVICE_ACCOUNT": "admin"}`, peer: translate.Peer{ServiceAccount: "x"}, err: `node.metadata.SERVICE_ACCOUNT: "admin", but the certificate is for "x"`},
		{name: "two namespaces", id: id, metadata: `{"NAMESPACE": "other"}`, err: `node.metadata.NAMESPACE: "other" contradicts namespace "default" of node.id`},
		{name: "no id", id: "", metadata: "{}", err: "is not of the form type~ip~name.namespace~domain"},
		{name: "a type of a later part", id: strings.Replace(id, "sidecar", "waypoint", 1), metadata: "{}", err: `node type "waypoint" is not served`},
		{name: "no namespace", id: "sidecar~10.1.0.1~reviews~d", metadata: "{}", err: "is not of the form name.namespace"},
		{name: "no address", id: "sidecar~x~a.b~d", metadata: "{}", err: `"x" is not an IP address`},
		{name: "interception", id: id, metadata: `{"INTERCEPTION_MODE": "BPF"}`, err: "is none of REDIRECT, TPROXY, NONE"},
		{name: "what stands in front of a gateway", id: gateway,
			metadata: `{"PROXY_CONFIG": {"gatewayTopology": {"proxyProtocol": {}, "numTrustedProxies": 2, "forwardClientCertDetails": "FORWARD_ONLY"}}}`,
			want: func(n *translate.Node) {
				n.Type, n.ProxyProtocol, n.Topology = translate.Router, true, &mesh.Topology{TrustedProxies: 2, ClientCert: "FORWARD_ONLY"}
			}},
		{name: "a gateway with nothing in front, whatever the mesh has", id: gateway, metadata: `{"PROXY_CONFIG": {"gatewayTopology": {"forwardClientCertDetails": "UNDEFINED"}}}`,
			want: func(n *translate.Node) { n.Type, n.Topology = translate.Router, &mesh.Topology{} }},
		{name: "a sidecar has nothing in front", id: id, metadata: `{"PROXY_CONFIG": {"gatewayTopology": {"proxyProtocol": {}, "numTrustedProxies": 2}}}`, want: func(*translate.Node) {}},
		{name: "hops that are no number", id: gateway, metadata: `{"PROXY_CONFIG": {"gatewayTopology": {"numTrustedProxies": "x"}}}`, err: "PROXY_CONFIG.gatewayTopology.numTrustedProxies: x is not a number from 0 to 100"},
		{name: "hops in parts", id: gateway, metadata: `{"PROXY_CONFIG": {"gatewayTopology": {"numTrustedProxies": 1.5}}}`, err: "1.5 is not a number from 0 to 100"},
		{name: "hops without end", id: gateway, metadata: `{"PROXY_CONFIG": {"gatewayTopology": {"numTrustedProxies": 101}}}`, err: "101 is not a number from 0 to 100"},
		{name: "certificates in a way that is none", id: gateway, metadata: `{"PROXY_CONFIG": {"gatewayTopology": {"forwardClientCertDetails": "PASS_ON"}}}`, err: "PROXY_CONFIG.gatewayTopology.forwardClientCertDetails: PASS_ON is none of SANITIZE,"},
		{name: "a foreign net", id: id, metadata: `{"WEIR": {"VIRTUAL_NET": "10.7"}}`, err: "is not of the form 127.W"},
		{name: "net 0 is the machine's own", id: id, metadata: `{"WEIR": {"VIRTUAL_NET": "127.0"}}`, err: "is not of the form 127.W"},
		{name: "a port that is none", id: id, metadata: `{"WEIR": {"INBOUND": [{"bind": "127.7.0.1:1", "port": 70000, "app": "127.0.0.1:2"}]}}`, err: "WEIR.INBOUND[0].port: 70000 is not a port number"},
		{name: "a listener for others", id: id, metadata: `{"WEIR": {"OUTBOUND": [{"service": "a:80", "bind": "0.0.0.0:80"}]}}`, err: "WEIR.OUTBOUND[0].bind: \"0.0.0.0:80\" is not address:port of this machine"},
		{name: "a service without port", id: id, metadata: `{"WEIR": {"OUTBOUND": [{"service": "a", "bind": "127.0.0.1:80"}]}}`, err: "WEIR.OUTBOUND[0].service: \"a\" is not host:port"},
		{name: "one bind twice", id: id, metadata: `{"WEIR": {"INBOUND": [{"bind": "127.7.0.1:1", "port": 1, "app": "127.0.0.1:2"}, {"bind": "127.7.0.1:1", "port": 2, "app": "127.0.0.1:2"}]}}`, err: "WEIR.INBOUND[1].bind: 127.7.0.1:1 is there twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := coreNode(t, c.id, c.metadata)
			n.UserAgentName = c.agent
			got, err := translate.ParseNode(n, c.peer)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one that says %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := *plain
			want.Addresses = want.Addresses[:1:1]
			c.want(&want)
			if d := cmp.Diff(&want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// Whatever a peer says of itself, it is refused or served.
func FuzzParseNode(f *testing.F) {
	for _, m := range []string{"{}", `{"WEIR": {"VIRTUAL_NET": "127.7", "INBOUND": [{"bind": "127.7.0.1:9080", "port": 9080, "app": "127.0.0.1:41234"}]}}`,
		`{"LABELS": {"app": "x"}, "INSTANCE_IPS": "::1,10.0.0.1", "DNS_CAPTURE": true}`, `{"WEIR": []}`} {
		b, err := proto.Marshal(coreNode(f, "sidecar~10.1.0.1~reviews-v1-0.default~d", m))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	snap := bookinfo().publish()
	f.Fuzz(func(t *testing.T, b []byte) {
		n := &corev3.Node{}
		if proto.Unmarshal(b, n) != nil {
			return
		}
		node, err := translate.ParseNode(n, translate.Peer{})
		if err != nil {
			return
		}
		accepted(t, translate.New(), snap, node)
	})
}
