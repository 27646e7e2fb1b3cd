package translate_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/xdstest"
)

// chaos draws meshes whose objects collide as often as possible: few names, few ports,
// and among the values some that no proxy would accept.
type chaos struct {
	*rapid.T
	clock int64
}

func one[V any](c *chaos, label string, from ...V) V { return rapid.SampledFrom(from).Draw(c.T, label) }

func (c *chaos) n(label string, most int) int { return rapid.IntRange(0, most).Draw(c.T, label) }
func (c *chaos) maybe(label string) bool      { return rapid.Bool().Draw(c.T, label) }

func (c *chaos) namespace() string { return one(c, "namespace", "a", "b", "istio-system") }

// index is none, or beyond the addresses that workloads have themselves.
func (c *chaos) index() uint32 { return one(c, "index", uint32(0), 257, 258, 1<<16) }

func (c *chaos) host() string {
	return one(c, "host", fqdn("x", "a"), "X.a.svc.cluster.local", "x.a.svc", fqdn("y", "a"), fqdn("x", "b"), fqdn("z", "istio-system"), "api.example.com", "*.example.com", "www.example.com",
		"*.a.svc.cluster.local", "*", "10.96.0.1", "bad\xffhost", "a*b", "*.", "UPPER.example.com", "::1", "")
}

func (c *chaos) port() uint16 { return one[uint16](c, "port", 0, 80, 443, 3306, 15001, 15006) }

func (c *chaos) protocol() mesh.Protocol {
	return one(c, "protocol", mesh.Auto, mesh.HTTP, mesh.HTTP2, mesh.GRPC, mesh.TLS, mesh.HTTPS, mesh.TCP, mesh.MySQL, mesh.UDP)
}

func (c *chaos) ref(kind, ns, name string) mesh.Ref {
	c.clock++
	return mesh.Ref{Kind: kind, Namespace: ns, Name: name, Created: int64(c.n("created", 3)), File: "f.yaml", Line: 1}
}

func (c *chaos) labels(label string) mesh.Labels {
	return one(c, label, nil, mesh.Labels{}, mesh.Labels{"v": "1"}, mesh.Labels{"v": "2"}, mesh.Labels{"v": "1", "app": "x"})
}

func (c *chaos) visibility() mesh.Visibility {
	return one(c, "visible", mesh.Visibility{}, mesh.Visibility{}, mesh.Visibility{Limited: true}, mesh.Visibility{Limited: true, Namespaces: []string{"a"}})
}

func (c *chaos) service() *mesh.Service {
	ns := c.namespace()
	s := &mesh.Service{Namespace: ns, Index: c.index(), Visible: c.visibility(), Selector: c.labels("selector"),
		Resolution: one(c, "resolution", mesh.Static, mesh.Static, mesh.DNS, mesh.DNSRoundRobin, mesh.Passthrough), External: c.maybe("external")}
	if c.maybe("kubernetes") {
		s.Name = one(c, "name", "x", "y")
		s.Hostname, s.Ref = fqdn(s.Name, ns), c.ref("Service", ns, s.Name)
	} else {
		s.Hostname = c.host()
		s.Name, s.Ref = s.Hostname, c.ref("ServiceEntry", ns, s.Hostname)
	}
	if c.maybe("vip") {
		s.Addresses = []netip.Addr{one(c, "vip", netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.96.0.2"), netip.MustParseAddr("fd00::1"))}
	}
	if c.maybe("cidr") {
		s.Prefixes = []netip.Prefix{one(c, "cidr", netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("10.0.0.0/8"))}
	}
	for range c.n("ports", 3) {
		s.Ports = append(s.Ports, mesh.Port{Number: c.port(), Protocol: c.protocol(), Target: c.port(), TargetName: one(c, "target", "", "", "web")})
	}
	return s
}

func (c *chaos) workload(i int) *mesh.Workload {
	return &mesh.Workload{Name: fmt.Sprintf("w%d", i), Namespace: one(c, "namespace", "a", "b"), Owner: "w", Labels: c.labels("labels"), ServiceAccount: one(c, "account", "", "s1", "s2"),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, Ports: map[string]uint16{"web": 8080}, Proxied: c.maybe("proxied")}
}

func (c *chaos) endpoints(workloads []*mesh.Workload) *mesh.EndpointSet {
	e := &mesh.EndpointSet{Ports: map[uint16][]mesh.Endpoint{}}
	for range c.n("endpoints", 4) {
		p := c.port()
		ep := mesh.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(c.n("addr", 5))}), c.port()), Labels: c.labels("labels"),
			TLS: c.maybe("tls"), Weight: one[uint32](c, "weight", 0, 1, 7, 1<<32-1), Health: one(c, "health", mesh.Healthy, mesh.Unhealthy, mesh.Draining),
			Locality: one(c, "locality", mesh.Locality{}, mesh.Locality{Region: "r"}, mesh.Locality{Region: "r", Zone: "z"}, mesh.Locality{Region: "s"})}
		switch c.n("kind", 3) {
		case 0:
			ep.Workload = one(c, "workload", workloads...)
		case 1:
			ep.Host, ep.Port, ep.Addr = one(c, "dns", "db.example.com", "10.9.9.9", ""), p, netip.AddrPort{}
		}
		e.Ports[p] = append(e.Ports[p], ep)
	}
	return e
}

