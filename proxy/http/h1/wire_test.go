package h1

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/weirmesh/weir/proxy/http/message"
)

// TestWire runs testdata/*: bytes in, events, bytes out. Only commit changes of
// the expected output if you understand what caused them and if they are desired.
//
// Input lines end with CRLF. Within a line the escapes of Go strings are read,
// and a line ending in \c has no CRLF behind it (the runner cuts empty lines at
// the end, so a head ends with a line that is only \c). Commands:
//
//	request [head=N] [fields=N] [names=N]     requests a server receives, one after the other
//	response [to=METHOD] [upgrade] [head=N]   responses a client receives
//	                                          eof: the connection ends after the input
//
// In the output '<' marks bytes as the encoder of the other side writes them.
func TestWire(t *testing.T) {
	datadriven.Walk(t, "testdata/wire", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			in := wireBytes(t, d.Input)
			s := session{response: d.Cmd == "response", eof: d.HasArg("eof"), method: message.GET}
			d.MaybeScanArgs(t, "head", &s.limits.HeadBytes)
			d.MaybeScanArgs(t, "fields", &s.limits.Fields)
			if d.HasArg("to") {
				var m string
				d.ScanArgs(t, "to", &m)
				s.method = message.MethodOf([]byte(m))
			}
			s.upgrade = d.HasArg("upgrade")
			whole := s.run([][]byte{in})
			for i := 1; i < len(in); i++ {
				if got := s.run([][]byte{in[:i], in[i:]}); got != whole {
					t.Fatalf("%s: split at %d gives\n%s\ninstead of\n%s", d.Pos, i, got, whole)
				}
			}
			bytewise := make([][]byte, len(in))
			for i := range in {
				bytewise[i] = in[i : i+1]
			}
			if got := s.run(bytewise); got != whole {
				t.Fatalf("%s: byte by byte gives\n%s\ninstead of\n%s", d.Pos, got, whole)
			}
			return whole
		})
	})
}

var takesAll = Rules{HTTP10: true}

func wireBytes(t *testing.T, text string) []byte {
	var b []byte
	for line := range strings.SplitSeq(text, "\n") {
		end := "\r\n"
		if l, ok := strings.CutSuffix(line, `\c`); ok {
			line, end = l, ""
		}
		s, err := strconv.Unquote(`"` + strings.ReplaceAll(line, `"`, `\"`) + `"`)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		b = append(append(b, s...), end...)
	}
	return b
}

// session decodes one direction and encodes it again as the other side of a proxy would.
type session struct {
	response, eof, upgrade bool
	method                 message.Method
	limits                 Limits

	out   strings.Builder
	wire  []byte
	body  []byte
	trail message.Headers
}

func (s session) run(chunks [][]byte) string {
	s.out = strings.Builder{}
	var (
		d    Decoder
		e    Encoder
		a    message.Arena
		req  message.Request
		resp message.Response
		have []byte
	)
	asked := message.Request{Method: s.method}
	if s.upgrade {
		asked.Upgrade = []byte("websocket")
	}
	begin := func() {
		s.wire, s.body = nil, nil
		a.Reset()
		req.Reset()
		resp.Reset()
		s.trail.Reset()
		if s.response {
			d.StartResponse(&resp, &s.trail, &a, s.limits, nil, &asked)
		} else {
			d.StartRequest(&req, &s.trail, &a, s.limits, &takesAll)
		}
	}
	finish := func() {
		if len(s.body) > 0 {
			fmt.Fprintf(&s.out, "body %q\n", s.body)
		}
		if s.trail.Len() > 0 {
			fmt.Fprintf(&s.out, "trailers%s\n", show(&s.trail))
		}
		wire, complete := e.End(s.wire, &s.trail)
		fmt.Fprintf(&s.out, "end complete=%v\n", complete)
		for _, l := range strings.SplitAfter(string(wire), "\n") {
			if l != "" {
				fmt.Fprintf(&s.out, "< %s\n", strings.TrimSuffix(strconv.Quote(l)[1:], `"`))
			}
		}
	}
	begin()
	drain := func() bool {
		for {
			n, data, ev := d.Step(have)
			have = have[n:]
			switch ev {
			case More:
				return true
			case Failed:
				r := d.Reason()
				fmt.Fprintf(&s.out, "refused: %v (%d)\n", r, r.Status())
				return false
			case Head:
				if s.response {
					fmt.Fprintf(&s.out, "head %d length=%d nobody=%v keepalive=%v", resp.Status, resp.ContentLength, resp.NoBody, d.KeepAlive())
					if resp.Upgrade != nil {
						fmt.Fprintf(&s.out, " upgrade=%s", resp.Upgrade)
					}
					fmt.Fprintln(&s.out, show(&resp.Headers))
					s.wire = e.Response(s.wire, &resp, &asked, d.KeepAlive())
					if resp.Status < 200 && resp.Status != 101 {
						finish()
						begin()
					}
					continue
				}
				fmt.Fprintf(&s.out, "head %s", req.RawMethod)
				if req.Scheme != nil {
					fmt.Fprintf(&s.out, " %s:", req.Scheme)
				}
				fmt.Fprintf(&s.out, " //%s %s %v length=%d nobody=%v keepalive=%v", req.Authority, req.Path, req.Protocol, req.ContentLength, req.NoBody, d.KeepAlive())
				if req.Upgrade != nil {
					fmt.Fprintf(&s.out, " upgrade=%s", req.Upgrade)
				}
				if req.Continue {
					s.out.WriteString(" continue")
				}
				fmt.Fprintln(&s.out, show(&req.Headers))
				s.wire = e.Request(s.wire, &req, false)
			case Data:
				s.body = append(s.body, data...)
			case End:
				// The body goes out in one piece, so that the output does not depend on how it came in.
				s.flushBody(&e)
				finish()
				begin()
			}
		}
	}
	for _, c := range chunks {
		have = append(have, c...)
		if !drain() {
			return s.out.String()
		}
	}
	switch {
	case d.state != start || len(have) > 0:
		if s.eof {
			if d.EOF() == End {
				s.flushBody(&e)
				finish()
			} else {
				fmt.Fprintf(&s.out, "refused at the end: %v\n", d.Reason())
			}
		} else {
			fmt.Fprintf(&s.out, "waiting, %d bytes unused, body %q\n", len(have), s.body)
		}
	}
	return s.out.String()
}

