package control

import (
	"context"
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

// asking joins questions with the answers of streams.
type asking struct {
	patience  time.Duration // how long a proxy has to answer
	everybody int           // up to so many proxies are all asked about each request; 0: askEverybody

	mu      sync.Mutex
	proxies map[*reporter]bool
	last    uint64
	waiting map[uint64]question // by its number
}

type question struct {
	of     *reporter
	answer chan<- *observev1.Records
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
func (a *asking) heard(from *reporter, r *observev1.Records) {
	a.mu.Lock()
	q := a.waiting[r.GetRequest()]
	if q.of == from { // nobody answers for another
		delete(a.waiting, r.GetRequest())
	}
	a.mu.Unlock()
	if q.of == from {
		q.answer <- r // has room
	}
}

// all asks every connected proxy, and waits no longer than askTime for each. silent are those that did not answer.
func (a *asking) all(ctx context.Context, q func(*reporter) *observev1.RecordsRequest) (told []why.Told, asked int, silent []string) {
	a.mu.Lock()
	var list []*reporter
	for r := range a.proxies {
		list = append(list, r)
	}
	a.mu.Unlock()
	slices.SortFunc(list, func(a, b *reporter) int { return strings.Compare(a.node, b.node) })
	var mu sync.Mutex
	var wait sync.WaitGroup
	places := make(chan struct{}, askAtOnce)
	for _, r := range list {
		m := q(r)
		if m == nil {
			continue
		}
		asked++
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			answer := a.one(ctx, r, m)
			mu.Lock()
			defer mu.Unlock()
			if answer == nil || answer.GetUnavailable() != "" {
				silent = append(silent, r.node)
				return
			}
			for _, c := range answer.GetRecords()[:min(len(answer.GetRecords()), mostAnswers)] {
				told = append(told, why.Told{Node: r.node, Workload: r.self.Namespace + "/" + r.self.Workload, Record: c})
			}
		})
	}
	wait.Wait()
	slices.Sort(silent)
	slices.SortStableFunc(told, func(a, b why.Told) int { return strings.Compare(a.Node, b.Node) })
	return told, asked, silent
}

// one asks a proxy; nil: it did not answer.
func (a *asking) one(ctx context.Context, r *reporter, m *observev1.RecordsRequest) *observev1.Records {
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	answer := make(chan *observev1.Records, 1)
	a.mu.Lock()
	a.last++
	m.Request = a.last
	a.waiting[m.GetRequest()] = question{r, answer}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, m.GetRequest())
	}()
	select {
	case r.questions <- m:
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
	var told []why.Told
	if id != "" {
		told, out.Asked, out.Silent = p.recordsOf(r.Context(), id, nil)
		out.Stories = why.Stories(told, p.lookUp())
	} else {
		told, out.Asked, out.Silent = p.replicas.ask(r.Context(), func(*reporter) *observev1.RecordsRequest {
			return &observev1.RecordsRequest{Which: &observev1.RecordsRequest_LastErrors{LastErrors: mostErrors}}
		})
		out.Stories = p.failures(r.Context(), told, func(s *apiv1.Story) bool { return why.About(s, from, to) && why.About(s, "", service) }, last)
	}
	if out.Stories == nil {
		out.Stories = []apiv1.Story{}
	}
	answer(w, http.StatusOK, out)
}

// recordsOf are all that proxies know of a request: those of its id, and of the connections that failed under it, where a server's proxy
// may have refused the client before there was a request. who are asked; nil: all.
func (p *Plane) recordsOf(ctx context.Context, id string, who func(*reporter) bool) (told []why.Told, asked int, silent []string) {
	ask := func(id string) ([]why.Told, int, []string) {
		return p.replicas.ask(ctx, func(r *reporter) *observev1.RecordsRequest {
			if who != nil && r != nil && !who(r) {
				return nil
			}
			return &observev1.RecordsRequest{Which: &observev1.RecordsRequest_Id{Id: id}}
		})
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
	objects := p.lookUp()
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