func (c *chaos) stringMatch(label string) mesh.StringMatch {
	return one(c, label, mesh.StringMatch{}, mesh.StringMatch{}, mesh.StringMatch{Kind: mesh.Exact, Value: "/x"}, mesh.StringMatch{Kind: mesh.Prefix, Value: "/"},
		mesh.StringMatch{Kind: mesh.Prefix}, mesh.StringMatch{Kind: mesh.Regex, Value: "/[a-z]+"}, mesh.StringMatch{Kind: mesh.Regex, Value: "(("}, mesh.StringMatch{Kind: mesh.Present})
}

func (c *chaos) destinations() []mesh.Destination {
	var out []mesh.Destination
	for range c.n("destinations", 3) {
		out = append(out, mesh.Destination{Host: c.host(), Subset: one(c, "subset", "", "v1", "v2"), Port: c.port(), Weight: uint32(c.n("weight", 2)), Headers: c.headers()})
	}
	return out
}

func (c *chaos) headers() mesh.HeaderOps {
	h := []mesh.Header{{Name: one(c, "header", "x-a", "host", ":path", "bad header", ""), Value: one(c, "value", "v", "50%", "%REQ(x)%", "a\nb", "")}}
	return one(c, "ops", mesh.HeaderOps{}, mesh.HeaderOps{}, mesh.HeaderOps{RequestSet: h}, mesh.HeaderOps{ResponseAdd: h, RequestRemove: []string{h[0].Name}})
}

func (c *chaos) gateways() []string {
	return one(c, "gateways", []string{mesh.Mesh}, []string{"a/g"}, []string{"a/g", "b/g", mesh.Mesh})
}

