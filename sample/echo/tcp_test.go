package echo

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// startTCP serves o on a free port until the test ends.
func startTCP(t *testing.T, o TCP) (address string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeTCP(ctx, ln, o) }()
	return ln.Addr().String(), func() error { cancel(); return <-ended }
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestTCP(t *testing.T) {
	for _, c := range []struct {
		intention string
		o         TCP
		send      string
		finish    bool // end our direction after sending
		want      string
		reset     bool
	}{
		{"bytes come back, and the end is answered by an end", TCP{}, "a\nb\x00c", true, "a\nb\x00c", false},
		{"lines get a prefix, an unfinished one too", TCP{Prefix: "one "}, "hello\n\nworld", true, "one hello\none \none world", false},
		{"the server speaks first", TCP{Banner: "220 ready\r\n"}, "quit\r\n", true, "220 ready\r\nquit\r\n", false},
		{"the server closes after five bytes", TCP{CloseAfter: 5}, "1234567890", false, "12345", false},
		{"the server resets after five bytes", TCP{ResetAfter: 5}, "12345", false, "", true},
		{"too little for a reset", TCP{ResetAfter: 5}, "1234", true, "", false},
	} {
		t.Run(c.intention, func(t *testing.T) {
			address, stop := startTCP(t, c.o)
			conn := dial(t, address)
			if _, err := io.WriteString(conn, c.send); err != nil {
				t.Fatal(err)
			}
			if c.finish {
				conn.CloseWrite()
			}
			got, err := io.ReadAll(conn)
			if string(got) != c.want || errors.Is(err, syscall.ECONNRESET) != c.reset || err != nil && !c.reset {
				t.Errorf("received %q, %v; want %q, reset %v", got, err, c.want, c.reset)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A line that arrives in pieces gets one prefix.
func TestPrefixAcrossReads(t *testing.T) {
	begun := false
	var out []byte
	for _, piece := range []string{"he", "llo", "\nwo", "rld\n", "!"} {
		out, begun = prefix(out, []byte(piece), "> ", begun)
	}
	if got, want := string(out), "> hello\n> world\n> !"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Stopping ends idle connections with FIN and returns.
func TestStopTCP(t *testing.T) {
	address, stop := startTCP(t, TCP{Banner: "hi"})
	conn := dial(t, address)
	if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		t.Errorf("after the stop: %q, %v", rest, err)
	}
}
