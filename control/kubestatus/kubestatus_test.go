package kubestatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/mesh"
)

var services = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}

// outcomes is a Source that is told.
type outcomes struct {
	mu      sync.Mutex
	all     []control.Outcome
	changed chan struct{}
	asked   int
}

func (o *outcomes) Outcomes(want func(config.ID) bool, _ *control.Told) ([]control.Outcome, bool, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	var out []control.Outcome
	for _, x := range o.all {
		if want(x.Object.ID) {
			out = append(out, x)
		}
	}
	return out, false, o.changed
}

func (o *outcomes) times() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

func (o *outcomes) set(all ...control.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = all
	close(o.changed)
	o.changed = make(chan struct{})
}

func yaml(kind, name string, generation int, more string) string {
	group := "networking.istio.io/v1"
	if kind == "EnvoyFilter" {
		group = "networking.istio.io/v1alpha3"
	}
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: shop, generation: %d%s}\n", group, kind, name, generation, more)
}

func outcome(t *testing.T, text string, state store.State, fs ...config.Finding) control.Outcome {
	t.Helper()
	part := document.Part{Text: text, Line: 1}
	root, err := document.Parse(part)
	if err != nil {
		t.Fatal(err)
	}
	o, problems := config.NewObject(root, part, "", "shop")
	if o == nil {
		t.Fatal(problems)
	}
	return control.Outcome{Object: &store.Object{ID: o.ID, Raw: o, State: state, Findings: fs}, Findings: fs, Settled: true, Proxies: 2, Since: time.Now()}
}

// cluster holds the objects, and counts what is written.
type cluster struct {
	*fake.FakeDynamicClient
	t    *testing.T
	mu   sync.Mutex
	sent []string
	err  error
}

// patches are those so far.
func (c *cluster) patches() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sent)
}

// answer makes the API server say err to patches from now on, and forgets those so far.
func (c *cluster) answer(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent, c.err = nil, err
}

