// Package file reads objects from YAML and JSON files and folders, and watches them.
//
// Paths enter; config.Units leave, one for each file, each time its content changes.
// Read is for one look (`weir analyze -f`), Run watches until its context ends. Parse
// is pure. A change is published as soon as the file is still: some 8 ms after the
// write, or 40 ms if objects would disappear or break, because editors truncate and
// move files on the way. An object that disappears from one file and appears in another
// does so at once. A file that cannot be read or parsed yields an Incomplete
// unit, whose reader keeps what it had. Run calls publish from its own goroutine, one
// call at a time; a Source is for one goroutine.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weirmesh/weir/config"
)

// Options of a Source.
type Options struct {
	// Paths are files and folders; folders are read recursively for *.yaml, *.yml and
	// *.json. "-" is Stdin. Of two definitions of one object the one whose path comes
	// first is used, inside a folder the alphabetically first.
	Paths []string
	// Namespace of objects that name none; "default" if empty.
	Namespace string
	Stdin     io.Reader
	Log       *slog.Logger
	// Rank is added to the rank of all units, so that several Sources have an order.
	Rank int
	// Written is the folder among Paths into which objects are written by this program, one
	// a file: a file there that holds none is damaged, and takes nothing away.
	Written string
	// Poll is how often the files are looked at even if the kernel reports nothing:
	// network file systems tell nobody. 0 means 2 s, and 300 ms if watching fails.
	Poll time.Duration
}

// Source watches files.
type Source struct {
	o       Options
	paths   []string // cleaned
	folders map[string]bool
	t       *tracker
}

// stdin is the path of Options.Stdin.
const stdin = "-"

// New makes a Source.
func New(o Options) *Source {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{o: o, folders: map[string]bool{}, t: &tracker{namespace: o.Namespace, written: o.Written, read: read, files: map[string]*tracked{}}}
	for _, p := range o.Paths {
		if p != stdin {
			p = filepath.Clean(p)
		}
		s.paths = append(s.paths, p)
	}
	return s
}

// Read reads everything once. The error names a path that does not exist; what is wrong
// inside files is in the Units.
func (s *Source) Read() ([]config.Unit, error) {
	var out []config.Unit
	for rank, p := range s.paths {
		if p == stdin {
			data, err := io.ReadAll(io.LimitReader(s.o.Stdin, maxFile+1))
			if err != nil {
				return nil, fmt.Errorf("reading standard input: %w", err)
			}
			u := Parse(p, data, s.o.Namespace)
			u.Rank = rank + s.o.Rank
			out = append(out, u)
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s does not exist", p)
			}
			return nil, err
		}
		s.folders[p] = info.IsDir()
	}
	units, _ := s.look(scan(s.paths, s.folders), nil, true)
	return append(out, units...), nil
}

func (s *Source) look(l *listing, touched map[string]bool, first bool) ([]config.Unit, time.Duration) {
	units, again := s.t.step(time.Now(), l, touched, first)
	for i := range units {
		units[i].Rank += s.o.Rank
	}
	return units, again
}

// Run publishes everything there is in one call, even if it is nothing, and then what
// changes, until ctx ends.
func (s *Source) Run(ctx context.Context, publish func([]config.Unit)) error {
	w, err := fsnotify.NewWatcher()
	poll := s.o.Poll
	if err != nil {
		s.o.Log.Warn("cannot watch files, looking at them again and again", "err", err)
	} else {
		defer w.Close()
	}
	watching := w != nil
	watch := func(l *listing) {
		if w == nil {
			return
		}
		for _, d := range l.dirs {
			// Adding a folder again is free, and necessary if it was replaced.
			if err := w.Add(d); err != nil && !errors.Is(err, fs.ErrNotExist) && watching {
				watching = false
				s.o.Log.Warn("cannot watch a folder, looking at it again and again", "path", d, "err", err)
			}
		}
	}
	// Watch first, then read: what changes in between is seen twice, never missed.
	first := scan(s.paths, s.folders)
	watch(first)
	units, err := s.Read()
	if err != nil {
		return err
	}
	publish(units)

	var events chan fsnotify.Event
	var errs chan error
	if w != nil {
		events, errs = w.Events, w.Errors
	}
	// A look costs what the tree is large: polling takes 2 % of one core at most.
	var cost time.Duration
	interval := func() time.Duration {
		switch {
		case poll > 0:
			return poll
		case watching:
			return max(2*time.Second, 50*cost)
		}
		return max(300*time.Millisecond, 50*cost)
	}
	targets := first.targets
	timer := time.NewTimer(interval())
	defer timer.Stop()
	for {
		touched := map[string]bool{}
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if !s.concerns(e, targets) {
				continue
			}
			touched[filepath.Clean(e.Name)] = true
		case err := <-errs:
			// Lost events (an overflow) are made good by looking.
			s.o.Log.Debug("watching files", "err", err)
		case <-timer.C:
		}
	drain:
		for {
			select {
			case e := <-events:
				touched[filepath.Clean(e.Name)] = true
			default:
				break drain
			}
		}
		begin := time.Now()
		l := scan(s.paths, s.folders)
		cost = time.Since(begin)
		targets = l.targets
		watch(l)
		units, again := s.look(l, touched, false)
		if len(units) > 0 {
			publish(units)
		}
		if again == 0 {
			again = interval()
		}
		timer.Reset(again)
	}
}

// concerns reports whether an event may change what is read. The folders around named
// files are watched, too, and much may happen there.
func (s *Source) concerns(e fsnotify.Event, targets map[string]bool) bool {
	name := filepath.Clean(e.Name)
	if targets[name] || filepath.Base(name) == "..data" { // how a mounted ConfigMap is swapped
		return true
	}
	if !e.Has(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) && !wanted(filepath.Base(name)) {
		return false
	}
	for p, folder := range s.folders {
		if folder && (p == "." || name == p || strings.HasPrefix(name, p+string(filepath.Separator))) {
			return true
		}
	}
	return false
}
