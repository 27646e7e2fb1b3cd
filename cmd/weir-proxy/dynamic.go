package main

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/xds/client"
)

// dynamic is the way to the xDS server that a bootstrap names, nil if it names none. The server is any: it speaks ADS.
func dynamic(b *bootstrapv3.Bootstrap) (*proxy.Control, error) {
	d := b.GetDynamicResources()
	if d == nil {
		return nil, nil
	}
	const at = "dynamic_resources.ads_config"
	for _, c := range []struct {
		name string
		from *corev3.ConfigSource
	}{{"cds_config", d.GetCdsConfig()}, {"lds_config", d.GetLdsConfig()}} {
		if c.from.GetAds() == nil {
			return nil, fmt.Errorf("dynamic_resources.%s: only {ads: {}} is supported", c.name)
		}
	}
	a := d.GetAdsConfig()
	out := &proxy.Control{Strange: true}
	switch a.GetApiType() {
	case corev3.ApiConfigSource_GRPC, corev3.ApiConfigSource_AGGREGATED_GRPC:
		out.SotW = true
	case corev3.ApiConfigSource_DELTA_GRPC, corev3.ApiConfigSource_AGGREGATED_DELTA_GRPC:
	default:
		return nil, fmt.Errorf("%s.api_type: %v is not supported; GRPC and DELTA_GRPC are", at, a.GetApiType())
	}
	if len(a.GetGrpcServices()) != 1 || a.GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName() == "" {
		return nil, fmt.Errorf("%s.grpc_services: has to be one envoy_grpc with a cluster_name", at)
	}
	name := a.GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName()
	i := slices.IndexFunc(b.GetStaticResources().GetClusters(), func(c *clusterv3.Cluster) bool { return c.GetName() == name })
	if i < 0 {
		return nil, fmt.Errorf("%s.grpc_services[0].envoy_grpc.cluster_name: there is no cluster %q in static_resources", at, name)
	}
	path := fmt.Sprintf("static_resources.clusters[%d]", i)
	c := b.GetStaticResources().GetClusters()[i]
	targets, err := addresses(c)
	if err != nil {
		return nil, fmt.Errorf("%s.load_assignment: %w", path, err)
	}
	creds, err := transportCredentials(c.GetTransportSocket())
	if err != nil {
		return nil, fmt.Errorf("%s.transport_socket: %w", path, err)
	}
	var attempts atomic.Uint32
	out.Dial = func(context.Context, *identity.Manager) (client.Conn, error) {
		target := targets[int(attempts.Add(1)-1)%len(targets)] // another one after each failure
		return grpc.NewClient("passthrough:///"+target, append(client.DialOptions(), grpc.WithTransportCredentials(creds))...)
	}
	return out, nil
}

// addresses are the endpoints of a cluster, as gRPC takes them.
func addresses(c *clusterv3.Cluster) (out []string, err error) {
	for _, l := range c.GetLoadAssignment().GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress()
			switch s := a.GetSocketAddress(); {
			case a.GetPipe().GetPath() != "":
				out = append(out, "unix:"+a.GetPipe().GetPath())
			case s.GetPortValue() > 0 && s.GetPortValue() < 1<<16:
				out = append(out, net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10)))
			default:
				return nil, errors.New("an endpoint has neither an address with a port nor a pipe")
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("has no endpoints, and the configuration has to come from somewhere")
	}
	return out, nil
}

// transportCredentials is TLS as the cluster has it, for the parts that gRPC needs. What is not among them is refused.
func transportCredentials(s *corev3.TransportSocket) (credentials.TransportCredentials, error) {
	if s == nil {
		return insecure.NewCredentials(), nil
	}
	u := &tlsv3.UpstreamTlsContext{}
	if err := s.GetTypedConfig().UnmarshalTo(u); err != nil {
		return nil, err
	}
	common := u.GetCommonTlsContext()
	ca := common.GetValidationContext().GetTrustedCa()
	rest := proto.CloneOf(u)
	rest.Sni = ""
	rest.GetCommonTlsContext().AlpnProtocols = nil
	rest.GetCommonTlsContext().TlsCertificates = nil
	if v := rest.GetCommonTlsContext().GetValidationContext(); v != nil {
		v.TrustedCa = nil
	}
	if left := proto.Size(rest); left > proto.Size(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{}}}}) {
		return nil, errors.New("towards an xDS server only sni, alpn_protocols, one of tls_certificates and validation_context.trusted_ca are supported")
	}
	roots, err := content(ca)
	if err != nil {
		return nil, err
	}
	config := &stdtls.Config{ServerName: u.GetSni(), MinVersion: stdtls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(roots) {
		return nil, errors.New("common_tls_context.validation_context.trusted_ca: holds no certificate in PEM, and nobody else says whom to trust")
	}
	for _, own := range common.GetTlsCertificates() {
		chain, err := content(own.GetCertificateChain())
		if err != nil {
			return nil, err
		}
		key, err := content(own.GetPrivateKey())
		if err != nil {
			return nil, err
		}
		pair, err := stdtls.X509KeyPair(chain, key)
		if err != nil {
			return nil, fmt.Errorf("common_tls_context.tls_certificates: %w", err)
		}
		config.Certificates = append(config.Certificates, pair)
	}
	return credentials.NewTLS(config), nil
}

func content(d *corev3.DataSource) ([]byte, error) {
	switch s := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_Filename:
		return os.ReadFile(s.Filename)
	case nil:
		return nil, nil
	}
	return nil, errors.New("only filename, inline_string and inline_bytes are supported")
}
