package proxy

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weirmesh/weir/identity"
)

// controlCluster is Istio's name of the cluster behind which the control plane is.
const controlCluster = "xds-grpc"

// bootstrap says in Envoy's words what the flags of a proxy of the mesh say: an Envoy could begin
// with it, but for the private key, which is not shown.
func (p *Proxy) bootstrap() (*bootstrapv3.Bootstrap, error) {
	ads := &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
	b := &bootstrapv3.Bootstrap{
		Node: p.nodeProto(),
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			CdsConfig: ads, LdsConfig: ads,
			AdsConfig: &corev3.ApiConfigSource{ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: controlCluster}}}}},
		},
	}
	var held *identity.Material
	if p.id != nil {
		held = p.id.Current()
	}
	c, err := controlPlane(p.o.Control.Address, p.o.Control.Server, held)
	if c != nil {
		b.StaticResources = &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{c}}
	}
	return b, err
}

// controlPlane is the cluster of the control plane, nil for an address that is not known.
func controlPlane(address, server string, held *identity.Material) (*clusterv3.Cluster, error) {
	c := &clusterv3.Cluster{Name: controlCluster, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, ConnectTimeout: durationpb.New(time.Second)}
	var at *corev3.Address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		at = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: strings.TrimPrefix(path, "//")}}}
	} else {
		host, text, err := net.SplitHostPort(address[strings.LastIndexByte(address, '/')+1:])
		port, err1 := strconv.ParseUint(text, 10, 16)
		if err != nil || err1 != nil {
			return nil, nil
		}
		at = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
		if _, err := netip.ParseAddr(host); err != nil {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		}
	}
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: controlCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at}}}}}}}
	http2, err := anypb.New(&upstreamsv3.HttpProtocolOptions{UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}}}})
	if err != nil {
		return nil, err
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
	if held == nil || server == "" {
		return c, nil
	}
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	san := &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: server}}}
	t := &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		AlpnProtocols:         []string{"h2"},
		TlsCertificates:       []*tlsv3.TlsCertificate{{CertificateChain: inline(identity.EncodeCertificates(held.Chain()...)), PrivateKey: inline(nil)}},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(held.Bundle().PEM()), MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{san}}},
	}}
	if !strings.HasPrefix(server, "spiffe://") {
		san.SanType, t.Sni = tlsv3.SubjectAltNameMatcher_DNS, server
	}
	config, err := anypb.New(t)
	if err != nil {
		return nil, err
	}
	c.TransportSocket = &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}
	return c, nil
}