func newCluster(t *testing.T, objects ...string) *cluster {
	t.Helper()
	c := &cluster{t: t}
	kinds := map[schema.GroupVersionResource]string{services: "VirtualServiceList", {Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"}: "EnvoyFilterList"}
	var list []runtime.Object
	for _, text := range objects {
		list = append(list, object(t, text))
	}
	c.FakeDynamicClient = fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, list...)
	c.PrependReactor("patch", "*", func(a k8stesting.Action) (bool, runtime.Object, error) {
		p := a.(k8stesting.PatchAction)
		if a.GetSubresource() != "status" {
			t.Errorf("patched %q", a.GetSubresource())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sent = append(c.sent, p.GetName()+" "+string(p.GetPatch()))
		return c.err != nil, nil, c.err
	})
	return c
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	root, err := document.Parse(document.Part{Text: text, Line: 1})
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(root.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	u.SetResourceVersion("7")
	return u
}

func (c *cluster) status(gvr schema.GroupVersionResource, name string) map[string]any {
	c.t.Helper()
	u, err := c.Resource(gvr).Namespace("shop").Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	s, _ := u.Object["status"].(map[string]any)
	return s
}

func start(t *testing.T, c *cluster, from Source) (stop func()) {
	t.Helper()
	return startLogged(t, c, from, slog.DiscardHandler)
}

func startLogged(t *testing.T, c *cluster, from Source, log slog.Handler) (stop func()) {
	t.Helper()
	w, err := New(Options{Client: c, From: from, Log: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func conditions(status map[string]any) (out []string) {
	list, _ := status["conditions"].([]any)
	for _, c := range list {
		m := c.(map[string]any)
		out = append(out, fmt.Sprintf("%v=%v %v g%v: %v", m["type"], m["status"], m["reason"], m["observedGeneration"], m["message"]))
	}
	return out
}

func finding(code config.Code, path, text string) config.Finding {
	return config.New(code, mesh.Ref{Kind: "VirtualService", Namespace: "shop", Name: "a"}, path, 0, text, "do something")
}

// What the status says of each fate an object may have.
func TestConditions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := yaml("VirtualService", "a", 3, "")
		lastGood := outcome(t, text, store.Quarantined, finding(config.SchemaError, "spec.http[0]", "no such field"))
		lastGood.Object.Serving = lastGood.Object.Raw
		alone := outcome(t, text, store.Compiled)
		alone.Proxies = 0
		for _, c := range []struct {
			name string
			o    control.Outcome
			want []string
			code string // of the first validation message
		}{
			{"in force", outcome(t, text, store.Compiled), []string{"Accepted=True Accepted g3: <nil>", "Reconciled=True Reconciled g3: in force on all proxies that need it"}, ""},
			{"needed by nobody", alone, []string{"Accepted=True Accepted g3: <nil>", "Reconciled=True Reconciled g3: no connected proxy needs it"}, ""},
			{"with a warning", outcome(t, text, store.Compiled, finding(config.UnreachableRule, "spec.http[1]", "never used")),
				[]string{"Accepted=True Accepted g3: warning IST0130: spec.http[1]: never used (do something)", "Reconciled=True Reconciled g3: in force on all proxies that need it"}, "IST0130"},
			{"with a code of ours", outcome(t, text, store.Quarantined, finding(config.FieldNotEnforcedUnsafe, "spec.tls", "not enforced")),
				[]string{"Accepted=False Invalid g3: error WEIR0011: spec.tls: not enforced (do something)"}, ""},
			{"wrong", outcome(t, text, store.Quarantined, finding(config.UnreachableRule, "spec.http[1]", "never used"), finding(config.SchemaError, "spec.http[0]", "no such field")),
				[]string{"Accepted=False Invalid g3: error IST0106: spec.http[0]: no such field (do something)\nwarning IST0130: spec.http[1]: never used (do something)"}, "IST0130"},
			{"wrong after it was right", lastGood,
				[]string{"Accepted=False Invalid g3: error IST0106: spec.http[0]: no such field (do something)\nThe last good version stays in force."}, "IST0106"},
		} {
			cl := newCluster(t, text)
			from := &outcomes{all: []control.Outcome{c.o}, changed: make(chan struct{})}
			stop := start(t, cl, from)
			pass(time.Minute)
			s := cl.status(services, "a")
			if d := cmp.Diff(c.want, conditions(s)); d != "" {
				t.Errorf("%s (-want +got)\n%s", c.name, d)
			}
			messages, _ := s["validationMessages"].([]any)
			got := ""
			if len(messages) > 0 {
				got = fmt.Sprint(messages[0].(map[string]any)["type"].(map[string]any)["code"])
			}
			if got != c.code || len(cl.patches()) != 1 || number(s["observedGeneration"]) != 3 {
				t.Errorf("%s: message %s, %d patches, %v", c.name, got, len(cl.patches()), s)
			}
			stop()
			// The next leader has nothing to add.
			stop = start(t, cl, from)
			pass(time.Minute)
			if len(cl.patches()) != 1 {
				t.Errorf("%s: written again: %v", c.name, cl.patches())
			}
			stop()
		}
	})
}

func TestNotImplemented(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := yaml("EnvoyFilter", "f", 1, "")
		cl := newCluster(t, text)
		from := &outcomes{all: []control.Outcome{outcome(t, text, store.Unenforced, finding(config.KindNotEnforced, "", "EnvoyFilter is not enforced"))}, changed: make(chan struct{})}
		defer start(t, cl, from)()
		pass(time.Second)
		got := conditions(cl.status(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"}, "f"))
		if len(got) != 1 || !strings.HasPrefix(got[0], "Accepted=False NotImplemented g1: error WEIR0008: EnvoyFilter is not enforced") {
			t.Errorf("%v", got)
		}
	})
}

// A change is told once it is in force, or is overdue; what is the same is not written, a
// change of one status keeps the time of the other, and the rest of a status is kept.
func TestLifeOfAStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := yaml("VirtualService", "a", 1, "")
		cl := newCluster(t, first+"status: {conditions: [{type: Theirs, status: \"True\"}], other: 5}\n")
		from := &outcomes{changed: make(chan struct{})}
		defer start(t, cl, from)()
		pass(time.Second)

		waiting := outcome(t, first, store.Compiled)
		waiting.Settled, waiting.Why = false, "shop/cart-0 rejects it: no"
		from.set(waiting)
		pass(grace - time.Second)
		if len(cl.patches()) != 0 {
			t.Errorf("told too early: %v", cl.patches())
		}
		pass(3 * time.Second)
		if got := conditions(cl.status(services, "a")); len(got) != 3 || got[0] != "Theirs=True <nil> g<nil>: <nil>" || got[2] != "Reconciled=False Pending g1: shop/cart-0 rejects it: no" {
			t.Errorf("overdue: %v", got)
		}
		from.set(outcome(t, first, store.Compiled))
		pass(time.Minute)
		s := cl.status(services, "a")
		if got := conditions(s); got[2] != "Reconciled=True Reconciled g1: in force on all proxies that need it" || number(s["other"]) != 5 || len(cl.patches()) != 2 {
			t.Errorf("in force: %v, %d patches", s, len(cl.patches()))
		}
		times := func() (out []any) {
			for _, c := range cl.status(services, "a")["conditions"].([]any)[1:] {
				out = append(out, c.(map[string]any)["lastTransitionTime"])
			}
			return out
		}
		if x := times(); x[0] == x[1] {
			t.Errorf("both changed at %v", x)
		}
		before := from.times()
		pass(time.Hour)
		if from.times() > before+1 {
			t.Errorf("%d questions in an idle hour", from.times()-before)
		}

		// The object changes faster than what is known of it: nothing old is written.
		second := object(t, yaml("VirtualService", "a", 2, ""))
		second.Object["status"] = cl.status(services, "a")
		if _, err := cl.Resource(services).Namespace("shop").Update(t.Context(), second, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		from.set(outcome(t, first, store.Compiled, finding(config.UnreachableRule, "", "x")))
		pass(time.Minute)
		if len(cl.patches()) != 2 {
			t.Errorf("written for an older version: %v", cl.patches()[2:])
		}
		old := times()
		from.set(outcome(t, yaml("VirtualService", "a", 2, ""), store.Compiled))
		pass(time.Minute)
		if got := conditions(cl.status(services, "a")); !strings.Contains(got[1], " g2:") || !cmp.Equal(times(), old) {
			t.Errorf("%v at %v, before %v", got, times(), old)
		}
	})
}

// many are n objects in force: a0, a1 and so on.
func many(t *testing.T, n int) (texts []string, all []control.Outcome) {
	for i := range n {
		text := yaml("VirtualService", fmt.Sprint("a", i), 1, "")
		texts, all = append(texts, text), append(all, outcome(t, text, store.Compiled))
	}
	return texts, all
}

// Many objects are written at a rate, and what is refused is tried again without haste.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, all := many(t, 200)
		cl := newCluster(t, texts...)
		cl.answer(apierrors.NewForbidden(services.GroupResource(), "a", errors.New("no role")))
		defer start(t, cl, &outcomes{all: all, changed: make(chan struct{})})()
		pass(time.Hour)
		if n := len(cl.patches()); n < 30 || n > 70 {
			t.Errorf("%d tries in an hour", n)
		}
		cl.answer(nil)
		pass(time.Minute + 12*time.Second) // the longest pause, then 20 a second
		if n := len(cl.patches()); n != 200 {
			t.Errorf("%d written", n)
		}
	})
}

