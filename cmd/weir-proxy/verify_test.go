package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A proxy whose rules go is not ready from then on; it ends, with the status that says so, when nobody has made them again within a minute. What it
// cannot tell changes nothing, and it does not look while it is not ready itself.
func TestRulesDuringLife(t *testing.T) {
	const there, lost, unknown, busy = "there", "lost", "unknown", "busy"
	for _, x := range []struct {
		name string
		seen []string // the last one stays
		want []string
	}{
		{"they stay", []string{there}, []string{"30s there", "1m0s there", "1m30s there"}},
		{"the node makes them again", []string{there, lost, lost, there}, []string{"30s there", "1m0s lost: not ready", "1m5s lost: not ready", "1m10s there", "1m40s there"}},
		{"nobody does", []string{lost}, []string{"30s lost: not ready", "35s lost: not ready", "40s lost: not ready", "45s lost: not ready", "50s lost: not ready", "55s lost: not ready", "1m0s lost: not ready",
			"1m5s lost: not ready", "1m10s lost: not ready", "1m15s lost: not ready", "1m20s lost: not ready", "1m25s lost: not ready", "1m30s lost: not ready", "ended with 126"}},
		{"it cannot be told", []string{unknown}, []string{"30s unknown", "1m0s unknown"}},
		{"not even after they were lost", []string{lost, unknown, there}, []string{"30s lost: not ready", "35s unknown: not ready", "40s there", "1m10s there"}},
		{"the proxy ends itself", []string{busy, busy, there}, []string{"1m30s there"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, seen, got := time.Now(), x.seen, []string{}
				var mu sync.Mutex // of both
				take := func() (now string) {
					if now = seen[0]; len(seen) > 1 {
						seen = seen[1:]
					}
					return now
				}
				r := &rules{log: slog.New(slog.DiscardHandler)}
				r.ready = func() error {
					mu.Lock()
					defer mu.Unlock()
					if seen[0] == busy {
						take()
						return errors.New("not ready")
					}
					return nil
				}
				r.inForce = func(context.Context) (bool, error) {
					mu.Lock()
					defer mu.Unlock()
					now := take()
					got = append(got, time.Since(began).String()+" "+now)
					if now == unknown {
						return false, errors.New("no descriptors")
					}
					return now == there, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), 101*time.Second)
				defer cancel()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_ = r.watch(ctx, func() {
						mu.Lock()
						defer mu.Unlock()
						got = append(got, "ended")
					})
				}()
				for n := 0; ; {
					synctest.Wait()
					unready := r.gone.Load()
					mu.Lock()
					if len(got) > n && got[len(got)-1] != "ended" {
						if n = len(got); unready {
							got[n-1] += ": not ready"
						}
					}
					mu.Unlock()
					select {
					case <-ended:
						if err := r.verdict(); err != nil {
							var status interface{ exitStatus() int }
							errors.As(err, &status)
							if i := slices.Index(got, "ended"); i > 0 && r.gone.Load() {
								got[i-1] += ": not ready"
								got[i] = fmt.Sprintf("ended with %d", status.exitStatus())
							}
						}
						if len(got) < len(x.want) || !slices.Equal(got[:len(x.want)], x.want) {
							t.Errorf("got  %q\nwant %q", got, x.want)
						}
						return
					case <-time.After(time.Second):
					}
				}
			})
		})
	}
}
