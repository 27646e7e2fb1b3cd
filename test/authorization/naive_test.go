package authorization

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// naive decides as the documentation says: what a program may read without the parameters of its path has to be allowed so, too.
func naive(set []policy, c *call) bool {
	bare := *c
	bare.path = parameters.ReplaceAllString(c.path, "")
	return decided(set, c) && decided(set, &bare)
}

// parameters are what follows a semicolon in a segment.
var parameters = regexp.MustCompile(`;[^/]*`)

// decided is what Istio's documentation of AuthorizationPolicy says, rule by rule.
func decided(set []policy, c *call) bool {
	allowing, allowed := false, false
	for _, p := range set {
		if p.dry || p.namespace != "default" && p.namespace != "istio-system" || p.Selector != nil && p.Selector.MatchLabels["app"] != "echo" {
			continue
		}
		matched := slices.ContainsFunc(p.Rules, func(r *securityv1beta1.Rule) bool { return matches(r, c, p.Action, p.namespace) })
		switch p.Action {
		case securityv1beta1.AuthorizationPolicy_CUSTOM: // who is not there, or knows nothing of connections, says no
			byGRPC, there := providers[p.GetProvider().GetName()]
			if matched && !(there && (byGRPC || c.method != "") && c.yes[p.GetProvider().GetName()]) {
				return false
			}
		case securityv1beta1.AuthorizationPolicy_DENY:
			if matched {
				return false
			}
		case securityv1beta1.AuthorizationPolicy_ALLOW:
			allowing, allowed = true, allowed || matched
		}
	}
	return !allowing || allowed
}

func matches(r *securityv1beta1.Rule, c *call, action securityv1beta1.AuthorizationPolicy_Action, namespace string) bool {
	j := judge{c: c, deny: action == securityv1beta1.AuthorizationPolicy_DENY || action == securityv1beta1.AuthorizationPolicy_CUSTOM, of: namespace}
	from := len(r.From) == 0 || slices.ContainsFunc(r.From, func(f *securityv1beta1.Rule_From) bool { return j.source(f.Source) })
	to := len(r.To) == 0 || slices.ContainsFunc(r.To, func(o *securityv1beta1.Rule_To) bool { return j.operation(o.Operation) })
	return from && to && !slices.ContainsFunc(r.When, func(w *securityv1beta1.Condition) bool { return !j.condition(w) })
}

type judge struct {
	c    *call
	deny bool
	of   string // the policy's namespace
}

// field is one pair of values and notValues. On a connection what asks about requests is left out of a DENY or CUSTOM, and fulfilled by nothing in an ALLOW.
func (j judge) field(values, not []string, ofRequests bool, is func(string) bool) bool {
	if len(values)+len(not) == 0 {
		return true
	}
	if ofRequests && j.c.method == "" {
		return j.deny
	}
	return (len(values) == 0 || slices.ContainsFunc(values, is)) && !slices.ContainsFunc(not, is)
}

func text(actual string) func(string) bool {
	return func(v string) bool {
		switch {
		case v == "*":
			return actual != ""
		case strings.HasPrefix(v, "*"):
			return strings.HasSuffix(actual, v[1:])
		case strings.HasSuffix(v, "*"):
			return strings.HasPrefix(actual, v[:len(v)-1])
		}
		return actual == v
	}
}

func address(a netip.Addr) func(string) bool {
	return func(v string) bool {
		if p, err := netip.ParsePrefix(v); err == nil {
			return p.Contains(a)
		}
		return netip.MustParseAddr(v) == a
	}
}

// caller is what the identity says: DOMAIN/ns/NAMESPACE/sa/NAME.
func (j judge) caller() (domain, namespace, account string) {
	if p := strings.Split(j.c.id, "/"); len(p) == 5 {
		return p[0], p[2], p[4]
	}
	return "", "", ""
}

func (j judge) namespace() string {
	_, namespace, _ := j.caller()
	return namespace
}

func (j judge) trustDomain() string {
	domain, _, _ := j.caller()
	return domain
}

// serviceAccount compares a name, in the policy's own namespace, or namespace/name.
func (j judge) serviceAccount(v string) bool {
	_, namespace, account := j.caller()
	if !strings.Contains(v, "/") {
		v = j.of + "/" + v
	}
	return account != "" && v == namespace+"/"+account
}

// principal also goes by the aliases of the mesh's trust domain, where a policy names the mesh's.
func (j judge) principal(v string) bool {
	if text(j.c.id)(v) && j.c.id != "" {
		return true
	}
	domain, rest, _ := strings.Cut(v, "/")
	if rest == "" || domain != "cluster.local" && domain != "old.example" {
		return false
	}
	return j.c.id != "" && (text(j.c.id)("cluster.local/"+rest) || text(j.c.id)("old.example/"+rest))
}

