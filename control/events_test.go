package control

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// However many events come, the last are there, in order, and what a reader was given is not written when others come.
func TestEventsOfLast(t *testing.T) {
	e := newEvents()
	all := func(*apiv1.Event) bool { return true }
	event := func(i int) apiv1.Event { return apiv1.Event{Type: "removed", Kind: "Pod", Name: fmt.Sprint("p-", i)} }
	const many = 3*maxEvents + 7
	last := 0
	add := func(n int) {
		var list []apiv1.Event
		for range n {
			last++
			list = append(list, event(last))
		}
		e.add(time.Unix(0, int64(last)), list...)
	}
	check := func(got []apiv1.Event, first int) {
		t.Helper()
		for i, x := range got {
			if want := event(first + i); x.Name != want.Name || x.Seq != uint64(first+i) || x.Count != 1 {
				t.Fatalf("%d: %+v, want %+v", i, x, want)
			}
		}
	}
	add(1)
	before, _ := e.after(t.Context(), 0, all)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for seq := uint64(0); seq < many; {
				var got []apiv1.Event
				got, seq = e.after(t.Context(), seq, all)
				for i := range got {
					if got[i].Seq != got[0].Seq+uint64(i) || got[i].Name != event(int(got[i].Seq)).Name {
						t.Errorf("%+v after %+v", got[i], got[0])
						return
					}
				}
			}
		})
	}
	for last < many {
		add(min(1+last%5, many-last))
	}
	readers.Wait()
	check(before, 1)
	got, next := e.after(context.Background(), 0, all)
	if len(got) != maxEvents || next != many {
		t.Fatalf("%d events, to go on behind %d", len(got), next)
	}
	check(got, many-maxEvents+1)
	add(maxEvents + 100) // at once more than there is room for
	got, _ = e.after(context.Background(), 0, all)
	if len(got) != maxEvents {
		t.Fatalf("%d events", len(got))
	}
	check(got, last-maxEvents+1)
}

// What an event costs in a busy mesh, where all there is room for is there.
func BenchmarkEvent(b *testing.B) {
	e := newEvents()
	names := [2]string{"reviews", "ratings"}
	now := time.Now()
	for i := range maxEvents {
		e.add(now, apiv1.Event{Type: "active", Kind: "Service", Name: names[i%2]})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e.add(now, apiv1.Event{Type: "active", Kind: "Service", Name: names[i%2]})
	}
}