func (c *chaos) virtualService(ns, name string) *mesh.VirtualService {
	v := &mesh.VirtualService{Ref: c.ref("VirtualService", ns, name), Hosts: []string{c.host()}, Gateways: c.gateways(), Visible: c.visibility()}
	if c.maybe("more hosts") {
		v.Hosts = append(v.Hosts, c.host())
	}
	for range c.n("http", 3) {
		r := mesh.HTTPRoute{Timeout: time.Duration(c.n("timeout", 2)) * time.Second, Headers: c.headers()}
		for range c.n("matches", 2) {
			r.Matches = append(r.Matches, mesh.HTTPMatch{URI: c.stringMatch("uri"), Method: c.stringMatch("method"), Port: c.port(),
				SourceLabels: c.labels("source"), SourceNamespace: one(c, "sourceNamespace", "", "", "a"),
				Headers:  []mesh.HeaderMatch{{Name: one(c, "header", "x", "bad name"), Match: c.stringMatch("header")}},
				Gateways: one(c, "match gateways", nil, nil, []string{mesh.Mesh}, []string{"b/g"})})
		}
		switch c.n("action", 4) {
		case 0:
			r.Action.Redirect = &mesh.Redirect{URI: one(c, "location", "", "/r", "/r\r\na: b"), Authority: one(c, "authority", "", "h", "h h"), Scheme: one(c, "scheme", "", "https", "h\n"), Code: uint32(one(c, "code", 0, 302, 999)), Port: uint32(c.n("port", 70000))}
		case 1:
			r.Action.Direct = &mesh.DirectResponse{Status: uint32(one(c, "status", 0, 200, 99999))}
		default:
			r.Action.Destinations = c.destinations()
		}
		if c.maybe("extras") {
			r.Fault = &mesh.Fault{Delay: time.Duration(c.n("delay", 1)), DelayPercent: 200, AbortStatus: uint32(one(c, "abort", 0, 503, 5)), AbortGRPC: "NOPE", AbortPercent: -1}
			r.Retries = &mesh.RetryPolicy{Attempts: 1, RetryOn: one(c, "retryOn", "", "5xx,503", "nonsense"), Backoff: time.Duration(c.n("backoff", 1))}
			r.Rewrite = &mesh.Rewrite{URI: one(c, "uri", "", "/w", "/w HTTP/1.1"), Authority: one(c, "authority", "", "h", "h\na: b")}
			r.CORS = &mesh.CORS{AllowOrigins: []mesh.StringMatch{c.stringMatch("origin")}}
		}
		v.HTTP = append(v.HTTP, r)
	}
	l4 := func() []mesh.L4Match {
		var out []mesh.L4Match
		for range c.n("l4", 2) {
			out = append(out, mesh.L4Match{SNIHosts: one(c, "sni", nil, []string{"api.example.com"}, []string{"*", "x"}, []string{"api.example.com", "www.example.com"}), Port: c.port(),
				DestinationSubnets: one(c, "subnets", nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), {}}), SourceLabels: c.labels("source")})
		}
		return out
	}
	for range c.n("tls", 2) {
		v.TLS = append(v.TLS, mesh.TLSRoute{Matches: l4(), Route: c.destinations()})
	}
	for range c.n("tcp", 2) {
		v.TCP = append(v.TCP, mesh.TCPRoute{Matches: l4(), Route: c.destinations()})
	}
	return v
}

func (c *chaos) policy() mesh.TrafficPolicy {
	p := mesh.TrafficPolicy{}
	if c.maybe("tls") {
		p.TLS = &mesh.ClientTLS{Mode: one(c, "mode", "DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL", "WAT", mesh.TLSRefused), CredentialName: one(c, "credential", "", "c")}
	}
	if c.maybe("pool") {
		p.Pool = &mesh.ConnectionPool{ConnectTimeout: time.Duration(c.n("connect", 1)), MaxConnections: 1, H2Upgrade: "UPGRADE", HTTPIdleTimeout: time.Duration(c.n("idle", 1)), Keepalive: true}
	}
	if c.maybe("lb") {
		p.LoadBalancer = &mesh.LoadBalancer{Simple: one(c, "simple", mesh.RoundRobin, mesh.OriginalDst, mesh.Balancing("")), Locality: c.localities()}
	}
	if c.maybe("outlier") {
		five := uint32(5)
		p.Outlier = &mesh.OutlierDetection{Consecutive5xx: &five, Interval: time.Duration(c.n("interval", 1)), MaxEjectionPercent: 200}
	}
	return p
}

