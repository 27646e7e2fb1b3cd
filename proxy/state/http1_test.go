package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/message"
)

func preserve(more string) string {
	return `header_key_format { stateful_formatter { name: "x" typed_config { [type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig] {` + more + `} } } }`
}

func fromText[M proto.Message](t *testing.T, text string, m M) M {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

// What a listener says about HTTP/1.1 is done, or refused by the name of its field.
func TestManagerHTTP1(t *testing.T) {
	for _, c := range []struct {
		text, err string
		ok        func(c *http.Config) bool
	}{
		{"", "", func(c *http.Config) bool {
			return c.HTTP1 == h1.Rules{} && c.Limits == h1.Limits{} && c.IdleTimeout == 0 && c.HeaderTimeout == 0
		}},
		{`http_protocol_options { accept_http_10: true default_host_for_http_10: "d" }`, "", func(c *http.Config) bool { return c.HTTP1.HTTP10 && c.HTTP1.DefaultHost == "d" }},
		{`http_protocol_options { header_key_format { proper_case_words {} } }`, "", func(c *http.Config) bool { return c.HTTP1.Names == h1.ProperCase }},
		{`http_protocol_options { ` + preserve("") + ` }`, "", func(c *http.Config) bool { return c.HTTP1.Names == h1.PreserveCase }},
		{`http_protocol_options { ` + preserve("formatter_type_on_envoy_headers: PROPER_CASE") + ` }`, "", func(c *http.Config) bool { return c.HTTP1.Names == h1.PreserveOrProperCase }},
		{`http_protocol_options { header_key_format { stateful_formatter { name: "x" } } }`, "header_key_format.stateful_formatter", nil},
		{`http_protocol_options { send_fully_qualified_url: true }`, "send_fully_qualified_url: field is not supported", nil},
		{`max_request_headers_kb { value: 96 }`, "", func(c *http.Config) bool { return c.Limits.HeadBytes == 96<<10 }},
		{`max_request_headers_kb { value: 9000 }`, "max_request_headers_kb: 9000 is not 1 to 8192", nil},
		{`max_request_headers_kb { }`, "max_request_headers_kb: 0 is not 1 to 8192", nil},
		{`common_http_protocol_options { max_headers_count { value: 7 } }`, "", func(c *http.Config) bool { return c.Limits.Fields == 7 }},
		{`common_http_protocol_options { max_headers_count { value: 40000 } }`, "max_headers_count: 40000 is not 1 to 32768", nil},
		{`common_http_protocol_options { idle_timeout { } }`, "", func(c *http.Config) bool { return c.IdleTimeout < 0 }},
		{`common_http_protocol_options { max_connection_duration { seconds: 60 } max_connection_duration_jitter { value: 25 } max_stream_duration { seconds: 7 } max_requests_per_connection { value: 9 } } http1_safe_max_connection_duration: true`, "",
			func(c *http.Config) bool {
				return c.MaxDuration == time.Minute && c.DurationJitter == 0.25 && c.StreamMax == 7*time.Second && c.SafeMaxDuration && c.MaxRequests == 9
			}},
		{`common_http_protocol_options { headers_with_underscores_action: DROP_HEADER }`, "", func(c *http.Config) bool { return c.Underscores == http.UnderscoresDrop }},
		{`request_headers_timeout { }`, "", func(c *http.Config) bool { return c.HeaderTimeout < 0 }},
		{`path_with_escaped_slashes_action: REJECT_REQUEST`, "", func(c *http.Config) bool { return c.Path.Slashes == message.RefuseSlashes }},
		{`via: "gw"`, "", func(c *http.Config) bool { return string(c.Via) == "gw" }},
	} {
		m := fromText(t, `stat_prefix: "x" route_config { name: "r" } http_filters { name: "router" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] { } } } `+c.text, &hcmv3.HttpConnectionManager{})
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := newBuilder().decodeManager(a, http.Outbound, "hcm")
		expect(t, c.text, c.err, err, func() bool { return c.ok(got) })
	}
}

// What a cluster says about HTTP/1.1, wherever it says so.
func TestClusterHTTP1(t *testing.T) {
	for _, c := range []struct {
		text, err string
		ok        func(c *cluster.Cluster) bool
	}{
		{"", "", func(c *cluster.Cluster) bool { return c.HTTP1 == h1.Rules{} && c.ResponseLimits == h1.Limits{} }},
		{`common_http_protocol_options { max_headers_count { value: 7 } max_response_headers_kb { value: 9 } max_stream_duration { seconds: 3 } idle_timeout { } }`, "", func(c *cluster.Cluster) bool {
			return c.ResponseLimits == h1.Limits{HeadBytes: 9 << 10, Fields: 7} && c.MaxStreamDuration == 3*time.Second && c.IdleTimeout == never
		}},
		{`common_http_protocol_options { max_response_headers_kb { value: 9000 } }`, "max_response_headers_kb: 9000 is not 1 to 8192", nil},
		{`http_protocol_options { header_key_format { proper_case_words {} } }`, "", func(c *cluster.Cluster) bool { return c.HTTP1.Names == h1.ProperCase }},
		{httpOptions(`explicit_http_config { http_protocol_options { ` + preserve("") + ` } }`), "", func(c *cluster.Cluster) bool { return c.HTTP1.Names == h1.PreserveCase }},
		{httpOptions(`use_downstream_protocol_config { http_protocol_options { ` + preserve("") + ` } }`), "", func(c *cluster.Cluster) bool { return c.HTTP1.Names == h1.PreserveCase }},
		{httpOptions(`auto_config { http_protocol_options { ` + preserve("") + ` } }`), "", func(c *cluster.Cluster) bool { return c.HTTP1.Names == h1.PreserveCase }},
		{httpOptions(`explicit_http_config { http_protocol_options { header_key_format { stateful_formatter { name: "x" } } } }`), "explicit_http_config.http_protocol_options.header_key_format", nil},
		{httpOptions(`common_http_protocol_options { max_headers_count { value: 0 } } explicit_http_config { http_protocol_options { } }`), "max_headers_count: 0 is not 1 to 32768", nil},
	} {
		s, err := newBuilder().decodeCluster(fromText(t, `name: "c" type: STATIC `+c.text, &clusterv3.Cluster{}))
		expect(t, c.text, c.err, err, func() bool { return c.ok(&s.Cluster) })
	}
}

func httpOptions(text string) string {
	return fmt.Sprintf(`typed_extension_protocol_options { key: %q value { [type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] { %s } } }`, httpOptionsKey, text)
}

func expect(t *testing.T, text, want string, err error, ok func() bool) {
	t.Helper()
	switch {
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, want %s", text, err, want)
	case want == "" && err != nil:
		t.Errorf("%s: %v", text, err)
	case want == "" && !ok():
		t.Errorf("%s: became something else", text)
	}
}
