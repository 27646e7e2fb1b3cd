package demand_test

import (
	"fmt"
	"testing"

	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/xds/ondemand"
)

func never(demand.Key) bool { return false }

// What is used stays, what is not goes after so many looks, and its next use asks anew.
func TestAge(t *testing.T) {
	d := demand.New()
	used, unused := d.Use(demand.Key{TypeURL: "t", Name: "used"}), d.Use(demand.Key{TypeURL: "t", Name: "unused"})
	used.Touch()
	unused.Touch()
	unused.Touch()
	(*demand.Use)(nil).Touch()
	if add, drop := d.Take(); len(add) != 2 || len(drop) != 0 {
		t.Fatalf("asks for %v, gives up %v", add, drop)
	}
	for i := range 3 {
		if drop := d.Age(3, never); len(drop) != 0 {
			t.Fatalf("look %d gives up %v", i, drop)
		}
		used.Touch()
	}
	if drop := d.Age(3, never); len(drop) != 1 || drop[0].Name != "unused" {
		t.Fatalf("gives up %v", drop)
	}
	if add, _ := d.Take(); len(add) != 0 {
		t.Errorf("asks for %v again", add)
	}
	unused.Touch()
	if add, _ := d.Take(); len(add) != 1 || add[0].Name != "unused" {
		t.Errorf("asks for %v", add)
	}
	for range 10 {
		if drop := d.Age(3, func(demand.Key) bool { return true }); len(drop) != 0 {
			t.Fatalf("gives up %v, which is busy", drop)
		}
	}
	if drop := d.Clear(); len(drop) != 2 || len(d.Names()) != 0 {
		t.Errorf("clears %v, leaves %v", drop, d.Names())
	}
}

// Over the limit the longest unused go, and never what was just asked for.
func TestMostNames(t *testing.T) {
	d := demand.New()
	name := func(i int) demand.Key { return demand.Key{TypeURL: "t", Name: fmt.Sprintf("%05d", i)} }
	for i := range demand.MaxNames {
		if i == 10 {
			d.Age(100, never)
		}
		d.Use(name(i)).Touch()
	}
	if _, drop := d.Take(); len(drop) != 0 {
		t.Fatalf("%d given up at the limit", len(drop))
	}
	d.Use(name(demand.MaxNames)).Touch()
	add, drop := d.Take()
	given := map[demand.Key]bool{}
	for _, k := range drop {
		given[k] = true
	}
	for i := range 10 {
		if !given[name(i)] {
			t.Errorf("%v, the longest unused, stays", name(i))
		}
	}
	if len(add) != 1 || given[add[0]] || len(drop) > 200 || len(d.Names()) != demand.MaxNames+1-len(drop) {
		t.Errorf("%v added, %d given up, %d left", add, len(drop), len(d.Names()))
	}
}

// A host outside the mesh is looked up in the index once, until that changes.
func TestHostsAreKnown(t *testing.T) {
	w := demand.New().NewWorker(mem.New().Loop(loop.Options{}), place)
	v := &demand.View{Index: ondemand.Of("80/*.com")}
	w.Changed(v)
	host := []byte("api.example.org")
	if n := testing.AllocsPerRun(100, func() {
		if w.Host(nothing{}, "80", host, 0) {
			t.Error("it waits")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	w.Changed(&demand.View{Index: ondemand.Of("80/*.org")})
	if !w.Host(nothing{}, "80", host, 0) {
		t.Error("a new index changes nothing")
	}
	if w.Host(holds("80/*.org"), "80", host, 4) || w.Host(nothing{}, "80", host, ondemand.Exact) {
		t.Error("it waits for what is there")
	}
	w.Changed(nil)
	if w.Host(nothing{}, "80", host, 0) {
		t.Error("it waits without a view")
	}
}

type nothing struct{}

func (nothing) Holds([]byte) bool { return false }

type holds string

func (h holds) Holds(name []byte) bool { return string(name) == string(h) }

func BenchmarkHost(b *testing.B) {
	w := demand.New().NewWorker(mem.New().Loop(loop.Options{}), place)
	w.Changed(&demand.View{Index: ondemand.Of("80/*.com")})
	host := []byte("api.somewhere.example.org")
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.Host(nothing{}, "80", host, 0)
		}
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			host[0], host[1], host[2] = byte(i), byte(i>>8), byte(i>>16)
			w.Host(nothing{}, "80", host, 0)
		}
	})
}
