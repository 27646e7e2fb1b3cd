package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// Until when the certificates of listeners are good can be seen, and their keys cannot.
func TestCertificatesAreShown(t *testing.T) {
	cert := tlstest.New(t).Server("shop.example")
	chain, key := tlstest.PEM(t, cert)
	text, err := json.Marshal(map[string]any{"static_resources": map[string]any{"listeners": []any{map[string]any{
		"name": "https", "address": map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": 0}},
		"filter_chains": []any{map[string]any{
			"transport_socket": map[string]any{"name": "tls", "typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
				"common_tls_context": map[string]any{"tls_certificates": []any{map[string]any{
					"certificate_chain": map[string]any{"inline_string": string(chain)}, "private_key": map[string]any{"inline_string": string(key)}}}}}},
			"filters": []any{map[string]any{"name": "tcp", "typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x", "cluster": "none"}}},
		}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(text, b); err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Static: b, Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for len(p.shown()) == 0 || p.Ready() != nil {
		select {
		case <-ctx.Done():
			t.Fatal("never became ready")
		case <-time.After(time.Millisecond):
		}
	}
	var v struct{ Listeners []shown }
	text, err = json.Marshal(p.Identity())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil || len(v.Listeners) != 1 || v.Listeners[0].Names[0] != "shop.example" || !v.Listeners[0].ValidUntil.Equal(cert.Leaf.NotAfter) {
		t.Errorf("%s, %v", text, err)
	}
	var stats bytes.Buffer
	if err := p.Stats(ctx, &stats); err != nil || !strings.Contains(stats.String(), `weir_proxy_certificate_expiration_timestamp_seconds{listener="https",serial="`+v.Listeners[0].Serial+`"} `) {
		t.Errorf("%v in\n%s", err, stats.String())
	}
	body := strings.Split(string(key), "\n")[1]
	for name, value := range map[string]any{"identity": p.Identity(), "state": p.State()} {
		if text, err := json.Marshal(value); err != nil || strings.Contains(string(text), body) {
			t.Errorf("%s shows the private key, or %v", name, err)
		}
	}
}

// A proxy that nobody signs for keeps its configuration, and shows it, like any other.
func TestPlaintextIsKept(t *testing.T) {
	o := Options{
		Node: observe.Node{ID: "sidecar~127.0.0.1~me.default~default.svc.cluster.local", Name: "me", Namespace: "default"}, StateDir: t.TempDir(),
		Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{},
		Control: &Control{TrustDomain: "cluster.local", Dial: func(context.Context, *identity.Manager) (client.Conn, error) { return nil, errors.New("away") }},
	}
	body, err := anypb.New(&clusterv3.Cluster{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	for _, update := range []state.Update{{TypeURL: resource.ClusterType, Set: []state.Resource{{Name: "web", Version: "1", Body: body}}}, {}} {
		p, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if update.TypeURL != "" { // by the first process; the second has it from the file
			p.keeper.Changed(update)
		}
		d, err := p.Dump()
		if err != nil || len(d.Resources) != 1 || d.Resources[0].Name != "web" {
			t.Errorf("%+v, %v", d, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}
}
