package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/xds/client"
)

// info is what /server_info says, as Envoy's tools read it: what they do not know they leave out.
func info(t *testing.T, p *Proxy) (*adminv3.ServerInfo, []byte) {
	t.Helper()
	text, err := json.Marshal(p.Info())
	if err != nil {
		t.Fatal(err)
	}
	s := &adminv3.ServerInfo{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, s); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s, text
}

func stat(t *testing.T, p *Proxy, name string) int64 {
	t.Helper()
	for _, s := range p.ServerStats() {
		if s.Name == name {
			return s.Value
		}
	}
	t.Errorf("there is no %s", name)
	return -1
}

// A proxy says in Envoy's form what it is at, by which options, and who it is.
func TestServerInfo(t *testing.T) {
	p := startAdopting(t, 0).proxy
	p.o.Level.Set(slog.LevelWarn)
	p.started = p.started.Add(-12 * time.Second)
	s, text := info(t, p)
	if s.GetState() != adminv3.ServerInfo_LIVE || s.GetCommandLineOptions().GetConcurrency() != 1 || s.GetCommandLineOptions().GetLogLevel() != "warning" || s.GetNode().GetUserAgentName() != "weir-proxy" {
		t.Errorf("%v", s)
	}
	if s.GetUptimeAllEpochs().AsDuration() < 12*time.Second || !regexp.MustCompile(`"uptime_current_epoch":"\d+s"`).Match(text) {
		t.Errorf("uptime: %s", text)
	}
	for name, want := range map[string]int64{"server.state": int64(adminv3.ServerInfo_LIVE), "server.live": 1, "server.concurrency": 1, "listener_manager.workers_started": 1, "listener_manager.total_listeners_active": 1} {
		if got := stat(t, p, name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	p.Drain()
	if s, _ := info(t, p); s.GetState() != adminv3.ServerInfo_DRAINING {
		t.Errorf("after drain: %v", s.GetState())
	}
	if got := stat(t, p, "server.state"); got != int64(adminv3.ServerInfo_DRAINING) {
		t.Errorf("server.state is %d after drain", got)
	}
}

// Before its control plane has said anything a proxy is initializing.
func TestServerInfoInTheBeginning(t *testing.T) {
	p, err := New(Options{
		Node: observe.Node{ID: "sidecar~127.0.0.1~me.default~default.svc.cluster.local", Name: "me", Namespace: "default"}, Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{},
		DrainTime: 5 * time.Second, Version: "v1",
		Control: &Control{TrustDomain: "cluster.local", Dial: func(context.Context, *identity.Manager) (client.Conn, error) { return nil, errors.New("away") }},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	s, _ := info(t, p)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if s.GetState() != adminv3.ServerInfo_INITIALIZING || s.GetVersion() != "v1" || s.GetNode().GetId() != p.o.Node.ID || s.GetNode().GetMetadata().GetFields()["NAMESPACE"].GetStringValue() != "default" ||
		s.GetCommandLineOptions().GetDrainTime().AsDuration() != 5*time.Second || s.GetCommandLineOptions().GetServiceNode() != p.o.Node.ID {
		t.Errorf("%v", s)
	}
}
