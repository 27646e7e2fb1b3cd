package state

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/xds/resource"
)

// nobody is an identity that has no certificate yet.
type nobody struct{}

func (nobody) Certificate() *stdtls.Certificate { return nil }
func (nobody) Bundle() *identity.Bundle         { return nil }

func newBuilder() *Builder { return NewBuilder(Options{Identity: nobody{}}) }

// update reads messages of one type from prototext.
func update(t testing.TB, typeURL string, texts ...string) Update {
	t.Helper()
	u := Update{TypeURL: typeURL}
	for _, text := range texts {
		var m proto.Message
		switch typeURL {
		case resource.ClusterType:
			m = &clusterv3.Cluster{}
		case resource.EndpointType:
			m = &endpointv3.ClusterLoadAssignment{}
		case resource.RouteType:
			m = &routev3.RouteConfiguration{}
		case resource.VirtualHostType:
			m = &routev3.VirtualHost{}
		case resource.ListenerType:
			m = &listenerv3.Listener{}
		case resource.SecretType:
			m = &tlsv3.Secret{}
		}
		if err := prototext.Unmarshal([]byte(text), m); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		name := ""
		switch m := m.(type) {
		case interface{ GetName() string }:
			name = m.GetName()
		case *endpointv3.ClusterLoadAssignment:
			name = m.GetClusterName()
		}
		u.Set = append(u.Set, Resource{Name: name, Version: resource.Version(a.GetValue()), Body: a})
	}
	return u
}

const reviewsCluster = `
name: "outbound|9080||reviews.default.svc.cluster.local"
type: EDS
eds_cluster_config { eds_config { ads {} resource_api_version: V3 } service_name: "outbound|9080||reviews.default.svc.cluster.local" }
connect_timeout { seconds: 10 }
lb_policy: LEAST_REQUEST
circuit_breakers { thresholds { max_connections { value: 100 } max_pending_requests { value: 4294967295 } max_requests { value: 4294967295 } max_retries { value: 4294967295 } } }
transport_socket_matches {
  name: "tlsMode-istio"
  match { fields { key: "tlsMode" value { string_value: "istio" } } }
  transport_socket {
    name: "envoy.transport_sockets.tls"
    typed_config {
      [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] {
        common_tls_context {
          alpn_protocols: "istio-peer-exchange" alpn_protocols: "istio"
          tls_params { tls_minimum_protocol_version: TLSv1_2 tls_maximum_protocol_version: TLSv1_3 }
          tls_certificate_sds_secret_configs { name: "default" sds_config { ads {} } }
          combined_validation_context {
            default_validation_context { match_typed_subject_alt_names { san_type: URI matcher { exact: "spiffe://cluster.local/ns/default/sa/bookinfo-reviews" } } }
            validation_context_sds_secret_config { name: "ROOTCA" sds_config { ads {} } }
          }
        }
        sni: "outbound_.9080_._.reviews.default.svc.cluster.local"
      }
    }
  }
}
transport_socket_matches { name: "tlsMode-disabled" match {} transport_socket { name: "envoy.transport_sockets.raw_buffer"
  typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer] {} } } }
metadata { filter_metadata { key: "istio" value { fields { key: "services" value { list_value { values { struct_value {
  fields { key: "host" value { string_value: "reviews.default.svc.cluster.local" } }
  fields { key: "name" value { string_value: "reviews" } }
  fields { key: "namespace" value { string_value: "default" } } } } } } } } } }`

func reviewsEndpoints(eps ...string) string {
	s := `cluster_name: "outbound|9080||reviews.default.svc.cluster.local" endpoints {`
	for _, e := range eps {
		addr, mode, _ := strings.Cut(e, " ")
		ap := netip.MustParseAddrPort(addr)
		s += fmt.Sprintf(`lb_endpoints { endpoint { address { socket_address { address: %q port_value: %d } } } health_status: HEALTHY load_balancing_weight { value: 1 }
  metadata { filter_metadata { key: "envoy.transport_socket_match" value { fields { key: "tlsMode" value { string_value: %q } } } }
    filter_metadata { key: "istio" value { fields { key: "workload" value { string_value: "reviews-v1;default;reviews;v1;Kubernetes" } } } } } }`, ap.Addr(), ap.Port(), mode)
	}
	return s + "}"
}

