package state

import (
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	originalsrcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	connectionlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	sniclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/filter/extauthz"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/proxy/tls"
)

const (
	originalDstURL     = typePrefix + "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
	tlsInspectorURL    = typePrefix + "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
	originalSrcURL     = typePrefix + "envoy.extensions.filters.listener.original_src.v3.OriginalSrc"
	proxyProtocolURL   = typePrefix + "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
	connectionLimitURL = typePrefix + "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"
	sniClusterURL      = typePrefix + "envoy.extensions.filters.network.sni_cluster.v3.SniCluster"
	httpInspectorURL   = typePrefix + "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"

	// defaultInspect is Listener.listener_filters_timeout's default.
	defaultInspect = 15 * time.Second
)

func (b *Builder) decodeWholeListener(l *listenerv3.Listener, version string) (*Listener, error) {
	path := "listener " + l.GetName()
	if l.GetName() == "" {
		return nil, fmt.Errorf("listener: name is empty")
	}
	if err := check(l, path); err != nil {
		return nil, err
	}
	c := &listener.Config{Name: l.GetName(), InspectTimeout: defaultInspect, ContinueOnTimeout: l.GetContinueOnListenerFiltersTimeout()}
	if t := l.GetListenerFiltersTimeout(); t != nil {
		c.InspectTimeout = t.AsDuration()
	}
	dir := http.Gateway
	switch l.GetTrafficDirection() {
	case corev3.TrafficDirection_INBOUND:
		c.Direction, dir = listener.Inbound, http.Inbound
	case corev3.TrafficDirection_OUTBOUND:
		c.Direction, dir = listener.Outbound, http.Outbound
	case corev3.TrafficDirection_UNSPECIFIED:
	}
	if l.GetUseOriginalDst().GetValue() {
		c.UseOriginalDst, c.HandOff = true, true
	}
	bind := l.GetBindToPort() == nil || l.GetBindToPort().GetValue()
	addrs := []*corev3.Address{l.GetAddress()}
	for _, a := range l.GetAdditionalAddresses() {
		addrs = append(addrs, a.GetAddress())
	}
	for i, a := range addrs {
		at := path + ".address"
		if i > 0 {
			at = fmt.Sprintf("%s.additional_addresses[%d]", path, i-1)
		}
		if path := a.GetPipe().GetPath(); path != "" {
			if !bind {
				return nil, fmt.Errorf("%s: a Unix socket that is not bound finds no connections", at)
			}
			c.Binds = append(c.Binds, loop.Addr{Path: path})
			continue
		}
		if a.GetSocketAddress() == nil {
			return nil, fmt.Errorf("%s: only socket addresses and pipes are supported", at)
		}
		ap, err := socketAddr(a.GetSocketAddress())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if i == 0 {
			c.Address = ap
		}
		binds := []netip.AddrPort{ap}
		if ap.Addr() == netip.IPv6Unspecified() && a.GetSocketAddress().GetIpv4Compat() {
			binds = append(binds, netip.AddrPortFrom(netip.IPv4Unspecified(), ap.Port()))
		}
		for _, ap := range binds {
			if at := loop.TCP(ap); bind && !slices.Contains(c.Binds, at) {
				c.Binds = append(c.Binds, at)
			}
		}
	}
	c.IgnoreGroupLimit = l.GetIgnoreGlobalConnLimit()
	c.Transparent, c.FreeBind, c.Backlog = l.GetTransparent().GetValue(), l.GetFreebind().GetValue(), int(min(l.GetTcpBacklogSize().GetValue(), math.MaxInt32))
	for i, f := range l.GetListenerFilters() {
		at := fmt.Sprintf("%s.listener_filters[%d] %s", path, i, f.GetName())
		url, config, err := opened(f.GetTypedConfig(), at)
		if err != nil {
			return nil, err
		}
		if f.GetFilterDisabled() != nil && url != tlsInspectorURL && url != httpInspectorURL {
			// Inspectors run where a chain for the destination depends on what they find, and nowhere else.
			return nil, fmt.Errorf("%s.filter_disabled: is supported for inspectors only", at)
		}
		switch url {
		case originalDstURL:
			c.UseOriginalDst = true
			err = unpack(config, &originaldstv3.OriginalDst{}, at)
		case tlsInspectorURL:
			c.InspectTLS = true
			err = unpack(config, &tlsinspectorv3.TlsInspector{}, at)
		case httpInspectorURL:
			c.InspectHTTP = true
			err = unpack(config, &httpinspectorv3.HttpInspector{}, at)
		case originalSrcURL:
			o := &originalsrcv3.OriginalSrc{}
			err = unpack(config, o, at)
			c.OriginalSource = &conn.OriginalSource{Mark: o.GetMark(), Port: o.GetBindPort()}
		case proxyProtocolURL:
			p := &proxyprotocolv3.ProxyProtocol{}
			err = unpack(config, p, at)
			c.Proxy = &listener.ProxyHeader{Optional: p.GetAllowRequestsWithoutProxyProtocol()}
			for _, v := range p.GetDisallowedVersions() {
				c.Proxy.Refused = append(c.Proxy.Refused, map[corev3.ProxyProtocolConfig_Version]proxyproto.Version{
					corev3.ProxyProtocolConfig_V1: proxyproto.V1, corev3.ProxyProtocolConfig_V2: proxyproto.V2}[v])
			}
		default:
			err = fmt.Errorf("%s: listener filter %s is not supported", at, url)
		}
		if err != nil {
			return nil, err
		}
	}
	out := &Listener{Name: c.Name, Version: version, Config: c}
	for i, fc := range l.GetFilterChains() {
		at := fmt.Sprintf("%s.filter_chains[%d]", path, i)
		if fc.GetName() != "" {
			at = path + " filter chain " + fc.GetName()
		}
		chain, err := b.decodeChain(fc, dir, at, out)
		if errors.Is(err, errAwaited) || b.leftOut(err) {
			continue // the other chains are served meanwhile
		}
		if err != nil {
			return nil, err
		}
		c.Chains = append(c.Chains, chain)
		c.InspectTLS = c.InspectTLS || asksTLS(&chain.Match)
	}
	if d := l.GetDefaultFilterChain(); d != nil {
		chain, err := b.decodeChain(d, dir, path+".default_filter_chain", out)
		if err != nil {
			return nil, err
		}
		c.Default = chain
	}
	if len(c.Chains) == 0 && c.Default == nil && b.uses.any() {
		return nil, errAwaited
	}
	if len(c.Chains) == 0 && c.Default == nil {
		return nil, fmt.Errorf("%s: has no filter chain", path)
	}
	return out, nil
}

