// Package kubewatch mirrors what an API server of Kubernetes holds: one call of Watch a
// kind, one Server for all of them.
//
// Any client of client-go enters (typed, dynamic, metadata); what became of single objects
// leaves by the functions of a Mirror, called from the goroutine of Watch. Nothing is kept
// here but names: whoever watches keeps what it needs of an object and no second copy of
// the rest. An API server that is away is asked again, within 10 s at most; one line says
// that it is away and one that it is back, whatever the number of kinds. A kind that may
// not be watched is one line, too, and so is one of which it says nothing any more: that is read as a whole from then on. A Batch gathers what several Watches tell until it can
// be published. A Server is safe for concurrent use.
package kubewatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Server is what is known about an API server.
type Server struct {
	// Plain says that lists are not streamed: client-go's fakes cannot. Set it before Watch.
	Plain bool

	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	away    time.Time         // since when; zero: it answers
	back    time.Time         // when it answered again
	vain    bool              // a request has waited for an answer in vain; any answer ends it
	why     string            // what the request came to that found it away
	waits   map[string]bool   // kinds that were not read yet
	trouble map[string]string // by kind: why it cannot be watched
	refused map[string]bool   // kinds of which the log says that they are
	objects map[string]int    // by kind
	outages int

	heard     map[string]time.Time // by kind: the last word of its watch
	silent    map[string]time.Time // kinds whose watches are, since when
	reread    map[string]bool      // kinds of which everything is to be read
	bookmarks bool                 // the API server sends some

	requests map[string]int // by what became of them
	took     time.Duration  // all together
	slow     time.Time      // when the log said last that it is slow
	late     time.Time      // when the last slow request ended, lateness how long it took
	lateness time.Duration
}

// slowRequest is how long a request may take before the log says so, once in slowTold. Lists of the largest meshes take a second or two.
const (
	slowRequest = 4 * time.Second
	slowTold    = 5 * time.Minute
)

// Through measures the requests of a client. Of a watch it is the time until it begins. One that waited in vain says that the API
// server is away: who watches learns of that from client-go after ten tries only, if nothing is refused.
func (s *Server) Through(next http.RoundTripper) http.RoundTripper { return &measured{s, next} }

type measured struct {
	s    *Server
	next http.RoundTripper
}

func (m *measured) RoundTrip(r *http.Request) (*http.Response, error) {
	began := m.s.now()
	resp, err := m.next.RoundTrip(r)
	if !errors.Is(r.Context().Err(), context.Canceled) {
		m.s.request(resp, err, r.URL.Path, began)
	}
	return resp, err
}

func (s *Server) request(resp *http.Response, err error, path string, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	took, became := s.now().Sub(began), "error"
	if err == nil {
		became = strconv.Itoa(resp.StatusCode)
		if s.vain {
			s.answered()
		}
	} else if took >= slowRequest {
		s.vain = true
		s.ceased(began, err)
	}
	s.requests[became]++
	s.took += took
	slow := err == nil && took >= slowRequest && began.After(s.back) // what waited for its return says no more than that
	if slow {
		s.late, s.lateness = s.now(), took
	}
	if now := s.now(); slow && (s.slow.IsZero() || now.Sub(s.slow) >= slowTold) {
		s.slow = now
		s.log.Warn("the API server is slow; what changes in the cluster is seen late, and what is known stays in force", "took", took.Round(time.Millisecond), "path", path)
	}
}

// New makes a Server.
func New(log *slog.Logger) *Server {
	return &Server{log: log, now: time.Now, waits: map[string]bool{}, trouble: map[string]string{}, refused: map[string]bool{}, objects: map[string]int{}, requests: map[string]int{},
		heard: map[string]time.Time{}, silent: map[string]time.Time{}, reread: map[string]bool{}}
}

// told takes what a request about a kind came to, and reports whether it was refused.
func (s *Server) told(ctx context.Context, kind string, optional bool, err error) (refused bool) {
	if ctx.Err() != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		delete(s.trouble, kind)
		delete(s.refused, kind)
		s.answered()
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		s.answered()
		if !s.refused[kind] {
			level := slog.LevelError
			if optional {
				level = slog.LevelInfo
			}
			s.log.Log(ctx, level, "the API server refuses to let a kind be watched", "kind", kind, "err", err, "remedy", "check the ClusterRole of weir-control: it needs get, list and watch")
		}
		s.trouble[kind], s.refused[kind] = err.Error(), true
		return true
	case apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsNotAcceptable(err):
		s.answered()
		s.trouble[kind] = err.Error()
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsBadRequest(err) || apierrors.IsInvalid(err):
		s.answered() // the next request asks for everything
	default: // no connection, or 429 and 5xx
		s.trouble[kind] = err.Error()
		s.ceased(s.now(), err)
	}
	return false
}

