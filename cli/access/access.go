// Package access answers whether a proxy lets a call in, and which policy and rule decide.
//
// The listener of the called workload, as xDS has it, and a Call enter; an Answer leaves. Conditions are
// compiled and evaluated by the code of the proxies (proxy/state, proxy/rbac, internal/jwt); what is ours is
// that a Call may be known in part: a condition about what is not known is neither true nor false, and only
// what holds whatever that may be is Allowed or Denied. The command line calls it. Pure functions, for any
// goroutine.
package access

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weirmesh/weir/xds/simulate"
)

// Verdict is the answer in one word.
type Verdict string

// Verdicts. Unknown: it depends on what the Call does not say.
const (
	Allowed Verdict = "allowed"
	Denied  Verdict = "denied"
	Unknown Verdict = "unknown"
)

// Call is a call as it arrives at the proxy of the workload that is called.
type Call struct {
	To   netip.AddrPort // the workload, and its port
	From netip.Addr     // invalid: not known
	TLS  bool           // mutual TLS of the mesh
	ID   string         // SPIFFE ID that the caller shows; "" in plaintext
	SNI  *string        // nil: not known
	// Own is the server that TLS of the caller's own asks for, inside of the mesh's if there is that; "": there is none.
	// Requests in it are seen by who ends it.
	Own string
	// Shown is the certificate that the caller shows in it, to who asks for one; nil: none. Unshown: it is not known.
	Shown   *x509.Certificate
	Unshown bool

	// Method is "" of what is not HTTP.
	Method, Host, Path string
	Headers            map[string]string // in lower case; "" says that it is absent, others are not known
	Token              Token
	Now                time.Time // for tokens
}

// Answer is what becomes of a Call.
type Answer struct {
	Verdict Verdict `json:"verdict"`
	// Policy is the AuthorizationPolicy that decides, namespace/name; "" if none does. Rule is the index of its rule.
	Policy string `json:"policy,omitempty"`
	Rule   *int   `json:"rule,omitempty"`
	Why    string `json:"why"`
	// Needs is what an Unknown one depends on.
	Needs []string `json:"needs,omitempty"`
	// Notes are what policies do that decide nothing: those for dry runs, and AUDIT.
	Notes []string `json:"notes,omitempty"`
}

// Refused are answers of listeners: whose PeerAuthentication says so is not in xDS.
const Refused = "the port takes mutual TLS only, and the call comes in plaintext"

// Inbound decides by the listener of a sidecar.
func Inbound(l *listenerv3.Listener, c Call) (Answer, error) {
	chain := pick(l, c)
	if chain == nil {
		return Answer{Verdict: Denied, Why: Refused}, nil
	}
	if chain.GetTransportSocket() == nil {
		c.ID = "" // nothing of the caller's was verified
	}
	e := &evaluation{call: c, verdict: Allowed}
	asked := questions{}
	for i, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			return Answer{}, fmt.Errorf("filter %s: %w", f.GetName(), err)
		}
		switch m := m.(type) {
		case *networkrbacv3.RBAC:
			e.call.Method = "" // a chain that relays sees no requests
			err = e.filter(m, asked)
		case *networkextauthzv3.ExtAuthz:
			e.asks(m, "", asked)
		case *hcmv3.HttpConnectionManager:
			err = e.requests(m)
		}
		if bad := (TokenError{}); errors.As(err, &bad) {
			return Answer{}, bad // of what was asked, not of the configuration
		}
		if err != nil {
			return Answer{}, fmt.Errorf("%s.filters[%d]: %w", chain.GetName(), i, err)
		}
	}
	return e.answer(), nil
}

// Takes reports whether a listener ends mutual TLS on a port: what a caller whose own configuration is not
// known will use.
func Takes(l *listenerv3.Listener, c Call) bool {
	c.TLS = true
	return pick(l, c).GetTransportSocket() != nil
}

// Door is what a listener does with a connection before it looks inside.
type Door struct {
	Open    bool // it takes such
	TLS     bool // and ends its TLS
	Asks    bool // for a certificate
	Demands bool // one
}

// Enter says what a gateway's listener does with the connection of a call.
func Enter(l *listenerv3.Listener, c Call) (Door, error) {
	chain := pick(l, c)
	if chain == nil {
		return Door{}, nil
	}
	socket := chain.GetTransportSocket()
	if !strings.HasSuffix(socket.GetName(), "tls") {
		return Door{Open: true}, nil
	}
	d := &tlsv3.DownstreamTlsContext{}
	if err := socket.GetTypedConfig().UnmarshalTo(d); err != nil {
		return Door{}, fmt.Errorf("%s: transport socket: %w", chain.GetName(), err)
	}
	return Door{Open: true, TLS: true, Asks: d.GetCommonTlsContext().GetValidationContextType() != nil, Demands: d.GetRequireClientCertificate().GetValue()}, nil
}