func (s *session) flushBody(e *Encoder) {
	if len(s.body) == 0 {
		return
	}
	w, ok := e.Prefix(s.wire, len(s.body))
	if !ok {
		s.out.WriteString("encoder refuses the body\n")
	}
	s.wire = e.Suffix(append(w, s.body...))
}

func show(h *message.Headers) string {
	var b strings.Builder
	for _, f := range h.Fields() {
		fmt.Fprintf(&b, " [%s: %s]", f.Name, f.Value)
	}
	return b.String()
}

// Every reason can be given, has its texts, and only responses answer 502.
func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for r := OK + 1; r < numReasons; r++ {
		if r.String() == "" || r.Status() < 400 || r.Sentence() == "" || seen[r.String()] {
			t.Errorf("reason %d: name %q status %d sentence %q", r, r, r.Status(), r.Sentence())
		}
		seen[r.String()] = true
	}
}

// A head that arrives byte by byte must not be searched from its start each
// time: the work may only grow with the bytes received.
func TestNoRescan(t *testing.T) {
	var d Decoder
	var a message.Arena
	var req message.Request
	d.StartRequest(&req, &message.Headers{}, &a, Limits{}, nil)
	in := []byte("GET /" + strings.Repeat("a", 50000))
	for i := range in {
		if n, _, ev := d.Step(in[:i+1]); n != 0 || ev != More {
			t.Fatalf("at %d: used %d, event %v", i, n, ev)
		}
		if d.scanned != int32(i+1) {
			t.Fatalf("at %d: only %d bytes are marked as searched", i, d.scanned)
		}
	}
}

const typicalRequest = "GET /api/v1/products/17/reviews?page=3 HTTP/1.1\r\n" +
	"Host: reviews.default.svc.cluster.local:9080\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Encoding: gzip, deflate\r\n" +
	"Cookie: session=eyJ1c2VyIjoiamFzb24ifQ.aAbBcC; theme=dark\r\n" +
	"X-Request-Id: 0c7cd0b4-3f21-4d2b-9a55-5f0b7cfe5e21\r\n" +
	"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n" +
	"end-user: jason\r\n" +
	"\r\n"

func TestSteadyStateAllocatesNothing(t *testing.T) {
	var b bench
	if n := testing.AllocsPerRun(100, func() { b.request(t) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

type bench struct {
	d     Decoder
	e     Encoder
	a     message.Arena
	req   message.Request
	trail message.Headers
	out   []byte
}

func (x *bench) request(t testing.TB) {
	x.a.Reset()
	x.req.Reset()
	x.d.StartRequest(&x.req, &x.trail, &x.a, Limits{}, nil)
	if _, _, ev := x.d.Step(typical); ev != Head {
		t.Fatal(ev, x.d.Reason())
	}
	x.out = x.e.Request(x.out[:0], &x.req, false)
}

var typical = []byte(typicalRequest)

func BenchmarkRequestHead(b *testing.B) {
	var x bench
	b.ReportAllocs()
	b.SetBytes(int64(len(typical)))
	for b.Loop() {
		x.request(b)
	}
}

func BenchmarkRequestHeadSmall(b *testing.B) {
	var x bench
	small := []byte("GET / HTTP/1.1\r\nHost: 127.0.0.1:8110\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		x.a.Reset()
		x.req.Reset()
		x.d.StartRequest(&x.req, &x.trail, &x.a, Limits{}, nil)
		if _, _, ev := x.d.Step(small); ev != Head {
			b.Fatal(ev)
		}
		x.out = x.e.Request(x.out[:0], &x.req, false)
	}
}

func BenchmarkResponseHead(b *testing.B) {
	var x bench
	var resp message.Response
	in := []byte("HTTP/1.1 200 OK\r\nServer: gunicorn\r\nDate: Fri, 20 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nX-Envoy-Upstream-Service-Time: 3\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		x.a.Reset()
		resp.Reset()
		x.d.StartResponse(&resp, &x.trail, &x.a, Limits{}, nil, &x.req)
		if _, _, ev := x.d.Step(in); ev != Head {
			b.Fatal(ev)
		}
		x.out = x.e.Response(x.out[:0], &resp, &x.req, true)
	}
}

func BenchmarkNetHTTPRequestHead(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readNetHTTP(bytes.NewReader(typical)); err != nil {
			b.Fatal(err)
		}
	}
}

// Eight bytes at a time must see what one byte at a time sees, at every offset.
func TestCheckValue(t *testing.T) {
	for n := range 40 {
		for at := range n {
			for c := range 256 {
				v := bytes.Repeat([]byte{'a'}, n)
				v[at] = byte(c)
				want := OK
				switch {
				case c == 0:
					want = NULByte
				case c == '\r':
					want = BareCR
				case c < ' ' && c != '\t' || c == 0x7f:
					want = InvalidFieldValue
				}
				if got := checkValue(v); got != want {
					t.Fatalf("%q: %v, want %v", v, got, want)
				}
			}
		}
	}
}
