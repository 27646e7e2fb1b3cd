package analyze

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// sidecarsOf finds those of a namespace that are for nobody, or that an older one beats.
func (a *analysis) sidecarsOf(x subject) bool {
	ns, all := x.name, a.sidecars[x.name]
	var whole *mesh.Sidecar
	taken := map[*instance]*mesh.Sidecar{} // by those selectors pick
	for _, s := range all {
		if s.Selector == nil {
			if whole != nil {
				a.shadowed(config.MultipleSidecars, s.Ref, "", fmt.Sprintf("Sidecar %s is for the whole namespace, too, and is older: it is used", whole.Ref.Name), "keep one, or add a workloadSelector", whole.Ref, "")
			} else {
				whole = s
			}
			continue
		}
		picked := a.selected(ns, s.Selector)
		if len(picked) == 0 {
			a.add(config.NoMatchingWorkloads, s.Ref, "spec.workloadSelector.labels", fmt.Sprintf("no workload in namespace %s has the labels %s", ns, pairs(s.Selector)), "correct the labels")
		}
		var older *mesh.Sidecar
		for _, in := range picked {
			if taken[in] == nil {
				taken[in] = s
			} else if older == nil {
				older = taken[in]
			}
		}
		if older != nil {
			a.shadowed(config.ConflictingSidecars, s.Ref, "spec.workloadSelector.labels",
				fmt.Sprintf("workloads that it selects are selected by Sidecar %s, too, which is older: it is used for them", older.Ref.Name), "make the selectors exclude each other", older.Ref, "spec.workloadSelector.labels")
		}
	}
	return len(all) > 0
}

// sidecar finds imports of what is not there, protocols that are others, and an egress proxy that is nowhere.
func (a *analysis) sidecar(x subject) bool {
	s, ok := a.Snapshot.Sidecars.Get(mesh.Key(x.name))
	if !ok {
		return false
	}
	for i := range s.Egress {
		for j, m := range s.Egress[i].Hosts {
			at := document.Index(document.Index("spec.egress", i)+".hosts", j)
			a.imports(s, at, m)
		}
		a.spoken(s, i)
	}
	if s.Proxy != nil {
		a.destination(s.Ref, "spec.outboundTrafficPolicy.egressProxy", s.Proxy)
	}
	return true
}

// imports checks that an import is of something.
func (a *analysis) imports(s *mesh.Sidecar, path string, m mesh.Import) {
	anywhere := m.Namespace == "*" || m.Namespace == "."
	if m.Exclude || m.Host == "*" && anywhere || m.Namespace == "." && s.Ref.Namespace == a.Snapshot.Settings.RootNamespace {
		return
	}
	e := &mesh.Egress{Hosts: []mesh.Import{m}}
	own := s.Ref.Namespace
	// As long as what is found first stays, the others do not matter.
	for k, svc := range a.Snapshot.Services.All() {
		if svc.Visible.VisibleTo(own) && e.Imports(own, svc.Namespace, svc.Hostname) {
			a.look(thing{kind: aService, a: string(k)})
			return
		}
	}
	for k, v := range a.Snapshot.VirtualServices.All() {
		if v.Visible.VisibleTo(own) && slices.ContainsFunc(v.Hosts, func(h string) bool { return e.Meets(own, v.Ref.Namespace, h) }) {
			a.look(thing{kind: aVirtualService, a: string(k)})
			return
		}
	}
	a.look(thing{kind: allServices})
	a.look(thing{kind: allVirtualServices})
	hint := "correct the namespace or the host, or export the service to namespace " + own
	if !strings.ContainsAny(m.Host, ".*") {
		ns := m.Namespace
		if anywhere {
			ns = own
		}
		hint = "hosts are fully qualified: write " + m.Namespace + "/" + m.Host + "." + ns + ".svc." + a.Snapshot.Settings.DomainSuffix
	}
	a.add(config.ImportsNothing, s.Ref, path, fmt.Sprintf("namespace %s is exported no service that %s/%s stands for", own, m.Namespace, m.Host), hint)
}

// spoken checks that the protocol an egress port is given is that of the services there,
// which is the one that counts.
func (a *analysis) spoken(s *mesh.Sidecar, i int) {
	e := &s.Egress[i]
	if e.Port == 0 {
		return
	}
	o := a.object(config.IDOf(s.Ref).String())
	if o == nil {
		return
	}
	egress := o.Root().Get("spec").Get("egress")
	if egress == nil || i >= len(egress.Items) {
		return
	}
	given := egress.Items[i].Get("port").Get("protocol").String()
	http := mesh.Protocol(strings.ToLower(given)).IsHTTP()
	a.look(thing{kind: allServices})
	for svc := range a.Snapshot.Services.Values() {
		p := svc.Port(e.Port)
		if given == "" || p == nil || p.Protocol == mesh.Auto || p.Protocol.IsHTTP() == http || !e.Imports(s.Ref.Namespace, svc.Namespace, svc.Hostname) {
			continue
		}
		a.add(config.SchemaWarning, s.Ref, document.Index("spec.egress", i)+".port.protocol",
			fmt.Sprintf("%s is not what port %d of %s is declared to speak, and that counts", given, e.Port, a.short(svc.Hostname)), "declare the protocol at the service's port")
		return
	}
}

// outsider is an object in a namespace that discoverySelectors leave out.
func (a *analysis) outsider(s subject) bool {
	ref, ok := a.Outside.Get(s.name)
	if ok {
		a.add(config.NotDiscovered, ref, "", "has no effect: discoverySelectors leave out namespace "+ref.Namespace, "give the namespace a label that they select, or remove the object")
	}
	return ok
}