func (c *chaos) localities() *mesh.LocalityPolicy {
	return one(c, "localities", nil, nil, &mesh.LocalityPolicy{}, &mesh.LocalityPolicy{Off: true}, &mesh.LocalityPolicy{Failover: []mesh.RegionFailover{{From: "r", To: "s"}}},
		&mesh.LocalityPolicy{Priority: []mesh.LabelPreference{{Label: "v"}, {Label: "app", Value: "x", Fixed: true}}, Failover: []mesh.RegionFailover{{From: "s", To: "r"}}},
		&mesh.LocalityPolicy{Distribute: []mesh.LocalityShares{{From: "r/*", To: []mesh.LocalityShare{{To: "r", Percent: 70}, {To: "s", Percent: 30}}}}},
		&mesh.LocalityPolicy{ZonesFrom: 1})
}

func (c *chaos) destinationRule(ns, name string) *mesh.DestinationRule {
	r := &mesh.DestinationRule{Ref: c.ref("DestinationRule", ns, name), Host: c.host(), Policy: c.policy(), Visible: c.visibility(), WorkloadSelector: c.labels("selector"), Refused: c.maybe("refused"),
		HealthCheck: one(c, "check", nil, &mesh.HealthCheck{Kind: mesh.CheckTCP, Interval: time.Second, Timeout: time.Second, Unhealthy: 1, Healthy: 1})}
	for i := range c.n("subsets", 2) {
		p := c.policy()
		r.Subsets = append(r.Subsets, mesh.Subset{Name: fmt.Sprintf("v%d", i+1), Labels: c.labels("subset"), Policy: &p})
	}
	if c.maybe("ports") {
		r.PortPolicies = map[uint16]mesh.TrafficPolicy{80: c.policy()}
	}
	return r
}

func (c *chaos) gateway(ns, name string) *mesh.Gateway {
	g := &mesh.Gateway{Ref: c.ref("Gateway", ns, name), Selector: c.labels("selector")}
	for range c.n("servers", 3) {
		s := mesh.Server{Port: c.port(), PortName: "p", Protocol: c.protocol(), Bind: one(c, "bind", "", "", "10.0.0.1", "unix://x")}
		for range c.n("hosts", 2) {
			s.Hosts = append(s.Hosts, mesh.GatewayHost{Namespace: one(c, "ns", "*", "a"), Host: c.host()})
		}
		if c.maybe("tls") {
			s.TLS = &mesh.ServerTLS{Mode: one(c, "mode", "", "SIMPLE", "PASSTHROUGH", "MUTUAL", "ISTIO_MUTUAL", "AUTO_PASSTHROUGH"), HTTPSRedirect: c.maybe("redirect")}
			if c.maybe("credential") {
				s.TLS.Credentials = []string{"c"}
			}
		}
		g.Servers = append(g.Servers, s)
	}
	return g
}

func (c *chaos) sidecar(ns, name string) *mesh.Sidecar {
	s := &mesh.Sidecar{Ref: c.ref("Sidecar", ns, name), Selector: one(c, "selector", nil, nil, mesh.Labels{"v": "1"}),
		Strangers: one(c, "strangers", mesh.StrangersDefault, mesh.StrangersPass, mesh.StrangersRefused)}
	for range c.n("egress", 2) {
		e := mesh.Egress{Port: one[uint16](c, "egress port", 0, 0, 80, 443), Bind: one(c, "egress bind", "", "", "", "10.96.0.1", "127.0.0.2", "unix:///run/mesh")}
		switch e.Uncaptured = e.Bind == "127.0.0.2" || e.Bind == "" && c.n("uncaptured", 3) == 0; {
		case e.Socket() != "":
			e.Port = 0
		case e.Port == 0:
			e.Bind = ""
		}
		for range c.n("imports", 3) {
			e.Hosts = append(e.Hosts, mesh.Import{Namespace: one(c, "imported", "*", ".", "a", "b"), Host: one(c, "pattern", "*", c.host()), Exclude: c.n("exclude", 3) == 0})
		}
		s.Egress = append(s.Egress, e)
	}
	for range c.n("ingress", 2) {
		s.Ingress = append(s.Ingress, mesh.Ingress{Port: c.port(), Protocol: c.protocol(), App: one(c, "app", netip.AddrPort{}, addrPort("127.0.0.1:3000"), addrPort("0.0.0.0:3000")),
			Bind: one(c, "ingress bind", netip.Addr{}, netip.Addr{}, netip.MustParseAddr("10.0.0.1")), Uncaptured: c.n("listens", 3) == 0, Socket: one(c, "app socket", "", "", "/run/app")})
	}
	return s
}

