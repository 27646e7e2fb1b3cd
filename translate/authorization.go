package translate

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// authz answers which AuthorizationPolicies and RequestAuthentications are for a workload.
type authz struct {
	root        string
	byNamespace map[string][]*mesh.AuthorizationPolicy   // in order of name
	tokens      map[string][]*mesh.RequestAuthentication // by namespace, in order of name
	sets        persist.Map[string, *mesh.KeySet]
	ids         map[any]uint64 // one for each version of an object, and of a key set
}

func newAuthz(root string, snap *mesh.Snapshot, gen uint64, old *authz) *authz {
	a := &authz{root, map[string][]*mesh.AuthorizationPolicy{}, map[string][]*mesh.RequestAuthentication{}, snap.KeySets, map[any]uint64{}}
	id := func(p any) {
		if a.ids[p] = gen; old != nil && old.ids[p] != 0 {
			a.ids[p] = old.ids[p]
		}
	}
	for p := range snap.Authorizations.Values() {
		a.byNamespace[p.Home()] = append(a.byNamespace[p.Home()], p)
		id(p)
	}
	for _, l := range a.byNamespace {
		slices.SortFunc(l, func(x, y *mesh.AuthorizationPolicy) int { return strings.Compare(x.Title(), y.Title()) })
	}
	for p := range snap.RequestAuths.Values() {
		a.tokens[p.Home()] = append(a.tokens[p.Home()], p)
		id(p)
	}
	for _, l := range a.tokens {
		slices.SortFunc(l, func(x, y *mesh.RequestAuthentication) int { return strings.Compare(x.Ref.Name, y.Ref.Name) })
	}
	for s := range snap.KeySets.Values() {
		id(s)
	}
	return a
}

// authorization is what the policies for one workload say, of who may do what and of tokens.
type authorization struct {
	policies []*mesh.AuthorizationPolicy
	identify []*mesh.RequestAuthentication
	rules    []tokenRule // of identify
	key      string      // equal for equal policies
	settings *mesh.Settings
	// connections says that the proxy can ask about connections (Node.AsksConnections).
	connections bool
}

// of lists the policies for a node's workload: those of its namespace and of the root namespace.
func (a *authz) of(s *mesh.Settings, n *Node, labels mesh.Labels) *authorization {
	namespace := n.Namespace
	out := &authorization{settings: s, connections: n.AsksConnections}
	var key strings.Builder
	for _, ns := range slices.Compact([]string{a.root, namespace}) {
		for _, p := range a.byNamespace[ns] {
			if (!p.Legacy || ns == namespace) && p.Selector.Selects(labels) {
				out.policies = append(out.policies, p)
				fmt.Fprintf(&key, " %s/%s@%d", ns, p.Title(), a.ids[p])
				if p.Action == mesh.AuthorizationCustom {
					fmt.Fprintf(&key, ",%t", n.AsksConnections)
				}
			}
		}
		for _, p := range a.tokens[ns] {
			if p.Legacy && ns != namespace || !p.Selector.Selects(labels) {
				continue
			}
			out.identify = append(out.identify, p)
			fmt.Fprintf(&key, " jwt %s/%s@%d", ns, p.Ref.Name, a.ids[p])
			for i := range p.Rules {
				if s := a.sets.At(p.Rules[i].URI); s != nil {
					fmt.Fprintf(&key, ",%d", a.ids[s])
				}
			}
		}
	}
	out.tokens(out.identify, a.sets)
	out.key = key.String()
	return out
}

// origins notes the policies as what a resource is made of.
func (a *authorization) origins(k *mint) {
	for _, p := range a.policies {
		k.of(&p.Ref)
	}
	for _, p := range a.identify {
		k.of(&p.Ref)
	}
}

