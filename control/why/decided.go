package why

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// field is which object decides about a cause, by the stage whose object it is, and where in it.
type field struct{ stage, path string }

var fields = map[causes.Cause]field{
	causes.ClusterNotFound:            {"route", "http[].route[].destination"},
	causes.DirectResponse:             {"route", "http[].directResponse"},
	causes.FaultAbort:                 {"route", "http[].fault.abort"},
	causes.FaultDelay:                 {"route", "http[].fault.delay"},
	causes.CORSPreflight:              {"route", "http[].corsPolicy"},
	causes.UpstreamTimeout:            {"route", "http[].timeout"},
	causes.UpstreamPerTryTimeout:      {"route", "http[].retries.perTryTimeout"},
	causes.EndpointsEjected:           {"cluster", "trafficPolicy.outlierDetection"},
	causes.NoEndpoints:                {"cluster", "subsets"},
	causes.UpstreamOverflow:           {"cluster", "trafficPolicy.connectionPool.http.http2MaxRequests"},
	causes.PendingOverflow:            {"cluster", "trafficPolicy.connectionPool.http.http1MaxPendingRequests"},
	causes.ConnectionsOverflow:        {"cluster", "trafficPolicy.connectionPool.tcp.maxConnections"},
	causes.UpstreamConnectTimeout:     {"cluster", "trafficPolicy.connectionPool.tcp.connectTimeout"},
	causes.UpstreamIdleClosed:         {"cluster", "trafficPolicy.connectionPool.http.idleTimeout"},
	causes.UpstreamNotTLS:             {"cluster", "trafficPolicy.tls"},
	causes.UpstreamTLSRefused:         {"cluster", "trafficPolicy.tls"},
	causes.UpstreamTLSEnded:           {"cluster", "trafficPolicy.tls"},
	causes.UpstreamTLSFailed:          {"cluster", "trafficPolicy.tls"},
	causes.UpstreamCertificateRefused: {"cluster", "trafficPolicy.tls"},
}

// deciders are the objects that decided about a request, the one that the cause is about first.
func deciders(c causes.Cause, r *observev1.Record, objects Objects) []apiv1.Decider {
	var out []apiv1.Decider
	add := func(d apiv1.Decider, first bool) {
		same := func(o apiv1.Decider) bool { return o.Kind == d.Kind && o.Namespace == d.Namespace && o.Name == d.Name }
		if i := slices.IndexFunc(out, same); i >= 0 { // what details say of it comes first; where it is, its decision knows better
			out[i].File, out[i].Line = cmp.Or(d.File, out[i].File), cmp.Or(d.Line, out[i].Line)
			return
		}
		look(&d, at(r), objects)
		if first {
			out = append([]apiv1.Decider{d}, out...)
		} else {
			out = append(out, d)
		}
	}
	if namespace, name, rule, ok := policy(r.GetDetails()); ok {
		add(apiv1.Decider{Kind: "AuthorizationPolicy", Namespace: namespace, Name: name, Field: "rules[" + rule + "]"}, true)
	}
	if c == causes.DestinationRefused {
		if kind, namespace, name, ok := refused(r.GetDetails()); ok {
			field := ""
			if kind == "DestinationRule" {
				field = "trafficPolicy.tls"
			}
			add(apiv1.Decider{Kind: kind, Namespace: namespace, Name: name, Field: field}, true)
		}
	}
	f := fields[c]
	if c == causes.NoEndpoints && !slices.ContainsFunc(r.GetDecisions(), func(d *observev1.Decision) bool { return d.GetStage() == "cluster" && ofSubset(d.GetPart()) }) {
		f = field{} // it is not the subset's labels
	}
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := parse(d.GetObject())
		if !ok {
			continue
		}
		x := apiv1.Decider{Kind: kind, Namespace: namespace, Name: name, File: d.GetFile(), Line: int(d.GetLine())}
		if d.GetStage() == f.stage {
			x.Field = f.path
		}
		add(x, d.GetStage() == f.stage)
	}
	return out
}

// ofSubset reports whether a cluster (direction|port|subset|host) is of a subset.
func ofSubset(name string) bool {
	p := strings.Split(name, "|")
	return len(p) == 4 && p[2] != ""
}

// look says what is known of an object now. Where its text is, the record says of then.
func look(d *apiv1.Decider, then time.Time, objects Objects) {
	o, ok := objects(d.Kind, d.Namespace, d.Name)
	if !ok {
		d.Gone = true
		return
	}
	d.File = cmp.Or(d.File, o.File)
	if d.Line == 0 {
		d.Line = o.Line
	}
	if !o.Since.IsZero() {
		d.Since = &o.Since
		d.Changed = o.Since.After(then)
	}
}

// parse reads the path of an object: /apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME, its kind in words with hyphens.
func parse(path string) (kind, namespace, name string, ok bool) {
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

// refused reads which object keeps a destination closed: destination_refused{KIND:NAMESPACE/NAME}.
func refused(details string) (kind, namespace, name string, ok bool) {
	_, in, _ := strings.Cut(strings.TrimSuffix(details, "}"), "{")
	kind, object, ok := strings.Cut(in, ":")
	if !ok {
		return "", "", "", false
	}
	namespace, name, ok = strings.Cut(object, "/")
	return kind, namespace, name, ok
}
