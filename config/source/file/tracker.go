package file

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// How long a file must stay as it is before it is believed. A writer that truncates and
// writes again, or moves a file away and another one in, shows states in between that
// were never meant; nearly always it is done within a millisecond. A content that takes
// objects away or breaks them is doubted longer than one that does not.
const (
	settleGood  = 8 * time.Millisecond
	settleWorse = 40 * time.Millisecond
	// A content without an object that was there waits until no other file is in doubt, because that may be where
	// the object went: both are published at once. A file that never is still holds nothing up for longer than this.
	settleLoss = 200 * time.Millisecond
)

// tracker decides which change of a file is published when. It has no clock and reads
// files through a function.
type tracker struct {
	namespace string
	written   string // Options.Written
	read      func(path string) ([]byte, error)
	files     map[string]*tracked
	opaque    map[string]config.Unit // folders that cannot be read
}

type tracked struct {
	rank  int
	stamp stamp             // of what was seen last
	sum   [sha256.Size]byte // of the content in unit
	unit  config.Unit       // published last
	known bool              // unit was published

	candidate *config.Unit // differs from unit, waits to be believed
	candSum   [sha256.Size]byte
	since     time.Time // candidate is what the file says since then
}

// step takes what is there now and returns the units to publish, and after how long to
// look again (0: when something happens). Files in touched are read even if their
// stamp did not change: two writes within the clock tick of the file system look alike.
// At the beginning everything is believed at once.
func (t *tracker) step(now time.Time, l *listing, touched map[string]bool, first bool) (out []config.Unit, again time.Duration) {
	for _, path := range slices.Sorted(maps.Keys(l.files)) {
		e := l.files[path]
		f := t.files[path]
		if f == nil {
			f = &tracked{}
			t.files[path] = f
		} else if f.stamp == e.stamp && f.rank == e.rank && !touched[path] {
			continue
		}
		f.stamp, f.rank = e.stamp, e.rank
		t.look(f, path, now)
	}
	opaque := map[string]config.Unit{}
	for _, p := range l.opaque {
		u := unreadable(p.path, p.err)
		if old, ok := t.opaque[p.path]; !ok || old.Findings[0] != u.Findings[0] {
			out = append(out, u)
		}
		opaque[p.path] = u
	}
	for _, path := range slices.Sorted(maps.Keys(t.opaque)) {
		if _, ok := opaque[path]; !ok {
			out = append(out, config.Unit{Name: path, Gone: true})
		}
	}
	t.opaque = opaque
	for path, f := range t.files {
		if _, ok := l.files[path]; ok || l.hides(path) {
			continue
		}
		// Something happened to it since the last look: it was there in between, and is still in its writer's hands.
		if f.candidate == nil || !f.candidate.Gone || touched[path] {
			f.vanish(path, now)
		}
	}
	var due []string
	for _, path := range slices.Sorted(maps.Keys(t.files)) {
		f := t.files[path]
		if f.candidate == nil {
			continue
		}
		wait := settleGood
		if f.worse() {
			wait = settleWorse
		}
		if left := f.since.Add(wait).Sub(now); left > 0 && !first {
			if again == 0 || left < again {
				again = left
			}
			continue
		}
		due = append(due, path)
	}
	for _, path := range due {
		f := t.files[path]
		if again > 0 && now.Sub(f.since) < settleLoss && f.loses() {
			continue
		}
		if f.candidate.Gone {
			delete(t.files, path)
			if f.known {
				out = append(out, *f.candidate)
			}
			continue
		}
		f.unit, f.sum, f.known, f.candidate = *f.candidate, f.candSum, true, nil
		out = append(out, f.unit)
		f.unit.Objects = compacted(f.unit.Objects)
	}
	return out, again
}

// compacted keeps what worse needs without the parsed documents.
func compacted(objects []*config.Object) []*config.Object {
	out := make([]*config.Object, len(objects))
	for i, o := range objects {
		out[i] = o.Compact()
	}
	return out
}

// look reads a file and makes a candidate of what differs from the published unit.
func (t *tracker) look(f *tracked, path string, now time.Time) {
	data, err := t.read(path)
	if errors.Is(err, fs.ErrNotExist) { // it was there a moment ago
		f.vanish(path, now)
		return
	}
	if err != nil {
		u := unreadable(path, err)
		u.Rank = f.rank
		f.candidate, f.candSum, f.since = &u, [sha256.Size]byte{}, now
		return
	}
	sum := sha256.Sum256(data)
	switch {
	case f.known && sum == f.sum && f.unit.Rank == f.rank:
		f.candidate = nil
	case f.candidate != nil && sum == f.candSum && !f.candidate.Gone:
		f.candidate.Rank = f.rank
	default:
		u := Parse(path, data, t.namespace)
		u.Rank = f.rank
		if t.written != "" && filepath.Dir(path) == t.written && len(u.Objects) == 0 && !u.Incomplete {
			u.Incomplete = true
			u.Findings = append(u.Findings, config.New(config.Unreadable, mesh.Ref{File: path}, "", 0,
				"is empty, and an object was written into it", "apply the object again, or remove the file if it was to be deleted"))
		}
		f.candidate, f.candSum, f.since = &u, sum, now
	}
}

// vanish makes a candidate of the file's end.
func (f *tracked) vanish(path string, now time.Time) {
	f.candidate, f.since, f.stamp = &config.Unit{Name: path, Gone: true}, now, stamp{}
}

// worse reports whether the candidate has more problems or fewer objects than what it
// would replace.
func (f *tracked) worse() bool {
	c := f.candidate
	if c.Gone || c.Incomplete || f.known && len(c.Objects) < len(f.unit.Objects) {
		return true
	}
	return !f.known && len(c.Objects) == 0
}

// loses reports whether the candidate lacks an object of what it would replace. One that is
// incomplete takes nothing away.
func (f *tracked) loses() bool {
	if f.candidate.Incomplete {
		return false
	}
	kept := map[config.ID]bool{}
	for _, o := range f.candidate.Objects {
		kept[o.ID] = true
	}
	return slices.ContainsFunc(f.unit.Objects, func(o *config.Object) bool { return !kept[o.ID] })
}

func unreadable(path string, err error) config.Unit {
	if errors.Is(err, errTooLarge) {
		return config.Unit{Name: path, Incomplete: true, Findings: []config.Finding{
			config.New(config.LimitExceeded, mesh.Ref{File: path, Line: 1}, "", 1, err.Error(), "split it into several files")}}
	}
	msg := err.Error()
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		msg = pe.Err.Error()
	}
	hint := "let its name lead to a file or folder that can be read, or remove it"
	if errors.Is(err, fs.ErrPermission) {
		hint = "make it readable: chmod +r " + path
	}
	return config.Unit{Name: path, Incomplete: true, Findings: []config.Finding{
		config.New(config.Unreadable, mesh.Ref{File: path}, "", 0, "cannot be read: "+msg, hint)}}
}
