package why

import (
	"strings"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// ends says what each end of attempts means, and which fields decide about it: the first that an object has.
var ends = map[string]struct {
	text, stage string
	paths       []string
}{
	"policy":    {"the route asks for no retries", "route", []string{"http[].retries.attempts"}},
	"condition": {"what happened is not among the conditions for a retry (retryOn)", "route", []string{"http[].retries.retryOn"}},
	"attempts":  {"all attempts were made that retries.attempts permits", "route", []string{"http[].retries.attempts"}},
	"budget":    {"too many requests to the destination were being tried again already (maxRetries, or retryBudget)", "cluster", []string{"trafficPolicy.retryBudget", "trafficPolicy.connectionPool.http.maxRetries"}},
	"body":      {"more of the request's body had been sent than proxies keep to send it again (64 KiB)", "", nil},
	"answer":    {"the answer had begun, and a part of it may be with the client", "", nil},
	"deadline":  {"the route's timeout is for all attempts together, and was over", "route", []string{"http[].timeout"}},
	"upstream":  {"the destination said that it has too much to do (x-envoy-overloaded)", "", nil},
	"caller":    {"there is one application here: the caller's proxy is told that nothing was delivered, and may ask another", "", nil},
}

// stopped says what ended the attempts that a proxy made; nil: it made none, or nothing ended them.
func stopped(r *observev1.Record, objects Objects) *apiv1.Stopped {
	end, ok := ends[r.GetStopped()]
	if !ok {
		return nil
	}
	out := &apiv1.Stopped{By: r.GetStopped(), Text: end.text}
	for _, d := range r.GetDecisions() {
		kind, namespace, name, ok := Parse(d.GetObject())
		if !ok || d.GetStage() != end.stage {
			continue
		}
		for _, path := range end.paths {
			x := apiv1.Decider{Kind: kind, Namespace: namespace, Name: name, Hash: d.GetHash(), File: d.GetFile(), Line: int(d.GetLine()), Field: path}
			if look(&x, r, objects); x.Changed && len(end.paths) > 1 { // which of them its text had then nobody knows
				x.Field, _, _ = strings.Cut(path, ".")
			}
			if find(&x, found{}, r, objects); x.Field != "" && !x.Gone {
				out.Decided = &x
				return out
			}
		}
	}
	if end.stage != "" {
		out.Text += "; no object says otherwise: the default holds"
	}
	return out
}
