package state

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/resource"
)

// fuzzApply lets a control plane send anything as the one resource of a type, to a builder that has what refers to it or what
// it refers to. It is taken or refused.
func fuzzApply(f *testing.F, typeURL, name string, seeds []string, before ...Update) {
	for _, s := range seeds {
		f.Add(update(f, typeURL, s).Set[0].Body.GetValue())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := newBuilder()
		for _, u := range before {
			if _, _, err := b.Apply(u); err != nil {
				t.Fatal(err)
			}
		}
		_, _, _ = b.Apply(Update{TypeURL: typeURL, Set: []Resource{{Name: name, Body: &anypb.Any{TypeUrl: typeURL, Value: raw}}}})
		b.Wanted(nil)
		b.Missing()
	})
}

func FuzzApplyRoutes(f *testing.F) {
	fuzzApply(f, resource.RouteType, "9080", []string{routes9080})
}

func FuzzApplyVirtualHosts(f *testing.F) {
	fuzzApply(f, resource.VirtualHostType, "80/reviews", []string{`name: "80/reviews" domains: "reviews" routes { match { prefix: "/" } route { cluster: "c" } }`},
		update(f, resource.RouteType, `name: "80" vhds { config_source { ads {} } }`))
}

func FuzzApplyClusters(f *testing.F) {
	fuzzApply(f, resource.ClusterType, "outbound|9080||reviews.default.svc.cluster.local", []string{reviewsCluster})
}

func FuzzApplyEndpoints(f *testing.F) {
	fuzzApply(f, resource.EndpointType, "outbound|9080||reviews.default.svc.cluster.local", []string{reviewsEndpoints("10.0.0.1:9080 istio", "[fd00::1]:9080 disabled")},
		update(f, resource.ClusterType, reviewsCluster))
}

func FuzzApplyListeners(f *testing.F) {
	http := `name: "l" address { socket_address { address: "0.0.0.0" port_value: 80 } } filter_chains { filters { name: "http" typed_config {
  [type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { stat_prefix: "l" rds { route_config_name: "80" config_source { ads {} } }
    http_filters { name: "router" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] {} } } } } } }`
	structs := fmt.Sprintf(inboundManager, "", httpFilterText("limit", `[type.googleapis.com/xds.type.v3.TypedStruct] { type_url: "type.googleapis.com/`+httpLimit+`" value {
		fields { key: "stat_prefix" value { string_value: "x" } } fields { key: "response_headers_to_add" value { list_value { values { struct_value { fields { key: "header" value { null_value: NULL_VALUE } } } } } } } } }`, ""))
	fuzzApply(f, resource.ListenerType, "l", []string{httpsListener, http, structs})
}

func FuzzApplySecrets(f *testing.F) {
	cert, key := selfSigned(f)
	fuzzApply(f, resource.SecretType, "kubernetes://a", []string{
		fmt.Sprintf(`name: "kubernetes://a" tls_certificate { certificate_chain { inline_bytes: %q } private_key { inline_bytes: %q } }`, cert, key),
		fmt.Sprintf(`name: "kubernetes://a" validation_context { trusted_ca { inline_bytes: %q } }`, cert),
	}, update(f, resource.ListenerType, httpsListener))
}
