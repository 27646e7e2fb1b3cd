package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	alpnv2 "istio.io/api/envoy/config/filter/http/alpn/v2alpha1"
	"istio.io/api/envoy/config/filter/network/metadata_exchange"
	"istio.io/api/envoy/extensions/stats"
)

// Unheeded is a setting of a filter that would make it do something else than what is done here: metrics other than the
// standard ones, for example. What others see of a workload may differ, what it may do does not, so the filter is not refused.
type Unheeded struct {
	Path    string `json:"path"`    // of the filter: "listener l.filter_chains[0].filters[0] http.http_filters[2] istio.stats"
	Setting string `json:"setting"` // "metrics"
	TypeURL string `json:"type"`
}

// What is told of one filter: no such filter has as many settings, and none has so long a name.
const (
	maxUnheeded = 16
	maxSetting  = 64
)

// fixed says of filters that do the same always with which values of their settings that is what they ask for; defaults are. Any
// other value, and a setting that is not here, is unheeded.
var fixed = map[string]struct {
	message  func() proto.Message // that such a filter may be, instead of a TypedStruct; nil: none is known
	settings map[string]func(*structpb.Value) bool
}{
	statsURL: {func() proto.Message { return &stats.PluginConfig{} }, map[string]func(*structpb.Value) bool{
		"disable_host_header_fallback": whatever, // no client's Host header is ever taken for a service
		"tcp_reporting_duration":       whatever, // bytes are counted while they move
		"graceful_deletion_interval":   whatever, // it is for rotation_interval
		"rotation_interval":            is("0s"),
		"reporter":                     is("UNSPECIFIED"),
	}},
	alpnURL: {func() proto.Message { return &alpnv2.FilterConfig{} }, map[string]func(*structpb.Value) bool{
		"alpn_override": each(isMeshALPN),
	}},
	grpcStatsURL: {func() proto.Message { return &grpcstatsv3.FilterConfig{} }, map[string]func(*structpb.Value) bool{
		"emit_filter_state": whatever, // nothing here reads it, and Istio sends it always
	}},
	onDemandURL: {func() proto.Message { return &ondemandv3.OnDemand{} }, nil},
	metadataExchangeURL: {func() proto.Message { return &metadata_exchange.MetadataExchange{} }, map[string]func(*structpb.Value) bool{
		"protocol":         is("istio-peer-exchange"),
		"enable_discovery": whatever, // as workload_discovery in byHeaders
	}},
	peerMetadataURL: {nil, map[string]func(*structpb.Value) bool{
		"downstream_discovery":   byHeaders,
		"upstream_discovery":     byHeaders,
		"downstream_propagation": each(has("istio_headers")), // skip_external_clusters in it: strangers are told nothing
		"upstream_propagation":   each(has("istio_headers")),
	}},
}

func whatever(*structpb.Value) bool { return true }

func is(text string) func(*structpb.Value) bool {
	return func(v *structpb.Value) bool { return v.GetStringValue() == text }
}

// each reports whether all elements of a list are as they should be.
func each(one func(map[string]*structpb.Value) bool) func(*structpb.Value) bool {
	return func(v *structpb.Value) bool {
		return v.GetListValue() != nil && !slices.ContainsFunc(v.GetListValue().GetValues(), func(e *structpb.Value) bool {
			return e.GetStructValue() == nil || !one(snakes(e.GetStructValue()))
		})
	}
}

// has reports whether there is nothing but these keys.
func has(keys ...string) func(map[string]*structpb.Value) bool {
	return func(m map[string]*structpb.Value) bool {
		for k := range m {
			if !slices.Contains(keys, k) {
				return false
			}
		}
		return true
	}
}

// byHeaders reports whether peers are known by what their headers say. Istio always names workload_discovery beside them, for
// those who say nothing; it needs an extension in Envoy's bootstrap, without which it finds nobody.
func byHeaders(v *structpb.Value) bool {
	return each(has("istio_headers", "workload_discovery"))(v) && slices.ContainsFunc(v.GetListValue().GetValues(), func(e *structpb.Value) bool {
		return snakes(e.GetStructValue())["istio_headers"] != nil
	})
}

// isMeshALPN reports whether an alpn_override is what is offered to peers of the mesh.
func isMeshALPN(m map[string]*structpb.Value) bool {
	var got []string
	for _, v := range m["alpn_override"].GetListValue().GetValues() {
		got = append(got, v.GetStringValue())
	}
	switch m["upstream_protocol"].GetStringValue() {
	case "", "HTTP10": // nobody is asked so
		return true
	case "HTTP11":
		return slices.Equal(got, meshHTTP1)
	case "HTTP2":
		return slices.Equal(got, meshHTTP2)
	}
	return false
}

// unheeded lists the settings of a filter of the table above that are, in order.
func unheeded(url string, a *anypb.Any, path string) ([]Unheeded, error) {
	f, ok := fixed[url]
	if !ok {
		return nil, nil
	}
	one := func(setting string) Unheeded { return Unheeded{path, setting, url} }
	_, value, boxed, err := typedStruct(a, path)
	if err != nil {
		return nil, err
	}
	var out []Unheeded
	switch {
	case boxed:
	case len(a.GetValue()) == 0:
		return nil, nil
	case f.message == nil:
		return []Unheeded{one("all of it: only a TypedStruct of it is read")}, nil
	default:
		m := f.message()
		if err := a.UnmarshalTo(m); err != nil {
			return nil, fmt.Errorf("%s: decoding %s: %w", path, url, err)
		}
		if n := len(m.ProtoReflect().GetUnknown()); n > 0 {
			out = append(out, one("fields newer than this proxy"))
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		value = &structpb.Struct{}
		if err := protojson.Unmarshal(text, value); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	settings := snakes(value)
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		v := settings[key]
		if fits := f.settings[key]; isDefault(v) || fits != nil && fits(v) {
			continue
		}
		if len(out) == maxUnheeded {
			return append(out, one("and more")), nil
		}
		if len(key) > maxSetting {
			key = strings.ToValidUTF8(key[:maxSetting], "") + "…"
		}
		out = append(out, one(key))
	}
	return out, nil
}

func isDefault(v *structpb.Value) bool {
	switch k := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return !k.BoolValue
	case *structpb.Value_NumberValue:
		return k.NumberValue == 0
	case *structpb.Value_StringValue:
		return k.StringValue == ""
	case *structpb.Value_ListValue:
		return len(k.ListValue.GetValues()) == 0
	case *structpb.Value_StructValue:
		return len(k.StructValue.GetFields()) == 0
	}
	return true
}

// snakes has the keys as fields are called: both ways to write them are right in JSON.
func snakes(s *structpb.Struct) map[string]*structpb.Value {
	out := make(map[string]*structpb.Value, len(s.GetFields()))
	for _, k := range slices.Sorted(maps.Keys(s.GetFields())) { // what was written as a field is called comes last, and wins
		var b strings.Builder
		for _, r := range k {
			if unicode.IsUpper(r) {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
		}
		if name := b.String(); out[name] == nil || name == k {
			out[name] = s.GetFields()[k]
		}
	}
	return out
}
