package echo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/internal/memnet"
)

// get is a request line and a Host field; put is the beginning of one with a body.
const (
	get  = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
	bye  = "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	post = "POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n\r\n%s"
)

var date = regexp.MustCompile(`Date: [^\r]*\r\n`)

// wire sends raw to a fresh server and returns what came back: CRLF as a line
// end, the time since the sending in front of bytes that came later, and at the
// end whether the connection was closed or is open. Dates are left out.
func wire(t *testing.T, o HTTP, raw string) string {
	t.Helper()
	var network memnet.Network
	ln, err := network.Listen("echo:80")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeHTTP(ctx, ln, o) }()
	conn, err := network.DialContext(ctx, "tcp", "echo:80")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	conn.SetReadDeadline(start.Add(time.Hour))
	go io.WriteString(conn, raw)
	var out strings.Builder
	at := time.Duration(0)
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if now := time.Since(start); n > 0 && now != at {
			fmt.Fprintf(&out, "[%s]", now)
			at = now
		}
		out.Write(buf[:n])
		if err != nil {
			out.WriteString(map[bool]string{true: "<open>", false: "<closed>"}[errors.Is(err, os.ErrDeadlineExceeded)])
			break
		}
	}
	conn.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return strings.ReplaceAll(date.ReplaceAllString(out.String(), ""), "\r\n", "\n")
}

