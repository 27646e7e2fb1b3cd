package control

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/control/why"
)

const (
	// askTime is how long proxies have to answer.
	askTime = 2 * time.Second
	// askAtOnce bounds the proxies that are asked at the same time: an answer is up to 0.3 MB.
	askAtOnce = 50
	// mostAnswers is what a proxy may answer, of a text how much.
	mostAnswers = 200
	// lastErrors is how many failures are asked of each proxy, and shown, unless somebody says otherwise; mostErrors what may be said.
	lastErrors, mostErrors = 20, 100
	// mostFollowed is how many requests of one connection are followed.
	mostFollowed = 4
)

// asking joins questions with the answers of streams: what is asked of proxies and answered once.
type asking struct {
	patience  time.Duration // how long a proxy has to answer
	everybody int           // up to so many proxies are all asked about each request; 0: askEverybody

	mu      sync.Mutex
	proxies map[*reporter]bool
	last    uint64
	waiting map[uint64]waiter // by the number of its question
}

// waiter is who waits for an answer.
type waiter struct {
	of     *reporter
	answer chan<- *observev1.ProxyMessage
}

// question is what proxies are asked.
type question struct {
	message  *observev1.ControlMessage
	workload string               // only its proxies: namespace/name of a pod, or of what owns it; namespace/: of all there; "": all
	near     func(*reporter) bool // of those connected here only these; nil: all
}

// asks reports whether a proxy is asked.
func (q *question) asks(r *reporter) bool {
	return (q.workload == "" || isWorkload(workloadOf(r.node), workloadName(&r.self), q.workload)) && (q.near == nil || q.near(r))
}

// isWorkload reports whether a pod, or what owns it, is the one asked for as NAMESPACE/NAME, or in NAMESPACE/.
func isWorkload(pod, owner, asked string) bool {
	return asked == pod || asked == owner || strings.HasSuffix(asked, "/") && strings.HasPrefix(pod, asked)
}

// askOwn asks the proxies that are connected here.
func (p *Plane) askOwn(ctx context.Context, q question) (told []answered, asked int, silent []string) {
	reached := map[string]bool{}
	told, asked, silent = p.edges.asking.all(ctx, q.message, func(r *reporter) bool {
		ask := q.asks(r)
		reached[r.node] = reached[r.node] || ask
		return ask
	})
	if q.workload == "" {
		return told, asked, silent
	}
	// Those that have configuration and no stream for this: other programs, and proxies before it.
	for _, c := range p.xds.Clients() {
		pod := workloadOf(c.Node)
		ns, _, _ := strings.Cut(pod, "/")
		owner := ns + "/" + c.Metadata.GetFields()["WORKLOAD_NAME"].GetStringValue()
		if !reached[c.Node] && isWorkload(pod, owner, q.workload) {
			silent = append(silent, c.Node)
		}
	}
	return told, asked, silent
}

// answered is what a proxy said.
type answered struct {
	node, workload string // namespace/name
	message        *observev1.ProxyMessage
}

// numbered is a question with a number for its answer.
func numbered(q *observev1.ControlMessage, n uint64) *observev1.ControlMessage {
	if l := q.GetLimits(); l != nil {
		return askLimits(&observev1.LimitsRequest{Request: n, Host: l.GetHost(), Ejections: l.GetEjections(), Report: l.GetReport()})
	}
	if l := q.GetLogLevel(); l != nil {
		return askLevel(&observev1.LogLevelRequest{Request: n, Level: l.GetLevel(), ForNano: l.GetForNano(), Usual: l.GetUsual()})
	}
	return askRecords(&observev1.RecordsRequest{Request: n, Which: q.GetRecords().GetWhich()})
}

func askRecords(q *observev1.RecordsRequest) *observev1.ControlMessage {
	return &observev1.ControlMessage{Message: &observev1.ControlMessage_Records{Records: q}}
}

func askLimits(q *observev1.LimitsRequest) *observev1.ControlMessage {
	return &observev1.ControlMessage{Message: &observev1.ControlMessage_Limits{Limits: q}}
}

func askLevel(q *observev1.LogLevelRequest) *observev1.ControlMessage {
	return &observev1.ControlMessage{Message: &observev1.ControlMessage_LogLevel{LogLevel: q}}
}

func (a *asking) enter(r *reporter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proxies[r] = true
}

func (a *asking) leave(r *reporter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.proxies, r)
}

// heard takes an answer; what nobody waits for is dropped.
func (a *asking) heard(from *reporter, number uint64, m *observev1.ProxyMessage) {
	a.mu.Lock()
	q := a.waiting[number]
	if q.of == from { // nobody answers for another
		delete(a.waiting, number)
	}
	a.mu.Unlock()
	if q.of == from {
		q.answer <- m // has room
	}
}

// list are the connected proxies, by name.
func (a *asking) list() []*reporter {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Keys(a.proxies), func(a, b *reporter) int { return strings.Compare(a.node, b.node) })
}

// all asks connected proxies, and waits no longer than askTime for each. silent are those that did not answer.
func (a *asking) all(ctx context.Context, m *observev1.ControlMessage, who func(*reporter) bool) (told []answered, asked int, silent []string) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	places := make(chan struct{}, askAtOnce)
	for _, r := range a.list() {
		if !who(r) {
			continue
		}
		asked++
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			answer := a.one(ctx, r, m)
			mu.Lock()
			defer mu.Unlock()
			if answer == nil || answer.GetRecords().GetUnavailable() != "" {
				silent = append(silent, r.node)
				return
			}
			told = append(told, answered{r.node, workloadName(&r.self), answer})
		})
	}
	wait.Wait()
	slices.Sort(silent)
	return told, asked, silent
}

