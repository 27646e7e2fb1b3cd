package conn_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

const pipelined = "one\ntwo\nthree\nfour\n"

// lineATurn takes one line and asks for another turn, as HTTP does with its share of requests.
func lineATurn(o *owner, yield func(*conn.Conn)) {
	o.onData = func(c *conn.Conn, b []byte) int {
		line, _, whole := strings.Cut(string(b), "\n")
		if !whole {
			return 0
		}
		o.say("%s", line)
		if len(b) > len(line)+1 {
			yield(c)
		}
		return len(line) + 1
	}
}

// Who does a part of the work and asks for another turn is shown all that it left before it hears of
// the end, however the end comes: in the same read (close_notify), or in one of its own (FIN).
func TestEOFWaitsForWhoYields(t *testing.T) {
	const want = "one; two; three; four; eof"
	for name, yield := range map[string]func(*conn.Conn){"next turn": (*conn.Conn).Yield, "end of the turn": (*conn.Conn).Kick} {
		t.Run(name+", FIN", func(t *testing.T) {
			n, l, o := setup()
			peer := accept(t, n, l, o)
			lineATurn(o, yield)
			peer.Send([]byte(pipelined))
			peer.CloseWrite()
			n.Step()
			o.want(t, want)
		})
		t.Run(name+", Unix socket", func(t *testing.T) {
			l, o, fd := socketPair(t)
			lineATurn(o, yield)
			if _, err := syscall.Write(fd, []byte(pipelined)); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Shutdown(fd, syscall.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			for !slices.Contains(o.log, "eof") {
				l.Step()
			}
			o.want(t, want)
		})
		for kind, std := range records {
			t.Run(name+", close_notify, "+kind, func(t *testing.T) {
				n := mem.New()
				_, client, server := tlsPair(t, n, meshOver(t, ratingsID, nil, std))
				n.Step()
				server.want(t, "open")
				lineATurn(server, yield)
				client.c.Write([]byte(pipelined))
				client.c.CloseWrite()
				n.Step()
				server.want(t, want)
			})
		}
	}
}

// What is left for good, because more was expected, does not keep the end away.
func TestEOFInTheMiddle(t *testing.T) {
	n := mem.New()
	_, client, server := tlsPair(t, n, mesh(t, ratingsID, nil))
	n.Step()
	server.want(t, "open")
	lineATurn(server, (*conn.Conn).Yield)
	client.c.Write([]byte(pipelined + "fi"))
	client.c.CloseWrite()
	n.Step()
	server.want(t, "one; two; three; four; eof")
	if server.c.Kept() != 2 {
		t.Errorf("%d bytes are kept, want 2", server.c.Kept())
	}
}

// socketPair is a connection over a Unix socket of the kernel, on a stepped loop, and its other end.
func socketPair(t *testing.T) (*loop.Loop, *owner, int) {
	t.Helper()
	p, err := loop.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	l := loop.New(p, loop.Options{})
	t.Cleanup(l.End)
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fds[1]) })
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	o := &owner{}
	o.c = conn.Accept(l, fds[0], conn.Info{}, o)
	l.Step()
	o.want(t, "open")
	return l, o, fds[1]
}
