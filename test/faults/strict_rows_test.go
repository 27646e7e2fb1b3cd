package faults

import (
	"bufio"
	"io"
	"net/http"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What a listener does not take, or not so much of, and what a cluster does not send: mostly what no object of the mesh sets, so that
// it stands in the client's bootstrap (impatiences).
func strictRows() []fault {
	const whole = "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
	refused := func(name, how, cause, text string) fault {
		return fault{name: name, how: how, far: answers(ok), ask: hurried(text), cause: cause, at: "default/client", client: cause}
	}
	dropped := func(name, how, cause string) fault {
		f := refused(name, how, cause, whole)
		f.far = nil
		return f
	}
	leaves := make(chan struct{}, 1)
	return []fault{
		refused("header of nonsense", "strict_check_headers of the router, and a time-out that is no number", "strict_headers", "GET / HTTP/1.1\r\nhost: x\r\nx-envoy-upstream-rq-timeout-ms: soon\r\n\r\n"),
		refused("escaped slash", "path_with_escaped_slashes_action REJECT_REQUEST of the listener, and a path with %2F", "escaped_slash", "GET /a%2Fb HTTP/1.1\r\nhost: x\r\n\r\n"),
		refused("underscore", "headers_with_underscores_action REJECT_REQUEST of the listener, and such a header", "underscore", "GET / HTTP/1.1\r\nhost: x\r\na_b: c\r\n\r\n"),
		refused("HTTP10", "a listener without accept_http_10, and a request of HTTP/1.0", "low_version", "GET / HTTP/1.0\r\nhost: x\r\n\r\n"),
		refused("token missing", "a jwt_authn filter that requires a token, and a request without one", "token_missing", whole),
		refused("session with who is gone", "a stateful_session filter that is strict, and a session with an endpoint that is none", "no_healthy_upstream", "GET / HTTP/1.1\r\nhost: x\r\nx-session: MTI3LjAuMC45OjE=\r\n\r\n"),
		refused("no PROXY header", "a proxy_protocol filter of the listener, and a connection that begins without its header", "downstream_header_bad", whole),
		refused("silent at first", "a tls_inspector filter of the listener, and a client that says nothing within listener_filters_timeout", "downstream_silent", ""),
		dropped("dropped all", "policy.drop_overloads of the endpoints: 100 %", "overload_all_dropped"),
		dropped("no address to call from", "upstream_bind_config of the cluster with an address that this machine does not have", "upstream_no_socket"),
		{name: "dropped one", how: "policy.drop_overloads of the endpoints: 99 %, and as many requests as it takes that one is dropped",
			ask: func(w *world, f *fault) string {
				for {
					c, from := w.hurry(f)
					_, err := io.WriteString(c, whole)
					must(w.T, err)
					r, err := http.ReadResponse(bufio.NewReader(c), nil)
					_ = c.Close()
					if err == nil && r.StatusCode == http.StatusServiceUnavailable {
						return from
					}
				}
			},
			cause: "overload_dropped", at: "default/client", client: "overload_dropped"},
		{name: "too often", how: "a local_ratelimit filter with a bucket of one token, and two requests", far: answers(ok),
			ask: func(w *world, f *fault) string {
				hurried(whole)(w, f)
				return hurried(whole)(w, f)
			},
			cause: "request_rate_limited", at: "default/client", client: "request_rate_limited"},
		{name: "too many clients", how: "a connection_limit filter that takes one connection, and two", far: answers(ok),
			ask: func(w *world, f *fault) string {
				c, _ := w.hurry(f)
				defer c.Close()
				_, err := io.WriteString(c, whole)
				must(w.T, err)
				_, err = http.ReadResponse(bufio.NewReader(c), nil)
				must(w.T, err)
				other, from, err := w.hurryTo(f)
				if err == nil {
					_, _ = other.Read(make([]byte, 1))
					_ = other.Close()
				}
				return from
			},
			cause: "connection_limit", at: "default/client", client: "connection_limit"},
		{name: "no further", how: "OPTIONS with Max-Forwards: 0", app: answers(ok), ask: func(w *world, f *fault) string {
			for range sample {
				w.call(f, "OPTIONS", "/", "max-forwards: 0")
			}
			return w.call(f, "OPTIONS", "/", "max-forwards: 0")
		},
			cause: "no_further", at: "default/client", client: "no_further"},
		{name: "asked by a browser", how: "corsPolicy of the VirtualService, and a preflight of an origin that it knows", app: answers(ok),
			config: virtualService("!wrong corsPolicy: {allowOrigins: [{exact: 'https://page.example'}], allowMethods: [GET]}, ROUTE"),
			ask: func(w *world, f *fault) string {
				for range sample {
					w.call(f, "OPTIONS", "/", "origin: https://page.example", "access-control-request-method: GET")
				}
				return "fault-" + f.slug()
			},
			cause: "cors_preflight", at: "default/client", object: "VirtualService http[0].corsPolicy", client: "cors_preflight"},
		{name: "client resets its stream", how: "a client of HTTP/2 that sends RST_STREAM before it is answered", app: framed(func(_ *http2.Framer, _ uint32) { leaves <- struct{}{} }), protocol: "http2",
			ask: func(w *world, f *fault) string {
				c, from, err := w.dial(f)
				must(w.T, err)
				defer c.Close()
				_, err = io.WriteString(c, http2.ClientPreface)
				must(w.T, err)
				h := http2.NewFramer(c, c)
				must(w.T, h.WriteSettings())
				must(w.T, h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x"), EndHeaders: true, EndStream: true}))
				<-leaves
				must(w.T, h.WriteRSTStream(1, http2.ErrCodeCancel))
				return from
			},
			cause: "downstream_reset", at: "default/client", client: "downstream_reset", server: "downstream_reset"},
		{name: "no way there", how: "a ServiceEntry whose endpoint is an address to which no connection can be made", config: serviceEntry("resolution: STATIC, endpoints: [{!wrong address: 127.255.255.255, ports: {http: 1}}]"),
			ask: getExample, cause: "upstream_connect_failed", at: "default/client", object: "ServiceEntry endpoints[0].address", client: "upstream_connect_failed"},
	}
}

// sample is so many requests that one of them is kept: one in 64 is, by each worker.
const sample = 130

// head is a block of header fields.
func head(fields ...string) []byte {
	var b headBuffer
	e := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b
}

type headBuffer []byte

func (b *headBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
