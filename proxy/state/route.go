package state

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/route"
)

const (
	always1M = 1_000_000

	defaultRouteTimeout = 15 * time.Second      // RouteAction.timeout
	defaultBackoffBase  = 25 * time.Millisecond // RetryBackOff.base_interval as Envoy's default
	// Istio's host_selection_retry_max_attempts when it is not said.
	defaultHostAttempts = 1
)

// routes is a RouteConfiguration as it came: a table, but for virtual hosts that come by
// VHDS.
type routes struct {
	name, version string
	ignorePort    bool
	hosts         []*route.VirtualHost
	vhds          bool
	common        *route.Headers
	filters       perFilter      // of routes and virtual hosts that say nothing else
	mirrors       []route.Mirror // of routes that have none
	// specificLast: the operations on headers of what is more specific come last (most_specific_header_mutations_wins).
	specificLast bool
}

// decodeRoutes reads a RouteConfiguration. ids gives clusters their numbers, whether they
// exist or not.
func decodeRoutes(rc *routev3.RouteConfiguration, version string, ids func(name string) cluster.ID) (*routes, error) {
	path := "route configuration " + rc.GetName()
	if err := check(rc, path); err != nil {
		return nil, err
	}
	out := &routes{name: rc.GetName(), version: version, ignorePort: rc.GetIgnorePortInHostMatching(), vhds: rc.GetVhds() != nil,
		specificLast: rc.GetMostSpecificHeaderMutationsWins()}
	err := byStream(rc.GetVhds().GetConfigSource(), path+".vhds.config_source")
	if err != nil {
		return nil, err
	}
	if out.common, err = headerOps(rc, path); err != nil {
		return nil, err
	}
	if out.filters, err = decodePerFilter(rc.GetTypedPerFilterConfig(), path); err != nil {
		return nil, err
	}
	if out.mirrors, err = decodeMirrors(rc.GetRequestMirrorPolicies(), path, ids); err != nil {
		return nil, err
	}
	for i, v := range rc.GetVirtualHosts() {
		at := fmt.Sprintf("%s.virtual_hosts[%d]", path, i)
		if v.GetName() != "" {
			at = fmt.Sprintf("%s virtual host %s", path, v.GetName())
		}
		vh, err := decodeVirtualHost(v, at, ids)
		if err != nil {
			return nil, err
		}
		out.hosts = append(out.hosts, vh)
		if most := rc.GetMaxDirectResponseBodySizeBytes(); most != nil {
			for j, e := range vh.Entries {
				if e.Direct != nil && len(e.Direct.Body) > int(most.GetValue()) {
					return nil, fmt.Errorf("%s.routes[%d].direct_response.body: has %d bytes, more than max_direct_response_body_size_bytes (%d)", at, j, len(e.Direct.Body), most.GetValue())
				}
			}
		}
	}
	return out, nil
}

// table makes the table, with what came by VHDS.
func (r *routes) table(more map[string]*route.VirtualHost) (*route.Table, error) {
	hosts := slices.Clone(r.hosts)
	if r.vhds {
		for _, name := range slices.Sorted(maps.Keys(more)) {
			hosts = append(hosts, more[name])
		}
	}
	if r.common != nil || r.specificLast || len(r.filters.switches) > 0 || r.mirrors != nil {
		for i, h := range hosts {
			hosts[i] = r.withCommon(h)
		}
	}
	t, err := route.New(r.name, r.version, r.ignorePort, hosts)
	if err == nil {
		t.OnDemand = r.vhds
	}
	return t, err
}

// withCommon is h with what this table says of all hosts: operations on headers, in its order, and filters and mirrors where h says nothing.
func (r *routes) withCommon(h *route.VirtualHost) *route.VirtualHost {
	c := *h
	c.Entries = slices.Clone(h.Entries)
	for i, e := range c.Entries {
		own := *e
		own.Headers = appendOps(slices.Clone(own.Headers), r.common)
		if own.SpecificLast = r.specificLast; own.SpecificLast {
			slices.Reverse(own.Headers)
		}
		r.filters.into(&own)
		mirrored(&own, r.mirrors)
		own.Host = nil
		c.Entries[i] = &own
	}
	return &c
}

