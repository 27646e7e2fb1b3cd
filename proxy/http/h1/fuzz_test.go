package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/http/message"
)

func readNetHTTP(r io.Reader) (*http.Request, error) {
	return http.ReadRequest(bufio.NewReader(r))
}

// parsed is everything a decoder reads of one message.
type parsed struct {
	req   message.Request
	resp  message.Response
	trail message.Headers
	body  []byte
	used  int
	ok    bool
	arena message.Arena
	d     Decoder
}

func parse(in []byte, response bool, asked *message.Request) *parsed {
	p := &parsed{}
	p.req.Reset()
	p.resp.Reset()
	if response {
		p.d.StartResponse(&p.resp, &p.trail, &p.arena, Limits{}, nil, asked)
	} else {
		p.d.StartRequest(&p.req, &p.trail, &p.arena, Limits{}, &takesAll)
	}
	for rest := in; ; {
		n, data, ev := p.d.Step(rest)
		rest = rest[n:]
		p.used += n
		p.body = append(p.body, data...)
		if ev == More && p.d.state == untilClose {
			ev = p.d.EOF()
		}
		switch {
		case ev == End || ev == Head && response && p.resp.Status < 200 && p.resp.Status != 101:
			p.ok = true
			return p
		case ev == Failed || ev == More:
			return p
		}
	}
}

func list(h *message.Headers) (out []string) {
	for _, f := range h.Fields() {
		out = append(out, string(f.Name)+": "+string(f.Value))
	}
	return out
}

var requestSeeds = []string{
	typicalRequest,
	"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET",
	"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n",
	"GET http://u:80?q HTTP/1.1\r\nHost: h\r\nConnection: x-a, close\r\nX-A: 1\r\n\r\n",
	"OPTIONS * HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
	"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
	"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
	"\r\nGET / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"GET / HTTP/1.1\nHost: h\n\n",
	"GET / HTTP/1.0\r\nHost: a:\r\n\r\n",
}

// What we forward is read again, by us and by net/http, exactly as we read it the first time.
func FuzzRequest(f *testing.F) {
	for _, s := range requestSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p := parse(in, false, nil)
		if !p.ok {
			return
		}
		var e Encoder
		wire := e.Request(nil, &p.req, false)
		if len(wire) > RequestRoom(&p.req) {
			t.Fatalf("%d bytes of head, announced %d", len(wire), RequestRoom(&p.req))
		}
		if len(p.body) > 0 {
			var ok bool
			if wire, ok = e.Prefix(wire, len(p.body)); !ok {
				t.Fatalf("encoder refuses the body of %q", in)
			}
			wire = e.Suffix(append(wire, p.body...))
		}
		wire, complete := e.End(wire, &p.trail)
		if !complete {
			t.Fatalf("%q is incomplete as %q", in, wire)
		}
		if p.req.Method != message.CONNECT {
			q := parse(wire, false, nil)
			if !q.ok || q.used != len(wire) {
				t.Fatalf("%q → %q is not read again: %v, used %d of %d", in, wire, q.d.Reason(), q.used, len(wire))
			}
			same(t, wire, "method", string(p.req.RawMethod), string(q.req.RawMethod))
			same(t, wire, "authority", string(p.req.Authority), string(q.req.Authority))
			same(t, wire, "path", string(p.req.Path), string(q.req.Path))
			same(t, wire, "upgrade", string(p.req.Upgrade), string(q.req.Upgrade))
			same(t, wire, "length", p.req.ContentLength, q.req.ContentLength)
			same(t, wire, "nobody", p.req.NoBody, q.req.NoBody)
			same(t, wire, "continue", p.req.Continue, q.req.Continue)
			same(t, wire, "body", string(p.body), string(q.body))
			same(t, wire, "trailers", strings.Join(list(&p.trail), "\n"), strings.Join(list(&q.trail), "\n"))
			same(t, wire, "fields", strings.Join(withoutLength(&p.req.Headers), "\n"), strings.Join(withoutLength(&q.req.Headers), "\n"))
		}

		// net/http must not see another message in the original bytes.
		n, err := readNetHTTP(bytes.NewReader(bytes.TrimPrefix(in, []byte("\r\n"))))
		if err != nil {
			if netHTTPIsStricter(p, err) {
				return
			}
			t.Fatalf("we accept %q, net/http does not: %v", in, err)
		}
		body, err := io.ReadAll(n.Body)
		if err != nil {
			t.Fatalf("we accept %q, net/http does not read its body: %v", in, err)
		}
		same(t, in, "net/http method", string(p.req.RawMethod), n.Method)
		same(t, in, "net/http body", string(p.body), string(body))
		if p.req.Method != message.CONNECT {
			if n.URL.Host == "" || string(p.req.Path) == "*" {
				// A host with an empty port is the host (RFC 3986 section 6.2.3).
				same(t, in, "net/http host", string(p.req.Authority), strings.TrimSuffix(n.Host, ":"))
			}
			if path, _ := p.req.PathQuery(); string(path) != "*" && n.URL.Host == "" {
				same(t, in, "net/http target", string(p.req.Path), n.RequestURI)
			}
		}
		for _, fl := range p.req.Headers.Fields() {
			if fl.ID == message.Trailer { // net/http takes it out of the headers
				continue
			}
			if !slices.Contains(n.Header.Values(string(fl.Name)), string(fl.Value)) {
				t.Fatalf("%q: net/http does not see %s: %s", in, fl.Name, fl.Value)
			}
		}
	})
}