func apply(t *testing.T, b *Builder, u Update) (*State, []*cluster.Endpoint) {
	t.Helper()
	s, gone, err := b.Apply(u)
	if err != nil {
		t.Fatal(err)
	}
	return s, gone
}

// A service arrives, gets endpoints, loses one: the other keeps its identity, the lost
// one is reported, the cluster keeps its number.
func TestEndpointsSurviveUpdates(t *testing.T) {
	const name = "outbound|9080||reviews.default.svc.cluster.local"
	b := newBuilder()
	s1, _ := apply(t, b, update(t, resource.ClusterType, reviewsCluster))
	if got := b.Missing(); !slices.Equal(got, []Lack{{"endpoints " + name, fetchIn}}) {
		t.Errorf("missing %v", got)
	}
	s2, _ := apply(t, b, update(t, resource.EndpointType, reviewsEndpoints("10.0.0.1:9080 istio", "10.0.0.2:9080 disabled")))
	if got := b.Missing(); len(got) != 0 {
		t.Errorf("missing %v", got)
	}
	c1, c2 := s1.ClusterNamed(name), s2.ClusterNamed(name)
	if len(c1.Endpoints) != 0 || len(c2.Endpoints) != 2 || c1.ID != c2.ID || c1.Limits != c2.Limits {
		t.Fatalf("before %+v, after %+v", c1, c2)
	}
	want := cluster.Service{Host: "reviews.default.svc.cluster.local", Name: "reviews", Namespace: "default", Port: 9080}
	if c2.Service != want || c2.Limits.MaxConnections.Load() != 100 || c2.Policy != cluster.LeastRequest {
		t.Errorf("cluster %+v", c2)
	}
	mtls := c2.Endpoints[0].Transport.Load()
	if mtls == nil || mtls.SNI != "outbound_.9080_._.reviews.default.svc.cluster.local" || !mtls.Istio ||
		len(mtls.Names) != 1 || mtls.Names[0].Exact != "spiffe://cluster.local/ns/default/sa/bookinfo-reviews" {
		t.Errorf("endpoint with tlsMode istio: %+v", mtls)
	}
	if tcp, http := mtls.TCP.ALPN(), mtls.HTTP.ALPN(); !slices.Equal(tcp, []string{"istio-peer-exchange", "istio"}) || !slices.Equal(http, []string{"istio-http/1.1", "istio", "http/1.1"}) {
		t.Errorf("ALPN for TCP %v, for HTTP %v", tcp, http)
	}
	if tr := c2.Endpoints[1].Transport.Load(); tr != nil {
		t.Errorf("endpoint without a sidecar is plaintext, got %+v", tr)
	}
	if w := c2.Endpoints[0].Workload; w != (cluster.Workload{Name: "reviews-v1", Namespace: "default", Service: "reviews", Revision: "v1", Cluster: "Kubernetes"}) {
		t.Errorf("workload %+v", w)
	}

	s3, gone := apply(t, b, update(t, resource.EndpointType, reviewsEndpoints("10.0.0.2:9080 disabled", "10.0.0.3:9080 istio")))
	c3 := s3.ClusterNamed(name)
	if c3.Endpoints[0] != c2.Endpoints[1] {
		t.Error("an unchanged endpoint must stay the same object")
	}
	if len(gone) != 1 || gone[0] != c2.Endpoints[0] {
		t.Errorf("gone %v", gone)
	}
	if len(c2.Endpoints) != 2 || c2.Endpoints[0].Addr.Port() != 9080 {
		t.Error("an older State must not change")
	}
	// The accepted names change: connections stay.
	grown := strings.Replace(reviewsCluster, "match_typed_subject_alt_names {", `match_typed_subject_alt_names { san_type: URI matcher { exact: "spiffe://cluster.local/ns/default/sa/new" } } match_typed_subject_alt_names {`, 1)
	s4, gone := apply(t, b, update(t, resource.ClusterType, grown))
	if c4 := s4.ClusterNamed(name); c4.Endpoints[1] != c3.Endpoints[1] || len(gone) != 0 || len(c4.Endpoints[1].Transport.Load().Names) != 2 {
		t.Error("a further accepted name must keep the endpoint and be used for new connections")
	}
	// It gets its endpoints by another name: those it had serve until others have come.
	renamed := strings.Replace(grown, `service_name: "`+name, `service_name: "other`, 1)
	s4, gone = apply(t, b, update(t, resource.ClusterType, renamed))
	if c4 := s4.ClusterNamed(name); len(c4.Endpoints) != 2 || len(gone) != 0 {
		t.Errorf("endpoints by another name: %+v, gone %v", c4.Endpoints, gone)
	}
	s4, _ = apply(t, b, Update{TypeURL: resource.EndpointType, Removed: []string{"other"}, Absent: []string{"other"}})
	if c4 := s4.ClusterNamed(name); len(c4.Endpoints) != 0 {
		t.Errorf("of the other name there are none, and it has %+v", c4.Endpoints)
	}
	apply(t, b, update(t, resource.ClusterType, grown))
	// The cluster goes.
	s5, gone := apply(t, b, Update{TypeURL: resource.ClusterType, Removed: []string{name}})
	if s5.ClusterNamed(name) != nil || s5.Cluster(c3.ID) != nil || len(gone) != 2 {
		t.Error("a removed cluster is gone with its endpoints")
	}
}

