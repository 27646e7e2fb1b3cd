package control

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

var logLevels = []string{"debug", "info", "warn", "error"}

// longestLevel is how long a level may last that goes back by itself.
const longestLevel = 24 * time.Hour

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
		if err != nil || d <= 0 || d > longestLevel || out.GetLevel() == "" {
			return bad("for "+quote(s)+" is not how long a level lasts, up to 24h", "for example level=debug&for=10m")
		}
		out.ForNano = uint64(d)
	}
	return out, true
}

// handleLevels is GET and POST /api/v1/log-level: of the proxies of a workload, at whichever control plane.
func (p *Plane) handleLevels(w http.ResponseWriter, r *http.Request) {
	q, ok := levelQuestion(w, r)
	if !ok {
		return
	}
	workload := r.URL.Query().Get("workload")
	out := apiv1.LogLevels{Proxies: []apiv1.LogLevel{}}
	told, _, silent := p.replicas.ask(r.Context(), question{message: askLevel(q), workload: workload})
	if len(told)+len(silent) == 0 {
		fail(w, http.StatusNotFound, "no proxy of "+quote(workload)+" is connected", "`weir proxy-status` lists those that are")
		return
	}
	out.Silent = silent
	for _, t := range told {
		a := t.message.GetLogLevel()
		x := apiv1.LogLevel{Proxy: workloadOf(t.node), Level: a.GetLevel(), Usual: a.GetUsual(), Refused: a.GetRefused()}
		if n := a.GetUntilUnixNano(); n > 0 {
			x.Until = new(time.Unix(0, int64(n)))
		}
		out.Proxies = append(out.Proxies, x)
	}
	slices.SortFunc(out.Proxies, func(a, b apiv1.LogLevel) int { return cmp.Compare(a.Proxy, b.Proxy) })
	answer(w, http.StatusOK, out)
}
