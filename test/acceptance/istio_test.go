//go:build linux

package acceptance_test

import (
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// Istio's published bookinfo runs unchanged, and each of its networking files does what
// Istio's documentation says.
func TestIstiosFilesWorkUnchanged(t *testing.T) {
	root := samples(t)
	long(t)
	m := prepare(t, options{})
	m.options.args = []string{"-f", filepath.Join(root, "bookinfo/platform/kube/bookinfo.yaml"), "-f", filepath.Join(root, "bookinfo/networking/bookinfo-gateway.yaml")}
	m.up()
	apply := func(names ...string) {
		t.Helper()
		args := []string{"apply"}
		for _, n := range names {
			args = append(args, "-f", filepath.Join(root, "bookinfo/networking", n))
		}
		m.must(args...)
	}
	see := func(user string, want page) {
		t.Helper()
		for range 10 {
			p, err := m.view(user)
			want.status = http.StatusOK
			if err != nil || p.version != want.version || p.color != want.color || !slices.Equal(p.missing, want.missing) {
				t.Errorf("%q sees %+v, %v; want %+v", user, p, err, want)
				return
			}
		}
	}
	apply("destination-rule-all.yaml", "virtual-service-all-v1.yaml")
	see("", page{version: "v1"})
	apply("virtual-service-reviews-50-v3.yaml")
	share := m.share(2000)
	t.Logf("50/50: %v", share)
	if v1 := share["v1"]; math.Abs(v1-50) > 4 || math.Abs(share["v3"]-50) > 4 {
		t.Errorf("50/50 is %v", share)
	}
	apply("virtual-service-reviews-test-v2.yaml")
	see("jason", page{version: "v2", color: "black"})
	see("anna", page{version: "v1"})
	see("", page{version: "v1"})
	apply("virtual-service-ratings-test-abort.yaml")
	see("jason", page{version: "v2", color: "", missing: []string{"ratings"}})
	see("", page{version: "v1"})
	apply("virtual-service-ratings-test-delay.yaml")
	at := time.Now()
	p, err := m.view("jason")
	// v2 would wait 10 s for ratings, but the page waits 3 s for reviews, twice.
	if took := time.Since(at); err != nil || !slices.Equal(p.missing, []string{"reviews"}) || took < 5900*time.Millisecond || took > 7*time.Second {
		t.Errorf("jason with 7 s of delay: %+v, %v, after %v", p, err, took)
	}
	see("", page{version: "v1"})
	// v3 waits 2.5 s for ratings: the repair in Istio's walk-through.
	apply("virtual-service-reviews-v3.yaml")
	at = time.Now()
	if p, err = m.view("jason"); err != nil || p.version != "v3" || !slices.Equal(p.missing, []string{"ratings"}) {
		t.Errorf("jason with v3: %+v, %v, after %v", p, err, time.Since(at))
	}
	for _, o := range []string{"vs/ratings", "vs/reviews", "dr/reviews"} {
		m.must("delete", o)
	}
	seen := m.share(60)
	if len(seen) != 3 {
		t.Errorf("without rules, versions seen are %v", seen)
	}
	for _, f := range m.findings() {
		if f.Severity == "error" {
			t.Errorf("finding %s %s/%s: %s", f.Code, f.Kind, f.Name, f.Message)
		}
	}
}

// share asks for the page n times and returns the percentage of each version.
func (m *mesh) share(n int) map[string]float64 {
	m.t.Helper()
	var mu sync.Mutex
	var clients sync.WaitGroup
	count, left := map[string]int{}, make(chan int, n)
	for i := range n {
		left <- i
	}
	close(left)
	for range 8 {
		clients.Go(func() {
			for range left {
				p, err := m.view("")
				if err == nil {
					err = p.whole()
				}
				mu.Lock()
				if err != nil {
					m.t.Error(fmt.Errorf("the page: %w", err))
				}
				count[p.version]++
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	out := map[string]float64{}
	for v, c := range count {
		out[v] = 100 * float64(c) / float64(n)
	}
	return out
}