// Numbers of endpoints that left are used again once they were released.
func TestEndpointNumbersAreReused(t *testing.T) {
	b := newBuilder()
	apply(t, b, update(t, resource.ClusterType, reviewsCluster))
	for i := range 100 {
		_, gone := apply(t, b, update(t, resource.EndpointType, reviewsEndpoints(fmt.Sprintf("10.0.1.%d:9080 istio", i))))
		for _, e := range gone {
			b.Release(e)
		}
	}
	if b.nextEP > 2 {
		t.Errorf("%d numbers used for one endpoint at a time", b.nextEP)
	}
}

const routes9080 = `
name: "9080"
virtual_hosts {
  name: "reviews.default.svc.cluster.local:9080"
  domains: "reviews.default.svc.cluster.local" domains: "reviews" domains: "reviews:9080"
  routes {
    name: "jason"
    match { prefix: "/" case_sensitive { value: true } headers { name: "end-user" string_match { exact: "jason" } } }
    route { cluster: "outbound|9080|v2|reviews.default.svc.cluster.local" timeout {} retry_policy { retry_on: "connect-failure,refused-stream,unavailable,cancelled,503"
      num_retries { value: 2 } retry_host_predicate { name: "envoy.retry_host_predicates.previous_hosts" typed_config {
        [type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate] {} } } host_selection_retry_max_attempts: 5 } max_grpc_timeout {} }
    metadata { filter_metadata { key: "istio" value { fields { key: "config" value { string_value: "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews" } } } }
      filter_metadata { key: "weir" value { fields { key: "file" value { string_value: "vs.yaml" } } fields { key: "line" value { number_value: 7 } } } } }
    typed_per_filter_config { key: "envoy.filters.http.fault" value { [type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] {
      delay { percentage { numerator: 500000 denominator: MILLION } fixed_delay { seconds: 7 } } abort { http_status: 500 percentage { numerator: 100 } } } } }
  }
  routes {
    match { prefix: "/" }
    route { weighted_clusters { clusters { name: "a" weight { value: 50 } request_headers_to_add { header { key: "X-A" value: "%REQ(x-b)%" } append_action: OVERWRITE_IF_EXISTS_OR_ADD } }
      clusters { name: "b" weight { value: 50 } } } prefix_rewrite: "/x" }
  }
  routes { match { path: "/old" } redirect { path_redirect: "/new" response_code: FOUND } }
  routes { match { safe_regex { regex: "/a.*" } } direct_response { status: 503 body { inline_string: "closed" } } }
}
virtual_hosts { name: "allow_any" domains: "*" routes { match { prefix: "/" } route { cluster: "PassthroughCluster" timeout {} } } }`

