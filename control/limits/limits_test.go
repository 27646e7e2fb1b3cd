package limits

import (
	"fmt"
	"strings"
	"testing"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/control/why"
)

const rule = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 7
      http: {http1MaxPendingRequests: 3}
    outlierDetection:
      maxEjectionPercent: 50
    retryBudget: {percent: 30}
    portLevelSettings:
    - port: {number: 9090}
      connectionPool:
        http: {http2MaxRequests: 9}
  subsets:
  - name: v1
    trafficPolicy:
      connectionPool:
        tcp: {maxConnections: 1}
`

const route = `kind: VirtualService
spec:
  http:
  - name: other
    timeout: 1s
  - name: mine
    retries: {attempts: 5}
`

const sidecar = `kind: Sidecar
spec:
  inboundConnectionPool: {http: {http2MaxRequests: 4}}
  ingress:
  - port: {number: 81}
    connectionPool:
      tcp: {maxConnections: 2}
`

func object(t *testing.T, text string) why.Object {
	t.Helper()
	root, err := document.Parse(document.Part{Text: text, Line: 1})
	if err != nil {
		t.Fatal(err)
	}
	return why.Object{File: "f.yaml", Root: root}
}

// The field that sets a limit is found as the rule is resolved: a port's settings hide all above them but the budget, a subset's hide
// block by block, and what no field says is a default, if it is the one there is.
func TestSetBy(t *testing.T) {
	const dr, vs, sc = "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews", "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews", "/apis/networking.istio.io/v1/namespaces/default/sidecar/s"
	objects := func(kind, _, _ string) (why.Object, bool) {
		text := map[string]string{"DestinationRule": rule, "VirtualService": route, "Sidecar": sidecar}[kind]
		if text == "" {
			return why.Object{}, false
		}
		return object(t, text), true
	}
	for _, c := range []struct {
		kind   string
		value  float64 // -1: none
		subset string
		port   uint16
		object string
		line   uint32
		want   string
	}{
		{"connections", 7, "", 9080, dr, 1, "trafficPolicy.connectionPool.tcp.maxConnections:9"},
		{"pending", 3, "", 9080, dr, 1, "trafficPolicy.connectionPool.http.http1MaxPendingRequests:10"},
		{"requests", -1, "", 9080, dr, 1, "default"},
		{"requests", 9, "", 9090, dr, 1, "trafficPolicy.portLevelSettings[0].connectionPool.http.http2MaxRequests:17"},
		{"connections", -1, "", 9090, dr, 1, "default"},
		{"connections", 1, "v1", 9080, dr, 1, "subsets[0].trafficPolicy.connectionPool.tcp.maxConnections:22"},
		{"pending", -1, "v1", 9080, dr, 1, "default"},
		{"ejected", 50, "v1", 9080, dr, 1, "trafficPolicy.outlierDetection.maxEjectionPercent:12"},
		{"errors_in_a_row", 5, "", 9080, dr, 1, "default"},
		{"retry_budget", 4, "", 9090, dr, 1, "trafficPolicy.retryBudget.percent:13"},
		{"connections", 8, "", 1, "", 0, "unknown"},
		{"connections", 8, "", 1, "/apis/x/v1/namespaces/default/gone/reviews", 0, "gone"},
		{"connect_timeout", 10, "", 1, "", 0, "default"},
		{"timeout", -1, "", 1, vs, 6, "default"},
		{"timeout", 1, "", 1, vs, 4, "http[0].timeout:5"},
		{"attempts", 5, "", 1, vs, 6, "http[1].retries.attempts:7"},
		{"connections", 2, "", 81, sc, 1, "ingress[0].connectionPool.tcp.maxConnections:7"},
		{"requests", -1, "", 81, sc, 1, "default"},
		{"requests", 4, "", 80, sc, 1, "inboundConnectionPool.http.http2MaxRequests:3"},
	} {
		l := &observev1.Limit{Kind: c.kind, Value: max(0, c.value), None: c.value < 0, Object: c.object, Line: c.line}
		x := Table([]Told{{Workload: "default/page", Clusters: []*observev1.ClusterLimits{{Cluster: "outbound|9080|" + c.subset + "|reviews", Port: uint32(c.port), Limits: []*observev1.Limit{l}}}}}, objects)[0]
		got := "unknown"
		switch {
		case x.Default:
			got = "default"
		case x.SetBy != nil && x.SetBy.Gone:
			got = "gone"
		case x.SetBy != nil:
			got = fmt.Sprintf("%s:%d", x.SetBy.Field, x.SetBy.Line)
		}
		if got != c.want {
			t.Errorf("%s %v of %q port %d: %s, want %s", c.kind, c.value, c.subset, c.port, got, c.want)
		}
	}
}

// A limit is each proxy's own: what is in use is that of the proxy with the most, trips add up and are told by caller; what has
// another value is a row of its own.
func TestTable(t *testing.T) {
	told := func(workload string, side observev1.Side, value float64, use, trips uint64, refused ...*observev1.Trip) Told {
		return Told{Workload: workload, Clusters: []*observev1.ClusterLimits{{Cluster: "c", Side: side, Port: 80, Refused: refused,
			Limits: []*observev1.Limit{{Kind: "pending", Value: value, Use: use, Peak: use + 1, Trips: trips}, {Kind: "of a newer proxy"}}}}}
	}
	caller, server := observev1.Side_SIDE_SOURCE, observev1.Side_SIDE_DESTINATION
	var got []string
	for _, x := range Table([]Told{
		told("d/page", caller, 10, 1, 0), told("d/page", caller, 10, 5, 3), told("d/cart", caller, 10, 2, 4), told("d/old", caller, 9, 0, 0),
		told("d/reviews", server, 2, 1, 6, &observev1.Trip{Peer: &observev1.Peer{Namespace: "d", Workload: "cart"}, Count: 4}, &observev1.Trip{Peer: &observev1.Peer{Identity: "spiffe://x"}, Count: 2}),
	}, func(string, string, string) (why.Object, bool) { return why.Object{}, false }) {
		got = append(got, fmt.Sprint(x.At, " ", *x.Value, ": ", x.Use, " ", x.Peak, " ", x.Trips, " ", x.Proxies, " ", x.Callers))
	}
	want := []string{
		"caller 10: 5 6 7 [{d/cart 1 2 3 4} {d/page 2 5 6 3}] [{d/cart 4} {d/page 3}]",
		"caller 9: 0 1 0 [{d/old 1 0 1 0}] []",
		"server 2: 1 2 6 [{d/reviews 1 1 2 6}] [{d/cart 4} {spiffe://x 2}]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