// guardHTTP puts the policies for a port (0: it is not known) into a connection manager, behind the filter that learns
// who calls.
func (a *authorization) guardHTTP(k *mint, m *hcmv3.HttpConnectionManager, port uint16, edge bool) {
	if filters := slices.Concat(a.customFilters(k, port, false), a.tokenFilters(k, edge), a.customFilters(k, port, true), a.httpGuards(k, port, true)); filters != nil {
		m.HttpFilters = slices.Insert(slices.Clone(m.HttpFilters), 1, filters...)
	}
	if a.audits() {
		m.AccessLog = append(slices.Clip(m.AccessLog), auditLog(k))
	}
}

// httpGuards are the filters that decide by rules. asks: what CUSTOM is about is asked by others, and denied otherwise.
func (a *authorization) httpGuards(k *mint, port uint16, asks bool) (out []*hcmv3.HttpFilter) {
	for _, g := range a.guards(k, port, true, asks) {
		out = append(out, httpFilter(httpRBAC, k.any(&httprbacv3.RBAC{
			Rules: g.rules, ShadowRules: g.shadow, ShadowRulesStatPrefix: g.shadowPrefix})))
	}
	return out
}

// guardDirect puts them in front of the only filter of a gRPC server without proxy (gRFC A41).
func (a *authorization) guardDirect(k *mint, m *hcmv3.HttpConnectionManager, port uint16) {
	m.HttpFilters = slices.Concat(a.unchecked(k), a.httpGuards(k, port, false), m.HttpFilters)
}

// guardTCP puts them in front of the filters of a chain that relays.
func (a *authorization) guardTCP(k *mint, filters []*listenerv3.Filter, port uint16) []*listenerv3.Filter {
	out := a.customTCP(k, port)
	if p := (&tcpproxyv3.TcpProxy{}); a.audits() && filters[len(filters)-1].GetTypedConfig().UnmarshalTo(p) == nil {
		p.AccessLog = append(p.AccessLog, auditLog(k))
		filters = slices.Clone(filters)
		filters[len(filters)-1] = &listenerv3.Filter{Name: filters[len(filters)-1].GetName(), ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: k.any(p)}}
	}
	for _, g := range a.guards(k, port, false, true) {
		out = append(out, networkFilter(networkRBAC, k.any(&networkrbacv3.RBAC{StatPrefix: "tcp.", Rules: g.rules, ShadowRules: g.shadow, ShadowRulesStatPrefix: g.shadowPrefix})))
	}
	return append(out, filters...)
}

// guard is one filter.
type guard struct {
	rules, shadow *rbacv3.RBAC
	shadowPrefix  string
}

// guards are the filters in the order in which they decide: what is marked by a policy, what is denied by one, then
// what is allowed by none, of today's and of old ones.
func (a *authorization) guards(k *mint, port uint16, http, asks bool) []guard {
	audit := guard{}
	deny := guard{shadowPrefix: "istio_dry_run_deny_"}
	allow := guard{shadowPrefix: "istio_dry_run_allow_"}
	legacy := allow
	for _, p := range a.policies {
		g, action, behind := &allow, rbacv3.RBAC_ALLOW, ""
		switch p.Action {
		case mesh.AuthorizationAllow:
			if p.Legacy {
				g = &legacy
			}
		case mesh.AuthorizationAudit:
			g, action = &audit, rbacv3.RBAC_LOG
		case mesh.AuthorizationDeny:
			g, action = &deny, rbacv3.RBAC_DENY
		case mesh.AuthorizationCustom: // there is nobody to ask, and nobody says yes
			if asks && a.asks(p, http) {
				continue
			}
			g, action, behind = &deny, rbacv3.RBAC_DENY, badCustom
		}
		to := &g.rules
		if p.DryRun && p.Action == mesh.AuthorizationAudit {
			continue // it would change nothing
		}
		if p.DryRun {
			to = &g.shadow
		}
		if *to == nil {
			*to = &rbacv3.RBAC{Action: action, Policies: map[string]*rbacv3.Policy{}}
		}
		a.policiesOf(k, p, port, http, action != rbacv3.RBAC_DENY, "", behind, (*to).Policies)
	}
	var out []guard
	for _, g := range []guard{audit, deny, allow, legacy} {
		if g.rules != nil && len(g.rules.Policies) == 0 && g.rules.Action != rbacv3.RBAC_ALLOW {
			g.rules = nil // for other ports, or empty
		}
		if g.rules == nil && g.shadow == nil {
			continue
		}
		if g.shadow == nil {
			g.shadowPrefix = ""
		}
		out = append(out, g)
	}
	return out
}

