package soak_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// traffic is what a workload does to the application.
type traffic struct {
	dial          func(ctx context.Context, target string) (net.Conn, error)
	roots         *tls.Config
	one, new, two *http.Client // HTTP/1.1, with a connection for each request, HTTP/2
}

func newTraffic(w *mesh.Workload, roots *tls.Config) *traffic {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	dial := func(ctx context.Context, _, target string) (net.Conn, error) { return w.Dial(ctx, target) }
	client := func(t *http.Transport) *http.Client {
		t.DialContext, t.DisableCompression = dial, true
		return &http.Client{Transport: t}
	}
	return &traffic{w.Dial, roots, client(&http.Transport{MaxIdleConnsPerHost: 8}), client(&http.Transport{DisableKeepAlives: true}),
		client(&http.Transport{Protocols: h2c})}
}

// end closes the connections that are kept.
func (x *traffic) end() {
	x.one.CloseIdleConnections()
	x.two.CloseIdleConnections()
}

// Where the application is.
const (
	app1 = "http://app:8080" // HTTP/1.1
	app2 = "http://app:8081" // HTTP/2
)

// pace is the time between one thing and the next of its kind: a soak is no load test.
const pace = 10 * time.Millisecond

// kinds are things to do until they are done. An error is one too many: what misbehaves itself expects nothing but an end.
func (x *traffic) kinds() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"small requests":                        x.small,
		"small requests, a connection for each": func(ctx context.Context) error { return x.ask(ctx, x.new, app1+"/") },
		"small requests of HTTP/2":              func(ctx context.Context) error { return x.ask(ctx, x.two, app2+"/") },
		"bodies there and back":                 func(ctx context.Context) error { return x.echo(ctx, x.one, app1, somewhere(rand.IntN(256<<10)), 0) },
		"bodies there and back, HTTP/2":         func(ctx context.Context) error { return x.echo(ctx, x.two, app2, somewhere(rand.IntN(256<<10)), 0) },
		"slow writers":                          func(ctx context.Context) error { return x.echo(ctx, x.one, app1, somewhere(64<<10), 8<<10) },
		"slow writers, HTTP/2":                  func(ctx context.Context) error { return x.echo(ctx, x.two, app2, somewhere(64<<10), 8<<10) },
		"slow readers":                          func(ctx context.Context) error { return x.slowly(ctx, x.one, app1) },
		"slow readers, HTTP/2":                  func(ctx context.Context) error { return x.slowly(ctx, x.two, app2) },
		"streams":                               x.streams,
		"WebSockets":                            x.webSocket,
		"TCP":                                   func(ctx context.Context) error { return x.converse(ctx, 1+rand.IntN(64<<10)) },
		"TCP in bulk":                           func(ctx context.Context) error { return x.converse(ctx, 4<<20) },
		"TLS of the application":                x.tls,
		"too large requests":                    x.tooLarge,
		"aborted requests":                      x.aborts,
		"aborted streams":                       x.aborts2,
		"aborted TCP":                           x.abortsTCP,
		"aborts by the application":             x.aborted,
		"resets by the application, TCP":        x.resetTCP,
	}
}

func (x *traffic) small(ctx context.Context) error { return x.ask(ctx, x.one, app1+"/") }

func (x *traffic) ask(ctx context.Context, c *http.Client, url string) error {
	r, err := request(ctx, c, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && string(b) != "here" {
		err = fmt.Errorf("the answer is %q", b)
	}
	return err
}

// request is answered with 200.
func request(ctx context.Context, c *http.Client, method, url string, body io.Reader) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	if p, ok := body.(*pattern); ok {
		q.ContentLength = int64(p.left)
	}
	r, err := c.Do(q)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(r.Body, 500))
		r.Body.Close()
		return nil, fmt.Errorf("%s: %s", r.Status, text)
	}
	return r, nil
}

// echo sends a body in pieces with pauses (0: as it is taken) and expects it back.
func (x *traffic) echo(ctx context.Context, c *http.Client, app string, p *pattern, piece int) error {
	want, body := *p, io.Reader(p)
	if piece > 0 {
		from, to := io.Pipe()
		defer from.Close()
		go func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for p.left > 0 {
				if _, err := to.Write(p.piece(piece)); err != nil {
					return
				}
				<-tick.C
			}
			to.Close()
		}()
		body = from
	}
	r, err := request(ctx, c, http.MethodPost, app+"/echo", body)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return want.same(r.Body)
}

// large is so much that no buffers hold it.
const large = 4 << 20

func (x *traffic) slowly(ctx context.Context, c *http.Client, app string) error {
	r, err := request(ctx, c, http.MethodGet, app+"/large", nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return (&pattern{left: large}).slowly(r.Body, 4<<20, new(atomic.Int64))
}

// streams asks and is answered in turn on one stream, which ends with trailers.
func (x *traffic) streams(ctx context.Context) error {
	from, to := io.Pipe()
	defer to.Close()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, app2+"/echo", from)
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/grpc")
	q.Header.Set("Te", "trailers")
	r, err := x.two.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if err := inTurn(to, r.Body); err != nil {
		return fmt.Errorf("%w (status %v %v)", err, r.Status, r.Header)
	}
	to.Close()
	if rest, err := io.ReadAll(r.Body); err != nil || len(rest) > 0 {
		return fmt.Errorf("%d bytes at the end: %w", len(rest), err)
	}
	if s := r.Trailer.Get("Grpc-Status"); s != "0" {
		return fmt.Errorf("grpc-status %q", s)
	}
	return nil
}