// step changes one object of the mesh.
func (c *chaos) step(s *mesh.Snapshot) *mesh.Snapshot {
	next := *s
	next.Version++
	ns, name := c.namespace(), one(c, "object", "g", "h")
	key := mesh.NewKey(ns, name)
	gone := c.n("gone", 4) == 0
	switch kind := c.n("kind of change", 8); kind {
	case 0:
		svc := c.service()
		next.Services = next.Services.Set(svc.Key(), svc)
		if gone {
			next.Services = next.Services.Delete(svc.Key())
		}
	case 1, 2:
		keys := slices.Collect(maps.Keys(maps.Collect(next.Services.All())))
		slices.Sort(keys)
		workloads := slices.Collect(next.Workloads.Values())
		if len(keys) == 0 || len(workloads) == 0 {
			break
		}
		k := one(c, "service", keys...)
		next.Endpoints = next.Endpoints.Set(k, c.endpoints(workloads))
		if gone {
			next.Endpoints = next.Endpoints.Delete(k)
		}
	case 3:
		next.VirtualServices = next.VirtualServices.Set(key, c.virtualService(ns, name))
		if gone {
			next.VirtualServices = next.VirtualServices.Delete(key)
		}
	case 4:
		next.DestinationRules = next.DestinationRules.Set(key, c.destinationRule(ns, name))
		if gone {
			next.DestinationRules = next.DestinationRules.Delete(key)
		}
	case 5:
		p := &mesh.PeerAuthentication{Ref: c.ref("PeerAuthentication", ns, name), Selector: c.labels("selector"),
			Mode: one(c, "mode", mesh.MTLSUnset, mesh.MTLSDisable, mesh.MTLSPermissive, mesh.MTLSStrict), Ports: map[uint16]mesh.MTLSMode{80: mesh.MTLSDisable}}
		if c.maybe("refused") {
			p.Refused, p.Mode, p.Ports = true, one(c, "mode", mesh.MTLSUnset, mesh.MTLSStrict), map[uint16]mesh.MTLSMode{80: mesh.MTLSStrict}
		}
		next.PeerAuths = next.PeerAuths.Set(key, p)
		if gone {
			next.PeerAuths = next.PeerAuths.Delete(key)
		}
	case 6:
		next.Gateways = next.Gateways.Set(key, c.gateway(ns, name))
		if gone {
			next.Gateways = next.Gateways.Delete(key)
		}
	case 8:
		next.Sidecars = next.Sidecars.Set(key, c.sidecar(ns, name))
		if gone {
			next.Sidecars = next.Sidecars.Delete(key)
		}
	case 7:
		if c.maybe("secret") {
			next.Secrets = next.Secrets.Set("istio-system/c", &mesh.Secret{CA: []byte("junk"), Certificate: []byte(one(c, "pem", "", "junk"))})
			break
		}
		if gone {
			next.Settings = one(c, "settings", nil, &mesh.Settings{Locality: &mesh.LocalityPolicy{Priority: []mesh.LabelPreference{{Label: "v"}}}}, &mesh.Settings{Locality: &mesh.LocalityPolicy{ZonesFrom: 2}}, &mesh.Settings{RegistryOnly: true, AccessLog: true, TrustDomainAliases: []string{"old"}}, &mesh.Settings{Paths: mesh.PathsDecoded})
			break
		}
		w := c.workload(c.n("workload", 5))
		next.Workloads = next.Workloads.Set(w.Key(), w)
	}
	return &next
}