// asksTLS reports whether a chain is for what only a ClientHello tells; a listener with one looks at it, whether or not it
// has the filter for that, as Envoy's does (ListenerImpl::buildListenerFilters, as of 2026-11).
func asksTLS(m *listener.Match) bool {
	return m.TransportProtocol == listener.TLS || m.TransportProtocol == "" && len(m.ServerNames)+len(m.ApplicationProtocols) > 0
}

func (b *Builder) decodeChain(fc *listenerv3.FilterChain, dir http.Direction, path string, l *Listener) (*listener.Chain, error) {
	c := &listener.Chain{Name: fc.GetName()}
	var err error
	if c.Match, err = decodeChainMatch(fc.GetFilterChainMatch(), path+".filter_chain_match"); err != nil {
		return nil, err
	}
	var rules []*rbac.Filter
	var asks []*extauthz.Connections
	front := shadows{}
	exchange, byServerName := false, false
	for i, f := range fc.GetFilters() {
		at := fmt.Sprintf("%s.filters[%d] %s", path, i, f.GetName())
		if c.Filters != nil {
			return nil, fmt.Errorf("%s: comes after the filter that ends the chain", at)
		}
		url, config, err := b.found(f.GetName(), f.GetTypedConfig(), f.GetConfigDiscovery(), at)
		if err != nil {
			return nil, err
		}
		if err := b.heed(url, config, at); err != nil {
			return nil, err
		}
		switch url {
		case hcmURL:
			m, rds, err := b.decodeManager(config, dir, at)
			if err != nil {
				return nil, err
			}
			if rds != "" && !slices.Contains(l.Routes, rds) {
				l.Routes = append(l.Routes, rds)
			}
			if len(rules)+len(asks) > 0 {
				return nil, fmt.Errorf("%s: a network filter RBAC or ext_authz in front of HTTP is not supported; put envoy.filters.http.rbac or ext_authz into http_filters", at)
			}
			m.Strangers = fc.GetMetadata().GetFilterMetadata()["weir"].GetFields()["strangers"].GetBoolValue()
			m.Chain, m.Deciders, c.Filters = c, deciders(fc.GetMetadata()), m
		case tcpProxyURL:
			p, err := b.decodeTCP(config, dir, at)
			if err != nil {
				return nil, err
			}
			p.Chain, p.Exchange, p.ByServerName, p.RBAC, p.Asks, p.Deciders, p.Source = c, exchange, byServerName, rules, asks, deciders(fc.GetMetadata()), origin(fc.GetMetadata())
			c.Filters, c.ServerFirst = p, true
		case metadataExchangeURL:
			exchange = true
		case connectionLimitURL:
			x := &connectionlimitv3.ConnectionLimit{}
			if err := unpack(config, x, at); err != nil {
				return nil, err
			}
			if x.GetMaxConnections().GetValue() == 0 || x.GetMaxConnections().GetValue() > math.MaxInt64 {
				return nil, fmt.Errorf("%s.max_connections: must be 1 or more", at)
			}
			if on := x.GetRuntimeEnabled(); on == nil || on.GetDefaultValue().GetValue() {
				c.MaxConnections, c.RefuseDelay = int64(x.GetMaxConnections().GetValue()), x.GetDelay().AsDuration()
			}
		case sniClusterURL:
			if err := unpack(config, &sniclusterv3.SniCluster{}, at); err != nil {
				return nil, err
			}
			byServerName = true
		case networkRBACURL:
			x := &networkrbacv3.RBAC{}
			if err := unpack(config, x, at); err != nil {
				return nil, err
			}
			filter, err := b.decodeRBAC(rbacSpec{rules: x.GetRules(), shadow: x.GetShadowRules(), prefix: x.GetStatPrefix() + "rbac.", shaded: x.GetShadowRulesStatPrefix()}, at)
			if err != nil {
				return nil, err
			}
			rules = append(rules, filter)
			if filter.Shadow != nil {
				front[x.GetShadowRulesStatPrefix()] = filter.Shadow
			}
		case networkExtAuthzURL:
			k, err := b.connectionAuthz(config, front, at)
			if err != nil {
				return nil, err
			}
			asks = append(asks, k)
		case networkRateLimitURL:
			if c.Rate, err = decodeConnectionRate(config, at); err != nil {
				return nil, err
			}
		case networkSetStateURL:
			if err := networkFilterState(config, at); err != nil {
				return nil, err
			}
		case statsURL: // Istio's standard metrics are always made
		default:
			return nil, fmt.Errorf("%s: filter %s is not supported", at, url)
		}
	}
	if c.Filters == nil {
		return nil, fmt.Errorf("%s: has neither an HTTP connection manager nor a TCP proxy", path)
	}
	c.TLS, err = b.decodeDownstreamTransport(fc, c.Filters, path+".transport_socket")
	return c, err
}

