package kubelog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"
)

// timeless leaves out what is another in every run.
func timeless(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// Whatever way of klog a library uses, its line has our form and its own severity.
func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer klog.CaptureState().Restore()
		refused := errors.New("refused")
		for _, c := range []struct {
			what         string
			say          func()
			text, object string
		}{
			{"an error in words", func() { klog.Errorf("lease %q: %v", "weir", refused) },
				`level=ERROR msg="lease \"weir\": refused" room=client-go`, `{"level":"ERROR","msg":"lease \"weir\": refused","room":"client-go"}`},
			{"a warning in words", func() { klog.Warning("Use tokens from the TokenRequest API") },
				`level=WARN msg="Use tokens from the TokenRequest API" room=client-go`, `{"level":"WARN","msg":"Use tokens from the TokenRequest API","room":"client-go"}`},
			{"with a bracket in it", func() { klog.Infof("[a] %s", "[b] c") }, `level=INFO msg="[a] [b] c" room=client-go`, `{"level":"INFO","msg":"[a] [b] c","room":"client-go"}`},
			{"an error with fields", func() { klog.ErrorS(refused, "Unhandled Error", "kind", "Pod") },
				`level=ERROR msg="Unhandled Error" room=client-go err=refused kind=Pod`, `{"level":"ERROR","msg":"Unhandled Error","room":"client-go","err":"refused","kind":"Pod"}`},
			{"a fact with fields", func() { klog.InfoS("Waited", "for", "2s") }, `level=INFO msg=Waited room=client-go for=2s`, `{"level":"INFO","msg":"Waited","room":"client-go","for":"2s"}`},
			{"by a context", func() { klog.FromContext(t.Context()).WithValues("kind", "Pod").Error(refused, "Failed to watch") },
				`level=ERROR msg="Failed to watch" room=client-go kind=Pod err=refused`, `{"level":"ERROR","msg":"Failed to watch","room":"client-go","kind":"Pod","err":"refused"}`},
			{"by a name", func() { klog.Background().WithName("lock").Info("held") }, `level=INFO msg=held room=client-go logger=lock`, `{"level":"INFO","msg":"held","room":"client-go","logger":"lock"}`},
			{"details", func() { klog.V(4).Info("x"); klog.FromContext(t.Context()).V(4).Info("x") }, ``, ``},
		} {
			for _, form := range []struct{ want, name string }{{c.text, "text"}, {c.object, "JSON"}} {
				var out bytes.Buffer
				o := &slog.HandlerOptions{ReplaceAttr: timeless}
				var h slog.Handler = slog.NewTextHandler(&out, o)
				if form.name == "JSON" {
					h = slog.NewJSONHandler(&out, o)
				}
				Route(slog.New(h))
				c.say()
				if d := cmp.Diff(form.want, strings.TrimSuffix(out.String(), "\n")); d != "" {
					t.Errorf("%s, %s (-want +got)\n%s", c.what, form.name, d)
				}
			}
		}
	})
}

// What is below the level of the program is not said, and what fails again and again is said once a minute.
func TestRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer klog.CaptureState().Restore()
		var out bytes.Buffer
		Route(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: timeless})))
		klog.InfoS("Waited")
		for i := range 125 { // a second each
			klog.ErrorS(fmt.Errorf("read tcp 10.0.0.1:%d: reset", 40000+i), "Unhandled Error")
			if i%50 == 0 {
				klog.ErrorS(errors.New("another"), "Unhandled Error")
			}
			time.Sleep(time.Second)
		}
		want := []string{
			`level=ERROR msg="Unhandled Error" room=client-go err="read tcp 10.0.0.1:40000: reset"`,
			`level=ERROR msg="Unhandled Error" room=client-go err=another`,
			`level=ERROR msg="Unhandled Error" room=client-go err="read tcp 10.0.0.1:40060: reset" repeated=59`,
			`level=ERROR msg="Unhandled Error" room=client-go err=another repeated=1`,
			`level=ERROR msg="Unhandled Error" room=client-go err="read tcp 10.0.0.1:40120: reset" repeated=59`,
		}
		if d := cmp.Diff(want, strings.Split(strings.TrimSpace(out.String()), "\n")); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	})
}

// What is remembered has an end, whatever is said.
func TestBound(t *testing.T) {
	s := &said{last: map[string]*sentence{}}
	now := time.Unix(0, 0)
	for i := range 10 * most {
		if _, speak := s.step(strings.Repeat("x", i), now); !speak {
			t.Fatalf("sentence %d was held back", i)
		}
		if len(s.last) > most {
			t.Fatalf("%d sentences are remembered", len(s.last))
		}
	}
}
