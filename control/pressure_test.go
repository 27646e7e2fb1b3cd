package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/internal/memory"
)

// A replica whose memory is nearly used up serves whom it has, gives some of them to another, takes none, and takes them again when
// there is memory.
func TestMemoryIsNearlyUsedUp(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "config")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		tmp := filepath.Join(dir, "new")
		if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, filepath.Join(folder, "shop.yaml"))); err != nil {
			t.Fatal(err)
		}
	}
	write(shop)
	var used atomic.Int64
	b := startReplica(t, filepath.Join(dir, "b"), folder, 0)
	copyAuthority(t, filepath.Join(dir, "b"), filepath.Join(dir, "a"))
	a := startReplica(t, filepath.Join(dir, "a"), folder, 0, func(o *Options) {
		o.Replicas = []string{b.grpc}
		o.Memory = func() (int64, int64) { return used.Load(), 1000 }
	})
	level := func(u int64, want memory.Level) {
		t.Helper()
		used.Store(u)
		eventually(t, fmt.Sprintf("%d of 1000 bytes are noticed", u), func() error {
			if got := a.pressed(); got != want {
				return fmt.Errorf("the level is %v", got)
			}
			return nil
		})
	}
	const many, beside = 12, 9 // about even
	for i := range beside {
		subscribe(t, b, fmt.Sprintf("beside-%d", i), nil, nil)
	}
	eventually(t, "the other has some", func() error { return b.active(beside) })
	all := make([]*subscriber, many)
	for i := range all {
		all[i] = subscribe(t, a, fmt.Sprintf("shop-%d", i), nil, nil)
	}
	eventually(t, "all are there", func() error { return a.active(many) })
	a.giveAway(t.Context(), 0, 0)
	if err := a.active(many); err != nil {
		t.Fatalf("nothing was to be given away: %v", err)
	}

	level(960, memory.Stop)
	late := subscribe(t, a, "late", nil, nil)
	eventually(t, "a newcomer is told why it is refused", func() error {
		if st, _ := late.c.State(); st.LastError == nil || !strings.Contains(st.LastError.Error(), "takes no more proxies") {
			return fmt.Errorf("it was told %w", st.LastError)
		}
		return nil
	})
	before := a.latest.Load().Snapshot.Version
	write(shop + "---\n" + shopRoutes("shop", "changed"))
	eventually(t, "those it has are served", func() error {
		if a.latest.Load().Snapshot.Version == before {
			return errors.New("the change is not known yet")
		}
		return a.active(many)
	})
	for _, s := range append(all, late) {
		s.move(b)
	}
	a.giveAway(t.Context(), 0, 0)
	eventually(t, "one of them, and the newcomer, are at the other replica", func() error { return b.active(beside + 2) })
	if n := len(a.xds.Clients()); n != many-1 {
		t.Errorf("%d are left", n)
	}

	level(500, memory.Calm)
	late.move(a)
	b.xds.Shed(beside+many, 0, time.Nanosecond)
	eventually(t, "it takes newcomers again", func() error { return a.active(many) })
}
