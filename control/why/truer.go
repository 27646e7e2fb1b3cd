package why

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/control/field"
	"github.com/weirmesh/weir/internal/editdistance"
)

// found is what a cause comes to with what is known besides.
type found struct {
	cause causes.Cause
	more  string // what that adds
	// by are the fields that decided, instead of those that the table says; if aside, there are no others.
	by    []Pointer
	aside bool
	part  string // of the field that decided
	// remedy is what to do, where the cause's own would lead elsewhere; "": that.
	remedy string
}

// soonAfter is how long after a request its other side may be seen to leave for that to be the reason.
const soonAfter = 5 * time.Second

// truer is what a cause comes to with what is known besides.
func truer(c causes.Cause, t *Told, objects Objects) found {
	r := t.Record
	switch c {
	case causes.DownstreamDisconnected, causes.DownstreamReset:
		if causes.Parse(r.GetFlags())&causes.DelayInjected != 0 {
			return found{cause: causes.FaultDelay} // its client would not wait for that
		}
	case causes.UpstreamConnectRefused, causes.UpstreamConnectFailed, causes.UpstreamConnectTimeout:
		return unreached(c, t, objects)
	case causes.UpstreamTerminated, causes.UpstreamConnectionReset, causes.ResponseCut:
		if who := ended(r, objects); who != "" {
			return found{cause: causes.ProxyGone, more: "the proxy of " + who + " ended while it served"}
		}
	case causes.UpstreamProtocolError:
		return upgraded(r, objects)
	case causes.ClusterNotFound:
		for _, d := range r.GetDecisions() {
			if message, by, ok := objects.Rejected(t.Node, d.GetPart(), at(r)); ok && d.GetStage() == "cluster" {
				return found{cause: causes.ConfigurationRejected, more: message, by: by}
			}
		}
		return unseen(t, objects)
	case causes.AccessDenied:
		return denied(r, objects)
	case causes.NotAllowed:
		return found{cause: c, more: unruled(r, objects)}
	case causes.HostNotFound:
		return unoffered(c, t, objects)
	case causes.FilterChainNotFound:
		switch {
		case r.GetAuthority() != "": // the server name of TLS
			return unoffered(c, t, objects)
		case strings.Contains(r.GetDetails(), "{plaintext ") && slices.ContainsFunc(r.GetDecisions(), func(d *observev1.Decision) bool { return d.GetStage() == decider }):
			return found{cause: c, more: "the client speaks plaintext at a port where the Gateway wants TLS", aside: true}
		}
	case causes.DirectResponse, causes.NoEndpoints:
		for _, d := range r.GetDecisions() { // what Istio calls what it does about strangers
			if d.GetStage() == "route" && d.GetPart() == "block_all" || d.GetStage() == "cluster" && d.GetPart() == "BlackHoleCluster" {
				return unlisted(t, objects)
			}
		}
		if c == causes.NoEndpoints {
			return unserved(r, objects)
		}
	}
	return found{cause: c}
}

