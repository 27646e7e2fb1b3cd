package supervise

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

const (
	// maxLine bounds one line of a program's output; the rest becomes further lines.
	maxLine = 16 << 10
	// historyLines are kept per source for `weir logs`.
	historyLines = 1000
	// followBuffer is how many lines a follower may lag behind before lines are left out.
	followBuffer = 1024
)

// colors are ANSI foregrounds that are readable on dark and light backgrounds.
var colors = [...]int{36, 32, 33, 35, 34, 96, 92, 93, 95, 94}

// Logs gathers the output of many programs: whole lines, each with its source in front,
// on one writer, and the last lines of each source for later. The source "" is all that
// was shown. It is safe for concurrent use.
type Logs struct {
	mu      sync.Mutex
	out     io.Writer
	color   bool
	width   int
	sources map[string]*source
	merged  *source // what is shown, as it is shown without colour
	order   int
}

type source struct {
	logs      *Logs
	name      string
	color     int
	quiet     bool
	partial   []byte
	history   []string
	next      int // history is a ring once it is full
	followers map[chan string]*follower
}

type follower struct{ lost int }

// NewLogs writes to out, in colour if told so.
func NewLogs(out io.Writer, color bool) *Logs {
	l := &Logs{out: out, color: color, sources: map[string]*source{}}
	l.merged = l.source("", true)
	return l
}

// Source returns the writer for a program's output. quiet sources are kept for
// `weir logs` and not shown.
func (l *Logs) Source(name string, quiet bool) io.Writer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.source(name, quiet)
}

func (l *Logs) source(name string, quiet bool) *source {
	s, ok := l.sources[name]
	if !ok {
		s = &source{logs: l, name: name, quiet: quiet, color: colors[l.order%len(colors)], followers: map[chan string]*follower{}}
		l.order++
		l.sources[name] = s
		if !quiet {
			l.width = max(l.width, min(len(name), 24)) // longer names than 24 would push all lines to the right
		}
	}
	return s
}

// Write takes output; complete lines are shown at once.
func (s *source) Write(p []byte) (int, error) {
	s.logs.mu.Lock()
	defer s.logs.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			s.partial = append(s.partial, rest...)
			for len(s.partial) >= maxLine {
				s.line(string(s.partial[:maxLine]))
				s.partial = append(s.partial[:0], s.partial[maxLine:]...)
			}
			break
		}
		s.partial = append(s.partial, rest[:i]...)
		rest = rest[i+1:]
		s.line(string(bytes.TrimSuffix(s.partial, []byte("\r"))))
		s.partial = s.partial[:0]
	}
	return len(p), nil
}

// line is called with the lock held.
func (s *source) line(text string) {
	if len(s.history) < historyLines {
		s.history = append(s.history, text)
	} else {
		s.history[s.next] = text
		s.next = (s.next + 1) % historyLines
	}
	for ch, f := range s.followers {
		if f.lost > 0 {
			select {
			case ch <- fmt.Sprintf("(%d lines left out: the reader was too slow)", f.lost):
				f.lost = 0
			default:
			}
		}
		select {
		case ch <- text:
		default:
			f.lost++
		}
	}
	if s.quiet {
		return
	}
	plain := fmt.Sprintf("%-*s | %s", s.logs.width, s.name, text)
	s.logs.merged.line(plain)
	if s.logs.color {
		_, _ = fmt.Fprintf(s.logs.out, "\x1b[%dm%-*s |\x1b[0m %s\n", s.color, s.logs.width, s.name, text)
	} else {
		_, _ = fmt.Fprintln(s.logs.out, plain)
	}
}

// Tail returns the last n lines of a source (all that are kept if n is negative) and
// whether the source exists.
func (l *Logs) Tail(name string, n int) ([]string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.sources[name]
	if !ok {
		return nil, false
	}
	return s.tail(n), true
}

func (s *source) tail(n int) []string {
	lines := make([]string, 0, len(s.history))
	lines = append(append(lines, s.history[s.next:]...), s.history[:s.next]...)
	if n >= 0 && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	return lines
}

// Follow returns the last n lines and then a channel of the lines to come, until stop
// is called. A follower that is too slow misses lines and is told how many.
func (l *Logs) Follow(name string, n int) (before []string, lines <-chan string, stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.source(name, true)
	ch := make(chan string, followBuffer)
	s.followers[ch] = &follower{}
	return s.tail(n), ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(s.followers, ch)
	}
}
