package istio

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

var authorizationActions = map[securityv1beta1.AuthorizationPolicy_Action]mesh.AuthorizationAction{
	securityv1beta1.AuthorizationPolicy_ALLOW:  mesh.AuthorizationAllow,
	securityv1beta1.AuthorizationPolicy_DENY:   mesh.AuthorizationDeny,
	securityv1beta1.AuthorizationPolicy_AUDIT:  mesh.AuthorizationAudit,
	securityv1beta1.AuthorizationPolicy_CUSTOM: mesh.AuthorizationCustom,
}

// dryRun is the annotation of policies that are only watched.
const dryRun = "istio.io/dry-run"

func (l *lowerer) authorizationPolicy(spec *securityv1beta1.AuthorizationPolicy) *mesh.AuthorizationPolicy {
	p := &mesh.AuthorizationPolicy{Ref: l.o.Ref, Action: authorizationActions[spec.Action]}
	if spec.Selector != nil {
		p.Selector = l.selector("spec.selector.matchLabels", spec.Selector.MatchLabels)
		if len(spec.TargetRefs) > 0 || spec.TargetRef != nil {
			l.Invalid("spec.selector", "stands beside targetRefs", "keep one of the two")
		}
	}
	if v, ok := l.meta.Annotations[dryRun]; ok {
		on, err := strconv.ParseBool(v)
		if err != nil {
			l.Invalid(document.Key("metadata.annotations", dryRun), fmt.Sprintf("%q is neither true nor false", v), `write "true", or remove it: then the policy is enforced`)
		}
		p.DryRun = on
	}
	switch p.Action {
	case mesh.AuthorizationAudit:
		if p.DryRun {
			l.Add(config.FieldNotEnforced, document.Key("metadata.annotations", dryRun), "AUDIT denies nothing: there is nothing to try without it", "remove the annotation: until then nothing is logged")
		}
	case mesh.AuthorizationCustom:
		if spec.GetProvider().GetName() == "" {
			l.Invalid("spec.provider.name", "is missing: CUSTOM asks a provider", "name an extensionProvider of the mesh's configuration")
		}
		if len(spec.Rules) == 0 {
			l.Invalid("spec.rules", "is empty: CUSTOM needs rules", "write \"rules: [{}]\" to ask about every request")
		}
		if p.DryRun {
			l.Invalid(document.Key("metadata.annotations", dryRun), "is not for CUSTOM", "remove it")
		}
		p.Provider = spec.GetProvider().GetName()
	}
	if spec.GetProvider() != nil && p.Action != mesh.AuthorizationCustom {
		l.Invalid("spec.provider", "is for action CUSTOM only", "remove it, or write action: CUSTOM")
	}
	if p.Action == mesh.AuthorizationDeny && len(spec.Rules) == 0 {
		l.Add(config.FieldNotEnforced, "spec.rules", "is empty: a DENY without rules denies nothing", "write \"rules: [{}]\" to deny everything")
	}
	for i, r := range spec.Rules {
		at := document.Index("spec.rules", i)
		if r == nil {
			l.Invalid(at, "is empty", "write \"{}\" for a rule that matches everything")
			continue
		}
		p.Rules = append(p.Rules, l.authorizationRule(at, r))
	}
	return p
}

func (l *lowerer) authorizationRule(at string, r *securityv1beta1.Rule) mesh.AuthorizationRule {
	var out mesh.AuthorizationRule
	if r.From != nil && len(r.From) == 0 {
		l.Invalid(at+".from", "is an empty list", "remove it to match all sources")
	}
	for i, from := range r.From {
		at := document.Index(at+".from", i)
		c := l.authorizationSource(at+".source", from.GetSource())
		if len(c) == 0 {
			l.Invalid(at+".source", "is empty", "remove the entry to match all sources, or say which")
		}
		out.From = append(out.From, c)
	}
	if r.To != nil && len(r.To) == 0 {
		l.Invalid(at+".to", "is an empty list", "remove it to match all operations")
	}
	for i, to := range r.To {
		at := document.Index(at+".to", i)
		c := l.authorizationOperation(at+".operation", to.GetOperation())
		if len(c) == 0 {
			l.Invalid(at+".operation", "is empty", "remove the entry to match all operations, or say which")
		}
		out.To = append(out.To, c)
	}
	for i, w := range r.When {
		out.When = append(out.When, l.authorizationWhen(document.Index(at+".when", i), w)...)
	}
	return out
}

// clause collects conditions; yes and no are the two fields of one.
type clause struct {
	l   *lowerer
	at  string
	out mesh.AuthorizationClause
}

