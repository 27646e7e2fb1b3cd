package cluster_test

import (
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/proxy/cluster"
)

// In place of an endpoint that does not answer to connections another of its group is called, each as often; one of the next
// priority where all are silent; and nobody who was tried, is gone, or is silent, too.
func TestAnswering(t *testing.T) {
	c := &cluster.Cluster{Limits: &cluster.Limits{}}
	for i := range 5 { // the last two are of the next priority
		c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: int32(i), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Limits: c.Limits})
		c.Places = append(c.Places, cluster.Place{Priority: uint8(i / 3)})
	}
	c.Seal()
	const now = 100
	picked := func(tried ...*cluster.Endpoint) (counts [5]int) {
		for i := range uint64(3000) {
			if e := c.Answering(i*0x9e3779b97f4a7c15, now, tried); e != nil {
				counts[e.ID]++
			}
		}
		return counts
	}
	e := c.Endpoints
	e[0].Silent.Store(now + 1)
	e[1].Silent.Store(now) // until now
	if n := picked(); n[0]+n[3]+n[4] > 0 || n[1] < 1300 || n[2] < 1300 {
		t.Errorf("one of three is silent: %v", n)
	}
	if n := picked(e[1]); n[2] != 3000 {
		t.Errorf("and another was tried: %v", n)
	}
	e[2].Gone.Store(true)
	e[1].Silent.Store(now + 5)
	e[4].Silent.Store(now + 1)
	if n := picked(); n[0]+n[1]+n[2] > 0 || n[3] < 2950 || n[4] > 0 { // one of two, eight times
		t.Errorf("all of the first priority are silent or gone: %v", n)
	}
	e[3].Silent.Store(now + 1)
	if n := picked(); n != [5]int{} {
		t.Errorf("everybody is silent: %v", n)
	}
}
