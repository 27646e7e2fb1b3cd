package nameproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// patience is for what happens at once on an idle machine.
const patience = 20 * time.Second

// serve runs a proxy for which ratings:9080 is at the address; end closes its listener and
// returns when it has ended.
func serve(t *testing.T, at string) (address string, end func()) {
	t.Helper()
	ratings := netip.MustParseAddrPort(at)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Serve(l, func(host string, port uint16) (netip.AddrPort, bool, error) {
			switch {
			case strings.EqualFold(strings.TrimSuffix(host, "."), "ratings") && port == 9080:
				return ratings, true, nil
			case host == "ratings":
				return netip.AddrPort{}, false, fmt.Errorf("ratings has no port %d, only 9080", port)
			case host == "slow":
				return netip.AddrPort{}, false, context.DeadlineExceeded
			}
			return netip.AddrPort{}, false, nil
		})
	}()
	end = func() {
		l.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the proxy goes on without a listener")
		}
	}
	t.Cleanup(end)
	return l.Addr().String(), end
}

// connect writes to the proxy and returns what it answers with.
func connect(t *testing.T, address, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// What a client sends arrives as it was, at a service by its name and outside; what the
// proxy itself answers says why.
func TestRequests(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump, _ := httputil.DumpRequest(r, true)
		_, _ = w.Write(dump)
	}))
	defer server.Close()
	at := server.Listener.Addr().String()
	address, _ := serve(t, at)
	for _, c := range []struct{ name, request, status, want string }{
		{"a service", "GET http://ratings:9080/ratings/0 HTTP/1.1\r\nHost: ratings:9080\r\n", "200 OK", "GET /ratings/0 HTTP/1.1\r\nHost: ratings:9080\r\n\r\n"},
		{"outside the mesh", "GET http://" + at + "/x HTTP/1.1\r\nHost: x\r\n", "200 OK", "GET /x HTTP/1.1\r\nHost: " + at + "\r\n\r\n"},
		{"without a path", "GET http://ratings:9080?a=b HTTP/1.1\r\nHost: ratings:9080\r\n", "200 OK", "GET /?a=b HTTP/1.1\r\nHost: ratings:9080\r\n\r\n"},
		{"to the letter", "GET http://Ratings.:9080/a%2Fb/../{c}|;d//e?x=1;y=%zz&& HTTP/1.1\r\nHost: Ratings.:9080\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=x\r\nUser-Agent: me\r\n", "200 OK",
			"GET /a%2Fb/../{c}|;d//e?x=1;y=%zz&& HTTP/1.1\r\nHost: Ratings.:9080\r\nForwarded: for=x\r\nUser-Agent: me\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"},
		{"a body, and what belongs to one connection", "POST http://ratings:9080/ HTTP/1.1\r\nHost: ratings:9080\r\nContent-Length: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nConnection: x-mine\r\nX-Mine: 1\r\nTE: trailers, gzip\r\n\r\nhello", "200 OK",
			"POST / HTTP/1.1\r\nHost: ratings:9080\r\nContent-Length: 5\r\nTe: trailers\r\n\r\nhello"},
		{"a port it does not have", "GET http://ratings/ HTTP/1.1\r\nHost: ratings\r\n", "502 Bad Gateway", "weir: calling ratings: ratings has no port 80, only 9080\n"},
		{"nobody in time", "GET http://slow/ HTTP/1.1\r\nHost: slow\r\n", "504 Gateway Timeout", "weir: calling slow: context deadline exceeded\n"},
		{"no port at all", "GET http://ratings:0/ HTTP/1.1\r\nHost: ratings:0\r\n", "502 Bad Gateway", "weir: calling ratings:0: \"ratings:0\" is not a host and a port\n"},
		{"CONNECT to such a port", "CONNECT ratings:80 HTTP/1.1\r\nHost: ratings:80\r\n", "502 Bad Gateway", "weir: calling ratings:80: ratings has no port 80, only 9080\n"},
		{"CONNECT without a port", "CONNECT ratings HTTP/1.1\r\nHost: ratings\r\n", "502 Bad Gateway", "weir: calling ratings: address ratings: missing port in address\n"},
		{"what a web page can send", "GET / HTTP/1.1\r\nHost: ratings:9080\r\nOrigin: http://example.com\r\n", "400 Bad Request", "weir: this is an HTTP proxy, for http_proxy and https_proxy: ask it for http://SERVICE:PORT\n"},
		{"another scheme", "GET https://ratings:9080/ HTTP/1.1\r\nHost: ratings:9080\r\n", "400 Bad Request", "weir: this proxy is asked for http://HOST; for https://ratings:9080 it is asked by CONNECT\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(c.request, "\r\n\r\n") {
				c.request += "\r\n"
			}
			_, r := connect(t, address, c.request)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.status+"\n"+c.want, resp.Status+"\n"+string(b)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// An answer is passed on as it comes, and its trailers; a client that leaves ends the call.
func TestLongAnswers(t *testing.T) {
	next, gone := make(chan string, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-End")
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/left" {
			<-r.Context().Done()
			close(gone)
			return
		}
		_, _ = io.WriteString(w, <-next)
		w.Header().Set("X-End", "here")
	}))
	defer server.Close()
	address, _ := serve(t, server.Listener.Addr().String())
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: address})}
	defer transport.CloseIdleConnections()

	// call returns when the answer has begun.
	call := func(ctx context.Context, path string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ratings:9080"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, len("first"))
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
			t.Fatalf("got %q, %v", first, err)
		}
		return resp
	}
	resp := call(t.Context(), "/events")
	next <- "last"
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "last" || resp.Trailer.Get("X-End") != "here" {
		t.Errorf("then %q, %v, trailers %v", b, err, resp.Trailer)
	}
	resp.Body.Close()

	ctx, leave := context.WithCancel(t.Context())
	left := call(ctx, "/left")
	leave()
	left.Body.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the server does not learn that the client left")
	}
}