func decodeVirtualHost(v *routev3.VirtualHost, at string, ids func(name string) cluster.ID) (*route.VirtualHost, error) {
	if len(v.GetDomains()) == 0 {
		return nil, fmt.Errorf("%s.domains: is empty", at)
	}
	vh := &route.VirtualHost{Name: v.GetName(), Domains: v.GetDomains(), AttemptCount: v.GetIncludeRequestAttemptCount(), AnswerAttempts: v.GetIncludeAttemptCountInResponse(), TellTimeout: v.GetIncludeIsTimeoutRetryHeader()}
	hostOps, err := headerOps(v, at)
	if err != nil {
		return nil, err
	}
	host, err := decodePerFilter(v.GetTypedPerFilterConfig(), at)
	if err != nil {
		return nil, err
	}
	if host.cors, err = orCORS(host.cors, v.GetCors(), at); err != nil {
		return nil, err
	}
	if vh.RateRules, err = decodeRateRules(v.GetRateLimits(), nil, at+".rate_limits"); err != nil {
		return nil, err
	}
	retry, err := decodeRetry(v.GetRetryPolicy(), at+".retry_policy")
	if err != nil {
		return nil, err
	}
	mirrors, err := decodeMirrors(v.GetRequestMirrorPolicies(), at, ids)
	if err != nil {
		return nil, err
	}
	switch v.GetRequireTls() {
	case routev3.VirtualHost_NONE:
	case routev3.VirtualHost_ALL:
		e, err := decodeRoute(toTLS(), at+".require_tls", ids)
		if err != nil {
			return nil, err
		}
		e.Headers = appendOps(e.Headers, hostOps)
		vh.Entries = append(vh.Entries, e)
	default:
		return nil, fmt.Errorf("%s.require_tls: %v is not supported, since nothing says here which clients are internal; say ALL", at, v.GetRequireTls())
	}
	for j, r := range v.GetRoutes() {
		e, err := decodeRoute(r, fmt.Sprintf("%s.routes[%d]", at, j), ids)
		if err != nil {
			return nil, err
		}
		e.Headers = appendOps(e.Headers, hostOps)
		host.into(e)
		mirrored(e, mirrors)
		if e.Forward != nil && r.GetRoute().GetRetryPolicy() == nil {
			e.Forward.Retry = retry
		}
		vh.Entries = append(vh.Entries, e)
		if from := e.Source.Object().Config; from != "" && !slices.ContainsFunc(vh.Sources, func(o observe.Origin) bool { return o.Object().Config == from }) {
			vh.Sources = append(vh.Sources, e.Source)
		}
	}
	return vh, nil
}

// byStream refuses another source than the stream that everything comes by.
func byStream(c *corev3.ConfigSource, path string) error {
	if c == nil || c.GetAds() != nil || c.GetSelf() != nil {
		return nil
	}
	return fmt.Errorf("%s: what it names is taken from the same stream only: use ads", path)
}

// toTLS answers what did not come over TLS, as x-forwarded-proto has it, with its address there (VirtualHost.require_tls; Istio's
// httpsRedirect).
func toTLS() *routev3.Route {
	return &routev3.Route{Name: "require_tls",
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: []*routev3.HeaderMatcher{{Name: "x-forwarded-proto", InvertMatch: true, TreatMissingHeaderAsEmpty: true,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "https"}}}}}},
		Action: &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{SchemeRewriteSpecifier: &routev3.RedirectAction_HttpsRedirect{HttpsRedirect: true}}}}
}

func appendOps(to []route.Headers, ops ...*route.Headers) []route.Headers {
	for _, o := range ops {
		if o != nil {
			to = append(to, *o)
		}
	}
	return to
}