// What can be asked for, seen on the wire.
func TestBehaviours(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\nContent-Type: text/plain; charset=utf-8\n"
	for _, c := range []struct {
		intention string
		send      string
		want      string
	}{
		{"a body of a size is the pattern", fmt.Sprintf(get, "/?size=70"),
			ok + "Content-Length: 70\n\n" + pattern + "012345<open>"},
		{"a header asks as a query does, in any case", "GET / HTTP/1.1\r\nHost: a\r\nX-ECHO-Size: 3\r\nx-echo-status: 418\r\n\r\n",
			"HTTP/1.1 418 I'm a teapot\nContent-Type: text/plain; charset=utf-8\nContent-Length: 3\n\n012<open>"},
		{"requests on one connection are answered in order", fmt.Sprintf(get, "/?size=1") + fmt.Sprintf(bye, "/?size=2"),
			ok + "Content-Length: 1\n\n0" + ok + "Content-Length: 2\nConnection: close\n\n01<closed>"},
		{"a statusless code is sent all the same", fmt.Sprintf(bye, "/?size=0&status=999"),
			"HTTP/1.1 999 \nContent-Type: text/plain; charset=utf-8\nContent-Length: 0\nConnection: close\n\n<closed>"},
		{"204 has neither body nor length", fmt.Sprintf(get, "/?size=9&status=204"), "HTTP/1.1 204 No Content\n\n<open>"},
		{"HEAD tells the length and sends nothing", "HEAD /?size=9 HTTP/1.1\r\nHost: a\r\n\r\n", ok + "Content-Length: 9\n\n<open>"},
		{"HTTP/1.0 closes", "GET /?size=1 HTTP/1.0\r\n\r\n", ok + "Content-Length: 1\nConnection: close\n\n0<closed>"},

		{"delay before the head", fmt.Sprintf(bye, "/?size=1&delay=2s"), "[2s]" + ok + "Content-Length: 1\nConnection: close\n\n0<closed>"},
		{"delay between head and body", fmt.Sprintf(bye, "/?size=1&body-delay=2s"), ok + "Content-Length: 1\nConnection: close\n\n[2s]0<closed>"},
		{"delay between chunks", fmt.Sprintf(bye, "/?size=5&chunk=2&chunk-delay=1s"), ok + "Content-Length: 5\nConnection: close\n\n01[1s]23[2s]4<closed>"},
		{"chunked", fmt.Sprintf(bye, "/?size=5&chunk=2&framing=chunked"), ok + "Transfer-Encoding: chunked\nConnection: close\n\n2\n01\n2\n23\n1\n4\n0\n\n<closed>"},
		{"the end of the connection ends the body", fmt.Sprintf(get, "/?size=5&framing=close"), ok + "Connection: close\n\n01234<closed>"},
		{"trailers", fmt.Sprintf(bye, "/?size=1&trailer=x-sum:%201&trailer=x-b:2"),
			ok + "Transfer-Encoding: chunked\nTrailer: x-sum\nTrailer: x-b\nConnection: close\n\n1\n0\n0\nx-sum: 1\nx-b: 2\n\n<closed>"},
		{"headers", fmt.Sprintf(bye, "/?size=0&header=X-a:b&header=x-A:c"), ok + "Content-Length: 0\nConnection: close\nX-a: b\nx-A: c\n\n<closed>"},
		{"connection close", fmt.Sprintf(get, "/?size=0&connection=close"), ok + "Content-Length: 0\nConnection: close\n\n<closed>"},
		{"interim answers come before the delay", fmt.Sprintf(bye, "/?size=0&informational=103,102&delay=1s"),
			"HTTP/1.1 103 Early Hints\nX-Interim: 103\n\nHTTP/1.1 102 Processing\nX-Interim: 102\n\n[1s]" + ok + "Content-Length: 0\nConnection: close\n\n<closed>"},

		{"close instead of reading the body", fmt.Sprintf(post, "/?close=request", "Content-Length: 5", "hello"), "<closed>"},
		{"close instead of the answer", fmt.Sprintf(get, "/?close=answer&delay=1s"), "<closed>"},
		{"close after the head", fmt.Sprintf(get, "/?size=9&close=head"), ok + "Content-Length: 9\n\n<closed>"},
		{"close in the middle of the body", fmt.Sprintf(get, "/?size=9&close=body&chunk=3"), ok + "Content-Length: 9\n\n0123<closed>"},
		{"close in the middle of a chunked body", fmt.Sprintf(get, "/?size=9&close=body&chunk=3&framing=chunked"), ok + "Transfer-Encoding: chunked\n\n3\n012\n1\n3\n<closed>"},

		{"fail always", fmt.Sprintf(bye, "/?size=0&fail=1"), "HTTP/1.1 503 Service Unavailable\nContent-Type: text/plain; charset=utf-8\nContent-Length: 0\nConnection: close\n\n<closed>"},
		{"fail more than the chance drawn", fmt.Sprintf(bye, "/?size=0&fail=0.6&fail-status=500"), "HTTP/1.1 500 Internal Server Error\nContent-Type: text/plain; charset=utf-8\nContent-Length: 0\nConnection: close\n\n<closed>"},
		{"fail less than the chance drawn", fmt.Sprintf(bye, "/?size=0&fail=0.4"), ok + "Content-Length: 0\nConnection: close\n\n<closed>"},

		{"100 Continue is sent when asked for", fmt.Sprintf(post, "/?size=0", "Expect: 100-Continue\r\nContent-Length: 2", "ab"),
			"HTTP/1.1 100 Continue\n\n" + ok + "Content-Length: 0\nConnection: close\n\n<closed>"},
		{"or late", fmt.Sprintf(post, "/?size=0&continue-delay=1s", "Expect: 100-continue\r\nContent-Length: 2", "ab"),
			"[1s]HTTP/1.1 100 Continue\n\n" + ok + "Content-Length: 0\nConnection: close\n\n<closed>"},
		{"or never", fmt.Sprintf(post, "/?size=0&continue=never", "Expect: 100-continue\r\nContent-Length: 2", "ab"), ok + "Content-Length: 0\nConnection: close\n\n<closed>"},
		{"or refused", "PUT /?size=0&continue=refuse HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
			"HTTP/1.1 417 Expectation Failed\nContent-Type: text/plain; charset=utf-8\nContent-Length: 0\nConnection: close\n\n<closed>"},
		{"and is not sent for no body", fmt.Sprintf(post, "/?size=0", "Expect: 100-continue", ""), ok + "Content-Length: 0\nConnection: close\n\n<closed>"},

		{"the body comes back, length and type too", fmt.Sprintf(post, "/?body=echo", "Content-Type: text/x\r\nContent-Length: 5", "hello"),
			"HTTP/1.1 200 OK\nContent-Type: text/x\nContent-Length: 5\nConnection: close\n\nhello<closed>"},
		{"a chunked body comes back chunked, by its chunks", fmt.Sprintf(post, "/?body=echo", "Transfer-Encoding: chunked", "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-T: 1\r\n\r\n"),
			"HTTP/1.1 200 OK\nContent-Type: application/octet-stream\nTransfer-Encoding: chunked\nConnection: close\n\n2\nhe\n3\nllo\n0\n\n<closed>"},
		{"slow reading", fmt.Sprintf(post, "/?body=echo&read-size=2&read-delay=1s&framing=chunked", "Content-Length: 3", "abc"),
			"HTTP/1.1 200 OK\nContent-Type: application/octet-stream\nTransfer-Encoding: chunked\nConnection: close\n\n[1s]2\nab\n[2s]1\nc\n[3s]0\n\n<closed>"},
		{"the answer before the body, which is then read", "POST /?size=1&read=after HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab" + fmt.Sprintf(bye, "/?size=2"),
			ok + "Content-Length: 1\n\n0" + ok + "Content-Length: 2\nConnection: close\n\n01<closed>"},
		{"the answer without the body", "POST /?size=1&read=none HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", ok + "Content-Length: 1\nConnection: close\n\n0<closed>"},

		{"no knob, no harm", fmt.Sprintf(bye, "/?size=0&color=red"), ok + "Content-Length: 0\nConnection: close\n\n<closed>"},
	} {
		t.Run(c.intention, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := wire(t, HTTP{Chance: func() float64 { return 0.5 }}, c.send)
				if want := strings.ReplaceAll(c.want, "\r\n", "\n"); got != want {
					t.Errorf("sent %q\n got %q\nwant %q", c.send, got, want)
				}
			})
		})
	}
}