func (j judge) source(s *securityv1beta1.Source) bool {
	return j.field(s.Principals, s.NotPrincipals, false, j.principal) &&
		j.field(s.Namespaces, s.NotNamespaces, false, text(j.namespace())) &&
		j.field(s.ServiceAccounts, s.NotServiceAccounts, false, j.serviceAccount) &&
		j.field(s.TrustDomains, s.NotTrustDomains, false, text(j.trustDomain())) &&
		j.field(s.IpBlocks, s.NotIpBlocks, false, address(j.c.source)) &&
		j.field(s.RemoteIpBlocks, s.NotRemoteIpBlocks, false, address(j.c.remote)) &&
		j.field(s.RequestPrincipals, s.NotRequestPrincipals, true, j.tokenOf)
}

// tokenOf compares "issuer/subject" of a token that has both.
func (j judge) tokenOf(v string) bool {
	iss, _ := j.c.claims["iss"].(string)
	sub, _ := j.c.claims["sub"].(string)
	return iss != "" && sub != "" && text(iss+"/"+sub)(v)
}

// claim holds if the claim at a path is such a text, or a list that has one.
func (j judge) claim(path ...string) func(string) bool {
	var at any = j.c.claims
	for _, name := range path {
		m, _ := at.(map[string]any)
		at = m[name]
	}
	return func(v string) bool {
		switch at := at.(type) {
		case string:
			return text(at)(v)
		case []any:
			return slices.ContainsFunc(at, func(one any) bool { return text(one.(string))(v) })
		}
		return false
	}
}

func (j judge) operation(o *securityv1beta1.Operation) bool {
	host := text(strings.ToLower(j.c.host))
	return j.field(o.Paths, o.NotPaths, true, j.path) &&
		j.field(o.Methods, o.NotMethods, true, text(j.c.method)) &&
		j.field(o.Hosts, o.NotHosts, true, func(v string) bool { return host(strings.ToLower(v)) }) &&
		j.field(o.Ports, o.NotPorts, false, text(strconv.Itoa(int(j.c.port))))
}

func (j judge) path(v string) bool {
	if !strings.Contains(v, "{") {
		return text(j.c.path)(v)
	}
	return fits(strings.Split(j.c.path, "/"), strings.Split(v, "/"))
}

// fits compares segments; "{**}" is one or more of them, which may be empty.
func fits(path, template []string) bool {
	switch {
	case len(template) == 0 || len(path) == 0:
		return len(template) == len(path)
	case template[0] == "{**}":
		return fits(path[1:], template[1:]) || fits(path[1:], template)
	case template[0] == "{*}":
		return path[0] != "" && fits(path[1:], template[1:])
	}
	return path[0] == template[0] && fits(path[1:], template[1:])
}

func (j judge) condition(w *securityv1beta1.Condition) bool {
	switch w.Key {
	case "request.headers[x-token]":
		return j.field(w.Values, w.NotValues, true, text(j.c.headers["x-token"]))
	case "request.auth.principal":
		return j.field(w.Values, w.NotValues, true, j.tokenOf)
	case "request.auth.audiences":
		return j.field(w.Values, w.NotValues, true, j.claim("aud"))
	case "request.auth.presenter":
		return j.field(w.Values, w.NotValues, true, j.claim("azp"))
	case "request.auth.claims[group]":
		return j.field(w.Values, w.NotValues, true, j.claim("group"))
	case "request.auth.claims[realm][role]":
		return j.field(w.Values, w.NotValues, true, j.claim("realm", "role"))
	case "source.namespace":
		return j.field(w.Values, w.NotValues, false, text(j.namespace()))
	case "destination.port":
		return j.field(w.Values, w.NotValues, false, text(strconv.Itoa(int(j.c.port))))
	case "connection.sni":
		return j.field(w.Values, w.NotValues, false, text(j.c.sni))
	case "source.ip":
		return j.field(w.Values, w.NotValues, false, address(j.c.source))
	case "remote.ip":
		return j.field(w.Values, w.NotValues, false, address(j.c.remote))
	case "destination.ip":
		return j.field(w.Values, w.NotValues, false, address(j.c.to))
	case "source.principal":
		return j.field(w.Values, w.NotValues, false, j.principal)
	case "source.serviceAccount":
		return j.field(w.Values, w.NotValues, false, j.serviceAccount)
	case "source.trustDomain":
		return j.field(w.Values, w.NotValues, false, text(j.trustDomain()))
	}
	panic(w.Key)
}
