package cluster

import (
	"testing"
	"unsafe"
)

// What workers have counted is added up; who is never called costs nothing, and to count allocates once for each cluster.
func TestTotals(t *testing.T) {
	var a, b, sum Totals
	a.Of(7).Requests += 2
	a.Of(7).Answered(204)
	b.Of(7).Requests++
	b.Of(7).Answered(503)
	b.Of(7).Answered(0)
	b.Of(2).Connections++
	for _, odd := range []int{-1, 99, 600, 1 << 40} {
		b.Of(2).Answered(odd)
	}
	sum.Add(&a)
	sum.Add(&b)
	if got, want := sum.At(7), (Total{Requests: 3, Answers: [6]uint64{0: 1, 2: 1, 5: 1}}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := sum.At(2), (Total{Connections: 1, Answers: [6]uint64{0: 1}}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if sum.At(3) != (Total{}) || sum.At(99) != (Total{}) || sum.of[3] != nil {
		t.Error("there is something of clusters that were not called")
	}
	if n := unsafe.Sizeof(Total{}); n != 64 {
		t.Errorf("a cluster that is called has %d bytes of each worker, which is to be a line of its cache", n)
	}
	if n := testing.AllocsPerRun(100, func() { a.Of(7).Answered(200) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
