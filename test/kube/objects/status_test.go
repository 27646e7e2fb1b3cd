package objects

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/control/kubestatus"
)

// compiled says that one object is in force.
type compiled struct {
	o       *config.Object
	changed chan struct{}
}

func (c compiled) Outcomes(want func(config.ID) bool, _ *control.Told) ([]control.Outcome, bool, <-chan struct{}) {
	if !want(c.o.ID) {
		return nil, false, c.changed
	}
	return []control.Outcome{{Object: &store.Object{ID: c.o.ID, Raw: c.o, State: store.Compiled}, Settled: true, Proxies: 1, Since: time.Now()}}, false, c.changed
}

// What Istio's definitions accept of a status is what is written, and it is written once.
func TestStatus(t *testing.T) {
	k := connect(t)
	c, ns := k.Objects, k.Namespace
	objects := c.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}).Namespace(ns)
	live, err := objects.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
		"metadata": map[string]any{"name": "a"}, "spec": map[string]any{"hosts": []any{"a"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := live.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	part := document.Part{Text: string(text), Line: 1}
	root, err := document.Parse(part)
	if err != nil {
		t.Fatal(err)
	}
	o, findings := config.NewObject(root, part, "", ns)
	if o == nil {
		t.Fatal(findings)
	}
	w, err := kubestatus.New(kubestatus.Options{Client: c, From: compiled{o, make(chan struct{})}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	version := ""
	for range 2 { // the next leader finds it said
		stop := background(t, w.Run)
		got := map[any]any{}
		k.Eventually("the status is there", func() bool {
			if live, err = objects.Get(t.Context(), "a", metav1.GetOptions{}); err != nil {
				t.Fatal(err)
			}
			list, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
			for _, x := range list {
				m := x.(map[string]any)
				got[m["type"]] = m["status"]
				if m["observedGeneration"] != live.GetGeneration() {
					t.Fatalf("%v of generation %d", m, live.GetGeneration())
				}
			}
			return len(list) == 2
		})
		if d := cmp.Diff(map[any]any{"Accepted": "True", "Reconciled": "True"}, got); d != "" {
			t.Error(d)
		}
		stop()
		if version != "" && live.GetResourceVersion() != version {
			t.Error("written again")
		}
		version = live.GetResourceVersion()
	}
}
