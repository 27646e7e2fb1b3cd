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
	"github.com/weirmesh/weir/control/field"
)

// decisive is which object decides about a cause, by the stage whose object it is ("": see of), and where in it.
type decisive struct {
	stage, path string
	tcp         bool // of relayed connections only
}

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
	causes.NotAllowed:                 {path: "rules"},
	causes.ExtAuthzDenied:             {path: "provider"},
	causes.ExtAuthzError:              {path: "provider"},
	causes.NotInRegistry:              {path: "outboundTrafficPolicy"},
	causes.ChainRemoved:               {path: "mtls"},
	causes.FilterChainNotFound:        {path: "mtls"},
	causes.TokenRefused:               {path: "jwtRules"},
	causes.TokenMissing:               {path: "jwtRules"},
	causes.TokenExpired:               {path: "jwtRules"},
	causes.TokenKeyUnknown:            {path: "jwtRules"},
	causes.TokenKeysUnavailable:       {path: "jwtRules"},
	causes.UpstreamConnectTimeout:     {stage: "cluster", path: "trafficPolicy.connectionPool.tcp.connectTimeout"},
	causes.UpstreamIdleClosed:         {stage: "cluster", path: "trafficPolicy.connectionPool.http.idleTimeout"},
	causes.UpstreamNotTLS:             {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamTLSRefused:         {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamTLSEnded:           {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamTLSFailed:          {stage: "cluster", path: "trafficPolicy.tls"},
	causes.UpstreamCertificateRefused: {stage: "cluster", path: "trafficPolicy.tls"},
}

// of is f as far as it is about a record.
func (f decisive) of(r *observev1.Record) decisive {
	if f.tcp && r.GetProtocol() != "tcp" {
		return decisive{}
	}
	return f
}

// deciders are the objects that decided about a request, the one that the cause is about first.
func deciders(c causes.Cause, t *Told, objects Objects) []apiv1.Decider {
	r := t.Record
	var out []apiv1.Decider
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
			out = append([]apiv1.Decider{d}, out...)
		} else {
			out = append(out, d)
		}
	}
	if namespace, name, rule, ok := policy(r.GetDetails()); ok {
		o := objects.Policy(t.Node, namespace, name)
		path := "rules[" + rule + "]"
		if o.Kind != "AuthorizationPolicy" { // its rules are not those of the object
			path = "rules"
		}
		add(apiv1.Decider{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Field: path}, true)
	}
	if c == causes.DestinationRefused {
		for i, d := range refused(r.GetDetails()) {
			d.Field = map[string]string{"DestinationRule": "trafficPolicy.tls", "PeerAuthentication": "mtls"}[d.Kind]
			add(d, i == 0)
		}
	}
	f := fields[c].of(r)
	if f.path != "" && f.stage == "" {
		all := of(c, t, objects)
		if len(all) > 1 && (f.path == "provider" || f.path == "jwtRules") {
			f.path = "" // which of them it was nobody knows
		}
		for _, o := range slices.Backward(all) {
			add(apiv1.Decider{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Field: f.path}, true)
		}
	}
	if c == causes.NoEndpoints && !slices.ContainsFunc(r.GetDecisions(), func(d *observev1.Decision) bool { return d.GetStage() == "cluster" && ofSubset(d.GetPart()) }) {
		f = decisive{} // it is not the subset's labels
		if s := r.GetEdge().GetService(); s.GetHost() != "" {
			if o, ok := objects.Service(s.GetNamespace(), s.GetHost()); ok {
				path := map[string]string{"Service": "selector", "ServiceEntry": "endpoints"}[o.Kind]
				add(apiv1.Decider{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Field: path}, true)
			}
		}
	}
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := Parse(d.GetObject())
		if !ok {
			continue
		}
		x := apiv1.Decider{Kind: kind, Namespace: namespace, Name: name, Hash: d.GetHash(), File: d.GetFile(), Line: int(d.GetLine())}
		if d.GetStage() == f.stage {
			x.Field = f.path
		}
		add(x, d.GetStage() == f.stage)
	}
	for i := range out {
		find(&out[i], r, objects)
	}
	return out
}

// absent are the fields whose absence decides as well: nobody is allowed, or there are no endpoints.
var absent = []string{"rules", "selector", "endpoints"}

// old are the kinds of Istio before 1.5.
var old = []string{"ServiceRole", "ServiceRoleBinding", "ClusterRbacConfig", "RbacConfig", "Policy", "MeshPolicy"}

// find finds the field in the object's text, if that is what decided.
func find(d *apiv1.Decider, r *observev1.Record, objects Objects) {
	o, ok := objects.Object(d.Kind, d.Namespace, d.Name)
	if !ok || d.Field == "" || d.Changed || o.Root == nil {
		return
	}
	f := field.For{Line: d.Line}
	if i := slices.IndexFunc(r.GetDecisions(), func(x *observev1.Decision) bool { return x.GetStage() == "cluster" }); i >= 0 {
		f = field.Cluster(r.GetDecisions()[i].GetPart())
		f.Line = d.Line
	}
	if a, err := netip.ParseAddrPort(r.GetAsked()); err == nil && r.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION {
		f.Port = a.Port()
	}
	path, line := field.Find(o.Root, d.Field, f)
	if path == "" && slices.Contains(absent, d.Field) && !slices.Contains(old, d.Kind) {
		return
	}
	if d.Field = path; line > 0 && o.File != "" {
		d.File, d.Line = o.File, line
	}
}

// of are the objects that decide about a cause at a workload, and that no record names.
func of(c causes.Cause, t *Told, objects Objects) []Ref {
	r := t.Record
	switch c {
	case causes.NameNotResolved:
		s := r.GetEdge().GetService()
		if o, ok := objects.Service(s.GetNamespace(), s.GetHost()); ok {
			return []Ref{o}
		}
	case causes.NotAllowed:
		return objects.Applying(Allows, t.Node, 0)
	case causes.ExtAuthzDenied, causes.ExtAuthzError:
		return objects.Applying(Asks, t.Node, 0)
	case causes.NotInRegistry:
		return objects.Applying(Confines, t.Node, 0)
	case causes.FilterChainNotFound, causes.ChainRemoved:
		if a, err := netip.ParseAddrPort(r.GetAsked()); err == nil && r.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION {
			return objects.Applying(Secures, t.Node, a.Port())
		}
	case causes.TokenRefused, causes.TokenMissing, causes.TokenExpired, causes.TokenKeyUnknown, causes.TokenKeysUnavailable:
		return objects.Applying(Identifies, t.Node, 0)
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

var policyName = regexp.MustCompile(`^rbac_access_denied_matched_policy\[ns\[([^\]]*)\]-policy\[([^\]]*)\]-rule\[([^\]]*)\][^\]]*\]`)

// policy reads which policy and rule deny a request.
func policy(details string) (namespace, name, rule string, ok bool) {
	m := policyName.FindStringSubmatch(details)
	if m == nil {
		return "", "", "", false
	}
	return m[1], m[2], m[3], true
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
