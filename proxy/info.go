package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
		if s.Connected {
			if took, err := p.answers(); err != nil {
				x["silent"] = err.Error()
			} else {
				x["answeredAfter"] = took.String()
			}
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

// answerTime is how long the control plane may take to answer whether it is there: who asks for its state wants to know now.
const answerTime = time.Second

// answers asks the control plane, on the connection that configuration comes on, for something that nobody serves, and says how soon it
// answered. One that is frozen or cut off keeps its connection for up to 40 s (xds/client); until then nothing but this tells that what
// is in force may be old.
func (p *Proxy) answers() (time.Duration, error) {
	conn := p.uplink.Load()
	if conn == nil {
		return 0, errors.New("there is no connection")
	}
	ctx, cancel := context.WithTimeout(p.quitCtx, answerTime)
	defer cancel()
	began := time.Now()
	err := (*conn).Invoke(ctx, "/weir.dev.Nobody/There", &discoveryv3.DeltaDiscoveryRequest{}, &discoveryv3.DeltaDiscoveryResponse{})
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return 0, fmt.Errorf("the control plane has not answered for %v: what is in force may be older than what it knows", answerTime)
	case codes.Unavailable, codes.Canceled:
		return 0, err
	}
	return time.Since(began).Round(10 * time.Microsecond), nil
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
