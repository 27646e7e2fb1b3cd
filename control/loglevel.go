package control

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

var logLevels = []string{"debug", "info", "warn", "error"}

// levelQuestion reads a request of /api/v1/log-level; false: it has been answered that it makes no sense.
func levelQuestion(w http.ResponseWriter, r *http.Request) (*observev1.LogLevelRequest, bool) {
	v := r.URL.Query()
	out := &observev1.LogLevelRequest{Level: v.Get("level"), Usual: v.Has("reset")}
	bad := func(message, hint string) (*observev1.LogLevelRequest, bool) {
		fail(w, http.StatusBadRequest, message, hint)
		return nil, false
	}
	if _, name, ok := strings.Cut(v.Get("workload"), "/"); !ok || name == "" {
		return bad("workload "+quote(v.Get("workload"))+" is not NAMESPACE/NAME", "for example workload=default/reviews-v1")
	}
	changes := out.GetLevel() != "" || out.GetUsual()
	switch {
	case r.Method == http.MethodGet && changes:
		return bad("a level is changed by POST", "")
	case r.Method == http.MethodPost && !changes:
		return bad("which level?", "level="+strings.Join(logLevels, ", level=")+", or reset")
	case out.GetLevel() != "" && out.GetUsual():
		return bad("a level, or reset, and not both", "")
	case out.GetLevel() != "" && !slices.Contains(logLevels, out.GetLevel()):
		return bad("level "+quote(out.GetLevel())+" is not known", "one of: "+strings.Join(logLevels, ", "))
	}
	if s := v.Get("for"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > 24*time.Hour || out.GetLevel() == "" {
			return bad("for "+quote(s)+" is not how long a level lasts, up to 24h", "for example level=debug&for=10m")
		}
		out.ForNano = uint64(d)
	}
	return out, true
}

// isWorkload reports whether a pod, or what owns it, is the one asked for as NAMESPACE/NAME.
func isWorkload(pod, owner, asked string) bool { return asked == pod || asked == owner }

// handleOwnLevels answers for the proxies that are connected here; there may be none.
func (p *Plane) handleOwnLevels(w http.ResponseWriter, r *http.Request) {
	q, ok := levelQuestion(w, r)
	if !ok {
		return
	}
	workload := r.URL.Query().Get("workload")
	out := apiv1.LogLevels{Proxies: []apiv1.LogLevel{}}
	reached := map[string]bool{}
	told, _, silent := p.edges.asking.all(r.Context(), func(r *reporter) *observev1.ControlMessage {
		if !isWorkload(workloadOf(r.node), workloadName(&r.self), workload) {
			return nil
		}
		reached[r.node] = true
		return askLevel(q)
	})
	out.Silent = silent
	for _, t := range told {
		a := t.message.GetLogLevel()
		x := apiv1.LogLevel{Proxy: workloadOf(t.node), Level: a.GetLevel(), Usual: a.GetUsual(), Refused: a.GetRefused()}
		if n := a.GetUntilUnixNano(); n > 0 {
			x.Until = new(time.Unix(0, int64(n)))
		}
		out.Proxies = append(out.Proxies, x)
	}
	// Those that have configuration and no stream for this: other programs, and proxies before it.
	for _, c := range p.xds.Clients() {
		pod := workloadOf(c.Node)
		ns, _, _ := strings.Cut(pod, "/")
		owner := ns + "/" + c.Metadata.GetFields()["WORKLOAD_NAME"].GetStringValue()
		if !reached[c.Node] && isWorkload(pod, owner, workload) {
			out.Silent = append(out.Silent, c.Node)
		}
	}
	answer(w, http.StatusOK, out)
}

// handleLevels is GET and POST /api/v1/log-level: of the proxies of a workload, at whichever control plane.
func (p *Plane) handleLevels(w http.ResponseWriter, r *http.Request) {
	if _, ok := levelQuestion(w, r); !ok {
		return
	}
	var out apiv1.LogLevels
	take := func(code int, body []byte) error {
		var more apiv1.LogLevels
		err := jsonOf(code, body, &more)
		out.Proxies, out.Silent = append(out.Proxies, more.Proxies...), append(out.Silent, more.Silent...)
		return err
	}
	unasked := p.replicas.elsewhere(r.Context(), r.Method, (&url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}).String(), take)
	here := &captured{header: http.Header{}}
	p.handleOwnLevels(here, r)
	if err := take(here.status, here.body.Bytes()); err != nil {
		fail(w, http.StatusInternalServerError, err.Error(), "")
		return
	}
	if len(out.Proxies)+len(out.Silent)+len(unasked) == 0 {
		fail(w, http.StatusNotFound, "no proxy of "+quote(r.URL.Query().Get("workload"))+" is connected", "`weir proxy-status` lists those that are")
		return
	}
	out.Silent = append(out.Silent, unasked...)
	slices.Sort(out.Silent)
	slices.SortFunc(out.Proxies, func(a, b apiv1.LogLevel) int { return cmp.Compare(a.Proxy, b.Proxy) })
	answer(w, http.StatusOK, out)
}
