package echo

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// headTimeout bounds how long a head may take to arrive.
	headTimeout = time.Minute

	// idleTimeout is longer than the hour after which Istio-style proxies drop an
	// idle upstream connection, so that the proxy closes first.
	idleTimeout = 75 * time.Minute

	// maxText is how much of a request's body the report quotes.
	maxText = 4 << 10
)

// HTTP configures ServeHTTP.
type HTTP struct {
	Version  string // reported, "v1"
	Hostname string // reported

	// Chance draws numbers from [0,1) for ?fail=. nil: math/rand.
	Chance func() float64

	// Finish is how long exchanges may go on after the server's context has ended;
	// 0 cuts them.
	Finish time.Duration
}

// ServeHTTP serves HTTP/1.1 (and 1.0) on ln, which it owns, until ctx ends.
// Connections that are idle then are closed, others after their answer.
func ServeHTTP(ctx context.Context, ln net.Listener, o HTTP) error {
	if o.Chance == nil {
		o.Chance = rand.Float64
	}
	return serve(ctx, ln, o.Finish, func(stop, life context.Context, conn net.Conn, number uint64) {
		c := &httpConn{HTTP: o, conn: conn, number: number, r: bufio.NewReader(conn), w: bufio.NewWriter(conn)}
		defer context.AfterFunc(stop, c.stop)()
		c.serve(life)
	})
}

// httpConn is one connection. Its goroutine owns everything but the fields after mu.
type httpConn struct {
	HTTP
	conn     net.Conn
	number   uint64
	requests uint64
	r        *bufio.Reader
	w        *bufio.Writer

	mu       sync.Mutex
	idle     bool // between exchanges
	stopping bool
}

// stop ends the connection now if it is idle, otherwise after its exchange.
func (c *httpConn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if c.idle {
		c.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *httpConn) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

// await waits for the first byte of a request.
func (c *httpConn) await() bool {
	c.mu.Lock()
	if c.stopping {
		c.mu.Unlock()
		return false
	}
	c.idle = true
	c.conn.SetReadDeadline(time.Now().Add(idleTimeout))
	c.mu.Unlock()

	_, err := c.r.Peek(1)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = false
	c.conn.SetReadDeadline(time.Now().Add(headTimeout))
	return err == nil
}

// serve runs exchanges until one ends the connection.
func (c *httpConn) serve(life context.Context) {
	for c.await() {
		req, err := readRequest(c.r)
		c.conn.SetReadDeadline(time.Time{})
		c.requests++
		x := &exchange{httpConn: c, life: life, req: req}
		if err == nil {
			x.behaviour, err = behaviourOf(req)
		}
		if err == nil {
			err = x.run()
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, errFinish):
			finish(c.conn)
		case errors.Is(err, errReset):
			reset(c.conn)
		default:
			var bad badRequest
			if errors.As(err, &bad) && !x.answered {
				x.refuse(bad)
				finish(c.conn)
			}
		}
		return
	}
}

// How an exchange ends the connection; any other error means that the peer did.
var (
	errFinish = errors.New("close")
	errReset  = errors.New("reset")
)

// exchange is one request and its answer.
type exchange struct {
	*httpConn
	*behaviour
	life     context.Context
	req      *request
	answered bool // bytes of the final answer may have been sent
	close    bool // the connection ends with the answer
}

// run is the exchange, in the order in which things happen on the wire.
func (x *exchange) run() error {
	if err := x.end(atRequest); err != nil {
		return err
	}
	if x.Fail > 0 && x.Chance() < x.Fail {
		x.Status = x.FailStatus
	}
	refused, err := x.expect()
	if err != nil {
		return err
	}
	x.close = refused || x.CloseAfter || x.ReadBody == "none" && x.req.length != 0 ||
		x.req.proto == "HTTP/1.0" || x.req.has("connection", "close")

	report := x.report()
	if x.ReadBody == "before" && !x.EchoBody && !refused {
		if report.Body, err = x.readBody(); err != nil {
			return err
		}
		report.Trailers = x.req.trailers
	}
	if err := x.end(atAnswer); err != nil {
		return err
	}
	if err := x.inform(); err != nil {
		return err
	}
	if err := x.sleep(x.Delay); err != nil {
		return err
	}
	if err := x.answer(report); err != nil {
		return err
	}
	if x.close {
		return errFinish
	}
	if x.ReadBody == "after" {
		_, err = x.readBody()
	}
	return err
}

