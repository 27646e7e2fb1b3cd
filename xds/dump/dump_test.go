package dump_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := resource.Any(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func res(t testing.TB, name, version string, m proto.Message) dump.Resource {
	return dump.Resource{TypeURL: resource.TypeURL(m), Name: name, Version: version, Body: pack(t, m)}
}

func key(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

// example has every kind of resource, and private keys wherever one can be.
func example(t testing.TB) *dump.Dump {
	server := &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, &tlsv3.DownstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: key("public"), PrivateKey: key("INLINE-KEY"), Password: key("PASSWORD")}}},
	})}}
	static := res(t, "own", "", &clusterv3.Cluster{Name: "own"})
	static.Static = true
	refused := res(t, "c", "2", &clusterv3.Cluster{Name: "c", AltStatName: "x"})
	refused.Refused = &dump.Refusal{Version: "9", Details: "no such file", Time: time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)}
	return &dump.Dump{
		Bootstrap: &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "sidecar~1"}},
		Resources: []dump.Resource{
			static, refused,
			res(t, "e", "3", &endpointv3.ClusterLoadAssignment{ClusterName: "e"}),
			res(t, "l", "4", &listenerv3.Listener{Name: "l", FilterChains: []*listenerv3.FilterChain{{Name: "f", TransportSocket: server}}}),
			res(t, "80", "5", &routev3.RouteConfiguration{Name: "80", VirtualHosts: []*routev3.VirtualHost{{Name: "b", Domains: []string{"b"}}}}),
			res(t, "80/a", "6", &routev3.VirtualHost{Name: "a", Domains: []string{"a"}}),
			res(t, "s", "7", &tlsv3.Secret{Name: "s", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: key("public"), PrivateKey: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte("SECRET-KEY")}}}}}),
			res(t, "generic", "8", &tlsv3.Secret{Name: "generic", Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: key("GENERIC")}}}),
			res(t, "tickets", "9", &tlsv3.Secret{Name: "tickets", Type: &tlsv3.Secret_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{Keys: []*corev3.DataSource{key("TICKET")}}}}),
			{TypeURL: resource.ClusterType, Name: "odd", Body: pack(t, &clusterv3.Cluster{Name: "odd", TypedExtensionProtocolOptions: map[string]*anypb.Any{
				"x": {TypeUrl: "type.googleapis.com/not.Known", Value: []byte("UNREADABLE")}}})},
		},
	}
}

func write(t testing.TB, d *dump.Dump, query string) string {
	t.Helper()
	v, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	q, err := dump.ParseQuery(v)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := dump.Write(&b, d, q); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b.Bytes()) {
		t.Fatalf("not JSON:\n%s", b.String())
	}
	return b.String()
}

// What is written is read back: every resource with its version, virtual hosts within
// their route configuration, and a refusal beside what is held.
func TestWriteAndRead(t *testing.T) {
	text := write(t, example(t), "include_eds")
	h, err := dump.Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(h.Bootstrap), "sidecar~1") {
		t.Errorf("bootstrap %s", h.Bootstrap)
	}
	var got []string
	for _, r := range h.Resources {
		s := resource.Short(r.TypeURL) + " " + r.Name + " " + r.Version
		if r.Static {
			s += " static"
		}
		if r.Refused != nil {
			s += " refused " + r.Refused.Details
		}
		got = append(got, s)
	}
	want := []string{"CDS c 2 refused no such file", "CDS odd ", "CDS own  static", "EDS e 3", "LDS l 4", "RDS 80 5", "SDS generic 8", "SDS s 7", "SDS tickets 9"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if r := h.Of(resource.RouteType)[0]; !bytes.Contains(r.Body, []byte(`"a"`)) || !bytes.Contains(r.Body, []byte(`"b"`)) {
		t.Errorf("virtual hosts: %s", r.Body)
	}
}

// Nothing that is a secret leaves, wherever it is.
func TestSecretsStay(t *testing.T) {
	d := example(t)
	d.Bootstrap = &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Secrets: []*tlsv3.Secret{{Name: "b",
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{PrivateKey: key("BOOT-KEY")}}}}}}
	d.Resources = append(d.Resources, res(t, "j", "9", &listenerv3.Listener{Name: "j", ListenerFilters: []*listenerv3.ListenerFilter{{Name: "j", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(t, &jwtauthnv3.JwtProvider{
		JwksSourceSpecifier: &jwtauthnv3.JwtProvider_LocalJwks{LocalJwks: key(`{"keys":[{"kty":"oct","k":"SHARED-KEY"}]}`)}})}}}}))
	text := write(t, d, "include_eds")
	for _, secret := range []string{"INLINE-KEY", "PASSWORD", "SECRET-KEY", "U0VDUkVULUtFW", "GENERIC\"", "TICKET\"", "BOOT-KEY", "UNREADABLE", "SHARED-KEY"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is shown:\n%s", secret, text)
		}
	}
	for _, want := range []string{"[redacted]", "W3JlZGFjdGVkXQ==", "public", "not.Known"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not shown:\n%s", want, text)
		}
	}
}

