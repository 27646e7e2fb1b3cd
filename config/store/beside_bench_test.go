package store_test

import (
	"testing"

	"github.com/weirmesh/weir/config/store"
)

// A review of the validating webhook in a mesh of 1,000 Services, DestinationRules and
// VirtualServices: of an object that is good, and of one that is refused.
func BenchmarkJudge1000(b *testing.B) {
	s := newStore(b, "")
	u := s.Step(thousand()...)
	for name, text := range map[string]string{"allowed": routeTo("svc-7", "svc-7", 50, 50), "denied": routeTo("svc-7", "svc-7", -1, 50)} {
		o := unit("x.yaml", text).Objects[0]
		b.Run(name, func(b *testing.B) {
			var j store.Judge
			b.ReportAllocs()
			for b.Loop() {
				j.Of(u, o)
			}
		})
	}
}
