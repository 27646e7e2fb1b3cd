package overload

import (
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/cpu_utilization/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

func decode(t *testing.T, text string, group int64) (*Manager, error) {
	t.Helper()
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal([]byte(text), b); err != nil {
		t.Fatal(err)
	}
	return Decode(b, group)
}

func monitored(monitors, actions string) string {
	return `{"overloadManager": {"resourceMonitors": [` + monitors + `], "actions": [` + actions + `]}}`
}

const (
	types  = `"@type": "type.googleapis.com/envoy.extensions.resource_monitors.`
	heap   = `{"name": "heap", "typedConfig": {` + types + `fixed_heap.v3.FixedHeapConfig", "maxHeapSizeBytes": "1000"}}`
	cgroup = `{"name": "group", "typedConfig": {` + types + `cgroup_memory.v3.CgroupMemoryConfig", "maxMemoryBytes": "500"}}`
	cx     = `{"name": "envoy.resource_monitors.global_downstream_max_connections", "typedConfig": {` + types + `downstream_connections.v3.DownstreamConnectionsConfig", "maxActiveDownstreamConnections": "1000"}}`
)

// The limit of a proxy's connections, in both of the forms there are.
func TestConnections(t *testing.T) {
	layer := func(v string) string {
		return `{"layeredRuntime": {"layers": [{"name": "a", "staticLayer": {"overload.global_downstream_max_connections": ` + v + `}}]}}`
	}
	for text, want := range map[string]int64{`{}`: 0, monitored(cx, ""): 1000, layer(`500`): 500, layer(`"50000"`): 50000} {
		if m, err := decode(t, text, 0); err != nil || m.Connections != want || m.Watches() {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	if _, err := decode(t, layer(`"many"`), 0); err == nil || !strings.Contains(err.Error(), "not a number") {
		t.Error(err)
	}
}

// Actions follow their triggers: the one that is furthest counts, and those that know no half begin when it is reached.
func TestSteps(t *testing.T) {
	const actions = `{"name": "envoy.overload_actions.shrink_heap", "triggers": [{"name": "heap", "threshold": {"value": 0.8}}], "typedConfig": {"@type": "type.googleapis.com/envoy.config.overload.v3.ShrinkHeapConfig", "timerInterval": "3s"}},
		{"name": "envoy.overload_actions.disable_http_keepalive", "triggers": [{"name": "heap", "scaled": {"scalingThreshold": 0.5, "saturationThreshold": 0.85}}]},
		{"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [{"name": "heap", "threshold": {"value": 0.95}}, {"name": "group", "threshold": {"value": 1}}]},
		{"name": "envoy.overload_actions.reject_incoming_connections", "triggers": [{"name": "heap", "scaled": {"scalingThreshold": 0.9, "saturationThreshold": 1}}]}`
	m, err := decode(t, monitored(heap+","+cgroup, actions), 0)
	if err != nil || !m.Watches() || m.ShrinkEvery != 3*time.Second || m.Every != time.Second {
		t.Fatal(m, err)
	}
	small, err := decode(t, monitored(heap+","+cgroup, actions), 300)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		m    *Manager
		used int64
		want Given
	}{
		{m, 0, Given{}},
		{m, 499, Given{}},
		{m, 500, Given{Requests: 1}},
		{small, 299, Given{}},
		{small, 300, Given{Requests: 1}},
		{m, 799, Given{Requests: 1}},
		{m, 800, Given{Requests: 1, Shrink: true}},
		{m, 849, Given{Requests: 1, Shrink: true}},
		{m, 851, Given{Requests: 1, Shrink: true, Idle: true}},
		{m, 925, Given{Requests: 1, Connections: 0.25, Shrink: true, Idle: true}},
		{m, 2000, Given{Requests: 1, Connections: 1, Shrink: true, Idle: true}},
	} {
		got := c.m.Step(c.used, nil)
		if d := got.Connections - c.want.Connections; d < 1e-6 && d > -1e-6 {
			got.Connections = c.want.Connections
		}
		if got != c.want {
			t.Errorf("%d in use: %+v, want %+v", c.used, got, c.want)
		}
	}
	told := map[string]float64{}
	m.Step(925, func(name string, v float64) { told[name] = v })
	if told["heap.pressure"] != 92.5 || told["group.pressure"] != 185 || int(told["envoy.overload_actions.reject_incoming_connections.scale_percent"]) != 25 ||
		told["envoy.overload_actions.reject_incoming_connections.active"] != 0 || told["envoy.overload_actions.shrink_heap.active"] != 1 {
		t.Error(told)
	}
}

// What is not done is refused by its path, and says why.
func TestRefused(t *testing.T) {
	on := func(name, trigger string) string {
		return monitored(heap+","+cx, `{"name": "`+name+`", "triggers": [`+trigger+`]}`)
	}
	const at = `{"name": "heap", "threshold": {"value": 0.9}}`
	for text, want := range map[string]string{
		monitored(`{"name": "cpu", "typedConfig": {`+types+`cpu_utilization.v3.CpuUtilizationConfig"}}`, ""): "overload_manager.resource_monitors[0] cpu: envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig is not supported",
		monitored(heap+","+heap, ""):                                                      "resource_monitors[1] heap: there are two of that name",
		monitored(`{"name": "heap"}`, ""):                                                 "resource_monitors[0] heap",
		monitored(strings.Replace(heap, `"1000"`, `"0"`, 1), ""):                          "resource_monitors[0] heap: needs max_heap_size_bytes",
		on("envoy.overload_actions.reduce_timeouts", at):                                  "overload_manager.actions[0] envoy.overload_actions.reduce_timeouts: is not supported: timeouts are",
		on("envoy.overload_actions.reset_high_memory_stream", at):                         "reset_high_memory_stream: is not supported: a stream",
		on("envoy.overload_actions.mystery", at):                                          "envoy.overload_actions.mystery: is not supported",
		on("envoy.overload_actions.shrink_heap", ""):                                      "triggers: is empty",
		on("envoy.overload_actions.shrink_heap", at+","+at):                               "triggers[1] heap: there are two of that name",
		on("envoy.overload_actions.shrink_heap", strings.Replace(at, "heap", "stack", 1)): "triggers[0] stack: there is no resource monitor of memory of that name",
		on("envoy.overload_actions.shrink_heap", strings.Replace(at, "heap", "envoy.resource_monitors.global_downstream_max_connections", 1)): "there is no resource monitor of memory of that name",
		on("envoy.overload_actions.shrink_heap", strings.Replace(at, "0.9", "1.1", 1)):                                                        "thresholds are from 0 to 1",
		on("envoy.overload_actions.shrink_heap", `{"name": "heap", "scaled": {"scalingThreshold": 0.9, "saturationThreshold": 0.9}}`):         "scaling_threshold must be below",
		`{"overloadManager": {"bufferFactoryConfig": {"minimumAccountToTrackPowerOfTwo": 20}}}`:                                               "overload_manager.buffer_factory_config: field is not supported",
		`{"overloadManager": {"refreshInterval": "0s"}}`:                                                                                      "refresh_interval",
		`{"overloadManager": {"loadshedPoints": [{"name": "envoy.load_shed_points.http2_server_go_away_on_dispatch"}]}}`:                      "overload_manager.loadshed_points[0] envoy.load_shed_points.http2_server_go_away_on_dispatch: is not supported",
	} {
		if _, err := decode(t, text, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
}
