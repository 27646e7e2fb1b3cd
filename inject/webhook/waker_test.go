package webhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/mesh"
)

// Who could not make pods is told three times, two seconds apart, then no more; one that fails
// again is told three times again, but never sooner.
func TestWakes(t *testing.T) {
	now := time.Unix(0, 0)
	w := wakes{}
	var got []string
	due := func() {
		var names []string
		for _, o := range w.due(now) {
			names = append(names, o.name)
		}
		slices.Sort(names)
		got = append(got, fmt.Sprintf("%d: %s", now.Unix(), strings.Join(names, " ")))
	}
	a, b := owner{"ReplicaSet", "shop", "a"}, owner{"Job", "shop", "b"}
	w.refused(a, "", now)
	due()
	now = now.Add(time.Second)
	due()
	w.refused(b, "", now)
	due()
	w.refused(b, "", now)
	due()
	for {
		at, any := w.next()
		if !any {
			break
		}
		now = at
		due()
	}
	want := []string{"0: a", "1: ", "1: b", "1: ", "2: a", "3: b", "4: a", "5: b", "6: ", "7: b", "9: "}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Only events that say that our webhook was not reached count: one that refuses a pod has its reasons.
func TestRefusedEvents(t *testing.T) {
	for _, test := range []struct {
		reason, message string
		want            bool
	}{
		{"FailedCreate", `Error creating: Internal error occurred: failed calling webhook "namespace.sidecar-injector.istio.io": failed to call webhook: Post "https://istiod.istio-system.svc:443/inject?timeout=10s": no endpoints available for service "istiod"`, true},
		{"FailedCreate", `Error creating: admission webhook "namespace.sidecar-injector.istio.io" denied the request: annotation`, false},
		{"FailedCreate", `Error creating: Internal error occurred: failed calling webhook "policy.example.com": failed to call webhook: EOF`, false},
		{"FailedCreate", `Error creating: pods "a" is forbidden: exceeded quota`, false},
		{"FailedMount", `failed calling webhook "namespace.sidecar-injector.istio.io"`, false},
	} {
		if got := refused(&corev1.Event{Reason: test.reason, Message: test.message}); got != test.want {
			t.Errorf("%s %s: %t, want %t", test.reason, test.message, got, test.want)
		}
	}
}

// What is changed is an annotation, through the status, of every kind that makes pods.
func TestWake(t *testing.T) {
	for kind, resource := range map[string]string{"ReplicaSet": "replicasets", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets", "Job": "jobs"} {
		client := fake.NewClientset()
		w := &Waker{Client: client}
		_ = w.wake(t.Context(), owner{kind, "shop", "a"}) // which is not there
		a, ok := client.Actions()[0].(kubetesting.PatchAction)
		if !ok || a.GetResource().Resource != resource || a.GetSubresource() != "status" || a.GetName() != "a" || a.GetNamespace() != "shop" ||
			!strings.HasPrefix(string(a.GetPatch()), `{"metadata":{"annotations":{"weir.dev/injection-back":"`) {
			t.Errorf("%s: %+v", kind, client.Actions())
		}
	}
	if err := (&Waker{Client: fake.NewClientset()}).wake(t.Context(), owner{"Rollout", "shop", "a"}); err == nil {
		t.Error("a Rollout makes ReplicaSets, not pods")
	}
}

// Webhooks that nobody reaches are a finding with since when, why and who waits, as soon as that has lasted, and no longer than it does; where only
// our own try fails, it is a warning.
func TestUnreached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Waker{Object: mesh.Ref{Kind: "Service", Namespace: "istio-system", Name: "istiod"}}
		want := func(when, want string) {
			t.Helper()
			got := ""
			for _, f := range w.Findings() {
				got += fmt.Sprintf("%s %s %s", f.Severity, f.Code, f.Message)
			}
			if got != want {
				t.Errorf("%s: %s\nwant %s", when, got, want)
			}
		}
		away := errors.New("connection refused")
		want("nobody tried", "")
		w.look(away, nil, time.Now())
		want("at once", "")
		time.Sleep(lookEvery)
		w.look(away, nil, time.Now())
		want("our own try", "warning WEIR0139 the webhooks: this replica does not reach them by their Service, as the API server would, since 2000-01-01T00:00:00Z: connection refused")
		waiting := wakes{}
		for _, name := range []string{"d", "b", "a", "c"} {
			waiting.refused(owner{"ReplicaSet", "shop", name}, "no endpoints", time.Now())
		}
		w.look(away, waiting, time.Now())
		want("pods wait", "error WEIR0139 the webhooks: the API server does not reach them, since 2000-01-01T00:00:00Z: no endpoints; pods could not be made for ReplicaSet shop/a, ReplicaSet shop/b, ReplicaSet shop/c and 1 more")
		w.look(nil, nil, time.Now())
		want("well again", "")
		w.look(nil, waiting, time.Now())
		time.Sleep(lookEvery)
		want("events only", "error WEIR0139 the webhooks: the API server does not reach them, since 2000-01-01T00:00:10Z: no endpoints; pods could not be made for ReplicaSet shop/a, ReplicaSet shop/b, ReplicaSet shop/c and 1 more")
	})
}
