package websocket

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A server that ends tells every client, and is no loss; one that falls silent, or closes without a word, is.
func TestHold(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve func(context.Context, net.Listener) error
		left  bool
	}{
		{"told", func(ctx context.Context, l net.Listener) error { return Serve(ctx, []net.Listener{l}) }, true},
		{"dropped", func(ctx context.Context, l net.Listener) error {
			cut := &cutting{Listener: l, ctx: ctx}
			return Serve(context.WithoutCancel(ctx), []net.Listener{cut})
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			const n = 10
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			serving, end := context.WithCancel(t.Context())
			defer end()
			served := make(chan error, 1)
			go func() { served <- test.serve(serving, l) }()
			holding, stop := context.WithCancel(t.Context())
			defer stop()
			r, w := io.Pipe()
			done := make(chan Summary, 1)
			go func() {
				s, err := Hold(holding, Options{URL: "ws://" + l.Addr().String() + "/", Open: n, Every: time.Millisecond, Timeout: 30 * time.Second, Out: w})
				if err != nil {
					t.Error(err)
				}
				_ = w.Close()
				done <- s
			}()
			ended := 0
			for lines := bufio.NewScanner(r); lines.Scan(); {
				switch line := lines.Text(); {
				case strings.HasPrefix(line, "all 10 are open: "):
					end()
				case strings.Contains(line, " lost: ") || strings.Contains(line, " left: "):
					if ended++; ended == n {
						stop()
					}
				}
			}
			<-served
			s := <-done
			if s.Opened != n || s.Messages == 0 || test.left != (s.Left == n) || test.left != (s.Lost == 0) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// cutting closes its connections, and then itself, when a context ends.
type cutting struct {
	net.Listener
	ctx context.Context
}

func (c *cutting) Accept() (net.Conn, error) {
	context.AfterFunc(c.ctx, func() { _ = c.Close() })
	conn, err := c.Listener.Accept()
	if err == nil {
		context.AfterFunc(c.ctx, func() { _ = conn.Close() })
	}
	return conn, err
}

// What is written is read again; what is read is bounded, and never more than was sent.
func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	for _, payload := range []string{"", "hello", strings.Repeat("a", 125), strings.Repeat("b", 126), strings.Repeat("c", longest)} {
		for _, masked := range []bool{false, true} {
			b.Reset()
			if err := write(&b, text, []byte(payload), masked); err != nil {
				f.Fatal(err)
			}
			f.Add(b.Bytes(), masked)
			if op, got, err := read(bufio.NewReader(&b), masked); err != nil || op != text || string(got) != payload {
				f.Errorf("%d bytes, masked %t: %d %q %v", len(payload), masked, op, got, err)
			}
		}
	}
	f.Add([]byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}, false)
	f.Add([]byte{0x01, 1, 'a'}, false)
	f.Fuzz(func(t *testing.T, data []byte, masked bool) {
		if _, payload, err := read(bufio.NewReader(bytes.NewReader(data)), masked); err == nil && len(payload) > min(longest, len(data)) {
			t.Errorf("%d bytes of %d", len(payload), len(data))
		}
	})
}
