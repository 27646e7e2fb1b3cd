package analyze

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// custom finds what a policy with action CUSTOM denies because nobody is asked: everything where its provider is not configured,
// and connections of ports without HTTP where it is one that is asked by HTTP.
func (a *analysis) custom(s subject) bool {
	p := a.Snapshot.Authorizations.At(mesh.Key(s.name))
	if p == nil || p.Action != mesh.AuthorizationCustom {
		return false
	}
	if p.Provider == "" { // a finding of its own
		return true
	}
	var names []string
	for _, x := range a.Snapshot.Settings.Authorizers {
		names = append(names, x.Name)
	}
	i := slices.Index(names, p.Provider)
	if i < 0 {
		hint := "add it to extensionProviders of the mesh's configuration"
		if near := document.Suggest(p.Provider, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		a.add(config.ReferenceNotFound, p.Ref, "spec.provider.name", fmt.Sprintf("no extensionProvider of the mesh's configuration is called %q: what the rules match is denied", p.Provider), hint)
		return true
	}
	if a.Snapshot.Settings.Authorizers[i].GRPC {
		return true
	}
	namespace := p.Home()
	if namespace == a.Snapshot.Settings.RootNamespace {
		namespace = ""
	}
	for _, in := range a.selected(namespace, p.Selector) {
		a.look(thing{kind: servicesIn, a: in.namespace})
		for _, s := range a.services[in.namespace] {
			if s.Selector == nil || !s.Selector.Selects(in.labels) {
				continue
			}
			for _, port := range s.Ports {
				if port.Protocol == mesh.UDP || port.Protocol == mesh.Auto || port.Protocol.IsHTTP() || !concern(p.Rules, in.port(port)) {
					continue
				}
				a.add(config.SetAside, p.Ref, "spec.provider.name", fmt.Sprintf("provider %s is asked by HTTP, and cannot be about connections: those to port %d of %s, which is not HTTP, are denied where the rules match, and nobody is asked",
					p.Provider, port.Number, a.short(s.Hostname)), "give the rules the ports that are HTTP (to[].operation.ports), or take a provider that is asked by gRPC (envoyExtAuthzGrpc)")
				return true
			}
		}
	}
	return true
}

// concern reports whether one of the rules can match connections to a port.
func concern(rules []mesh.AuthorizationRule, port uint16) bool {
	number := strconv.Itoa(int(port))
	admits := func(c mesh.AuthorizationClause) bool {
		return !slices.ContainsFunc(c, func(one mesh.AuthorizationCondition) bool {
			return one.Attribute == "destination.port" && (len(one.Values) > 0 && !slices.Contains(one.Values, number) || slices.Contains(one.NotValues, number))
		})
	}
	return slices.ContainsFunc(rules, func(r mesh.AuthorizationRule) bool {
		return admits(r.When) && (len(r.To) == 0 || slices.ContainsFunc(r.To, admits))
	})
}
