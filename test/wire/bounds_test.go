package wire_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/test/wire"
)

// Who reads slowly holds back who sends: what two proxies hold of a body is bounded by the watermarks of their
// connections, however large it is, in both directions and with both protocols between them. (make soak does it with a
// gigabyte over real sockets.)
func TestSlowReader(t *testing.T) {
	const size = 64 << 20
	// Three connections, at each: what the proxy keeps beyond its high mark (256 KiB and a read of 64 KiB), and the
	// sockets' buffers (64 KiB each way). HTTP/2 adds a window of 256 KiB on both sides of the hop between the proxies.
	const bound = 3*(256+64+2*64)<<10 + 2*256<<10
	lab := &wire.Lab{}
	for _, hops := range []wire.Hops{{wire.H1, wire.H1, wire.H1}, {wire.H1, wire.H2, wire.H1}} {
		for _, upload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v upload %v", hops, upload), func(t *testing.T) {
				c := lab.Chain(t, hops, wire.Options{Alone: true})
				l, err := c.Net.Listen(c.Behind())
				if err != nil {
					t.Fatal(err)
				}
				client, err := c.Net.Dial(c.Front())
				if err != nil {
					t.Fatal(err)
				}
				framing := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
				if upload {
					framing = fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
				}
				say(t, c, client, framing)
				back := l.Accept()
				if back == nil {
					t.Fatal("nothing reached the back end")
				}
				from, to := back, client
				if head := hear(t, back); upload {
					from, to = client, back
				} else if say(t, c, back, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)); !strings.HasPrefix(head, "GET / ") || !strings.HasPrefix(hear(t, client), "HTTP/1.1 200 OK") {
					t.Fatalf("the back end got %q", head)
				}
				most, before := pump(t, c, from, to, size), heap()
				if most > bound {
					t.Errorf("%d KiB were on their way at once, at most %d can be", most>>10, bound>>10)
				}
				t.Logf("%d KiB were on their way at most", most>>10)
				if upload {
					say(t, c, back, "HTTP/1.1 204 No Content\r\n\r\n")
					if got := hear(t, client); !strings.HasPrefix(got, "HTTP/1.1 204 ") {
						t.Errorf("the client got %q", got)
					}
				}
				// Buffers of that time are not kept for ever, and a second body of the same kind finds room.
				if grown := int64(heap()) - int64(before); grown > bound {
					t.Errorf("%d KiB more are held afterwards", grown>>10)
				}
				client.Close()
				back.Close()
				l.Close()
				c.Close()
			})
		}
	}
}

// pump moves a body from one end to the other, which reads 8 KiB at a time, and returns the most that was on its way.
func pump(t *testing.T, c *wire.Chain, from, to *mem.Peer, size int) (most int) {
	chunk := bytes.Repeat([]byte{'x'}, 64<<10)
	sent, got, idle := 0, 0, 0
	for got < size {
		for sent < size {
			n, err := from.Send(chunk[:min(len(chunk), size-sent)])
			if err != nil {
				t.Fatal(err)
			}
			if sent += n; n == 0 {
				break
			}
			c.Net.Step()
		}
		most = max(most, sent-got)
		b, err := to.RecvUpTo(8 << 10)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", got, size, err)
		}
		c.Net.Step()
		if got += len(b); len(b) > 0 {
			idle = 0
		} else if idle++; idle > 3 {
			t.Fatalf("%d of %d bytes were sent, %d came: it is stuck", sent, size, got)
		}
	}
	return most
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func say(t *testing.T, c *wire.Chain, p *mem.Peer, text string) {
	t.Helper()
	if n, err := p.Send([]byte(text)); err != nil || n < len(text) {
		t.Fatalf("sent %d of %d bytes: %v", n, len(text), err)
	}
	c.Net.Step()
}

func hear(t *testing.T, p *mem.Peer) string {
	t.Helper()
	b, err := p.Recv()
	if err != nil && len(b) == 0 {
		t.Fatal(err)
	}
	return string(b)
}

// One connection for all workers of a proxy is one: their requests take turns on it, alternating or at once, and none
// waits for a connection that is idle at the other worker.
func TestOneConnectionForTwoWorkers(t *testing.T) {
	lab := &wire.Lab{}
	for _, hops := range []wire.Hops{{wire.H1, wire.H1}, {wire.H1, wire.H2}} {
		t.Run(hops.String(), func(t *testing.T) {
			c := lab.Chain(t, hops, wire.Options{Workers: 2, Cluster: "circuit_breakers: {thresholds: [{max_connections: 1}]}"})
			a, b := c.Dial(), c.Dial() // accepted by one worker each
			for i := range 500 {
				a.Ask("GET", "a", "/a")
				b.Ask("GET", "b", "/b")
				if n := c.Back.Open(); n > 1 {
					t.Fatalf("after %d requests: %d connections to the back end", 2*i+2, n)
				}
			}
			// At once: whatever the order, everybody is answered.
			const burst = 20
			for _, client := range []wire.Client{a, b} {
				client.(interface{ Queue(text string) }).Queue(strings.Repeat("GET /c HTTP/1.1\r\nHost: c\r\n\r\n", burst))
			}
			c.Settle()
			for _, client := range []wire.Client{a, b} {
				client.Read()
				answers := client.Answers()
				if len(answers) != 500+burst {
					t.Errorf("%d answers, want %d: %s", len(answers), 500+burst, client.Report())
				}
				for i, m := range answers {
					if m.Start != "HTTP/1.1 200 OK" || i >= 500 && string(m.Body) != "GET /c HTTP/1.1" {
						t.Errorf("answer %d: %s %q", i, m.Start, m.Body)
					}
				}
			}
			if n := c.Back.Most(); n != 1 {
				t.Errorf("at most %d connections to the back end at once, want 1", n)
			}
			if c.Busy() < 2 {
				t.Error("all requests came to one worker: nothing was tried")
			}
			a.Close()
			b.Close()
			c.Close()
		})
	}
}
