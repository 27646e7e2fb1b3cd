package control

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/why"
	"github.com/weirmesh/weir/mesh"
)

func second(n int) time.Time { return time.Unix(int64(n), 0) }

// An endpoint left when it did, and those that came back have not; of what was forgotten, or was before all this, nothing is known.
func TestDepartures(t *testing.T) {
	var x past
	service := mesh.NewKey("default", "a")
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
	}
	var last *store.Update
	now := 0
	is := func(endpoints ...int) {
		now++
		set := &mesh.EndpointSet{Ports: map[uint16][]mesh.Endpoint{80: nil}}
		for _, i := range endpoints {
			set.Ports[80] = append(set.Ports[80], mesh.Endpoint{Addr: addr(i)})
		}
		next := &store.Update{Snapshot: &mesh.Snapshot{}}
		next.Snapshot.Endpoints = next.Snapshot.Endpoints.Set(service, set)
		x.note(last, next, second(now))
		last = next
	}
	expect := func(endpoint, left, begin int) {
		t.Helper()
		l, b := x.departure(service, addr(endpoint))
		if left == 0 && !l.IsZero() || left != 0 && !l.Equal(second(left)) || !b.Equal(second(begin)) {
			t.Errorf("at %d: %d left %v, remembered since %v; want %d, %d", now, endpoint, l, b, left, begin)
		}
	}
	is(1, 2)
	is(2)
	expect(1, 2, 1)
	expect(2, 0, 1)
	is(1)
	expect(1, 0, 1)
	expect(2, 3, 1)
	many := make([]int, mostLeft-1)
	for i := range many {
		many[i] = 10 + i
	}
	is(many...)
	expect(1, 4, 1)
	is()
	expect(2, 0, 3) // that is more than there is room for
	expect(1, 4, 3)
	expect(10, 5, 3)
}

// What a proxy rejected it rejected from then on, until it took it.
func TestRefusals(t *testing.T) {
	var x past
	x.rejected("a", []string{"c"}, nil, "no", second(10))
	x.rejected("a", []string{"c", "d"}, map[string][]why.Pointer{"d": {{Ref: why.Ref{Kind: "DestinationRule", Namespace: "default", Name: "d"}}}}, "still no", second(11))
	x.mended("a", "c", second(20))
	x.mended("b", "d", second(21))
	for _, c := range []struct {
		node, cluster string
		then          int
		want          string
	}{{"a", "c", 9, " false false"}, {"a", "c", 10, "still no false true"}, {"a", "c", 20, " false false"}, {"a", "d", 30, "still no true true"}, {"b", "d", 30, " false false"}} {
		r, ok := x.refusal(c.node, c.cluster, second(c.then))
		if got := fmt.Sprintf("%s %v %v", r.message, ok && r.until.IsZero(), ok); got != c.want || ok && (len(r.by) == 1) != (c.cluster == "d") {
			t.Errorf("%+v: %s", c, got)
		}
	}
	for i := range 2 * mostRefusals {
		x.rejected("c", []string{fmt.Sprint(i)}, nil, "no", second(40))
	}
	if len(x.refusals) != mostRefusals {
		t.Errorf("%d are remembered", len(x.refusals))
	}
}