// unreached is why no connection to an endpoint could be made.
func unreached(c causes.Cause, t *Told, objects Objects) found {
	r := t.Record
	s, tries := r.GetEdge().GetService(), r.GetTries()
	if r.GetEdge().GetSide() != observev1.Side_SIDE_SOURCE {
		if f := placed(c, t, objects); f.by != nil {
			return f
		}
		return misdirected(c, r.GetAsked(), t.Workload, objects.Declares(t.Node), r, objects)
	}
	if len(tries) == 0 {
		return found{cause: c}
	}
	last := tries[len(tries)-1]
	then := at(r).Add(time.Duration(last.GetBeganNano()))
	switch serves, left, known := objects.Serves(s.GetNamespace(), s.GetHost(), last.GetEndpoint(), then); {
	case known && serves && !left.IsZero():
		return found{cause: c, more: last.GetEndpoint() + " was an endpoint of the service still: it left " + left.Sub(then).Round(time.Millisecond).String() + " later"}
	case known && !serves && !left.IsZero():
		return found{cause: causes.EndpointGone, more: last.GetEndpoint() + " had left the service " + then.Sub(left).Round(time.Millisecond).String() + " before"}
	case known && !serves:
		return found{cause: causes.EndpointGone}
	}
	e := endpoint(r, objects)
	if f := misdirected(c, last.GetEndpoint(), e.Workload, e.Declared, r, objects); f.by != nil {
		return f
	}
	if e.Proxied { // which would have accepted it
		if since, _, ok := objects.Proxy(e.Workload); ok && (since.IsZero() || since.After(then)) {
			return found{cause: causes.ProxyGone, more: cmp.Or(last.GetFailure(), "no connection") + ": the proxy of " + e.Workload + " is not there"}
		}
	}
	what, stated := map[causes.Cause]string{causes.UpstreamConnectRefused: "endpoint port", causes.UpstreamConnectFailed: "endpoint address"}[c]
	if !stated || e.Workload != "" {
		return found{cause: c}
	}
	if o, ok := objects.Object(e.Entry.Kind, e.Entry.Namespace, e.Entry.Name); ok && o.Root != nil {
		if path, _ := field.Find(o.Root, what, field.For{Endpoint: last.GetEndpoint()}); path != "" {
			return found{cause: c, by: []Pointer{{e.Entry, what}}}
		}
	}
	if o, ok := objects.Service(s.GetNamespace(), s.GetHost()); ok && o.Kind == "ServiceEntry" {
		return found{cause: c, by: []Pointer{{o, what}}}
	}
	return found{cause: c}
}

// endpoint is that of the last attempt; empty: it is none.
func endpoint(r *observev1.Record, objects Objects) Endpoint {
	tries := r.GetTries()
	if len(tries) == 0 {
		return Endpoint{}
	}
	s := r.GetEdge().GetService()
	for _, e := range objects.Endpoints(s.GetNamespace(), s.GetHost()) {
		if e.Address == tries[len(tries)-1].GetEndpoint() {
			return e
		}
	}
	return Endpoint{}
}

// ended is the workload whose proxy ended while it served a request; "": that is not known. What a program ends its proxy answers for: who
// hangs up on another proxy is a proxy that ends.
func ended(r *observev1.Record, objects Objects) string {
	if r.GetProtocol() == "tcp" || r.GetEdge().GetSide() != observev1.Side_SIDE_SOURCE {
		return ""
	}
	e := endpoint(r, objects)
	if !e.Proxied {
		return ""
	}
	since, left, ok := objects.Proxy(e.Workload)
	began, end := at(r), at(r).Add(time.Duration(r.GetEndedNano()))
	if ok && (since.IsZero() || since.After(began)) && !left.IsZero() && left.After(began) && left.Before(end.Add(soonAfter)) {
		return e.Workload
	}
	return ""
}

// misdirected is whether it is a Service's doing that nobody listens at the port of a workload that was tried.
func misdirected(c causes.Cause, address, workload string, declared []uint16, r *observev1.Record, objects Objects) found {
	a, err := netip.ParseAddrPort(address)
	if c != causes.UpstreamConnectRefused || err != nil || len(declared) == 0 || slices.Contains(declared, a.Port()) {
		return found{cause: c}
	}
	s := r.GetEdge().GetService()
	o, ok := objects.Service(s.GetNamespace(), s.GetHost())
	if !ok {
		return found{cause: c}
	}
	return found{cause: c, more: fmt.Sprintf("nobody listens at port %d, and the containers of %s declare others: %s", a.Port(), workload, listed(declared)),
		by: []Pointer{{o, "targetPort"}}}
}

// placed is whether a Sidecar says where a proxy looks for its application, so that it does not look where the Service leads.
func placed(c causes.Cause, t *Told, objects Objects) found {
	const elsewhere = "ingress[].defaultEndpoint"
	a, err := netip.ParseAddrPort(t.Record.GetAsked())
	if err != nil {
		return found{cause: c}
	}
	out := found{cause: c}
	for _, by := range objects.Applying(Confines, t.Node, 0) {
		if o, ok := objects.Object(by.Kind, by.Namespace, by.Name); !ok || o.Root == nil {
			continue
		} else if path, _ := field.Find(o.Root, elsewhere, field.For{Port: a.Port()}); path != "" {
			out.by, out.aside = []Pointer{{by, elsewhere}}, true
			out.remedy = "does the application listen at the defaultEndpoint of the Sidecar's ingress? its proxy looks for it there, and not at the service's targetPort"
		}
	}
	return out
}

