package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// A story begins with the true cause, names what decided and where that is written, and ends with what to do.
func TestStory(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)
	s := apiv1.Story{ID: "id-1", Time: at, Method: "GET", Target: "reviews:9080/reviews/0", Status: 503, Cause: "upstream_connect_refused", Text: "nobody listens", Detail: "Connection refused", Remedy: "start it",
		At: "default/page-v1", Others: 3, Stopped: &apiv1.Stopped{By: "attempts", Text: "all attempts were made", Decided: &apiv1.Decider{Kind: "VirtualService", Namespace: "default", Name: "reviews", Field: "http[0].retries.attempts", File: "vs.yaml", Line: 9}}, Decided: []apiv1.Decider{
			{Kind: "DestinationRule", Namespace: "default", Name: "reviews", Field: "trafficPolicy", File: "dr.yaml", Line: 3, Since: &at},
			{Kind: "VirtualService", Namespace: "default", Name: "reviews", Gone: true}},
		Hops: []apiv1.Hop{
			{Workload: "default/page-v1", Side: "source", Service: "reviews.default.svc.cluster.local:9080", Status: 503, Flags: "UF,URX", Ended: 12.3456, Attempts: 5, Tries: []apiv1.Try{
				{Endpoint: "10.0.0.2:9080", Cause: "upstream_connect_refused", Ended: 1234},
				{Endpoint: "10.0.0.3:9080", Status: 500, Local: "10.0.0.1:4", Requests: 1, Age: 20_000, Began: 1, Ended: 3}}},
			{Workload: "default/reviews-v1", Side: "destination"}}}
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	newPrinter(f, true).story(&s)
	got, err := os.ReadFile(f.Name())
	const want = `503 GET reviews:9080/reviews/0  12:00:00.000  id-1
  upstream_connect_refused: nobody listens
  detail    Connection refused
  where     the proxy of default/page-v1, calling reviews.default.svc.cluster.local:9080
  decided   DestinationRule default/reviews, trafficPolicy, dr.yaml:3, in force since 2026-11-22 12:00:00
  by way of VirtualService default/reviews, which is gone by now
  attempt   1 of 5: 10.0.0.2:9080, upstream_connect_refused after 1.23 s, no connection
  attempt   5 of 5: 10.0.0.3:9080, answered 500 after 2 ms, connection of 20s with 1 request before
  no retry  all attempts were made: VirtualService default/reviews, http[0].retries.attempts, vs.yaml:9
  way       default/page-v1 (source, 503 UF,URX, 12.3 ms) > default/reviews-v1 (destination, ---, 0 ms)
  -> start it
  and 3 more like it
`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
}