func (c *clause) add(attribute, yes string, values []string, no string, notValues []string, check func(at, v string)) {
	if len(values)+len(notValues) == 0 {
		return
	}
	for _, list := range []struct {
		field  string
		values []string
	}{{yes, values}, {no, notValues}} {
		for i, v := range list.values {
			at := document.Index(c.at+"."+list.field, i)
			if v == "" {
				c.l.Invalid(at, "is empty", "write a value, or \"*\" for any")
			} else if check != nil {
				check(at, v)
			}
		}
	}
	c.out = append(c.out, mesh.AuthorizationCondition{Attribute: attribute, Values: values, NotValues: notValues})
}

func (l *lowerer) authorizationSource(at string, s *securityv1beta1.Source) mesh.AuthorizationClause {
	c := &clause{l: l, at: at}
	if len(s.GetServiceAccounts())+len(s.GetNotServiceAccounts()) > 0 && len(s.GetPrincipals())+len(s.GetNotPrincipals())+len(s.GetNamespaces())+len(s.GetNotNamespaces()) > 0 {
		l.Invalid(at+".serviceAccounts", "stands beside principals or namespaces, which say the same", "keep one of them")
	}
	c.add("source.principal", "principals", s.GetPrincipals(), "notPrincipals", s.GetNotPrincipals(), nil)
	c.add("request.auth.principal", "requestPrincipals", s.GetRequestPrincipals(), "notRequestPrincipals", s.GetNotRequestPrincipals(), nil)
	c.add("source.namespace", "namespaces", s.GetNamespaces(), "notNamespaces", s.GetNotNamespaces(), nil)
	c.add("source.serviceAccount", "serviceAccounts", l.serviceAccounts(s.GetServiceAccounts()), "notServiceAccounts", l.serviceAccounts(s.GetNotServiceAccounts()), l.serviceAccount)
	c.add("source.trustDomain", "trustDomains", s.GetTrustDomains(), "notTrustDomains", s.GetNotTrustDomains(), nil)
	c.add("source.ip", "ipBlocks", s.GetIpBlocks(), "notIpBlocks", s.GetNotIpBlocks(), l.ipBlock)
	c.add("remote.ip", "remoteIpBlocks", s.GetRemoteIpBlocks(), "notRemoteIpBlocks", s.GetNotRemoteIpBlocks(), l.ipBlock)
	return c.out
}

// serviceAccounts completes names without a namespace by the policy's own.
func (l *lowerer) serviceAccounts(names []string) []string {
	var out []string
	for _, n := range names {
		if n != "" && !strings.Contains(n, "/") {
			n = l.ns + "/" + n
		}
		out = append(out, n)
	}
	return out
}

func (l *lowerer) serviceAccount(at, v string) {
	ns, name, _ := strings.Cut(v, "/")
	if ns == "" || name == "" || strings.ContainsAny(name, "/*") || strings.Contains(ns, "*") || len(v) > 320 {
		l.Invalid(at, fmt.Sprintf("%q is not a service account", v), `write "name" or "namespace/name", without wildcards`)
	}
}

func (l *lowerer) ipBlock(at, v string) {
	if _, ok := prefix(v); !ok {
		l.Invalid(at, fmt.Sprintf("%q is neither an IP address nor a CIDR block", v), `for example "10.1.0.0/16"`)
	}
}

func (l *lowerer) authorizationOperation(at string, o *securityv1beta1.Operation) mesh.AuthorizationClause {
	c := &clause{l: l, at: at}
	c.add(mesh.AttributeHost, "hosts", o.GetHosts(), "notHosts", o.GetNotHosts(), nil)
	c.add("destination.port", "ports", o.GetPorts(), "notPorts", o.GetNotPorts(), l.portText)
	c.add(mesh.AttributeMethod, "methods", o.GetMethods(), "notMethods", o.GetNotMethods(), nil)
	c.add(mesh.AttributePath, "paths", o.GetPaths(), "notPaths", o.GetNotPaths(), l.authorizedPath)
	return c.out
}

func (l *lowerer) portText(at, v string) {
	if n, err := strconv.ParseUint(v, 10, 16); err != nil || n == 0 {
		l.Invalid(at, fmt.Sprintf("%q is not a port", v), "a port is a number from 1 to 65535")
	}
}

// authorizedPath checks templates: wildcards are whole segments, that of many the last one.
func (l *lowerer) authorizedPath(at, v string) {
	if !strings.ContainsAny(v, "{}") {
		return
	}
	segments := strings.Split(strings.TrimPrefix(v, "/"), "/")
	for i, s := range segments {
		switch {
		case s == "{*}", s == "{**}" && !slices.Contains(segments[i+1:], "{**}"):
		case s == "{**}":
			l.Invalid(at, `has "{**}" twice`, "use it once")
			return
		case strings.ContainsAny(s, "{}*"):
			l.Invalid(at, fmt.Sprintf("%q is not a wildcard of a template", s), `a whole segment is "{*}" for one or "{**}" for many`)
			return
		}
	}
	if !strings.HasPrefix(v, "/") {
		l.Invalid(at, "does not begin with a slash", "write \"/"+v+"\"")
	}
}

