package control

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/limits"
)

// polls joins what proxies were asked of how things are with their answers.
type polls struct {
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]poll // by its number
}

type poll struct {
	of     *reporter
	answer chan<- *observev1.Limits
}

// heard takes an answer; what nobody waits for is dropped.
func (s *polls) heard(from *reporter, l *observev1.Limits) {
	s.mu.Lock()
	q := s.waiting[l.GetRequest()]
	if q.of == from { // nobody answers for another
		delete(s.waiting, l.GetRequest())
	}
	s.mu.Unlock()
	if q.of == from {
		q.answer <- l // has room
	}
}

// one asks a proxy; nil: it did not answer.
func (s *polls) one(ctx context.Context, r *reporter, q *observev1.LimitsRequest) *observev1.Limits {
	answer := make(chan *observev1.Limits, 1)
	s.mu.Lock()
	s.last++
	number := s.last
	s.waiting[number] = poll{r, answer}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting, number)
	}()
	select {
	case r.orders <- &observev1.ControlMessage{Message: &observev1.ControlMessage_Limits{Limits: &observev1.LimitsRequest{Request: number, Host: q.GetHost(), Ejections: q.GetEjections()}}}:
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

// poll asks every connected proxy, so many at once and none for longer than askTime. silent are those that did not
// answer.
func (s *edges) poll(ctx context.Context, q *observev1.LimitsRequest, take func(*reporter, *observev1.Limits)) (asked int, silent []string) {
	s.asking.mu.Lock()
	var list []*reporter
	for r := range s.asking.proxies {
		list = append(list, r)
	}
	s.asking.mu.Unlock()
	slices.SortFunc(list, func(a, b *reporter) int { return strings.Compare(a.node, b.node) })
	var mu sync.Mutex
	var wait sync.WaitGroup
	places := make(chan struct{}, askAtOnce)
	for _, r := range list {
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, s.asking.patience)
			defer cancel()
			answer := s.polls.one(ctx, r, q)
			mu.Lock()
			defer mu.Unlock()
			if answer == nil {
				silent = append(silent, r.node)
				return
			}
			take(r, answer)
		})
	}
	wait.Wait()
	slices.Sort(silent)
	return len(list), silent
}

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
	var told []limits.Told
	out.Asked, out.Silent = p.edges.poll(r.Context(), &observev1.LimitsRequest{Host: host}, func(r *reporter, l *observev1.Limits) {
		told = append(told, limits.Told{Workload: r.self.Namespace + "/" + r.self.Workload, Clusters: l.GetClusters()[:min(len(l.GetClusters()), mostLimited)]})
	})
	slices.SortStableFunc(told, func(a, b limits.Told) int { return strings.Compare(a.Workload, b.Workload) })
	out.Limits = limits.Table(told, p.lookUp().Object)
	answer(w, http.StatusOK, out)
}

// mostLimited is how many clusters an answer of a proxy may be about.
const mostLimited = 100
