package lastgood_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/control/lastgood"
	"github.com/weirmesh/weir/mesh"
)

const namespace = "istio-system"

// plane is what a leader says became of objects.
type plane struct {
	mu      sync.Mutex
	all     []control.Outcome
	changed chan struct{}
}

func newPlane() *plane { return &plane{changed: make(chan struct{})} }

func (p *plane) Outcomes(want func(config.ID) bool, _ *control.Told) (all []control.Outcome, same bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.all {
		if want(o.Object.ID) {
			all = append(all, o)
		}
	}
	return all, false, p.changed
}

func (p *plane) say(objects ...*store.Object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = nil
	for _, o := range objects {
		p.all = append(p.all, control.Outcome{Object: o})
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// object is a DestinationRule as an API server has it.
func object(t *testing.T, name, spec string) *config.Object {
	t.Helper()
	part := document.Part{Line: 1, Text: fmt.Sprintf(`{"apiVersion":"networking.istio.io/v1","kind":"DestinationRule","metadata":{"name":%q,"namespace":"shop"},"spec":%s}`, name, spec)}
	root, err := document.Parse(part)
	if err != nil {
		t.Fatal(err)
	}
	o, findings := config.NewObject(root, part, "", "")
	if o == nil {
		t.Fatal(findings)
	}
	return o
}

const (
	good = `{"host":"reviews","subsets":[{"name":"v1","labels":{"version":"v1"}}]}`
	bad  = `{"host":"reviews","subsets":[{"name":"v1"},{"name":"v1"}],"trafficPolicy":{"loadBalancer":{"simple":"NO_SUCH"}}}`
)

func valid(o *config.Object) *store.Object {
	return &store.Object{ID: o.ID, Raw: o, Serving: o, State: store.Compiled}
}

func invalid(now, before *config.Object) *store.Object {
	return &store.Object{ID: now.ID, Raw: now, Serving: before, State: store.Quarantined}
}

func options(c *fake.Clientset) lastgood.Options {
	return lastgood.Options{ConfigMaps: c.CoreV1().ConfigMaps(namespace), Name: lastgood.Name, Labels: map[string]string{"a": "b"}, Log: slog.New(slog.DiscardHandler)}
}

func data(t *testing.T, c *fake.Clientset) map[string]string {
	t.Helper()
	m, err := c.CoreV1().ConfigMaps(namespace).Get(context.Background(), lastgood.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if m.Labels["a"] != "b" || len(m.Data) == 0 {
		t.Errorf("%v", m)
	}
	return m.Data
}

// A replica that starts while an object is invalid serves what those before it served.
func TestNewReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := fake.NewClientset(), newPlane()
		go func() { _ = lastgood.New(options(c), p).Run(t.Context()) }()
		before, now := object(t, "reviews", good), object(t, "reviews", bad)
		p.say(invalid(now, before))
		time.Sleep(2 * time.Second)
		if got := data(t, c); got[now.ID.FileName()] != before.Text() {
			t.Fatalf("%v", got)
		}
		state := t.TempDir()
		if err := lastgood.Restore(t.Context(), options(c), state); err != nil {
			t.Fatal(err)
		}
		s, err := store.New(store.Options{Settings: mesh.Settings{DomainSuffix: "cluster.local", RootNamespace: namespace, TrustDomain: "cluster.local"}, State: state})
		if err != nil {
			t.Fatal(err)
		}
		u := s.Step(config.Unit{Name: "x", Objects: []*config.Object{now}})
		if o := u.Objects.At(now.ID.String()); !o.LastGood() || o.Serving.Text() != before.Text() {
			t.Errorf("%+v", o)
		}
	})
}

// There is a copy as long as the object is invalid, whoever leads: also one who never had
// the good version does not take it from others.
func TestKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := fake.NewClientset(), newPlane()
		ctx, end := context.WithCancel(t.Context())
		go func() { _ = lastgood.New(options(c), p).Run(ctx) }()
		before, now := object(t, "a", good), object(t, "a", bad)
		want := func(doing string, keys ...string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			got := data(t, c)
			if len(got) != len(keys) {
				t.Errorf("%s: %d entries, want %v", doing, len(got), keys)
			}
			for _, k := range keys {
				if _, ok := got[object(t, k, good).ID.FileName()]; !ok {
					t.Errorf("%s: %s is not kept", doing, k)
				}
			}
		}
		want("nothing is read yet")
		p.say(valid(before))
		want("all is valid")
		p.say(invalid(now, before), valid(object(t, "b", good)))
		want("one is invalid", "a")
		p.say(invalid(now, before), invalid(object(t, "b", bad), object(t, "b", good)), invalid(object(t, "c", bad), nil))
		want("two are, and one was never valid", "a", "b")

		end()
		next := newPlane()
		next.say(invalid(now, nil), invalid(object(t, "b", bad), object(t, "b", good)))
		go func() { _ = lastgood.New(options(c), next).Run(t.Context()) }()
		want("a leader without a good version", "a", "b")
		next.say(valid(before), invalid(object(t, "b", bad), object(t, "b", good)))
		want("one is valid again", "b")
		next.say(valid(before))
		want("the other is gone")
		huge := fmt.Sprintf(`{"host":%q}`, strings.Repeat("x", 300<<10))
		next.say(invalid(object(t, "b", bad), object(t, "b", huge)), invalid(now, before))
		want("one is too large", "a")
	})
}

// What people write into it is taken for what it is.
func TestRestoreOfNonsense(t *testing.T) {
	c := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: lastgood.Name, Namespace: namespace},
		Data: map[string]string{"x": "", "y": "{", "z": "[]", "wrong": object(t, "a", good).Text()}})
	if err := lastgood.Restore(t.Context(), options(c), t.TempDir()); err != nil {
		t.Error(err)
	}
}
