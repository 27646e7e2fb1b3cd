package authorization

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httpextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/cli/access"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// call is a request, or (without a method) a connection, to the workload default/echo.
type call struct {
	method, path, host string
	headers            map[string]string
	port               uint16
	source, remote, to netip.Addr
	id                 string         // SPIFFE ID without its scheme; "" is plaintext
	claims             map[string]any // of a valid token; nil: there is none
	sni                string
	yes                map[string]bool // who says so of those whom CUSTOM asks
}

// policy is one of a set.
type policy struct {
	*securityv1beta1.AuthorizationPolicy
	namespace string
	dry       bool // istio.io/dry-run
}

// providers are those that the mesh has, by name: who is asked about connections, too (gRPC), and who about requests only.
var providers = map[string]bool{"guard": true, "old": false}

func authorizers() (out []mesh.Authorizer) {
	for _, name := range slices.Sorted(maps.Keys(providers)) {
		out = append(out, mesh.Authorizer{Name: name, GRPC: providers[name], Host: name + ".default.svc.cluster.local", Port: 9191})
	}
	return out
}

// The small vocabularies make values meet.
var (
	ids      = []string{"cluster.local/ns/default/sa/client", "cluster.local/ns/prod/sa/client", "cluster.local/ns/prod/sa/admin", "old.example/ns/default/sa/client", "other.example/ns/prod/sa/x"}
	paths    = []string{"/", "/a", "/a/b", "/a/b/c", "/admin", "/admin/x", "/style.css", "/admin;x=1", "/a;v=2/b"}
	hosts    = []string{"echo", "echo:8080", "shop.example", "API.shop.example"}
	methods  = []string{"GET", "POST", "PUT"}
	sources  = []string{"127.90.0.1", "127.90.1.1", "127.91.2.9", "2001:db8::1"}
	prefixes = []string{"127.90.0.0/24", "127.90.0.1", "127.90.0.0/16", "2001:db8::/32", "0.0.0.0/0"}
	accounts = []string{"client", "admin", "default/client", "prod/client", "prod/admin"}
	domains  = []string{"cluster.local", "old.example", "other.example"}
	tokens   = []string{"", "good", "good-1", "bad"}

	destinations = []string{"10.9.9.9", "10.9.0.0/16", "127.0.0.0/8", "192.0.2.1"}

	principals = []string{"issuer/subject", "issuer/other", "https://id.example/x/subject"}
)

// tokensOf are what valid tokens say; nil is no token.
var tokensOf = []map[string]any{nil, nil,
	{"iss": "issuer", "sub": "subject"},
	{"iss": "issuer", "sub": "other", "aud": "shop", "azp": "web", "group": "admin"},
	{"iss": "https://id.example/x", "sub": "subject", "aud": []any{"pay", "shop"}, "group": []any{"dev", "admin-2"}, "realm": map[string]any{"role": []any{"admin"}}},
	{"iss": "https://id.example/x", "group": []any{}, "realm": map[string]any{"role": "dev"}}, // nobody's
}

// issuers are all theirs, as a RequestAuthentication names them.
func issuers() *mesh.RequestAuthentication {
	ra := &mesh.RequestAuthentication{Ref: mesh.Ref{Kind: "RequestAuthentication", Namespace: "default", Name: "all"}}
	for _, iss := range []string{"issuer", "https://id.example/x"} {
		ra.Rules = append(ra.Rules, mesh.JWTRule{Issuer: iss, Keys: jwt.Placeholder("https://id.example/keys")})
	}
	return ra
}

