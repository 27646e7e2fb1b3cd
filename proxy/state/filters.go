package state

import (
	"fmt"
	"slices"
	"strings"

	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/filter/cors"
	"github.com/weirmesh/weir/proxy/filter/fault"
	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	rbacfilter "github.com/weirmesh/weir/proxy/filter/rbac"
	"github.com/weirmesh/weir/proxy/gateway"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/inbound"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/rbac"
)

// Types of filters, as they stand in typed_config, or inside a TypedStruct there.
const (
	hcmURL              = typePrefix + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tcpProxyURL         = typePrefix + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	statsURL            = typePrefix + "stats.PluginConfig"
	metadataExchangeURL = typePrefix + "envoy.tcp.metadataexchange.config.MetadataExchange"
	networkExtAuthzURL  = typePrefix + "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"
	networkRBACURL      = typePrefix + "envoy.extensions.filters.network.rbac.v3.RBAC"
	setFilterStateURL   = typePrefix + "envoy.extensions.filters.http.set_filter_state.v3.Config"
	jwtAuthnURL         = typePrefix + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
	alpnURL             = typePrefix + "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
	peerMetadataURL     = typePrefix + "io.istio.http.peer_metadata.Config"
	grpcStatsURL        = typePrefix + "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"
	onDemandURL         = typePrefix + "envoy.extensions.filters.http.on_demand.v3.OnDemand"
	networkSetStateURL  = typePrefix + "envoy.extensions.filters.network.set_filter_state.v3.Config"
)

// httpFilter is what is done with one type of HTTP filter.
type httpFilter struct {
	name string // as Istio or Envoy calls it
	// make checks the configuration and adds to the list what the filter does; nil: nothing is done, and that is right,
	// for the reason in inert; what its settings would change is told (unheeded).
	make  func(b *Builder, l *filterList, config *anypb.Any, at string) error
	inert string
	// steady is why it cannot be off where make is not nil; "": it can.
	steady string
}

// httpFilters are the HTTP filters there are, by the type of their configuration. Of any other the rule is: optional, it is left
// out and reported; otherwise it is refused by its path.
var httpFilters = map[string]httpFilter{
	typePrefix + "envoy.extensions.filters.http.router.v3.Router":    {name: "envoy.filters.http.router", make: (*Builder).routerFilter, steady: "requests go on by it"},
	typePrefix + "envoy.extensions.filters.http.fault.v3.HTTPFault":  {name: "envoy.filters.http.fault", make: (*Builder).faultFilter},
	typePrefix + "envoy.extensions.filters.http.cors.v3.Cors":        {name: "envoy.filters.http.cors", make: (*Builder).corsFilter},
	typePrefix + "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb": {name: "envoy.filters.http.grpc_web", make: (*Builder).grpcWebFilter, steady: "its work is done before the route is known"},
	typePrefix + "envoy.extensions.filters.http.rbac.v3.RBAC":        {name: "envoy.filters.http.rbac", make: (*Builder).rbacFilter},
	peerMetadataURL:   {name: "istio.metadata_exchange", make: (*Builder).peerMetadataFilter, steady: "its work is done before the route is known"},
	extAuthzURL:       {name: "envoy.filters.http.ext_authz", make: (*Builder).extAuthzFilter},
	localRateLimitURL: {name: "envoy.filters.http.local_ratelimit", make: (*Builder).rateLimitFilter},
	sessionURL:        {name: "envoy.filters.http.stateful_session", make: (*Builder).sessionFilter},
	jwtAuthnURL:       {name: jwtFilter, make: (*Builder).jwtAuthnFilter},
	setFilterStateURL: {name: "envoy.filters.http.set_filter_state", make: (*Builder).filterStateFilter, steady: "what it says is known without it"},
	alpnURL:           {name: "istio.alpn", inert: "the stage that dials offers HTTP protocols to mesh peers by itself"},
	statsURL:          {name: "istio.stats", inert: "Istio's standard metrics are always made"},
	onDemandURL: {name: "envoy.filters.http.on_demand",
		inert: "virtual hosts of a table come all at once, so that none has to be asked for"},
	grpcStatsURL: {name: "envoy.filters.http.grpc_stats",
		inert: "the status of every gRPC call is in Istio's standard metrics; Envoy's own counters are not made"},
}