func chaosNodes() []*translate.Node {
	w1 := &translate.Node{Type: translate.Sidecar, Namespace: "a", Name: "w1", Labels: mesh.Labels{"v": "1", "app": "x"}, Interception: translate.Redirect, DNS: true}
	w2 := &translate.Node{Type: translate.Sidecar, Namespace: "b", Name: "w2", Labels: mesh.Labels{"v": "2"}, Interception: translate.TProxy, Locality: mesh.Locality{Region: "r", Zone: "z"}}
	env := &translate.Node{Type: translate.Sidecar, Namespace: "a", Name: "w3", Labels: mesh.Labels{"v": "1"}, Interception: translate.NoInterception, VirtualNet: 9,
		Inbound: []translate.Inbound{{Bind: addrPort("127.9.0.1:80"), Port: 80, App: addrPort("127.0.0.1:4000")}, {Bind: addrPort("127.9.0.1:81"), Port: 8080, App: addrPort("127.0.0.1:4001")}}}
	gw := &translate.Node{Type: translate.Router, Namespace: "istio-system", Name: "gw", Labels: mesh.Labels{"v": "1", "app": "x"}}
	direct := &translate.Node{Type: translate.Sidecar, Namespace: "a", Name: "w1", Labels: mesh.Labels{"v": "1", "app": "x"}, Proxyless: true,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	out := []*translate.Node{w1, w2, env, gw, direct}
	for _, n := range out[:4] { // and the same with virtual hosts as resources of their own
		pieces := *n
		pieces.VHDS = true
		out = append(out, &pieces)
	}
	for _, n := range out[:2] { // and asking for what they use
		asks := *n
		asks.VHDS, asks.OnDemand = true, true
		out = append(out, &asks)
	}
	return out
}

// A mesh that changes gives at every step what a mesh that has always been so gives,
// in one piece and in pieces; and nothing leaves that a proxy would refuse.
func TestIncrementalIsFresh(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := &chaos{T: rt}
		snap := &mesh.Snapshot{}
		kept := translate.New()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			for range rapid.IntRange(1, 6).Draw(rt, "changes") {
				snap = c.step(snap)
			}
			for _, n := range chaosNodes() {
				if c.n("look", 3) == 0 {
					continue // scopes must be able to catch up later
				}
				got := kept.View(snap, n)
				want := translate.New().View(snap, n)
				diffViews(rt, n, want, got)
				accepted(rt, kept, snap, n)
				wholeOfPieces(rt, kept, snap, n)
			}
		}
	})
}

// wholeOfPieces checks that a proxy that takes virtual hosts one by one has the tables in the end that others have.
func wholeOfPieces(t rapid.TB, cache *translate.Cache, snap *mesh.Snapshot, n *translate.Node) {
	if !n.VHDS || n.OnDemand {
		return
	}
	other := *n
	other.VHDS = false
	whole, pieces := cache.View(snap, &other), cache.View(snap, n)
	loose := map[string]bool{}
	for name := range pieces.Set(resource.VirtualHostType).All() {
		loose[name] = true
	}
	for name, r := range whole.Set(resource.RouteType).All() {
		var want, got routev3.RouteConfiguration
		s := pieces.Set(resource.RouteType).At(name)
		if s == nil || r.Unmarshal(&want) != nil || s.Unmarshal(&got) != nil {
			t.Fatalf("%s: table %q: %v", n.Name, name, s)
		}
		for id := range loose {
			rest, ok := strings.CutPrefix(id, name+"/")
			if !ok {
				continue
			}
			delete(loose, id)
			h := &routev3.VirtualHost{}
			if err := pieces.Set(resource.VirtualHostType).At(id).Unmarshal(h); err != nil || h.GetName() != id || got.GetVhds() == nil {
				t.Fatalf("%s: %s: %v %v", n.Name, id, h.GetName(), err)
			}
			if h.Name = rest; !strings.HasPrefix(name, "http") { // of a port, not of a gateway
				h.Name += ":" + name
			}
			got.VirtualHosts = append(got.VirtualHosts, h)
		}
		got.Vhds = nil
		byName := func(a, b *routev3.VirtualHost) int { return strings.Compare(a.GetName(), b.GetName()) }
		slices.SortFunc(got.VirtualHosts, byName)
		slices.SortFunc(want.VirtualHosts, byName)
		if d := cmp.Diff(&want, &got, protocmp.Transform()); d != "" {
			t.Fatalf("%s: table %q (-whole +pieces):\n%s", n.Name, name, d)
		}
	}
	if len(loose) > 0 || whole.Set(resource.RouteType).Len() != pieces.Set(resource.RouteType).Len() {
		t.Fatalf("%s: virtual hosts of no table: %v", n.Name, slices.Sorted(maps.Keys(loose)))
	}
}