// 20,000 random pairs of a set of policies and a call are decided alike.
func TestRandomPoliciesAreDecidedAlike(t *testing.T) {
	const sets, calls = 400, 50
	denied, questions := 0, 0
	for seed := range uint64(sets) {
		r := rand.New(rand.NewPCG(seed, 11))
		set := make([]policy, 1+r.IntN(3))
		snap := &mesh.Snapshot{Version: 1, Settings: &mesh.Settings{TrustDomain: "cluster.local", TrustDomainAliases: []string{"old.example"}, RootNamespace: "istio-system", Authorizers: authorizers()}}
		snap.RequestAuths = snap.RequestAuths.Set(mesh.NewKey("default", "all"), issuers())
		var text []string
		for i := range set {
			set[i] = randomPolicy(r)
			p, yaml := lower(t, fmt.Sprintf("p%d", i), &set[i])
			text = append(text, yaml)
			snap.Authorizations = snap.Authorizations.Set(mesh.NewKey(set[i].namespace, p.Ref.Name), p)
		}
		chains, listener := compiled(t, snap)
		for range calls {
			c := randomCall(r)
			want := naive(set, c)
			byRules, asked, said := chains[chainOf(c)].decide(c)
			got := byRules && said
			if got != want {
				t.Fatalf("seed %d: %+v is allowed %v by the proxy, %v by what the policies say:\n%s", seed, c, got, want, strings.Join(text, "\n"))
			}
			if !got {
				denied++
			}
			if asked {
				questions++
			}
			if why := misjudged(listener, c, r, byRules, asked); why != "" {
				t.Fatalf("seed %d: %+v is allowed %v by the proxy; %s:\n%s", seed, c, got, why, strings.Join(text, "\n"))
			}
		}
	}
	if questions < sets*calls/50 {
		t.Errorf("somebody is asked about %d of %d", questions, sets*calls)
	}
	if denied < sets*calls/5 || denied > sets*calls*4/5 {
		t.Errorf("%d of %d are denied: the policies or calls are not random enough", denied, sets*calls)
	}
	t.Logf("%d of %d are denied, somebody is asked about %d", denied, sets*calls, questions)
}