func decodeRoute(r *routev3.Route, path string, ids func(string) cluster.ID) (*route.Entry, error) {
	e := &route.Entry{Name: r.GetName(), StatPrefix: r.GetStatPrefix(), Source: origin(r.GetMetadata())}
	var err error
	if e.When, err = decodeMatch(r.GetMatch(), path+".match"); err != nil {
		return nil, err
	}
	ops, err := headerOps(r, path)
	if err != nil {
		return nil, err
	}
	e.Headers = appendOps(nil, ops)
	own, err := decodePerFilter(r.GetTypedPerFilterConfig(), path)
	if err != nil {
		return nil, err
	}
	if own.cors, err = orCORS(own.cors, r.GetRoute().GetCors(), path+".route"); err != nil {
		return nil, err
	}
	own.into(e)
	switch {
	case r.GetRoute() != nil:
		e.Forward, err = decodeForward(r.GetRoute(), path+".route", ids)
		if err == nil {
			e.Forward.HostRules = r.GetRoute().GetIncludeVhRateLimits().GetValue()
			e.Forward.RateRules, err = decodeRateRules(r.GetRoute().GetRateLimits(), r.GetMetadata(), path+".route.rate_limits")
		}
		if c := r.GetRoute().GetPathRewritePolicy(); err == nil && c != nil {
			err = decodePathRewrite(e.Forward, c, r.GetMatch().GetPathMatchPolicy(), path+".route")
		}
	case r.GetRedirect() != nil:
		e.Redirect, err = decodeRedirect(r.GetRedirect(), path+".redirect")
	case r.GetDirectResponse() != nil:
		e.Direct, err = decodeDirect(r.GetDirectResponse(), path+".direct_response")
	default:
		err = fmt.Errorf("%s: has no action", path)
	}
	return e, err
}

// origin reads which object a route or cluster came from: Istio's metadata, and ours with
// version, file and line.
func origin(m *corev3.Metadata) observe.Origin {
	f := m.GetFilterMetadata()
	return originOf(f["istio"].GetFields()["config"].GetStringValue(), f["weir"].GetFields())
}

func originOf(config string, weir map[string]*structpb.Value) observe.Origin {
	return observe.OriginOf(observe.Object{Config: config, Hash: weir["hash"].GetStringValue(), File: weir["file"].GetStringValue(), Line: int(weir["line"].GetNumberValue())})
}

// deciders are the objects by which a filter chain decides.
func deciders(m *corev3.Metadata) observe.Deciders {
	all := m.GetFilterMetadata()["weir"].GetFields()["deciders"].GetStructValue().GetFields()
	if len(all) == 0 {
		return nil
	}
	out := observe.Deciders{}
	for name, list := range all {
		for _, v := range list.GetListValue().GetValues() {
			f := v.GetStructValue().GetFields()
			out[name] = append(out[name], originOf(f["config"].GetStringValue(), f))
		}
	}
	return out
}

