package observe

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
)

const (
	logChunk = 16 << 10
	// logChunks of logChunk each wait for a slow reader: 4 MiB, then lines are dropped.
	logChunks = 256
)

// Log writes access log lines without ever making a worker wait: lines are gathered in
// chunks, and a goroutine writes them.
type Log struct {
	mu   sync.Mutex
	cur  []byte
	wake chan struct{}
	full [][]byte
	free [][]byte
	// Dropped counts lines that found no room.
	Dropped atomic.Uint64
}

// NewLog makes a Log; Run writes it out.
func NewLog() *Log { return &Log{wake: make(chan struct{}, 1)} }

// Write appends the lines that logs make of r. It copies what it needs.
func (l *Log) Write(logs []AccessLog, r *Record) {
	for i := range logs {
		if a := &logs[i]; a.Wants(r) {
			l.write(a.Format, r)
		}
	}
}

func (l *Log) write(f *Format, r *Record) {
	l.mu.Lock()
	if len(l.full) >= logChunks {
		l.mu.Unlock()
		l.Dropped.Add(1)
		return
	}
	if l.cur == nil {
		if n := len(l.free); n > 0 {
			l.cur, l.free = l.free[n-1], l.free[:n-1]
		} else {
			l.cur = make([]byte, 0, logChunk+1024)
		}
	}
	l.cur = f.AppendLine(l.cur, r)
	if len(l.cur) >= logChunk {
		l.full = append(l.full, l.cur)
		l.cur = nil
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run writes lines to w until ctx ends, then what is left. An error of w drops the
// lines at hand and is not fatal: the next ones may pass.
func (l *Log) Run(ctx context.Context, w io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			l.flush(w)
			return nil
		case <-l.wake:
			l.flush(w)
		}
	}
}

func (l *Log) flush(w io.Writer) {
	l.mu.Lock()
	chunks := l.full
	if len(l.cur) > 0 {
		chunks = append(chunks, l.cur)
		l.cur = nil
	}
	l.full = nil
	l.mu.Unlock()
	for _, c := range chunks {
		if _, err := w.Write(c); err != nil {
			l.Dropped.Add(1)
		}
	}
	l.mu.Lock()
	for _, c := range chunks {
		if len(l.free) < 4 && cap(c) <= 4*logChunk { // a few chunks serve the usual rate
			l.free = append(l.free, c[:0])
		}
	}
	l.mu.Unlock()
}
