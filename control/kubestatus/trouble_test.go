package kubestatus

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
)

// An object with an error is told so by condition and message, and neither is there any more when it is mended.
func TestMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := yaml("VirtualService", "a", 1, "")
		cl := newCluster(t, wrong)
		from := &outcomes{changed: make(chan struct{})}
		defer start(t, cl, from)()
		from.set(outcome(t, wrong, store.Quarantined, finding(config.SchemaError, "spec.http[0]", "no such field"), finding(config.UnreachableRule, "spec.http[1]", "never used")))
		pass(time.Minute)
		s := cl.status(services, "a")
		if got := conditions(s); len(got) != 1 || !strings.HasPrefix(got[0], "Accepted=False Invalid g1: error IST0106: spec.http[0]: no such field") {
			t.Errorf("wrong: %v", got)
		}
		if got, _ := s["validationMessages"].([]any); len(got) != 2 {
			t.Errorf("wrong: messages %v", got)
		}

		mended := object(t, yaml("VirtualService", "a", 2, ""))
		mended.Object["status"] = s
		if _, err := cl.Resource(services).Namespace("shop").Update(t.Context(), mended, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		from.set(outcome(t, yaml("VirtualService", "a", 2, ""), store.Compiled))
		pass(time.Minute)
		s = cl.status(services, "a")
		if got := conditions(s); len(got) != 2 || got[0] != "Accepted=True Accepted g2: <nil>" || got[1] != "Reconciled=True Reconciled g2: in force on all proxies that need it" {
			t.Errorf("mended: %v", got)
		}
		if got, _ := s["validationMessages"].([]any); len(got) != 0 {
			t.Errorf("mended: messages %v", got)
		}
	})
}

// Somebody else who writes at the same moment is no reason to give up, nor to say anything: the status is written on top of theirs.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := yaml("VirtualService", "a", 1, "")
		cl := newCluster(t, text)
		cl.answer(apierrors.NewConflict(services.GroupResource(), "a", errors.New("changed meanwhile")))
		var log bytes.Buffer
		from := &outcomes{changed: make(chan struct{})}
		defer startLogged(t, cl, from, slog.NewTextHandler(&log, nil))()
		from.set(outcome(t, text, store.Compiled))
		pass(5*sweepEvery + sweepEvery/2)
		if n := len(cl.patches()); n < 4 || n > 6 {
			t.Errorf("%d tries in five seconds", n)
		}
		theirs := object(t, text)
		theirs.SetResourceVersion("8")
		theirs.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Theirs", "status": "True"}}}
		if _, err := cl.Resource(services).Namespace("shop").Update(t.Context(), theirs, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		cl.answer(nil)
		pass(2 * sweepEvery)
		if got := conditions(cl.status(services, "a")); len(got) != 3 || got[0] != "Theirs=True <nil> g<nil>: <nil>" || len(cl.patches()) != 1 || !strings.Contains(cl.patches()[0], `"resourceVersion":"8"`) {
			t.Errorf("%v by %v", got, cl.patches())
		}
		if log.Len() > 0 {
			t.Errorf("said: %s", &log)
		}
	})
}

// An object that is gone when its status is written, before or after it was read, is nothing to speak of, and is not tried again.
func TestDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		there := yaml("VirtualService", "there", 1, "")
		cl := newCluster(t, there)
		var log bytes.Buffer
		reads := 0
		cl.PrependReactor("get", "*", func(k8stesting.Action) (bool, runtime.Object, error) {
			reads++ // by the one goroutine that writes, of what is not in the list
			return false, nil, nil
		})
		cl.answer(apierrors.NewNotFound(services.GroupResource(), "there"))
		from := &outcomes{changed: make(chan struct{})}
		defer startLogged(t, cl, from, slog.NewTextHandler(&log, nil))()
		from.set(outcome(t, yaml("VirtualService", "gone", 1, ""), store.Compiled), outcome(t, there, store.Compiled))
		pass(time.Hour)
		if reads != 1 || len(cl.patches()) != 1 || log.Len() > 0 {
			t.Errorf("%d readings, %v, said: %s", reads, cl.patches(), &log)
		}
	})
}

// A right that is missing is said once a kind, however long it is missing and however many objects there are, and once more when it is there; another
// reason is said, too.
func TestRefusedIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forbidden := apierrors.NewForbidden(services.GroupResource(), "a", errors.New("no role"))
		first, second, settled := yaml("VirtualService", "a", 1, ""), yaml("VirtualService", "b", 1, ""), yaml("VirtualService", "c", 1, "")
		cl := newCluster(t, first, second, settled)
		from := &outcomes{changed: make(chan struct{})}
		stop := start(t, cl, from)
		from.set(outcome(t, settled, store.Compiled))
		pass(time.Minute)
		stop()

		cl.answer(forbidden)
		var log bytes.Buffer
		defer startLogged(t, cl, from, slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))()
		from.set(outcome(t, first, store.Compiled), outcome(t, settled, store.Compiled), outcome(t, second, store.Compiled))
		said := func(what string, want ...string) {
			t.Helper()
			pass(time.Hour)
			lines := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
			ok := len(lines) == len(want)
			for i := range want {
				ok = ok && strings.Contains(lines[i], want[i])
			}
			if !ok {
				t.Errorf("%s: %s", what, &log)
			}
			log.Reset()
		}
		said("for an hour", `level=WARN msg="status cannot be written: it is tried again, and this is not said again" kind=VirtualService`)
		if n := len(cl.patches()); n < 55 || n > 65 {
			t.Errorf("%d tries in an hour", n)
		}
		cl.answer(apierrors.NewInternalError(fmt.Errorf("etcd")))
		said("another reason", "etcd")
		cl.answer(nil)
		said("when it is there", `level=INFO msg="status is written again" kind=VirtualService`)
		if n := len(cl.patches()); n != 2 {
			t.Errorf("%d written: %v", n, cl.patches())
		}
	})
}