func decodeForward(a *routev3.RouteAction, path string, ids func(string) cluster.ID) (*route.Forward, error) {
	if err := forwardTexts(a, path); err != nil {
		return nil, err
	}
	if p := a.GetPriority(); p != corev3.RoutingPriority_DEFAULT {
		return nil, fmt.Errorf("%s.priority: %v is not supported: all requests share the circuit breakers of priority DEFAULT; leave it out", path, p)
	}
	f := &route.Forward{PrefixRewrite: a.GetPrefixRewrite(), HostRewrite: a.GetHostRewriteLiteral(),
		HostOfEndpoint: a.GetAutoHostRewrite().GetValue(), TellHost: a.GetAppendXForwardedHost(), NoCluster: 503}
	switch s := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		f.Clusters = []route.Weighted{{Cluster: ids(s.Cluster), Name: s.Cluster, Weight: 1}}
	case *routev3.RouteAction_ClusterHeader:
		name, err := headerName(s.ClusterHeader, path+".cluster_header")
		if err != nil {
			return nil, err
		}
		f.Clusters = []route.Weighted{{Cluster: cluster.NoCluster, Header: name, Weight: 1}}
	case *routev3.RouteAction_WeightedClusters:
		for i, w := range s.WeightedClusters.GetClusters() {
			to, err := decodeWeighted(w, fmt.Sprintf("%s.weighted_clusters.clusters[%d]", path, i), ids)
			if err != nil {
				return nil, err
			}
			f.Clusters = append(f.Clusters, to)
		}
	}
	if len(f.Clusters) == 0 {
		return nil, fmt.Errorf("%s: names no cluster", path)
	}
	total := uint64(0)
	for _, w := range f.Clusters {
		total += uint64(w.Weight)
	}
	if total == 0 || total > math.MaxUint32 {
		return nil, fmt.Errorf("%s.weighted_clusters: weights sum to %d, must be 1 to 2^32-1", path, total)
	}
	f.Total = uint32(total)
	if f.Timeout = defaultRouteTimeout; a.GetTimeout() != nil {
		f.Timeout = a.GetTimeout().AsDuration()
	}
	f.Idle = a.GetIdleTimeout().AsDuration()
	f.GRPC = asked(a.GetMaxGrpcTimeout(), a.GetGrpcTimeoutOffset())
	m := a.GetMaxStreamDuration()
	if m.GetMaxStreamDuration() != nil {
		d := m.GetMaxStreamDuration().AsDuration()
		f.StreamMax = &d
	}
	f.StreamGRPC = asked(m.GetGrpcTimeoutHeaderMax(), m.GetGrpcTimeoutHeaderOffset())
	if r := a.GetRegexRewrite(); r != nil {
		re, err := regexp.Compile(r.GetPattern().GetRegex())
		if err != nil {
			return nil, fmt.Errorf("%s.regex_rewrite.pattern: %w", path, err)
		}
		f.RegexRewrite, f.Substitution = re, goSubstitution(r.GetSubstitution())
	}
	if err := cmp.Or(decodeHostRewrite(f, a, path), decodeFollow(f, a.GetInternalRedirectPolicy(), path+".internal_redirect_policy")); err != nil {
		return nil, err
	}
	for i, u := range a.GetUpgradeConfigs() {
		up := route.Upgrade{Name: strings.ToLower(u.GetUpgradeType()), Enabled: u.GetEnabled() == nil || u.GetEnabled().GetValue(), Terminate: u.GetConnectConfig() != nil}
		if up.Terminate && up.Name != "connect" {
			return nil, fmt.Errorf("%s.upgrade_configs[%d].connect_config: is for upgrade_type CONNECT, not %s", path, i, u.GetUpgradeType())
		}
		f.Upgrades = append(f.Upgrades, up)
	}
	var err error
	if f.Mirrors, err = decodeMirrors(a.GetRequestMirrorPolicies(), path, ids); err != nil {
		return nil, err
	}
	switch code := a.GetClusterNotFoundResponseCode(); code {
	case routev3.RouteAction_SERVICE_UNAVAILABLE:
	case routev3.RouteAction_NOT_FOUND:
		f.NoCluster = 404
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		f.NoCluster = 500
	default:
		return nil, fmt.Errorf("%s.cluster_not_found_response_code: %v is not supported", path, code)
	}
	for i, p := range a.GetHashPolicy() {
		k, err := decodeHashKey(p)
		if err != nil {
			return nil, fmt.Errorf("%s.hash_policy[%d]: %w", path, i, err)
		}
		f.Hash = append(f.Hash, k)
	}
	f.Retry, err = decodeRetry(a.GetRetryPolicy(), path+".retry_policy")
	return f, err
}

func decodeWeighted(w *routev3.WeightedCluster_ClusterWeight, path string, ids func(string) cluster.ID) (route.Weighted, error) {
	to := route.Weighted{Name: w.GetName(), Weight: w.GetWeight().GetValue(), HostRewrite: w.GetHostRewriteLiteral(), Cluster: cluster.NoCluster}
	err := oneWord(path+".host_rewrite_literal", to.HostRewrite)
	switch {
	case err != nil:
	case w.GetClusterHeader() == "":
		to.Cluster = ids(to.Name)
	default:
		to.Header, err = headerName(w.GetClusterHeader(), path+".cluster_header")
	}
	if err == nil {
		to.Headers, err = headerOps(w, path)
	}
	return to, err
}

// decodeHostRewrite reads what the authority is made of, where it is no literal.
func decodeHostRewrite(f *route.Forward, a *routev3.RouteAction, path string) (err error) {
	switch s := a.GetHostRewriteSpecifier().(type) {
	case *routev3.RouteAction_HostRewriteHeader:
		f.HostHeader, err = headerName(s.HostRewriteHeader, path+".host_rewrite_header")
	case *routev3.RouteAction_HostRewritePathRegex:
		r := s.HostRewritePathRegex
		if f.HostRegex, err = regexp.Compile(r.GetPattern().GetRegex()); err != nil {
			return fmt.Errorf("%s.host_rewrite_path_regex.pattern: %w", path, err)
		}
		f.HostSubstitution = goSubstitution(r.GetSubstitution())
		err = oneWord(path+".host_rewrite_path_regex.substitution", r.GetSubstitution())
	}
	return err
}