func pick(l *listenerv3.Listener, c Call) *listenerv3.FilterChain {
	at := simulate.Connection{Destination: c.To, Transport: "raw_buffer", Source: netip.AddrPortFrom(c.From, 0)}
	if c.SNI != nil {
		at.ServerName = *c.SNI
	}
	switch {
	case c.TLS && c.Method != "" && c.Own == "":
		at.Transport, at.Protocols = "tls", []string{"istio-http/1.1"}
	case c.TLS:
		at.Transport, at.Protocols = "tls", []string{"istio-peer-exchange"}
	case c.Own != "":
		at.Transport, at.Protocols = "tls", []string{"h2", "http/1.1"}
	case c.Method != "":
		at.Protocols = []string{"http/1.1"}
	}
	return simulate.Pick(l, at)
}

// requests follows a request through the filters of a connection manager.
func (e *evaluation) requests(m *hcmv3.HttpConnectionManager) error {
	if e.call.Own != "" && e.call.Method == "" {
		e.verdict, e.why = Denied, "the port is one of HTTP, and the call comes in TLS of its own"
		return nil
	}
	if e.call.Method == "" {
		e.verdict, e.why = Unknown, "the port is one of HTTP: who may do what is decided for each request"
		e.need("method and path")
		return nil
	}
	if err := e.read(m); err != nil {
		return err
	}
	asked := questions{}
	for i, f := range m.GetHttpFilters() {
		x, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			return fmt.Errorf("http_filters[%d]: %w", i, err)
		}
		switch x := x.(type) {
		case *jwtauthnv3.JwtAuthentication:
			err = e.tokens(x)
		case *httprbacv3.RBAC:
			err = e.filter(x, asked)
		case *extauthzv3.ExtAuthz:
			e.asks(x, x.GetHttpService().GetServerUri().GetCluster(), asked)
		}
		if err != nil {
			return fmt.Errorf("http_filters[%d]: %w", i, err)
		}
	}
	return nil
}

// questions are what rules say about whom a provider is asked, by the prefix of what they find.
type questions map[string]finding

// filter is one of RBAC, for requests or connections.
func (e *evaluation) filter(x interface {
	GetRules() *rbacv3.RBAC
	GetShadowRules() *rbacv3.RBAC
	GetShadowRulesStatPrefix() string
}, asked questions) (err error) {
	if e.facts == nil {
		if err := e.read(nil); err != nil {
			return err
		}
	}
	if x.GetRules() == nil && isCustom(x.GetShadowRules()) {
		asked[x.GetShadowRulesStatPrefix()], err = e.decide(x.GetShadowRules())
		return err
	}
	return e.rules(x.GetRules(), x.GetShadowRules(), x.GetShadowRulesStatPrefix())
}

// isCustom reports whether rules choose those about whom an ext_authz filter behind them asks.
func isCustom(shadow *rbacv3.RBAC) bool {
	for name := range shadow.GetPolicies() {
		return strings.HasPrefix(name, customPolicy)
	}
	return false
}

const customPolicy = "istio-ext-authz-"

// asks is an ext_authz filter, for requests or connections: what it answers nobody knows here. who is the cluster that is asked by HTTP.
func (e *evaluation) asks(x interface {
	GetFilterEnabledMetadata() *matcherv3.MetadataMatcher
	GetGrpcService() *corev3.GrpcService
}, who string, asked questions) {
	key := x.GetFilterEnabledMetadata().GetPath()
	found := finding{truth: yes}
	if len(key) > 0 {
		found = asked[strings.TrimSuffix(key[0].GetKey(), "shadow_effective_policy_id")]
	}
	if found.truth == no || e.verdict == Denied {
		return
	}
	who = cmp.Or(x.GetGrpcService().GetEnvoyGrpc().GetClusterName(), who)
	if parts := strings.Split(who, "|"); len(parts) == 4 {
		who = parts[3] + ":" + parts[1]
	}
	e.verdict, e.why = Unknown, "the provider at "+who+" is asked"
	e.name(strings.TrimPrefix(found.policy, customPolicy))
	e.need("what " + who + " answers")
	for _, n := range found.needs {
		e.need(n)
	}
}

// evaluation is one Call on its way through the filters.
type evaluation struct {
	call    Call
	facts   []facts // the readings of a request, of which each has to be allowed
	claims  map[string]any
	unsaid  bool // whether there is a token is not known
	verdict Verdict
	policy  string
	rule    *int
	why     string
	needs   []string
	notes   []string
}

func (e *evaluation) need(what string) {
	if !slices.Contains(e.needs, what) {
		e.needs = append(e.needs, what)
	}
}

// name keeps which policy and rule decide: ns[default]-policy[viewers]-rule[0].
func (e *evaluation) name(policy string) {
	e.policy, e.rule = "", nil
	parts := strings.SplitN(policy, "]", 4)
	if len(parts) < 4 {
		return
	}
	ns, name, rule := strings.TrimPrefix(parts[0], "ns["), strings.TrimPrefix(parts[1], "-policy["), strings.TrimPrefix(parts[2], "-rule[")
	if n, err := strconv.Atoi(rule); err == nil {
		e.policy, e.rule = ns+"/"+name, &n
	}
}

func (e *evaluation) answer() Answer {
	a := Answer{Verdict: e.verdict, Policy: e.policy, Rule: e.rule, Why: e.why, Notes: e.notes}
	switch a.Verdict {
	case Unknown:
		a.Needs = e.needs
	case Allowed:
		if a.Why == "" {
			a.Why = "no policy restricts it"
		}
	}
	return a
}
