package control

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
)

// journal tells in the log what an operator wants to find there afterwards: that the
// configuration is in force, that there are errors in it, that proxies came and went. What
// happens to thousands is one line.
type journal struct {
	log  *slog.Logger
	wake chan struct{}

	started time.Time

	mu         sync.Mutex
	update     *store.Update // analyzed
	took       time.Duration // until the first
	connected  int
	came, went int // since it was told
}

const (
	// A line is written when nothing has happened for as long as this, or enough has.
	journalQuiet = time.Second
	journalLimit = 10 * time.Second
)

func newJournal(log *slog.Logger) *journal {
	return &journal{log: log, started: time.Now(), wake: make(chan struct{}, 1)}
}

func (j *journal) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// note takes a state of the configuration.
func (j *journal) note(u *store.Update) {
	if !u.Analyzed {
		return
	}
	j.mu.Lock()
	if j.update == nil {
		j.took = time.Since(j.started)
	}
	j.update = u
	j.mu.Unlock()
	j.poke()
}

// proxy counts a proxy that came (1) or went (-1).
func (j *journal) proxy(n int) {
	j.mu.Lock()
	j.connected += n
	if n > 0 {
		j.came++
	} else {
		j.went++
	}
	j.mu.Unlock()
	j.poke()
}

// run writes until ctx ends.
func (j *journal) run(ctx context.Context) error {
	var told *store.Update
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-j.wake:
		}
		if told != nil || j.nothing() { // the beginning is told at once
			j.settle(ctx)
		}
		j.mu.Lock()
		update, took, connected, came, went := j.update, j.took, j.connected, j.came, j.went
		j.came, j.went = 0, 0
		j.mu.Unlock()
		if update != told {
			j.tell(told, update, took)
			told = update
		}
		if came+went > 0 {
			level := slog.LevelInfo
			if there := connected - came + went; went > 1 && 2*went > there {
				level = slog.LevelWarn // it is the network, or us, rather than them
			}
			j.log.Log(ctx, level, "proxies came and went", "connected", connected, "came", came, "went", went)
		}
	}
}

func (j *journal) nothing() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.update == nil
}

// settle waits until nothing happens any more.
func (j *journal) settle(ctx context.Context) {
	limit, quiet := time.NewTimer(journalLimit), time.NewTimer(journalQuiet)
	defer limit.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.wake:
			quiet.Reset(journalQuiet)
		case <-quiet.C:
			return
		case <-limit.C:
			return
		}
	}
}

// tell compares the errors of two states of the configuration.
func (j *journal) tell(old, cur *store.Update, took time.Duration) {
	was, now := 0, config.Errors(cur.Findings)
	known := map[config.Finding]bool{}
	if old == nil {
		j.log.Info("configuration in force", "objects", cur.Objects.Len(), "errors", now, "took", took.Round(time.Millisecond))
	} else {
		was = config.Errors(old.Findings)
		if now > 0 {
			for _, f := range old.Findings {
				known[f] = true
			}
		}
	}
	fresh := 0
	var first config.Finding
	for _, f := range cur.Findings {
		if f.Severity == config.Error && !known[f] {
			if fresh++; fresh == 1 {
				first = f
			}
		}
	}
	switch {
	case fresh > 0:
		args := []any{"new", fresh, "all", now, "first", whereIs(first) + ": " + clip(first.Message), "code", first.Code}
		if first.Hint != "" {
			args = append(args, "remedy", clip(first.Hint))
		}
		j.log.Warn("errors in the configuration", args...)
	case now < was:
		j.log.Info("errors in the configuration are gone", "gone", was-now, "all", now)
	}
}

// whereIs says where a finding is about: a line of a file, or a field of an object.
func whereIs(f config.Finding) string {
	if f.Object.File != "" {
		return fmt.Sprintf("%s:%d", f.Object.File, f.Line)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Object.Kind, qualified(f.Object.Namespace, f.Object.Name), f.FieldPath))
}
