package proxy

import (
	"encoding/json"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weirmesh/weir/proxy/admin"
	"github.com/weirmesh/weir/xds/resource"
)

// Life is Envoy's word for what the proxy is at.
func (p *Proxy) Life() admin.Life {
	switch {
	case p.draining.Load() || p.leaving.Load():
		return admin.Draining
	case p.Ready() != nil:
		return admin.Initializing
	}
	return admin.Live
}

// vital are the statistics that tools look at to see whether a proxy lives and has what it serves by.
func (p *Proxy) vital() []admin.Stat {
	life, s := p.Life(), p.state.current()
	gauge := func(name string, v int64) admin.Stat { return admin.Stat{Name: name, Value: v, Gauge: true} }
	truth := func(name string, v bool) admin.Stat {
		if v {
			return gauge(name, 1)
		}
		return gauge(name, 0)
	}
	var clusters, listeners int64
	for range s.Clusters() {
		clusters++
	}
	for l := range s.Listeners() {
		if l.Config != nil {
			listeners++
		}
	}
	out := []admin.Stat{
		gauge("cluster_manager.active_clusters", clusters), gauge("listener_manager.total_listeners_active", listeners), truth("listener_manager.workers_started", p.ready.Load()),
		gauge("server.concurrency", int64(len(p.workers))), truth("server.live", life == admin.Live), gauge("server.state", int64(life)), gauge("server.uptime", int64(time.Since(p.started)/time.Second)),
	}
	if p.xds != nil {
		x, _ := p.xds.State()
		out = append(out, truth("control_plane.connected_state", x.Connected))
	}
	return out
}

// Info answers /server_info: envoy.admin.v3.ServerInfo, and what else is to be said of a proxy at a glance.
func (p *Proxy) Info() any {
	uptime := seconds(time.Since(p.started))
	m := map[string]any{"version": p.o.Version, "state": p.Life().String(), "uptime_current_epoch": uptime, "uptime_all_epochs": uptime, "command_line_options": p.options(),
		"workers": len(p.workers), "started": p.started.UTC().Format(time.RFC3339), "generation": p.state.current().Generation, "active": p.active()}
	if node, err := (protojson.MarshalOptions{UseProtoNames: true}).Marshal(p.nodeProto()); err != nil {
		p.o.Log.Error("node as JSON", "err", err)
	} else {
		m["node"] = json.RawMessage(node)
	}
	if p.restored != nil {
		m["keptState"] = "not used: " + p.restored.Error()
	} else if p.restoredAge > 0 {
		m["keptState"] = "continued, was " + p.restoredAge.Round(time.Second).String() + " old"
	}
	if err := p.Ready(); err != nil {
		m["notReady"] = err.Error()
	}
	if p.xds != nil {
		s, _ := p.xds.State()
		x := map[string]any{"connected": s.Connected, "since": s.Since.UTC().Format(time.RFC3339), "controlPlane": s.ControlPlane}
		if s.LastError != nil {
			x["lastError"] = s.LastError.Error()
		}
		types := map[string]any{}
		for _, t := range s.Types {
			e := map[string]any{"held": t.Held, "version": t.Version}
			if len(t.Waiting) > 0 {
				e["waiting"] = t.Waiting
			}
			if t.LastNACK != nil {
				e["lastRejected"] = t.LastNACK
			}
			types[resource.Short(t.TypeURL)] = e
		}
		x["types"] = types
		m["xds"] = x
	}
	return m
}

// options are envoy.admin.v3.CommandLineOptions, as far as they mean something here.
func (p *Proxy) options() map[string]any {
	m := map[string]any{"mode": "Serve", "concurrency": len(p.workers), "drain_time": seconds(p.o.DrainTime), "disable_hot_restart": true,
		"service_node": p.o.Node.ID, "service_cluster": p.nodeProto().GetCluster()}
	if p.o.Level != nil {
		m["log_level"] = admin.LevelName(p.o.Level.Level())
	}
	return m
}

// seconds is a google.protobuf.Duration as JSON.
func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) + "s" }
