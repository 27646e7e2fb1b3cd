package http_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/route"
)

// A client may send requests as fast as it can, and where no upstream is asked each could be answered at once, for ever: configuration,
// handshakes and other clients of the worker would wait. So a connection begins 64 requests in a turn, and all are answered in the end.
func TestShareOfATurn(t *testing.T) {
	const many, share = 1000, 64
	run := func(t *testing.T, send func(*mem.Net, *mem.Peer) (answers func() int)) {
		n := mem.New()
		l := n.Loop(loop.Options{})
		w := http.NewWorker(http.Options{Loop: l})
		table, err := route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6}, Direct: &route.Direct{Status: 200}}}}})
		if err != nil {
			t.Fatal(err)
		}
		begun := map[uint64]int{} // requests, by turn
		count := http.Stage{Request: func(*http.Exchange) http.Verdict { begun[l.Turns()]++; return http.Continue }}
		cfg := &http.Config{Table: table, Stages: []http.Stage{count, http.Match(), http.Router()}}
		listen(t, l, front, func(c *conn.Conn) { c.HandOver(w.Serve(c, cfg)) })
		p, err := n.Dial(front)
		if err != nil {
			t.Fatal(err)
		}
		if got := send(n, p)(); got != many {
			t.Errorf("%d requests, %d answers", many, got)
		}
		if most := slices.Max(slices.Collect(maps.Values(begun))); most > share {
			t.Errorf("%d requests began in one turn, want %d at most", most, share)
		}
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		run(t, func(n *mem.Net, p *mem.Peer) func() int {
			var got strings.Builder
			for rest := []byte(strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", many)); len(rest) > 0; {
				k, err := p.Send(rest)
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[k:]
				n.Step()
				for b, _ := p.Recv(); len(b) > 0; b, _ = p.Recv() {
					got.Write(b)
					n.Step()
				}
			}
			return func() int { return strings.Count(got.String(), "HTTP/1.1 200") }
		})
	})
	t.Run("HTTP/2", func(t *testing.T) {
		run(t, func(n *mem.Net, p *mem.Peer) func() int {
			c := newPeer2(p, n.Step, false)
			c.begin(t, "")
			n.Step()
			var text strings.Builder
			for i := range many {
				fmt.Fprintf(&text, "HEADERS %d END\n  :method: GET\n  :scheme: http\n  :authority: a\n  :path: /\n", 2*i+1)
			}
			if said := c.send(t, text.String()); said != "" {
				t.Fatal(said)
			}
			return func() int {
				b, _ := p.Recv()
				return strings.Count(c.recv(t, b), ":status: 200")
			}
		})
	})
}
