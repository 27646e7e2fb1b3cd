package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/mesh"
)

// Health is what the mesh may be asked to wait for.
type Health string

// The healths of a workload, as the control plane's API spells them.
const (
	Healthy  Health = "healthy"
	Draining Health = "draining"
)

// Options of a Runtime.
type Options struct {
	Sandbox Sandbox
	// Dir is the folder of Pod files.
	Dir string
	// Settled returns nil when every proxy knows that the workload has that health, and
	// context.DeadlineExceeded when one did not learn it in time. Another error means that
	// nobody could be asked.
	Settled func(ctx context.Context, workload mesh.Key, h Health) error
	// Assigns says that programs must listen where the place's variables tell them.
	Assigns bool
	// Environ is what every program gets beside its own variables.
	Environ []string
	// Namespace is not repeated in names shown to people.
	Namespace string
	Logs      *supervise.Logs
	ProxyLogs bool // show what proxies print
	// Say shows a sentence to the person at the terminal.
	Say func(string)
	Log *slog.Logger
}

// Runtime keeps pods.
type Runtime struct {
	o     Options
	files files
	wake  chan struct{}

	mu      sync.Mutex
	plan    *plan.Plan
	pods    map[mesh.Key]*pod
	ctx     context.Context // of Run; nil before
	running sync.WaitGroup
}

// New makes a Runtime. It does nothing before Run.
func New(o Options) *Runtime {
	return &Runtime{o: o, files: files{o.Dir}, wake: make(chan struct{}, 1), plan: &plan.Plan{}, pods: map[mesh.Key]*pod{}}
}

// Apply replaces the plan.
func (r *Runtime) Apply(p *plan.Plan) {
	r.mu.Lock()
	r.plan = p
	r.mu.Unlock()
	r.wakeUp()
}

// Run keeps what the plan says until ctx ends; then it ends every pod, in a hurry, and
// returns.
func (r *Runtime) Run(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	for {
		r.reconcile()
		select {
		case <-r.wake:
		case <-ctx.Done():
			r.mu.Lock()
			for _, p := range r.pods {
				p.stop()
			}
			r.mu.Unlock()
			r.running.Wait()
			return nil
		}
	}
}

func (r *Runtime) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// reconcile takes the next steps towards the plan.
func (r *Runtime) reconcile() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	groups := map[mesh.Key]*plan.Group{}
	for _, g := range r.plan.Groups {
		groups[g.Key()] = g
	}
	members := map[mesh.Key][]*pod{}
	for _, p := range r.pods {
		if p.join == nil {
			k := mesh.NewKey(p.template.Namespace, p.template.Owner)
			members[k] = append(members[k], p)
		}
	}
	for k, pods := range members {
		if groups[k] == nil {
			for _, p := range pods {
				p.stop()
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		if g := groups[k]; g.Blocked == "" {
			r.step(g, members[k])
		}
	}
}

func (r *Runtime) step(g *plan.Group, pods []*pod) {
	byName := map[string]*pod{}
	var views []view
	for _, p := range pods {
		byName[p.name] = p
		p.mu.Lock()
		views = append(views, view{name: p.name, fresh: p.hash == g.Hash, ready: p.settled, stopping: p.stopped(), ordinal: p.ordinal})
		p.mu.Unlock()
	}
	start, stop := decide(g, views)
	for _, name := range stop {
		byName[name].stop()
	}
	for range start {
		r.start(g.Name, g.Hash, &g.Template, nil)
	}
}

// start starts a pod under the lowest ordinal that is free. The lock is held.
func (r *Runtime) start(owner, hash string, t *plan.Template, join *Joined) *pod {
	ordinal, name := 0, ""
	for ; ; ordinal++ {
		name = fmt.Sprintf("%s-%d", owner, ordinal)
		if r.pods[mesh.NewKey(t.Namespace, name)] == nil {
			break
		}
	}
	p := &pod{
		rt: r, name: name, ordinal: ordinal, hash: hash, template: t, join: join, created: time.Now(),
		done: make(chan struct{}), kick: make(chan struct{}, 1),
		services: func(at func(*mesh.Service) []netip.AddrPort) []plan.ServiceAddress {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.plan.Called(t.Namespace, at)
		},
		host: func(name string) *mesh.Service {
			r.mu.Lock()
			now := r.plan
			r.mu.Unlock()
			return now.Host(t.Namespace, name)
		},
	}
	var ctx context.Context
	// The pod's end must not be the end of Run's context: it stops in good order.
	ctx, p.stop = context.WithCancel(context.WithoutCancel(r.ctx))
	p.stopped = func() bool { return ctx.Err() != nil }
	r.pods[p.key()] = p
	for _, c := range t.Containers {
		p.output(c.Name, false) // the column of names is as wide as the longest
	}
	r.running.Go(func() {
		p.run(ctx, r.ctx)
		p.stop()
		close(p.done)
		r.mu.Lock()
		delete(r.pods, p.key())
		r.mu.Unlock()
		r.wakeUp()
	})
	return p
}

// settle waits until every proxy knows of the pod's health, or one that does not listen
// had its time. A control plane that cannot be asked is waited for when successors are
// to take over: nobody would find them. It returns early when ctx ends.
func (r *Runtime) settle(ctx context.Context, p *pod, h Health) {
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, settleTime)
		err := r.o.Settled(once, p.key(), h)
		silent := errors.Is(err, context.DeadlineExceeded) || once.Err() != nil
		cancel()
		if err == nil || silent || h != Healthy {
			return
		}
		r.o.Log.Debug("cannot ask whether the proxies know of a pod", "pod", p.key(), "health", h, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(slowestCheck):
		}
	}
}

