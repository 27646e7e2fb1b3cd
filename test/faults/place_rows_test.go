package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// places are workloads that some rows need for themselves.
func places(memory *atomic.Int64) []mesh.Spec {
	return []mesh.Spec{
		{Name: "captive-0", Captured: true},
		{Name: "mortal-0", Proxy: func(o *proxy.Options) {
			o.DrainTime, o.Memory = 10*time.Millisecond, func() (used, limit int64) { return 80 + memory.Load(), 100 }
		}},
		{Name: "closing-0", Proxy: func(o *proxy.Options) { o.ListenerDrain = 10 * time.Millisecond }},
		{Name: "broken-0"}, {Name: "shut-0"}, {Name: "leaving-0"}, {Name: "leaving2-0"}, {Name: "plain-0"}, {Name: "misled-0"}, {Name: "expiring-0", Proxy: func(o *proxy.Options) { o.Control.Signer = briefly(o.Control.Signer) }},
	}
}

// placesConfig is theirs. Only the client sees everything: who calls nobody is spared a hundred destinations.
const placesConfig = `apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec: {egress: [{hosts: ["./aborted-on-purpose.default.svc.cluster.local", "./delayed-further-on-deeper.default.svc.cluster.local", "./custom-provider-gone.default.svc.cluster.local", "./custom-provider-says-no.default.svc.cluster.local", "./custom-provider-says-nothing.default.svc.cluster.local"]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client}
spec: {workloadSelector: {labels: {app: client}}, egress: [{hosts: ["./*"]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: captive}
spec: {workloadSelector: {labels: {app: captive}}, outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{hosts: ["./*"]}]}
`

