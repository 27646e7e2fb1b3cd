package control

import (
	"slices"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// Of many proxies those are asked that can have seen a request: who may have called for it, and whom it may have led to.
func TestNear(t *testing.T) {
	p := start(t, t.TempDir())
	now := time.Now()
	for _, e := range [][2]string{{"gateway", "page"}, {"page", "reviews"}, {"page", "details"}, {"reviews", "ratings"}, {"ratings", "reviews"}, {"shop", "ratings"}, {"shop", "bank"}} {
		who := &reporter{self: apiv1.EdgeEnd{Workload: e[0], Namespace: "default"}}
		p.edges.table.add("test", keyOf(who, edgeTo(e[1], 1)), edgeTo(e[1], 1), now)
	}
	story := &apiv1.Story{Hops: []apiv1.Hop{{Workload: "default/reviews", Peer: "default/new"}}}
	if p.near()(story) != nil {
		t.Error("with few proxies not all are asked")
	}
	p.edges.asking.everybody = -1
	who := p.near()(story)
	var got []string
	for _, name := range []string{"gateway", "page", "details", "reviews", "ratings", "shop", "bank", "new"} {
		if who(&reporter{self: apiv1.EdgeEnd{Workload: name, Namespace: "default"}}) {
			got = append(got, name)
		}
	}
	// shop calls ratings, which calls reviews: a request may have come that way.
	if want := []string{"gateway", "page", "reviews", "ratings", "shop", "new"}; !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
}
