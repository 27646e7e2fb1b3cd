package leader

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	k8stesting "k8s.io/client-go/testing"
)

// cluster is an API server's Leases: an update of an older version is a conflict. It can be
// away.
type cluster struct {
	kubernetes.Interface
	away    atomic.Bool
	through coordinationv1client.LeasesGetter // nil: as they are
}

func newCluster() *cluster {
	client := fake.NewClientset()
	c := &cluster{Interface: client}
	var mu sync.Mutex
	version := 0
	client.PrependReactor("*", "leases", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if c.away.Load() {
			return true, nil, errors.New("connection refused")
		}
		update, ok := a.(k8stesting.UpdateAction) // which a creation looks like, too
		if !ok || a.GetVerb() != "update" {
			return false, nil, nil
		}
		mu.Lock()
		defer mu.Unlock()
		lease := update.GetObject().DeepCopyObject().(*coordinationv1.Lease)
		held, err := client.Tracker().Get(a.GetResource(), lease.Namespace, lease.Name)
		if err != nil {
			return true, nil, err
		}
		if held.(*coordinationv1.Lease).ResourceVersion != lease.ResourceVersion {
			return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), lease.Name, errors.New("changed"))
		}
		version++
		lease.ResourceVersion = strconv.Itoa(version)
		return true, lease.DeepCopy(), client.Tracker().Update(a.GetResource(), lease, lease.Namespace)
	})
	return c
}

// replica is one that says when it leads.
type replica struct {
	*Election
	duty chan error // ends the duty with an error
	stop func()     // waits
}

func (c *cluster) start(t *testing.T, name string, leading *atomic.Int32) *replica {
	t.Helper()
	leases := c.through
	if leases == nil {
		leases = c.CoordinationV1()
	}
	e, err := New(Options{Leases: leases, Namespace: "istio-system", Name: "istio-leader", Identity: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "weir"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{Election: e, duty: make(chan error)}
	e.While("duty", func(ctx context.Context) error {
		if n := leading.Add(1); n != 1 {
			t.Errorf("%d lead at once", n)
		}
		defer leading.Add(-1)
		select {
		case <-ctx.Done():
			time.Sleep(time.Second) // what is under way is brought to its end
			return nil
		case err := <-r.duty:
			return err
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// One leads; when it ends its work is done before the next one begins, which is at once.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leading := newCluster(), new(atomic.Int32)
		a := c.start(t, "a", leading)
		pass(time.Second)
		b := c.start(t, "b", leading)
		pass(time.Minute)
		if !a.Leading() || b.Leading() || a.Leader() != "a" || b.Leader() != "a" {
			t.Fatalf("a %v %q, b %v %q", a.Leading(), a.Leader(), b.Leading(), b.Leader())
		}
		lease, err := c.CoordinationV1().Leases("istio-system").Get(t.Context(), "istio-leader", metav1.GetOptions{})
		if err != nil || lease.Labels["app.kubernetes.io/managed-by"] != "weir" {
			t.Errorf("%v %v", lease, err)
		}
		a.stop()
		pass(2 * retryPeriod)
		if a.Leading() || !b.Leading() || b.Leader() != "b" {
			t.Errorf("a %v, b %v %q", a.Leading(), b.Leading(), b.Leader())
		}
		b.stop()
		if leading.Load() != 0 {
			t.Error("a duty is left")
		}
	})
}

// The API server goes away: the leader stops before another could begin, and one leads again
// when it is back.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leading := newCluster(), new(atomic.Int32)
		a, b := c.start(t, "a", leading), c.start(t, "b", leading)
		pass(time.Minute)
		if a.Leading() == b.Leading() {
			t.Fatal("none or both lead")
		}
		c.away.Store(true)
		pass(renewDeadline + retryPeriod + 2*time.Second)
		if leading.Load() != 0 {
			t.Error("who cannot renew still leads")
		}
		pass(time.Hour)
		c.away.Store(false)
		pass(leaseDuration + 2*retryPeriod)
		if a.Leading() == b.Leading() {
			t.Error("none or both lead after the outage")
		}
		a.stop()
		b.stop()
	})
}

// slow are Leases that take so long for each request; what is asked for is done in the middle of it.
type slow struct {
	coordinationv1client.LeasesGetter
	half *atomic.Int64
}

func (s slow) Leases(namespace string) coordinationv1client.LeaseInterface {
	return slowLeases{s.LeasesGetter.Leases(namespace), s.half}
}

type slowLeases struct {
	coordinationv1client.LeaseInterface
	half *atomic.Int64
}

