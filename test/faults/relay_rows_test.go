package faults

import "io"

// Connections that are passed on by rules of a VirtualService for TCP and TLS.
func relayRows() []fault {
	tcp := func(route string) string {
		return object("networking.istio.io/v1", "VirtualService", "NAME", "{hosts: [NAME], tcp: [{match: [{port: 9}], ROUTE}, {route: ["+route+"]}]}")
	}
	tls := func(route string) string {
		return object("networking.istio.io/v1", "VirtualService", "NAME", "{hosts: [NAME, NAME.example], tls: [{match: [{port: 9, sniHosts: [NAME.example]}], ROUTE}, {match: [{port: 8080, sniHosts: [NAME.example]}], route: ["+route+"]}]}")
	}
	secured := func(w *world, f *fault) string { return w.raw(f, hello(w.T, f.slug()+".example")) }
	return []fault{
		{name: "TCP rule to no such host", how: "a rule for TCP to a host that there is not", app: silence, protocol: "tcp", ask: raw("hello"),
			config: tcp("{destination: {!wrong host: NAME-x}}"),
			cause:  "cluster_not_found", at: "default/client", object: "VirtualService tcp[1].route[0].destination.host", client: "cluster_not_found"},
		{name: "TCP rule to no such port", how: "a rule for TCP to a port that the destination does not have", app: silence, protocol: "tcp", ask: raw("hello"),
			config: tcp("{destination: {host: NAME, port: {!wrong number: 9}}}"),
			cause:  "cluster_not_found", at: "default/client", object: "VirtualService tcp[1].route[0].destination.port.number", client: "cluster_not_found"},
		{name: "TCP rule with a share for nobody", how: "weighted destinations of TCP, the second of which there is not", app: answers(ok), protocol: "tcp",
			config: tcp("{destination: {host: NAME}, weight: 50}, {destination: {!wrong host: NAME-x}, weight: 50}"),
			ask: func(w *world, f *fault) string {
				for {
					c, from, err := w.dial(f)
					if err != nil { // that soon it is refused
						return from
					}
					_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")
					_, err = c.Read(make([]byte, 1))
					if _ = c.Close(); err != nil {
						return from
					}
				}
			},
			cause: "cluster_not_found", at: "default/client", object: "VirtualService tcp[1].route[1].destination.host", client: "cluster_not_found"},
		{name: "TLS rule to no such subset", how: "a rule for TLS to a subset that no DestinationRule has", app: silence, protocol: "tls", ask: secured,
			config: tls("{destination: {host: NAME, !wrong subset: v7}}"),
			cause:  "cluster_not_found", at: "default/client", object: "VirtualService tls[1].route[0].destination.subset", client: "cluster_not_found"},
		{name: "TLS through the gateway to nobody", how: "a Gateway with tls.mode PASSTHROUGH, and a rule for TLS to a host that there is not",
			ask:    handshake(""),
			config: object("networking.istio.io/v1", "VirtualService", "NAME", "{hosts: [NAME.example], gateways: [edge], tls: [{match: [{port: 443, sniHosts: [NAME.example]}], route: [{destination: {!wrong host: NAME-x, port: {number: 8080}}}]}]}"),
			cause:  "cluster_not_found", at: gateway, object: "VirtualService tls[0].route[0].destination.host", client: "cluster_not_found"},
	}
}