// What is wrong with a place: its pods, its proxy, what it may call.
func placeRows() []fault {
	leaving, closing, denied, opened, waiting, further := newHolder(), newHolder(), newHolder(), newHolder(), newHolder(), &onward{}
	mirrored := "route: [{destination: {host: NAME}}], mirror: {host: no-pods}, mirrorPercentage: {value: 100}"
	return []fault{
		// Four that one pod goes through, in this order.
		{name: "memory used up", how: "the server's proxy is at 99 % of its memory limit", on: "mortal", app: answers(ok), config: virtualService("retries: {attempts: 0}, ROUTE"),
			ask: func(w *world, f *fault) string {
				id, n := "", 0
				answered := func(status int) func() error {
					return func() error {
						n++
						id = fmt.Sprintf("fault-%s-%d", f.slug(), n)
						if r := w.client.Get("http://"+f.slug()+":8080/", "x-request-id: "+id); r.Status != status {
							return fmt.Errorf("%v", r)
						}
						return nil
					}
				}
				w.Eventually("there is a connection", answered(200))
				w.memory.Store(19)
				w.Eventually("requests are refused", answered(503))
				w.memory.Store(0)
				refused := id
				w.Eventually("they are no more", answered(200))
				return refused
			},
			cause: "memory_exhausted", at: "default/mortal", client: "-", server: "memory_exhausted"},
		{name: "ended while it served", how: "the pod's proxy ends, and does not wait for a request that takes long", on: "mortal", app: leaving.serve, config: virtualService("retries: {attempts: 0}, ROUTE"),
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				c := w.send(f, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nx-request-id: "+id+"\r\n\r\n")
				defer c.Close()
				<-leaving.came
				w.homes["mortal"].StopProxy()
				_, _ = c.Read(make([]byte, 1))
				return id
			},
			cause: "proxy_gone", at: "default/client", client: "upstream_terminated", detail: "default/mortal-0"},
		{name: "proxy gone", how: "the pod's proxy has ended", on: "mortal", app: answers(ok), config: virtualService("retries: {attempts: 0}, ROUTE"),
			ask: func(w *world, f *fault) string {
				w.homes["mortal"].StopProxy()
				return get(w, f)
			},
			cause: "proxy_gone", at: "default/client", client: "upstream_connect_refused", detail: "default/mortal-0"},
		{name: "pod not ready", how: "the only pod is not ready", on: "mortal", app: answers(ok),
			ask: func(w *world, f *fault) string {
				w.homes["mortal"].SetHealth("unhealthy")
				return get(w, f)
			},
			cause: "no_endpoints", at: "default/client", client: "no_endpoints", detail: "default/mortal-0 is not ready"},
		{name: "denied from now on", how: "an AuthorizationPolicy DENY comes while a request is under way", on: "closing", app: denied.serve,
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				c := w.send(f, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nx-request-id: "+id+"\r\n\r\n")
				defer c.Close()
				<-denied.came
				w.add(f, object("security.istio.io/v1", "AuthorizationPolicy", "NAME", "{selector: {matchLabels: {app: closing}}, action: DENY, rules: [!wrong {to: [{operation: {ports: ['PORT']}}]}]}"))
				_, _ = c.Read(make([]byte, 1))
				return id
			},
			cause: "access_denied", at: "default/closing", object: "AuthorizationPolicy rules[0]", client: "-", server: "access_denied"},
		{name: "TCP denied from now on", how: "an AuthorizationPolicy DENY comes while a TCP connection is open", on: "closing", app: opened.serve, protocol: "tcp",
			ask: func(w *world, f *fault) string {
				c, from, err := w.dialAt(w.at(f))
				must(w.T, err)
				defer c.Close()
				_, err = io.WriteString(c, "hello")
				must(w.T, err)
				<-opened.came
				w.add(f, object("security.istio.io/v1", "AuthorizationPolicy", "NAME", "{selector: {matchLabels: {app: closing}}, action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}, !wrong {to: [{operation: {ports: ['PORT']}}]}]}"))
				_, _ = c.Read(make([]byte, 1))
				return from
			},
			cause: "access_denied", at: "default/closing", object: "AuthorizationPolicy rules[1]", server: "access_denied"},
		{name: "plaintext refused from now on", how: "a PeerAuthentication STRICT comes while a request in plaintext is under way", on: "closing", app: closing.serve,
			ask: func(w *world, f *fault) string {
				c, from, err := w.dialAt(w.at(f))
				must(w.T, err)
				defer c.Close()
				_, err = io.WriteString(c, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")
				must(w.T, err)
				<-closing.came
				w.add(f, object("security.istio.io/v1", "PeerAuthentication", "NAME", "{selector: {matchLabels: {app: closing}}, mtls: {!wrong mode: STRICT}}"))
				_, _ = c.Read(make([]byte, 1))
				return from
			},
			cause: "chain_removed", at: "default/closing", object: "PeerAuthentication mtls.mode", server: "chain_removed"},
		{name: "broken policy", how: "a DENY with a field that does not exist denies everything", on: "broken", app: answers(ok),
			config: object("security.istio.io/v1", "AuthorizationPolicy", "NAME", "{selector: {matchLabels: {app: broken}}, action: DENY, rules: [{to: [{operation: {!wrong path: [/x]}}]}]}"),
			cause:  "policy_broken", at: "default/broken", object: "AuthorizationPolicy rules[0].to[0].operation.path", client: "-", server: "access_denied"},
		{name: "not in the registry", how: "outboundTrafficPolicy REGISTRY_ONLY, and an address that no service has",
			ask:   confined("10.96.7.7:8080", "else.example"),
			cause: "not_in_registry", at: "default/captive", object: "Sidecar captive outboundTrafficPolicy", client: "direct_response"},
		{name: "TCP not in the registry", how: "the same of TCP",
			ask: func(w *world, f *fault) string {
				if c, err := w.homes["captive"].DialAt(context.Background(), netip.MustParseAddrPort("10.96.7.7:9000")); err == nil {
					_, _ = c.Read(make([]byte, 1))
					_ = c.Close()
				}
				return lastOf + "captive"
			},
			cause: "not_in_registry", at: "default/captive", object: "Sidecar captive outboundTrafficPolicy", client: "no_endpoints"},
		{name: "nobody at defaultEndpoint", how: "a Sidecar whose ingress leads to a port of the pod at which nobody listens", app: answers(ok), on: "misled",
			config: object("networking.istio.io/v1", "Sidecar", "NAME", "{workloadSelector: {labels: {app: misled}}, ingress: [{port: {number: PORT, protocol: HTTP, name: http}, !wrong defaultEndpoint: '127.0.0.1:1'}], egress: [{hosts: ['./*']}]}"),
			cause:  "upstream_connect_refused", at: "default/misled", object: "Sidecar ingress[0].defaultEndpoint", client: "-", server: "upstream_connect_refused"},
		{name: "mirror without pods", how: "a mirror that nobody serves; the request is answered", app: answers(ok), config: virtualService(mirrored),
			ask: func(w *world, f *fault) string {
				for range sample {
					get(w, f)
				}
				return "fault-" + f.slug()
			},
			cause: "ok", at: "default/client", client: "-", server: passed},
		{name: "further on", how: "the application answers 502, because what it calls is aborted", app: further.serve,
			ask: func(w *world, f *fault) string {
				further.call.Store(func(id string) { w.homes["server"].Get("http://aborted-on-purpose:8080/", "x-request-id: "+id) })
				return get(w, f)
			},
			cause: "fault_abort", at: "default/server", object: "VirtualService aborted-on-purpose http[0].fault.abort", client: "-", server: "-"},
		{name: "delayed further on", how: "fault.delay of a minute where the application calls, and a timeout of the VirtualService where it is called", app: waiting.serve,
			config: documents(virtualService("timeout: 2s, retries: {attempts: 0}, ROUTE"),
				"apiVersion: v1\nkind: Service\nmetadata: {name: NAME-deeper}\nspec: {selector: {app: far}, ports: [{name: http, port: 8080}]}\n",
				object("networking.istio.io/v1", "VirtualService", "NAME-deeper", "{hosts: [NAME-deeper], http: [{fault: {!wrong delay: {fixedDelay: 60s, percentage: {value: 100}}}, route: [{destination: {host: NAME-deeper}}]}]}")),
			ask: func(w *world, f *fault) string {
				server := w.homes["server"]
				to, err := server.Virtual(f.slug() + "-deeper")
				must(w.T, err)
				id, n := "", 0
				w.Eventually("the application calls before its caller's time is over", func() error { // this machine may stand still for longer
					n++
					id = fmt.Sprintf("fault-%s-%d", f.slug(), n)
					request := "GET / HTTP/1.1\r\nhost: %s:8080\r\nx-request-id: " + id + "\r\n\r\n"
					deeper, _, err := w.dialAt(netip.AddrPortFrom(to, 8080))
					must(w.T, err)
					c := w.send(f, fmt.Sprintf(request, f.slug()))
					defer c.Close()
					<-waiting.came
					_, err = fmt.Fprintf(deeper, request, f.slug()+"-deeper")
					must(w.T, err)
					_, _ = c.Read(make([]byte, 1))
					_ = deeper.Close() // its caller has given up
					told := &observev1.Records{}
					w.Eventually("the delay is over", func() error {
						must(w.T, protojson.Unmarshal(server.Admin(http.MethodGet, "/why?id="+id).Body, told))
						if len(told.GetRecords()) < 2 {
							return fmt.Errorf("%v", told)
						}
						return nil
					})
					in, out := told.GetRecords()[0], told.GetRecords()[1]
					if in.GetEdge().GetSide() != observev1.Side_SIDE_DESTINATION {
						in, out = out, in
					}
					if out.GetTimeUnixNano() > in.GetTimeUnixNano()+in.GetEndedNano() {
						return fmt.Errorf("%v", told)
					}
					return nil
				})
				return id
			},
			cause: "fault_delay", at: "default/server", object: "VirtualService delayed-further-on-deeper http[0].fault.delay", client: "upstream_timeout", server: "downstream_disconnected",
			detail: "upstream_timeout", stopped: "deadline VirtualService http[0].timeout"},
		{name: "answer head too large", how: "the application answers with a header of 200 KB", app: answers("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-large: " + strings.Repeat("x", 200<<10) + "\r\n\r\n"),
			cause: "upstream_protocol_error", at: "default/server", client: "-", server: "upstream_protocol_error", detail: "large"},
		{name: "closed while idle", how: "an endpoint that closes its connection as the next request comes (keep-alive race)", far: second(reset),
			config: documents(virtualService("retries: {attempts: 0}, ROUTE"), destinationRule("subsets: [{name: all, labels: {app: far}}]")), // which says nothing about it
			ask: func(w *world, f *fault) string {
				id, n := "", 0
				w.Eventually("the connection that served one request ends as soon as another one comes", func() error { // whatever its proxy calls that: this machine may be busy
					n++
					id = fmt.Sprintf("fault-%s-%d", f.slug(), n)
					w.client.Get("http://" + f.slug() + ":8080/")
					w.client.Do("POST", "http://"+f.slug()+":8080/", nil, "x-request-id: "+id)
					told := &observev1.Records{}
					must(w.T, protojson.Unmarshal(w.client.Admin(http.MethodGet, "/why?id="+id).Body, told))
					for _, r := range told.GetRecords() {
						if raced(r.GetTries()) {
							return nil
						}
					}
					return fmt.Errorf("%v", told)
				})
				return id
			},
			cause: "upstream_idle_closed", at: "default/client", client: "upstream_idle_closed", detail: "the default holds"},
		{name: "closed after it took the request", how: "an endpoint that closes its connection when it has had the next request for a while", far: second(func(c net.Conn) {
			_, _ = io.CopyN(io.Discard, c, 10)
			<-time.After(50 * time.Millisecond)
			reset(c)
		}),
			config: virtualService("retries: {attempts: 0}, ROUTE"),
			ask: func(w *world, f *fault) string {
				w.client.Get("http://" + f.slug() + ":8080/")
				return w.call(f, "POST", "/")
			},
			cause: "upstream_connection_reset", at: "default/client", client: "upstream_connection_reset", unknown: "default/far"},
		{name: "TCP refused", how: "a TCP endpoint without a proxy at whose port nobody listens", far: nobody, protocol: "tcp", ask: raw("hello"),
			cause: "upstream_connect_refused", at: "default/client", client: "upstream_connect_refused"},
		{name: "TCP refused by the application", how: "a pod whose TCP application is not there", app: nobody, protocol: "tcp", ask: raw("hello"),
			cause: "upstream_connect_refused", at: "default/server", client: "upstream_connection_reset", server: "upstream_connect_refused"},
		{name: "TCP without pods", how: "a TCP service whose selector matches no pod", protocol: "tcp", ask: raw("hello"),
			cause: "no_endpoints", at: "default/client", object: "Service selector", client: "no_endpoints"},
		{name: "TCP reset", how: "a TCP application that resets the connection", app: after("", reset), protocol: "tcp", ask: raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
			cause: "upstream_connection_reset", at: "default/server", client: "upstream_connection_reset", server: "upstream_connection_reset"},
		{name: "TCP idle", how: "tcp.idleTimeout of the DestinationRule, and silence", app: silence, protocol: "tcp", ask: raw("hello"),
			config: destinationRule("trafficPolicy: {connectionPool: {tcp: {!wrong idleTimeout: 0.05s}}}"),
			cause:  "stream_idle_timeout", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.tcp.idleTimeout", client: "stream_idle_timeout"},
		{name: "TCP too long", how: "tcp.maxConnectionDuration of the DestinationRule", app: silence, protocol: "tcp", ask: raw("hello"),
			config: destinationRule("trafficPolicy: {connectionPool: {tcp: {!wrong maxConnectionDuration: 0.05s}}}"),
			cause:  "connection_duration_reached", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.tcp.maxConnectionDuration", client: "connection_duration_reached"},
		{name: "older rule wins", how: "two VirtualServices for the host; that of the older name aborts", app: answers(ok),
			config: documents(virtualService("fault: {!wrong abort: {httpStatus: 503, percentage: {value: 100}}}, ROUTE"),
				object("networking.istio.io/v1", "VirtualService", "z-NAME", "{hosts: [NAME], http: [{ROUTE}]}")),
			cause: "fault_abort", at: "default/client", object: "VirtualService http[0].fault.abort", client: "fault_abort"},
		{name: "gRPC refused", how: "a gRPC service whose application is not there", app: nobody, protocol: "grpc",
			ask: func(w *world, f *fault) string {
				return w.call(f, "POST", "/a.B/C", "content-type: application/grpc", "te: trailers")
			},
			cause: "upstream_connect_refused", at: "default/server", client: "-", server: "upstream_connect_refused"},
		{name: "gRPC says unavailable", how: "a gRPC application that answers UNAVAILABLE", app: answers("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n"),
			ask: func(w *world, f *fault) string {
				return w.call(f, "POST", "/a.B/C", "content-type: application/grpc", "te: trailers")
			},
			cause: "application_answered", at: "default/server", client: "-", server: "-"},
		{name: "plaintext to STRICT", how: "a ServiceEntry for the address of a workload with PeerAuthentication STRICT, and tls.mode DISABLE", on: "strict", app: answers(ok),
			ask: func(w *world, f *fault) string {
				w.add(f, documents(serviceEntry("resolution: STATIC, endpoints: [{address: "+w.at(f).Addr().String()+", ports: {http: PORT}}]"),
					object("networking.istio.io/v1", "DestinationRule", "NAME", "{host: NAME.example, trafficPolicy: {tls: {!wrong mode: DISABLE}}}")))
				return getExample(w, f)
			},
			cause: "filter_chain_not_found", at: "default/strict", object: "DestinationRule trafficPolicy.tls.mode", against: "PeerAuthentication strict mtls.mode", client: "upstream_connection_reset", server: "filter_chain_not_found"},
	}
}

// raced reports whether an attempt on a connection that had served others was over at once.
func raced(tries []*observev1.Attempt) bool {
	return len(tries) == 1 && tries[0].GetRequests() > 0 && tries[0].GetEndedNano()-tries[0].GetBeganNano() < uint64(2*time.Millisecond)
}

// second answers one request, and ends the connection when another one comes.
func second(end func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			return
		}
		if _, err := io.WriteString(c, ok); err != nil {
			return
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			end(c)
		}
	}
}

// onward is a program that calls somebody while it serves, and fails if that does.
type onward struct{ call atomic.Value } // func(id string)

func (o *onward) serve(c net.Conn) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	o.call.Load().(func(string))(r.Header.Get("x-request-id"))
	_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
	silence(c)
}

// confined asks from a workload that may not call everybody, for a host at an address.
func confined(address, host string) func(w *world, f *fault) string {
	return func(w *world, f *fault) string {
		id := "fault-" + f.slug()
		c, err := w.homes["captive"].DialAt(context.Background(), netip.MustParseAddrPort(address))
		must(w.T, err)
		defer c.Close()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nhost: "+host+"\r\nx-request-id: "+id+"\r\n\r\n")
		_, _ = c.Read(make([]byte, 1))
		return id
	}
}
