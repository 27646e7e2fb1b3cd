package translate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/simulate"
)

// Whatever the mTLS mode of clients (DestinationRule) and of servers (PeerAuthentication)
// and wherever it is written, the two never disagree about a connection (pains.md 1.4).
// A client told to speak mTLS to an HTTP port told not to take it (a finding) does so, like
// one that has not heard of DISABLE yet; it must not fall back to plaintext.
func TestClientsAndServersAgree(t *testing.T) {
	const host = "ratings.default.svc.cluster.local"
	clientModes := []string{"", "DISABLE", "ISTIO_MUTUAL"}
	serverModes := map[string]mesh.MTLSMode{"unset": mesh.MTLSUnset, "DISABLE": mesh.MTLSDisable, "PERMISSIVE": mesh.MTLSPermissive, "STRICT": mesh.MTLSStrict}
	policy := func(mode string) mesh.TrafficPolicy {
		if mode == "" { // a rule that speaks of something else
			return mesh.TrafficPolicy{LoadBalancer: &mesh.LoadBalancer{Simple: mesh.RoundRobin}}
		}
		return mesh.TrafficPolicy{TLS: &mesh.ClientTLS{Mode: mode}}
	}
	rules := map[string]func(w *world, mode string){
		"none": func(*world, string) {},
		"service": func(w *world, mode string) {
			w.destinationRule("default", "r", mesh.DestinationRule{Host: host, Policy: policy(mode)})
		},
		"port": func(w *world, mode string) {
			w.destinationRule("default", "r", mesh.DestinationRule{Host: host, PortPolicies: map[uint16]mesh.TrafficPolicy{9080: policy(mode)}})
		},
		"wildcard": func(w *world, mode string) {
			w.destinationRule("default", "r", mesh.DestinationRule{Host: "*.default.svc.cluster.local", Policy: policy(mode)})
		},
		"client's namespace": func(w *world, mode string) {
			w.destinationRule("other", "r", mesh.DestinationRule{Host: host, Policy: policy(mode)})
		},
		"root namespace": func(w *world, mode string) {
			w.destinationRule("istio-system", "r", mesh.DestinationRule{Host: host, Policy: policy(mode)})
		},
	}
	servers := map[string]func(w *world, m mesh.MTLSMode){
		"workload": func(w *world, m mesh.MTLSMode) {
			w.peerAuth("default", "p", mesh.PeerAuthentication{Selector: mesh.Labels{"app": "ratings"}, Mode: m})
		},
		"workload port": func(w *world, m mesh.MTLSMode) {
			w.peerAuth("default", "p", mesh.PeerAuthentication{Selector: mesh.Labels{"app": "ratings"}, Ports: map[uint16]mesh.MTLSMode{9080: m}})
		},
		"namespace": func(w *world, m mesh.MTLSMode) { w.peerAuth("default", "p", mesh.PeerAuthentication{Mode: m}) },
		"mesh":      func(w *world, m mesh.MTLSMode) { w.peerAuth("istio-system", "p", mesh.PeerAuthentication{Mode: m}) },
	}
	for where, rule := range rules {
		for _, clientMode := range clientModes {
			for level, server := range servers {
				for name, serverMode := range serverModes {
					w := bookinfo()
					rule(w, clientMode)
					server(w, serverMode)
					got := simulated(t, w.publish()).send(sidecar("other", "client", nil), call{to: "ratings.default:9080"})
					if !strings.HasSuffix(got, " ok") {
						t.Errorf("client %q (%s), server %s (%s): %s", clientMode, where, name, level, got)
					}
					if plain := !strings.Contains(got, "mTLS"); plain && (serverMode == mesh.MTLSStrict || clientMode == "ISTIO_MUTUAL" && where != "none") {
						t.Errorf("client %q (%s), server %s (%s): plaintext: %s", clientMode, where, name, level, got)
					}
				}
			}
		}
	}
}

// A server without HTTP that is told to take no mesh mTLS looks for none, because the application may speak first. A client
// told to speak it gets no connection, and by whom; where some of the servers take it, they are called.
func TestMeshTLSThatNobodyTakesIsRefusedAtTheClient(t *testing.T) {
	const host = "db.default.svc.cluster.local"
	mutual := mesh.TrafficPolicy{TLS: &mesh.ClientTLS{Mode: "ISTIO_MUTUAL"}}
	const closed = "tcp 3306||db.default 503 UH refused: DestinationRule default/r against PeerAuthentication default/p"
	rules := map[string]struct {
		rule mesh.DestinationRule
		want string
	}{
		"service":  {mesh.DestinationRule{Host: host, Policy: mutual}, closed},
		"port":     {mesh.DestinationRule{Host: host, PortPolicies: map[uint16]mesh.TrafficPolicy{3306: mutual}}, closed},
		"wildcard": {mesh.DestinationRule{Host: "*.default.svc.cluster.local", Policy: mutual}, closed},
		"subset": {mesh.DestinationRule{Host: host, Subsets: []mesh.Subset{{Name: "v1", Labels: mesh.Labels{"version": "v1"}, Policy: &mutual}}},
			"tcp 3306|v1|db.default 503 UH refused: DestinationRule default/r against PeerAuthentication default/p"},
	}
	for name, r := range rules {
		for _, protocol := range []mesh.Protocol{mesh.TCP, mesh.MySQL, mesh.Auto, mesh.HTTPS} {
			w := newWorld()
			w.service("default", "db", mesh.Port{Number: 3306, Protocol: protocol}, 1, "v1", "v2")
			w.destinationRule("default", "r", r.rule)
			w.peerAuth("default", "p", mesh.PeerAuthentication{Mode: mesh.MTLSDisable})
			if name == "subset" {
				w.virtualService("default", "v", mesh.VirtualService{Hosts: []string{host}, TCP: []mesh.TCPRoute{{Route: []mesh.Destination{{Host: host, Subset: "v1"}}}}})
			}
			if got := simulated(t, w.publish()).send(sidecar("other", "client", nil), call{to: "db.default:3306", tcp: true}); !strings.HasSuffix(got, strings.TrimPrefix(r.want, "tcp ")) {
				t.Errorf("%s, %q: %s", name, protocol, got)
			}
		}
	}
	// One of two versions takes it.
	w := newWorld()
	w.service("default", "db", mesh.Port{Number: 3306, Protocol: mesh.TCP}, 1, "v1", "v2")
	w.destinationRule("default", "r", mesh.DestinationRule{Host: host, Policy: mutual})
	w.peerAuth("default", "p", mesh.PeerAuthentication{Selector: mesh.Labels{"version": "v1"}, Mode: mesh.MTLSDisable})
	if got := simulated(t, w.publish()).send(sidecar("other", "client", nil), call{to: "db.default:3306", tcp: true}); !strings.HasSuffix(got, "10.1.1.51:3306 mTLS ok") {
		t.Errorf("one of two versions takes it: %s", got)
	}
}

