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
	k8stesting "k8s.io/client-go/testing"
)

// cluster is an API server's Leases: an update of an older version is a conflict. It can be
// away.
type cluster struct {
	kubernetes.Interface
	away atomic.Bool
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
	e, err := New(Options{Leases: c.CoordinationV1(), Namespace: "istio-system", Name: "istio-leader", Identity: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "weir"}, Log: slog.New(slog.DiscardHandler)})
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
