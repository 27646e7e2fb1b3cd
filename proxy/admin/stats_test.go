package admin

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
)

const exposition = `# HELP a Requests, with no word of b.
# TYPE a counter
a{cluster="x"} 0
a{cluster="y z"} 7
# TYPE b gauge
b 0
# HELP h Durations.
# TYPE h histogram
h_bucket{le="1"} 0
h_bucket{le="+Inf"} 2
h_sum 3
h_count 2
`

// What of the statistics is wanted is said as to Envoy.
func TestStats(t *testing.T) {
	o := Options{Proxy: &fake{metrics: exposition}, Level: NewLevel(nil, slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)}
	call := start(t, func(ctx context.Context, l net.Listener) error { return Serve(ctx, l, o) })
	for path, want := range map[string]string{
		"/stats":                                   "vhost.v.route.r.upstream_rq_2xx: 3\nserver.state: 0\nserver.concurrency: 2\ncluster.c.upstream_cx_overflow: 2\ncluster.c.upstream_rq_pending_overflow: 5\n",
		"/stats?usedonly&filter=server":            "server.concurrency: 2\n",
		"/stats?filter=^(server\\.state)$":         "server.state: 0\n",
		"/stats?type=Gauges":                       "server.state: 0\nserver.concurrency: 2\n",
		"/stats?type=Histograms":                   "",
		"/stats?type=Counters&format=text":         "vhost.v.route.r.upstream_rq_2xx: 3\ncluster.c.upstream_cx_overflow: 2\ncluster.c.upstream_rq_pending_overflow: 5\n",
		"/stats?format=prometheus":                 exposition,
		"/stats/prometheus?text_readouts":          exposition,
		"/stats/prometheus?usedonly":               "# HELP a Requests, with no word of b.\n# TYPE a counter\na{cluster=\"y z\"} 7\n" + exposition[strings.Index(exposition, "# HELP h"):],
		"/stats/prometheus?filter=^b":              "# TYPE b gauge\nb 0\n",
		"/stats/prometheus?filter=z&type=Counters": "# HELP a Requests, with no word of b.\n# TYPE a counter\na{cluster=\"y z\"} 7\n",
		"/stats?format=prometheus&type=Histograms": exposition[strings.Index(exposition, "# HELP h"):],
	} {
		if status, body := call("GET", path, ""); status != 200 || body != want {
			t.Errorf("%s: %d\n%s\nwant\n%s", path, status, body, want)
		}
	}
	for path, want := range map[string][]any{
		"/stats?format=json&filter=overflow&usedonly": {map[string]any{"name": "cluster.c.upstream_cx_overflow", "value": 2.0}, map[string]any{"name": "cluster.c.upstream_rq_pending_overflow", "value": 5.0}},
		"/stats?format=json&filter=nobody":            {},
	} {
		var got map[string]any
		_, body := call("GET", path, "")
		if err := json.Unmarshal([]byte(body), &got); err != nil || !reflect.DeepEqual(got, map[string]any{"stats": want}) {
			t.Errorf("%s: %v\n%s", path, err, body)
		}
	}
}

// Samples are chosen alike, however their text is cut.
func TestSieve(t *testing.T) {
	for _, text := range []string{exposition, strings.TrimSuffix(exposition, "\n"), "", "\n\n", "# TYPE\n# TYPE \nx\nx y\n# HELP x\n"} {
		sift := func(r io.Reader) string {
			var out strings.Builder
			s := &sieve{to: &out, choice: choice{name: regexp.MustCompile(""), used: true}}
			if _, err := io.Copy(s, struct{ io.Reader }{r}); err != nil {
				t.Fatal(err)
			}
			if err := s.end(); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		if one, whole := sift(iotest.OneByteReader(strings.NewReader(text))), sift(strings.NewReader(text)); one != whole {
			t.Errorf("%q: %q byte by byte, %q at once", text, one, whole)
		}
	}
}