func TestRoutes(t *testing.T) {
	b := newBuilder()
	s, _ := apply(t, b, update(t, resource.RouteType, routes9080))
	table := s.Table("9080")
	vh := table.Host([]byte("reviews:9080"))
	if vh == nil || len(vh.Entries) != 4 || table.Host([]byte("other")).Name != "allow_any" {
		t.Fatalf("virtual hosts: %+v", vh)
	}
	jason := vh.Entries[0]
	if jason.Name != "jason" || jason.Source.Object() != (observe.Object{Config: "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews", File: "vs.yaml", Line: 7}) {
		t.Errorf("source %+v", jason.Source)
	}
	r := jason.Forward.Retry
	if jason.Forward.Timeout != 0 || r.Attempts != 2 || !r.OtherHosts || !r.Eager || r.HostAttempts != 5 || !slices.Equal(r.StatusCodes, []int{503}) {
		t.Errorf("forward %+v retry %+v", jason.Forward, r)
	}
	if f := jason.Fault; f.Delay.Seconds() != 7 || f.DelayPer1M != 500_000 || f.AbortStatus != 500 || f.AbortPer1M != 1_000_000 {
		t.Errorf("fault %+v", f)
	}
	split := vh.Entries[1].Forward
	if split.Total != 100 || split.Timeout.Seconds() != 15 || literal(split.Clusters[0].Headers.RequestSet[0].Value) || split.PrefixRewrite != "/x" {
		t.Errorf("split %+v", split)
	}
	if vh.Entries[2].Redirect.Status != 302 || string(vh.Entries[3].Direct.Body) != "closed" {
		t.Error("redirect and direct response")
	}
	// A cluster that comes later is found by the number the table already has.
	if s.Cluster(split.Clusters[0].Cluster) != nil {
		t.Error("cluster a does not exist yet")
	}
	s, _ = apply(t, b, update(t, resource.ClusterType, `name: "a" type: STATIC load_assignment { endpoints { lb_endpoints { endpoint { address { socket_address { address: "::1" port_value: 1 } } } } } }`))
	if c := s.Cluster(split.Clusters[0].Cluster); c == nil || c.Name != "a" || len(c.Endpoints) != 1 {
		t.Errorf("cluster a: %+v", c)
	}
}

// What the proxy cannot do it refuses, naming resource and field; the old State stays.
// Who is wrong in an update is named, so that the others can be applied without them.
func TestRefusedByName(t *testing.T) {
	b := newBuilder()
	u := update(t, resource.ClusterType, `name: "a"`, `name: "b" lb_policy: LOAD_BALANCING_POLICY_CONFIG`, `name: "c"`, `name: "d" transport_socket { name: "quic" }`)
	_, _, err := b.Apply(u)
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || !slices.Equal(refused.Refused(), []string{"b", "d"}) {
		t.Fatalf("refused %v with %v", refused, err)
	}
	u.Set = slices.DeleteFunc(u.Set, func(r Resource) bool { return slices.Contains(refused.Refused(), r.Name) })
	if s, _ := apply(t, b, u); s.ClusterNamed("a") == nil || s.ClusterNamed("b") != nil || s.ClusterNamed("c") == nil {
		t.Error("the others are not in force")
	}
}

// A destination that is not to be called says because of which object.
func TestRefusedDestination(t *testing.T) {
	b := newBuilder()
	apply(t, b, update(t, resource.ClusterType, `name: "a" metadata { filter_metadata { key: "weir" value { fields { key: "refused" value { string_value: "DestinationRule shop/a" } } } } }`))
	if got := b.State().ClusterNamed("a").Refused; got != "DestinationRule shop/a" {
		t.Errorf("refused because of %q", got)
	}
}

// dynamic is of a cluster whose names only clients know.
func dynamic(port string) string {
	text := `cluster_type { name: "envoy.clusters.dynamic_forward_proxy" typed_config { [type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig] {
		dns_cache_config { name: "a" dns_lookup_family: V6_ONLY } } } } `
	if port != "" {
		text += `metadata { filter_metadata { key: "weir" value { fields { key: "dynamic" value { struct_value {
			fields { key: "host" value { string_value: "*.a" } } fields { key: "port" value { number_value: ` + port + ` } } } } } } } } `
	}
	return text
}