// cidr is what messages of that name have.
type cidr interface {
	GetAddressPrefix() string
	GetPrefixLen() *wrapperspb.UInt32Value
}

func cidrs[C cidr](list []C, path string) (out []netip.Prefix, err error) {
	for i, r := range list {
		a, err := netip.ParseAddr(r.GetAddressPrefix())
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", path, i, err)
		}
		p, err := a.Prefix(int(r.GetPrefixLen().GetValue()))
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", path, i, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func decodeChainMatch(m *listenerv3.FilterChainMatch, path string) (listener.Match, error) {
	out := listener.Match{DestinationPort: uint16(m.GetDestinationPort().GetValue()), ServerNames: m.GetServerNames(),
		TransportProtocol: m.GetTransportProtocol(), ApplicationProtocols: m.GetApplicationProtocols()}
	if p := m.GetDestinationPort().GetValue(); p > 65535 {
		return out, fmt.Errorf("%s.destination_port: %d is out of range", path, p)
	}
	switch out.TransportProtocol {
	case "", listener.TLS, listener.RawBuffer:
	default:
		return out, fmt.Errorf("%s.transport_protocol: %q is not supported", path, out.TransportProtocol)
	}
	var err error
	if out.DestinationPrefixes, err = cidrs(m.GetPrefixRanges(), path+".prefix_ranges"); err != nil {
		return out, err
	}
	if out.SourcePrefixes, err = cidrs(m.GetSourcePrefixRanges(), path+".source_prefix_ranges"); err != nil {
		return out, err
	}
	if out.DirectSourcePrefixes, err = cidrs(m.GetDirectSourcePrefixRanges(), path+".direct_source_prefix_ranges"); err != nil {
		return out, err
	}
	switch t := m.GetSourceType(); t {
	case listenerv3.FilterChainMatch_ANY:
	case listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK:
		out.SourceType = listener.SameHost
	case listenerv3.FilterChainMatch_EXTERNAL:
		out.SourceType = listener.External
	default:
		return out, fmt.Errorf("%s.source_type: %s is not supported", path, t)
	}
	for _, p := range m.GetSourcePorts() {
		if p > 65535 {
			return out, fmt.Errorf("%s.source_ports: %d is out of range", path, p)
		}
		out.SourcePorts = append(out.SourcePorts, uint16(p))
	}
	return out, nil
}

