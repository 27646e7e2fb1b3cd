// Package leader lets one of several replicas do what only one may do.
//
// In: a Kubernetes Lease, and the functions to run while this replica holds it. Out: those
// functions' work, by one replica at a time as far as clocks that run alike can promise; so
// what they write is to be guarded by resource versions besides. Run is for one goroutine,
// the other methods for any.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/weirmesh/weir/internal/backoff"
	"github.com/weirmesh/weir/internal/runner"
)

// Periods of Kubernetes' own controllers: a leader that died is followed after 15 to 17 s, one
// that cannot renew stops 5 s before another may begin. Each replica makes one request in 2 s.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// A function that fails makes room for another replica, which may fare better; where there is
// none the same one tries again, this often.
const (
	minPause = time.Second
	maxPause = 30 * time.Second
)

// Options of an Election; Labels may be empty.
type Options struct {
	Leases          coordinationv1client.LeasesGetter
	Namespace, Name string // of the Lease
	// Identity tells replicas apart: the name of the pod.
	Identity string
	Labels   map[string]string // of the Lease
	Log      *slog.Logger
}

// Election is one replica's part in an election.
type Election struct {
	o       Options
	duties  []duty
	leading atomic.Bool
	leader  atomic.Pointer[string]
	vacant  atomic.Pointer[vacancy]
}

// vacancy is a Lease that nobody holds any more.
type vacancy struct {
	since time.Time
	last  string // who held it
}

// watched is the Lease as the election reads it.
type watched struct {
	resourcelock.Interface
	e *Election
}

// Get is resourcelock.Interface.
func (w watched) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := w.Interface.Get(ctx)
	if err == nil {
		w.e.saw(r, time.Now())
	}
	return r, raw, err
}

// Update is resourcelock.Interface.
func (w watched) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	err := w.Interface.Update(ctx, r)
	if err == nil && r.HolderIdentity != "" {
		w.e.vacant.Store(nil)
	}
	return err
}

// saw notes whether the Lease has a holder.
func (e *Election) saw(r *resourcelock.LeaderElectionRecord, now time.Time) {
	ended := r.RenewTime.Add(time.Duration(r.LeaseDurationSeconds) * time.Second)
	switch {
	case r.HolderIdentity != "" && now.Before(ended):
		e.vacant.Store(nil)
	case e.vacant.Load() == nil:
		if r.HolderIdentity == "" || ended.After(now) { // given back
			ended = now
		}
		e.vacant.Store(&vacancy{since: ended, last: r.HolderIdentity})
	}
}

// vacantGrace is longer than it takes another replica to follow one that died or went.
const vacantGrace = leaseDuration

// Vacant says since when nobody leads, and who did last ("" if it went by itself), as far as the Lease can be read; the zero time: somebody does.
func (e *Election) Vacant() (since time.Time, last string) {
	if v := e.vacant.Load(); v != nil && time.Since(v.since) > vacantGrace {
		return v.since, v.last
	}
	return time.Time{}, ""
}

// Name is the Lease's.
func (e *Election) Name() string { return e.o.Name }

type duty struct {
	name string
	run  func(context.Context) error
}

// New takes no part yet: Run does.
func New(o Options) (*Election, error) {
	if o.Leases == nil || o.Namespace == "" || o.Name == "" || o.Identity == "" || o.Log == nil {
		return nil, errors.New("leader election: a client, namespace and name of the Lease, an identity and a logger are required")
	}
	e := &Election{o: o}
	e.leader.Store(new(string))
	return e, nil
}

// While adds a function to run while this replica leads; it returns when its context ends.
// An error ends the leadership. Not after Run began.
func (e *Election) While(name string, run func(context.Context) error) {
	e.duties = append(e.duties, duty{name, run})
}

// Leading reports whether the functions run here.
func (e *Election) Leading() bool { return e.leading.Load() }

// Leader is the identity of the leader as far as known, "" if there is none.
func (e *Election) Leader() string { return *e.leader.Load() }

// Run takes part until ctx ends. Then the functions end, and after them the leadership: the
// Lease is given back, and another replica leads within its next try.
func (e *Election) Run(ctx context.Context) error {
	pause := backoff.Backoff{Min: minPause, Max: maxPause}
	for ctx.Err() == nil {
		began := time.Now()
		if err := e.term(ctx); err != nil {
			e.o.Log.Error("leadership given up", "lease", e.o.Namespace+"/"+e.o.Name, "err", err)
		}
		if time.Since(began) > maxPause {
			pause.Reset()
		}
		if pause.Wait(ctx) != nil {
			return nil
		}
	}
	return nil
}

// term waits until this replica leads, and leads until something ends it: the first error of
// a function, or nil.
func (e *Election) term(ctx context.Context) error {
	// The Lease is held until the functions have returned, so what holds it outlives ctx.
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	holding = klog.NewContext(holding, logr.FromSlogHandler(e.o.Log.Handler()).V(4)) // for those who debug
	const (
		following = iota
		leading
		over
	)
	var state atomic.Int32
	defer context.AfterFunc(ctx, func() {
		if state.Load() == following {
			release()
		}
	})()
	var failed error
	done := make(chan struct{}) // closed when the functions have returned
	lead := func(held context.Context) {
		if !state.CompareAndSwap(following, leading) {
			return
		}
		defer close(done)
		defer release()
		e.leading.Store(true)
		defer e.leading.Store(false)
		e.o.Log.Info("leading", "lease", e.o.Name)
		work, stop := context.WithCancel(held)
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		g := runner.New(work)
		for _, d := range e.duties {
			g.Go(d.name, d.run)
		}
		if failed = g.Wait(); failed == nil {
			<-work.Done() // there may be nothing more to do, which is no reason to let go
		}
		e.o.Log.Info("not leading any more", "lease", e.o.Name)
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: watched{&resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: e.o.Namespace, Name: e.o.Name}, Client: e.o.Leases, Labels: e.o.Labels,
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.o.Identity},
		}, e},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true, Name: e.o.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: lead,
			OnStoppedLeading: func() {},
			OnNewLeader:      func(id string) { e.leader.Store(&id) },
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	elector.Run(holding)
	if !state.CompareAndSwap(following, over) {
		<-done
	}
	return failed
}
