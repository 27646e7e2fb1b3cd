package faults

import (
	"fmt"
	"io"
	"net/netip"
)

// What somebody writes late in the day: each object is right by itself.
func tiredRows() []fault {
	const gatewayKind, ruleKind = "Gateway", "VirtualService"
	networking := func(kind, name, spec string) string {
		return object("networking.istio.io/v1", kind, name, spec)
	}
	// plainly talks to a port of the gateway, and is the address of the client.
	plainly := func(port uint16, text func(*fault) string) func(*world, *fault) string {
		return func(w *world, f *fault) string {
			c, from, err := w.dialAt(netip.AddrPortFrom(w.gw.IP(), port))
			must(w.T, err)
			defer c.Close()
			_, _ = io.WriteString(c, text(f))
			_, _ = c.Read(make([]byte, 1))
			return from
		}
	}
	request := func(f *fault) string { return "GET / HTTP/1.1\r\nhost: " + f.slug() + ".example\r\n\r\n" }
	return []fault{
		{name: "delegate to no such host", how: "the delegate of a VirtualService leads to a host that there is not", app: answers(ok),
			config: documents(networking(ruleKind, "NAME", "{hosts: [NAME], http: [{delegate: {name: delegated}}]}"),
				networking(ruleKind, "delegated", "{http: [{match: [{uri: {prefix: /x}}], ROUTE}, {route: [{destination: {!wrong host: NAME-x}}]}]}")),
			cause: "cluster_not_found", at: "default/client", object: "VirtualService delegated http[1].route[0].destination.host", client: "cluster_not_found"},
		{name: "rule for a claim without a token", how: "a match of a claim (@request.auth.claims) at a gateway, and a request without a token", app: answers(ok),
			config: networking(ruleKind, "NAME", "{hosts: [NAME.example], gateways: [edge], http: [{match: [{headers: {'@request.auth.claims.group': {exact: admin}}}], ROUTE}]}"),
			ask:    plainly(8080, request),
			cause:  "route_not_found", at: gateway, object: "VirtualService http", client: "route_not_found"},
		{name: "share for a subset without pods", how: "half of the requests go to a subset whose labels no pod has", app: answers(ok),
			config: documents(destinationRule("subsets: [{name: v1, labels: {app: APP}}, !wrong {name: v7, labels: {version: v7}}]"),
				virtualService("route: [{destination: {host: NAME, subset: v1}, weight: 50}, {destination: {host: NAME, subset: v7}, weight: 50}]")),
			ask: func(w *world, f *fault) string {
				for n := 0; ; n++ {
					id := fmt.Sprintf("fault-%s-%d", f.slug(), n)
					if r := w.client.Get("http://"+f.slug()+":8080/", "x-request-id: "+id); r.Status != 200 {
						return id
					}
				}
			},
			cause: "no_endpoints", at: "default/client", object: "DestinationRule subsets[1]", client: "no_endpoints"},
		{name: "ServiceEntry for nobody", how: "a ServiceEntry whose workloadSelector matches no pod", config: serviceEntry("resolution: STATIC, !wrong workloadSelector: {labels: {app: nobody-has-this}}"), ask: getExample,
			cause: "no_endpoints", at: "default/client", object: "ServiceEntry workloadSelector", client: "no_endpoints"},
		{name: "no such credential at the gateway", how: "credentialName of a Gateway's server is a Secret that there is not",
			config: networking(gatewayKind, "NAME", "{selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [NAME.example], tls: {mode: SIMPLE, !wrong credentialName: not-there}}]}"),
			ask:    handshake(""),
			cause:  "filter_chain_not_found", at: gateway, object: "Gateway servers[0].tls.credentialName", client: "filter_chain_not_found"},
		{name: "bound to no such gateway", how: "gateways of a VirtualService is a Gateway that there is not, and somebody calls its host", app: answers(ok),
			config: networking(ruleKind, "NAME", "{hosts: [NAME.example], !wrong gateways: [edges], http: [{ROUTE}]}"),
			ask:    plainly(8080, request),
			cause:  "host_not_found", at: gateway, object: "VirtualService gateways", client: "host_not_found"},
		{name: "bound to another gateway", how: "gateways of a VirtualService is a Gateway of other workloads, and somebody calls its host at the one that has it", app: answers(ok),
			config: documents(networking(gatewayKind, "NAME", "{selector: {istio: egressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}"),
				networking(ruleKind, "NAME", "{hosts: [NAME.example], !wrong gateways: [NAME], http: [{ROUTE}]}")),
			ask:   plainly(8080, request),
			cause: "host_not_found", at: gateway, object: "VirtualService gateways", client: "host_not_found", detail: "served here by Gateway default/edge"},
		{name: "rule that the gateway may not see", how: "exportTo of a VirtualService leaves the gateway's namespace out", app: answers(ok),
			config: networking(ruleKind, "NAME", "{hosts: [NAME.example], !wrong exportTo: ['.'], gateways: [edge], http: [{ROUTE}]}"),
			ask:    plainly(8080, request),
			cause:  "host_not_found", at: gateway, object: "VirtualService exportTo", client: "host_not_found"},
		{name: "rule for another server name", how: "a Gateway with tls.mode PASSTHROUGH for two names, and a rule for TLS that has one of them",
			config: networking(ruleKind, "NAME", "{hosts: ['*.NAME.example'], gateways: [edge], tls: [{match: [{port: 443, !wrong sniHosts: [one.NAME.example]}], ROUTE}]}"),
			ask:    func(w *world, f *fault) string { return handshake("two."+f.slug()+".example")(w, f) },
			cause:  "filter_chain_not_found", at: gateway, object: "VirtualService tls[0].match[0].sniHosts", client: "filter_chain_not_found"},
		{name: "HTTP to the HTTPS port of the gateway", how: "a client that speaks plain HTTP to a port of HTTPS", ask: plainly(8443, request),
			cause: "filter_chain_not_found", at: gateway, client: "filter_chain_not_found", detail: "plaintext"},
		{name: "HTTPS to the HTTP port of the gateway", how: "a client that speaks TLS to a port of HTTP", ask: func(w *world, f *fault) string {
			return plainly(8080, func(f *fault) string { return hello(w.T, f.slug()+".example") })(w, f)
		},
			cause: "downstream_protocol_error", at: gateway, client: "downstream_protocol_error"},
		{name: "subset that a caller may not see", how: "a DestinationRule of the root namespace, exportTo only there, has the subset of a route", app: answers(ok),
			config: documents("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: NAME, namespace: istio-system}\nspec: {host: NAME.default.svc.cluster.local, !wrong exportTo: ['.'], subsets: [{name: v1, labels: {app: APP}}]}\n",
				virtualService("route: [{destination: {host: NAME, subset: v1}}]")),
			cause: "cluster_not_found", at: "default/client", object: "DestinationRule exportTo", client: "cluster_not_found", detail: "does not show it to the namespace of default/client"},
		{name: "host that a caller may not see", how: "a route to the host of another namespace's ServiceEntry with exportTo only there", app: answers(ok),
			config: documents("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: NAME, namespace: elsewhere}\nspec: {hosts: [NAME.example], !wrong exportTo: ['.'], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}\n",
				virtualService("route: [{destination: {host: NAME.example}}]")),
			cause: "cluster_not_found", at: "default/client", object: "ServiceEntry exportTo", client: "cluster_not_found"},
		{name: "subset of a namespace that does not count", how: "a DestinationRule of another namespace, exportTo only there, has the subset of a route; rules of there count for nobody else", app: answers(ok),
			config: documents("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: NAME, namespace: elsewhere}\nspec: {host: NAME.default.svc.cluster.local, exportTo: ['.'], subsets: [{name: v1, labels: {app: APP}}]}\n",
				virtualService("route: [{destination: {host: NAME, !wrong subset: v1}}]")),
			cause: "cluster_not_found", at: "default/client", object: "VirtualService http[0].route[0].destination.subset", client: "cluster_not_found", detail: "DestinationRule elsewhere/subset-of-a-namespace-that-does-not-count defines it"},
	}
}