// A cluster of such names has no endpoints, and says what may be asked for.
func TestDynamic(t *testing.T) {
	s, _ := apply(t, newBuilder(), update(t, resource.ClusterType, `name: "x" lb_policy: CLUSTER_PROVIDED outlier_detection {} `+dynamic("80")))
	if c := s.ClusterNamed("x"); c.Kind != cluster.Dynamic || c.Pattern != "*.a" || c.Port != 80 || c.Lookup != cluster.OnlyIPv6 || c.Outlier != nil || c.Missing() != causes.NameNotResolved {
		t.Errorf("%+v", c)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, typeURL, text, want string }{
		{"an unknown cluster type", resource.ClusterType, `name: "x" cluster_type { name: "custom" }`, "cluster x.cluster_type: custom is not supported"},
		{"names that nobody bounds", resource.ClusterType, `name: "x" lb_policy: CLUSTER_PROVIDED ` + dynamic(""), "cluster x.cluster_type: metadata weir.dynamic must say which names clients may ask for (host), and the port"},
		{"names without their policy", resource.ClusterType, `name: "x" ` + dynamic("80"), "cluster x.lb_policy: names that clients ask for need CLUSTER_PROVIDED"},
		{"half a port", resource.ClusterType, `name: "x" lb_policy: CLUSTER_PROVIDED ` + dynamic("80.5"), "cluster x.cluster_type: metadata weir.dynamic must say which names clients may ask for (host), and the port"},
		{"a balancing policy of its own", resource.ClusterType, `name: "x" lb_policy: LOAD_BALANCING_POLICY_CONFIG`, "cluster x.lb_policy: LOAD_BALANCING_POLICY_CONFIG is not supported"},
		{"a table whose size is no prime", resource.ClusterType, `name: "x" lb_policy: MAGLEV maglev_lb_config { table_size { value: 65536 } }`, "cluster x.lb_config: size 65536: it is a prime number for a table, and at most 5000011"},
		{"no name", resource.ClusterType, `type: STATIC`, "cluster: name is empty"},
		{"TLS 1.0", resource.ClusterType, `name: "x" transport_socket { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] {
			common_tls_context { tls_params { tls_minimum_protocol_version: TLSv1_0 } } } } }`,
			"cluster x.transport_socket.tls_params.tls_minimum_protocol_version: TLSv1_0 is too old to be safe; use TLSv1_2 or TLSv1_3"},
		{"names without a CA", resource.ClusterType, `name: "x" transport_socket { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] {
			common_tls_context { validation_context { match_typed_subject_alt_names { san_type: DNS matcher { exact: "a" } } } } } } }`,
			"cluster x.transport_socket.validation_context: names are to be checked but no CA says whose certificates count"},
		{"two PROXY headers", resource.ClusterType, `name: "x" transport_socket { name: "a" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport] {
			transport_socket { name: "b" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport] {
				transport_socket { name: "raw_buffer" } } } } } } }`,
			"cluster x.transport_socket.transport_socket: a PROXY protocol header inside another"},
		{"an unknown transport socket", resource.ClusterType, `name: "x" transport_socket { name: "quic" }`, `cluster x.transport_socket: transport socket "quic" is not supported`},
		{"a host name in EDS", resource.EndpointType, `cluster_name: "x" endpoints { lb_endpoints { endpoint { address { socket_address { address: "a.b" port_value: 1 } } } } }`,
			`load assignment x.endpoints[0].lb_endpoints[0].endpoint.address: "a.b" is not an IP address (names need a DNS cluster)`},
		{"hedging", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "a" hedge_policy {} } } }`,
			"route configuration r.virtual_hosts[0].routes[0].route.hedge_policy: field is not supported: a request is at one endpoint at a time; use per_try_timeout in retry_policy"},
		{"a bad regex", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { safe_regex { regex: "(" } } route { cluster: "a" } } }`,
			"route configuration r virtual host v.routes[0].match.safe_regex: error parsing regexp: missing closing ): `^(?:()$`"},
		{"no action", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } } }`,
			"route configuration r virtual host v.routes[0]: has no action"},
		{"one domain twice", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "a" } virtual_hosts { name: "w" domains: "A" }`,
			`route configuration "r": domain "a" is in virtual hosts "v" and "w"`},
		{"an unknown operator", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "a" }
			request_headers_to_add { header { key: "a" value: "%NOPE%" } } } }`,
			`route configuration r virtual host v.routes[0].request_headers_to_add[0].header.value: format "%NOPE%": there is no operator %NOPE%`},
		{"a header in a header's value", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" response_headers_to_add { header { key: "a" value: "b\r\nc: d" } } }`,
			`route configuration r virtual host v.response_headers_to_add[0].header.value: "b\r\nc: d" has a control character`},
		{"a header's name of two words", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" response_headers_to_add { header { key: "a b" value: "c" } } }`,
			`route configuration r virtual host v.response_headers_to_add[0].header.key: "a b" is not a header name`},
		{"a request in a path", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "a" prefix_rewrite: "/ HTTP/1.1\r\n\r\nGET /" } } }`,
			`route configuration r virtual host v.routes[0].route.prefix_rewrite: "/ HTTP/1.1\r\n\r\nGET /" has a space or a control character`},
		{"a header in an authority", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "a" host_rewrite_literal: "a\nb: c" } } }`,
			`route configuration r virtual host v.routes[0].route.host_rewrite_literal: "a\nb: c" has a space or a control character`},
		{"a header in a redirect", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } redirect { path_redirect: "/\r\nset-cookie: a" } } }`,
			`route configuration r virtual host v.routes[0].redirect.path_redirect: "/\r\nset-cookie: a" has a space or a control character`},
		{"a header in the server's name", resource.ListenerType, `name: "l" address { socket_address { address: "127.0.0.1" port_value: 1 } } filter_chains { filters { name: "h" typed_config {
			[type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { server_name: "a\r\nb: c" } } } }`,
			`listener l.filter_chains[0].filters[0] h.server_name: "a\r\nb: c" has a control character`},
		{"a per-route filter nobody has", resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "a" }
			typed_per_filter_config { key: "envoy.filters.http.rbac" value { [type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC] {} } } } }`,
			"route configuration r virtual host v.routes[0].typed_per_filter_config[envoy.filters.http.rbac]: type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC is not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder()
			before := b.State()
			_, _, err := b.Apply(update(t, c.typeURL, c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if d := cmp.Diff(c.want, strings.ReplaceAll(err.Error(), "\u00a0", " ")); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if b.State() != before {
				t.Error("a refused update must change nothing")
			}
		})
	}
}