// ruling makes one rule for one port.
type ruling struct {
	k           *mint
	settings    *mesh.Settings
	port        uint16
	http, allow bool
}

// policy is nil for a rule that cannot match here.
func (r *ruling) policy(rule *mesh.AuthorizationRule) *rbacv3.Policy {
	when, ok := r.clause(rule.When)
	if !ok {
		return nil
	}
	out := &rbacv3.Policy{}
	for _, to := range r.clauses(rule.To) {
		var all []*rbacv3.Permission
		for _, c := range slices.Concat(to, when) {
			if isOperation(c.Attribute) {
				all = append(all, operation.condition(r, c)...)
			}
		}
		out.Permissions = append(out.Permissions, operation.all(all))
	}
	for _, from := range r.clauses(rule.From) {
		var all []*rbacv3.Principal
		for _, c := range slices.Concat(from, when) {
			if !isOperation(c.Attribute) {
				all = append(all, source.condition(r, c)...)
			}
		}
		out.Principals = append(out.Principals, source.all(all))
	}
	if len(out.Permissions) == 0 || len(out.Principals) == 0 {
		return nil
	}
	return out
}

// clauses are those that can hold here; a list of nothing asks for nothing.
func (r *ruling) clauses(list []mesh.AuthorizationClause) []mesh.AuthorizationClause {
	if len(list) == 0 {
		return []mesh.AuthorizationClause{nil}
	}
	var out []mesh.AuthorizationClause
	for _, c := range list {
		if c, ok := r.clause(c); ok {
			out = append(out, c)
		}
	}
	return out
}

// clause leaves out what is settled: the port, and what only requests have where there are
// none. As in Istio, an ALLOW that asks about requests allows no connection, an AUDIT marks none, and what else
// asks about them denies without asking. false: the clause cannot hold.
func (r *ruling) clause(c mesh.AuthorizationClause) (mesh.AuthorizationClause, bool) {
	var out mesh.AuthorizationClause
	for _, one := range c {
		switch {
		case one.Attribute == "destination.port" && r.port != 0:
			port := itoa(r.port)
			if len(one.Values) > 0 && !slices.Contains(one.Values, port) || slices.Contains(one.NotValues, port) {
				return nil, false
			}
		case !r.http && ofRequests(one.Attribute):
			if r.allow {
				return nil, false
			}
		default:
			out = append(out, one)
		}
	}
	return out, true
}

func ofRequests(attribute string) bool {
	switch attribute {
	case mesh.AttributeHost, mesh.AttributeMethod, mesh.AttributePath:
		return true
	}
	return strings.HasPrefix(attribute, "request.")
}

// isOperation tells what is done from who does it.
func isOperation(attribute string) bool {
	switch attribute {
	case mesh.AttributeHost, mesh.AttributeMethod, mesh.AttributePath, "destination.port", "destination.ip", "connection.sni":
		return true
	}
	return false
}

// logic makes the logical forms of permissions, or of principals.
type logic[M any] struct {
	any  func() M
	and  func([]M) M
	or   func([]M) M
	not  func(M) M
	test func(r *ruling, attribute, value string) M
}

func (l *logic[M]) all(list []M) M {
	switch len(list) {
	case 0:
		return l.any()
	case 1:
		return list[0]
	}
	return l.and(list)
}

