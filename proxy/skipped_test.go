package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/internal/locked"
)

// A filter that is skipped because it is optional is told in the log once, with its place and type, as long as it is there; and shown
// as long, too.
func TestSkippedFiltersAreTold(t *testing.T) {
	with := func(filters string) *bootstrapv3.Bootstrap {
		text, err := yaml.YAMLToJSON(fmt.Appendf(nil, `
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters:
          %s
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config: {}
`, filters))
		if err != nil {
			t.Fatal(err)
		}
		b := &bootstrapv3.Bootstrap{}
		if err := protojson.Unmarshal(text, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	const wasm = `- {name: wasm, is_optional: true, typed_config: {"@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: type.googleapis.com/mystery.Filter}}`
	var log locked.Buffer
	p, err := New(Options{Static: with(wasm), Log: slog.New(slog.NewTextHandler(&log, nil)), Level: &slog.LevelVar{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	waitFor(t, func() bool { return p.Ready() == nil })
	const path = "listener web.filter_chains[0].filters[0] http.http_filters[0] wasm"
	for i, step := range []struct {
		filters string
		told    int
		shown   bool
	}{
		{wasm, 1, true}, // what it began with, again
		{wasm + "\n          # a change elsewhere\n          " + `- {name: cors, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}`, 1, true},
		{"", 1, false},
		{wasm, 2, true},
	} {
		(&adopting{t: t, proxy: p}).use(with(step.filters))
		line := fmt.Sprintf(`level=WARN msg="an optional filter is skipped" listener=web path=%q type=type.googleapis.com/mystery.Filter reason=`, path)
		if n := strings.Count(log.String(), line); n != step.told || n != strings.Count(log.String(), "optional filter") {
			t.Errorf("step %d: told %d times, want %d:\n%s", i, n, step.told, log.String())
		}
		state, err := json.Marshal(p.State())
		if err != nil {
			t.Fatal(err)
		}
		if shown := strings.Contains(string(state), fmt.Sprintf(`"skippedOptionalFilters":[{"path":%q,"type":"type.googleapis.com/mystery.Filter"}]`, path)); shown != step.shown {
			t.Errorf("step %d: shown %v, want %v: %s", i, shown, step.shown, state)
		}
	}
}