// listed are the first of some ports.
func listed(ports []uint16) string {
	const most = 5
	var out []string
	for _, p := range ports[:min(most, len(ports))] {
		out = append(out, fmt.Sprint(p))
	}
	if len(ports) > most {
		out = append(out, "…")
	}
	return strings.Join(out, ", ")
}

// denied is whether the policy that denies has a mistake.
func denied(r *observev1.Record, objects Objects) found {
	const unaskable = "-deny-due-to-bad-CUSTOM-action" // translate
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := Parse(d.GetObject())
		if !ok || kind != "AuthorizationPolicy" || d.GetStage() != decider || !strings.Contains(r.GetDetails(), "policy["+name+"]") {
			continue
		}
		o, ok := objects.Object(kind, namespace, name)
		switch {
		case !ok || d.GetHash() != "" && o.Hash != "" && d.GetHash() != o.Hash:
		case len(o.Flaws) > 0:
			return found{cause: causes.PolicyBroken, more: o.Flaws[0].Message, by: []Pointer{{Ref{kind, namespace, name}, o.Flaws[0].Field}}, aside: true}
		case strings.Contains(r.GetDetails(), unaskable):
			return found{cause: causes.AccessDenied, more: "its provider cannot be asked about connections, only about requests of HTTP: connections are denied", by: []Pointer{{Ref{kind, namespace, name}, "action"}}, aside: true}
		}
	}
	return found{cause: causes.AccessDenied}
}

// unruled says which policies have no rules, by which they let nobody in.
func unruled(r *observev1.Record, objects Objects) string {
	var all []string
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := Parse(d.GetObject())
		if !ok || kind != "AuthorizationPolicy" || d.GetStage() != decider {
			continue
		}
		o, ok := objects.Object(kind, namespace, name)
		if !ok || o.Root == nil || d.GetHash() != "" && o.Hash != "" && d.GetHash() != o.Hash {
			continue
		}
		if v := field.At(o.Root, "rules"); v == nil || len(v.Items) == 0 {
			all = append(all, kind+" "+namespace+"/"+name+" has no rules: an ALLOW without rules lets nobody in, and so denies all that no other one allows")
		}
	}
	return strings.Join(all, "; ")
}

// unseen is the part of a destination that there is not, or that its caller is not shown, by the name of its cluster
// (direction|port|subset|host).
func unseen(t *Told, objects Objects) found {
	out := found{cause: causes.ClusterNotFound}
	p := strings.Split(clusterOf(t.Record), "|")
	if len(p) != 4 {
		return out
	}
	subset, host := p[2], p[3]
	if _, ok := objects.Known(host, ""); !ok {
		out.part = "host"
		return out
	}
	var uncounted []Ref
	if out.by, _ = objects.Hidden(t.Node, host, ""); out.by == nil && subset != "" {
		out.by, uncounted = objects.Hidden(t.Node, host, subset)
	}
	switch {
	case len(out.by) > 0:
		o := out.by[0]
		out.aside, out.more = true, fmt.Sprintf("%s %s/%s has it, and its exportTo does not show it to the namespace of %s", o.Kind, o.Namespace, o.Name, t.Workload)
		out.remedy = "name the caller's namespace in that exportTo, or define it where the caller sees it"
	case subset != "":
		if out.part = "subset"; len(uncounted) > 0 {
			o := uncounted[0]
			out.more = fmt.Sprintf("%s %s/%s defines it, and does not count for this caller: another one comes first, or it is neither of the caller's namespace, nor of the service's, nor of the root namespace", o.Kind, o.Namespace, o.Name)
		}
	default:
		out.part = "port.number"
	}
	return out
}