func (l *logic[M]) one(r *ruling, attribute string, values []string) M {
	var list []M
	for _, v := range values {
		list = append(list, l.test(r, attribute, v))
	}
	if len(list) == 1 {
		return list[0]
	}
	return l.or(list)
}

func (l *logic[M]) condition(r *ruling, c mesh.AuthorizationCondition) (out []M) {
	if len(c.Values) > 0 {
		out = append(out, l.one(r, c.Attribute, c.Values))
	}
	if len(c.NotValues) > 0 {
		out = append(out, l.not(l.one(r, c.Attribute, c.NotValues)))
	}
	return out
}

var operation = &logic[*rbacv3.Permission]{
	any: func() *rbacv3.Permission { return &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}} },
	and: func(l []*rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: l}}}
	},
	or: func(l []*rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: l}}}
	},
	not: func(p *rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_NotRule{NotRule: p}}
	},
	test: permissionOf,
}

var source = &logic[*rbacv3.Principal]{
	any: func() *rbacv3.Principal { return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}} },
	and: func(l []*rbacv3.Principal) *rbacv3.Principal { return allOf(l...) },
	or:  anyOf,
	not: func(p *rbacv3.Principal) *rbacv3.Principal {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: p}}
	},
	test: principalOf,
}

func permissionOf(r *ruling, attribute, value string) *rbacv3.Permission {
	switch attribute {
	case mesh.AttributeHost:
		return &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: headerMatch(":authority", value, true)}}
	case mesh.AttributeMethod:
		return &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: headerMatch(":method", value, false)}}
	case mesh.AttributePath:
		if strings.Contains(value, "{") {
			return &rbacv3.Permission{Rule: &rbacv3.Permission_UriTemplate{UriTemplate: &corev3.TypedExtensionConfig{Name: "uri-template",
				TypedConfig: r.k.any(&uritemplatev3.UriTemplateMatchConfig{PathTemplate: templates.Replace(value)})}}}
		}
		return &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: textMatch(value, false)}}}}
	case "destination.ip":
		return &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationIp{DestinationIp: r.cidr(value)}}
	case "destination.port":
		var port uint32
		fmt.Sscan(value, &port) //nolint:errcheck // config made sure of it; 0 is no port
		return &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPort{DestinationPort: port}}
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_RequestedServerName{RequestedServerName: textMatch(value, false)}}
}

// templates writes Istio's wildcards as Envoy does.
var templates = strings.NewReplacer("{**}", "**", "{*}", "*")

func principalOf(r *ruling, attribute, value string) *rbacv3.Principal {
	switch attribute {
	case "source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain":
		return r.peer(attribute, value)
	case "source.ip":
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_DirectRemoteIp{DirectRemoteIp: r.cidr(value)}}
	case "remote.ip":
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_RemoteIp{RemoteIp: r.cidr(value)}}
	}
	if name, ok := strings.CutPrefix(attribute, "request.headers["); ok {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: headerMatch(strings.TrimSuffix(name, "]"), value, false)}}
	}
	switch attribute {
	case "request.auth.principal":
		return requestPrincipal(value)
	case "request.auth.audiences":
		return says(textMatch(value, false), "aud")
	case "request.auth.presenter":
		return says(textMatch(value, false), "azp")
	}
	return says(textMatch(value, false), claimPath(strings.TrimPrefix(attribute, "request.auth.claims"))...)
}

// says asks for a claim of a token.
func says(m *matcherv3.StringMatcher, path ...string) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Metadata{Metadata: claimIs(claimValue(m), path...)}}
}