// anyMesh is one that much has happened to.
func anyMesh(rt *rapid.T) *mesh.Snapshot {
	c := &chaos{T: rt}
	snap := &mesh.Snapshot{}
	for range 30 {
		snap = c.step(snap)
	}
	return snap
}

// Whatever the mesh, our own proxy takes what it is sent.
func TestOurProxyTakesEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		snap := anyMesh(rt)
		cache := translate.New()
		for _, n := range chaosNodes() {
			if r := refusals(cache.View(snap, n)); r != "" && !n.Proxyless {
				rt.Fatalf("%s: %s", n.Name, r)
			}
		}
	})
}

// A gRPC client without proxy holds all calls to a host back, for 15 s, while a cluster that its routes name is missing: none is.
func TestRoutesWithoutProxyLeadSomewhere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		snap := anyMesh(rt)
		cache := translate.New()
		for _, n := range chaosNodes() {
			if !n.Proxyless {
				continue
			}
			view := cache.View(snap, n)
			for name, r := range view.Set(resource.RouteType).All() {
				var table routev3.RouteConfiguration
				if err := r.Unmarshal(&table); err != nil {
					rt.Fatal(err)
				}
				var names []string
				for _, h := range table.GetVirtualHosts() {
					for _, x := range h.GetRoutes() {
						names = append(names, x.GetRoute().GetCluster())
						for _, w := range x.GetRoute().GetWeightedClusters().GetClusters() {
							names = append(names, w.GetName())
						}
					}
				}
				for _, cluster := range names {
					if cluster != "" && view.Set(resource.ClusterType).At(cluster) == nil {
						rt.Fatalf("%s: routes %s lead to %s, which is not there", n.Name, name, cluster)
					}
				}
			}
		}
	})
}

func diffViews(t rapid.TB, n *translate.Node, want, got *resource.View) {
	for _, typ := range slices.Sorted(maps.Keys(want.Sets)) {
		for name := range got.Set(typ).Diff(want.Set(typ), resource.Equal) {
			t.Fatalf("%s/%s: %s %q differs, or what it is made of:\nfresh: %v\nincremental: %v", n.Namespace, n.Name, resource.Short(typ), name, want.Set(typ).At(name), got.Set(typ).At(name))
		}
	}
	for _, typ := range slices.Sorted(maps.Keys(want.Wild)) {
		for name := range got.Wild[typ].Diff(want.Wild[typ], resource.Equal) {
			t.Fatalf("%s/%s: %s %q comes unasked to one only:\nfresh: %v\nincremental: %v", n.Namespace, n.Name, resource.Short(typ), name, want.Wild[typ].At(name), got.Wild[typ].At(name))
		}
	}
	if len(want.Wild) != len(got.Wild) || len(want.Sets) != len(got.Sets) {
		t.Fatalf("%s/%s: types differ", n.Namespace, n.Name)
	}
}

