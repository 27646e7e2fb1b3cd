package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

// stepsOf runs a proxy with a listener that has other HTTP filters at each step, of which the first is what it begins with, and then
// looks at its log so far and at its state.
func stepsOf(t *testing.T, filters []string, look func(step int, log, state string)) {
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
	p, log := running(t, with(filters[0]))
	for i, f := range filters {
		(&adopting{t: t, proxy: p}).use(with(f))
		state, err := json.Marshal(p.State())
		if err != nil {
			t.Fatal(err)
		}
		look(i, log.String(), string(state))
	}
}

const (
	webHTTP   = "listener web.filter_chains[0].filters[0] http.http_filters[0]"
	elsewhere = "\n          # a change elsewhere\n          " + `- {name: cors, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}`
)

// A filter that is skipped because it is optional is told in the log once, with its place and type, as long as it is there; and shown
// as long, too.
func TestSkippedFiltersAreTold(t *testing.T) {
	const wasm = `- {name: wasm, is_optional: true, typed_config: {"@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: type.googleapis.com/mystery.Filter}}`
	const path = webHTTP + " wasm"
	told, shown := []int{1, 1, 1, 2}, []bool{true, true, false, true} // what it began with comes again
	stepsOf(t, []string{wasm, wasm + elsewhere, "", wasm}, func(i int, log, state string) {
		line := fmt.Sprintf(`level=WARN msg="an optional filter is skipped" listener=web path=%q type=type.googleapis.com/mystery.Filter reason=`, path)
		if n := strings.Count(log, line); n != told[i] || n != strings.Count(log, "optional filter") {
			t.Errorf("step %d: told %d times, want %d:\n%s", i, n, told[i], log)
		}
		if is := strings.Contains(state, fmt.Sprintf(`"skippedOptionalFilters":[{"path":%q,"type":"type.googleapis.com/mystery.Filter"}]`, path)); is != shown[i] {
			t.Errorf("step %d: shown %v, want %v: %s", i, is, shown[i], state)
		}
	})
}

// A setting of a filter that has no effect is told in the log once, with its first place, however often it is there, as long as it is
// anywhere; and all its places are shown.
func TestUnheededSettingsAreTold(t *testing.T) {
	const tags = `- {name: stats, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/stats.PluginConfig, value: {disable_host_header_fallback: true, metrics: [{tags_to_remove: [a]}]}}}`
	const again = "\n          " + tags
	told, places := []int{1, 1, 1, 1, 2}, []int{1, 2, 1, 0, 1}
	stepsOf(t, []string{tags, tags + again, tags + elsewhere, "", tags}, func(i int, log, state string) {
		line := fmt.Sprintf(`level=WARN msg="a setting of a filter has no effect" path=%q setting=metrics type=type.googleapis.com/stats.PluginConfig reason=`, webHTTP+" stats")
		if n := strings.Count(log, line); n != told[i] || n != strings.Count(log, "a setting of a filter") {
			t.Errorf("step %d: told %d times, want %d:\n%s", i, n, told[i], log)
		}
		if n := strings.Count(state, `"setting":"metrics"`); n != places[i] || !strings.Contains(state, `"unheededSettings":[`) {
			t.Errorf("step %d: shown %d times, want %d: %s", i, n, places[i], state)
		}
	})
}
