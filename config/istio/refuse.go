package istio

import (
	"slices"
	"strconv"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Refuse says what an object asks for by way of protection although it has errors, so
// that traffic is not served with less while no version of it is in force: a
// *mesh.DestinationRule or *mesh.PeerAuthentication that is Refused, an *mesh.AuthorizationPolicy that denies more, a
// *mesh.RequestAuthentication that refuses more tokens, and a finding that
// tells. Both are nil for objects that ask for nothing of the kind, and for those of
// which not even whom they protect can be read. A Sidecar protects nobody: the finding says
// that it limits nothing.
//
// What cannot be read is taken to be the strictest thing it may have meant.
func Refuse(o *config.Object, opts Options) (any, []config.Finding) {
	r := &refuser{o: o, opts: opts, root: o.Root()}
	switch o.ID.Group + "/" + o.ID.Kind {
	case "networking.istio.io/DestinationRule":
		if dr, closed := r.destinationRule(); dr != nil {
			message := "until it is repaired " + dr.Host + " is called with the TLS settings it gives; nothing else of it is in force"
			if closed {
				whom := dr.Host
				if t := dr.Policy.TLS; t == nil || t.Mode != mesh.TLSRefused {
					whom = "ports or subsets of " + whom
				}
				message = "until it is repaired requests to " + whom + " get a 503: they would be less protected than it asks for"
			}
			return dr, []config.Finding{config.New(config.FailClosed, o.Ref, "", 0, message, "repair the object, or remove it")}
		}
	case "networking.istio.io/Sidecar":
		return nil, []config.Finding{config.New(config.LimitsNothing, o.Ref, "", 0,
			"until it is repaired it limits nothing: its workloads see and reach what they do without it", "repair the object, or remove it")}
	case "security.istio.io/PeerAuthentication":
		if pa := r.peerAuthentication(); pa != nil {
			whom := "workloads of namespace " + o.ID.Namespace
			if pa.Selector != nil {
				whom = "the workloads it selects"
			}
			if pa.Mode == mesh.MTLSUnset {
				whom = "some ports of " + whom
			}
			return pa, []config.Finding{config.New(config.FailClosed, o.Ref, "", 0,
				"until it is repaired "+whom+" accept nothing but mesh mTLS, because it may ask for that", "repair the object, or remove it")}
		}
	case "security.istio.io/RequestAuthentication":
		if ra := r.requestAuthentication(); ra != nil {
			whom := "workloads of namespace " + o.ID.Namespace
			if ra.Selector != nil {
				whom = "the workloads it selects"
			}
			return ra, []config.Finding{config.New(config.FailClosed, o.Ref, "", 0, "until it is repaired "+whom+" refuse all tokens of its rules that have errors", "repair the object, or remove it")}
		}
	case "security.istio.io/AuthorizationPolicy":
		if p := r.authorizationPolicy(); p != nil {
			whom, what := "workloads of namespace "+o.ID.Namespace, "deny what it may deny"
			if p.Selector != nil {
				whom = "the workloads it selects"
			}
			if p.Action == mesh.AuthorizationAllow {
				what = "allow nothing by those of its rules that have errors"
			}
			return p, []config.Finding{config.New(config.FailClosed, o.Ref, "", 0, "until it is repaired "+whom+" "+what, "repair the object, or remove it")}
		}
	}
	if g := o.ID.Group; g == "rbac.istio.io" || g == "authentication.istio.io" {
		kept, what := r.legacy()
		return kept, []config.Finding{config.New(config.FailClosed, o.Ref, "", 0, "until it is repaired "+what, "repair the object, or remove it")}
	}
	return nil, nil
}

type refuser struct {
	o    *config.Object
	opts Options
	root *document.Value
}

// lowerer begins a reading of its own, whose findings are only looked at here.
func (r *refuser) lowerer() *lowerer {
	return &lowerer{Report: config.NewReport(r.o), o: r.o, ns: r.o.ID.Namespace, suffix: r.opts.DomainSuffix}
}

// failedAt reports whether something at or below path has an error.
func failedAt(l *lowerer, path string) bool {
	return slices.ContainsFunc(l.Findings, func(f config.Finding) bool {
		rest, ok := strings.CutPrefix(f.FieldPath, path)
		return f.Severity == config.Error && ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// destinationRule keeps what the rule says about TLS; closed says that some of it cannot
// be given.
func (r *refuser) destinationRule() (dr *mesh.DestinationRule, closed bool) {
	spec := r.root.Get("spec")
	if spec == nil {
		return nil, false
	}
	m := &networkingv1alpha3.DestinationRule{}
	l := r.lowerer()
	document.Proto(spec, "spec", m, l.problem)
	host := r.lowerer()
	if m.Host == "" || !host.host("spec.host", m.Host, true, false) {
		return nil, false
	}
	dr = &mesh.DestinationRule{Ref: r.o.Ref, Refused: true, Host: l.fqdn(m.Host), Visible: l.exportTo(m.ExportTo, false)}
	if failedAt(l, "spec.exportTo") {
		dr.Visible = mesh.Visibility{}
	}
	if m.WorkloadSelector != nil && !failedAt(l, "spec.workloadSelector") {
		dr.WorkloadSelector = l.selector("spec.workloadSelector.matchLabels", m.WorkloadSelector.MatchLabels)
	}

	dr.Policy.TLS, dr.PortPolicies = r.policy(spec.Get("trafficPolicy"))
	if asks(r.root, "spec", "metadata", "status") || asks(spec, "trafficPolicy", "subsets") {
		dr.Policy.TLS = refusedTLS()
	}
	subsets := spec.Get("subsets")
	if subsets != nil && subsets.Kind != document.List && asks(subsets) {
		dr.Policy.TLS = refusedTLS()
	}
	for _, s := range items(subsets) {
		name := s.Get("name").String()
		if name == "" {
			continue // nobody can route to it
		}
		var p mesh.TrafficPolicy
		sub := mesh.Subset{Name: name}
		p.TLS, sub.PortPolicies = r.policy(s.Get("trafficPolicy"))
		if asks(s, "trafficPolicy", "labels") {
			p.TLS = refusedTLS()
		}
		if p.TLS != nil {
			sub.Policy = &p
		}
		dr.Subsets = append(dr.Subsets, sub)
	}

	secured := false
	look := func(t *mesh.ClientTLS, ports map[uint16]mesh.TrafficPolicy) {
		secured = secured || t != nil
		closed = closed || t != nil && t.Mode == mesh.TLSRefused
		for _, p := range ports {
			secured = secured || p.TLS != nil
			closed = closed || p.TLS != nil && p.TLS.Mode == mesh.TLSRefused
		}
	}
	look(dr.Policy.TLS, dr.PortPolicies)
	for _, s := range dr.Subsets {
		if look(nil, s.PortPolicies); s.Policy != nil {
			look(s.Policy.TLS, nil)
		}
	}
	if !secured {
		return nil, false
	}
	return dr, closed
}

func refusedTLS() *mesh.ClientTLS { return &mesh.ClientTLS{Mode: mesh.TLSRefused} }

func items(v *document.Value) []*document.Value {
	if v == nil || v.Kind != document.List {
		return nil
	}
	return v.Items
}

// policy is what a traffic policy says about TLS, and by port.
func (r *refuser) policy(v *document.Value) (*mesh.ClientTLS, map[uint16]mesh.TrafficPolicy) {
	t := r.tls(v)
	var ports map[uint16]mesh.TrafficPolicy
	settings := v.Get("portLevelSettings")
	if settings != nil && settings.Kind != document.List && asks(settings) {
		t = refusedTLS()
	}
	for _, s := range items(settings) {
		own := r.tls(s)
		number := s.Get("port").Get("number")
		if number == nil {
			number = &document.Value{}
		}
		n, err := strconv.ParseUint(number.Text, 10, 16)
		switch {
		case err == nil && n > 0:
			if ports == nil {
				ports = map[uint16]mesh.TrafficPolicy{}
			}
			if ports[uint16(n)].TLS == nil {
				ports[uint16(n)] = mesh.TrafficPolicy{TLS: own}
			}
		case own != nil: // of which port?
			t = refusedTLS()
		}
	}
	return t, ports
}

// tls is what v.tls says: nil if it asks for no protection, mode TLSRefused if what it
// asks for cannot be known, or given.
func (r *refuser) tls(v *document.Value) *mesh.ClientTLS {
	if asks(v, "tls", "portLevelSettings") {
		return refusedTLS()
	}
	t := v.Get("tls")
	if t == nil || t.Kind == document.Null {
		return nil
	}
	const path = "spec.trafficPolicy.tls"
	l := r.lowerer()
	m := &networkingv1alpha3.ClientTLSSettings{}
	document.Proto(t, path, m, l.problem)
	out := l.clientTLS(path, m)
	for _, g := range gaps["DestinationRule"] {
		if rest, ok := strings.CutPrefix(g.path, path+"."); ok {
			l.gap(t, path, rest, g)
		}
	}
	switch {
	case l.Failed():
		return refusedTLS()
	case out.Mode == "DISABLE":
		return nil
	}
	return out
}

// asks reports whether there is something in v, in fields other than those named, that
// speaks about TLS, or nearly so: misspelt, or at a place where it has no meaning. A
// tunnel counts, too: not to go through it is to go unprotected.
func asks(v *document.Value, except ...string) bool {
	if v == nil {
		return false
	}
	for _, f := range v.Fields {
		switch {
		case slices.Contains(except, f.Name), f.Name == "labels", f.Name == "matchLabels", f.Value.Kind == document.Null:
		case f.Name == "tunnel", document.Suggest(f.Name, []string{"tls"}) != "", asks(f.Value):
			return true
		}
	}
	return slices.ContainsFunc(v.Items, func(item *document.Value) bool { return asks(item) })
}

// peerAuthentication keeps STRICT, and takes for STRICT what cannot be read.
func (r *refuser) peerAuthentication() *mesh.PeerAuthentication {
	spec := r.root.Get("spec")
	pa := &mesh.PeerAuthentication{Ref: r.o.Ref, Refused: true, Selector: r.selector(spec.Get("selector"))}
	whole, ports := spec.Get("mtls"), spec.Get("portLevelMtls")
	switch {
	case whole != nil && whole.Kind != document.Null:
		pa.Mode = strict(whole)
	case ports == nil || ports.Kind != document.Map:
		pa.Mode = mesh.MTLSStrict // it says nothing that can be read
	}
	if ports != nil {
		for _, f := range ports.Fields {
			if strict(f.Value) != mesh.MTLSStrict {
				continue
			}
			n, err := strconv.ParseUint(f.Name, 10, 16)
			if err != nil || n == 0 || pa.Selector == nil { // of which port, of whom?
				pa.Mode = mesh.MTLSStrict
				continue
			}
			if pa.Ports == nil {
				pa.Ports = map[uint16]mesh.MTLSMode{}
			}
			pa.Ports[uint16(n)] = mesh.MTLSStrict
		}
	}
	if pa.Mode == mesh.MTLSUnset && pa.Ports == nil {
		return nil
	}
	return pa
}

// strict is MTLSStrict unless v says something else.
func strict(v *document.Value) mesh.MTLSMode {
	mode, ok := securityv1beta1.PeerAuthentication_MutualTLS_Mode_value[v.Get("mode").String()]
	if v.Kind != document.Map || !ok || mtlsModes[securityv1beta1.PeerAuthentication_MutualTLS_Mode(mode)] == mesh.MTLSStrict {
		return mesh.MTLSStrict
	}
	return mesh.MTLSUnset
}

// selector is nil, which is the whole namespace, if it cannot be read.
func (r *refuser) selector(v *document.Value) mesh.Labels {
	labels := v.Get("matchLabels")
	if labels == nil || labels.Kind != document.Map {
		return nil
	}
	out := mesh.Labels{}
	for _, f := range labels.Fields {
		if f.Value.Kind != document.String {
			return nil
		}
		out[f.Name] = f.Value.Text
	}
	l := r.lowerer()
	l.selector("spec.selector.matchLabels", out)
	if l.Failed() {
		return nil
	}
	return meshLabels(out)
}
