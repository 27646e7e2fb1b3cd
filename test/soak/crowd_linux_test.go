package soak_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// crowd are connections that stay: each is used once in a while, and some end with a reset and are opened again. No change
// of configuration concerns them, so that an end they did not ask for is an error.
type crowd []*member

type member struct {
	mu   sync.Mutex
	kind crowdKind
	conn net.Conn // nil: not open
	two  *http.ClientConn
	// What is said and heard where the answer is what was said.
	say  io.Writer
	hear io.Reader
}

type crowdKind int

const (
	kept1 crowdKind = iota
	kept2
	keptWebSocket
	keptTCP
	keptTLS
	keptStream
)

func (k crowdKind) String() string {
	return [...]string{"kept connections: HTTP/1.1", "kept connections: HTTP/2", "kept connections: WebSocket", "kept connections: TCP", "kept connections: TLS of the application", "kept streams, like gRPC's"}[k]
}

// newCrowd is of five in ten connections of HTTP/1.1, and of one of each other kind.
func newCrowd(n int) crowd {
	all := make(crowd, n)
	for i := range all {
		all[i] = &member{kind: crowdKind(max(0, i%10-4))}
	}
	return all
}

// crowdHands is how many members are used at once.
const crowdHands = 8

// live opens all connections, says so, and uses them until ctx ends; then it closes them.
func (all crowd) live(ctx context.Context, x *traffic, opened func(), tell func(crowdKind, error)) {
	own, done := context.WithCancel(context.WithoutCancel(ctx)) // what has begun ends as it would
	defer done()
	var opening, using sync.WaitGroup
	use := func(m *member) {
		if !m.mu.TryLock() {
			return
		}
		defer m.mu.Unlock()
		if rand.IntN(20) == 0 {
			m.end(true)
		}
		tell(m.kind, m.use(own, x))
	}
	for hand := range crowdHands {
		opening.Go(func() {
			for i := hand; i < len(all) && ctx.Err() == nil; i += crowdHands {
				use(all[i])
			}
		})
	}
	opening.Wait()
	opened()
	for range crowdHands {
		using.Go(func() {
			tick := time.NewTicker(2 * pace)
			defer tick.Stop()
			for ; ctx.Err() == nil && len(all) > 0; <-tick.C {
				use(all[rand.IntN(len(all))])
			}
		})
	}
	using.Wait()
	for _, m := range all {
		m.end(rand.IntN(2) == 0)
	}
}

// end closes the connection, if there is one.
func (m *member) end(reset bool) {
	if m.conn == nil {
		return
	}
	if c, ok := m.conn.(*net.TCPConn); ok && reset {
		_ = c.SetLinger(0)
	}
	_ = m.conn.Close()
	if c, ok := m.say.(*io.PipeWriter); ok {
		_ = c.Close()
	}
	m.conn, m.two, m.say, m.hear = nil, nil, nil, nil
}

// use sends something and expects its answer, on the connection there is.
func (m *member) use(ctx context.Context, x *traffic) error {
	isNew := m.conn == nil
	err := m.open(ctx, x)
	if err == nil {
		_ = m.conn.SetDeadline(time.Now().Add(time.Minute))
		err = m.talk(ctx)
	}
	if err != nil {
		m.end(false)
		return fmt.Errorf("%w (the connection was new: %t)", err, isNew)
	}
	return m.conn.SetDeadline(time.Time{})
}

func (m *member) open(ctx context.Context, x *traffic) (err error) {
	if m.conn != nil {
		return nil
	}
	if m.conn, err = x.dial(ctx, crowdTargets[m.kind]); err != nil {
		return err
	}
	m.say, m.hear = m.conn, m.conn
	switch m.kind {
	case kept2, keptStream:
		h2c := new(http.Protocols)
		h2c.SetUnencryptedHTTP2(true)
		dialled := m.conn
		m.two, err = (&http.Transport{Protocols: h2c, DialContext: func(context.Context, string, string) (net.Conn, error) { return dialled, nil }}).NewClientConn(ctx, "http", "app:8081")
		if err == nil && m.kind == keptStream {
			err = m.begin(ctx)
		}
	case keptTLS:
		m.conn = tls.Client(m.conn, x.roots)
		m.say, m.hear = m.conn, m.conn
	case keptWebSocket:
		_ = m.conn.SetDeadline(time.Now().Add(time.Minute))
		var r *http.Response
		if r, err = m.ask("GET /websocket HTTP/1.1\r\nHost: app:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err == nil && r.StatusCode != http.StatusSwitchingProtocols {
			err = errors.New(r.Status)
		}
	}
	return err
}

// begin opens a stream that stays.
func (m *member) begin(ctx context.Context) error {
	from, to := io.Pipe()
	m.say = to
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, app2+"/echo", from)
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/grpc")
	q.Header.Set("Te", "trailers")
	r, err := m.two.RoundTrip(q)
	if err != nil {
		return err
	}
	m.hear = r.Body
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

// ask sends a request whose answer is the last thing to come.
func (m *member) ask(text string) (*http.Response, error) {
	if _, err := io.WriteString(m.conn, text); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReaderSize(m.conn, 512), nil)
}

func (m *member) talk(ctx context.Context) error {
	var r *http.Response
	var err error
	switch m.kind {
	case kept1:
		r, err = m.ask("GET / HTTP/1.1\r\nHost: app:8080\r\n\r\n")
	case kept2:
		var q *http.Request
		if q, err = http.NewRequestWithContext(ctx, http.MethodGet, app2+"/", nil); err == nil {
			r, err = m.two.RoundTrip(q)
		}
	default:
		say := []byte("is anybody there?")
		if _, err = m.say.Write(say); err == nil {
			_, err = io.ReadFull(m.hear, say)
		}
		return err
	}
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	switch {
	case err != nil:
		return err
	case r.StatusCode != http.StatusOK || string(body) != "here":
		return fmt.Errorf("%s: %.200s", r.Status, body)
	case r.Close:
		return errors.New("the answer says connection: close")
	}
	return nil
}
