package verdict

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
)

// viewer is a class of clients that have a sidecar.
type viewer struct {
	mesh.Sight
	labels mesh.Labels // they have these, at least
}

// viewers are those who may see x: those of its own namespace first. What can depend on labels
// is covered by one who has them.
func (v *View) viewers(x *expanded) []*viewer {
	var out []*viewer
	namespaces := slices.Insert(slices.Clone(v.namespace), 0, x.Ref.Namespace)
	var asked []mesh.Labels
	ask := func(l mesh.Labels) {
		if len(l) > 0 && !slices.ContainsFunc(asked, func(o mesh.Labels) bool { return maps.Equal(o, l) }) {
			asked = append(asked, l)
		}
	}
	for _, r := range x.rules {
		for i := range r.Matches {
			ask(r.Matches[i].SourceLabels)
		}
	}
	for _, m := range l4Matches(x.VirtualService) {
		ask(m.SourceLabels)
	}
	for i, ns := range namespaces {
		if slices.Contains(namespaces[:i], ns) {
			continue
		}
		all := append([]mesh.Labels{{}}, asked...)
		for _, s := range v.sidecars[ns] {
			if len(s.Selector) > 0 {
				all = append(all, s.Selector)
			}
		}
		for _, l := range all {
			out = append(out, &viewer{mesh.Sight{Namespace: ns, Sidecar: v.sidecarOf(ns, l)}, l})
		}
	}
	return out
}

func (v *View) sidecarOf(namespace string, labels mesh.Labels) *mesh.Sidecar {
	return mesh.SidecarFor(v.sidecars[namespace], v.sidecars[v.snap.Settings.RootNamespace], labels)
}

// speaker is the VirtualService that speaks for host to w, and the host by which it does.
func (v *View) speaker(host string, w *viewer) (x *expanded, pattern string) {
	find := func(p string) bool {
		for _, c := range v.byHost[p] {
			if w.SeesRules(c.VirtualService) {
				x, pattern = c, p
				return false
			}
		}
		return true
	}
	if find(host) {
		mesh.Wider(host, find)
	}
	return x, pattern
}

// inMesh judges the rules of x for sidecars.
func (v *View) inMesh(x *expanded, out *judged) {
	for _, w := range v.viewers(x) {
		if !w.SeesRules(x.VirtualService) {
			continue
		}
		for _, h := range slices.Compact(slices.Sorted(slices.Values(x.Hosts))) {
			v.host(x, h, w, out)
		}
		if out.settled() {
			return
		}
	}
	out.all(rejected("no namespace sees it: its exportTo names none, or Sidecars import none of its hosts"))
}

// host judges the rules of x for one of its hosts, in the eyes of w.
func (v *View) host(x *expanded, h string, w *viewer, out *judged) {
	hosts := []string{h}
	if strings.HasPrefix(h, "*") {
		for o := range v.hosts {
			if o != h && mesh.Covers(h, o) {
				hosts = append(hosts, o)
			}
		}
		slices.Sort(hosts[1:])
	}
	for _, host := range hosts {
		s := w.Service(v.hosts[host])
		speaker, pattern := v.speaker(host, w)
		switch {
		case s == nil && host != h:
		case speaker != x:
			part := "spec.hosts"
			out.all(shadowed(&speaker.Ref, part, "VirtualService %s/%s speaks for host %s: it names it more exactly, or is older", speaker.Ref.Namespace, speaker.Ref.Name, host))
		case s == nil && pattern == host:
			v.onPort(x, host, nil, &mesh.Port{Number: lonePort, Protocol: mesh.HTTP}, w, out)
		case s != nil:
			for i := range s.Ports {
				if p := &s.Ports[i]; p.Protocol != mesh.UDP && s.Port(p.Number) == p && w.Port(s, p.Number) {
					v.onPort(x, host, s, p, w, out)
				}
			}
			out.all(rejected("service %s has no port that clients see and that speaks what the rule is for", host))
		}
	}
}

// lonePort is where hosts are served that only a VirtualService knows.
const lonePort = 80

// onPort judges the rules of x for a port of a host.
func (v *View) onPort(x *expanded, host string, s *mesh.Service, p *mesh.Port, w *viewer, out *judged) {
	if p.Protocol.IsHTTP() || p.Protocol == mesh.Auto {
		in := &room{scheme: "http", labels: w.labels, authorities: v.asked(host, s, p, w)}
		to := netip.AddrPortFrom(netip.Addr{}, p.Number)
		if s != nil && len(s.Addresses) > 0 {
			to = netip.AddrPortFrom(s.Addresses[0], p.Number)
		}
		if s != nil && p.Protocol == mesh.Auto && len(v.addressesOf(s, p)) > 0 { // the address says which host is meant
			to = netip.AddrPortFrom(v.addressesOf(s, p)[0], p.Number)
			in.authorities = append(in.authorities, covered("*", nil, `:[0-9]+`)...)
		}
		v.inRoom(in, x.entries(mesh.Mesh, p.Number, w.Namespace), out, x, func(e *Example) bool {
			e.Namespace, e.To = w.Namespace, to
			return v.sidecarOf(w.Namespace, e.Labels) == w.Sidecar
		})
	}
	if s != nil && !p.Protocol.IsHTTP() {
		v.connections(x, s, p, w, out)
	}
}