// Resolved addresses replace each other; unchanged ones change nothing.
func TestResolved(t *testing.T) {
	b := newBuilder()
	apply(t, b, update(t, resource.ClusterType, `name: "outbound|443||api.example.com" type: STRICT_DNS
		load_assignment { endpoints { lb_endpoints { endpoint { address { socket_address { address: "api.example.com" port_value: 443 } } } } } }`))
	names, _ := b.DNSNames()
	if d := cmp.Diff(map[string][]cluster.Name{"outbound|443||api.example.com": {{Host: "api.example.com", Shown: "api.example.com", Port: 443}}}, names); d != "" {
		t.Error(d)
	}
	addrs := []cluster.Found{{AddrPort: netip.MustParseAddrPort("192.0.2.1:443")}, {AddrPort: netip.MustParseAddrPort("192.0.2.2:443")}}
	s, _ := b.Resolved("outbound|443||api.example.com", addrs)
	if n := len(s.ClusterNamed("outbound|443||api.example.com").Endpoints); n != 2 {
		t.Errorf("%d endpoints", n)
	}
	if again, gone := b.Resolved("outbound|443||api.example.com", addrs); again != s || gone != nil {
		t.Error("nothing changed, so nothing must")
	}
	if _, gone := b.Resolved("outbound|443||api.example.com", addrs[1:]); len(gone) != 1 {
		t.Errorf("gone %v", gone)
	}
}