// inTurn says something and hears it back, several times.
func inTurn(to io.Writer, from io.Reader) error {
	p := somewhere(64 << 10)
	buf := make([]byte, 4096)
	for p.left > 0 {
		say := p.piece(1 + rand.IntN(len(buf)))
		if _, err := to.Write(say); err != nil {
			return err
		}
		if _, err := io.ReadFull(from, buf[:len(say)]); err != nil {
			return fmt.Errorf("%d bytes before the end: %w", p.left, err)
		}
		if !bytes.Equal(say, buf[:len(say)]) {
			return errors.New("other bytes came back")
		}
	}
	return nil
}

func (x *traffic) webSocket(ctx context.Context) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, app1+"/websocket", nil)
	if err != nil {
		return err
	}
	q.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	r, err := x.one.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	c, ok := r.Body.(io.ReadWriteCloser)
	if r.StatusCode != http.StatusSwitchingProtocols || !ok {
		return errors.New(r.Status)
	}
	if rand.IntN(4) == 0 {
		return nil // broken off
	}
	return inTurn(c, c)
}

func (x *traffic) converse(ctx context.Context, length int) error {
	c, err := x.dial(ctx, "app:9000")
	if err != nil {
		return err
	}
	return converse(ctx, c, length)
}

func (x *traffic) tls(ctx context.Context) error {
	c, err := x.dial(ctx, "app:9443")
	if err != nil {
		return err
	}
	return converse(ctx, tls.Client(c, x.roots), 1+rand.IntN(512<<10))
}

// converse sends, ends its direction, and expects everything back.
func converse(ctx context.Context, c net.Conn, length int) error {
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	}
	say := somewhere(length)
	want := *say
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, say)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	err := want.same(c)
	if err != nil {
		c.Close()
	}
	return errors.Join(err, <-sent)
}

// tooLarge is refused, with the reason.
func (x *traffic) tooLarge(ctx context.Context) error {
	c, err := x.dial(ctx, "app:8080")
	if err != nil {
		return err
	}
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	}
	q, want := "GET / HTTP/1.1\r\nHost: app:8080\r\nX: "+strings.Repeat("x", 100<<10)+"\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge
	if rand.IntN(2) == 0 {
		q, want = "GET /"+strings.Repeat("x", 100<<10)+" HTTP/1.1\r\nHost: app:8080\r\n\r\n", http.StatusRequestURITooLong
	}
	if _, err := io.WriteString(c, q); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != want {
		return fmt.Errorf("%s, not %d", r.Status, want)
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// aborts breaks off in the middle of a request or of its answer.
func (x *traffic) aborts(ctx context.Context) error {
	c, err := x.dial(ctx, "app:8080")
	if err != nil {
		return err
	}
	if rand.IntN(2) == 0 {
		_ = c.(*net.TCPConn).SetLinger(0) // a reset
	}
	text := []string{"GET / HT", "GET /large HTTP/1.1\r\nHost: app:8080\r\n\r\n", "POST /echo HTTP/1.1\r\nHost: app:8080\r\nContent-Length: 100000\r\n\r\nabc",
		"POST /echo HTTP/1.1\r\nHost: app:8080\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nabc", "GET / HTTP/1.1\r\nHost: app:8080\r\n\r\nGET"}[rand.IntN(5)]
	_, _ = io.WriteString(c, text)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, c, 100_000)
	return c.Close()
}

func (x *traffic) aborts2(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(10)+1)*time.Millisecond)
	defer cancel()
	from, to := io.Pipe()
	defer context.AfterFunc(ctx, func() { to.CloseWithError(ctx.Err()) })() // net/http waits for it
	url, body := app2+"/large", io.Reader(nil)
	if rand.IntN(2) == 0 {
		url, body = app2+"/echo", from
	}
	if r, err := request(ctx, x.two, http.MethodPost, url, body); err == nil {
		_, _ = io.CopyN(io.Discard, r.Body, 100_000)
		r.Body.Close()
	}
	return nil
}

func (x *traffic) abortsTCP(ctx context.Context) error {
	c, err := x.dial(ctx, "app:9000")
	if err != nil {
		return err
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_, _ = c.Write(make([]byte, rand.IntN(64<<10)))
	return c.Close()
}

// resetTCP is ended by the application.
func (x *traffic) resetTCP(ctx context.Context) error {
	c, err := x.dial(ctx, "app:9000")
	if err != nil {
		return err
	}
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	}
	if _, err := io.WriteString(c, resetWord); err != nil {
		return err
	}
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%d bytes came, and %w", n, err)
	}
	return nil
}

// aborted asks for what the application breaks off.
func (x *traffic) aborted(ctx context.Context) error {
	c, url := x.one, app1+"/abort"
	switch rand.IntN(3) {
	case 0:
		c, url = x.two, app2+"/abort"
	case 1:
		url = app1 + "/reset"
	}
	r, err := request(ctx, c, http.MethodGet, url, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	if err == nil {
		return errors.New("a whole answer came")
	}
	return ctx.Err() // it did not hang
}