// netHTTPIsStricter lists what net/http refuses because it parses the target as a URL, which is not the codec's business.
func netHTTPIsStricter(p *parsed, err error) bool {
	return strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid URI")
}

func withoutLength(h *message.Headers) []string {
	return slices.DeleteFunc(list(h), func(s string) bool { return strings.HasPrefix(s, "content-length:") })
}

func same[T comparable](t *testing.T, in []byte, what string, a, b T) {
	t.Helper()
	if a != b {
		t.Fatalf("%q: %s: %v and %v", in, what, a, b)
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nraw",
	} {
		f.Add([]byte(s), "GET", false)
		f.Add([]byte(s), "HEAD", true)
	}
	f.Fuzz(func(t *testing.T, in []byte, method string, upgrade bool) {
		asked := &message.Request{}
		asked.SetMethod([]byte(method))
		if upgrade {
			asked.Upgrade = []byte("websocket")
		}
		p := parse(in, true, asked)
		if !p.ok {
			return
		}
		var e Encoder
		wire := e.Response(nil, &p.resp, asked, true)
		if len(wire) > ResponseRoom(&p.resp) {
			t.Fatalf("%d bytes of head, announced %d", len(wire), ResponseRoom(&p.resp))
		}
		if len(p.body) > 0 {
			var ok bool
			if wire, ok = e.Prefix(wire, len(p.body)); !ok {
				t.Fatalf("encoder refuses the body of %q", in)
			}
			wire = e.Suffix(append(wire, p.body...))
		}
		wire, _ = e.End(wire, &p.trail)
		q := parse(wire, true, asked)
		if !q.ok || q.used != len(wire) {
			t.Fatalf("%q → %q is not read again: %v, used %d of %d", in, wire, q.d.Reason(), q.used, len(wire))
		}
		same(t, wire, "status", p.resp.Status, q.resp.Status)
		same(t, wire, "nobody", p.resp.NoBody, q.resp.NoBody)
		same(t, wire, "length", p.resp.ContentLength, q.resp.ContentLength)
		same(t, wire, "upgrade", string(p.resp.Upgrade), string(q.resp.Upgrade))
		same(t, wire, "body", string(p.body), string(q.body))
		same(t, wire, "trailers", strings.Join(list(&p.trail), "\n"), strings.Join(list(&q.trail), "\n"))
		same(t, wire, "fields", strings.Join(withoutLength(&p.resp.Headers), "\n"), strings.Join(withoutLength(&q.resp.Headers), "\n"))
	})
}
