package analyze

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// sidecars finds those that are for nobody, or that an older one beats, and imports of
// what is not there.
func (a *analysis) sidecars() {
	all := slices.Collect(a.Snapshot.Sidecars.Values())
	slices.SortStableFunc(all, func(x, y *mesh.Sidecar) int {
		return cmp.Or(cmp.Compare(x.Ref.Created, y.Ref.Created), strings.Compare(x.Ref.Name, y.Ref.Name))
	})
	whole := map[string]*mesh.Sidecar{}    // by namespace
	taken := map[*instance]*mesh.Sidecar{} // by those selectors pick
	for _, s := range all {
		ns := s.Ref.Namespace
		if s.Selector == nil {
			if older := whole[ns]; older != nil {
				a.shadowed(config.MultipleSidecars, s.Ref, "", fmt.Sprintf("Sidecar %s is for the whole namespace, too, and is older: it is used", older.Ref.Name), "keep one, or add a workloadSelector", older.Ref, "")
			} else {
				whole[ns] = s
			}
		} else {
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
		for i := range s.Egress {
			for j, m := range s.Egress[i].Hosts {
				at := document.Index(document.Index("spec.egress", i)+".hosts", j)
				a.imports(s, at, m)
			}
			a.spoken(s, i)
		}
	}
}

// imports checks that an import is of something.
func (a *analysis) imports(s *mesh.Sidecar, path string, m mesh.Import) {
	anywhere := m.Namespace == "*" || m.Namespace == "."
	if m.Exclude || m.Host == "*" && anywhere || m.Namespace == "." && s.Ref.Namespace == a.Snapshot.Settings.RootNamespace {
		return
	}
	e := &mesh.Egress{Hosts: []mesh.Import{m}}
	own := s.Ref.Namespace
	for svc := range a.Snapshot.Services.Values() {
		if svc.Visible.VisibleTo(own) && e.Imports(own, svc.Namespace, svc.Hostname) {
			return
		}
	}
	for v := range a.Snapshot.VirtualServices.Values() {
		if v.Visible.VisibleTo(own) && slices.ContainsFunc(v.Hosts, func(h string) bool { return e.Meets(own, v.Ref.Namespace, h) }) {
			return
		}
	}
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
	o, e := a.Object(s.Ref), &s.Egress[i]
	if o == nil || e.Port == 0 {
		return
	}
	egress := o.Root().Get("spec").Get("egress")
	if egress == nil || i >= len(egress.Items) {
		return
	}
	given := egress.Items[i].Get("port").Get("protocol").String()
	http := mesh.Protocol(strings.ToLower(given)).IsHTTP()
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

// outsiders are objects in namespaces that discoverySelectors leave out.
func (a *analysis) outsiders() {
	for _, ref := range a.Outside {
		a.add(config.NotDiscovered, ref, "", "has no effect: discoverySelectors leave out namespace "+ref.Namespace, "give the namespace a label that they select, or remove the object")
	}
}