// decodeFollow reads which redirects are followed here.
func decodeFollow(f *route.Forward, p *routev3.InternalRedirectPolicy, path string) error {
	if p == nil {
		return nil
	}
	w := &route.Follow{Most: 1, CrossScheme: p.GetAllowCrossSchemeRedirect()}
	if n := p.GetMaxInternalRedirects(); n != nil {
		w.Most = min(n.GetValue(), 20) // as many as browsers follow
	}
	for _, code := range p.GetRedirectResponseCodes() {
		switch code {
		case 301, 302, 303, 307, 308: // others are no redirects, which the field says are ignored
			w.Statuses = append(w.Statuses, int(code))
		}
	}
	if len(p.GetRedirectResponseCodes()) == 0 {
		w.Statuses = []int{302}
	}
	for i, h := range p.GetResponseHeadersToCopy() {
		name, err := headerName(h, fmt.Sprintf("%s.response_headers_to_copy[%d]", path, i))
		if err != nil {
			return err
		}
		w.Copy = append(w.Copy, name)
	}
	if w.Most > 0 {
		f.Follow = w
	}
	return nil
}

// headerName checks the name of a header that requests are looked through for.
func headerName(s, path string) (string, error) {
	s = strings.ToLower(s)
	if s == "" {
		return s, fmt.Errorf("%s: is empty", path)
	}
	return s, token(path, s)
}

// mirrored gives an entry that says nothing of mirrors those of its host or table.
func mirrored(e *route.Entry, mirrors []route.Mirror) {
	if e.Forward == nil || e.Forward.Mirrors != nil || mirrors == nil {
		return
	}
	f := *e.Forward // which other tables may share
	f.Mirrors = mirrors
	e.Forward = &f
}

// decodeMirrors reads copies to be made; nil: nothing is said of any.
func decodeMirrors(list []*routev3.RouteAction_RequestMirrorPolicy, path string, ids func(string) cluster.ID) (out []route.Mirror, err error) {
	for i, m := range list {
		if out == nil {
			out = []route.Mirror{}
		}
		at := fmt.Sprintf("%s.request_mirror_policies[%d]", path, i)
		to := route.Mirror{Cluster: cluster.NoCluster, Name: m.GetCluster(), Per1M: always1M, AsSent: m.GetDisableShadowHostSuffixAppend(), HostRewrite: m.GetHostRewriteLiteral()}
		if err := oneWord(at+".host_rewrite_literal", to.HostRewrite); err != nil {
			return nil, err
		}
		if m.GetClusterHeader() != "" {
			if to.Header, err = headerName(m.GetClusterHeader(), at+".cluster_header"); err != nil {
				return nil, err
			}
		} else if to.Name != "" {
			to.Cluster = ids(to.Name)
		}
		if p := m.GetRuntimeFraction().GetDefaultValue(); p != nil {
			to.Per1M = perMillion(p)
		}
		if (to.Name != "" || to.Header != "") && to.Per1M > 0 {
			out = append(out, to)
		}
	}
	return out, nil
}

func asked(most, offset *durationpb.Duration) *route.Asked {
	if most == nil {
		return nil
	}
	return &route.Asked{Max: most.AsDuration(), Offset: offset.AsDuration()}
}

