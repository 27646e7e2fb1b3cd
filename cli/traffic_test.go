package cli

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// Traffic that both sides report is counted once, as its caller does; callers without a proxy are known by whom they called; rates
// are of the last minute, or since an edge began.
func TestCalls(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	page, reviews := apiv1.EdgeEnd{Namespace: "d", Workload: "page"}, apiv1.EdgeEnd{Namespace: "d", Workload: "reviews-v1"}
	edge := func(reporter string, from, to apiv1.EdgeEnd, requests, failures uint64, age time.Duration) apiv1.Edge {
		return apiv1.Edge{Reporter: reporter, Source: from, Destination: to, Service: "d/reviews", Port: 9080, Protocol: "http", Transport: "mtls", First: now.Add(-age), Last: now,
			Recent: requests, RecentFailures: failures, RecentLatency: []uint64{0, requests, 0, 0, 0, 0, 0}}
	}
	list := calls([]apiv1.Edge{
		edge("source", page, reviews, 60, 6, time.Hour), edge("source", page, reviews, 60, 0, time.Hour), // of two replicas
		edge("destination", page, reviews, 110, 0, time.Hour),
		edge("destination", apiv1.EdgeEnd{}, reviews, 10, 0, time.Second),
		edge("source", page, apiv1.EdgeEnd{}, 0, 0, time.Hour),
	}, now)
	var got []string
	for i := range list {
		c := &list[i]
		got = append(got, fmt.Sprint(c.Source, " > ", c.Destination, " ", rateText(c.Rate), " ", errorText(c).text, " ", latencyText(c.P50), " ", latencyText(c.P99)))
	}
	const want = "d/page > d/reviews-v1 2/s 5 % 3 ms 5 ms\nunknown > d/reviews-v1 2/s 0 % 3 ms 5 ms\nd/page > d/reviews 0/s 0 %  "
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		counts []uint64
		q      float64
		want   string
	}{
		{nil, 0.5, "nothing"},
		{make([]uint64, 7), 0.5, "nothing"},
		{[]uint64{4, 0, 0, 0, 0, 0, 0}, 0.5, "0.5"},
		{[]uint64{1, 0, 0, 1, 0, 0, 0}, 0.5, "1"},
		{[]uint64{1, 0, 0, 1, 0, 0, 0}, 0.99, "98.5"},
		{[]uint64{0, 0, 0, 0, 0, 0, 3}, 0.5, "-1"},
		{[]uint64{0, 0, 0, 0, 0, 0, 0, 0, 9}, 0.5, "-1"}, // of a newer control plane
	} {
		got := "nothing"
		if v := quantile(c.counts, c.q); v != nil {
			got = fmt.Sprint(math.Round(*v*1000) / 1000)
		}
		if got != c.want {
			t.Errorf("%v of %v: %s, want %s", c.q, c.counts, got, c.want)
		}
	}
}

// The graph begins with who is not called by anybody; names of peers cannot break out of DOT.
func TestGraph(t *testing.T) {
	g := graphOf([]call{
		{Source: "d/page", Destination: `d/re"v\`, Service: "d/reviews", Requests: 60, Rate: 1, Failures: 3, P99: new(30.0), Protocol: "http", Transport: "mtls"},
		{Source: "z/gateway", Destination: "d/page", Protocol: "tcp", Transport: "plaintext"},
	})
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := newPrinter(f, true)
	p.graphText(g)
	p.printf("%s", dot(g))
	got, err := os.ReadFile(f.Name())
	const want = `z/gateway
  -> d/page  0/s, tcp over plaintext
d/page
  -> d/re"v\ (d/reviews)  1/s, 5 % errors, p99 30 ms, http over mtls
digraph mesh {
  rankdir=LR;
  node [shape=box];
  "d/page";
  "d/re\"v\\";
  "z/gateway";
  "z/gateway" -> "d/page" [label="0/s, tcp over plaintext", style=dashed];
  "d/page" -> "d/re\"v\\" [label="1/s, 5 % errors, p99 30 ms, http over mtls", color=red];
}
`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
}
