package state

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/route"
)

// maxNesting bounds how deep permissions and principals are nested: what is evaluated for each request must not use up
// a stack. Istio's control plane makes 4 levels.
const maxNesting = 32

// peerPrincipal is where Istio's sidecars keep the peer's identity; here it is where it always was.
const peerPrincipal = "io.istio.peer_principal"

// rbacSpec is what the filters for requests and for connections have in common.
type rbacSpec struct {
	rules, shadow *rbacv3.RBAC
	prefix        string // of the filter's statistics
	ruled, shaded string // prefixes more of what is enforced, and of what is only watched
}

func (b *Builder) decodeRBAC(s rbacSpec, path string) (*rbac.Filter, error) {
	f := &rbac.Filter{}
	var err error
	if f.Rules, err = CompileRBAC(s.rules, path+".rules"); err != nil {
		return nil, err
	}
	if f.Shadow, err = CompileRBAC(s.shadow, path+".shadow_rules"); err != nil {
		return nil, err
	}
	f.Counts = b.ledger.Of(s.prefix+s.ruled, s.prefix+s.shaded)
	return f, nil
}

// CompileRBAC compiles rules; nil if there are none to enforce. path is how they are called in errors.
func CompileRBAC(m *rbacv3.RBAC, path string) (*rbac.Rules, error) {
	if m == nil {
		return nil, nil
	}
	r := &rbac.Rules{}
	switch m.GetAction() {
	case rbacv3.RBAC_ALLOW:
	case rbacv3.RBAC_DENY:
		r.Action = rbac.Deny
	case rbacv3.RBAC_LOG:
		r.Action = rbac.Log
	default:
		return nil, fmt.Errorf("%s.action: %v is not supported", path, m.GetAction())
	}
	for _, name := range slices.Sorted(maps.Keys(m.GetPolicies())) {
		p, at := m.GetPolicies()[name], fmt.Sprintf("%s.policies[%s]", path, name)
		if len(p.GetPermissions()) == 0 || len(p.GetPrincipals()) == 0 { // as Envoy's validation has it
			return nil, fmt.Errorf("%s: needs a permission and a principal; any: true matches everything", at)
		}
		what, err := permissions(p.GetPermissions(), at+".permissions", 0)
		if err != nil {
			return nil, err
		}
		from, err := principals(p.GetPrincipals(), at+".principals", 0)
		if err != nil {
			return nil, err
		}
		r.Policies = append(r.Policies, rbac.NewPolicy(name, rbac.One(what), rbac.One(from)))
	}
	return r, nil
}

func permissions(list []*rbacv3.Permission, path string, depth int) ([]rbac.Test, error) {
	return tests(list, path, depth, permission)
}

func principals(list []*rbacv3.Principal, path string, depth int) ([]rbac.Test, error) {
	return tests(list, path, depth, principal)
}

