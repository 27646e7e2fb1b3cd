package istio

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/legacy"
	"github.com/weirmesh/weir/mesh"
)

// The objects of Istio before 1.5, as its APIs rbac.istio.io/v1alpha1 and authentication.istio.io/v1alpha1 had them.
type (
	roleSpec struct {
		Rules []accessSpec `json:"rules"`
	}
	accessSpec struct {
		Services    []string         `json:"services"`
		Hosts       []string         `json:"hosts"`
		NotHosts    []string         `json:"notHosts"`
		Paths       []string         `json:"paths"`
		NotPaths    []string         `json:"notPaths"`
		Methods     []string         `json:"methods"`
		NotMethods  []string         `json:"notMethods"`
		Ports       []int32          `json:"ports"`
		NotPorts    []int32          `json:"notPorts"`
		Constraints []constraintSpec `json:"constraints"`
	}
	constraintSpec struct {
		Key    string   `json:"key"`
		Values []string `json:"values"`
	}
	bindingSpec struct {
		Subjects []subjectSpec `json:"subjects"`
		RoleRef  struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"roleRef"`
		Mode string `json:"mode"`
	}
	subjectSpec struct {
		User          string            `json:"user"`
		Names         []string          `json:"names"`
		NotNames      []string          `json:"notNames"`
		Group         string            `json:"group"`
		Groups        []string          `json:"groups"`
		NotGroups     []string          `json:"notGroups"`
		Namespaces    []string          `json:"namespaces"`
		NotNamespaces []string          `json:"notNamespaces"`
		IPs           []string          `json:"ips"`
		NotIPs        []string          `json:"notIps"`
		Properties    map[string]string `json:"properties"`
	}
	configSpec struct {
		Mode            string   `json:"mode"`
		Inclusion       listSpec `json:"inclusion"`
		Exclusion       listSpec `json:"exclusion"`
		EnforcementMode string   `json:"enforcementMode"`
		Enforcement     string   `json:"enforcement_mode"` // as examples have it
	}
	listSpec struct {
		Services   []string `json:"services"`
		Namespaces []string `json:"namespaces"`
	}
)

// decodeLegacy reads metadata and spec into a struct.
func decodeLegacy[S, T any](l *lowerer, spec S, lower func(S) T) any {
	root := l.Root()
	for _, f := range root.Fields {
		switch f.Name {
		case "apiVersion", "kind", "metadata", "spec", "status":
		default:
			l.Problem(document.Problem{Path: f.Name, Line: f.Line, Message: "unknown field \"" + f.Name + "\"", Hint: "the fields of an object are apiVersion, kind, metadata and spec"})
		}
	}
	if m := root.Get("metadata"); m != nil {
		document.Struct(m, "metadata", &l.meta, l.Problem)
		l.Meta(&l.meta, "metadata")
	}
	if v := root.Get("spec"); v != nil && v.Kind != document.Null {
		document.Struct(v, "spec", spec, l.Problem)
	}
	out := lower(spec)
	if !l.Failed() {
		l.Add(config.LegacyConverted, "", l.o.ID.Kind+" is of Istio before 1.5: what it asks for is in force, converted", "write it as docs/authorization.md says, and remove it")
	}
	return out
}

// legacy is an object of Istio before 1.5.
func (l *lowerer) legacy() any {
	switch l.o.ID.Kind {
	case "ServiceRole":
		return decodeLegacy(l, &roleSpec{}, l.serviceRole)
	case "ServiceRoleBinding":
		return decodeLegacy(l, &bindingSpec{}, l.serviceRoleBinding)
	case "RbacConfig", "ClusterRbacConfig":
		return decodeLegacy(l, &configSpec{}, l.rbacConfig)
	}
	return decodeLegacy(l, &policySpec{}, l.policy)
}

func (l *lowerer) serviceRole(spec *roleSpec) *legacy.Role {
	out := &legacy.Role{Ref: l.o.Ref}
	if len(spec.Rules) == 0 {
		l.Invalid("spec.rules", "is empty: the role allows nothing", "say what may be done, or remove the object")
	}
	for i := range spec.Rules {
		out.Access = append(out.Access, l.access(document.Index("spec.rules", i), &spec.Rules[i]))
	}
	return out
}

func (l *lowerer) access(at string, r *accessSpec) legacy.Access {
	out := legacy.Access{Services: lower(r.Services)}
	if len(r.Services) == 0 {
		l.Invalid(at+".services", "is empty", `name services by their full host name, or write "*" for all of the namespace`)
	}
	l.words(at+".services", r.Services)
	to := &clause{l: l, at: at}
	to.add(mesh.AttributeHost, "hosts", r.Hosts, "notHosts", r.NotHosts, l.word)
	to.add(mesh.AttributeMethod, "methods", r.Methods, "notMethods", r.NotMethods, l.word)
	to.add(mesh.AttributePath, "paths", r.Paths, "notPaths", r.NotPaths, l.legacyPath)
	out.To = to.out
	ports := &clause{l: l, at: at}
	ports.add("destination.port", "ports", l.legacyPorts(r.Ports), "notPorts", l.legacyPorts(r.NotPorts), l.portText)
	out.Ports = ports.out
	seen := 1
	for i, c := range r.Constraints {
		at := document.Index(at+".constraints", i)
		one := &clause{l: l, at: at}
		if len(c.Values) == 0 {
			l.Invalid(at+".values", "is empty", "say what the attribute must be")
			continue
		}
		label, isLabel := strings.CutPrefix(c.Key, "destination.labels[")
		switch name, isHeader := strings.CutPrefix(c.Key, "request.headers["); {
		case isLabel && strings.HasSuffix(label, "]") && len(label) > 1:
			one.add(strings.TrimSuffix(label, "]"), "values", c.Values, "", nil, func(at, v string) {
				if strings.Contains(v, "*") {
					l.Add(config.FieldNotEnforcedUnsafe, at, "workloads are selected by exact labels", "write each value")
				}
			})
			if seen *= len(c.Values); seen > maxLegacyLabels {
				l.Add(config.FieldNotEnforcedUnsafe, at, fmt.Sprintf("the labels have more than %d combinations", maxLegacyLabels), "split the rule")
			}
			out.Labels = append(out.Labels, one.out...)
		case isHeader && strings.HasSuffix(name, "]") && isToken(strings.TrimSuffix(name, "]")):
			one.add("request.headers["+strings.ToLower(name), "values", c.Values, "", nil, l.word)
			out.When = append(out.When, one.out...)
		case c.Key == "destination.namespace":
			one.add(c.Key, "values", c.Values, "", nil, l.word)
			out.Namespaces = append(out.Namespaces, one.out...)
		case c.Key == "destination.port":
			one.add(c.Key, "values", c.Values, "", nil, l.portText)
			out.Ports = append(out.Ports, one.out...)
		case c.Key == "destination.ip":
			one.add(c.Key, "values", c.Values, "", nil, l.ipBlock)
			out.To = append(out.To, one.out...)
		case c.Key == "connection.sni":
			one.add(c.Key, "values", c.Values, "", nil, l.word)
			out.To = append(out.To, one.out...)
		case c.Key == "destination.name", c.Key == "destination.user", strings.HasPrefix(c.Key, "experimental."):
			l.Add(config.FieldNotEnforcedUnsafe, at+".key", "policies of today have no such attribute", "select the workloads by a label: destination.labels[NAME]")
		default:
			l.Invalid(at+".key", fmt.Sprintf("%q is no attribute of constraints", c.Key), "attributes are destination.ip, destination.port, destination.labels[NAME], destination.namespace, request.headers[NAME], connection.sni")
		}
	}
	return out
}

// maxLegacyLabels bounds the policies that one rule about labels of workloads comes to.
const maxLegacyLabels = 64

// lower are host names as they are compared.
func lower(in []string) (out []string) {
	for _, s := range in {
		out = append(out, strings.ToLower(s))
	}
	return out
}

func (l *lowerer) legacyPorts(in []int32) (out []string) {
	for _, n := range in {
		out = append(out, strconv.Itoa(int(n)))
	}
	return out
}

func (l *lowerer) words(at string, list []string) {
	for i, v := range list {
		if v == "" {
			l.Invalid(document.Index(at, i), "is empty", "write a value, or remove the entry")
		} else {
			l.word(document.Index(at, i), v)
		}
	}
}

// word checks a value that is exact, or has one wildcard at one end.
func (l *lowerer) word(at, v string) {
	if strings.Contains(strings.TrimPrefix(v, "*"), "*") && strings.Contains(strings.TrimSuffix(v, "*"), "*") {
		l.Add(config.FieldNotEnforcedUnsafe, at, fmt.Sprintf("%q has a wildcard elsewhere than at one end", v), `write "prefix*", "*suffix" or "*"`)
	}
}

func (l *lowerer) legacyPath(at, v string) {
	if l.word(at, v); strings.ContainsAny(v, "{}") {
		l.Add(config.FieldNotEnforcedUnsafe, at, "braces make a template of a path today", "write another path, or an AuthorizationPolicy")
	}
}

func (l *lowerer) serviceRoleBinding(spec *bindingSpec) *legacy.Binding {
	out := &legacy.Binding{Ref: l.o.Ref, Role: spec.RoleRef.Name, RoleLine: l.LineOf("spec.roleRef.name")}
	if spec.RoleRef.Kind != "ServiceRole" {
		l.Invalid("spec.roleRef.kind", fmt.Sprintf("%q is not ServiceRole", spec.RoleRef.Kind), "write kind: ServiceRole")
	}
	if spec.RoleRef.Name == "" {
		l.Invalid("spec.roleRef.name", "is missing", "name a ServiceRole of the namespace")
	}
	out.Watched = l.enforcement("spec.mode", spec.Mode)
	if len(spec.Subjects) == 0 {
		l.Invalid("spec.subjects", "is empty: nobody gets the role", "say who, or remove the object")
	}
	for i := range spec.Subjects {
		out.Subjects = append(out.Subjects, l.subject(document.Index("spec.subjects", i), &spec.Subjects[i]))
	}
	return out
}

// enforcement reports whether something is only watched.
func (l *lowerer) enforcement(at, mode string) bool {
	switch mode {
	case "", "ENFORCED":
		return false
	case "PERMISSIVE":
		return true
	}
	l.Invalid(at, fmt.Sprintf("%q is no mode", mode), "write ENFORCED, or PERMISSIVE to have it logged only")
	return false
}

const groupsClaim = "request.auth.claims[groups]"

// subjectKeys are the properties of subjects, and what they are called today.
var subjectKeys = map[string]string{"source.ip": "source.ip", "source.namespace": "source.namespace", "source.principal": "source.principal", "source.user": "source.principal",
	"request.auth.principal": "request.auth.principal", "request.auth.audiences": "request.auth.audiences", "request.auth.presenter": "request.auth.presenter"}

func (l *lowerer) subject(at string, s *subjectSpec) mesh.AuthorizationClause {
	c := &clause{l: l, at: at}
	everybody := s.User == "*" // whoever they are, and if they prove nothing
	if s.User != "" && !everybody {
		c.add("source.principal", "user", []string{s.User}, "", nil, l.word)
	}
	c.add("source.principal", "names", s.Names, "notNames", s.NotNames, l.word)
	if s.Group != "" {
		c.add(groupsClaim, "group", []string{s.Group}, "", nil, l.word)
	}
	c.add(groupsClaim, "groups", s.Groups, "notGroups", s.NotGroups, l.word)
	c.add("source.namespace", "namespaces", s.Namespaces, "notNamespaces", s.NotNamespaces, l.word)
	c.add("source.ip", "ips", s.IPs, "notIps", s.NotIPs, l.ipBlock)
	for _, key := range sortedKeys(s.Properties) {
		at := document.Key(at+".properties", key)
		attribute, check := subjectKeys[key], l.word
		for _, prefix := range []string{"request.headers[", "request.auth.claims["} {
			if name, ok := strings.CutPrefix(key, prefix); ok && strings.HasSuffix(name, "]") && len(name) > 1 && (prefix != "request.headers[" || isToken(strings.TrimSuffix(name, "]"))) {
				attribute = key
			}
		}
		switch attribute {
		case "":
			l.Invalid(at, "is no property of callers", "properties are "+strings.Join(sortedKeys(subjectKeys), ", ")+", request.headers[NAME], request.auth.claims[NAME]")
			continue
		case "source.ip":
			check = l.ipBlock
		}
		if v := s.Properties[key]; v == "" {
			l.Invalid(at, "is empty", "write a value, or \"*\" for any")
		} else {
			check(at, v)
		}
		c.out = append(c.out, mesh.AuthorizationCondition{Attribute: attribute, Values: []string{s.Properties[key]}})
	}
	if len(c.out) == 0 && !everybody {
		l.Invalid(at, "says nobody", `say who, or write user: "*" for everybody`)
	}
	return c.out
}

func (l *lowerer) rbacConfig(spec *configSpec) *legacy.Config {
	out := &legacy.Config{Ref: l.o.Ref}
	if l.o.ID.Name != "default" {
		l.Invalid("metadata.name", l.o.ID.Kind+" has another name than default: Istio has but one", "rename it")
	}
	if spec.EnforcementMode != "" && spec.Enforcement != "" {
		l.Invalid("spec.enforcement_mode", "stands beside enforcementMode", "keep one of the two")
	}
	out.Watched = l.enforcement("spec.enforcementMode", spec.EnforcementMode) || l.enforcement("spec.enforcement_mode", spec.Enforcement)
	list, at := listSpec{}, ""
	switch spec.Mode {
	case "", "OFF":
	case "ON":
		out.Mode = legacy.On
	case "ON_WITH_INCLUSION":
		out.Mode, list, at = legacy.OnlyListed, spec.Inclusion, "spec.inclusion"
	case "ON_WITH_EXCLUSION":
		out.Mode, list, at = legacy.AllButListed, spec.Exclusion, "spec.exclusion"
	default:
		l.Invalid("spec.mode", fmt.Sprintf("%q is no mode", spec.Mode), "write OFF, ON, ON_WITH_INCLUSION or ON_WITH_EXCLUSION")
	}
	if at != "" && len(list.Services)+len(list.Namespaces) == 0 {
		l.Add(config.SchemaWarning, at, "lists nothing", "list services or namespaces")
	}
	out.Services, out.Namespaces = lower(list.Services), list.Namespaces
	return out
}

// legacy keeps what refuses of an object of Istio before 1.5 with errors. A role or binding gives nothing then.
func (r *refuser) legacy() (any, string) {
	l := r.lowerer()
	spec := r.root.Get("spec")
	read := func(m any) {
		if spec != nil && spec.Kind == document.Map {
			document.Struct(spec, "spec", m, l.Problem)
		}
	}
	switch r.o.ID.Kind {
	case "ServiceRole", "ServiceRoleBinding":
		return nil, "it gives nothing to anybody"
	case "Policy", "MeshPolicy":
		m := &policySpec{}
		read(m)
		p := l.policy(m)
		whom := "the services it names"
		if failedAt(l, "spec.targets") || len(p.Targets) != len(items(spec.Get("targets"))) || spec == nil || spec.Kind != document.Map || r.o.ID.Kind == "MeshPolicy" {
			p.Targets = nil
		}
		if len(p.Targets) == 0 {
			whom = "the services of namespace " + r.o.ID.Namespace
			if r.o.ID.Namespace == "" {
				whom = "all services"
			}
		}
		p.Mode, p.Origins, p.Required = mesh.MTLSStrict, nil, false
		p.Closed = spec == nil || spec.Kind != document.Map || slices.ContainsFunc(spec.Fields, func(f document.Field) bool {
			return f.Name != "targets" && f.Name != "peers" && f.Value.Kind != document.Null
		}) || slices.ContainsFunc(m.Peers, func(p peerSpec) bool { return p.JWT != nil })
		if p.Closed {
			return p, whom + " let nobody in, because it may ask for tokens"
		}
		return p, whom + " accept nothing but mesh mTLS"
	}
	m := &configSpec{}
	read(m)
	c := l.rbacConfig(m)
	c.Watched = false
	if c.Mode != legacy.Off || failedAt(l, "spec.mode") || spec == nil || spec.Kind != document.Map || m.Mode == "" {
		c.Mode = legacy.On
	}
	return c, "roles apply to all services"
}
