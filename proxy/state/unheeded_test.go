package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	alpnv2 "istio.io/api/envoy/config/filter/http/alpn/v2alpha1"
	"istio.io/api/envoy/extensions/stats"

	"github.com/weirmesh/weir/xds/resource"
)

// What filters are told whose work is always the same is what they do, or it is told; by the message itself, as Istio sends
// some, and in a TypedStruct. What Istio sends of its own accord is not worth a word.
func TestUnheededSettings(t *testing.T) {
	boxed := func(url, value string) *anypb.Any {
		return jsonAny(t, inStruct("udpa.type.v1", strings.TrimPrefix(url, typePrefix), value))
	}
	message := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	istioALPN := func(h2 ...string) *alpnv2.FilterConfig {
		return &alpnv2.FilterConfig{AlpnOverride: []*alpnv2.FilterConfig_AlpnOverride{
			{UpstreamProtocol: alpnv2.FilterConfig_HTTP10, AlpnOverride: []string{"istio-http/1.0", "istio", "http/1.0"}},
			{UpstreamProtocol: alpnv2.FilterConfig_HTTP11, AlpnOverride: []string{"istio-http/1.1", "istio", "http/1.1"}},
			{UpstreamProtocol: alpnv2.FilterConfig_HTTP2, AlpnOverride: h2},
		}}
	}
	newer := message(&stats.PluginConfig{})
	newer.Value = []byte{0xf8, 0x07, 1} // field 127
	for _, c := range []struct {
		what   string
		url    string
		config *anypb.Any
		want   string
	}{
		{"stats, as Istio's gateways have it", statsURL, message(&stats.PluginConfig{DisableHostHeaderFallback: true, TcpReportingDuration: durationpb.New(5e9), RotationInterval: &durationpb.Duration{}, GracefulDeletionInterval: durationpb.New(3e11)}), ""},
		{"nothing", statsURL, boxed(statsURL, `{}`), ""},
		{"defaults that are written down", statsURL, boxed(statsURL, `{"metrics": [], "reporter": "UNSPECIFIED", "definitions": null, "debug": false, "rotationInterval": "0s"}`), ""},
		{"metrics and tags of Telemetry", statsURL, message(&stats.PluginConfig{Metrics: []*stats.MetricConfig{{Name: "requests_total", TagsToRemove: []string{"request_protocol"}}}}), "metrics"},
		{"the same in a TypedStruct, both ways to write names", statsURL, boxed(statsURL, `{"metrics": [{"name": "x", "drop": true}], "rotationInterval": "60s", "reporter": "SERVER_GATEWAY"}`), "metrics|reporter|rotation_interval"},
		{"what no filter has", statsURL, boxed(statsURL, `{"hours": 1, "`+strings.Repeat("x", 100)+`": 1}`), "hours|" + strings.Repeat("x", maxSetting) + "…"},
		{"more than a filter has", statsURL, boxed(statsURL, `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1,"n":1,"o":1,"p":1,"q":1,"r":1}`), "a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|and more"},
		{"a field newer than the message", statsURL, newer, "fields newer than this proxy"},
		{"ALPN, as Istio has it", alpnURL, message(istioALPN("istio-h2", "istio", "h2")), ""},
		{"ALPN, in a TypedStruct", alpnURL, boxed(alpnURL, `{"alpnOverride": [{"upstreamProtocol": "HTTP2", "alpn_override": ["istio-h2", "istio", "h2"]}]}`), ""},
		{"another ALPN", alpnURL, message(istioALPN("h2")), "alpn_override"},
		{"gRPC statistics, as Istio has them", grpcStatsURL, fromText(t, `[type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig] { emit_filter_state: true stats_for_all_methods { value: false } }`, &anypb.Any{}), ""},
		{"statistics by method", grpcStatsURL, fromText(t, `[type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig] { stats_for_all_methods { value: true } enable_upstream_stats: true }`, &anypb.Any{}), "enable_upstream_stats|stats_for_all_methods"},
		{"clusters on demand", onDemandURL, fromText(t, `[type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand] { odcds { source { ads {} } } }`, &anypb.Any{}), "odcds"},
		{"exchange of metadata, as Istio's sidecars have it", peerMetadataURL, boxed(peerMetadataURL, `{"upstream_discovery": [{"istio_headers": {}}, {"workload_discovery": {}}], "upstream_propagation": [{"istio_headers": {"skip_external_clusters": true}}]}`), ""},
		{"and more of it", peerMetadataURL, boxed(peerMetadataURL, `{"downstream_discovery": [{"baggage": {}}], "shared_with_upstream": true, "additional_labels": ["role"]}`), "additional_labels|downstream_discovery|shared_with_upstream"},
		{"found by address alone, as waypoints have it", peerMetadataURL, boxed(peerMetadataURL, `{"upstream_discovery": [{"workload_discovery": {}}]}`), "upstream_discovery"},
		{"nothing of it", peerMetadataURL, &anypb.Any{TypeUrl: peerMetadataURL}, ""},
		{"what is not read", peerMetadataURL, &anypb.Any{TypeUrl: peerMetadataURL, Value: []byte{1}}, "all of it: only a TypedStruct of it is read"},
		{"exchange on connections, as Istio has it", metadataExchangeURL, boxed(metadataExchangeURL, `{"protocol": "istio-peer-exchange", "enable_discovery": true}`), ""},
		{"by another protocol", metadataExchangeURL, boxed(metadataExchangeURL, `{"protocol": "mine", "additional_labels": ["role"]}`), "additional_labels|protocol"},
	} {
		var want []Unheeded
		for w := range strings.SplitSeq(c.want, "|") {
			if w != "" {
				want = append(want, Unheeded{"at", w, c.url})
			}
		}
		if got, err := unheeded(c.url, c.config, "at"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v\nwant %v", c.what, got, err, want)
		}
	}
	if _, err := unheeded(statsURL, &anypb.Any{TypeUrl: statsURL, Value: []byte{0xff}}, "at"); err == nil || !strings.HasPrefix(err.Error(), "at: decoding type.googleapis.com/stats.PluginConfig: ") {
		t.Errorf("no message: %v", err)
	}
	for url := range fixed {
		if httpFilters[url].name == "" && networkFilters[url] == "" {
			t.Errorf("%s is no filter", url)
		}
	}
	for url, f := range httpFilters {
		if _, ok := fixed[url]; f.inert != "" && !ok {
			t.Errorf("of %s nobody reads the settings", url)
		}
	}
}

