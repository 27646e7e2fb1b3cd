package why

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/control/field"
)

// decisive is which object decides about a cause, by the stage whose object it is ("": see of), and where in it.
type decisive struct {
	stage, path string
	tcp         bool // of relayed connections only
}

// decider is the stage of objects that records name because they decided: policies, and what says what is served.
const decider = "decider"

var fields = map[causes.Cause]decisive{
	causes.ClusterNotFound:            {stage: "route", path: "http[].route[].destination"},
	causes.DirectResponse:             {stage: "route", path: "http[].directResponse"},
	causes.FaultAbort:                 {stage: "route", path: "http[].fault.abort"},
	causes.FaultDelay:                 {stage: "route", path: "http[].fault.delay"},
	causes.CORSPreflight:              {stage: "route", path: "http[].corsPolicy"},
	causes.UpstreamTimeout:            {stage: "route", path: "http[].timeout"},
	causes.UpstreamPerTryTimeout:      {stage: "route", path: "http[].retries.perTryTimeout"},
	causes.EndpointsEjected:           {stage: "cluster", path: "trafficPolicy.outlierDetection"},
	causes.NoEndpoints:                {stage: "cluster", path: "subsets"},
	causes.UpstreamOverflow:           {stage: "cluster", path: "trafficPolicy.connectionPool.http.http2MaxRequests"},
	causes.PendingOverflow:            {stage: "cluster", path: "trafficPolicy.connectionPool.http.http1MaxPendingRequests"},
	causes.ConnectionsOverflow:        {stage: "cluster", path: "trafficPolicy.connectionPool.tcp.maxConnections"},
	causes.StreamIdleTimeout:          {stage: "cluster", path: "trafficPolicy.connectionPool.tcp.idleTimeout", tcp: true},
	causes.ConnectionDurationReached:  {stage: "cluster", path: "trafficPolicy.connectionPool.tcp.maxConnectionDuration", tcp: true},
	causes.NameNotResolved:            {path: "hosts"},
	causes.AccessDenied:               {stage: decider, path: "rules"},
	causes.NotAllowed:                 {stage: decider, path: "rules"},
	causes.ExtAuthzDenied:             {stage: decider, path: "provider"},
	causes.ExtAuthzError:              {stage: decider, path: "provider"},
	causes.ExtAuthzTooLarge:           {stage: decider, path: "provider"},
	causes.RouteNotFound:              {stage: decider, path: "http"},
	causes.DownstreamTLSFailed:        {stage: decider, path: "servers[].tls"},
	causes.UpstreamProtocolError:      {path: "ports"},
	causes.NotInRegistry:              {path: "outboundTrafficPolicy"},
	causes.ChainRemoved:               {path: "mtls"},
	causes.FilterChainNotFound:        {path: "mtls"},
	causes.TokenRefused:               {stage: decider, path: "jwtRules"},
	causes.TokenMissing:               {stage: decider, path: "jwtRules"},
	causes.TokenExpired:               {stage: decider, path: "jwtRules"},
	causes.TokenKeyUnknown:            {stage: decider, path: "jwtRules"},
	causes.TokenKeysUnavailable:       {stage: decider, path: "jwtRules"},
	causes.UpstreamConnectTimeout:     {stage: "cluster", path: "trafficPolicy.connectionPool.tcp.connectTimeout"},
	causes.UpstreamIdleClosed:         {stage: "cluster", path: "trafficPolicy.connectionPool.http.idleTimeout"},
	causes.UpstreamNotTLS:             {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamTLSRefused:         {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamTLSEnded:           {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamTLSFailed:          {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamCertificateRefused: {stage: "cluster", path: "trafficPolicy.tls"},
}

// settings are those of which no object has any: defaults, and what a proxy's own bootstrap says; by the stage whose they are.
var settings = map[causes.Cause]struct{ stage, name string }{
	causes.RequestHeaderTimeout:      {"listener", "request_headers_timeout"},
	causes.RequestTimeout:            {"listener", "request_timeout"},
	causes.StreamIdleTimeout:         {"listener", "stream_idle_timeout"},
	causes.StreamIdleTimeoutUpstream: {"listener", "stream_idle_timeout"},
	causes.StreamDurationReached:     {"listener", "max_stream_duration"},
	causes.MaxDurationReached:        {"cluster", "max_stream_duration"},
	causes.UpstreamPerTryIdleTimeout: {"route", "per_try_idle_timeout"},
}

// unset says which setting decided that no object has; "": an object did, or nobody knows.
func unset(c causes.Cause, r *observev1.Record) string {
	s, ok := settings[c]
	if !ok || fields[c].of(r).path != "" {
		return ""
	}
	out := s.name + " of the " + s.stage
	if i := slices.IndexFunc(r.GetDecisions(), func(d *observev1.Decision) bool { return d.GetStage() == s.stage && d.GetPart() != "" }); i >= 0 {
		out += " " + r.GetDecisions()[i].GetPart()
	}
	return out + ", which no object sets: it is a default, or of the proxy's bootstrap"
}

// of is f as far as it is about a record.
func (f decisive) of(r *observev1.Record) decisive {
	served := slices.ContainsFunc(r.GetDecisions(), func(d *observev1.Decision) bool { return d.GetStage() == decider })
	switch {
	case f.tcp && r.GetProtocol() != "tcp":
		return decisive{}
	case f.path == "mtls" && served: // at a gateway: it is not who comes, but what for
		return decisive{stage: decider, path: "servers"}
	case strings.HasPrefix(f.path, "http[].") && r.GetProtocol() == "tcp":
		f.path = "tcp[]." + strings.TrimPrefix(f.path, "http[].")
	case f.path == "ports" && !misunderstood(r):
		return decisive{}
	}
	return f
}

// misunderstood reports whether an answer was in no version of HTTP that was expected, or none at all.
func misunderstood(r *observev1.Record) bool {
	tries := r.GetTries()
	return len(tries) > 0 && slices.ContainsFunc(otherProtocols, func(what string) bool { return strings.Contains(tries[len(tries)-1].GetFailure(), what) })
}

// otherProtocols are what proxies say of answers in other protocols.
var otherProtocols = []string{"http2.http1_response", "http2.frame_too_large", "http1.invalid_status_line"}

// deciders are the objects that decided about a request, the one that the cause is about first.
func deciders(what found, t *Told, objects Objects) []apiv1.Decider {
	r, c := t.Record, what.cause
	var out []apiv1.Decider
	lead := 0 // how many the cause is about
	add := func(d apiv1.Decider, first bool) {
		same := func(o apiv1.Decider) bool { return o.Kind == d.Kind && o.Namespace == d.Namespace && o.Name == d.Name }
		if i := slices.IndexFunc(out, same); i >= 0 { // what details say of it comes first; where it is, its decision knows better
			out[i].File, out[i].Line = cmp.Or(d.File, out[i].File), cmp.Or(d.Line, out[i].Line)
			if out[i].Hash = cmp.Or(d.Hash, out[i].Hash); d.Hash != "" {
				look(&out[i], r, objects)
			}
			return
		}
		look(&d, r, objects)
		if first {
			out = slices.Insert(out, lead, d)
			lead++
		} else {
			out = append(out, d)
		}
	}
	if c == causes.DestinationRefused {
		for i, d := range refused(r.GetDetails()) {
			d.Field = map[string]string{"DestinationRule": "trafficPolicy.tls", "PeerAuthentication": "mtls"}[d.Kind]
			add(d, i == 0)
		}
	}
	for _, p := range what.by {
		add(apiv1.Decider{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, Field: p.Field}, true)
	}
	f := fields[c].of(r)
	switch {
	case what.aside:
		f = decisive{}
	case c == causes.DownstreamTLSFailed && r.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION:
		f = decisive{}
		if unshown.in(r.GetDetails()) {
			f.path = "mtls"
		}
	}
	if f.path != "" && f.stage == "" {
		for _, o := range of(c, t, objects) {
			add(apiv1.Decider{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Field: f.path}, true)
		}
	}
	several := 0
	for _, d := range r.GetDecisions() {
		if d.GetStage() == decider {
			several++
		}
	}
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := Parse(d.GetObject())
		if !ok {
			continue
		}
		x := apiv1.Decider{Kind: kind, Namespace: namespace, Name: name, Hash: d.GetHash(), File: d.GetFile(), Line: int(d.GetLine())}
		decides := f.stage != "" && d.GetStage() == f.stage
		if decides && (several < 2 || together[f.path] || f.stage != decider) { // of others nobody knows which it was
			x.Field = f.path
		}
		if rule, ok := ruleOf(r.GetDetails()); decides && ok && kind == "AuthorizationPolicy" { // of older kinds they are not the object's
			x.Field = "rules[" + rule + "]"
		}
		add(x, decides)
	}
	for i := range out {
		find(&out[i], what, r, objects)
	}
	if binds := func(d apiv1.Decider) bool { return d.Kind == "ServiceRoleBinding" && d.Field != "" }; c == causes.NotAllowed && slices.ContainsFunc(out, binds) {
		for i := range out {
			if out[i].Kind == "ClusterRbacConfig" || out[i].Kind == "RbacConfig" { // it says that roles are needed, they say whose
				out[i].Field = ""
			}
		}
	}
	slices.SortStableFunc(out, func(a, b apiv1.Decider) int { return cmp.Compare(min(1, len(b.Field)), min(1, len(a.Field))) })
	return out
}

// across adds what the caller's side has to do with a connection that the other one refused: how it secures them.
func across(c causes.Cause, caller *Told, refused *observev1.Record, decided []apiv1.Decider, objects Objects) []apiv1.Decider {
	if c != causes.FilterChainNotFound && c != causes.DownstreamTLSFailed {
		return decided
	}
	r := caller.Record
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := Parse(d.GetObject())
		if !ok || d.GetStage() != "cluster" || kind != "DestinationRule" {
			continue
		}
		x := apiv1.Decider{Kind: kind, Namespace: namespace, Name: name, Hash: d.GetHash(), File: d.GetFile(), Line: int(d.GetLine()), Field: "trafficPolicy.tls"}
		if look(&x, r, objects); x.Changed || x.Gone {
			continue // what it said then nobody knows
		}
		if o, ok := objects.Object(kind, namespace, name); !ok || o.Root == nil {
			continue
		}
		aimed(&x, r, objects, func(path string, tls *document.Value) string {
			switch {
			case tls == nil || c == causes.FilterChainNotFound && tls.Get("mode").String() == "ISTIO_MUTUAL":
				return ""
			case c == causes.FilterChainNotFound:
				return join(path, tls, "mode")
			}
			return ofTLS(causes.UpstreamTLSRefused, path, refused.GetDetails(), tls)
		})
		if x.Field != "" {
			decided = slices.Insert(decided, 0, x)
		}
	}
	return decided
}

// together are the fields by which several objects decide as one.
var together = map[string]bool{"rules": true, "http": true}

// absent are the fields whose absence decides as well: nobody is allowed, or there are no endpoints.
var absent = []string{"rules", "selector", "endpoints"}

// old are the kinds of Istio before 1.5.
var old = []string{"ServiceRole", "ServiceRoleBinding", "ClusterRbacConfig", "RbacConfig", "Policy", "MeshPolicy"}

// find finds the field in the object's text, if that is what decided, and the part of it that the failure is about.
func find(d *apiv1.Decider, what found, r *observev1.Record, objects Objects) {
	if what.cause == causes.DestinationRefused {
		flawed(d, r, objects)
	}
	aimed(d, r, objects, func(path string, v *document.Value) string { return aim(what, path, r, v) })
}

// flawed is the field of an object that is kept closed because of a mistake, if it has one.
func flawed(d *apiv1.Decider, r *observev1.Record, objects Objects) {
	o, ok := objects.Object(d.Kind, d.Namespace, d.Name)
	if !ok || d.Field == "" || d.Changed {
		return
	}
	i := slices.IndexFunc(o.Flaws, func(f Flaw) bool { return strings.HasPrefix(f.Field, d.Field) })
	if i >= 0 {
		d.Field = o.Flaws[i].Field
	}
}

// aimed finds the field in the object's text, and narrows it.
func aimed(d *apiv1.Decider, r *observev1.Record, objects Objects, narrow func(path string, v *document.Value) string) {
	o, ok := objects.Object(d.Kind, d.Namespace, d.Name)
	if !ok || d.Field == "" || d.Changed || o.Root == nil {
		return
	}
	f := field.For{Line: d.Line}
	if name := clusterOf(r); name != "" {
		f = field.Cluster(name)
		f.Line = d.Line
	}
	if a, err := netip.ParseAddrPort(r.GetAsked()); err == nil && r.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION {
		f.Port = a.Port()
	}
	if t := r.GetTries(); len(t) > 0 {
		f.Endpoint = t[len(t)-1].GetEndpoint()
	}
	path, line := field.Find(o.Root, d.Field, f)
	if path == "" && slices.Contains(absent, d.Field) && !slices.Contains(old, d.Kind) {
		return
	}
	if narrower := narrow(path, field.At(o.Root, path)); narrower != path {
		path, line = narrower, o.Root.LineOf("spec."+narrower)
	}
	if d.Field = path; line > 0 && o.File != "" {
		d.File, d.Line = o.File, line
	}
}

// of are the objects that decide about a cause at a workload, and that no record names.
func of(c causes.Cause, t *Told, objects Objects) []Ref {
	r := t.Record
	switch c {
	case causes.NameNotResolved, causes.UpstreamProtocolError:
		s := r.GetEdge().GetService()
		if o, ok := objects.Service(s.GetNamespace(), s.GetHost()); ok {
			return []Ref{o}
		}
	case causes.NotInRegistry:
		return objects.Applying(Confines, t.Node, 0)
	case causes.FilterChainNotFound, causes.ChainRemoved, causes.DownstreamTLSFailed:
		if a, err := netip.ParseAddrPort(r.GetAsked()); err == nil && r.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION {
			return objects.Applying(Secures, t.Node, a.Port())
		}
	}
	return nil
}

// ofSubset reports whether a cluster (direction|port|subset|host) is of a subset.
func ofSubset(name string) bool {
	p := strings.Split(name, "|")
	return len(p) == 4 && p[2] != ""
}

// look says what is known of an object now. Where its text is, the record says of then.
func look(d *apiv1.Decider, r *observev1.Record, objects Objects) {
	o, ok := objects.Object(d.Kind, d.Namespace, d.Name)
	if !ok {
		d.Gone = true
		return
	}
	d.File = cmp.Or(d.File, o.File)
	if d.Line == 0 {
		d.Line = o.Line
	}
	if d.Quarantined = o.Quarantined; !o.Since.IsZero() {
		d.Since = &o.Since
	}
	if d.Hash == "" || o.Hash == "" {
		d.Changed = o.Since.After(at(r).Add(time.Duration(r.GetEndedNano())))
		return
	}
	d.Changed = d.Hash != o.Hash
	d.Behind = d.Changed && !o.Since.IsZero() && o.Since.Before(at(r))
}

// Parse reads the path of an object: /apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME, its kind in words with hyphens.
func Parse(path string) (kind, namespace, name string, ok bool) {
	p := strings.Split(path, "/")
	if len(p) != 8 || p[1] != "apis" || p[4] != "namespaces" {
		return "", "", "", false
	}
	for word := range strings.SplitSeq(p[6], "-") {
		if word != "" {
			kind += strings.ToUpper(word[:1]) + word[1:]
		}
	}
	return kind, p[5], p[7], true
}

var policyRule = regexp.MustCompile(`^rbac_access_denied_matched_policy\[ns\[[^\]]*\]-policy\[[^\]]*\]-rule\[([^\]]*)\][^\]]*\]`)

// ruleOf reads which rule of a policy denies a request.
func ruleOf(details string) (rule string, ok bool) {
	if m := policyRule.FindStringSubmatch(details); m != nil {
		return m[1], true
	}
	return "", false
}

// refused reads which objects keep a destination closed: destination_refused{KIND:NAMESPACE/NAME}, or two with ":against:" between them.
func refused(details string) (by []apiv1.Decider) {
	_, in, _ := strings.Cut(strings.TrimSuffix(details, "}"), "{")
	for object := range strings.SplitSeq(in, ":against:") {
		kind, object, _ := strings.Cut(object, ":")
		if namespace, name, ok := strings.Cut(object, "/"); ok {
			by = append(by, apiv1.Decider{Kind: kind, Namespace: namespace, Name: name})
		}
	}
	return by
}