// misjudged holds `weir can` against the proxy: who knows all of a call decides as the proxy does, and who knows a part of
// it says nothing that is not so. What a provider answers nobody knows: it depends on that, unless rules deny the call anyway.
func misjudged(l *listenerv3.Listener, c *call, r *rand.Rand, allowed, asked bool) string {
	full := access.Call{To: netip.AddrPortFrom(c.to, c.port), From: c.source, TLS: c.id != "", SNI: &c.sni, Method: c.method, Host: c.host, Path: c.path + "?q=/admin", Token: access.Token{Given: true, Claims: c.claims}}
	if c.id != "" {
		full.ID = "spiffe://" + c.id
	}
	full.Headers = map[string]string{"x-token": c.headers["x-token"]}
	forwarded := c.method != "" && c.remote != c.source // by x-forwarded-for: what of that counts is not known
	if forwarded {
		full.Headers["x-forwarded-for"] = c.remote.String()
	}
	part := full
	part.Headers = maps.Clone(full.Headers)
	for range 1 + r.IntN(2) {
		switch r.IntN(4) {
		case 0:
			delete(part.Headers, "x-token")
		case 1:
			part.SNI = nil
		case 2:
			part.From = netip.Addr{}
		case 3:
			part.Token = access.Token{}
		}
	}
	want := map[bool]access.Verdict{true: access.Allowed, false: access.Denied}[allowed]
	if allowed && asked {
		want = access.Unknown
	}
	for _, x := range []access.Call{full, part} {
		a, err := access.Inbound(l, x)
		switch {
		case err != nil:
			return err.Error()
		case a.Verdict != want && a.Verdict != access.Unknown, a.Verdict == access.Unknown && len(a.Needs) == 0:
			return fmt.Sprintf("%+v of %+v", a, x)
		case want != access.Unknown && a.Verdict == access.Unknown && x.From.IsValid() && x.SNI != nil && x.Token.Given && len(x.Headers) == len(full.Headers) && !forwarded:
			return fmt.Sprintf("all is known, and yet %+v", a)
		}
	}
	return ""
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// some is one or two values, of a vocabulary or patterns of them.
func some(r *rand.Rand, of []string, patterns ...string) []string {
	var out []string
	for range 1 + r.IntN(2) {
		if r.IntN(3) == 0 && len(patterns) > 0 {
			out = append(out, pick(r, patterns...))
		} else {
			out = append(out, pick(r, of...))
		}
	}
	return out
}

func randomPolicy(r *rand.Rand) policy {
	p := &securityv1beta1.AuthorizationPolicy{Action: pick(r, securityv1beta1.AuthorizationPolicy_ALLOW, securityv1beta1.AuthorizationPolicy_ALLOW, securityv1beta1.AuthorizationPolicy_ALLOW,
		securityv1beta1.AuthorizationPolicy_DENY, securityv1beta1.AuthorizationPolicy_DENY, securityv1beta1.AuthorizationPolicy_AUDIT, securityv1beta1.AuthorizationPolicy_CUSTOM)}
	rules := r.IntN(4)
	if p.Action == securityv1beta1.AuthorizationPolicy_CUSTOM { // which needs rules
		rules = max(rules, 1)
		p.ActionDetail = &securityv1beta1.AuthorizationPolicy_Provider{Provider: &securityv1beta1.AuthorizationPolicy_ExtensionProvider{Name: pick(r, "guard", "guard", "guard", "old", "nobody")}}
	}
	if r.IntN(3) == 0 {
		p.Selector = &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": pick(r, "echo", "echo", "other")}}
	}
	for range rules {
		rule := &securityv1beta1.Rule{}
		for range r.IntN(3) {
			rule.From = append(rule.From, &securityv1beta1.Rule_From{Source: randomSource(r)})
		}
		for range r.IntN(3) {
			rule.To = append(rule.To, &securityv1beta1.Rule_To{Operation: randomOperation(r)})
		}
		for range r.IntN(2) {
			rule.When = append(rule.When, randomCondition(r))
		}
		p.Rules = append(p.Rules, rule)
	}
	return policy{p, pick(r, "default", "default", "default", "istio-system", "prod"), p.Action != securityv1beta1.AuthorizationPolicy_CUSTOM && r.IntN(6) == 0}
}

func randomSource(r *rand.Rand) *securityv1beta1.Source {
	s := &securityv1beta1.Source{}
	for range 1 + r.IntN(2) {
		switch r.IntN(15) {
		case 0, 1:
			s.Principals = some(r, ids, "*", "cluster.local/*", "*/sa/client", "cluster.local/ns/prod/*")
		case 2:
			s.NotPrincipals = some(r, ids, "*", "*/sa/admin")
		case 3:
			s.Namespaces = some(r, []string{"default", "prod"}, "*", "de*", "*d")
		case 4:
			s.NotNamespaces = some(r, []string{"default", "prod"}, "pro*")
		case 5:
			s.IpBlocks = some(r, prefixes)
		case 6:
			s.NotIpBlocks = some(r, prefixes)
		case 7:
			s.RemoteIpBlocks = some(r, prefixes)
		case 8:
			s.RequestPrincipals = some(r, principals, "*", "issuer/*", "*/subject", "https://id.example/x/*", "*er")
		case 9:
			s.NotRequestPrincipals = some(r, principals, "*", "issuer/*", "*/other")
		case 10:
			s.NotRemoteIpBlocks = some(r, prefixes)
		case 11:
			s.TrustDomains = some(r, domains, "*", "o*", "*.example")
		case 12:
			s.NotTrustDomains = some(r, domains, "*", "old*")
		case 13:
			s.ServiceAccounts = some(r, accounts)
		case 14:
			s.NotServiceAccounts = some(r, accounts)
		}
	}
	if len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0 { // which may not stand beside what says the same
		s.Principals, s.NotPrincipals, s.Namespaces, s.NotNamespaces = nil, nil, nil, nil
	}
	return s
}

func randomOperation(r *rand.Rand) *securityv1beta1.Operation {
	o := &securityv1beta1.Operation{}
	for range 1 + r.IntN(2) {
		switch r.IntN(9) {
		case 0, 1:
			o.Paths = some(r, paths, "/a*", "*.css", "/a/{*}", "/a/{**}", "/{*}/b/{**}", "*")
		case 2:
			o.NotPaths = some(r, paths, "/admin*", "/{*}")
		case 3:
			o.Methods = some(r, methods, "P*", "*")
		case 4:
			o.NotMethods = some(r, methods)
		case 5:
			o.Hosts = some(r, hosts, "*.SHOP.example", "echo*")
		case 6:
			o.Ports = some(r, []string{"8080", "9000"})
		case 7:
			o.NotPorts = some(r, []string{"8080", "7777"})
		case 8:
			o.NotHosts = some(r, hosts, "*.shop.EXAMPLE", "shop*", "*")
		}
	}
	return o
}

func randomCondition(r *rand.Rand) *securityv1beta1.Condition {
	c := &securityv1beta1.Condition{}
	values := []string{}
	switch r.IntN(14) {
	case 9:
		c.Key, values = "remote.ip", some(r, prefixes)
	case 10:
		c.Key, values = "destination.ip", some(r, destinations)
	case 11:
		c.Key, values = "source.principal", some(r, ids, "*", "*/sa/admin", "cluster.local/ns/default/*")
	case 12:
		c.Key, values = "source.serviceAccount", some(r, accounts)
	case 13:
		c.Key, values = "source.trustDomain", some(r, domains, "*", "c*", "*.local")
	case 6:
		c.Key, values = "request.auth."+pick(r, "audiences", "presenter"), some(r, []string{"shop", "pay", "web"}, "*", "s*")
	case 7:
		c.Key, values = "request.auth.claims"+pick(r, "[group]", "[group]", "[realm][role]"), some(r, []string{"admin", "dev"}, "*", "adm*", "*-2")
	case 8:
		c.Key, values = "request.auth.principal", some(r, principals, "*", "*/subject")
	case 0, 1:
		c.Key, values = "request.headers[x-token]", some(r, tokens[1:], "good*", "*")
	case 2:
		c.Key, values = "source.namespace", some(r, []string{"default", "prod"})
	case 3:
		c.Key, values = "destination.port", some(r, []string{"8080", "9000", "7777"})
	case 4:
		c.Key, values = "connection.sni", some(r, []string{"shop.example"}, "*.example", "*")
	case 5:
		c.Key, values = "source.ip", some(r, prefixes)
	}
	if r.IntN(3) == 0 {
		c.NotValues = values
	} else {
		c.Values = values
	}
	return c
}

func randomCall(r *rand.Rand) *call {
	c := &call{to: netip.MustParseAddr("10.9.9.9"), port: pick[uint16](r, 8080, 8080, 9000, 7777), source: netip.MustParseAddr(pick(r, sources...)), sni: pick(r, "", "shop.example", "api.example")}
	c.remote = c.source
	c.yes = map[string]bool{"guard": r.IntN(2) == 0, "old": r.IntN(2) == 0}
	if r.IntN(4) > 0 {
		c.id = pick(r, ids...)
	}
	if c.port == 8080 {
		c.method, c.path, c.host = pick(r, methods...), pick(r, paths...), pick(r, hosts...)
		c.headers, c.claims = map[string]string{"x-token": pick(r, tokens...)}, pick(r, tokensOf...)
		c.remote = netip.MustParseAddr(pick(r, sources...))
	}
	return c
}

// readings are what policies are asked about, as proxy/filter/rbac has them of paths that are canonical.
func (c *call) readings() []*rbac.Facts {
	f := c.facts()
	if f.Request == nil {
		return []*rbac.Facts{f}
	}
	bare, ok := message.WithoutParameters(f.Request.Path, &message.Arena{})
	if !ok {
		return []*rbac.Facts{f}
	}
	other := *f
	other.Path = bare
	return []*rbac.Facts{f, &other}
}

func (c *call) facts() *rbac.Facts {
	f := &rbac.Facts{Conn: &conn.Info{Remote: netip.AddrPortFrom(c.source, 40000), Local: netip.AddrPortFrom(c.to, c.port), ServerName: c.sni}, Remote: netip.AddrPortFrom(c.remote, 0)}
	if c.id != "" {
		f.Conn.TLS = &tls.Peer{Presented: true, URI: "spiffe://" + c.id}
	}
	if c.method != "" {
		q := &message.Request{Path: []byte(c.path + "?q=/admin"), Authority: []byte(c.host)}
		q.SetMethod([]byte(c.method))
		if c.claims != nil {
			q.Claims = map[string]any{"payload": c.claims}
		}
		for k, v := range c.headers {
			if v != "" {
				q.Headers.SetName([]byte(k), []byte(v))
			}
		}
		f.Request = q
	}
	return f
}

// lower takes the way of a file.
func lower(t *testing.T, name string, of *policy) (*mesh.AuthorizationPolicy, string) {
	t.Helper()
	b, err := protojson.Marshal(of.AuthorizationPolicy)
	if err != nil {
		t.Fatal(err)
	}
	metadata := map[string]any{"name": name, "namespace": of.namespace}
	if of.dry {
		metadata["annotations"] = map[string]string{"istio.io/dry-run": "true"}
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": json.RawMessage(b)})
	if err != nil {
		t.Fatal(err)
	}
	u := file.Parse("policies.yaml", text, "default")
	if len(u.Objects) != 1 {
		t.Fatalf("%s: %+v", text, u.Findings)
	}
	out, findings := istio.Lower(u.Objects[0], istio.Options{DomainSuffix: "cluster.local"})
	p, ok := out.(*mesh.AuthorizationPolicy)
	if !ok {
		t.Fatalf("%s: %+v", text, findings)
	}
	return p, string(text)
}

// chainOf is which filter chain a call comes by.
func chainOf(c *call) string {
	switch c.port {
	case 8080:
		return "http"
	case 9000:
		return "tcp"
	}
	return "rest"
}

// chain is what decides about calls by one way.
type chain struct {
	rules []*rbac.Rules
	asks  []question
}

// question is about whom a provider is asked.
type question struct {
	provider string
	about    *rbac.Rules
}

// decide says whether rules let a call in, whether somebody is asked about it, and whether all who are say yes.
func (k *chain) decide(c *call) (byRules, asked, said bool) {
	byRules, said = true, true
	for _, f := range c.readings() {
		for _, r := range k.rules {
			byRules = byRules && r.Decide(f).Allowed
		}
		for _, q := range k.asks {
			named := map[string]bool{}
			for i := range q.about.Policies {
				named[q.about.Policies[i].Name] = true
			}
			if q.about.Match(f, named) != "" {
				asked, said = true, said && c.yes[q.provider]
			}
		}
	}
	return byRules, asked, said
}

// compiled are the rules of the workload's chains, as its proxy has them.
func compiled(t *testing.T, snap *mesh.Snapshot) (map[string]*chain, *listenerv3.Listener) {
	t.Helper()
	labels := mesh.Labels{"app": "echo"}
	s := &mesh.Service{Ref: mesh.Ref{Kind: "Service", Namespace: "default", Name: "echo"}, Hostname: "echo.default.svc.cluster.local", Name: "echo", Namespace: "default", Selector: labels,
		Ports: []mesh.Port{{Number: 8080, Name: "http", Protocol: mesh.HTTP}, {Number: 9000, Name: "tcp", Protocol: mesh.TCP}}}
	snap.Services = snap.Services.Set(s.Key(), s)
	v := translate.New().View(snap, &translate.Node{Type: translate.Sidecar, Namespace: "default", Name: "echo-0", Labels: labels, Interception: translate.Redirect, AsksConnections: true})
	l := &listenerv3.Listener{}
	for r := range v.Set(resource.ListenerType).Values() {
		if r.Name() == "virtualInbound" {
			if err := r.Unmarshal(l); err != nil {
				t.Fatal(err)
			}
		}
	}
	out := map[string]*chain{"http": {}, "tcp": {}, "rest": {}}
	compile := func(m *rbacv3.RBAC) *rbac.Rules {
		r, err := state.CompileRBAC(m, "rules")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	shadows := map[string]*rbac.Rules{}
	// add takes the filters of one chain in their order.
	add := func(to *chain, config *anypb.Any) {
		m, err := config.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch x := m.(type) {
		case interface {
			GetRules() *rbacv3.RBAC
			GetShadowRules() *rbacv3.RBAC
			GetShadowRulesStatPrefix() string
		}:
			if x.GetRules() != nil {
				to.rules = append(to.rules, compile(x.GetRules()))
			}
			if x.GetShadowRules() != nil {
				shadows[x.GetShadowRulesStatPrefix()] = compile(x.GetShadowRules())
			}
		case interface {
			GetFilterEnabledMetadata() *matcherv3.MetadataMatcher
			GetGrpcService() *corev3.GrpcService
		}:
			at := x.GetGrpcService().GetEnvoyGrpc().GetClusterName()
			if h, ok := m.(*httpextauthzv3.ExtAuthz); ok && at == "" {
				at = h.GetHttpService().GetServerUri().GetCluster()
			}
			name, _, _ := strings.Cut(at[strings.LastIndexByte(at, '|')+1:], ".")
			about := shadows[strings.TrimSuffix(x.GetFilterEnabledMetadata().GetPath()[0].GetKey(), "shadow_effective_policy_id")]
			if about == nil {
				t.Fatalf("nobody says about whom %s is asked", at)
			}
			to.asks = append(to.asks, question{name, about})
		}
	}
	done := map[string]bool{}
	for _, c := range l.GetFilterChains() {
		way := map[uint32]string{8080: "http", 9000: "tcp", 0: "rest"}[c.GetFilterChainMatch().GetDestinationPort().GetValue()]
		for _, f := range c.GetFilters() {
			m := &hcmv3.HttpConnectionManager{}
			switch {
			case done[way]:
			case f.GetTypedConfig().MessageIs(m) && way == "http":
				if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
					t.Fatal(err)
				}
				for _, hf := range m.GetHttpFilters() {
					add(out[way], hf.GetTypedConfig())
				}
			case way != "http":
				add(out[way], f.GetTypedConfig())
			}
		}
		// The chain for the application's own TLS on the HTTP port relays: it is no chain of requests.
		last := c.GetFilters()[len(c.GetFilters())-1]
		done[way] = done[way] || (way == "http") == last.GetTypedConfig().MessageIs(&hcmv3.HttpConnectionManager{})
	}
	if len(done) < 3 || slices.Contains([]bool{done["http"], done["tcp"], done["rest"]}, false) {
		t.Fatalf("chains: %v", done)
	}
	return out, l
}
