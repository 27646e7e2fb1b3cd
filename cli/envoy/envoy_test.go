package envoy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/cli/envoy"
	"github.com/weirmesh/weir/xds/dump"
)

// testdata/dump.json is a dump as Envoy writes it, cut down to what is told apart.
func load(t *testing.T) *dump.Held {
	t.Helper()
	f, err := os.Open("testdata/dump.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := dump.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func lines(t envoy.Table) string {
	var b strings.Builder
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		b.WriteString(strings.Join(row, " | ") + "\n")
	}
	return b.String()
}

// Columns and their meaning are istioctl's.
func TestTables(t *testing.T) {
	h := load(t)
	statuses := &envoy.ClusterStatuses{}
	data, err := os.ReadFile("testdata/clusters.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(statuses); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		show func() ([]json.RawMessage, envoy.Table, error)
		raw  int
		want string
	}{
		{"listeners", func() ([]json.RawMessage, envoy.Table, error) { return envoy.Listeners(h, envoy.ListenerFilter{}) }, 4, `
ADDRESSES | PORT | MATCH | DESTINATION
shop:8080 |  | ALL | Route: outbound|8080||shop
10.0.0.7 | 443 | SNI: a.example,b.example; Addr: 10.1.0.0/16 | Weighted: one=9, two=1
10.0.0.7 | 443 | ALL | BlackHoleCluster
0.0.0.0,:: | 9080 | Trans: raw_buffer; App: HTTP | Route: 9080
0.0.0.0,:: | 9080 | ALL | PassthroughCluster
0.0.0.0 | 15006 | Trans: tls; App: HTTP TLS; Addr: *:9080 | Cluster: inbound|9080||
0.0.0.0 | 15006 | App: istio,h2 | Inline Route: /healthz, /x/*
`},
		{"listeners of a port", func() ([]json.RawMessage, envoy.Table, error) {
			return envoy.Listeners(h, envoy.ListenerFilter{Port: 443, Type: "tcp", Address: "10.0.0.7"})
		}, 1, `
ADDRESSES | PORT | MATCH | DESTINATION
10.0.0.7 | 443 | SNI: a.example,b.example; Addr: 10.1.0.0/16 | Weighted: one=9, two=1
10.0.0.7 | 443 | ALL | BlackHoleCluster
`},
		{"routes", func() ([]json.RawMessage, envoy.Table, error) { return envoy.Routes(h, "") }, 2, `
NAME | VHOST NAME | DOMAINS | MATCH | VIRTUAL SERVICE
80 | reviews:80 | reviews, reviews.default + 2 more... | /v2* | reviews.default
80 | reviews:80 | reviews, reviews.default + 2 more... | regex /v[0-9] | 
9080 | block_all | * | /* | 502
`},
		{"clusters", func() ([]json.RawMessage, envoy.Table, error) { return envoy.Clusters(h, envoy.ClusterFilter{}) }, 3, `
SERVICE FQDN | PORT | SUBSET | DIRECTION | TYPE | DESTINATION RULE
 | 9080 |  | inbound | ORIGINAL_DST | 
BlackHoleCluster |  |  |  | STATIC | 
reviews.default.svc.cluster.local | 9080 | v1 | outbound | EDS | reviews.default
`},
		{"one cluster", func() ([]json.RawMessage, envoy.Table, error) {
			return envoy.Clusters(h, envoy.ClusterFilter{FQDN: "reviews.default", Port: 9080, Subset: "v1", Direction: "outbound"})
		}, 1, `
SERVICE FQDN | PORT | SUBSET | DIRECTION | TYPE | DESTINATION RULE
reviews.default.svc.cluster.local | 9080 | v1 | outbound | EDS | reviews.default
`},
		{"endpoints", func() ([]json.RawMessage, envoy.Table, error) {
			return envoy.Endpoints(statuses, envoy.EndpointFilter{})
		}, 2, `
ENDPOINT | STATUS | OUTLIER CHECK | CLUSTER
10.0.0.1:9080 | HEALTHY | OK | outbound|9080||reviews
10.0.0.2:9080 | UNHEALTHY | FAILED | outbound|9080||reviews
[fd00::1]:80 | HEALTHY | OK | web
unix:///run/x | HEALTHY | OK | web
`},
		{"sick endpoints", func() ([]json.RawMessage, envoy.Table, error) {
			return envoy.Endpoints(statuses, envoy.EndpointFilter{Status: "unhealthy", Port: 9080, Address: "10.0.0.2", Cluster: "outbound|9080||reviews"})
		}, 1, `
ENDPOINT | STATUS | OUTLIER CHECK | CLUSTER
10.0.0.2:9080 | UNHEALTHY | FAILED | outbound|9080||reviews
`},
		{"endpoints of a dump", func() ([]json.RawMessage, envoy.Table, error) { return envoy.EndpointsOf(h, envoy.EndpointFilter{}) }, 1, `
ENDPOINT | STATUS | OUTLIER CHECK | CLUSTER
10.0.0.1:9080 | DRAINING | OK | outbound|9080||reviews
`},
		{"secrets", func() ([]json.RawMessage, envoy.Table, error) { return envoy.Secrets(h, now) }, 3, `
RESOURCE NAME | TYPE | STATUS | VALID CERT | SERIAL NUMBER | NOT AFTER | NOT BEFORE
ROOTCA | CA | WARMING | false |  |  | 
default | Cert Chain | ACTIVE | false |  |  | 
other | Secret | ACTIVE | false |  |  | 
`},
	} {
		raw, table, err := c.show()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if d := cmp.Diff(strings.TrimPrefix(c.want, "\n"), lines(table)); d != "" || len(raw) != c.raw {
			t.Errorf("%s: %d resources (-want +got)\n%s", c.name, len(raw), d)
		}
	}
}

// A dump from anywhere does not break the tables.
func FuzzTables(f *testing.F) {
	seed, err := os.ReadFile("testdata/dump.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(_ *testing.T, b []byte) {
		h, err := dump.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		_, _, _ = envoy.Listeners(h, envoy.ListenerFilter{})
		_, _, _ = envoy.Routes(h, "")
		_, _, _ = envoy.Clusters(h, envoy.ClusterFilter{})
		_, _, _ = envoy.EndpointsOf(h, envoy.EndpointFilter{})
		_, _, _ = envoy.Secrets(h, time.Time{})
	})
}