// end ends the connection, if it is to end at this point.
func (x *exchange) end(at point) error {
	if x.EndAt != at {
		return nil
	}
	x.answered = true
	if err := x.w.Flush(); err != nil {
		return err
	}
	if x.End == endReset {
		return errReset
	}
	return errFinish
}

// expect answers Expect: 100-continue (RFC 9110, 10.1.1); it reports whether the
// body was refused.
func (x *exchange) expect() (refused bool, err error) {
	if !x.req.has("expect", "100-continue") || x.req.length == 0 || x.ReadBody == "none" {
		return false, nil
	}
	switch x.Continue {
	case "refuse":
		x.Status = http.StatusExpectationFailed
		return true, nil
	case "auto":
		if err := x.sleep(x.ContinueDelay); err != nil {
			return false, err
		}
		io.WriteString(x.w, "HTTP/1.1 100 Continue\r\n\r\n")
		return false, x.w.Flush()
	}
	return false, nil
}

// slowBody reads the request's body as slowly as was asked.
type slowBody struct{ *exchange }

func (b slowBody) Read(p []byte) (int, error) {
	if err := b.sleep(b.ReadDelay); err != nil {
		return 0, err
	}
	return b.req.body.Read(p[:min(len(p), b.ReadSize)])
}

// readBody reads the request's body to its end.
func (x *exchange) readBody() (*Body, error) {
	sum, text := sha256.New(), &beginning{}
	n, err := io.Copy(io.MultiWriter(sum, text), slowBody{x})
	b := &Body{Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil)), Framing: "none", Text: text.utf8(n)}
	switch {
	case x.req.length < 0:
		b.Framing = "chunked"
	case len(values(x.req.fields, "content-length")) > 0:
		b.Framing = "length"
	}
	return b, err
}

// inform sends the interim answers.
func (x *exchange) inform() error {
	if len(x.Informational) == 0 || x.req.proto == "HTTP/1.0" {
		return nil
	}
	for _, status := range x.Informational {
		fmt.Fprintf(x.w, "HTTP/1.1 %d %s\r\nX-Interim: %d\r\n\r\n", status, http.StatusText(status), status)
	}
	return x.w.Flush()
}

// answer sends head and body.
func (x *exchange) answer(report *Report) error {
	body, length, kind := x.content(report)
	framing := x.Framing
	switch {
	case bodyless(x.Status):
		body, length, framing = strings.NewReader(""), 0, "none"
	case framing == "" && len(x.Trailers) > 0, framing == "" && length < 0 && x.req.proto != "HTTP/1.0":
		framing = "chunked"
	case framing == "" && length < 0:
		framing = "close"
	}
	x.close = x.close || framing == "close" || x.stopped()

	x.answered = true
	fmt.Fprintf(x.w, "HTTP/1.1 %d %s\r\nDate: %s\r\n", x.Status, http.StatusText(x.Status), time.Now().UTC().Format(http.TimeFormat))
	if framing != "none" {
		fmt.Fprintf(x.w, "Content-Type: %s\r\n", kind)
	}
	switch framing {
	case "", "length":
		fmt.Fprintf(x.w, "Content-Length: %d\r\n", length)
	case "chunked":
		io.WriteString(x.w, "Transfer-Encoding: chunked\r\n")
	}
	for _, f := range x.Trailers {
		fmt.Fprintf(x.w, "Trailer: %s\r\n", f.Name)
	}
	if x.close {
		io.WriteString(x.w, "Connection: close\r\n")
	}
	writeFields(x.w, x.Headers)
	if x.req.method == http.MethodHead || framing == "none" {
		if err := x.end(atHead); err != nil {
			return err
		}
		return x.w.Flush()
	}
	if x.EndAt == atHead || x.BodyDelay > 0 {
		if err := x.w.Flush(); err != nil {
			return err
		}
	}
	if err := x.end(atHead); err != nil {
		return err
	}
	if err := x.sleep(x.BodyDelay); err != nil {
		return err
	}
	if err := x.send(body, length, framing == "chunked"); err != nil {
		return err
	}
	if framing == "chunked" {
		io.WriteString(x.w, "0\r\n")
		writeFields(x.w, x.Trailers)
	}
	return x.w.Flush()
}