func (s *Server) ceased(since time.Time, err error) {
	if s.away.IsZero() {
		s.away, s.why = since, err.Error()
		s.outages++
		s.log.Warn("the API server does not answer; what is known stays in force", "err", err)
	}
}

func (s *Server) answered() {
	s.vain = false
	if !s.away.IsZero() {
		s.log.Info("the API server answers again", "after", s.now().Sub(s.away).Round(time.Millisecond))
		s.away, s.back = time.Time{}, s.now()
	}
}

// Away is since when the API server does not answer; zero if it does.
func (s *Server) Away() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// Trouble says for people that the API server does not answer, or was slow within the last minutes; "": it is well.
func (s *Server) Trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.away.IsZero():
		return fmt.Sprintf("it does not answer since %s: %s", s.away.UTC().Format(time.RFC3339), s.why)
	case !s.late.IsZero() && s.now().Sub(s.late) < slowTold:
		return fmt.Sprintf("it is slow: a request took %v, until %s", s.lateness.Round(100*time.Millisecond), s.late.UTC().Format(time.RFC3339))
	}
	return ""
}

// Awaits says which kinds have not been read yet and why, to be put behind a sentence; ""
// if all have.
func (s *Server) Awaits() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(s.waits)) {
		if why := s.trouble[kind]; why != "" {
			kind += " (" + why + ")"
		}
		out = append(out, kind)
	}
	if len(out) == 0 {
		return ""
	}
	return ": waiting for " + strings.Join(out, ", ")
}

// Metrics writes what is known as Prometheus text.
func (s *Server) Metrics(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := 1
	if !s.away.IsZero() {
		up = 0
	}
	fmt.Fprintf(w, "# HELP weir_kubernetes_up Whether the API server of Kubernetes answers.\n# TYPE weir_kubernetes_up gauge\nweir_kubernetes_up %d\n", up)
	fmt.Fprintf(w, "# HELP weir_kubernetes_outages_total How often it ceased to answer.\n# TYPE weir_kubernetes_outages_total counter\nweir_kubernetes_outages_total %d\n", s.outages)
	fmt.Fprint(w, "# HELP weir_kubernetes_requests_total Requests to it, by the status of the answer; error: there was none.\n# TYPE weir_kubernetes_requests_total counter\n")
	for _, became := range slices.Sorted(maps.Keys(s.requests)) {
		fmt.Fprintf(w, "weir_kubernetes_requests_total{code=%q} %d\n", became, s.requests[became])
	}
	fmt.Fprintf(w, "# HELP weir_kubernetes_request_seconds_total How long they took, all together.\n# TYPE weir_kubernetes_request_seconds_total counter\nweir_kubernetes_request_seconds_total %g\n", s.took.Seconds())
	fmt.Fprint(w, "# HELP weir_kubernetes_objects Objects that are watched.\n# TYPE weir_kubernetes_objects gauge\n")
	for _, kind := range slices.Sorted(maps.Keys(s.objects)) {
		fmt.Fprintf(w, "weir_kubernetes_objects{kind=%q} %d\n", kind, s.objects[kind])
	}
	if !s.bookmarks {
		return
	}
	fmt.Fprint(w, "# HELP weir_kubernetes_watch_silent_seconds How long the API server has told nothing of a kind; it tells at least once a minute.\n# TYPE weir_kubernetes_watch_silent_seconds gauge\n")
	for _, kind := range slices.Sorted(maps.Keys(s.heard)) {
		last, silent := s.silent[kind]
		if !silent {
			last = s.heard[kind]
		}
		fmt.Fprintf(w, "weir_kubernetes_watch_silent_seconds{kind=%q} %.0f\n", kind, s.now().Sub(last).Seconds())
	}
}

func (s *Server) note(kind string, waits bool, objects int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waits {
		s.waits[kind] = true
	} else {
		delete(s.waits, kind)
	}
	s.objects[kind] = objects
}

func (s *Server) forget(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waits, kind)
	delete(s.trouble, kind)
	delete(s.refused, kind)
	delete(s.objects, kind)
	delete(s.heard, kind)
	delete(s.silent, kind)
	delete(s.reread, kind)
}
