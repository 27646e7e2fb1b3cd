package observe

import (
	stdtls "crypto/tls"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/tls"
)

func parse(t testing.TB, format string) *Format {
	t.Helper()
	f, err := ParseText(format, false)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func istio(t testing.TB) *Format { return parse(t, substitution.IstioText) }

func record() *Record {
	q, p := &message.Request{}, &message.Response{}
	q.Reset()
	p.Reset()
	q.SetMethod([]byte("GET"))
	q.Authority, q.Path = []byte("reviews:9080"), []byte("/reviews/0")
	q.Headers.Add(message.UserAgent, []byte("curl/8"))
	q.Headers.Add(message.XRequestID, []byte("9f9a8e2e-0000-4000-8000-000000000001"))
	p.Status = 200
	p.Headers.Add(message.XEnvoyUpstreamServiceTime, []byte("11"))
	return &Record{Start: time.Date(2026, 11, 20, 1, 2, 3, 4e6, time.UTC), Duration: 12 * time.Millisecond, Request: q, Response: p,
		RequestEnded: time.Millisecond, ResponseBegan: 10 * time.Millisecond, GRPCStatus: -1, Attempts: 1, Forwarded: true, Details: "via_upstream", Sent: 295,
		UpstreamHost: netip.MustParseAddrPort("10.244.0.3:9080"), UpstreamCluster: "outbound|9080||reviews.default.svc.cluster.local",
		UpstreamLocal: netip.MustParseAddrPort("10.244.0.2:40000"), DownstreamLocal: netip.MustParseAddrPort("10.96.0.7:9080"),
		DownstreamRemote: netip.MustParseAddrPort("10.244.0.2:50000"), RouteName: "default"}
}

// connection is what record would be of TCP.
func connection() *Record {
	r := record()
	r.Request, r.Response, r.Details, r.Forwarded, r.Attempts = nil, nil, "", false, 0
	return r
}

// Istio's default format, to the byte.
func TestAccessLogLine(t *testing.T) {
	for _, c := range []struct {
		name string
		make func() *Record
		want string
	}{
		{"a request", record,
			`[2026-11-20T01:02:03.004Z] "GET /reviews/0 HTTP/1.1" 200 - via_upstream - "-" 0 295 12 11 "-" "curl/8" "9f9a8e2e-0000-4000-8000-000000000001" "reviews:9080" "10.244.0.3:9080" outbound|9080||reviews.default.svc.cluster.local 10.244.0.2:40000 10.96.0.7:9080 10.244.0.2:50000 - default`},
		{"a connection", func() *Record {
			r := connection()
			r.Flags, r.UpstreamHost = causes.UpstreamConnectionFailure|causes.UpstreamRetryLimitExceeded, netip.AddrPort{}
			return r
		}, `[2026-11-20T01:02:03.004Z] "- - -" 0 UF,URX - - "-" 0 295 12 - "-" "-" "-" "-" "-" outbound|9080||reviews.default.svc.cluster.local 10.244.0.2:40000 10.96.0.7:9080 10.244.0.2:50000 - default`},
		{"what a peer sends cannot forge a line", func() *Record {
			r := record()
			r.Request.Path = []byte("/\"\n[2026]")
			return r
		}, `[2026-11-20T01:02:03.004Z] "GET /\"\x0a[2026] HTTP/1.1" 200 - via_upstream - "-" 0 295 12 11 "-" "curl/8" "9f9a8e2e-0000-4000-8000-000000000001" "reviews:9080" "10.244.0.3:9080" outbound|9080||reviews.default.svc.cluster.local 10.244.0.2:40000 10.96.0.7:9080 10.244.0.2:50000 - default`},
	} {
		if d := cmp.Diff(c.want+"\n", string(istio(t).AppendLine(nil, c.make()))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// istio11 is the access log format of Istio 1.1, as MeshConfig.accessLogFormat takes it.
const istio11 = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% ` +
	`%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME%`

// The lines of the articles come out of what they say, byte for byte.
func TestArticlesLines(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "shared", "fixtures", "access-log.txt"))
	if err != nil {
		if text, err = os.ReadFile(filepath.Join("..", "..", "..", "shared", "fixtures", "access-log.txt")); err != nil {
			t.Skip("access-log.txt is not at ../shared/fixtures")
		}
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	f := parse(t, istio11)
	for _, line := range lines {
		if d := cmp.Diff(line, string(f.AppendLine(nil, read(t, line)))); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// read makes a record of a line in the format istio11.
func read(t *testing.T, line string) *Record {
	t.Helper()
	m := regexp.MustCompile(`^\[(\S+)\] "(\S+) (\S+) HTTP/1\.1" (\d+) - (\d+) (\d+) (\d+) (\d+) "(\S+)" "(\S+)" "(\S+)" "(\S+)" "(\S+)" (\S+) - (\S+) (\S+) -$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("unexpected line %q", line)
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	start, err := time.Parse("2006-01-02T15:04:05.000Z", m[1])
	if err != nil {
		t.Fatal(err)
	}
	r := record()
	r.Request.SetMethod([]byte(m[2]))
	r.Request.Path, r.Request.Authority = []byte(m[3]), []byte(m[12])
	r.Request.Headers.Set(message.UserAgent, []byte(m[10]))
	r.Request.Headers.Set(message.XRequestID, []byte(m[11]))
	if m[9] != "-" {
		r.Request.Headers.Set(message.XForwardedFor, []byte(m[9]))
	}
	r.Response.Status = int(number(m[4]))
	r.Response.Headers.Set(message.XEnvoyUpstreamServiceTime, []byte(m[8]))
	r.Start, r.Received, r.Sent, r.Duration = start, number(m[5]), number(m[6]), time.Duration(number(m[7]))*time.Millisecond
	r.UpstreamHost, r.UpstreamCluster, r.UpstreamLocal = netip.MustParseAddrPort(m[13]), m[14], netip.AddrPort{}
	r.DownstreamLocal, r.DownstreamRemote = netip.MustParseAddrPort(m[15]), netip.MustParseAddrPort(m[16])
	return r
}

// Each operator of a request and of a connection, with and without what it tells of.
func TestOperators(t *testing.T) {
	full := record()
	q, p := full.Request, full.Response
	q.Path = []byte("/a/b?x=1&y=a%20b&x=2&z")
	q.Headers.AddName([]byte("x-one"), []byte("first"))
	q.Headers.AddName([]byte("x-empty"), []byte{})
	p.Headers.AddName([]byte("x-answer"), []byte("42"))
	full.Trailers = &message.Headers{}
	full.Trailers.AddName([]byte("grpc-status"), []byte("5"))
	full.GRPCStatus, full.Attempts, full.UpstreamHTTP, full.UpstreamName = 5, 3, message.HTTP2, "db.example"
	full.DownstreamDirect = netip.MustParseAddrPort("[::ffff:192.0.2.1]:7")
	full.Flags, full.Hostname, full.ServerName = causes.UpstreamRetryLimitExceeded|causes.UpstreamConnectionFailure, "pod-1", "sni.example"
	full.Termination, full.UpstreamFailure, full.DownstreamFailure = "ended", "refused by \"it\"", "no certificate"
	peer := &tls.Peer{Version: stdtls.VersionTLS12, Suite: stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, Presented: true, Subject: "CN=a", URI: "spiffe://x/ns/a/sa/b",
		DNS: []string{"a.example", "b.example"}, Local: "spiffe://x/ns/c/sa/d", Hash: [32]byte{0xab}}
	full.Cause, full.RouteOrigin = causes.UpstreamConnectRefused, OriginOf(Object{"/apis/networking.istio.io/v1/namespaces/a/virtual-service/b", "0f3c", "dir/b.yaml", 7})
	full.ClusterOrigin = OriginOf(Object{Config: "/apis/networking.istio.io/v1/namespaces/a/destination-rule/c"})
	full.DownstreamTLS, full.UpstreamTLS = peer, &tls.Peer{Version: stdtls.VersionTLS13, Suite: stdtls.TLS_AES_128_GCM_SHA256, URI: "spiffe://x/ns/e/sa/f"}
	bare := connection()
	bare.UpstreamHost, bare.UpstreamLocal, bare.DownstreamRemote, bare.DownstreamLocal, bare.UpstreamCluster, bare.RouteName = netip.AddrPort{}, netip.AddrPort{}, netip.AddrPort{}, netip.AddrPort{}, "", ""
	for _, c := range []struct{ format, full, bare string }{
		{"%START_TIME(%s)%", "1795136523", "1795136523"},
		{"%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "12 1 10 2", "12 - - -"},
		{"%BYTES_RECEIVED%/%BYTES_SENT%", "0/295", "0/295"},
		{"%PROTOCOL% %UPSTREAM_PROTOCOL%", "HTTP/1.1 HTTP/2", "- -"},
		{"%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%", "200 via_upstream", "0 -"},
		{"%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%", "UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded", "- -"},
		{"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%", "no_certificate", "-"},
		{"%CONNECTION_TERMINATION_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%", `ended refused_by_\"it\"`, "- -"},
		{"%ROUTE_NAME% %HOSTNAME% %REQUESTED_SERVER_NAME% %ACCESS_LOG_TYPE%", "default pod-1 sni.example DownstreamEnd", "- - - TcpConnectionEnd"},
		{"%REQ(:METHOD)% %REQ(Host)% %REQ(X-None?X-One)% %REQ(X-One):3% %REQ(x-none)% <%REQ(x-empty)%>", "GET reviews:9080 first fir - <>", "- - - - - <->"},
		{"%REQ_WITHOUT_QUERY(:PATH):3% %QUERY_PARAM(x)% %QUERY_PARAM(y)% <%QUERY_PARAM(z)%> %QUERY_PARAM(v)%", "/a/ 1 a b <> -", "- - - <-> -"},
		{"%RESP(X-Answer)% %TRAILER(grpc-status)% %TRAILER(none)%", "42 5 -", "- - -"},
		{"%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%", "NotFound NOT_FOUND 5 5", "- - - -"},
		{"%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%", "10.244.0.2:50000 10.244.0.2 50000", "- - -"},
		{"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT%", "192.0.2.1:7 192.0.2.1 7", "- - -"},
		{"%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "10.96.0.7:9080 10.96.0.7 9080", "- - -"},
		{"%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_SUBJECT%", "spiffe://x/ns/a/sa/b spiffe://x/ns/c/sa/d a.example,b.example CN=a", "- - - -"},
		{"%DOWNSTREAM_PEER_FINGERPRINT_256:4% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%", "ab00 TLSv1.2 ECDHE-RSA-AES128-GCM-SHA256", "- - -"},
		{"%UPSTREAM_HOST% %UPSTREAM_HOST_NAME% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", "10.244.0.3:9080 db.example 10.244.0.3 9080", "- - - -"},
		{"%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW:8% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "outbound|9080||reviews.default.svc.cluster.local outbound 3", "- - 0"},
		{"%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_PORT%", "10.244.0.2:40000 10.244.0.2 40000", "- - -"},
		{"%UPSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_DNS_SAN% %UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER% %UPSTREAM_LOCAL_URI_SAN%", "spiffe://x/ns/e/sa/f - TLSv1.3 TLS_AES_128_GCM_SHA256 -", "- - - - -"},
		{"%DYNAMIC_METADATA(weir.dev:cause)% %DYNAMIC_METADATA(weir.dev:route)%", "upstream_connect_refused /apis/networking.istio.io/v1/namespaces/a/virtual-service/b@dir/b.yaml:7", "- -"},
		{"%DYNAMIC_METADATA(weir.dev:cluster)%", "/apis/networking.istio.io/v1/namespaces/a/destination-rule/c", "-"},
		{"%DYNAMIC_METADATA(istio.mixer:status)% 100%%", "- 100%", "- 100%"},
	} {
		f := parse(t, c.format)
		if got := string(f.AppendLine(nil, full)); got != c.full {
			t.Errorf("%s of a request: %q, want %q", c.format, got, c.full)
		}
		if got := string(f.AppendLine(nil, bare)); got != c.bare {
			t.Errorf("%s of a connection: %q, want %q", c.format, got, c.bare)
		}
	}
}

// JSON has values of the operators' types and stays JSON whatever a peer sends; what is empty is null, or left out.
func TestJSON(t *testing.T) {
	format := &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(`{"status": "%RESPONSE_CODE%", "took": "%DURATION%", "agent": "%REQ(USER-AGENT)%", "none": "%REQ(NONE)%", "grpc": "%GRPC_STATUS(NUMBER)%",
		"line": "\"%REQ(:METHOD)%\" %REQ(NONE)% %REQ(USER-AGENT):4%", "in": {"flags": "%RESPONSE_FLAGS%", "deep": {"none": "%REQ(NONE)%"}}, "list": [1, true, "%PROTOCOL%", null, "%REQ(NONE)%"], "const": "a", "empty": ""}`), format); err != nil {
		t.Fatal(err)
	}
	r := record()
	r.Request.Headers.Set(message.UserAgent, []byte("a\"\\\n\xff\u00e9\x7f"))
	for omit, want := range map[bool]string{
		false: `{"agent":"a\"\\\u000a` + "\ufffd\u00e9" + `\u007f","const":"a","empty":"","grpc":null,"in":{"deep":{"none":null},"flags":"-"},"line":"\"GET\" - a\"\\\u000a","list":[1,true,"HTTP/1.1",null,null],"none":null,"status":200,"took":12}`,
		true:  `{"agent":"a\"\\\u000a` + "\ufffd\u00e9" + `\u007f","const":"a","empty":"","in":{"flags":"-"},"line":"\"GET\"  a\"\\\u000a","list":[1,true,"HTTP/1.1",null,null],"status":200,"took":12}`,
	} {
		f, err := ParseJSON(format, omit)
		if err != nil {
			t.Fatal(err)
		}
		got := string(f.AppendLine(nil, r))
		if d := cmp.Diff(want+"\n", got); d != "" {
			t.Errorf("omit %v (-want +got):\n%s", omit, d)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("not JSON: %s", got)
		}
	}
	if f, err := ParseJSON(&structpb.Struct{}, true); err != nil || string(f.AppendLine(nil, r)) != "{}\n" {
		t.Errorf("an empty format: %v", err)
	}
	bad, err := structpb.NewStruct(map[string]any{"a": map[string]any{"b": []any{"%NOPE%"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseJSON(bad, false); err == nil || !strings.Contains(err.Error(), ".a.b[0]: ") {
		t.Errorf("no path: %v", err)
	}
}

// The JSON of who asks for no format holds all keys of Istio's, with numbers where there are numbers, and four of our own.
func TestDefaultJSON(t *testing.T) {
	values := map[string]any{}
	for k, v := range substitution.DefaultJSON() {
		values[k] = v
	}
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseJSON(s, false)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	r := record()
	r.Cause = causes.UpstreamConnectRefused
	if err := json.Unmarshal(f.AppendLine(nil, r), &got); err != nil || len(got) != 24+4 || got["weir_decided"] != nil || got["weir_cause"] != "upstream_connect_refused" || got["response_code"] != 200.0 || got["upstream_service_time"] != "11" || got["x_forwarded_for"] != nil || got["duration"] != 12.0 {
		t.Errorf("%v: %v", err, got)
	}
}

// The objects that refused a request are told as those of its route are, a policy with its rule.
func TestDecided(t *testing.T) {
	f := parse(t, "%DYNAMIC_METADATA(weir.dev:decided)%")
	policy := func(name string) Origin {
		return OriginOf(Object{Config: "/apis/security.istio.io/v1/namespaces/default/authorization-policy/" + name, Hash: "h", File: name + ".yaml", Line: 7})
	}
	const path = "/apis/security.istio.io/v1/namespaces/default/authorization-policy/"
	for _, c := range []struct {
		details string
		by      []Origin
		want    string
	}{
		{"via_upstream", nil, "-"},
		{"rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[2]]", []Origin{policy("deny")}, path + "deny@deny.yaml:7#rules[2]"},
		{"rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[2]]", nil, "-"},
		{"rbac_access_denied_matched_policy[none]", []Origin{policy("a"), policy("b")}, path + "a@a.yaml:7," + path + "b@b.yaml:7"},
		{"route_not_found", []Origin{OriginOf(Object{Config: "/apis/x"})}, "/apis/x"},
	} {
		r := record()
		r.Details, r.Deciders = c.details, c.by
		if got := string(f.AppendLine(nil, r)); got != c.want {
			t.Errorf("%s: %q, want %q", c.details, got, c.want)
		}
		c := connection()
		c.Termination, c.Deciders = r.Details, r.Deciders
		if got, want := string(f.AppendLine(nil, c)), string(f.AppendLine(nil, r)); got != want {
			t.Errorf("of a connection %q, want %q", got, want)
		}
		var line []byte
		if n := testing.AllocsPerRun(100, func() { line = f.AppendLine(line[:0], r) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// A header's value has no quotes to keep sound, and no line to end.
func TestHeaderValue(t *testing.T) {
	r := record()
	r.Request.Path = []byte(`/"x"`)
	r.ServerName = "a\r\nb\tc"
	if got := string(parse(t, "%REQ(:PATH)% %REQUESTED_SERVER_NAME%").AppendValue(nil, r)); got != "/\"x\" ab\tc" {
		t.Errorf("%q", got)
	}
	if s, ok := parse(t, "50%% off").Literal(); !ok || s != "50% off" {
		t.Errorf("%q %v", s, ok)
	}
	if _, ok := parse(t, "%PROTOCOL%").Literal(); ok {
		t.Error("an operator is taken for text")
	}
}

func TestFormatDoesNotAllocate(t *testing.T) {
	f, r, b := istio(t), record(), make([]byte, 0, 1024)
	r.Flags = causes.UpstreamRetryLimitExceeded | causes.UpstreamConnectionFailure
	if n := testing.AllocsPerRun(100, func() { b = f.AppendLine(b[:0], r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzFormat(f *testing.F) {
	for _, s := range []string{"%REQ(:PATH)% %START_TIME(%s)%", "%REQ(x?y):3%", "%GRPC_STATUS(NUMBER)%"} {
		f.Add(s, "/a\n")
	}
	f.Fuzz(func(t *testing.T, format, path string) {
		text, err := ParseText(format, false)
		if err != nil {
			return
		}
		r := record()
		r.Request.Path = []byte(path)
		if text.AppendLine(nil, r); len(format) > 1<<10 {
			return
		}
		s, err := structpb.NewStruct(map[string]any{"a": strings.ToValidUTF8(format, "")})
		if err != nil {
			return
		}
		if f, err := ParseJSON(s, false); err == nil && !json.Valid(f.AppendLine(nil, r)) {
			t.Errorf("%q of %q is not JSON: %s", format, path, f.AppendLine(nil, r))
		}
	})
}
