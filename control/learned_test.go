package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/xds/resource"
)

// A new replica is told what its siblings use, for an hour after the last of them.
func TestSiblingsBeginWithWhatIsUsed(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	l := newLearner(func() time.Time { return now })
	node := func(workload string) *corev3.Node {
		m, _ := structpb.NewStruct(map[string]any{"WORKLOAD_NAME": workload})
		return &corev3.Node{Id: "x", Metadata: m}
	}
	expect := func(when, workload, namespace string, want ...string) {
		t.Helper()
		known, _, left := l.connect(node(workload), namespace)
		defer left()
		var got []string
		if known != nil {
			got = slices.Concat(known.Listeners, known.VirtualHosts)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: a replica of %s in %s begins with %q, want %q", when, workload, namespace, got, want)
		}
	}

	_, asks1, left1 := l.connect(node("shop"), "a")
	_, asks2, left2 := l.connect(node("shop"), "a")
	expect("at first", "shop", "a")
	asks1(resource.VirtualHostType, "80/b", true)
	asks1(resource.VirtualHostType, "80/b", true)
	asks1(resource.ClusterType, "outbound|80||b", true)
	asks2(resource.VirtualHostType, "80/b", true)
	asks2(resource.ListenerType, "10.0.0.1_70", true)
	expect("in use", "shop", "a", "10.0.0.1_70", "80/b")
	expect("in use", "shop", "b")
	expect("in use", "cart", "a")
	one, _, left := l.connect(node("shop"), "a")
	left()
	if two, _, left := l.connect(node("shop"), "a"); one != two {
		t.Error("what is learned is another object although nothing changed: every replica would have its own View")
	} else {
		left()
	}

	asks2(resource.ListenerType, "10.0.0.1_70", false)
	left1()
	asks1(resource.VirtualHostType, "80/late", true)
	now = now.Add(59 * time.Minute)
	expect("59 minutes later", "shop", "a", "10.0.0.1_70", "80/b")
	now = now.Add(2 * time.Minute)
	expect("an hour later", "shop", "a", "80/b")
	left2()
	now = now.Add(2 * time.Hour)
	expect("when all are gone", "shop", "a")
	if len(l.workloads) != 0 {
		t.Errorf("%d workloads are remembered for nothing", len(l.workloads))
	}
}

// What proxies can make the control plane remember is bounded, and old things give way.
func TestLearnedIsBounded(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	l := newLearner(func() time.Time { return now })
	_, asks, left := l.connect(&corev3.Node{Id: "greedy"}, "a")
	for i := range 2 * maxUses {
		asks(resource.VirtualHostType, fmt.Sprint("80/", i), true)
	}
	if n := len(l.workloads[workload{"a", "greedy"}].uses); n != maxUses {
		t.Errorf("%d names are remembered, want %d", n, maxUses)
	}
	left()
	now = now.Add(2 * time.Hour)
	for i := range maxWorkloads + 10 {
		_, asks, _ := l.connect(&corev3.Node{Id: fmt.Sprint(i)}, "b")
		asks(resource.VirtualHostType, "80/x", true)
	}
	if n := len(l.workloads); n != maxWorkloads {
		t.Errorf("%d workloads are remembered, want %d", n, maxWorkloads)
	}

	// Long names of many workloads, which may be made up, fill what their namespace may have.
	l = newLearner(func() time.Time { return now })
	long := strings.Repeat("x", 10_000)
	for i := range 100 {
		_, asks, left := l.connect(&corev3.Node{Id: fmt.Sprint(i)}, "greedy")
		for j := range 50 {
			asks(resource.VirtualHostType, fmt.Sprint(long, i, j), true)
		}
		left()
	}
	bytes := 0
	for _, h := range l.workloads {
		for u := range h.uses {
			bytes += u.weight()
		}
	}
	if bytes > eachUses || bytes < eachUses/10*9 {
		t.Errorf("%d bytes of a namespace", bytes)
	}
	_, asks, _ = l.connect(&corev3.Node{Id: "honest"}, "c")
	if asks(resource.VirtualHostType, "80/x", true); len(l.workloads[workload{"c", "honest"}].uses) != 1 {
		t.Error("another namespace finds no room")
	}
	now = now.Add(2 * time.Hour)
	if l.sweep(); len(l.workloads) != 1 || fmt.Sprint(l.room) == fmt.Sprint(newLearner(nil).room) {
		t.Errorf("%d workloads, room %v", len(l.workloads), l.room)
	}
}