// requestPrincipal asks for issuer and subject of a token, which the last slash of the value divides, as in Istio: to read it in
// other ways, too, would let one issuer speak for another whose name begins likewise.
func requestPrincipal(v string) *rbacv3.Principal {
	anything := regexMatch(".+")
	issuer, subject := textMatch(v, false), textMatch(v, false)
	i := strings.LastIndexByte(v, '/')
	switch {
	case v == "*":
	case i >= 0:
		issuer, subject = textMatch(v[:i], false), textMatch(v[i+1:], false)
		if !strings.HasPrefix(v, "*") { // a star inside is a star
			issuer = exactMatch(v[:i])
		} else {
			subject = exactMatch(v[i+1:])
		}
	case strings.HasPrefix(v, "*"):
		issuer = anything
	case strings.HasSuffix(v, "*"):
		subject = anything
	}
	return allOf(says(issuer, "iss"), says(subject, "sub"))
}

func exactMatch(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// peer asks for a verified certificate whose SPIFFE ID is such; "*" is any certificate.
func (r *ruling) peer(attribute, value string) *rbacv3.Principal {
	const anyDomain = "spiffe://[^/]+/ns/"
	var ids []*matcherv3.StringMatcher
	switch suffix, isSuffix := strings.CutPrefix(value, "*"); {
	case value == "*":
		ids = []*matcherv3.StringMatcher{nil}
	case attribute == "source.trustDomain":
		ids = append(ids, regexMatch("spiffe://"+segment(value)+"/.*"))
	case attribute == "source.namespace":
		ids = append(ids, regexMatch(anyDomain+segment(value)+"/.*"))
	case attribute == "source.serviceAccount":
		ns, name, _ := strings.Cut(value, "/")
		ids = append(ids, regexMatch(anyDomain+regexp.QuoteMeta(ns)+"/sa/"+regexp.QuoteMeta(name)))
	case isSuffix:
		ids = append(ids, regexMatch("spiffe://.*"+regexp.QuoteMeta(suffix)))
	default:
		for _, v := range r.aliases(value) {
			ids = append(ids, textMatch("spiffe://"+v, false))
		}
	}
	var out []*rbacv3.Principal
	for _, id := range ids {
		out = append(out, &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: id}}})
	}
	if len(out) == 1 {
		return out[0]
	}
	return anyOf(out)
}

func allOf(l ...*rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: l}}}
}

func anyOf(l []*rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: l}}}
}

// aliases is a name with the mesh's trust domain, and the same with each of its aliases: what a policy says of one holds for all.
func (r *ruling) aliases(name string) []string {
	own := append([]string{r.settings.TrustDomain}, r.settings.TrustDomainAliases...)
	domain, rest, ok := strings.Cut(name, "/")
	if i := slices.Index(own, domain); !ok || i < 0 {
		return []string{name}
	}
	out := []string{name}
	for _, d := range own {
		if d != domain {
			out = append(out, d+"/"+rest)
		}
	}
	return out
}

func (r *ruling) cidr(s string) *corev3.CidrRange {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	if err != nil {
		r.k.fail(fmt.Errorf("%q is not an address", clip(s)))
		return nil
	}
	return &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: u32(uint32(p.Bits()))}
}

// textMatch compares as a policy's value says: exact, "prefix*", "*suffix" or "*".
func textMatch(v string, fold bool) *matcherv3.StringMatcher {
	m := &matcherv3.StringMatcher{IgnoreCase: fold}
	switch {
	case v == "*":
		return regexMatch(".+")
	case strings.HasPrefix(v, "*"):
		m.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: v[1:]}
	case strings.HasSuffix(v, "*"):
		m.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: v[:len(v)-1]}
	default:
		m.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: v}
	}
	return m
}

func regexMatch(expr string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expr}}}
}

func headerMatch(name, v string, fold bool) *routev3.HeaderMatcher {
	if v == "*" {
		return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	}
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: textMatch(v, fold)}}
}

// segment is one segment of an identity that a value means, as a regular expression.
func segment(v string) string {
	switch {
	case strings.HasPrefix(v, "*"):
		return "[^/]*" + regexp.QuoteMeta(v[1:])
	case strings.HasSuffix(v, "*"):
		return regexp.QuoteMeta(v[:len(v)-1]) + "[^/]*"
	}
	return regexp.QuoteMeta(v)
}