// recordsIn are the records in answers, by the names of proxies.
func recordsIn(all []answered) (out []why.Told) {
	slices.SortStableFunc(all, func(a, b answered) int { return strings.Compare(a.node, b.node) })
	for _, a := range all {
		records := a.message.GetRecords().GetRecords()
		for _, r := range records[:min(len(records), mostAnswers)] {
			out = append(out, why.Told{Node: a.node, Workload: a.workload, Record: r})
		}
	}
	return out
}

// one asks a proxy; nil: it did not answer.
func (a *asking) one(ctx context.Context, r *reporter, q *observev1.ControlMessage) *observev1.ProxyMessage {
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	answer := make(chan *observev1.ProxyMessage, 1)
	a.mu.Lock()
	a.last++
	number := a.last
	a.waiting[number] = waiter{r, answer}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, number)
	}()
	select {
	case r.orders <- numbered(q, number):
	case <-ctx.Done():
		return nil
	}
	select {
	case x := <-answer:
		return x
	case <-ctx.Done():
		return nil
	}
}

// handleWhy is GET /api/v1/why.
func (p *Plane) handleWhy(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id, service, from, to := q.Get("id"), q.Get("service"), q.Get("from"), q.Get("to")
	last := lastErrors
	if s := q.Get("last"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > mostErrors {
			fail(w, http.StatusBadRequest, "last "+quote(s)+" is not a number from 1 to "+strconv.Itoa(mostErrors), "for example last=20")
			return
		}
		last = n
	}
	if len(id) > maxReportText {
		fail(w, http.StatusBadRequest, "the id is too long", "the x-request-id of a request, or its trace")
		return
	}
	var out apiv1.Why
	if id != "" {
		var told []why.Told
		told, out.Asked, out.Silent = p.recordsOf(r.Context(), id, nil)
		out.Stories = why.Stories(told, p.lookUp(r.Context()))
	} else {
		var all []answered
		all, out.Asked, out.Silent = p.replicas.ask(r.Context(), question{message: askRecords(&observev1.RecordsRequest{Which: &observev1.RecordsRequest_LastErrors{LastErrors: mostErrors}})})
		out.Stories = p.failures(r.Context(), recordsIn(all), func(s *apiv1.Story) bool { return why.About(s, from, to) && why.About(s, "", service) }, last)
	}
	p.reached(r.Context(), out.Stories)
	if out.Stories == nil {
		out.Stories = []apiv1.Story{}
	}
	answer(w, http.StatusOK, out)
}

// recordsOf are all that proxies know of a request: those of its id, and of the connections that failed under it, where a server's proxy
// may have refused the client before there was a request. who are asked; nil: all.
func (p *Plane) recordsOf(ctx context.Context, id string, who func(*reporter) bool) (told []why.Told, asked int, silent []string) {
	ask := func(id string) ([]why.Told, int, []string) {
		all, asked, silent := p.replicas.ask(ctx, question{message: askRecords(&observev1.RecordsRequest{Which: &observev1.RecordsRequest_Id{Id: id}}), near: who})
		return recordsIn(all), asked, silent
	}
	told, asked, silent = ask(id)
	// Who asks by an address means what was asked on that connection, at whichever hop.
	var ids []string
	for _, t := range told {
		if other := t.Record.GetId(); other != "" && other != id && t.Record.GetTraceId() != id && !slices.Contains(ids, other) && len(ids) < mostFollowed {
			ids = append(ids, other)
		}
	}
	for _, other := range ids {
		more, _, _ := ask(other)
		told = merge(told, more)
	}
	for _, address := range why.Unanswered(told) {
		more, _, _ := ask(address)
		told = merge(told, more)
	}
	return told, asked, silent
}

// merge adds records that are not there yet.
func merge(told, more []why.Told) []why.Told {
	for _, t := range more {
		if !slices.ContainsFunc(told, func(o why.Told) bool {
			return o.Node == t.Node && o.Record.GetTimeUnixNano() == t.Record.GetTimeUnixNano() && o.Record.GetClient() == t.Record.GetClient() && o.Record.GetId() == t.Record.GetId()
		}) {
			told = append(told, t)
		}
	}
	return told
}

// failures tells of what failed, with what the proxies on the way know of each; of those that are alike, of one.
func (p *Plane) failures(ctx context.Context, told []why.Told, wanted func(*apiv1.Story) bool, most int) []apiv1.Story {
	objects := p.lookUp(ctx)
	all := why.Stories(told, objects)
	all = slices.DeleteFunc(all, func(s apiv1.Story) bool { return !wanted(&s) })
	all = why.Merge(all)
	near := p.near()
	for i := range all[:min(len(all), most)] {
		s := &all[i]
		if s.ID == "" {
			continue
		}
		whole, _, _ := p.recordsOf(ctx, s.ID, near(s))
		for _, better := range why.Stories(whole, objects) {
			if knows(&better, &s.Hops[s.Hop]) {
				better.Others = s.Others
				*s = better
				break
			}
		}
	}
	return all[:min(len(all), most)]
}

// knows reports whether a hop is one of a story.
func knows(s *apiv1.Story, h *apiv1.Hop) bool {
	return slices.ContainsFunc(s.Hops, func(x apiv1.Hop) bool { return x.Proxy == h.Proxy && x.Time.Equal(h.Time) && x.Side == h.Side })
}
