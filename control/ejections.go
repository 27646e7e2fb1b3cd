package control

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// mostEjections is how many an answer of a proxy may have.
const mostEjections = 200

// handleEjections is GET /api/v1/ejections.
func (p *Plane) handleEjections(w http.ResponseWriter, r *http.Request) {
	_, host, ok := p.asked(w, r)
	if !ok {
		return
	}
	out := apiv1.Ejections{Ejections: []apiv1.Ejection{}}
	all, asked, silent := p.replicas.ask(r.Context(), question{message: askLimits(&observev1.LimitsRequest{Host: host, Ejections: true})})
	out.Asked, out.Silent = asked, silent
	for _, a := range all {
		ejections := a.message.GetLimits().GetEjections()
		for _, e := range ejections[:min(len(ejections), mostEjections)] {
			out.Ejections = append(out.Ejections, ejectionOf(workloadOf(a.node), e))
		}
	}
	slices.SortFunc(out.Ejections, func(a, b apiv1.Ejection) int {
		return cmp.Or(inUse(a.State)-inUse(b.State), b.Since.Compare(a.Since), cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Proxy, b.Proxy))
	})
	answer(w, http.StatusOK, out)
}

// inUse orders those that are set aside before the others.
func inUse(state string) int {
	if state == "returned" {
		return 1
	}
	return 0
}

var asideNames = map[observev1.AsideState]string{observev1.AsideState_ASIDE_STATE_RETURNED: "returned", observev1.AsideState_ASIDE_STATE_EJECTED: "ejected", observev1.AsideState_ASIDE_STATE_PROBED: "probed",
	observev1.AsideState_ASIDE_STATE_UNHEALTHY: "unhealthy", observev1.AsideState_ASIDE_STATE_WITHDRAWN: "withdrawn",
	observev1.AsideState_ASIDE_STATE_SILENT: "silent"}

func ejectionOf(proxy string, e *observev1.Ejection) apiv1.Ejection {
	s := e.GetService()
	out := apiv1.Ejection{Proxy: proxy, Service: cmp.Or(s.GetHost(), e.GetCluster()), Port: int(s.GetPort()), Endpoint: e.GetEndpoint(), State: cmp.Or(asideNames[e.GetState()], "unknown"), Reason: e.GetReason(),
		InARow: int(e.GetInARow()), Status: int(e.GetStatus()), Text: because(e), Since: time.Unix(0, int64(e.GetSinceUnixNano())), Times: int(e.GetTimes())}
	if c := strings.Split(e.GetCluster(), "|"); len(c) == 4 {
		out.Subset = c[2]
	}
	if w := e.GetWorkload(); w.GetWorkload() != "" {
		out.Workload = qualified(w.GetNamespace(), w.GetWorkload())
	}
	if u := e.GetUntilUnixNano(); u > 0 {
		out.Until = new(time.Unix(0, int64(u)))
	}
	return out
}

// because says why an endpoint is set aside, or was.
func because(e *observev1.Ejection) string {
	last := fmt.Sprintf("the last answer was %d", e.GetStatus())
	if e.GetStatus() == 0 {
		last = "the last time without an answer: no connection, a reset, or nothing in time"
	}
	switch e.GetReason() {
	case "errors_in_a_row":
		return fmt.Sprintf("%d errors (5xx, or no answer) in a row, %s", e.GetInARow(), last)
	case "gateway_errors_in_a_row":
		return fmt.Sprintf("%d gateway errors (502, 503, 504, or no answer) in a row, %s", e.GetInARow(), last)
	case "local_failures_in_a_row":
		return fmt.Sprintf("%d times in a row no connection, a reset, or nothing in time", e.GetInARow())
	}
	switch e.GetState() {
	case observev1.AsideState_ASIDE_STATE_UNHEALTHY:
		return "active health checks fail"
	case observev1.AsideState_ASIDE_STATE_WITHDRAWN:
		return "it asked for that, in answer to a health check"
	case observev1.AsideState_ASIDE_STATE_SILENT:
		return "it does not answer to connections, or refused one just now: others are called where there are any"
	}
	return "active health checks pass"
}

// asideEvents are what a proxy reports of endpoints, as events of the service.
func asideEvents(who *reporter, all []*observev1.Ejection) []apiv1.Event {
	var out []apiv1.Event
	short := func(s string) string { return s[:min(len(s), maxReportText)] }
	for _, e := range all {
		x := ejectionOf(workloadOf(who.node), e)
		text := x.Endpoint
		if x.Workload != "" {
			text += " (" + x.Workload + ")"
		}
		switch text += ": "; x.State {
		case "returned", "probed":
			if text += "in use again"; x.State == "probed" {
				text += ", as far as a few requests may try it"
			}
			if x.Reason == "" {
				text += ": " + x.Text
			}
		default:
			if text += x.Text; x.Until != nil {
				text += "; for " + x.Until.Sub(x.Since).Round(time.Second).String()
			}
		}
		out = append(out, apiv1.Event{Type: x.State, Kind: "Service", Namespace: short(e.GetService().GetNamespace()), Name: short(cmp.Or(e.GetService().GetName(), x.Service)), Proxy: x.Proxy, Message: short(text)})
	}
	return out
}