// entries are the matches of x's rules that count in a place, on a port, for clients of a
// namespace; of labels nothing is said yet.
func (x *expanded) entries(place string, port uint16, namespace string) []entry {
	var out []entry
	for _, r := range x.rules {
		matches := r.Matches
		if len(matches) == 0 {
			matches = []mesh.HTTPMatch{{}}
		}
		for i := range matches {
			if m := &matches[i]; x.admits(m.Gateways, m.Port, m.SourceNamespace, place, port, namespace) {
				out = append(out, entry{r, m})
			}
		}
	}
	return out
}

func (x *expanded) admits(gateways []string, port uint16, source, place string, at uint16, namespace string) bool {
	if gateways == nil {
		gateways = x.Gateways
	}
	return slices.Contains(gateways, place) && (port == 0 || port == at) && (source == "" || source == namespace)
}

// inRoom judges those rules of x that entries are of. accept completes an example, and may
// say that it does not count.
func (v *View) inRoom(in *room, entries []entry, out *judged, x *expanded, accept func(*Example) bool) {
	for n, r := range x.rules {
		d := &out.http[n]
		if d.State == Active && d.Sample != nil {
			continue
		}
		some := false
		for i := range entries {
			e := &entries[i]
			if e.rule != r {
				continue
			}
			some = true
			s := search{machines: v.machines, paths: v.snap.Settings.Paths}
			request, state, by := s.reachable(in, entries[:i], e)
			switch {
			case state == found:
				if example := request.example(); accept(example) {
					d.better(active(example))
				}
			case state == unknown: // nobody can say that nothing gets there
				d.better(active(nil))
			case by == nil:
				d.better(rejected("nothing can match: no request has what it asks for"))
			case by.rule != r:
				whose := ""
				if by.rule.ref != r.ref {
					whose = fmt.Sprintf(" of VirtualService %s/%s", by.rule.ref.Namespace, by.rule.ref.Name)
				}
				d.better(shadowed(by.rule.ref, by.rule.part, "%s%s already matches all that it matches", by.rule.part, whose))
			}
		}
		if !some {
			d.better(rejected("none of its matches is for this place: they name other gateways, ports or namespaces of clients"))
		}
	}
}

// names are what a host is called on a port, by w: complete names first.
func (v *View) names(host string, s *mesh.Service, port uint16, w *viewer) []string {
	out := []string{strings.ToLower(host)}
	if s != nil && s.Hostname == s.Name+"."+s.Namespace+".svc."+v.snap.Settings.DomainSuffix {
		short := []string{s.Name + "." + s.Namespace + ".svc", s.Name + "." + s.Namespace}
		if s.Namespace == w.Namespace {
			short = append(short, s.Name)
		}
		for _, n := range short {
			if v.hosts[n] == nil && v.byHost[n] == nil { // else it is another's complete name
				out = append(out, n)
			}
		}
	}
	for _, n := range slices.Clone(out) {
		out = append(out, fmt.Sprintf("%s:%d", n, port))
	}
	return out
}

// asked are the ways in which a host is asked for on a port.
func (v *View) asked(host string, s *mesh.Service, p *mesh.Port, w *viewer) []way {
	if !strings.HasPrefix(host, "*") {
		var out []way
		for _, n := range v.names(host, s, p.Number, w) {
			out = append(out, way{in: []pattern{exactly(n)}})
		}
		return out
	}
	var others []string
	note := func(o string) {
		if o == host || strings.HasPrefix(o, "*") && !mesh.Covers(host, o) {
			return
		}
		t := w.Service(v.hosts[o])
		if t == nil {
			if x, pattern := v.speaker(o, w); p.Number != lonePort || x == nil || pattern != o {
				return
			}
		} else if q := t.Port(p.Number); q == nil || !q.Protocol.IsHTTP() && q.Protocol != mesh.Auto || !w.Port(t, p.Number) {
			return
		}
		others = append(others, v.names(o, t, p.Number, w)...)
	}
	for o := range v.hosts {
		note(o)
	}
	for o := range v.byHost {
		if v.hosts[o] == nil {
			note(o)
		}
	}
	return covered(host, others, fmt.Sprintf(":%d", p.Number))
}

// oneLabel is a part of a host name.
const oneLabel = `[a-z0-9]([a-z0-9-]*[a-z0-9])?`

// covered are the ways to ask for a wildcard, with and without a port, but for those of the
// others that are more specific.
func covered(wildcard string, others []string, ports ...string) []way {
	suffix := regexp.QuoteMeta(strings.ToLower(strings.TrimPrefix(wildcard, "*")))
	var not []pattern
	slices.Sort(others)
	for _, o := range slices.Compact(others) {
		if rest, ok := strings.CutPrefix(o, "*"); ok {
			not = append(not, like(".*"+regexp.QuoteMeta(rest)))
		} else {
			not = append(not, exactly(o))
		}
	}
	var out []way
	for _, port := range append([]string{""}, ports...) {
		name := like(oneLabel + `(\.` + oneLabel + `)*` + suffix + port)
		out = append(out, way{[]pattern{name}, not, strings.TrimPrefix("any-one"+strings.TrimPrefix(wildcard, "*")+strings.Replace(port, "[0-9]+", "80", 1), ".")})
	}
	return out
}