// upgraded is whether it is a DestinationRule's doing that HTTP/2 is spoken to somebody who does not.
func upgraded(r *observev1.Record, objects Objects) found {
	const upgrade = "trafficPolicy.connectionPool.http.h2UpgradePolicy"
	out := found{cause: causes.UpstreamProtocolError}
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := Parse(d.GetObject())
		if !ok || d.GetStage() != "cluster" || !misunderstood(r) {
			continue
		}
		if o, ok := objects.Object(kind, namespace, name); ok && o.Root != nil {
			if path, _ := field.Find(o.Root, upgrade, field.Cluster(d.GetPart())); path != "" && field.At(o.Root, path).String() == "UPGRADE" {
				out.by, out.aside = []Pointer{{Ref{kind, namespace, name}, upgrade}}, true
			}
		}
	}
	return out
}

// unoffered is why a gateway does not serve a host.
func unoffered(c causes.Cause, t *Told, objects Objects) found {
	host := t.Record.GetAuthority()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if objects.Hosts(t.Node) != nil {
		if by := objects.Amiss(host); len(by) == 1 { // of several nobody knows which was meant
			return found{cause: c, more: "what is there for " + host + " is not in force because of this", by: by, aside: true}
		}
		if all, by := objects.Elsewhere(t.Node, host); len(all) > 0 {
			o := all[0]
			return found{cause: c, more: fmt.Sprintf("%s is served here by Gateway %s/%s, and %s %s/%s, whose host it is, does not count for that", host, by.Namespace, by.Name, o.Kind, o.Namespace, o.Name),
				by: all[:1], aside: true, remedy: "let the VirtualService name that Gateway, and its exportTo the gateway's namespace"}
		}
	}
	return found{cause: c, more: nearest(t.Record.GetAuthority(), t.Node, objects)}
}

// nearest says which hosts a proxy has that are most like one that it does not have.
func nearest(host, node string, objects Objects) string {
	near := editdistance.Hosts(host, slices.Values(objects.Hosts(node)))
	if len(near) == 0 {
		return ""
	}
	return "the nearest to " + host + " that there are: " + strings.Join(near, ", ")
}

// unlisted is what a workload may not call.
func unlisted(t *Told, objects Objects) found {
	out := found{cause: causes.NotInRegistry}
	o, ok := objects.Known(t.Record.GetAuthority(), t.Record.GetAsked())
	if !ok {
		return out
	}
	out.more = fmt.Sprintf("the mesh has it (%s %s/%s), and does not show it to this workload", o.Kind, o.Namespace, o.Name)
	for _, by := range objects.Applying(Confines, t.Node, 0) {
		out.by, out.aside = append(out.by, Pointer{by, "egress"}), true
	}
	return out
}

// unserved is why a service has no endpoints.
func unserved(r *observev1.Record, objects Objects) found {
	out := found{cause: causes.NoEndpoints}
	s := r.GetEdge().GetService()
	var unready []string
	all := 0
	for _, e := range objects.Endpoints(s.GetNamespace(), s.GetHost()) {
		all++
		if !e.Ready && !slices.Contains(unready, cmp.Or(e.Workload, e.Address)) {
			unready = append(unready, cmp.Or(e.Workload, e.Address))
		}
	}
	if ofSubset(clusterOf(r)) { // whose labels decide
		return out
	}
	out.aside = true
	switch o, ok := objects.Service(s.GetNamespace(), s.GetHost()); {
	case len(unready) == 1:
		out.more = unready[0] + " is not ready"
	case len(unready) > 1:
		out.more = fmt.Sprintf("%d are not ready: %s", len(unready), strings.Join(unready[:min(3, len(unready))], ", "))
	case all > 0:
		out.more = "it has endpoints by now"
	case ok && o.Kind == "Service" && objects.Selects(s.GetNamespace(), s.GetHost()):
		out.more, out.by = "workloads match its selector, and none has a port of that name", []Pointer{{o, "port's targetPort"}}
	case ok && o.Kind == "Service":
		out.by = []Pointer{{o, "selector"}}
	case ok && o.Kind == "ServiceEntry":
		out.by = []Pointer{{o, "endpoints"}}
	}
	return out
}