// goSubstitution turns RE2's \1 into Go's ${1}.
func goSubstitution(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			i++
			fmt.Fprintf(&b, "${%c}", s[i])
		case c == '\\' && i+1 < len(s) && s[i+1] == '\\':
			i++
			b.WriteByte('\\')
		case c == '$':
			b.WriteString("$$")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func decodeRetry(p *routev3.RetryPolicy, path string) (*route.Retry, error) {
	if p == nil {
		return nil, nil
	}
	on, codes, unknown := route.ParseRetryOn(p.GetRetryOn())
	if len(unknown) > 0 {
		return nil, fmt.Errorf("%s.retry_on: unknown condition %q", path, unknown[0])
	}
	r := &route.Retry{On: on, StatusCodes: codes, Attempts: 1, PerTryTimeout: p.GetPerTryTimeout().AsDuration(),
		PerTryIdle: p.GetPerTryIdleTimeout().AsDuration(), HostAttempts: defaultHostAttempts, BackoffBase: defaultBackoffBase, Eager: p.GetRetryBackOff() == nil}
	if p.GetNumRetries() != nil {
		r.Attempts = p.GetNumRetries().GetValue()
	}
	if n := p.GetHostSelectionRetryMaxAttempts(); n > 0 {
		r.HostAttempts = int(min(n, 100)) // each is one draw: more than 100 would only burn time
	}
	for _, c := range p.GetRetriableStatusCodes() {
		r.StatusCodes = append(r.StatusCodes, int(c))
	}
	for i, h := range p.GetRetriableHeaders() {
		m, err := decodeHeaderMatch(h, fmt.Sprintf("%s.retriable_headers[%d]", path, i))
		if err != nil {
			return nil, err
		}
		r.Headers = append(r.Headers, m)
	}
	for i, h := range p.GetRetriableRequestHeaders() {
		m, err := decodeHeaderMatch(h, fmt.Sprintf("%s.retriable_request_headers[%d]", path, i))
		if err != nil {
			return nil, err
		}
		r.Requests = append(r.Requests, m)
	}
	for i, h := range p.GetRetryHostPredicate() {
		if h.GetName() != "envoy.retry_host_predicates.previous_hosts" {
			return nil, fmt.Errorf("%s.retry_host_predicate[%d]: %s is not supported", path, i, h.GetName())
		}
		if c := h.GetTypedConfig(); c != nil {
			if err := unpack(c, &previoushostsv3.PreviousHostsPredicate{}, fmt.Sprintf("%s.retry_host_predicate[%d]", path, i)); err != nil {
				return nil, err
			}
		}
		r.OtherHosts = true
	}
	if o := p.GetRetryPriority(); o != nil {
		if o.GetName() != "envoy.retry_priorities.previous_priorities" {
			return nil, fmt.Errorf("%s.retry_priority: %s is not supported", path, o.GetName())
		}
		m := &previousprioritiesv3.PreviousPrioritiesConfig{}
		if err := unpack(o.GetTypedConfig(), m, path+".retry_priority"); err != nil {
			return nil, err
		}
		if r.OtherPriorities = int(m.GetUpdateFrequency()); r.OtherPriorities <= 0 {
			return nil, fmt.Errorf("%s.retry_priority.update_frequency: must be positive", path)
		}
	}
	if b := p.GetRetryBackOff(); b != nil {
		r.BackoffBase = orDefault(b.GetBaseInterval(), defaultBackoffBase)
		r.BackoffMax = b.GetMaxInterval().AsDuration()
	}
	if r.BackoffMax == 0 {
		r.BackoffMax = 10 * r.BackoffBase // RetryBackOff.max_interval's default
	}
	if (r.Attempts == 0 || r.On == 0) && r.PerTryTimeout == 0 && r.PerTryIdle == 0 {
		return nil, nil
	}
	return r, nil
}

func decodeRedirect(d *routev3.RedirectAction, path string) (*route.Redirect, error) {
	r := &route.Redirect{Scheme: d.GetSchemeRedirect(), Host: d.GetHostRedirect(), Path: d.GetPathRedirect(), PrefixRewrite: d.GetPrefixRewrite(),
		Port: uint16(d.GetPortRedirect()), StripQuery: d.GetStripQuery()}
	if err := redirectTexts(d, path); err != nil {
		return nil, err
	}
	if d.GetPortRedirect() > 65535 {
		return nil, fmt.Errorf("%s.port_redirect: %d is out of range", path, d.GetPortRedirect())
	}
	if d.GetHttpsRedirect() {
		r.Scheme = "https"
	}
	if x := d.GetRegexRewrite(); x != nil {
		re, err := regexp.Compile(x.GetPattern().GetRegex())
		if err != nil {
			return nil, fmt.Errorf("%s.regex_rewrite.pattern: %w", path, err)
		}
		r.RegexRewrite, r.Substitution = re, goSubstitution(x.GetSubstitution())
	}
	switch d.GetResponseCode() {
	case routev3.RedirectAction_MOVED_PERMANENTLY:
		r.Status = 301
	case routev3.RedirectAction_FOUND:
		r.Status = 302
	case routev3.RedirectAction_SEE_OTHER:
		r.Status = 303
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		r.Status = 307
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		r.Status = 308
	default:
		return nil, fmt.Errorf("%s.response_code: %v is not supported", path, d.GetResponseCode())
	}
	return r, nil
}

func decodeDirect(d *routev3.DirectResponseAction, path string) (*route.Direct, error) {
	if d.GetStatus() < 200 || d.GetStatus() > 599 {
		return nil, fmt.Errorf("%s.status: %d is not a final HTTP status", path, d.GetStatus())
	}
	body, err := dataSource(d.GetBody(), path+".body")
	return &route.Direct{Status: int(d.GetStatus()), Body: body}, err
}

// mutations is what RouteConfiguration, VirtualHost, Route and ClusterWeight share.
type mutations interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

// headerOps decodes header mutations; nil when there are none.
func headerOps(m mutations, path string) (*route.Headers, error) {
	h := &route.Headers{}
	add := func(list []*corev3.HeaderValueOption, field string, set, add, absent *[]route.HeaderValue) error {
		for i, o := range list {
			at := fmt.Sprintf("%s.%s[%d]", path, field, i)
			name := strings.ToLower(o.GetHeader().GetKey())
			if name == "" || strings.HasPrefix(name, ":") || name == "host" {
				return fmt.Errorf("%s.header.key: %q cannot be changed this way", at, o.GetHeader().GetKey())
			}
			if err := cmp.Or(token(at+".header.key", name), oneLine(at+".header.value", o.GetHeader().GetValue())); err != nil {
				return err
			}
			value, err := observe.ParseText(o.GetHeader().GetValue(), true)
			if err != nil {
				return fmt.Errorf("%s.header.value: %w", at, err)
			}
			to := add
			switch {
			case o.GetAppend() != nil && !o.GetAppend().GetValue():
				to = set
			case o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
				to = set
			case o.GetAppendAction() == corev3.HeaderValueOption_ADD_IF_ABSENT:
				to = absent
			}
			*to = append(*to, route.HeaderValue{Name: name, Value: value, KeepEmpty: o.GetKeepEmptyValue(),
				IfPresent: o.GetAppend() == nil && o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS})
		}
		return nil
	}
	if err := add(m.GetRequestHeadersToAdd(), "request_headers_to_add", &h.RequestSet, &h.RequestAdd, &h.RequestAddIfAbsent); err != nil {
		return nil, err
	}
	if err := add(m.GetResponseHeadersToAdd(), "response_headers_to_add", &h.ResponseSet, &h.ResponseAdd, &h.ResponseAddIfAbsent); err != nil {
		return nil, err
	}
	for _, n := range m.GetRequestHeadersToRemove() {
		h.RequestRemove = append(h.RequestRemove, strings.ToLower(n))
	}
	for _, n := range m.GetResponseHeadersToRemove() {
		h.ResponseRemove = append(h.ResponseRemove, strings.ToLower(n))
	}
	if len(h.RequestSet)+len(h.RequestAdd)+len(h.RequestAddIfAbsent)+len(h.RequestRemove)+
		len(h.ResponseSet)+len(h.ResponseAdd)+len(h.ResponseAddIfAbsent)+len(h.ResponseRemove) == 0 {
		return nil, nil
	}
	return h, nil
}

func decodeFault(f *faultv3.HTTPFault, path string) (*route.Fault, error) {
	out := &route.Fault{AbortGRPC: -1, Cluster: f.GetUpstreamCluster()}
	if d := f.GetDelay(); d != nil {
		out.DelayPer1M = perMillion(d.GetPercentage())
		switch s := d.GetFaultDelaySecifier().(type) {
		case *faultcommonv3.FaultDelay_FixedDelay:
			out.Delay = s.FixedDelay.AsDuration()
		case *faultcommonv3.FaultDelay_HeaderDelay_:
			out.HeaderDelay = true
		default:
			return nil, fmt.Errorf("%s.delay: has no fixed_delay", path)
		}
	}
	if a := f.GetAbort(); a != nil {
		out.AbortPer1M = perMillion(a.GetPercentage())
		switch s := a.GetErrorType().(type) {
		case *faultv3.FaultAbort_HttpStatus:
			out.AbortStatus = int(s.HttpStatus)
			if out.AbortStatus < 200 || out.AbortStatus > 599 {
				return nil, fmt.Errorf("%s.abort.http_status: %d is not a final HTTP status", path, s.HttpStatus)
			}
		case *faultv3.FaultAbort_GrpcStatus:
			out.AbortStatus, out.AbortGRPC = 200, int(s.GrpcStatus)
		case *faultv3.FaultAbort_HeaderAbort_:
			out.HeaderAbort = true
		default:
			return nil, fmt.Errorf("%s.abort: has no status", path)
		}
	}
	return out, nil
}