// networkFilters are the names of the network filters that decodeChain knows, by the type of their configuration.
var networkFilters = map[string]string{
	hcmURL:              "envoy.filters.network.http_connection_manager",
	tcpProxyURL:         "envoy.filters.network.tcp_proxy",
	networkRBACURL:      "envoy.filters.network.rbac",
	networkExtAuthzURL:  "envoy.filters.network.ext_authz",
	metadataExchangeURL: "istio.metadata_exchange",
	connectionLimitURL:  "envoy.filters.network.connection_limit",
	sniClusterURL:       "envoy.filters.network.sni_cluster",
	networkSetStateURL:  "envoy.filters.network.set_filter_state",
	networkRateLimitURL: "envoy.filters.network.local_ratelimit",
	statsURL:            "istio.stats",
}

// filterList is what the HTTP filters of a connection manager amount to. The order of stages is that of the direction's
// room; where the filters stand to each other matters among those that decide who comes in, which keep the order they
// were configured in.
type filterList struct {
	config  *http.Config
	stats   string // prefix of the manager
	peers   *peermetadata.Node
	fault   []http.Stage
	cors    []http.Stage
	grpcWeb bool
	session []http.Stage
	routed  bool
	access  []http.Stage
	shadows shadows
	rules   []*rbac.Filter // the last of access, not a stage yet
	ruled   filterName     // of rules
	at      filterName     // the filter that is being read
}

// filterName is by what routes switch a filter, and whether it is off elsewhere.
type filterName struct {
	name string
	off  bool
}

func (n filterName) of(stages ...http.Stage) []http.Stage {
	return http.OfFilter(n.name, n.off, stages...)
}

// enter adds stages that decide who comes in.
func (l *filterList) enter(stages ...http.Stage) {
	l.access = append(l.access, l.ruled.of(rbacfilter.Stages(l.rules)...)...) // neighbours judge together: the path is read once
	l.rules = nil
	l.access = append(l.access, l.at.of(stages...)...)
}

// decodeHTTPFilters checks the filters and lists the stages they stand for.
func (b *Builder) decodeHTTPFilters(c *http.Config, m *hcmv3.HttpConnectionManager, path string) error {
	l := &filterList{config: c, stats: m.GetStatPrefix(), shadows: shadows{}}
	l.fault = http.OfFilter(httpFilters[faultURL].name, false, fault.Stages(nil)...) // routes may have faults all the same
	for i, f := range m.GetHttpFilters() {
		at := fmt.Sprintf("%s.http_filters[%d] %s", path, i, f.GetName())
		if l.routed {
			return fmt.Errorf("%s: the router is the last filter", at)
		}
		url, config, err := b.found(f.GetName(), f.GetTypedConfig(), f.GetConfigDiscovery(), at)
		if err != nil {
			return err
		}
		if err := b.heed(url, config, at); err != nil {
			return err
		}
		l.at = filterName{f.GetName(), f.GetDisabled()}
		switch known, ok := httpFilters[url]; {
		case l.at.off && known.steady != "":
			return fmt.Errorf("%s.disabled: %s cannot be switched off: %s", at, known.name, known.steady)
		case known.make != nil:
			if err := known.make(b, l, config, at); err != nil {
				return err
			}
		case ok:
			if l.at.off {
				b.uses.unheeded = append(b.uses.unheeded, Unheeded{at, "disabled", url})
			}
		case f.GetIsOptional():
			b.uses.skipped = append(b.uses.skipped, Skipped{at, url})
		default:
			return fmt.Errorf("%s: filter %s is not supported", at, url)
		}
	}
	if !l.routed {
		return fmt.Errorf("%s.http_filters: the last filter must be envoy.filters.http.router", path)
	}
	l.enter()
	switch c.Direction {
	case http.Inbound:
		c.Stages = inbound.Stages(inbound.Options{Metadata: l.peers, Fault: l.fault, GRPCWeb: l.grpcWeb, Session: l.session, Access: l.access})
	case http.Outbound:
		c.Stages = outbound.Stages(outbound.Options{Metadata: l.peers, Fault: l.fault, CORS: l.cors, GRPCWeb: l.grpcWeb, Session: l.session, Access: l.access})
	case http.Gateway:
		c.Stages = gateway.Stages(gateway.Options{Metadata: l.peers, Fault: l.fault, CORS: l.cors, GRPCWeb: l.grpcWeb, Session: l.session, Access: l.access})
	}
	return nil
}

