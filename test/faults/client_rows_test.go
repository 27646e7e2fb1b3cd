package faults

import "strings"

// The client's own doing.
func clientRows() []fault {
	leaves, cut := newHolder(), newHolder()
	return []fault{
		{name: "client leaves", how: "the client closes its connection before it is answered", app: leaves.serve,
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				c := w.send(f, "GET / HTTP/1.1\r\nhost: x\r\nx-request-id: "+id+"\r\n\r\n")
				<-leaves.came
				_ = c.Close()
				return id
			},
			cause: "downstream_disconnected", at: "default/client", client: "downstream_disconnected", server: "downstream_disconnected"},
		{name: "client leaves in its request", how: "the client closes its connection in the middle of its body", app: cut.serve,
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				c := w.send(f, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nx-request-id: "+id+"\r\n\r\nabc")
				<-cut.came
				_ = c.Close()
				return id
			},
			cause: "downstream_disconnected", at: "default/client", client: "downstream_disconnected", server: "downstream_disconnected"},
		{name: "request head too large", how: "a request with a cookie of 100 KB", app: answers(ok), ask: raw("GET / HTTP/1.1\r\nhost: x\r\ncookie: " + strings.Repeat("x", 100<<10) + "\r\n\r\n"),
			cause: "request_head_too_large", at: "default/client", client: "request_head_too_large"},
		{name: "bad framing", how: "a request with Content-Length and Transfer-Encoding", app: answers(ok),
			ask:   raw("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
			cause: "downstream_protocol_error", at: "default/client", client: "downstream_protocol_error"},
		{name: "no host", how: "a request without Host", app: answers(ok), ask: raw("GET / HTTP/1.1\r\n\r\n"),
			cause: "missing_host", at: "default/client", client: "missing_host"},
		{name: "tunnel refused", how: "CONNECT", app: answers(ok), ask: raw("CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n"),
			cause: "connect_refused", at: "default/client", client: "connect_refused"},
		{name: "upgrade refused", how: "Upgrade: tls/1.2", app: answers(ok), ask: raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: tls/1.2\r\n\r\n"),
			cause: "upgrade_refused", at: "default/client", client: "upgrade_refused"},
		{name: "broken path", how: "a path with half an escape", app: answers(ok), ask: raw("GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n"),
			cause: "path_normalization_failed", at: "default/client", client: "path_normalization_failed"},
		{name: "delayed on purpose until the client leaves", how: "fault.delay of a minute, and the client closes its connection", app: answers(ok),
			config: virtualService("fault: {!wrong delay: {fixedDelay: 60s, percentage: {value: 100}}}, ROUTE"),
			ask: func(w *world, f *fault) string {
				id := "fault-" + f.slug()
				c := w.send(f, "GET / HTTP/1.1\r\nhost: x\r\nx-request-id: "+id+"\r\n\r\n")
				w.underWay(f)
				_ = c.Close()
				return id
			},
			cause: "fault_delay", at: "default/client", object: "VirtualService http[0].fault.delay", client: "downstream_disconnected"},
	}
}

// raw is what the client's program sends, byte by byte; it is known by the address of its connection.
func raw(text string) func(*world, *fault) string {
	return func(w *world, f *fault) string { return w.raw(f, text) }
}
