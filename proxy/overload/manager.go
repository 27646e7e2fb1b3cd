// Package overload decides what a proxy gives up when its bootstrap has an overload manager.
//
// The bootstrap's overload_manager and how much memory is in use enter; what is Given up leaves, for proxy to act on, on top of
// what levels of memory do (internal/memory). Manager is immutable and may be stepped from anywhere. What an action means is said
// here and nowhere else.
package overload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	cgroupmemoryv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/cgroup_memory/v3"
	downstreamconnectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	fixedheapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Manager is an overload manager as a bootstrap has it (overload_manager). What it gives up comes on top of what levels do. It is
// immutable.
type Manager struct {
	// Connections limits the clients' connections of all listeners together; 0: no limit.
	Connections int64
	// Every is how often to look.
	Every time.Duration
	// ShrinkEvery is how often memory is given back to the system while that is asked for.
	ShrinkEvery time.Duration

	monitors []monitor
	actions  []action
}

// monitor compares memory in use with a limit; 0: there is none, and no pressure.
type monitor struct {
	name  string
	limit int64
}

type action struct {
	name     string
	does     func(*Given, float64)
	triggers []trigger
}

// trigger is at 0 up to a pressure, from another one on at 1, and between them in between. Where they are the same, it is at 1 there.
type trigger struct {
	monitor  int
	from, to float64
}

// Given is what is given up.
type Given struct {
	Requests, Connections float64 // the share that is refused
	Idle                  bool    // connections on which nothing is under way
	Shrink                bool    // memory goes back to the system
}

// actionsOf are the actions and load shed points there are. Connections are refused, not left in the queue of the kernel, where
// clients would wait for nobody.
var actionsOf = map[string]func(*Given, float64){
	"envoy.overload_actions.stop_accepting_requests":                requests,
	"envoy.overload_actions.stop_accepting_connections":             func(g *Given, state float64) { connections(g, whole(state)) },
	"envoy.overload_actions.reject_incoming_connections":            connections,
	"envoy.overload_actions.disable_http_keepalive":                 func(g *Given, state float64) { g.Idle = g.Idle || whole(state) == 1 },
	"envoy.overload_actions.shrink_heap":                            func(g *Given, state float64) { g.Shrink = g.Shrink || whole(state) == 1 },
	"envoy.load_shed_points.tcp_listener_accept":                    connections,
	"envoy.load_shed_points.http_connection_manager_decode_headers": requests,
}

func requests(g *Given, state float64)    { g.Requests = max(g.Requests, state) }
func connections(g *Given, state float64) { g.Connections = max(g.Connections, state) }

// whole is for actions that know no half.
func whole(state float64) float64 {
	if state < 1 {
		return 0
	}
	return 1
}

// refused are those of Envoy's actions that are not done, with the reason.
var refused = map[string]string{
	"envoy.overload_actions.reduce_timeouts":          "timeouts are what listeners say; disable_http_keepalive closes idle connections",
	"envoy.overload_actions.reset_high_memory_stream": "a stream holds no more than its buffers' watermarks; stop_accepting_requests refuses new ones",
}

// Step is told how many bytes are in use, and says what is given up now, with what Envoy counts of every action and
// monitor if tell is not nil.
func (m *Manager) Step(used int64, tell func(name string, value float64)) Given {
	pressure := func(i int) float64 {
		if m.monitors[i].limit <= 0 {
			return 0
		}
		return float64(used) / float64(m.monitors[i].limit)
	}
	if tell != nil {
		for i, r := range m.monitors {
			tell(r.name+".pressure", pressure(i)*100)
		}
	}
	var g Given
	for _, a := range m.actions {
		state := 0.0
		for _, t := range a.triggers {
			state = max(state, t.state(pressure(t.monitor)))
		}
		if state > 0 {
			a.does(&g, state)
		}
		if tell != nil {
			tell(a.name+".scale_percent", state*100)
			tell(a.name+".active", whole(state))
		}
	}
	return g
}