// whenKeys are the attributes of conditions; those that end in a bracket have a name in it.
var whenKeys = []string{"request.headers[", "source.ip", "remote.ip", "source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal", "request.auth.principal",
	"request.auth.audiences", "request.auth.presenter", "request.auth.claims[", "destination.ip", "destination.port", "connection.sni"}

func (l *lowerer) authorizationWhen(at string, w *securityv1beta1.Condition) mesh.AuthorizationClause {
	key := w.GetKey()
	i := slices.IndexFunc(whenKeys, func(k string) bool {
		return k == key || strings.HasSuffix(k, "[") && strings.HasPrefix(key, k) && len(key) > len(k)+1 && strings.HasSuffix(key, "]")
	})
	switch {
	case key == "":
		l.Invalid(at+".key", "is missing", "name an attribute, for example source.namespace")
		return nil
	case strings.HasPrefix(key, "experimental.envoy.filters."):
		l.Add(config.FieldNotEnforcedUnsafe, at+".key", "attributes of other filters are not there in this version", "remove the condition; limit the port (to.operation.ports) and who calls it (from.source) instead")
		return nil
	case i < 0:
		hint := "attributes are " + strings.ReplaceAll(strings.Join(whenKeys, ", "), "[", "[NAME]")
		if s := document.Suggest(key, whenKeys); s != "" {
			hint = "did you mean " + strings.ReplaceAll(s, "[", "[NAME]") + "?"
		}
		l.Invalid(at+".key", fmt.Sprintf("%q is no attribute of requests", key), hint)
		return nil
	case len(w.Values)+len(w.NotValues) == 0:
		l.Invalid(at+".values", "there are neither values nor notValues", "say what the attribute must be")
		return nil
	}
	var check func(at, v string)
	values, notValues := w.Values, w.NotValues
	switch key {
	case "source.ip", "remote.ip", "destination.ip":
		check = l.ipBlock
	case "destination.port":
		check = l.portText
	case "source.serviceAccount":
		values, notValues, check = l.serviceAccounts(values), l.serviceAccounts(notValues), l.serviceAccount
	}
	c := &clause{l: l, at: at}
	c.add(key, "values", values, "notValues", notValues, check)
	return c.out
}

// byTarget reports whether an object is for what targetRefs name, of which there is none here, and for no workload. One that
// says something about workloads beside them is for those, too: which of the two was meant cannot be known.
func byTarget(spec *document.Value) bool {
	if s := spec.Get("selector"); s != nil && s.Kind != document.Null {
		return false
	}
	for _, name := range []string{"targetRefs", "targetRef"} {
		refs := spec.Get(name)
		if refs != nil && refs.Kind != document.Null && !(refs.Kind == document.List && len(refs.Items) == 0) {
			return true
		}
	}
	return false
}

// authorizationPolicy keeps what denies of a policy with errors. What cannot be read of a
// DENY denies everything, of an ALLOW allows nothing.
func (r *refuser) authorizationPolicy() *mesh.AuthorizationPolicy {
	spec := r.root.Get("spec")
	if byTarget(spec) {
		return nil // it is not for sidecars
	}
	l := r.lowerer()
	m := &securityv1beta1.AuthorizationPolicy{}
	if meta := r.root.Get("metadata"); meta != nil {
		document.Struct(meta, "metadata", &l.meta, l.Problem)
	}
	if spec != nil && spec.Kind == document.Map {
		document.Proto(spec, "spec", m, l.problem)
	}
	p := l.authorizationPolicy(m)
	if p.DryRun || p.Action == mesh.AuthorizationAudit {
		return nil
	}
	p.Selector, p.Provider = r.selector(spec.Get("selector")), "" // nobody is asked about what is not understood
	everything := []mesh.AuthorizationRule{{}}
	switch rules := spec.Get("rules"); {
	case failedAt(l, "spec.action"), spec == nil || spec.Kind != document.Map:
		p.Action, p.Rules = mesh.AuthorizationDeny, everything
	case p.Action == mesh.AuthorizationAllow:
		kept := p.Rules[:0]
		for i, rule := range p.Rules {
			if !failedAt(l, document.Index("spec.rules", i)) {
				kept = append(kept, rule)
			}
		}
		p.Rules = kept
	case rules != nil && rules.Kind != document.List:
		p.Rules = everything
	default:
		for i := range p.Rules {
			if failedAt(l, document.Index("spec.rules", i)) {
				p.Rules = everything
			}
		}
		if len(p.Rules) != len(items(rules)) {
			p.Rules = everything
		}
	}
	return p
}
