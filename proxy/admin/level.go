package admin

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
)

// longestLevel is how long a level may be asked for that is to go back by itself.
const longestLevel = 24 * time.Hour

// Level is the level of the proxy's log: as it was started with, or another one for a while. It is changed by whoever runs the
// proxy (POST /logging) and through the control plane, from any goroutine.
type Level struct {
	now   *slog.LevelVar
	log   *slog.Logger
	usual slog.Level // that the proxy was started with

	mu    sync.Mutex
	until time.Time // zero: it stays
	back  *time.Timer
}

// NewLevel takes what a log's handler looks at; nil: nothing does.
func NewLevel(now *slog.LevelVar, log *slog.Logger) *Level {
	now = cmp.Or(now, new(slog.LevelVar))
	return &Level{now: now, log: log, usual: now.Level()}
}

// Ask answers how it is, after what is asked for was done.
func (l *Level) Ask(q *observev1.LogLevelRequest) *observev1.LogLevel {
	out := &observev1.LogLevel{Request: q.GetRequest(), Usual: LevelName(l.usual)}
	if err := l.set(q); err != nil {
		out.Refused = err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if out.Level = LevelName(l.now.Level()); !l.until.IsZero() {
		out.UntilUnixNano = uint64(l.until.UnixNano())
	}
	return out
}

func (l *Level) set(q *observev1.LogLevelRequest) error {
	wanted, known := levels[strings.ToLower(q.GetLevel())]
	switch {
	case q.GetUsual():
		l.change(l.usual, 0)
	case q.GetLevel() == "":
	case !known:
		return fmt.Errorf("%.20q is not a level: debug, info, warn or error", q.GetLevel())
	case q.GetForNano() > uint64(longestLevel):
		return fmt.Errorf("a level lasts %v at most, or without end", longestLevel)
	default:
		l.change(wanted, time.Duration(q.GetForNano()))
	}
	return nil
}

// change sets the level, for so long, or for good if that is 0.
func (l *Level) change(wanted slog.Level, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
	l.now.Set(wanted)
	if d > 0 {
		l.until = time.Now().Add(d)
		var t *time.Timer
		t = time.AfterFunc(d, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.back == t { // nobody has said anything else meanwhile
				l.end()
				l.now.Set(l.usual)
				l.log.Info("the log has its usual level again", "level", LevelName(l.usual))
			}
		})
		l.back = t
	}
	l.log.Info("the level of the log was changed", "level", LevelName(wanted), "for", d.String())
}

// end forgets that the level is to go back.
func (l *Level) end() {
	if l.back != nil {
		l.back.Stop()
	}
	l.back, l.until = nil, time.Time{}
}

// said is how it is, in words.
func (l *Level) said() string {
	a := l.Ask(&observev1.LogLevelRequest{})
	text := a.GetLevel()
	if n := a.GetUntilUnixNano(); n > 0 {
		text += " until " + time.Unix(0, int64(n)).UTC().Format(time.RFC3339) + ", then " + a.GetUsual()
	}
	return text
}
