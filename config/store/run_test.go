package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

// From files to plans: nothing before all sources have spoken, then a change at once,
// and what was found across objects after it.
func TestRun(t *testing.T) {
	conf, pods, state := t.TempDir(), t.TempDir(), t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(conf, "a.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {selector: {app: reviews}, ports: [{port: 9080, name: http}]}\n---\n"+routeTo("reviews", "reviews", 1))
	updates := make(chan *store.Update, 100)
	s, err := store.New(store.Options{Settings: settings(), State: state, Publish: func(u *store.Update) { updates <- u }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, file.New(file.Options{Paths: []string{conf}, Poll: time.Hour}), file.New(file.Options{Paths: []string{pods}, Poll: time.Hour, Rank: 100}))
	}()
	until := func(what string, ok func(*store.Update) bool) *store.Update {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case u := <-updates:
				if ok(u) {
					return u
				}
			case err := <-done:
				t.Fatalf("ended: %v", err)
			case <-deadline:
				t.Fatalf("no update in which %s", what)
			}
		}
	}
	first := <-updates
	if first.Snapshot.Version != 1 || first.Snapshot.Services.Len() != 1 || first.Snapshot.VirtualServices.Len() != 1 || first.Analyzed {
		t.Errorf("the first update: %+v", first.Snapshot)
	}
	until("the missing subset is found", func(u *store.Update) bool {
		return u.Analyzed && u.Snapshot == first.Snapshot && config.Errors(u.Findings) == 1
	})
	key := mesh.Key("default/reviews.default.svc.cluster.local")
	write(filepath.Join(pods, "default_reviews-v1-0.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: reviews-v1-0, labels: {app: reviews}}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}\n")
	u := until("the pod serves", func(u *store.Update) bool { return len(u.Snapshot.Endpoints.At(key).Ports[9080]) == 1 })
	if u.Snapshot.VirtualServices.At("default/reviews") != first.Snapshot.VirtualServices.At("default/reviews") {
		t.Error("a pod changed a route")
	}
	data, err := os.ReadFile(filepath.Join(state, "registry", "services.json"))
	if err != nil || !strings.Contains(string(data), `"`+string(key)+`"`) {
		t.Errorf("services.json: %s %v", data, err)
	}
	write(filepath.Join(conf, "a.yaml"), "a: b: c")
	u = until("the file is broken", func(u *store.Update) bool {
		return !u.Analyzed && config.Errors(u.Findings) > 0 && u.Objects.At(id).LastGood()
	})
	if u.Snapshot.Services.Len() != 1 {
		t.Error("a broken file took a service away")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRunFailsWithASource(t *testing.T) {
	s, err := store.New(store.Options{Settings: settings(), Publish: func(*store.Update) { t.Error("published without its sources") }})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context(), file.New(file.Options{Paths: []string{filepath.Join(t.TempDir(), "none")}}), silent{})
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Error(err)
	}
}

// silent is a source that has not spoken yet.
type silent struct{}

func (silent) Run(ctx context.Context, _ func([]config.Unit)) error {
	<-ctx.Done()
	return errors.New("never asked")
}

// thousand is a mesh of a thousand services, each with route and rule.
func thousand() []config.Unit {
	var units []config.Unit
	for i := range 1000 {
		name := fmt.Sprintf("svc-%d", i)
		units = append(units, file.Parse(name+".yaml", []byte(fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  selector: {app: %[1]s}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %[1]s}
spec:
  host: %[1]s
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
`, name)+routeTo(name, name, 90, 10)), "default"))
	}
	return units
}

func BenchmarkStart1000(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		s := newStore(b, "")
		s.Step(thousand()...)
		s.Analyze()
	}
}

func BenchmarkParse1000(b *testing.B) {
	for b.Loop() {
		thousand()
	}
}

func BenchmarkEdit(b *testing.B) {
	s := newStore(b, "")
	s.Step(thousand()...)
	s.Analyze()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Step(unit("svc-7.extra.yaml", routeTo("extra", "svc-7", 1+i%50, 50)))
	}
}

// An edit and the analysis of it.
func BenchmarkAnalyze1000(b *testing.B) {
	s := newStore(b, "")
	s.Step(thousand()...)
	s.Analyze()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Step(unit("svc-7.extra.yaml", routeTo("extra", "svc-7", 1+i%50, 50)))
		s.Analyze()
	}
}

// A Pod that becomes ready and unready in a mesh of a thousand services, analysis included.
func BenchmarkFlap(b *testing.B) {
	s := newStore(b, "")
	s.Step(thousand()...)
	pod := func(ready string) config.Unit {
		return unit("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: svc-7}}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.1.0.2, phase: Running, conditions: [{type: Ready, status: '"+ready+"'}]}\n")
	}
	s.Step(pod("True"))
	s.Analyze()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Step(pod([]string{"False", "True"}[i%2]))
		s.Analyze()
	}
}
