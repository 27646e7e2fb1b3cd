package conn_test

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
)

// What an idle connection costs on the heap after it has carried a request and an
// answer: both ends are ours, on the kernel's sockets, on one stepped loop. A client that
// sends much behind its handshake leaves no buffer of that behind, neither here nor in the pool.
func TestIdleMemory(t *testing.T) {
	for _, tc := range []struct {
		name  string
		s     *sides
		said  int
		limit float64
	}{
		{"plain", nil, 1000, 560},
		{"mutual TLS", new(sides), 1000, 5 << 10},
		{"mutual TLS, much said at once", new(sides), 60000, 5 << 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.s != nil {
				*tc.s = mesh(t, ratingsID, nil)
			}
			const pairs = 100
			p, err := loop.NewPoller()
			if err != nil {
				t.Fatal(err)
			}
			l := loop.New(p, loop.Options{})
			defer l.End()
			// The first connections pay for the buffers of loop and pool.
			path := filepath.Join(t.TempDir(), "s")
			connectPairs(t, l, path+"0", tc.s, tc.said, 50)
			before := heap()
			kept := connectPairs(t, l, path+"1", tc.s, tc.said, pairs)
			each := float64(heap()-before) / (2 * pairs)
			runtime.KeepAlive(kept)
			t.Logf("%.0f bytes per connection", each)
			if each > tc.limit {
				t.Errorf("%.0f bytes per idle connection, want at most %.0f", each, tc.limit)
			}
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// connectPairs makes connections over a Unix socket, each with an echo.
func connectPairs(t *testing.T, l *loop.Loop, path string, s *sides, said, n int) []*conn.Conn {
	t.Helper()
	p := l.Poller()
	fd, _ := p.Socket(loop.Unix)
	if e := p.Bind(fd, loop.Addr{Path: path}); e != 0 {
		t.Fatal(e)
	}
	p.Listen(fd, 1024)
	target := conn.Target{Addr: loop.Addr{Path: path}}
	if s != nil {
		target.TLS = s.client
	}
	got := 0
	client := &counter{&got}
	var kept []*conn.Conn
	msg := make([]byte, said)
	for i := range n {
		c := conn.Dial(l, target, client)
		c.Write(msg)
		nfd, _, e := p.Accept(fd)
		if e != 0 {
			t.Fatal(e)
		}
		a := conn.Accept(l, nfd, conn.Info{}, echo{})
		if s != nil {
			a.StartTLS(s.server, echo{})
		}
		kept = append(kept, c, a)
		for got < (i+1)*len(msg) {
			l.Step()
			if l.Away() > 0 {
				runtime.Gosched()
			}
		}
	}
	p.Close(fd)
	return kept
}

type counter struct{ n *int }

func (counter) Open(*conn.Conn)                   {}
func (c counter) Data(_ *conn.Conn, b []byte) int { *c.n += len(b); return len(b) }
func (counter) EOF(*conn.Conn)                    {}
func (counter) Drained(*conn.Conn)                {}
func (counter) Closed(*conn.Conn, conn.Why)       {}
