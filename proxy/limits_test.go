package proxy

import (
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// The limit of a static proxy's connections, in both of the forms there are.
func TestMaxConnections(t *testing.T) {
	const monitor = `{"overloadManager": {"resourceMonitors": [{"name": "envoy.resource_monitors.global_downstream_max_connections", "typedConfig":
		{"@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig", "maxActiveDownstreamConnections": "1000"}}]}}`
	for _, tc := range []struct {
		config string
		want   int64
		err    string
	}{
		{`{}`, 0, ""},
		{monitor, 1000, ""},
		{`{"layeredRuntime": {"layers": [{"name": "a", "staticLayer": {"overload.global_downstream_max_connections": 500}}]}}`, 500, ""},
		{`{"layeredRuntime": {"layers": [{"name": "a", "staticLayer": {"overload.global_downstream_max_connections": "50000"}}]}}`, 50000, ""},
		{`{"layeredRuntime": {"layers": [{"name": "a", "staticLayer": {"overload.global_downstream_max_connections": "many"}}]}}`, 0, "not a number"},
		{`{"overloadManager": {"resourceMonitors": [{"name": "envoy.resource_monitors.fixed_heap"}]}}`, 0, "fixed_heap"},
	} {
		b := &bootstrapv3.Bootstrap{}
		if err := protojson.Unmarshal([]byte(tc.config), b); err != nil {
			t.Fatal(err)
		}
		n, err := maxConnections(b)
		if n != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %d, %v; want %d, %q", tc.config, n, err, tc.want, tc.err)
		}
	}
}