// content is the answer's body, its length (-1: not known) and its type.
func (x *exchange) content(report *Report) (io.Reader, int64, string) {
	switch {
	case x.EchoBody:
		kind := cmp.Or(strings.Join(values(x.req.fields, "content-type"), ", "), "application/octet-stream")
		return slowBody{x}, x.req.length, kind
	case x.Size >= 0:
		return Pattern(x.Size), x.Size, "text/plain; charset=utf-8"
	case x.Text:
		text := string(report.text())
		return strings.NewReader(text), int64(len(text)), "text/plain; charset=utf-8"
	}
	text := string(report.json())
	return strings.NewReader(text), int64(len(text)), "application/json"
}

// send sends the body in chunks, on the wire one by one if that can be told apart.
func (x *exchange) send(body io.Reader, length int64, chunked bool) error {
	buf := make([]byte, x.Chunk)
	sent := int64(0)
	for first := true; ; first = false {
		room := buf
		if x.EndAt == atBody && length > 0 { // half of it, exactly
			room = room[:min(int64(len(room)), length/2-sent)]
			if len(room) == 0 {
				return x.end(atBody)
			}
		}
		n, err := body.Read(room)
		if n > 0 {
			if !first {
				if err := x.sleep(x.ChunkDelay); err != nil {
					return err
				}
			}
			if chunked {
				fmt.Fprintf(x.w, "%x\r\n", n)
			}
			x.w.Write(room[:n])
			if chunked {
				io.WriteString(x.w, "\r\n")
			}
			sent += int64(n)
			if x.ChunkDelay > 0 || x.EchoBody {
				if err := x.w.Flush(); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return x.end(atBody) // of a body with no length or nothing in it
		}
		if err != nil {
			return err
		}
	}
}

func (x *exchange) report() *Report {
	query, _ := url.ParseQuery(x.req.query) // behaviourOf has refused a bad one
	r := &Report{
		Method: x.req.method, Target: x.req.target, Path: x.req.path, Query: query, Proto: x.req.proto,
		Host: strings.Join(values(x.req.fields, "host"), ", "), Headers: x.req.fields,
		Peer: x.conn.RemoteAddr().String(), Local: x.conn.LocalAddr().String(), Connection: x.number, Request: x.requests,
		Hostname: x.Hostname, Version: x.Version,
	}
	for _, v := range values(x.req.fields, "x-forwarded-client-cert") {
		r.Clients = append(r.Clients, clientCerts(v)...)
	}
	if n := len(r.Clients); n > 0 {
		r.Identity = r.Clients[n-1].URI
	}
	return r
}

// refuse answers 400 with the reason, and ends the connection: what follows on it
// cannot be trusted to be a request.
func (x *exchange) refuse(reason badRequest) {
	text, err := json.Marshal(struct {
		Error string `json:"error"`
	}{reason.Error()})
	if err != nil {
		return
	}
	fmt.Fprintf(x.w, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n", len(text)+1, text)
	x.w.Flush()
}

// sleep sends what is buffered, so that it is on the wire before the pause.
func (x *exchange) sleep(d time.Duration) error {
	if d == 0 {
		return nil
	}
	if err := x.w.Flush(); err != nil {
		return err
	}
	select {
	case <-time.After(d):
		return nil
	case <-x.life.Done():
		return errReset
	}
}

func writeFields(w io.Writer, fields []Field) {
	for _, f := range fields {
		fmt.Fprintf(w, "%s: %s\r\n", f.Name, f.Value)
	}
	io.WriteString(w, "\r\n")
}

// beginning keeps the first maxText bytes written to it.
type beginning []byte

func (b *beginning) Write(p []byte) (int, error) {
	if room := maxText - len(*b); room > 0 {
		*b = append(*b, p[:min(len(p), room)]...)
	}
	return len(p), nil
}

// utf8 returns the beginning of a text of n bytes, "" if it is no UTF-8.
func (b *beginning) utf8(n int64) string {
	text := *b
	for cut := 0; n > int64(len(*b)) && cut < utf8.UTFMax-1 && !utf8.Valid(text); cut++ {
		text = text[:len(text)-1] // a character that was cut apart
	}
	if !utf8.Valid(text) {
		return ""
	}
	return string(text)
}