func (b *Builder) routerFilter(l *filterList, config *anypb.Any, at string) error {
	r := &routerv3.Router{}
	if err := unpack(config, r, at); err != nil {
		return err
	}
	c := l.config
	c.Quiet = r.GetSuppressEnvoyHeaders()
	for _, h := range r.GetStrictCheckHeaders() { // of the field's five, by its own rules
		c.Strict = append(c.Strict, message.IDOf(strings.ToLower(h)))
	}
	if i := slices.Index(c.Strict, message.OtherHeader); i >= 0 {
		return fmt.Errorf("%s.strict_check_headers[%d]: %q is not supported", at, i, r.GetStrictCheckHeaders()[i])
	}
	l.routed = true
	return nil
}

func (b *Builder) faultFilter(l *filterList, config *anypb.Any, at string) error {
	x := &faultv3.HTTPFault{}
	if err := unpack(config, x, at); err != nil {
		return err
	}
	if x.GetDelay() == nil && x.GetAbort() == nil {
		l.fault = l.at.of(fault.Stages(nil)...)
		return nil
	}
	f, err := decodeFault(x, at)
	l.fault = l.at.of(fault.Stages(f)...)
	return err
}

func (b *Builder) corsFilter(l *filterList, config *anypb.Any, at string) error {
	l.cors = l.at.of(cors.Stage())
	return unpack(config, &corsv3.Cors{}, at)
}

func (b *Builder) grpcWebFilter(l *filterList, config *anypb.Any, at string) error {
	l.grpcWeb = true
	return unpack(config, &grpcwebv3.GrpcWeb{}, at)
}

func (b *Builder) peerMetadataFilter(l *filterList, _ *anypb.Any, _ string) error {
	l.peers = b.opts.Metadata
	return nil
}

func (b *Builder) jwtAuthnFilter(l *filterList, config *anypb.Any, at string) error {
	x := &jwtauthnv3.JwtAuthentication{}
	if err := unpack(config, x, at); err != nil {
		return err
	}
	f, err := b.decodeJWT(l, x, at)
	if err == nil {
		l.enter(jwtauthn.Stage(f))
	}
	return err
}

func (b *Builder) rbacFilter(l *filterList, config *anypb.Any, at string) error {
	x := &rbacfilterv3.RBAC{}
	if err := unpack(config, x, at); err != nil {
		return err
	}
	f, err := b.decodeRBAC(rbacSpec{rules: x.GetRules(), shadow: x.GetShadowRules(), prefix: "http." + l.stats + ".rbac.", ruled: x.GetRulesStatPrefix(), shaded: x.GetShadowRulesStatPrefix()}, at)
	if err != nil {
		return err
	}
	if len(l.rules) > 0 && l.ruled != l.at {
		l.enter()
	}
	l.rules, l.ruled = append(l.rules, f), l.at
	if f.Shadow != nil {
		l.shadows[x.GetShadowRulesStatPrefix()] = f.Shadow
	}
	return nil
}