func slowly(ctx context.Context, half *atomic.Int64, do func() (*coordinationv1.Lease, error)) (*coordinationv1.Lease, error) {
	wait := func() error {
		select {
		case <-time.After(time.Duration(half.Load())):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(); err != nil {
		return nil, err
	}
	l, err := do()
	if lost := wait(); lost != nil {
		return nil, lost // it is done, and nobody heard
	}
	return l, err
}

func (s slowLeases) Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error) {
	return slowly(ctx, s.half, func() (*coordinationv1.Lease, error) { return s.LeaseInterface.Get(ctx, name, o) })
}

func (s slowLeases) Create(ctx context.Context, l *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	return slowly(ctx, s.half, func() (*coordinationv1.Lease, error) { return s.LeaseInterface.Create(ctx, l, o) })
}

func (s slowLeases) Update(ctx context.Context, l *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	return slowly(ctx, s.half, func() (*coordinationv1.Lease, error) { return s.LeaseInterface.Update(ctx, l, o) })
}

// An API server that takes five seconds for each request changes nothing: who leads goes on. One that takes longer than a leader may be
// without an answer leaves the mesh without one, and never with two; when it is well again one leads.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leading := newCluster(), new(atomic.Int32)
		half := new(atomic.Int64)
		c.through = slow{c.Interface.CoordinationV1(), half}
		a, b := c.start(t, "a", leading), c.start(t, "b", leading)
		pass(time.Minute)
		first, other := a, b
		if b.Leading() {
			first, other = b, a
		}
		half.Store(int64(2500 * time.Millisecond))
		for range 300 {
			if pass(2 * time.Second); !first.Leading() || other.Leading() {
				t.Fatalf("five seconds a request: a leads %v, b %v", a.Leading(), b.Leading())
			}
		}
		for _, d := range []time.Duration{9 * time.Second, 12 * time.Second, 14 * time.Second, 20 * time.Second} { // the duties look that never two lead
			half.Store(int64(d / 2))
			pass(10 * time.Minute)
		}
		half.Store(0)
		pass(2 * leaseDuration)
		if a.Leading() == b.Leading() {
			t.Error("none or both lead when it is well again")
		}
		a.stop()
		b.stop()
	})
}

// A leader whose work fails lets another one lead, which may be the same where there is none.
func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leading := newCluster(), new(atomic.Int32)
		a := c.start(t, "a", leading)
		pass(time.Second)
		a.duty <- errors.New("forbidden")
		pass(time.Minute)
		if !a.Leading() {
			t.Error("it does not try again")
		}
		b := c.start(t, "b", leading)
		pass(time.Minute)
		for range 3 { // the first retry is at once, later ones are not
			if a.Leading() {
				a.duty <- errors.New("forbidden")
			}
			pass(100 * time.Millisecond)
		}
		pass(time.Minute)
		if a.Leading() == b.Leading() {
			t.Error("none or both lead")
		}
		a.stop()
		b.stop()
	})
}

// Who never led ends at once.
func TestEndOfAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leading := newCluster(), new(atomic.Int32)
		a := c.start(t, "a", leading)
		pass(time.Second)
		b := c.start(t, "b", leading)
		pass(time.Second)
		b.stop()
		if !a.Leading() {
			t.Error("the leader changed")
		}
		a.stop()
	})
}

func TestNewWants(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("an election of nothing")
	}
}

// A Lease that its holder left and nobody may take is vacant, since it ended; until then, and as soon as somebody leads, it is not.
func TestVacant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, leading := newCluster(), new(atomic.Int32)
		began := metav1.NewMicroTime(time.Now())
		holder, seconds := "gone", int32(leaseDuration/time.Second)
		if _, err := c.CoordinationV1().Leases("istio-system").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "istio-leader"},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &began}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		var forbidden atomic.Bool
		forbidden.Store(true)
		c.Interface.(*fake.Clientset).PrependReactor("update", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
			return forbidden.Load(), nil, errors.New("forbidden")
		})
		r := c.start(t, "a", leading)
		defer r.stop()
		for _, x := range []struct {
			after time.Duration
			last  string
		}{{leaseDuration, ""}, {vacantGrace - time.Second, ""}, {time.Minute, "gone"}} {
			pass(x.after)
			if since, last := r.Vacant(); last != x.last || last != "" && !since.Equal(began.Add(leaseDuration)) {
				t.Errorf("after %v: vacant since %v, last %q, want %q", x.after, since, last, x.last)
			}
		}
		forbidden.Store(false)
		pass(time.Minute)
		if since, _ := r.Vacant(); !since.IsZero() || !r.Leading() {
			t.Errorf("somebody leads: %v; vacant since %v", r.Leading(), since)
		}
	})
}