// What comes after CONNECT, or after 101, goes both ways as it is, until the proxy ends.
func TestTunnels(t *testing.T) {
	// The server switches protocols, if asked to, and then sends back what it gets.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				if b, err := r.Peek(4); err == nil && string(b) == "GET " {
					req, err := http.ReadRequest(r)
					if err != nil || req.Header.Get("Upgrade") != "websocket" || req.RequestURI != "/chat" {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				}
				_, _ = io.Copy(c, r)
			}()
		}
	}()
	for _, c := range []struct{ name, request, status string }{
		{"CONNECT to a service", "CONNECT ratings:9080 HTTP/1.1\r\nHost: ratings:9080\r\n\r\nwith the head", "200 OK"},
		{"CONNECT to outside", "CONNECT " + l.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\nwith the head", "200 OK"},
		{"WebSocket", "GET http://ratings:9080/chat HTTP/1.1\r\nHost: ratings:9080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "101 Switching Protocols"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address, end := serve(t, l.Addr().String())
			echoed := func(r io.Reader, want string) {
				t.Helper()
				got := make([]byte, len(want))
				if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			open := func() (net.Conn, *bufio.Reader) {
				conn, r := connect(t, address, c.request)
				resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
				if err != nil || resp.Status != c.status {
					t.Fatalf("%v %v", resp, err)
				}
				if _, early, _ := strings.Cut(c.request, "\r\n\r\n"); early != "" {
					echoed(r, early)
				}
				return conn, r
			}
			conn, r := open()
			fmt.Fprint(conn, "later")
			echoed(r, "later")
			_ = conn.(*net.TCPConn).CloseWrite()
			if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
				t.Errorf("after the end of one direction: %q, %v", rest, err)
			}
			_, r = open()
			end()
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("after the end of the proxy: %q", rest)
			}
		})
	}
}

// One connection too many is told so; when one ends there is room again.
func TestTooManyConnections(t *testing.T) {
	l := &listener{open: map[*conn]bool{}}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l.Listener = inner
	first := &conn{from: l}
	for n := range maxConns {
		c := &conn{from: l}
		if n == 0 {
			near, far := net.Pipe()
			defer far.Close()
			c.Conn, first = near, c
		}
		l.open[c] = true
	}
	accepted := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	_, r := connect(t, inner.Addr().String(), "")
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%v %v", resp, err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "weir: too many connections\n" {
		t.Errorf("%q %v", b, err)
	}
	first.Close()
	connect(t, inner.Addr().String(), "")
	c := <-accepted
	if c == nil {
		t.Fatal(errors.New("not accepted"))
	}
	c.Close()
}