// A query chooses a list, or names.
func TestQuery(t *testing.T) {
	d := example(t)
	for query, want := range map[string]string{
		"resource=dynamic_listeners":                   `ListenersConfigDump.DynamicListener`,
		"resource=static_clusters":                     `ClustersConfigDump.StaticCluster`,
		"name_regex=^80$":                              `"80"`,
		"resource=dynamic_endpoint_configs&name_regex": `EndpointsConfigDump.DynamicEndpointConfig`,
	} {
		got := write(t, d, query)
		if !strings.Contains(got, want) || strings.Contains(got, "sidecar~1") || strings.Count(got, "version_info") > 1 {
			t.Errorf("%s gives\n%s", query, got)
		}
	}
	if strings.Contains(write(t, d, ""), "EndpointsConfigDump") {
		t.Error("load assignments come without include_eds")
	}
	for _, query := range []string{"mask=a", "resource=x", "name_regex=("} {
		v, _ := url.ParseQuery(query)
		if _, err := dump.ParseQuery(v); err == nil {
			t.Errorf("%s is taken", query)
		}
	}
}

// Two dumps differ in what one lacks and in the fields that differ, and not in versions.
func TestDiff(t *testing.T) {
	read := func(d *dump.Dump) *dump.Held {
		h, err := dump.Read(strings.NewReader(write(t, d, "include_eds")))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	sent, held := example(t), example(t)
	sent.Resources = append(sent.Resources, res(t, "new", "1", &clusterv3.Cluster{Name: "new"}))
	held.Resources = append(held.Resources, res(t, "old", "1", &listenerv3.Listener{Name: "old"}))
	sent.Resources[1] = res(t, "c", "3", &clusterv3.Cluster{Name: "c", AltStatName: "y"})
	sent.Resources[4] = res(t, "80", "other", &routev3.RouteConfiguration{Name: "80", VirtualHosts: []*routev3.VirtualHost{
		{Name: "b", Domains: []string{"b"}}, {Name: "aa", Domains: []string{"aa"}}}})
	sent.Resources[2].Version = "30"
	sent.Resources[5].Version = "60"
	got, err := dump.Diff(read(sent), read(held))
	if err != nil {
		t.Fatal(err)
	}
	want := []dump.Difference{
		{TypeURL: resource.ClusterType, Name: "c", Sent: "3", Held: "2", Refused: held.Resources[1].Refused, Fields: []dump.Field{{"alt_stat_name", `"y"`, `"x"`}}},
		{TypeURL: resource.ClusterType, Name: "new", Sent: "1", Missing: "held"},
		{TypeURL: resource.ListenerType, Name: "old", Held: "1", Missing: "sent"},
		{TypeURL: resource.RouteType, Name: "80", Sent: "other", Held: "5", Fields: []dump.Field{{`virtual_hosts["aa"]`, `{"domains":["aa"],"name":"aa"}`, ""}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// A proxy shows a message whose type it does not have in its own way: what has the version that was sent is what was sent.
func TestDiffOfWhatOneSideCannotShow(t *testing.T) {
	held := func(typeURL, body string) *dump.Held {
		return &dump.Held{Resources: []dump.HeldResource{{TypeURL: typeURL, Name: "x", Version: "1", Body: json.RawMessage(body)}}}
	}
	const a, b = `{"typed_config":{"@type":"a","x":1}}`, `{"typed_config":{"@type":"type.googleapis.com/udpa.type.v1.TypedStruct","type_url":"a"}}`
	for typeURL, want := range map[string]int{
		resource.ListenerType: 0,
		resource.RouteType:    1, // the version is not that of the virtual hosts in it
	} {
		if got, err := dump.Diff(held(typeURL, a), held(typeURL, b)); err != nil || len(got) != want {
			t.Errorf("%s: %+v, %v; want %d", resource.Short(typeURL), got, err, want)
		}
	}
}

// Whatever is read, it does not break the reader.
func FuzzRead(f *testing.F) {
	f.Add([]byte(write(f, example(f), "include_eds")))
	f.Add([]byte(`{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.ListenersConfigDump","dynamic_listeners":[{"name":1,"active_state":null}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := dump.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		if _, err := dump.Diff(h, h); err != nil && !strings.Contains(err.Error(), "comparing") {
			t.Error(err)
		}
	})
}