// A strict server refuses plaintext from outside the mesh, on declared, undeclared and
// unknown ports; a permissive one takes both; TLS of the application's own passes.
func TestWhatServersAccept(t *testing.T) {
	for _, c := range []struct {
		mode     mesh.MTLSMode
		protocol mesh.Protocol
		conn     simulate.Connection
		want     string
	}{
		{mesh.MTLSStrict, mesh.HTTP, simulate.Connection{Transport: "raw_buffer"}, "none"},
		{mesh.MTLSStrict, mesh.HTTP, simulate.Connection{Transport: "tls", Protocols: []string{"istio-http/1.1"}}, "mTLS HTTP"},
		{mesh.MTLSStrict, mesh.TCP, simulate.Connection{Transport: "tls", Protocols: []string{"istio-peer-exchange", "istio"}}, "mTLS TCP"},
		{mesh.MTLSStrict, mesh.Auto, simulate.Connection{Transport: "tls", Protocols: []string{"istio-http/1.1"}}, "mTLS HTTP"},
		{mesh.MTLSStrict, mesh.Auto, simulate.Connection{Transport: "tls", Protocols: []string{"istio-peer-exchange"}}, "mTLS TCP"},
		{mesh.MTLSStrict, mesh.Auto, simulate.Connection{Transport: "raw_buffer", Protocols: []string{"http/1.1"}}, "none"},
		{mesh.MTLSPermissive, mesh.HTTP, simulate.Connection{Transport: "raw_buffer"}, "HTTP"},
		{mesh.MTLSPermissive, mesh.HTTP, simulate.Connection{Transport: "tls", Protocols: []string{"h2"}}, "TCP"},
		{mesh.MTLSPermissive, mesh.HTTPS, simulate.Connection{Transport: "tls"}, "TCP"},
		{mesh.MTLSPermissive, mesh.HTTPS, simulate.Connection{Transport: "tls", Protocols: []string{"istio"}}, "mTLS TCP"},
		{mesh.MTLSPermissive, mesh.Auto, simulate.Connection{Transport: "raw_buffer", Protocols: []string{"http/1.1"}}, "HTTP"},
		{mesh.MTLSPermissive, mesh.Auto, simulate.Connection{Transport: "raw_buffer"}, "TCP"},
		{mesh.MTLSDisable, mesh.HTTP, simulate.Connection{Transport: "raw_buffer"}, "HTTP"},
		{mesh.MTLSDisable, mesh.MySQL, simulate.Connection{Transport: "raw_buffer"}, "TCP"},
		{mesh.MTLSDisable, mesh.MySQL, simulate.Connection{Transport: "tls", Protocols: []string{"istio"}}, "TCP"},
	} {
		w := newWorld()
		w.service("default", "a", mesh.Port{Number: 80, Protocol: c.protocol, Target: 8000}, 1, "v1")
		w.peerAuth("default", "p", mesh.PeerAuthentication{Mode: c.mode})
		s := simulated(t, w.publish())
		l := s.given(sidecar("default", "a-v1-0", mesh.Labels{"app": "a"})).Listeners["virtualInbound"]
		for _, port := range []uint16{8000, 9999} {
			if port == 9999 && c.protocol != mesh.Auto {
				continue // ports nobody declared are sniffed
			}
			got := "none"
			c.conn.Destination = addrPort(fmt.Sprintf("10.1.1.1:%d", port))
			if chain := simulate.Pick(l, c.conn); chain != nil {
				got = "TCP"
				if strings.HasSuffix(chain.GetFilters()[len(chain.GetFilters())-1].GetName(), "http_connection_manager") {
					got = "HTTP"
				}
				if chain.GetTransportSocket() != nil {
					got = "mTLS " + got
				}
			}
			if got != c.want {
				t.Errorf("mode %d, protocol %q, port %d, %v: taken as %s, want %s", c.mode, c.protocol, port, c.conn, got, c.want)
			}
		}
	}
}