// Workers and the admin server read a State while the next one is made: what is published is never written again, not
// even with what it holds already (the runtime ends a program that reads a map while somebody writes it).
func TestPublishedStatesAreNotWritten(t *testing.T) {
	const api = "outbound|443||api.example.com"
	updates := map[string]func(b *Builder) (*State, []*cluster.Endpoint){
		"clusters": func(b *Builder) (*State, []*cluster.Endpoint) {
			return apply(t, b, update(t, resource.ClusterType, reviewsCluster))
		},
		"endpoints": func(b *Builder) (*State, []*cluster.Endpoint) {
			return apply(t, b, update(t, resource.EndpointType, reviewsEndpoints(fmt.Sprintf("10.0.0.%d:9080 istio", 1+b.State().Generation%200))))
		},
		"addresses of names": func(b *Builder) (*State, []*cluster.Endpoint) {
			return b.Resolved(api, []cluster.Found{{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(b.State().Generation)}), 443)}})
		},
		"virtual hosts and clusters of routes": func(b *Builder) (*State, []*cluster.Endpoint) {
			return apply(t, b, update(t, resource.RouteType, `name: "443" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "`+api+`" } } }`))
		},
		"listeners": func(b *Builder) (*State, []*cluster.Endpoint) {
			return apply(t, b, update(t, resource.ListenerType, httpsListener))
		},
	}
	for name, next := range updates {
		t.Run(name, func(t *testing.T) {
			b := newBuilder()
			s, _ := apply(t, b, update(t, resource.ClusterType, reviewsCluster, `name: "`+api+`" type: STRICT_DNS
				load_assignment { endpoints { lb_endpoints { endpoint { address { socket_address { address: "api.example.com" port_value: 443 } } } } } }`))
			states, read := make(chan *State, 1), make(chan int)
			go func() {
				found := 0
				for s := range states {
					for c := range s.Clusters() {
						if s.ClusterNamed(c.Name) == c {
							found++
						}
					}
					for range s.Tables() {
						found++
					}
					for range s.Listeners() {
						found++
					}
					for range s.Unheeded() {
						found++
					}
				}
				read <- found
			}()
			const rounds = 50
			for range rounds {
				states <- s
				s, _ = next(b)
			}
			close(states)
			if n := <-read; n < 2*rounds {
				t.Errorf("%d found in %d states of two clusters", n, rounds)
			}
		})
	}
}

// Addresses stand where the name does that they were resolved from.
func TestResolvedByPriority(t *testing.T) {
	b := newBuilder()
	group := func(priority int, host string) string {
		return fmt.Sprintf(`endpoints { priority: %d lb_endpoints { load_balancing_weight { value: %d } endpoint { address { socket_address { address: %q port_value: 443 } } } } } `, priority, priority+2, host)
	}
	apply(t, b, update(t, resource.ClusterType, `name: "c" type: STRICT_DNS load_assignment { `+group(0, "near.example.com")+group(1, "far.example.com")+`}`))
	s, _ := b.Resolved("c", []cluster.Found{{AddrPort: netip.MustParseAddrPort("192.0.2.1:443"), Name: 1}, {AddrPort: netip.MustParseAddrPort("192.0.2.2:443")}})
	c := s.ClusterNamed("c")
	if len(c.Places) != 2 || c.Places[0].Priority != 1 || c.Places[1].Priority != 0 || !slices.Equal(c.Weights, []uint32{3, 2}) {
		t.Errorf("places %v, weights %v", c.Places, c.Weights)
	}
	if g := c.View().Groups; len(g) != 1 || g[0].Endpoints[0] != c.Endpoints[1] {
		t.Errorf("%d groups are chosen from, not the near one alone", len(g))
	}
	// They are called as the name is, or as the control plane says.
	if a, b := c.Endpoints[0].Host, c.Endpoints[1].Host; a != "far.example.com" || b != "near.example.com" {
		t.Errorf("hosts %q, %q", a, b)
	}
	apply(t, b, update(t, resource.ClusterType, `name: "c" type: STRICT_DNS load_assignment { endpoints { lb_endpoints { endpoint { hostname: "shown.example.com" address { socket_address { address: "near.example.com" port_value: 443 } } } } } }`))
	s, _ = b.Resolved("c", []cluster.Found{{AddrPort: netip.MustParseAddrPort("192.0.2.2:443")}})
	if e := s.ClusterNamed("c").Endpoints; len(e) != 1 || e[0].Host != "shown.example.com" {
		t.Errorf("%+v", e)
	}
}

func BenchmarkOneEndpointOf5000Clusters(b *testing.B) {
	bl := newBuilder()
	u := Update{TypeURL: resource.ClusterType}
	for i := range 5000 {
		a, _ := anypb.New(&clusterv3.Cluster{Name: fmt.Sprintf("outbound|80||s%d", i), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}})
		u.Set = append(u.Set, Resource{Name: fmt.Sprintf("outbound|80||s%d", i), Body: a})
	}
	if _, _, err := bl.Apply(u); err != nil {
		b.Fatal(err)
	}
	a, _ := anypb.New(&endpointv3.ClusterLoadAssignment{ClusterName: "outbound|80||s7"})
	one := Update{TypeURL: resource.EndpointType, Set: []Resource{{Name: "outbound|80||s7", Body: a}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := bl.Apply(one); err != nil {
			b.Fatal(err)
		}
	}
}

