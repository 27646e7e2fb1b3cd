package locked_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/weirmesh/weir/internal/locked"
)

// What several write at once is whole, and can be read meanwhile.
func TestBuffer(t *testing.T) {
	var b locked.Buffer
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				_, _ = b.Write([]byte("line\n"))
				_ = b.String()
			}
		})
	}
	all.Wait()
	if got := b.String(); got != strings.Repeat("line\n", 400) {
		t.Errorf("%d bytes, or mixed ones", len(got))
	}
	if got := b.Tail(7); got != "e\nline\n" || b.Tail(5000) != b.String() {
		t.Errorf("the end is %q", got)
	}
}
