package control

import (
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/control/why"
	"github.com/weirmesh/weir/mesh"
)

// Amiss is described at why.Objects.
func (k *inForce) Amiss(host string) (out []why.Pointer) {
	if k.u == nil || host == "" {
		return nil
	}
	s := k.u.Snapshot
	passing := map[string]bool{} // Gateways that pass TLS for the host through
	for g := range s.Gateways.Values() {
		for i := range g.Servers {
			x := &g.Servers[i]
			if x.TLS == nil || !slices.ContainsFunc(x.Hosts, func(h mesh.GatewayHost) bool { return mesh.Covers(h.Host, host) }) {
				continue
			}
			if x.TLS.Mode == "PASSTHROUGH" {
				passing[g.Ref.Namespace+"/"+g.Ref.Name] = true
			}
			if at := k.missing(&g.Ref, document.Index("spec.servers", i)+"."); at != "" {
				out = append(out, why.Pointer{Ref: refOf(&g.Ref), Field: at})
			}
		}
	}
	for v := range s.VirtualServices.Values() {
		if !slices.ContainsFunc(v.Hosts, func(h string) bool { return mesh.Covers(h, host) }) {
			continue
		}
		if slices.ContainsFunc(v.Gateways, func(g string) bool {
			namespace, name, ok := strings.Cut(g, "/")
			return ok && s.Gateways.At(mesh.NewKey(namespace, name)) == nil
		}) {
			out = append(out, why.Pointer{Ref: refOf(&v.Ref), Field: "gateways"})
		}
		if slices.ContainsFunc(v.Gateways, func(g string) bool { return passing[g] }) && len(v.TLS) > 0 && !routes(v, host) {
			field := "tls"
			if len(v.TLS) == 1 && len(v.TLS[0].Matches) == 1 {
				field = "tls[0].match[0].sniHosts"
			}
			out = append(out, why.Pointer{Ref: refOf(&v.Ref), Field: field})
		}
	}
	return out
}

// Elsewhere is described at why.Objects.
func (k *inForce) Elsewhere(node, host string) (fields []why.Pointer, by why.Ref) {
	namespace, labels, ok := k.workload(node)
	if !ok || host == "" {
		return nil, by
	}
	s := k.u.Snapshot
	serving := map[string]*mesh.Gateway{}
	for g := range s.Gateways.Values() {
		if g.Selector.Selects(labels) && slices.ContainsFunc(g.Servers, func(x mesh.Server) bool {
			return slices.ContainsFunc(x.Hosts, func(h mesh.GatewayHost) bool { return mesh.Covers(h.Host, host) })
		}) {
			serving[g.Ref.Namespace+"/"+g.Ref.Name] = g
		}
	}
	if len(serving) == 0 {
		return nil, by
	}
	by = refOf(&serving[slices.Min(slices.Collect(maps.Keys(serving)))].Ref)
	for v := range s.VirtualServices.Values() {
		if !slices.ContainsFunc(v.Hosts, func(h string) bool { return mesh.Covers(h, host) }) {
			continue
		}
		i := slices.IndexFunc(v.Gateways, func(g string) bool { return serving[g] != nil })
		switch {
		case !v.Visible.VisibleTo(namespace):
			fields = append(fields, why.Pointer{Ref: refOf(&v.Ref), Field: "exportTo"})
		case i < 0 && slices.ContainsFunc(v.Gateways, func(g string) bool { return g != mesh.Mesh }):
			fields = append(fields, why.Pointer{Ref: refOf(&v.Ref), Field: "gateways"})
		}
	}
	slices.SortFunc(fields, func(a, b why.Pointer) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	return fields, by
}

// routes reports whether a rule for TLS is for a server name.
func routes(v *mesh.VirtualService, name string) bool {
	return slices.ContainsFunc(v.TLS, func(r mesh.TLSRoute) bool {
		return slices.ContainsFunc(r.Matches, func(m mesh.L4Match) bool {
			return slices.ContainsFunc(m.SNIHosts, func(h string) bool { return mesh.Covers(h, name) })
		})
	})
}

// missing is the field below path of an object that names a credential that is not there; "": none is known to.
func (k *inForce) missing(r *mesh.Ref, path string) string {
	for i := range k.u.Findings {
		f := &k.u.Findings[i]
		if config.IDOf(f.Object) == config.IDOf(*r) && strings.HasPrefix(f.FieldPath, path) && strings.HasSuffix(f.FieldPath, ".credentialName") {
			return strings.TrimPrefix(f.FieldPath, "spec.")
		}
	}
	return ""
}