const httpsListener = `name: "0.0.0.0_8443" address { socket_address { address: "0.0.0.0" port_value: 8443 } }
listener_filters { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector] {} } }
filter_chains { filter_chain_match { server_names: "a.example.com" } transport_socket { name: "tls" typed_config {
  [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext] { common_tls_context { tls_certificate_sds_secret_configs { name: "kubernetes://a" } } } } }
  filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" } } } }
filter_chains { filter_chain_match { server_names: "b.example.com" } transport_socket { name: "tls" typed_config {
  [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext] { common_tls_context { tls_certificate_sds_secret_configs { name: "kubernetes://b" } } } } }
  filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "b" } } } }`

// A chain for a server name is found though no filter is there to look for it.
func TestInspectedUnasked(t *testing.T) {
	plain := `name: "l" address { socket_address { address: "0.0.0.0" port_value: 8443 } } filter_chains { %s
filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" } } } }`
	for match, want := range map[string]bool{
		"": false, `filter_chain_match { destination_port { value: 80 } }`: false, `filter_chain_match { transport_protocol: "raw_buffer" application_protocols: "h2c" }`: false,
		`filter_chain_match { server_names: "a" }`: true, `filter_chain_match { transport_protocol: "tls" }`: true, `filter_chain_match { application_protocols: "h2" }`: true,
	} {
		s, _ := apply(t, newBuilder(), update(t, resource.ListenerType, fmt.Sprintf(plain, match)))
		if got := s.listeners["l"].Config.InspectTLS; got != want {
			t.Errorf("%q: %v", match, got)
		}
	}
}

// A host of a gateway is served as soon as its certificate comes, and does not wait for
// those of other hosts.
func TestSecrets(t *testing.T) {
	b := newBuilder()
	s, _ := apply(t, b, update(t, resource.ListenerType, httpsListener))
	chains := func(s *State) int {
		l := s.listeners["0.0.0.0_8443"]
		if l.Config == nil {
			return 0
		}
		return len(l.Config.Chains)
	}
	if sds := b.Wanted(nil).Secrets; chains(s) != 0 || !slices.Equal(sds, []SecretName{{Name: "kubernetes://a"}, {Name: "kubernetes://b"}}) {
		t.Fatalf("%d chains, wanted %v", chains(s), sds)
	}
	if m := b.Missing(); len(m) != 0 {
		t.Errorf("missing %v: a gateway without a certificate is ready for its other hosts", m)
	}
	certificate := func(name string) *tlsv3.Secret {
		cert, key := selfSigned(t)
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: cert}},
			PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: key}}}}}
	}
	give := func(m *tlsv3.Secret) Update {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return Update{TypeURL: resource.SecretType, Set: []Resource{{Name: m.GetName(), Body: a}}}
	}
	s, _ = apply(t, b, give(certificate("kubernetes://b")))
	if chains(s) != 1 {
		t.Errorf("with b: %d chains", chains(s))
	}
	s, _ = apply(t, b, give(certificate("kubernetes://a")))
	if chains(s) != 2 {
		t.Errorf("with both: %d chains", chains(s))
	}
	old := s.listeners["0.0.0.0_8443"].Config.Chains[0].TLS
	s, _ = apply(t, b, give(certificate("kubernetes://a")))
	if s.listeners["0.0.0.0_8443"].Config.Chains[0].TLS == old {
		t.Error("a new certificate makes a new context")
	}
	if _, _, err := b.Apply(give(&tlsv3.Secret{Name: "kubernetes://a"})); err == nil || chains(b.State()) != 2 {
		t.Errorf("an empty secret must be refused and change nothing: %v", err)
	}
}

func selfSigned(t testing.TB) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.example.com"}}, &x509.Certificate{}, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func literal(f *observe.Format) bool {
	_, ok := f.Literal()
	return ok
}
