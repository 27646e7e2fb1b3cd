package faults

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
)

// What is wrong at the other hop than where it shows: how the caller secures, where a service leads, what a Sidecar hides.
func hopRows(testing.TB) []fault {
	http1 := wholly("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
	noRetries := virtualService("retries: {attempts: 0}, ROUTE")
	return []fault{
		{name: "plaintext on purpose to STRICT", how: "tls.mode DISABLE of a DestinationRule for a service whose workload has PeerAuthentication STRICT: that is set aside (`weir status` says so), and nothing fails", on: "strict", app: lately(nil),
			config: destinationRule("trafficPolicy: {tls: {mode: DISABLE}}"),
			cause:  "ok", at: "default/client", client: "-", server: "-"},
		{name: "certificate of the server expired", how: "a server's proxy that got one certificate for some seconds, and no other since", on: "expiring", app: answers(ok),
			config: documents(noRetries, destinationRule("trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}")), // each request shakes hands
			ask: func(w *world, f *fault) string {
				id, n := "", 0
				w.Eventually("the certificate has expired", func() error {
					n++
					id = fmt.Sprintf("fault-%s-%d", f.slug(), n)
					if r := w.client.Get("http://"+f.slug()+":8080/", "x-request-id: "+id); r.Status != http.StatusServiceUnavailable {
						return fmt.Errorf("%v", r)
					}
					return nil
				})
				return id
			},
			cause: "upstream_certificate_refused", at: "default/client", client: "upstream_certificate_refused", server: "downstream_tls_failed", detail: "certificate expired"},
		{name: "wrong targetPort", how: "a Service whose targetPort is one at which nobody listens, nor says so", app: answers(ok), target: "!wrong targetPort: 19999", config: noRetries,
			cause: "upstream_connect_refused", at: "default/client", object: "Service ports[0].targetPort", client: "upstream_connect_refused", detail: "declare others"},
		{name: "targetPort of another name", how: "a Service whose targetPort is a name that no container has", app: answers(ok), target: "!wrong targetPort: web",
			cause: "no_endpoints", at: "default/client", object: "Service ports[0].targetPort", client: "no_endpoints"},
		{name: "HTTP1 behind a port named grpc", how: "a port named grpc whose application speaks HTTP/1.1", protocol: "grpc", app: http1,
			ask: func(w *world, f *fault) string {
				return w.call(f, "POST", "/a.B/C", "content-type: application/grpc", "te: trailers")
			},
			cause: "upstream_protocol_error", at: "default/server", object: "Service ports[0].name", client: "-", server: "upstream_protocol_error", detail: "http1_response"},
		{name: "HTTP1 to a port named grpc", how: "a client of HTTP/1.1 calls an application of HTTP/1.1 at a port named grpc", protocol: "grpc", app: http1,
			cause: "upstream_protocol_error", at: "default/server", object: "Service ports[0].name", client: "-", server: "upstream_protocol_error", detail: "http1_response"},
		{name: "upgraded to HTTP2", how: "h2UpgradePolicy of the DestinationRule, and an endpoint without a proxy that speaks HTTP/1.1", far: http1,
			config: destinationRule("trafficPolicy: {connectionPool: {http: {!wrong h2UpgradePolicy: UPGRADE}}}"),
			cause:  "upstream_protocol_error", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.http.h2UpgradePolicy", client: "upstream_protocol_error", detail: "http1_response"},
		{name: "WorkloadEntry with a wrong port", how: "a WorkloadEntry that a ServiceEntry selects does not listen at the port that is given for it",
			config: documents(serviceEntry("resolution: STATIC, workloadSelector: {labels: {app: NAME}}"), object("networking.istio.io/v1", "WorkloadEntry", "NAME", "{address: 127.0.0.1, labels: {app: NAME}, ports: {!wrong http: 1}}")),
			ask:    getExample, cause: "upstream_connect_refused", at: "default/client", object: "WorkloadEntry ports.http", client: "upstream_connect_refused"},
		{name: "WorkloadEntry with a wrong address", how: "a WorkloadEntry that a ServiceEntry selects has an address to which no connection can be made",
			config: documents(serviceEntry("resolution: STATIC, workloadSelector: {labels: {app: NAME}}"), object("networking.istio.io/v1", "WorkloadEntry", "NAME", "{!wrong address: 127.255.255.255, labels: {app: NAME}, ports: {http: 1}}")),
			ask:    getExample, cause: "upstream_connect_failed", at: "default/client", object: "WorkloadEntry address", client: "upstream_connect_failed"},
		{name: "ServiceEntry with a wrong port", how: "a ServiceEntry whose endpoint does not listen at the port that is given for it", config: serviceEntry("resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {!wrong http: 1}}]"),
			ask: getExample, cause: "upstream_connect_refused", at: "default/client", object: "ServiceEntry endpoints[0].ports.http", client: "upstream_connect_refused"},
		{name: "ServiceEntry with a wrong targetPort", how: "a ServiceEntry with resolution DNS whose host does not listen at its targetPort",
			config: object("networking.istio.io/v1", "ServiceEntry", "NAME", "{hosts: [NAME.example], ports: [{number: 8080, name: http, protocol: HTTP, !wrong targetPort: 1}], resolution: DNS}"),
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				w.Resolve(f.slug()+".example", netip.MustParseAddr("127.0.0.1"))
				w.Eventually("the name is resolved", func() error {
					if w.client.Get("http://"+f.slug()+".example:8080/", "x-request-id: "+id); strings.Contains(string(w.client.Admin("GET", "/why?id="+id).Body), "refused") {
						return nil
					}
					return errors.New("not yet")
				})
				return id
			},
			cause: "upstream_connect_refused", at: "default/client", object: "ServiceEntry ports[0].targetPort", client: "upstream_connect_refused"},
		{name: "rewritten path", how: "rewrite.uri makes a path that the application answers with 500", app: answers(failed), ask: below("/shop/7"),
			config: virtualService("match: [{uri: {prefix: /shop}}], !wrong rewrite: {uri: /v9}, ROUTE"),
			cause:  "application_answered", at: "default/server", object: "VirtualService http[0].rewrite", client: "-", server: "-", detail: "got the path /v9/7: http[0].rewrite of VirtualService default/rewritten-path changed /shop/7"},
		{name: "rewritten path of an application without a proxy", how: "the same, where only the caller's proxy can tell", far: wholly(failed), ask: below("/shop/7"),
			config: virtualService("match: [{uri: {prefix: /shop}}], !wrong rewrite: {uri: /v9}, ROUTE"),
			cause:  "application_answered", at: "default/far", object: "VirtualService http[0].rewrite", client: "-", unknown: "default/far", detail: "changes the path /shop/7, by its text in force"},
		{name: "rewritten authority", how: "rewrite.authority makes a Host that the application answers with 500", app: answers(failed), config: virtualService("!wrong rewrite: {authority: shop.example}, ROUTE"),
			cause: "application_answered", at: "default/server", object: "VirtualService http[0].rewrite", client: "-", server: "-", detail: "got the authority shop.example"},
		{name: "rewritten path is not found", how: "rewrite.uri makes a path that the application answers with 404, which is no failure to a proxy, and found in the sample only", app: answers("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
			config: virtualService("!wrong rewrite: {uri: /v9}, ROUTE"),
			ask: func(w *world, f *fault) string {
				for range sample {
					get(w, f)
				}
				return "fault-" + f.slug()
			},
			cause: "ok", at: "default/client", object: "VirtualService http[0].rewrite", client: "-", server: passed, detail: "http[0].rewrite"},
		{name: "rewritten to the same", how: "a rewrite.uri that changes nothing, and an application that answers 500", app: answers(failed), config: virtualService("match: [{uri: {prefix: /shop}}], rewrite: {uri: /shop}, ROUTE"), ask: below("/shop/7"),
			cause: "application_answered", at: "default/server", client: "-", server: "-"},
		{name: "header taken away", how: "headers.request.remove takes what the application needs, which answers 500", app: answers(failed), config: virtualService("headers: {request: {remove: [x-tenant], set: {x-stage: test}}}, ROUTE"),
			cause: "application_answered", at: "default/server", client: "-", server: "-", detail: "http[0].headers.request of VirtualService default/header-taken-away changes headers"},
		{name: "no such port", how: "a route to a port that the destination does not have", app: answers(ok), config: virtualService("route: [{destination: {host: NAME, port: {!wrong number: 9}}}]"),
			cause: "cluster_not_found", at: "default/client", object: "VirtualService http[0].route[0].destination.port.number", client: "cluster_not_found"},
		{name: "no such host", how: "a route to a host that there is not", app: answers(ok), config: virtualService("route: [{destination: {!wrong host: NAME-x}}]"),
			cause: "cluster_not_found", at: "default/client", object: "VirtualService http[0].route[0].destination.host", client: "cluster_not_found"},
		{name: "hidden by a Sidecar", how: "outboundTrafficPolicy REGISTRY_ONLY, and a service that egress.hosts of the Sidecar does not have",
			config: "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: elsewhere}\nspec: {clusterIP: 10.96.7.9, selector: {app: x}, ports: [{name: http, port: 8080}]}\n",
			ask:    confined("10.96.7.9:8080", "x"),
			cause:  "not_in_registry", at: "default/captive", object: "Sidecar captive egress[0].hosts", client: "direct_response", detail: "elsewhere/hidden-by-a-sidecar"},
		{name: "nobody is asked about TCP", how: "an AuthorizationPolicy with action CUSTOM for a TCP port", on: "plain", app: silence, protocol: "tcp", ask: raw("hello"),
			config: object("security.istio.io/v1", "AuthorizationPolicy", "NAME", "{selector: {matchLabels: {app: plain}}, !wrong action: CUSTOM, provider: {name: gone}, rules: [{to: [{operation: {ports: ['PORT']}}]}]}"),
			cause:  "access_denied", at: "default/plain", object: "AuthorizationPolicy action", client: "upstream_connection_reset", server: "access_denied"},
		{name: "body too large to be shown", how: "a provider that takes bodies of 10 bytes (maxRequestBytes), and a larger one", on: "plain", app: answers(ok),
			config: object("security.istio.io/v1", "AuthorizationPolicy", "NAME", "{selector: {matchLabels: {app: plain}}, action: CUSTOM, !wrong provider: {name: narrow}, rules: [{to: [{operation: {ports: ['PORT']}}]}]}"),
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				w.client.Do("POST", "http://"+f.slug()+":8080/", make([]byte, 100), "x-request-id: "+id)
				return id
			},
			cause: "ext_authz_too_large", at: "default/plain", object: "AuthorizationPolicy provider", client: "-", server: "ext_authz_too_large"},
		{name: "TLS after the server spoke", how: "a server that speaks first behind a PERMISSIVE port, and a client of the mesh that begins TLS after that", protocol: "tcp", app: greets,
			ask: func(w *world, f *fault) string {
				// From an address of which it is not known that the mesh is there.
				c, from, err := w.dialFrom(netip.MustParseAddr("127.0.0.77"), w.at(f))
				must(w.T, err)
				defer c.Close()
				_, err = c.Read(make([]byte, 1))
				must(w.T, err)
				_, _ = io.WriteString(c, hello(w.T, "", "istio-peer-exchange", "istio"))
				_, _ = io.Copy(io.Discard, c)
				return from
			},
			cause: "downstream_misjudged", at: "default/server", server: "downstream_misjudged"},
	}
}

// failed is an answer of an application that does not know what to do.
const failed = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"

// below asks for a path.
func below(path string) func(*world, *fault) string {
	return func(w *world, f *fault) string { return w.call(f, "GET", path) }
}

// briefly signs once, for some seconds.
func briefly(by identity.Signer) identity.Signer { return &brief{Signer: by} }

type brief struct {
	identity.Signer
	signed bool // asked by one goroutine
}

func (b *brief) Sign(ctx context.Context, r identity.Request) ([]byte, error) {
	if b.signed {
		return nil, errors.New("the authority signs no more")
	}
	r.TTL = 5 * time.Second
	chain, err := b.Signer.Sign(ctx, r)
	b.signed = err == nil
	return chain, err
}

// hello is how a client begins TLS with somebody of a name, and offers protocols.
func hello(t testing.TB, name string, protocols ...string) string {
	here, there := net.Pipe()
	defer there.Close()
	go func() {
		_ = tls.Client(here, &tls.Config{ServerName: name, NextProtos: protocols, InsecureSkipVerify: true}).Handshake()
		_ = here.Close()
	}()
	record := make([]byte, 1<<14)
	n, err := there.Read(record)
	must(t, err)
	return string(record[:n])
}

// greets speaks first.
func greets(c net.Conn) {
	if _, err := io.WriteString(c, "220 mail.example ESMTP\r\n"); err == nil {
		silence(c)
	}
}