// Satisfied reports whether everything that the plan asks for, and that can be run, is in
// service, or has failed more than once.
func (r *Runtime) Satisfied() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready := map[mesh.Key]int{}
	for _, p := range r.pods {
		p.mu.Lock()
		if p.join == nil && (p.settled || p.hopeless()) {
			ready[mesh.NewKey(p.template.Namespace, p.template.Owner+"/"+p.hash)]++
		}
		p.mu.Unlock()
	}
	for _, g := range r.plan.Groups {
		if g.Blocked == "" && ready[mesh.NewKey(g.Namespace, g.Name+"/"+g.Hash)] < g.Replicas {
			return false
		}
	}
	return true
}

// display is a workload's name as people see it.
func (r *Runtime) display(namespace, name string) string {
	if namespace == r.o.Namespace {
		return name
	}
	return namespace + "/" + name
}

// view is a pod as decide sees it.
type view struct {
	name     string
	ordinal  int
	fresh    bool // of the wanted template
	ready    bool
	stopping bool
}

// decide says how many pods to start and which to stop: the next step of a rolling
// replacement that never has fewer ready pods than wanted, as long as there were.
func decide(g *plan.Group, pods []view) (start int, stop []string) {
	var fresh, old []view
	gone := true // no pod of another template is left
	for _, p := range pods {
		gone = gone && p.fresh
		switch {
		case p.stopping:
		case p.fresh:
			fresh = append(fresh, p)
		default:
			old = append(old, p)
		}
	}
	ready := func(ps []view) (n int) {
		for _, p := range ps {
			if p.ready {
				n++
			}
		}
		return n
	}
	// Who goes first: those that serve nobody, then the latest.
	byUse := func(a, b view) int {
		if a.ready != b.ready {
			if b.ready {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.ordinal, a.ordinal)
	}
	slices.SortFunc(fresh, byUse)
	slices.SortFunc(old, byUse)

	for _, p := range fresh[:max(0, len(fresh)-g.Replicas)] {
		stop = append(stop, p.name)
	}
	// Those that serve nobody may go as soon as their successors need no room; one that
	// serves, when enough others do.
	useless := len(fresh) + len(old) - g.Replicas - (len(fresh) - ready(fresh))
	spare := ready(fresh) + ready(old) - g.Replicas
	for _, p := range old {
		switch {
		case g.Recreate:
			stop = append(stop, p.name)
		case !p.ready && useless > 0:
			stop = append(stop, p.name)
			useless--
		case p.ready && spare > 0:
			stop = append(stop, p.name)
			spare--
		}
	}
	if g.Recreate && !gone {
		return 0, stop
	}
	start = g.Replicas - len(fresh)
	if len(old) > 0 {
		start = min(start, g.Replicas+g.Surge-len(fresh)-len(old))
	}
	return max(0, start), stop
}