// The order in which objects are known is no input.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := &chaos{T: rt}
		snap := &mesh.Snapshot{}
		for range 25 {
			snap = c.step(snap)
		}
		other := &mesh.Snapshot{Version: snap.Version, Settings: snap.Settings, Workloads: snap.Workloads}
		vs := rapid.Permutation(slices.Collect(snap.VirtualServices.Values())).Draw(rt, "order")
		for _, v := range vs {
			other.VirtualServices = other.VirtualServices.Set(mesh.NewKey(v.Ref.Namespace, v.Ref.Name), v)
		}
		kept := translate.New()
		part := *other
		for _, n := range chaosNodes() {
			kept.View(&part, n) // first only part of the mesh
		}
		for _, s := range rapid.Permutation(slices.Collect(snap.Services.Values())).Draw(rt, "order") {
			other.Services = other.Services.Set(s.Key(), s)
			half := *other
			kept.View(&half, chaosNodes()[0])
		}
		whole := *other
		other = &whole
		other.Endpoints, other.DestinationRules, other.Gateways, other.PeerAuths, other.Sidecars = snap.Endpoints, snap.DestinationRules, snap.Gateways, snap.PeerAuths, snap.Sidecars
		for _, n := range chaosNodes() {
			diffViews(rt, n, translate.New().View(snap, n), kept.View(other, n))
		}
	})
}

// accepted checks that every client takes a View and that nothing in it leads nowhere,
// but for what leads nowhere in the configuration: a destination that is not there, a
// secret that nobody made.
func accepted(t rapid.TB, cache *translate.Cache, snap *mesh.Snapshot, n *translate.Node) {
	t.Helper()
	for _, c := range xdstest.Check(cache.View(snap, n)) {
		leftOut := func(p translate.Problem) bool {
			return strings.Contains(p.Text, c.Wanted) && strings.Contains(p.Text, "is left out")
		}
		switch {
		case c.Missing == resource.ClusterType && (!reachable(snap, n, c.Wanted) || slices.ContainsFunc(cache.Problems(), leftOut)):
		case c.Missing == resource.SecretType && strings.HasPrefix(c.Wanted, "kubernetes://"):
		default:
			t.Fatalf("%s %s.%s: %v", n.Type, n.Name, n.Namespace, c)
		}
	}
}

// reachable reports whether a cluster name stands for something n can call.
func reachable(snap *mesh.Snapshot, n *translate.Node, cluster string) bool {
	parts := strings.Split(cluster, "|")
	if len(parts) != 4 || parts[0] != "outbound" {
		return true
	}
	if parts[3] == "" {
		return false // a service without a name is none
	}
	port, _ := strconv.ParseUint(parts[1], 10, 16)
	namesakes := 0
	for s := range snap.Services.Values() {
		if s.Hostname == parts[3] && s.Visible.VisibleTo(n.Namespace) {
			namesakes++
		}
	}
	if namesakes > 1 {
		return false // one of them counts, which may have another port
	}
	for s := range snap.Services.Values() {
		if s.Hostname != parts[3] || !s.Visible.VisibleTo(n.Namespace) || port == 0 || s.Port(uint16(port)) == nil || s.Port(uint16(port)).Protocol == mesh.UDP {
			continue
		}
		if parts[2] == "" {
			return true
		}
		// The rules of the client's namespace count, else those of the service's, else the mesh's. Who of several wins is
		// not repeated here.
		for _, ns := range []string{n.Namespace, s.Namespace, "istio-system"} {
			var rules []*mesh.DestinationRule
			for r := range snap.DestinationRules.Values() {
				if r.Ref.Namespace == ns && (r.Host == s.Hostname || strings.HasPrefix(r.Host, "*")) {
					rules = append(rules, r)
				}
			}
			if len(rules) > 0 {
				return len(rules) == 1 && rules[0].Host == s.Hostname && rules[0].Visible.VisibleTo(n.Namespace) && len(rules[0].WorkloadSelector) == 0 &&
					slices.ContainsFunc(rules[0].Subsets, func(s mesh.Subset) bool { return s.Name == parts[2] })
			}
		}
	}
	return false
}