func tests[M any](list []M, path string, depth int, one func(m M, path string, depth int) (rbac.Test, error)) ([]rbac.Test, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: is empty", path)
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: is nested deeper than %d", path, maxNesting)
	}
	out := make([]rbac.Test, len(list))
	for i, m := range list {
		var err error
		if out[i], err = one(m, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// all, one and not are the logical forms, which permissions and principals have alike.
func all(list []rbac.Test, err error) (rbac.Test, error) {
	if err != nil {
		return nil, err
	}
	return rbac.All(list), nil
}

func one(list []rbac.Test, err error) (rbac.Test, error) {
	if err != nil {
		return nil, err
	}
	return rbac.One(list), nil
}

func not(list []rbac.Test, err error) (rbac.Test, error) {
	if err != nil {
		return nil, err
	}
	return rbac.Not(list[0]), nil
}

func permission(m *rbacv3.Permission, path string, depth int) (rbac.Test, error) {
	switch p := m.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return anything(p.Any, path)
	case *rbacv3.Permission_AndRules:
		return all(permissions(p.AndRules.GetRules(), path+".and_rules.rules", depth))
	case *rbacv3.Permission_OrRules:
		return one(permissions(p.OrRules.GetRules(), path+".or_rules.rules", depth))
	case *rbacv3.Permission_NotRule:
		return not(permissions([]*rbacv3.Permission{p.NotRule}, path+".not_rule", depth))
	case *rbacv3.Permission_Header:
		v, err := decodeHeaderMatch(p.Header, path+".header")
		return rbac.Header(v), err
	case *rbacv3.Permission_UrlPath:
		return urlPath(p.UrlPath, path+".url_path")
	case *rbacv3.Permission_UriTemplate:
		x, at := &uritemplatev3.UriTemplateMatchConfig{}, path+".uri_template"
		if err := unpack(p.UriTemplate.GetTypedConfig(), x, at); err != nil {
			return nil, err
		}
		t, err := rbac.ParseTemplate(x.GetPathTemplate())
		if err != nil {
			return nil, fmt.Errorf("%s.path_template: %w", at, err)
		}
		return rbac.PathTemplate(t), nil
	case *rbacv3.Permission_DestinationIp:
		return within(p.DestinationIp, path+".destination_ip", rbac.Destination)
	case *rbacv3.Permission_DestinationPort:
		return rbac.DestinationPort(p.DestinationPort, p.DestinationPort+1), nil
	case *rbacv3.Permission_DestinationPortRange:
		return rbac.DestinationPort(uint32(max(0, p.DestinationPortRange.GetStart())), uint32(max(0, p.DestinationPortRange.GetEnd()))), nil
	case *rbacv3.Permission_RequestedServerName:
		var v route.ValueMatch
		err := stringMatch(&v, p.RequestedServerName, path+".requested_server_name")
		return rbac.ServerName(v), err
	case *rbacv3.Permission_Metadata:
		return metadata(p.Metadata, path+".metadata")
	}
	return nil, fmt.Errorf("%s: %T is not supported", path, m.GetRule())
}

func principal(m *rbacv3.Principal, path string, depth int) (rbac.Test, error) {
	switch p := m.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return anything(p.Any, path)
	case *rbacv3.Principal_AndIds:
		return all(principals(p.AndIds.GetIds(), path+".and_ids.ids", depth))
	case *rbacv3.Principal_OrIds:
		return one(principals(p.OrIds.GetIds(), path+".or_ids.ids", depth))
	case *rbacv3.Principal_NotId:
		return not(principals([]*rbacv3.Principal{p.NotId}, path+".not_id", depth))
	case *rbacv3.Principal_Authenticated_:
		if p.Authenticated.GetPrincipalName() == nil {
			return rbac.Authenticated(), nil
		}
		var v route.ValueMatch
		err := stringMatch(&v, p.Authenticated.GetPrincipalName(), path+".authenticated.principal_name")
		return rbac.Principal(v), err
	case *rbacv3.Principal_FilterState:
		at := path + ".filter_state"
		if p.FilterState.GetKey() != peerPrincipal || p.FilterState.GetStringMatch() == nil {
			return nil, fmt.Errorf("%s: only a string_match of %s is supported", at, peerPrincipal)
		}
		var v route.ValueMatch
		err := stringMatch(&v, p.FilterState.GetStringMatch(), at+".string_match")
		return rbac.Principal(v), err
	case *rbacv3.Principal_SourceIp:
		return within(p.SourceIp, path+".source_ip", rbac.Source) // deprecated by Envoy, and what Istio 1.x sends
	case *rbacv3.Principal_DirectRemoteIp:
		return within(p.DirectRemoteIp, path+".direct_remote_ip", rbac.Source)
	case *rbacv3.Principal_RemoteIp:
		return within(p.RemoteIp, path+".remote_ip", rbac.Remote)
	case *rbacv3.Principal_Header:
		v, err := decodeHeaderMatch(p.Header, path+".header")
		return rbac.Header(v), err
	case *rbacv3.Principal_UrlPath:
		return urlPath(p.UrlPath, path+".url_path")
	case *rbacv3.Principal_Metadata:
		return metadata(p.Metadata, path+".metadata")
	}
	return nil, fmt.Errorf("%s: %T is not supported", path, m.GetIdentifier())
}

func anything(yes bool, path string) (rbac.Test, error) {
	if !yes {
		return nil, fmt.Errorf("%s.any: must be true", path)
	}
	return rbac.Any(), nil
}

func urlPath(m *matcherv3.PathMatcher, path string) (rbac.Test, error) {
	if m.GetPath() == nil {
		return nil, fmt.Errorf("%s.path: is missing", path)
	}
	var v route.ValueMatch
	err := stringMatch(&v, m.GetPath(), path+".path")
	return rbac.Path(v), err
}

func within(c *corev3.CidrRange, path string, test func(netip.Prefix) rbac.Test) (rbac.Test, error) {
	ip, err := netip.ParseAddr(c.GetAddressPrefix())
	if err != nil {
		return nil, fmt.Errorf("%s.address_prefix: %w", path, err)
	}
	bits := int(c.GetPrefixLen().GetValue())
	if ip.Is4In6() && bits >= 96 {
		ip, bits = ip.Unmap(), bits-96 // addresses of connections are unmapped, too
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return nil, fmt.Errorf("%s.prefix_len: %w", path, err)
	}
	return test(p), nil
}

// metadata is about what other filters found out: the claims of a token. What is known of no filter here is absent, and
// whatever asks for a value of it does not hold.
func metadata(m *matcherv3.MetadataMatcher, path string) (rbac.Test, error) {
	c, known, err := claimMatch(m, path)
	switch {
	case err != nil:
		return nil, err
	case known:
		return rbac.Claim(c), nil
	case c.Invert:
		return rbac.Any(), nil
	}
	return rbac.Never(), nil
}