// What a proxy must never send is answered with the reason, and nothing after it
// is taken for a request.
func TestBadRequests(t *testing.T) {
	for _, c := range []struct{ send, reason string }{
		{"GET / HTTP/1.1\nHost: a\n\n", "ends in LF without CR"},
		{"GET  / HTTP/1.1\r\n", "is not METHOD TARGET VERSION"},
		{"G{T / HTTP/1.1\r\n", "is not METHOD TARGET VERSION"},
		{"GET / HTTP/2.0\r\n", "version"},
		{"CONNECT a:1 HTTP/1.1\r\n", "CONNECT"},
		{"GET / HTTP/1.1\r\n\r\n", "0 Host fields"},
		{"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "2 Host fields"},
		{"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "NAME: VALUE"},
		{"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "NAME: VALUE"},
		{"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "NUL, CR or LF"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", "NUL, CR or LF"},
		{"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead), "more than 65536 bytes"},
		{fmt.Sprintf(post, "/", "Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), "both Transfer-Encoding and Content-Length"},
		{fmt.Sprintf(post, "/", "Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), "is not chunked"},
		{fmt.Sprintf(post, "/", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), "is not chunked"},
		{"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "in HTTP/1.0"},
		{fmt.Sprintf(post, "/", "Content-Length: 1\r\nContent-Length: 1", "a"), "is not one number"},
		{fmt.Sprintf(post, "/", "Content-Length: +1", "a"), "is not one number"},
		{fmt.Sprintf(post, "/", "Content-Length: 99999999999999999999", "a"), "is not one number"},
		{fmt.Sprintf(post, "/", "Transfer-Encoding: chunked", "0x1\r\na\r\n"), "chunk size"},
		{fmt.Sprintf(post, "/", "Transfer-Encoding: chunked", "1\r\nab\r\n"), "after the data of a chunk"},
		{fmt.Sprintf(post, "/", "Transfer-Encoding: chunked", "0\r\nX Y: 1\r\n\r\n"), "NAME: VALUE"},

		{fmt.Sprintf(get, "/?delay=soon"), "delay=soon: want a duration"},
		{fmt.Sprintf(get, "/?delay=-1s"), "delay=-1s: want a duration"},
		{fmt.Sprintf(get, "/?status=99"), "status=99: want a number from 200 to 999"},
		{fmt.Sprintf(get, "/?fail=NaN"), "want a probability"},
		{fmt.Sprintf(get, "/?close=now"), "want one of request, answer, head, body"},
		{fmt.Sprintf(get, "/?header=a:%0d%0ab:c"), "NUL, CR or LF"},
		{fmt.Sprintf(get, "/?trailer=a:b&framing=length"), "trailer needs framing=chunked"},
		{fmt.Sprintf(get, "/?informational=101"), "want a number from 102 to 199"},
		{fmt.Sprintf(get, "/?size=%zz"), "query: "},
		{"GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Dealy: 1s\r\n\r\n", "X-Echo-Dealy: there is no such behaviour; known are body, "},
		{fmt.Sprintf(post, "/?body=echo&framing=length", "Transfer-Encoding: chunked", "0\r\n\r\n"), "needs a request with Content-Length"},
	} {
		synctest.Test(t, func(t *testing.T) {
			got := wire(t, HTTP{}, c.send+fmt.Sprintf(get, "/?size=9"))
			head, body, _ := strings.Cut(got, "\n\n")
			var answer struct{ Error string }
			if err := json.Unmarshal([]byte(strings.TrimSuffix(body, "<closed>")), &answer); err != nil || !strings.HasPrefix(head, "HTTP/1.1 400 ") || !strings.Contains(answer.Error, c.reason) {
				t.Errorf("sent %.200q\n got %q\nwant 400 %q, and the end", c.send, got, c.reason)
			}
		})
	}
}

// The report keeps what net/http would lose: order, case, repetition.
func TestReport(t *testing.T) {
	send := "POST /a%20b?x=1&x=2&y HTTP/1.1\r\nhOST: shop\r\nx-b: 2 \r\nX-A:1\r\nx-b: 3\r\n" +
		"x-forwarded-client-cert: By=spiffe://td/ns/a/sa/x;Hash=00;Subject=\"CN=a,O=\\\"b;c\\\"\";URI=spiffe://td/ns/a/sa/far,By=spiffe://td/ns/b/sa/y;URI=spiffe://td/ns/a/sa/near;DNS=one;DNS=two\r\n" +
		"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 4\r\n\r\n"
	synctest.Test(t, func(t *testing.T) {
		got := wire(t, HTTP{Version: "v2", Hostname: "pod-1"}, fmt.Sprintf(get, "/?size=0")+send)
		_, second, _ := strings.Cut(got, "\n\n")
		_, body, _ := strings.Cut(second, "\n\n")
		var r Report
		if err := json.Unmarshal([]byte(strings.TrimSuffix(body, "<closed>")), &r); err != nil {
			t.Fatalf("%v in %q", err, got)
		}
		xfcc := r.Header("X-Forwarded-Client-Cert")
		want := Report{
			Method: "POST", Target: "/a%20b?x=1&x=2&y", Path: "/a%20b", Query: map[string][]string{"x": {"1", "2"}, "y": {""}}, Proto: "HTTP/1.1", Host: "shop",
			Headers:  []Field{{"hOST", "shop"}, {"x-b", "2"}, {"X-A", "1"}, {"x-b", "3"}, {"x-forwarded-client-cert", xfcc}, {"Transfer-Encoding", "chunked"}, {"Connection", "close"}},
			Trailers: []Field{{"X-Sum", "4"}},
			Body:     &Body{Bytes: 4, SHA256: "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589", Framing: "chunked", Text: "abcd"},
			Peer:     r.Peer, Local: r.Local, Connection: 1, Request: 2,
			Hostname: "pod-1", Version: "v2", Identity: "spiffe://td/ns/a/sa/near",
			Clients: []ClientCert{
				{By: "spiffe://td/ns/a/sa/x", Hash: "00", Subject: `CN=a,O="b;c"`, URI: "spiffe://td/ns/a/sa/far"},
				{By: "spiffe://td/ns/b/sa/y", URI: "spiffe://td/ns/a/sa/near", DNS: []string{"one", "two"}},
			},
		}
		if diff := gocmp.Diff(want, r); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}
		if r.Peer == "" || r.Local == "" {
			t.Errorf("peer %q, local %q", r.Peer, r.Local)
		}
	})
}

func TestReportForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := wire(t, HTTP{Version: "v2", Hostname: "pod-1"}, fmt.Sprintf(post, "/?format=text", "Content-Length: 1", "a"))
		for _, want := range []string{"\nPOST /?format=text HTTP/1.1\nHost: a\n", "body: 1 bytes, length, sha256 ca978112", "served by: pod-1 v2\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("report lacks %q:\n%s", want, got)
			}
		}
	})
}

// A body of any size is counted and hashed, and quoted up to a limit that does
// not cut a character apart.
func TestLongBody(t *testing.T) {
	body := "x" + strings.Repeat("é", maxText)
	synctest.Test(t, func(t *testing.T) {
		got := wire(t, HTTP{}, fmt.Sprintf(post, "/", fmt.Sprintf("Content-Length: %d", len(body)), body))
		var r Report
		_, js, _ := strings.Cut(got, "\n\n")
		if err := json.Unmarshal([]byte(strings.TrimSuffix(js, "<closed>")), &r); err != nil {
			t.Fatal(err)
		}
		if want := body[:maxText-1]; r.Body.Bytes != int64(len(body)) || r.Body.Text != want {
			t.Errorf("%d bytes, quoted %d; want %d and %d", r.Body.Bytes, len(r.Body.Text), len(body), len(want))
		}
	})
}

// startHTTP serves on a real port.
func startHTTP(t *testing.T, o HTTP) (address string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeHTTP(ctx, ln, o) }()
	return ln.Addr().String(), func() error { cancel(); return <-ended }
}

// RST and FIN differ, on real sockets, at each point.
func TestReset(t *testing.T) {
	for _, c := range []struct {
		query string
		want  string // beginning of what arrives before the reset; RST may discard it
	}{
		{"/?reset=request", ""}, {"/?reset=answer", ""}, {"/?reset=head&size=9", "HTTP/1.1 200"}, {"/?reset=body&size=100000", "HTTP/1.1 200"},
	} {
		address, stop := startHTTP(t, HTTP{})
		conn := dial(t, address)
		fmt.Fprintf(conn, get, c.query)
		got, err := io.ReadAll(conn)
		if !errors.Is(err, syscall.ECONNRESET) || !strings.HasPrefix(c.want, string(got[:min(len(got), len(c.want))])) {
			t.Errorf("%s: %.40q, %v", c.query, got, err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

// net/http, which is lenient where it may be, finds nothing to complain about.
func TestWithNetHTTP(t *testing.T) {
	address, stop := startHTTP(t, HTTP{})
	transport := &http.Transport{}
	for i, query := range []string{"", "?size=100000&chunk=999&framing=chunked&trailer=x-sum:1", "?body=echo", "?informational=103&size=10"} {
		body := strings.NewReader("hello")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/"+query, body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d, %v", query, res.StatusCode, err)
		}
		switch i {
		case 0:
			var r Report
			if err := json.Unmarshal(got, &r); err != nil || r.Body.Text != "hello" || r.Connection != 1 {
				t.Errorf("report %s, %v", got, err)
			}
		case 1:
			want, _ := io.ReadAll(Pattern(100000))
			if string(got) != string(want) || res.Trailer.Get("X-Sum") != "1" {
				t.Errorf("%d bytes, trailer %v", len(got), res.Trailer)
			}
		case 2:
			if string(got) != "hello" {
				t.Errorf("echo %q", got)
			}
		}
	}
	transport.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// On the end of its context the server finishes what it is at, for as long as it
// was told, and cuts the rest.
func TestStopHTTP(t *testing.T) {
	for _, c := range []struct {
		intention string
		finish    time.Duration
		send      string
		took      time.Duration
		want      string // beginning
	}{
		{"an idle connection is closed at once", time.Minute, "", 0, "<closed>"},
		{"an answer under way is finished, and says goodbye", time.Minute, fmt.Sprintf(get, "/?size=3&delay=10s"), 10 * time.Second, "HTTP/1.1 200 OK\nContent-Type: text/plain; charset=utf-8\nContent-Length: 3\nConnection: close\n\n012<closed>"},
		{"but not for ever", time.Second, fmt.Sprintf(get, "/?size=3&delay=10s"), time.Second, "<closed>"},
		{"nor if nobody asked for that", 0, fmt.Sprintf(get, "/?size=3&delay=10s"), 0, "<closed>"},
	} {
		t.Run(c.intention, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network memnet.Network
				ln, err := network.Listen("echo:80")
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- ServeHTTP(ctx, ln, HTTP{Finish: c.finish}) }()
				conn, err := network.DialContext(ctx, "tcp", "echo:80")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				io.WriteString(conn, c.send)
				synctest.Wait()
				start := time.Now()
				cancel()
				got, _ := io.ReadAll(conn)
				text := strings.ReplaceAll(date.ReplaceAllString(string(got), ""), "\r\n", "\n") + "<closed>"
				if text != c.want || time.Since(start) != c.took {
					t.Errorf("%q after %s, want %q after %s", text, time.Since(start), c.want, c.took)
				}
				conn.Close()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f.Add(fmt.Sprintf(post, "/", "Transfer-Encoding: chunked", "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-T: 1\r\n\r\n"))
	f.Add(fmt.Sprintf(post, "/?status=200", "Content-Length: 3", "abc"))
	f.Add("GET /?delay=1s&close=body HTTP/1.0\r\nx-echo-status: 204\r\n\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		in := strings.NewReader(raw)
		r := bufio.NewReader(in)
		req, err := readRequest(r)
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, req.body)
		if err == nil && req.length > 0 && n != req.length {
			t.Errorf("read %d bytes of a body of %d", n, req.length)
		}
		if b, err := behaviourOf(req); err == nil && (b.Status < 200 || b.Status > 999 || b.Chunk < 1 || b.ReadSize < 1) {
			t.Errorf("behaviour %+v", b)
		}
	})
}

// What stands in quotes cannot become an identity.
func FuzzClientCerts(f *testing.F) {
	f.Add(`By=spiffe://a;Hash=0;Subject="CN=\"x\",O=y;z";URI=spiffe://b,URI="c"`)
	f.Add(`"`)
	f.Add(`a="\`)
	f.Fuzz(func(t *testing.T, header string) {
		clientCerts(header)
		quoted := fmt.Sprintf(`Subject="%s";URI=u`, strings.NewReplacer(`\`, "", `"`, `\"`).Replace(header))
		if got := clientCerts(quoted); len(got) != 1 || got[0].URI != "u" {
			t.Errorf("%q became %+v", quoted, got)
		}
	})
}
