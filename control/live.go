package control

import (
	"net/http"
	"slices"
	"strings"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/limits"
)

// asked is the host name of the service that a request names, "" if none; false: it has been answered that there is no such service.
func (p *Plane) asked(w http.ResponseWriter, r *http.Request) (u *store.Update, host string, ok bool) {
	if u = p.latest.Load(); u == nil {
		fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
		return nil, "", false
	}
	service, namespace := r.URL.Query().Get("service"), r.URL.Query().Get("namespace")
	if service == "" {
		return u, "", true
	}
	for svc := range u.Snapshot.Services.Values() {
		if svc.Hostname == service || svc.Name == service && (svc.Namespace == namespace || namespace == "") {
			return u, svc.Hostname, true
		}
	}
	fail(w, http.StatusNotFound, "there is no service "+quote(qualified(namespace, service)), "`weir get services -A` lists those there are")
	return nil, "", false
}

// handleLimits is GET /api/v1/limits.
func (p *Plane) handleLimits(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("service") == "" {
		fail(w, http.StatusBadRequest, "which service?", "for example service=reviews&namespace=default")
		return
	}
	_, host, ok := p.asked(w, r)
	if !ok {
		return
	}
	out := apiv1.Limits{Host: host}
	all, asked, silent := p.replicas.ask(r.Context(), question{message: askLimits(&observev1.LimitsRequest{Host: host})})
	out.Asked, out.Silent = asked, silent
	var told []limits.Told
	for _, a := range all {
		clusters := a.message.GetLimits().GetClusters()
		told = append(told, limits.Told{Workload: a.workload, Clusters: clusters[:min(len(clusters), mostLimited)]})
	}
	slices.SortStableFunc(told, func(a, b limits.Told) int { return strings.Compare(a.Workload, b.Workload) })
	out.Limits = limits.Table(told, p.lookUp(r.Context()).Object)
	answer(w, http.StatusOK, out)
}

// mostLimited is how many clusters an answer of a proxy may be about.
const mostLimited = 100
