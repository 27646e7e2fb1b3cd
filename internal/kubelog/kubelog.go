// Package kubelog has the libraries of Kubernetes log as the program does that uses them.
//
// A logger enters once, at a front door, before anything of client-go runs: klog, and with it its
// logger, belongs to the process. What client-go says by itself, outside of any context of ours, leaves by that logger, in
// its form and from its level on, as room=client-go. What it says again and again is said once a
// minute, with how often. Lines come from any goroutine.
package kubelog

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

const (
	// every is how often the same is said: often enough for somebody who looks now.
	every = time.Minute
	// most bounds what is remembered. There are some ten sentences a kind of object.
	most = 512
)

// Route has klog write to a logger from now on.
func Route(log *slog.Logger) {
	h := &handler{to: log.With("room", "client-go").Handler(), said: &said{last: map[string]*sentence{}}}
	klog.SetLoggerWithOptions(logr.FromSlogHandler(h), klog.ContextualLogger(true), klog.WriteKlogBuffer(func(line []byte) {
		level, text := read(line)
		slog.New(h).Log(context.Background(), level, text) //nolint:sloglint // the text is klog's
	}))
}

// read takes a line of klog's own form apart, "E1123 01:02:03.000004    7 file.go:8] text": a logger is not told the severity of
// what is not structured.
func read(line []byte) (slog.Level, string) {
	head, text, ok := bytes.Cut(line, []byte("] "))
	level := slog.LevelInfo
	switch {
	case !ok || len(head) == 0:
		text = line
	case head[0] == 'W':
		level = slog.LevelWarn
	case head[0] == 'E' || head[0] == 'F':
		level = slog.LevelError
	}
	return level, string(bytes.TrimSpace(text))
}

// handler passes on what was not said just now.
type handler struct {
	to    slog.Handler
	about string // attributes that all its records have
	said  *said
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.to.Enabled(ctx, l) }

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	next := &handler{to: h.to.WithAttrs(as), about: h.about, said: h.said}
	for _, a := range as {
		next.about += " " + a.String()
	}
	return next
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{to: h.to.WithGroup(name), about: h.about, said: h.said}
}

// Handle is slog's.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	var key strings.Builder
	key.WriteString(r.Level.String() + " " + r.Message + h.about)
	r.Attrs(func(a slog.Attr) bool {
		key.WriteString(" " + a.String())
		return true
	})
	again, speak := h.said.step(key.String(), r.Time)
	if !speak {
		return nil
	}
	if again > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("repeated", again))
	}
	return h.to.Handle(ctx, r)
}

// said is what was said lately.
type said struct {
	mu   sync.Mutex
	last map[string]*sentence
}

type sentence struct {
	at    time.Time
	since int // how often it was not said since then
}

// step reports whether a sentence is to be said now, and how often it was not since it was.
func (s *said) step(text string, now time.Time) (again int, speak bool) {
	// What differs in numbers is the same: ports of connections, waits.
	text = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.last[text]; x != nil && now.Sub(x.at) < every {
		x.since++
		return 0, false
	} else if x != nil {
		again = x.since
	}
	if len(s.last) >= most {
		clear(s.last)
	}
	s.last[text] = &sentence{at: now}
	return again, true
}
