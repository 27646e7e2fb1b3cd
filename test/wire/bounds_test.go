package wire_test

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/wire"
)

// One connection for all workers of a proxy is one: their requests take turns on it, alternating or at once, and none
// waits for a connection that is idle at the other worker.
func TestOneConnectionForTwoWorkers(t *testing.T) {
	const each, burst = 500, 20
	lab := &wire.Lab{}
	for _, hops := range []wire.Hops{{wire.H1, wire.H1}, {wire.H1, wire.H2}} {
		t.Run(hops.String(), func(t *testing.T) {
			c := lab.Chain(t, hops, wire.Options{Workers: 2, Cluster: "circuit_breakers: {thresholds: [{max_connections: 1}]}"})
			clients := []wire.Client{c.Dial(), c.Dial()} // accepted by one worker each
			for i := range each {
				for k, client := range clients {
					// The next request would take the connection, so it is now that this one must have its answer.
					client.Ask("GET", "a", "/a")
					if n := len(client.Answers()); n != i+1 {
						t.Fatalf("worker %d does not get the connection that is idle at the other: after %d requests %d answers", k+1, i+1, n)
					}
				}
			}
			// At once: whatever the order, everybody is answered.
			for _, client := range clients {
				client.(interface{ Queue(text string) }).Queue(strings.Repeat("GET /c HTTP/1.1\r\nHost: c\r\n\r\n", burst))
			}
			c.Settle()
			for _, client := range clients {
				client.Read()
				answers := client.Answers()
				if len(answers) != each+burst {
					t.Errorf("%d answers, want %d: %s", len(answers), each+burst, client.Report())
				}
				for i, m := range answers {
					if m.Start != "HTTP/1.1 200 OK" || i >= each && string(m.Body) != "GET /c HTTP/1.1" {
						t.Errorf("answer %d: %s %q", i, m.Start, m.Body)
					}
				}
			}
			if n := c.Back.Most(); n != 1 {
				t.Errorf("at most %d connections to the back end at once, want 1", n)
			}
			for k, n := range c.Ended() {
				if n != each+burst {
					t.Errorf("worker %d had %d requests, want %d: the other one did its work", k+1, n, each+burst)
				}
			}
			for _, client := range clients {
				client.Close()
			}
			c.Close()
		})
	}
}
