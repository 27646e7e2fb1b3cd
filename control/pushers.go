package control

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

const (
	// often is how many times a minute something changes that is not usual, and long for how many minutes one after the other before it is said.
	// A readiness probe as Kubernetes has it by default flips no more than three times a minute, a container that ends at once is restarted
	// six times in its first ten minutes, and a hundred pods are replaced in less.
	often, long = 6, 10
	// maxPushers bounds what is counted in a minute, at some 150 bytes each; what changed often in the one before has its place.
	maxPushers = 10_000
	// maxBusiest is how many of the last minute the API tells.
	maxBusiest = 5
)

// pusher is something whose changes go to proxies: an object, or a service, for its endpoints, too. It is known by its place in the API.
type pusher struct{ kind, namespace, name string }

// pushers count what changes, minute by minute: who makes the control plane push. The store's goroutine counts; any may ask.
type pushers struct {
	mu     sync.Mutex
	minute int64 // of the Unix epoch, that now is about
	now    map[pusher]*changes
	last   map[pusher]*changes // in the minute before
	busy   map[pusher]streak   // that changed often in all minutes until now's
}

// changes are those of one source in a minute.
type changes struct {
	n        int
	endpoint string // the one that changed when it had become often; "": the object itself did
}

// streak is how often something changed, for how many minutes in a row.
type streak struct {
	minutes, n int
	endpoint   string
}

// turn begins another minute, if it is over.
func (s *pushers) turn(now time.Time) {
	minute := now.Unix() / 60
	if minute == s.minute && s.now != nil {
		return
	}
	busy, last := map[pusher]streak{}, map[pusher]*changes{}
	if minute == s.minute+1 {
		last = s.now
		for x, c := range last {
			if c.n >= often {
				b := s.busy[x]
				busy[x] = streak{b.minutes + 1, b.n + c.n, c.endpoint}
			}
		}
	}
	s.minute, s.busy, s.last, s.now = minute, busy, last, map[pusher]*changes{}
}

// count counts one change, and reports whether that made it often.
func (s *pushers) count(x pusher) bool {
	c := s.now[x]
	if c == nil {
		if len(s.now) >= maxPushers && s.busy[x].minutes == 0 {
			return false
		}
		c = &changes{}
		s.now[x] = c
	}
	c.n++
	return c.n == often
}

// note counts what is new in a version of the configuration: objects that changed or went, but for pods; if there are none, services, their
// endpoints and secrets, which in a cluster are facts, and not objects. It costs what changed.
func (s *pushers) note(old, cur *store.Update, fresh, removed []*receipt, now time.Time) {
	if old == nil || old.Snapshot.Version == cur.Snapshot.Version {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now)
	some := false
	for _, list := range [][]*receipt{fresh, removed} {
		for _, x := range list {
			if !isPod(x.id) {
				some = true
				s.count(pusher{x.id.Kind, x.id.Namespace, x.id.Name})
			}
		}
	}
	if some {
		return
	}
	was, is := old.Snapshot, cur.Snapshot
	service := func(key mesh.Key) pusher {
		if svc := cmp.Or(is.Services.At(key), was.Services.At(key)); svc != nil {
			return pusher{svc.Ref.Kind, svc.Ref.Namespace, svc.Ref.Name}
		}
		namespace, name := key.Split()
		return pusher{"Service", namespace, name}
	}
	counted := map[pusher]bool{}
	for key := range is.Services.Diff(was.Services, func(a, b *mesh.Service) bool { return a == b }) {
		if x := service(key); !counted[x] {
			counted[x] = true
			s.count(x)
		}
	}
	for key := range is.Endpoints.Diff(was.Endpoints, func(a, b *mesh.EndpointSet) bool { return a == b }) {
		if x := service(key); !counted[x] {
			counted[x] = true
			if s.count(x) { // to compare endpoints costs what a service has of them: once a minute
				s.now[x].endpoint = flapped(was.Endpoints.At(key), is.Endpoints.At(key))
			}
		}
	}
	for key := range is.Secrets.Diff(was.Secrets, func(a, b *mesh.Secret) bool { return a == b }) {
		ref := cmp.Or(is.Secrets.At(key), was.Secrets.At(key)).Ref
		s.count(pusher{ref.Kind, ref.Namespace, ref.Name})
	}
}

// flapped is an endpoint that is in one of two sets only, or not as it was; "" if there is none.
func flapped(was, is *mesh.EndpointSet) string {
	before, after := endpointsAt(was), endpointsAt(is)
	var out []string
	for at, e := range after {
		if b := before[at]; b == nil || b.Health != e.Health {
			out = append(out, at)
		}
	}
	for at := range before {
		if after[at] == nil {
			out = append(out, at)
		}
	}
	if len(out) == 0 {
		return ""
	}
	at := slices.Min(out)
	if w := cmp.Or(after[at], before[at]).Workload; w != nil {
		at += " (" + qualified(w.Namespace, w.Name) + ")"
	}
	return at
}

// endpointsAt are the endpoints of a set by where they are reached; it may be nil.
func endpointsAt(set *mesh.EndpointSet) map[string]*mesh.Endpoint {
	out := map[string]*mesh.Endpoint{}
	if set != nil {
		for _, list := range set.Ports {
			for i := range list {
				e := &list[i]
				at := cmp.Or(e.Host, e.Addr.String())
				out[at] = e
			}
		}
	}
	return out
}

// busiest are those that changed most in the last whole minute.
func (s *pushers) busiest(now time.Time) (out []apiv1.Changing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now)
	for x, c := range s.last {
		out = append(out, apiv1.Changing{Kind: x.kind, Namespace: x.namespace, Name: x.name, Changes: c.n})
	}
	slices.SortFunc(out, func(a, b apiv1.Changing) int {
		return cmp.Or(b.Changes-a.Changes, cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(len(out), maxBusiest)]
}

// findings name what has changed often for long, most of all.
func (s *pushers) findings(now time.Time) []config.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now)
	var all []pusher
	for x, b := range s.busy {
		if b.minutes >= long {
			all = append(all, x)
		}
	}
	if len(all) == 0 {
		return nil
	}
	rate := func(x pusher) float64 { return float64(s.busy[x].n) / float64(s.busy[x].minutes) }
	slices.SortFunc(all, func(a, b pusher) int {
		return cmp.Or(cmp.Compare(rate(b), rate(a)), cmp.Compare(a.String(), b.String()))
	})
	names := make([]string, len(all))
	for i, x := range all {
		names[i] = x.String()
	}
	top := s.busy[all[0]]
	message := fmt.Sprintf("it changed %d times in %d minutes, at least %d times in each: it has the control plane push most", top.n, top.minutes, often)
	hint := "find who writes it: metadata.managedFields names them (kubectl get -o yaml --show-managed-fields); two controllers that do not agree write in turn"
	if top.endpoint != "" {
		message += "; what changes are its endpoints, lately " + top.endpoint
		hint = "see why it becomes ready and unready: its readiness probe, its restarts (kubectl describe pod); a probe with a higher failureThreshold flips less"
	}
	return []config.Finding{config.New(config.AlwaysChanging, mesh.Ref{Kind: all[0].kind, Namespace: all[0].namespace, Name: all[0].name}, "", 0, message+besides("so do", names), hint)}
}

func (x pusher) String() string { return x.kind + " " + qualified(x.namespace, x.name) }