func (t trigger) state(pressure float64) float64 {
	switch {
	case t.from == t.to && pressure >= t.to, t.from < t.to && pressure > t.to:
		return 1
	case t.from < t.to && pressure > t.from:
		return (pressure - t.from) / (t.to - t.from)
	}
	return 0
}

// Watches reports whether anything depends on memory.
func (m *Manager) Watches() bool { return len(m.actions) > 0 }

// RuntimeConnections is the key of the runtime that limited connections before there was a monitor for it.
const RuntimeConnections = "overload.global_downstream_max_connections"

// Decode reads the overload manager of a bootstrap. group is what the control group permits of memory; 0: there is no limit.
func Decode(b *bootstrapv3.Bootstrap, group int64) (*Manager, error) {
	m := &Manager{Every: time.Second, ShrinkEvery: 10 * time.Second} // Envoy's
	var err error
	if m.Connections, err = runtimeLimit(b); err != nil {
		return nil, err
	}
	o := b.GetOverloadManager()
	if err := only(o, "overload_manager", "refresh_interval", "resource_monitors", "actions", "loadshed_points"); err != nil {
		return nil, err
	}
	if d := o.GetRefreshInterval(); d != nil {
		if m.Every = d.AsDuration(); m.Every < time.Millisecond {
			return nil, fmt.Errorf("overload_manager.refresh_interval: %v, must be a millisecond at least", m.Every)
		}
	}
	for i, r := range o.GetResourceMonitors() {
		if err := m.monitor(r, group, fmt.Sprintf("overload_manager.resource_monitors[%d] %s", i, r.GetName())); err != nil {
			return nil, err
		}
	}
	for i, a := range o.GetActions() {
		path := fmt.Sprintf("overload_manager.actions[%d] %s", i, a.GetName())
		if err := m.action(a.GetName(), a.GetTriggers(), path); err != nil {
			return nil, err
		}
		if err := m.shrink(a, path); err != nil {
			return nil, err
		}
	}
	for i, p := range o.GetLoadshedPoints() {
		if err := m.action(p.GetName(), p.GetTriggers(), fmt.Sprintf("overload_manager.loadshed_points[%d] %s", i, p.GetName())); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// runtimeLimit is what the runtime says of connections; 0: nothing.
func runtimeLimit(b *bootstrapv3.Bootstrap) (limit int64, err error) {
	for _, layer := range b.GetLayeredRuntime().GetLayers() {
		v := layer.GetStaticLayer().GetFields()[RuntimeConnections]
		if v == nil {
			continue
		}
		n := int64(v.GetNumberValue())
		if s := v.GetStringValue(); s != "" {
			n, _ = strconv.ParseInt(s, 10, 64)
		}
		if n <= 0 {
			return 0, fmt.Errorf("layered_runtime: %s: not a number of connections", RuntimeConnections)
		}
		limit = n
	}
	return limit, nil
}

func (m *Manager) monitor(r *overloadv3.ResourceMonitor, group int64, path string) error {
	if slices.ContainsFunc(m.monitors, func(x monitor) bool { return x.name == r.GetName() }) {
		return fmt.Errorf("%s: there are two of that name", path)
	}
	config, err := r.GetTypedConfig().UnmarshalNew()
	if err != nil {
		return fmt.Errorf("%s.typed_config: %s is not supported; fixed_heap, cgroup_memory and downstream_connections are", path, r.GetTypedConfig().GetTypeUrl())
	}
	if n := config.ProtoReflect().GetUnknown(); len(n) > 0 {
		return fmt.Errorf("%s.typed_config: %d bytes of fields newer than this proxy", path, len(n))
	}
	x := monitor{name: r.GetName()}
	switch c := config.(type) {
	case *downstreamconnectionsv3.DownstreamConnectionsConfig:
		if m.Connections = c.GetMaxActiveDownstreamConnections(); m.Connections <= 0 {
			return fmt.Errorf("%s.max_active_downstream_connections: %d, must be 1 at least", path, m.Connections)
		}
		return nil // refuses at the limit, and has no pressure for triggers, as Envoy's
	case *fixedheapv3.FixedHeapConfig:
		// There is no runtime layer that could say otherwise than the default.
		x.limit = int64(max(c.GetMaxHeapSizeBytes(), c.GetMaxHeapSizeBytesRuntime().GetDefaultValue()))
		if (c.GetMaxHeapSizeBytes() > 0) == (c.GetMaxHeapSizeBytesRuntime() != nil) || x.limit <= 0 {
			return fmt.Errorf("%s: needs max_heap_size_bytes, or max_heap_size_bytes_runtime", path)
		}
	case *cgroupmemoryv3.CgroupMemoryConfig:
		x.limit = group
		if n := int64(c.GetMaxMemoryBytes()); n > 0 && (group == 0 || n < group) {
			x.limit = n
		}
	default:
		return fmt.Errorf("%s: %s is not supported; fixed_heap, cgroup_memory and downstream_connections are", path, config.ProtoReflect().Descriptor().FullName())
	}
	m.monitors = append(m.monitors, x)
	return nil
}

func (m *Manager) action(name string, triggers []*overloadv3.Trigger, path string) error {
	a := action{name: name, does: actionsOf[name]}
	switch {
	case refused[name] != "":
		return fmt.Errorf("%s: is not supported: %s", path, refused[name])
	case a.does == nil:
		return fmt.Errorf("%s: is not supported", path)
	case slices.ContainsFunc(m.actions, func(x action) bool { return x.name == name }):
		return fmt.Errorf("%s: is there twice", path)
	case len(triggers) == 0:
		return fmt.Errorf("%s.triggers: is empty", path)
	}
	for i, t := range triggers {
		at := fmt.Sprintf("%s.triggers[%d] %s", path, i, t.GetName())
		x := trigger{monitor: slices.IndexFunc(m.monitors, func(r monitor) bool { return r.name == t.GetName() })}
		switch {
		case x.monitor < 0:
			return fmt.Errorf("%s: there is no resource monitor of memory of that name", at)
		case slices.ContainsFunc(a.triggers, func(y trigger) bool { return x.monitor == y.monitor }):
			return fmt.Errorf("%s: there are two of that name", at)
		case t.GetThreshold() != nil:
			x.from, x.to = t.GetThreshold().GetValue(), t.GetThreshold().GetValue()
		case t.GetScaled() != nil:
			x.from, x.to = t.GetScaled().GetScalingThreshold(), t.GetScaled().GetSaturationThreshold()
			if x.from >= x.to {
				return fmt.Errorf("%s.scaled: scaling_threshold must be below saturation_threshold", at)
			}
		default:
			return fmt.Errorf("%s: needs threshold or scaled", at)
		}
		if !(x.from >= 0 && x.to <= 1) {
			return fmt.Errorf("%s: thresholds are from 0 to 1", at)
		}
		a.triggers = append(a.triggers, x)
	}
	m.actions = append(m.actions, a)
	return nil
}

// shrink reads the configuration that only shrink_heap has.
func (m *Manager) shrink(a *overloadv3.OverloadAction, path string) error {
	if a.GetTypedConfig() == nil {
		return nil
	}
	path += ".typed_config"
	c := &overloadv3.ShrinkHeapConfig{}
	if err := a.GetTypedConfig().UnmarshalTo(c); err != nil || !strings.HasSuffix(a.GetName(), ".shrink_heap") {
		return fmt.Errorf("%s: %s is not supported here", path, a.GetTypedConfig().GetTypeUrl())
	}
	// max_unfreed_memory_bytes is what tcmalloc may keep: Go keeps nothing then.
	if err := only(c, path, "timer_interval", "max_unfreed_memory_bytes"); err != nil {
		return err
	}
	if d := c.GetTimerInterval(); d != nil {
		if m.ShrinkEvery = d.AsDuration(); m.ShrinkEvery < time.Second {
			return fmt.Errorf("%s.timer_interval: %v, must be a second at least", path, m.ShrinkEvery)
		}
	}
	return nil
}

// only refuses fields that are not among those named.
func only(m proto.Message, path string, names ...protoreflect.Name) (err error) {
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(names, f.Name()) {
			err = fmt.Errorf("%s.%s: field is not supported", path, f.Name())
		}
		return err == nil
	})
	return err
}