func TestPlural(t *testing.T) {
	for kind, want := range map[string]string{"VirtualService": "virtualservices", "Gateway": "gateways", "ServiceEntry": "serviceentries", "WorkloadEntry": "workloadentries",
		"AuthorizationPolicy": "authorizationpolicies", "PeerAuthentication": "peerauthentications", "Telemetry": "telemetries", "ProxyConfig": "proxyconfigs"} {
		if got := plural(kind); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

// What is there is read in pages when a term begins: no request of its own for an object, but where what was read is old.
func TestReadsInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, all := many(t, 60)
		cl := newCluster(t, texts...)
		from := &outcomes{all: all, changed: make(chan struct{})}
		expect := func(when string, list, get, patch int) {
			t.Helper()
			got := map[string]int{}
			for _, a := range cl.Actions() {
				got[a.GetVerb()]++
			}
			cl.ClearActions()
			if got["list"] != list || got["get"] != get || got["patch"] != patch {
				t.Errorf("%s: %v", when, got)
			}
		}
		stop := start(t, cl, from)
		pass(time.Minute)
		expect("nobody has told of them", 1, 0, 60)
		from.set(append([]control.Outcome{outcome(t, texts[0], store.Compiled, finding(config.UnreachableRule, "", "x"))}, all[1:]...)...)
		pass(time.Minute)
		expect("there is news of one", 0, 1, 1)
		from.set(all...)
		pass(time.Minute)
		expect("no more", 0, 1, 1)
		stop()

		stop = start(t, cl, from)
		pass(time.Minute)
		expect("the next leader", 1, 0, 0)
		stop()

		pending := func(text string) control.Outcome {
			o := outcome(t, text, store.Compiled, finding(config.UnreachableRule, "", "x"))
			o.Settled = false
			return o
		}
		late, old := pending(texts[1]), pending(texts[2])
		changed := outcome(t, yaml("VirtualService", "a2", 2, ""), store.Compiled)
		u := object(t, yaml("VirtualService", "a2", 2, ""))
		u.Object["status"] = cl.status(services, "a2")
		from.set(slices.Concat(all[:1], []control.Outcome{late, old}, all[3:])...)
		cl.ClearActions()
		stop = start(t, cl, from)
		pass(time.Second)
		expect("the one after it", 1, 0, 0)
		if _, err := cl.Resource(services).Namespace("shop").Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		cl.answer(apierrors.NewConflict(services.GroupResource(), "a1", errors.New("written meanwhile")))
		late.Settled = true
		from.set(slices.Concat(all[:1], []control.Outcome{late, old}, all[3:])...)
		pass(1500 * time.Millisecond)
		cl.answer(nil)
		pass(3 * time.Second)
		expect("somebody else wrote it", 0, 1, 2)
		from.set(slices.Concat(all[:1], []control.Outcome{late, changed}, all[3:])...)
		pass(time.Minute)
		expect("a version that was not there yet", 0, 1, 1)
		stop()
	})
}