func (b *Builder) decodeTCP(config *anypb.Any, dir http.Direction, path string) (*tcp.Config, error) {
	p := &tcpproxyv3.TcpProxy{}
	if err := unpack(config, p, path); err != nil {
		return nil, err
	}
	c := &tcp.Config{StatPrefix: p.GetStatPrefix(), Inbound: dir == http.Inbound, MaxConnectAttempts: 1}
	if t := p.GetIdleTimeout(); t != nil {
		if c.IdleTimeout = t.AsDuration(); c.IdleTimeout == 0 {
			c.IdleTimeout = -1 // none
		}
	}
	c.MaxDuration = p.GetMaxDownstreamConnectionDuration().AsDuration()
	if n := p.GetMaxConnectAttempts().GetValue(); n > 0 {
		c.MaxConnectAttempts = int(min(n, 10))
	}
	for i, h := range p.GetHashPolicy() {
		if h.GetSourceIp() == nil {
			return nil, fmt.Errorf("%s.hash_policy[%d]: source_ip is all there is", path, i)
		}
		c.HashSource = true
	}
	var err error
	if c.Logs, err = b.logs(p.GetAccessLog(), path); err != nil {
		return nil, err
	}
	if c.Tunnel, err = decodeTunnel(p.GetTunnelingConfig(), path+".tunneling_config"); err != nil {
		return nil, err
	}
	add := func(name string, weight uint32) {
		id := b.clusterID(name)
		c.Clusters = append(c.Clusters, tcp.Weighted{Cluster: id, Name: b.idNames[id], Weight: weight})
	}
	if name := p.GetCluster(); name != "" {
		add(name, 1)
	}
	for _, w := range p.GetWeightedClusters().GetClusters() {
		if w.GetMetadataMatch() != nil {
			return nil, fmt.Errorf("%s.weighted_clusters.metadata_match: field is not supported", path)
		}
		add(w.GetName(), w.GetWeight())
	}
	if len(c.Clusters) == 0 {
		return nil, fmt.Errorf("%s: names no cluster", path)
	}
	return c, nil
}

// decodeDownstreamTransport returns nil for plaintext. filters are those of the chain.
func (b *Builder) decodeDownstreamTransport(fc *listenerv3.FilterChain, filters any, path string) (*tls.Server, error) {
	s := fc.GetTransportSocket()
	if s == nil {
		return nil, nil
	}
	if err := check(s, path); err != nil {
		return nil, err
	}
	switch s.GetTypedConfig().GetTypeUrl() {
	case rawBufferURL:
		return nil, unpack(s.GetTypedConfig(), &rawbufferv3.RawBuffer{}, path)
	case downstreamTLSURL:
	default:
		return nil, fmt.Errorf("%s: transport socket %q is not supported", path, s.GetName())
	}
	d := &tlsv3.DownstreamTlsContext{}
	if err := unpack(s.GetTypedConfig(), d, path); err != nil {
		return nil, err
	}
	o, err := b.serverOptions(d, path)
	if err != nil && !errors.Is(err, errAwaited) && namesFiles(d.GetCommonTlsContext()) {
		// The chain stays, and shows nobody a certificate: without it its connections might find another one, that asks
		// for less.
		b.uses.unserved = append(b.uses.unserved, err)
		o, err = tls.ServerOptions{Identity: noIdentity{}, Gate: b.opts.Gate, StdRecords: b.opts.StdRecords}, nil
	}
	if err != nil {
		return nil, err
	}
	o.Timeout = fc.GetTransportSocketConnectTimeout().AsDuration()
	o.ALPN = serverALPN(d.GetCommonTlsContext().GetAlpnProtocols(), filters)
	srv, err := tls.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return srv, nil
}

// namesFiles reports whether what is shown, or what others are judged by, is in files: those of the machine, or of the
// container, may not be there, which is no fault of the rest of a listener.
func namesFiles(c *tlsv3.CommonTlsContext) bool {
	v, _ := validation(c)
	sources := []*corev3.DataSource{v.GetTrustedCa(), v.GetCrl()}
	for _, crt := range c.GetTlsCertificates() {
		sources = append(sources, crt.GetCertificateChain(), crt.GetPrivateKey())
	}
	return slices.ContainsFunc(sources, func(d *corev3.DataSource) bool { return d.GetFilename() != "" })
}

// noIdentity has no certificate, and never gets one.
type noIdentity struct{}

func (noIdentity) Certificate() *stdtls.Certificate { return nil }
func (noIdentity) Bundle() *identity.Bundle         { return nil }

// serverALPN leaves out HTTP/2 where the connection manager does not speak it.
func serverALPN(protocols []string, filters any) []string {
	if m, ok := filters.(*http.Config); !ok || m.Codec != http.HTTP1Codec {
		return protocols
	}
	return withoutHTTP2(protocols)
}