// Settings without effect are shown where they are, of both kinds of filters, clusters too, as long as they are there. Of a route
// they are refused.
func TestUnheededPlaces(t *testing.T) {
	b := newBuilder()
	show := func(s *State) string {
		var out []string
		for u := range s.Unheeded() {
			out = append(out, u.Path+": "+u.Setting)
		}
		return strings.Join(out, "\n")
	}
	tags := inStruct("udpa.type.v1", "stats.PluginConfig", `{"metrics": [{"name": "x", "drop": true}]}`)
	exchange := func(more string) string {
		return fmt.Sprintf(`name: "c" type: EDS eds_cluster_config { eds_config { ads {} } } filters { name: "istio.metadata_exchange" typed_config { [type.googleapis.com/udpa.type.v1.TypedStruct] {
			type_url: %q value { fields { key: "protocol" value { string_value: "istio-peer-exchange" } } %s } } } }`, metadataExchangeURL, more)
	}
	apply(t, b, update(t, resource.ClusterType, exchange(`fields { key: "additional_labels" value { list_value { values { string_value: "role" } } } }`)))
	apply(t, b, jsonUpdate(t, resource.ListenerType, strings.Replace(listenerJSON("", `{"name": "s", "typed_config": `+tags+`},`+tcpJSON), `"name": "l"`, `"name": "a"`, 1)))
	s, _ := apply(t, b, jsonUpdate(t, resource.ListenerType, managerJSON(`{"name": "s", "typed_config": `+tags+`},`)))
	if got, want := show(s), "listener a.filter_chains[0].filters[0] s: metrics\nlistener l.filter_chains[0].filters[0] http.http_filters[0] s: metrics\ncluster c.filters[0] istio.metadata_exchange: additional_labels"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	apply(t, b, Update{TypeURL: resource.ListenerType, Removed: []string{"a"}})
	apply(t, b, update(t, resource.ClusterType, exchange("")))
	if s, _ = apply(t, b, jsonUpdate(t, resource.ListenerType, managerJSON(""))); show(s) != "" {
		t.Errorf("what is not there is shown: %s", show(s))
	}
	if s, _ = apply(t, b, jsonUpdate(t, resource.RouteType, hostJSON(inStruct("xds.type.v3", "stats.PluginConfig", `{}`)))); s.Table("r") == nil {
		t.Error("a filter without settings is not taken of a route")
	}
	const want = "typed_per_filter_config[f].metrics: type.googleapis.com/stats.PluginConfig has no settings by route"
	if _, _, err := b.Apply(jsonUpdate(t, resource.RouteType, hostJSON(tags))); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if _, _, err := b.Apply(jsonUpdate(t, resource.RouteType, hostJSON(filterConfigJSON(`"is_optional": true, `, tags)))); err != nil {
		t.Errorf("and optional: %v", err)
	}
	if _, _, err := b.Apply(update(t, resource.ClusterType, strings.Replace(exchange(""), metadataExchangeURL, typePrefix+"mystery.Filter", 1))); err == nil || !strings.Contains(err.Error(), "cluster c.filters[0] istio.metadata_exchange: filters of clusters are not supported") {
		t.Errorf("another filter by that name: %v", err)
	}
}

func jsonAny(t *testing.T, text string) *anypb.Any {
	t.Helper()
	a := &anypb.Any{}
	if err := protojson.Unmarshal([]byte(text), a); err != nil {
		t.Fatal(err)
	}
	return a
}
