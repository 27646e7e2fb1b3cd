package resource_test

import (
	"slices"
	"strconv"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/xds/resource"
)

func TestTypeURLs(t *testing.T) {
	for want, m := range map[string]proto.Message{
		resource.ClusterType:         &clusterv3.Cluster{},
		resource.EndpointType:        &endpointv3.ClusterLoadAssignment{},
		resource.ListenerType:        &listenerv3.Listener{},
		resource.RouteType:           &routev3.RouteConfiguration{},
		resource.ScopedRouteType:     &routev3.ScopedRouteConfiguration{},
		resource.VirtualHostType:     &routev3.VirtualHost{},
		resource.SecretType:          &tlsv3.Secret{},
		resource.ExtensionConfigType: &corev3.TypedExtensionConfig{},
	} {
		if got := resource.TypeURL(m); got != want {
			t.Errorf("type URL of %T is %q, want %q", m, got, want)
		}
	}
	for url, want := range map[string]string{
		resource.ClusterType:          "CDS",
		resource.NameTableType:        "NDS",
		"type.googleapis.com/a.b.Own": "Own",
		"":                            "",
	} {
		if got := resource.Short(url); got != want {
			t.Errorf("Short(%q) = %q, want %q", url, got, want)
		}
	}
}

// The bytes that are shared by all streams must be what the generated code would have made.
func TestEncodings(t *testing.T) {
	for _, name := range []string{"", "a", "outbound|80||" + string(slices.Repeat([]byte("x"), 300))} {
		c := &clusterv3.Cluster{Name: name, AltStatName: string(slices.Repeat([]byte("y"), 20_000))}
		r, err := resource.New(name, c)
		if err != nil {
			t.Fatal(err)
		}
		body, err := anypb.New(c)
		if err != nil {
			t.Fatal(err)
		}

		var delta discoveryv3.DeltaDiscoveryResponse
		if err := proto.Unmarshal(slices.Concat(r.DeltaField(), r.DeltaField()), &delta); err != nil {
			t.Fatal(err)
		}
		one := &discoveryv3.Resource{Name: name, Version: r.Version(), Resource: body}
		if d := cmp.Diff(&discoveryv3.DeltaDiscoveryResponse{Resources: []*discoveryv3.Resource{one, one}}, &delta, protocmp.Transform()); d != "" {
			t.Errorf("delta (-want +got)\n%s", d)
		}

		var sotw discoveryv3.DiscoveryResponse
		if err := proto.Unmarshal(slices.Concat(r.SotwField(), r.SotwField()), &sotw); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{body, body}}, &sotw, protocmp.Transform()); d != "" {
			t.Errorf("state of the world (-want +got)\n%s", d)
		}
		if d := cmp.Diff(body, r.Any(), protocmp.Transform()); d != "" {
			t.Errorf("any (-want +got)\n%s", d)
		}
		var back clusterv3.Cluster
		if err := r.Unmarshal(&back); err != nil || !proto.Equal(&back, c) {
			t.Errorf("the body does not give the message back: %v", err)
		}
	}
}

// A message with a map marshals in random order unless told not to; the version must not follow it.
func TestVersionIsAFunctionOfTheContent(t *testing.T) {
	fields := map[string]*structpb.Value{}
	for i := range 50 {
		fields[strconv.Itoa(i)] = structpb.NewNumberValue(float64(i))
	}
	make1 := func(stat string) *resource.Resource {
		nested, err := resource.Any(&structpb.Struct{Fields: fields})
		if err != nil {
			t.Fatal(err)
		}
		r, err := resource.New("c", &clusterv3.Cluster{
			Name: "c", AltStatName: stat,
			TypedExtensionProtocolOptions: map[string]*anypb.Any{"a": nested, "b": nested, "c": nested},
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := make1("x")
	for range 20 {
		if r := make1("x"); !resource.Same(first, r) {
			t.Fatalf("equal content has versions %s and %s", first.Version(), r.Version())
		}
	}
	if other := make1("y"); resource.Same(first, other) {
		t.Error("different content has the same version")
	}
	if resource.Same(first, nil) || resource.Same(nil, first) || !resource.Same(nil, nil) {
		t.Error("Same does not tell a resource from none")
	}
}

func TestFromBytesCopies(t *testing.T) {
	b := []byte{10, 1, 'a'}
	r := resource.FromBytes(resource.ClusterType, "a", b)
	b[2] = 'b'
	if got := string(r.Body()); got != "\n\x01a" {
		t.Errorf("the body changed with the caller's bytes: %q", got)
	}
}

func TestView(t *testing.T) {
	a1 := resource.FromBytes(resource.ClusterType, "a", []byte("1"))
	a2 := resource.FromBytes(resource.ClusterType, "a", []byte("2"))
	e := resource.FromBytes(resource.EndpointType, "a", nil)
	v := resource.NewView(7, a1, e, a2)
	if got := v.Set(resource.ClusterType).At("a"); got != a2 || v.Set(resource.ClusterType).Len() != 1 {
		t.Errorf("cluster a is %v, want the last one given", got)
	}
	if v.Set(resource.EndpointType).At("a") != e {
		t.Error("types are not kept apart")
	}
	var none *resource.View
	if none.Set(resource.ClusterType).Len() != 0 {
		t.Error("a nil view is not empty")
	}
}

func TestNameOf(t *testing.T) {
	for want, m := range map[string]proto.Message{
		"c": &clusterv3.Cluster{Name: "c", AltStatName: "x"},
		"e": &endpointv3.ClusterLoadAssignment{ClusterName: "e"},
		"l": &listenerv3.Listener{Name: "l", StatPrefix: "x"},
		"r": &routev3.RouteConfiguration{Name: "r"},
		"o": &routev3.ScopedRouteConfiguration{Name: "o", RouteConfigurationName: "x"},
		"v": &routev3.VirtualHost{Name: "v", Domains: []string{"x"}},
		"s": &tlsv3.Secret{Name: "s"},
		"x": &corev3.TypedExtensionConfig{Name: "x", TypedConfig: &anypb.Any{}},
		"":  &clusterv3.Cluster{},
	} {
		r, err := resource.New(want, m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := resource.NameOf(r.TypeURL(), r.Body()); got != want || err != nil {
			t.Errorf("name of %T is %q, %v, want %q", m, got, err, want)
		}
	}
	if got, err := resource.NameOf(resource.NameTableType, []byte("\n\x01x")); got != "" || err != nil {
		t.Errorf("a name table is named %q, %v", got, err)
	}
	for _, b := range []string{"\n", "\n\x05ab", "\xff", "\x12\x05"} {
		if got, err := resource.NameOf(resource.ClusterType, []byte(b)); err == nil {
			t.Errorf("the name of %q is %q", b, got)
		}
	}
}

// NameOf finds what the generated code finds.
func FuzzNameOf(f *testing.F) {
	f.Add([]byte("\n\x01a\x12\x01b"))
	f.Add([]byte("\n\x01a\n\x01b"))
	f.Add([]byte("\x0b\x0c\n\x01b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s tlsv3.Secret
		if proto.Unmarshal(b, &s) != nil {
			return
		}
		if got, err := resource.NameOf(resource.SecretType, b); err != nil || got != s.GetName() {
			t.Errorf("NameOf gives %q, %v; the name is %q", got, err, s.GetName())
		}
	})
}
