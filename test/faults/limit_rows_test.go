package faults

import (
	"fmt"
	"net/http"
	"strings"
)

// Limits of the caller, who may be called, and names.
func limitRows() []fault {
	again := &retried{newHolder()}
	requests, pending, connections, served := newHolder(), newHolder(), newHolder(), newHolder()
	return []fault{
		{name: "too many requests under way", how: "http2MaxRequests: 1, and one is under way", app: requests.serve,
			config: destinationRule("trafficPolicy: {connectionPool: {http: {!wrong http2MaxRequests: 1}}}"),
			ask: func(w *world, f *fault) string {
				defer w.hold(f, requests)()
				return get(w, f)
			},
			cause: "upstream_overflow", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.http.http2MaxRequests", limit: "requests 1 1", client: "upstream_overflow"},
		{name: "too many requests served", how: "inboundConnectionPool of the server's Sidecar, http2MaxRequests: 1, and one is under way", on: "closing", app: served.serve,
			config: documents(virtualService("retries: {attempts: 0}, ROUTE"),
				object("networking.istio.io/v1", "Sidecar", "NAME", "{workloadSelector: {labels: {app: closing}}, inboundConnectionPool: {http: {!wrong http2MaxRequests: 1}}}")),
			ask: func(w *world, f *fault) string {
				defer w.hold(f, served)()
				return get(w, f)
			},
			cause: "upstream_overflow", at: "default/closing", object: "Sidecar inboundConnectionPool.http.http2MaxRequests", limit: "requests 1 1", client: "-", server: "upstream_overflow"},
		{name: "too many requests wait", how: "maxConnections: 1, http1MaxPendingRequests: 1, one request has the connection and one waits for it", app: pending.serve,
			config: destinationRule("trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}, http: {!wrong http1MaxPendingRequests: 1}}}"),
			ask: func(w *world, f *fault) string {
				defer w.hold(f, pending)()
				c := w.send(f, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")
				defer c.Close()
				w.Eventually("one request waits", func() error {
					stats := string(w.client.Admin(http.MethodGet, "/stats?filter="+f.slug()).Body)
					if !strings.Contains(stats, "upstream_rq_pending_active: 1\n") {
						return fmt.Errorf("not yet: %s", stats)
					}
					return nil
				})
				return get(w, f)
			},
			cause: "pending_overflow", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.http.http1MaxPendingRequests", limit: "pending 1 1", client: "pending_overflow"},
		{name: "too many connections", how: "maxConnections: 1 of a TCP service, and there is one", app: connections.serve, protocol: "tcp",
			config: destinationRule("trafficPolicy: {connectionPool: {tcp: {!wrong maxConnections: 1}}}"),
			ask: func(w *world, f *fault) string {
				defer w.hold(f, connections)()
				return w.raw(f, "hello")
			},
			cause: "connections_overflow", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.tcp.maxConnections", limit: "connections 1 1", client: "connections_overflow"},
		{name: "all ejected", how: "outlierDetection after one answer of 503", app: answers(unavailable),
			config: destinationRule("trafficPolicy: {!wrong outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 600s, maxEjectionPercent: 100}}"),
			ask: func(w *world, f *fault) string {
				w.client.Get("http://" + f.slug() + ":8080/")
				return get(w, f)
			},
			cause: "endpoints_ejected", at: "default/client", object: "DestinationRule trafficPolicy.outlierDetection", client: "endpoints_ejected"},
		{name: "no pods in the subset", how: "a subset whose labels no pod has", app: answers(ok),
			config: documents(destinationRule("subsets: [!wrong {name: v7, labels: {version: v7}}]"), virtualService("route: [{destination: {host: NAME, subset: v7}}]")),
			cause:  "no_endpoints", at: "default/client", object: "DestinationRule subsets[0]", client: "no_endpoints"},
		{name: "no name in DNS", how: "a ServiceEntry with resolution DNS whose host does not exist",
			config: serviceEntry("resolution: DNS"), ask: getExample,
			cause: "name_not_resolved", at: "default/client", object: "ServiceEntry hosts", client: "name_not_resolved"},
		{name: "connection not accepted", how: "an endpoint that drops SYN; connectTimeout", far: unaccepting,
			config: destinationRule("trafficPolicy: {connectionPool: {tcp: {!wrong connectTimeout: 0.05s}}}"),
			cause:  "upstream_connect_timeout", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.tcp.connectTimeout", client: "upstream_connect_timeout"},
		{name: "no route matches", how: "a VirtualService of other paths only", app: answers(ok), config: virtualService("match: [{uri: {prefix: /other}}], ROUTE"),
			cause: "route_not_found", at: "default/client", object: "VirtualService http", client: "route_not_found"},
		{name: "retries used up", how: "the application answers 503 each time; attempts: 2", app: answers(unavailable),
			config: virtualService("retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}, ROUTE"),
			cause:  "application_answered", at: "default/server", stopped: "attempts VirtualService http[0].retries.attempts", client: "-", server: "-"},
		{name: "retries for something else", how: "the application answers 503; retryOn: connect-failure", app: answers(unavailable),
			config: virtualService("retries: {attempts: 2, retryOn: connect-failure}, ROUTE"),
			cause:  "application_answered", at: "default/server", stopped: "condition VirtualService http[0].retries.retryOn", client: "-", server: "-"},
		{name: "retries forbidden", how: "the application answers 503; attempts: 0", app: answers(unavailable),
			config: virtualService("retries: {attempts: 0}, ROUTE"),
			cause:  "application_answered", at: "default/server", stopped: "policy VirtualService http[0].retries.attempts", client: "-", server: "-"},
		{name: "body too large to be sent again", how: "a POST of 200 KB, the application answers 503; retryOn: 5xx", app: answers(unavailable),
			config: virtualService("retries: {attempts: 2, retryOn: 5xx}, ROUTE"),
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				w.client.Do("POST", "http://"+f.slug()+":8080/", make([]byte, 200<<10), "x-request-id: "+id)
				return id
			},
			cause: "application_answered", at: "default/server", stopped: "body", client: "-", server: "-"},
		{name: "retry budget used up", how: "the application answers 503; a retryBudget with room for one, and one is tried again already", app: again.serve,
			config: documents(virtualService("retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}, ROUTE"), destinationRule("trafficPolicy: {retryBudget: {percent: 0.1, minRetryConcurrency: 1}}")),
			ask: func(w *world, f *fault) string {
				c := w.send(f, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")
				defer c.Close()
				<-again.came
				return get(w, f)
			},
			cause: "application_answered", at: "default/server", stopped: "budget DestinationRule trafficPolicy.retryBudget", client: "-", server: "-"},
		{name: "secured by what is broken", how: "a DestinationRule whose tls.mode does not exist", app: answers(ok),
			config: destinationRule("trafficPolicy: {tls: {!wrong mode: SIMPEL}}"),
			cause:  "destination_refused", at: "default/client", object: "DestinationRule trafficPolicy.tls.mode", client: "destination_refused"},
		{name: "a broad rule before the right one", how: "a rule for all paths stands before the one that was meant", app: answers(ok),
			config: object("networking.istio.io/v1", "VirtualService", "NAME", "\n  hosts: [NAME]\n  http:\n  - fault: {!wrong abort: {httpStatus: 503, percentage: {value: 100}}}\n    ROUTE\n  - match: [{uri: {prefix: /right}}]\n    ROUTE"),
			ask:    func(w *world, f *fault) string { return w.call(f, "GET", "/right") },
			cause:  "fault_abort", at: "default/client", object: "VirtualService http[0].fault.abort", client: "fault_abort"},
		{name: "rule says 503", how: "directResponse of the VirtualService", app: answers(ok), config: virtualService("!wrong directResponse: {status: 503}"),
			cause: "direct_response", at: "default/client", object: "VirtualService http[0].directResponse", client: "direct_response"},
	}
}

// serviceEntry is one of NAME.example.
func serviceEntry(spec string) string {
	return object("networking.istio.io/v1", "ServiceEntry", "NAME", "{hosts: [NAME.example], ports: [{number: 8080, name: http, protocol: HTTP}], "+spec+"}")
}

// getExample is a GET of NAME.example by the client.
func getExample(w *world, f *fault) string { return w.getHost(f, f.slug()+".example") }

// getHost is a GET of a host by the client.
func (w *world) getHost(f *fault, host string) string {
	id := "fault-" + f.slug()
	w.client.Get("http://"+host+":8080/", "x-request-id: "+id)
	return id
}
