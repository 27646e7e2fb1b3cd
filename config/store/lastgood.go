package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/weirmesh/weir/config"
)

// lastGood keeps the version in force of every object in a folder, one file each, so
// that a control plane that starts while an object is broken serves what one that ran
// on would serve. Objects that are Refused are kept, too. nil keeps nothing.
type lastGood struct {
	dir     string
	files   map[config.ID]string         // on disk now
	pending map[config.ID]*config.Object // nil: to be removed
}

// openLastGood reads the folder. A file that cannot be read is dropped: it would only
// have been needed if its object is broken now.
func openLastGood(dir string, log *slog.Logger) (*lastGood, map[config.ID]*config.Object, error) {
	l := &lastGood{dir: dir, files: map[config.ID]string{}, pending: map[config.ID]*config.Object{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	saved := map[config.ID]*config.Object{}
	dropped, first := 0, error(nil)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var o config.Object
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &o)
		}
		switch _, twice := saved[o.ID]; {
		case err != nil || e.Name() != fileName(&o) || twice:
			if dropped++; dropped == 1 {
				first = fmt.Errorf("%s: %w", path, cmp.Or(err, errors.New("is not what its name says")))
			}
			if err := os.Remove(path); err != nil {
				return nil, nil, err
			}
		default:
			saved[o.ID] = o.Compact()
			l.files[o.ID] = e.Name()
			l.pending[o.ID] = nil // unless the first Step finds it again
		}
	}
	if dropped > 0 {
		log.Warn("last good versions cannot be used: their objects are as they are written now", "files", dropped, "err", first)
	}
	return l, saved, nil
}

// fileName tells whether the file is up to date.
func fileName(o *config.Object) string { return o.ID.FileName() + "_" + o.Place + ".json" }

// note remembers that the version in force of an object changed. Pods are written by
// the runtime as long as they live; an old one is never good.
func (l *lastGood) note(id config.ID, o *Object) {
	switch {
	case l == nil || id.Group == "" && id.Kind == "Pod":
	case o == nil || o.Lowered == nil:
		l.pending[id] = nil
	case o.Serving == nil: // refused, which must last as long as what it protects
		l.pending[id] = o.Raw
	default:
		l.pending[id] = o.Serving
	}
}

// save brings the folder up to date.
func (l *lastGood) save() error {
	if l == nil {
		return nil
	}
	var errs []error
	for id, o := range l.pending {
		if err := l.replace(id, o); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(l.pending, id)
	}
	if len(errs) > 0 {
		return fmt.Errorf("keeping last good versions: %w", errs[0])
	}
	return nil
}

func (l *lastGood) replace(id config.ID, o *config.Object) error {
	old, name := l.files[id], ""
	if o != nil {
		name = fileName(o)
		if name == old {
			return nil
		}
		data, err := json.Marshal(o)
		if err != nil {
			return err
		}
		// Not synced: a crash of the machine may lose the newest version, and a torn
		// file does not parse.
		tmp := filepath.Join(l.dir, ".new")
		if err := os.WriteFile(tmp, data, 0o600); err != nil {
			return err
		}
		if err := os.Rename(tmp, filepath.Join(l.dir, name)); err != nil {
			return err
		}
		l.files[id] = name
	}
	if old != "" {
		if err := os.Remove(filepath.Join(l.dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if o == nil {
		delete(l.files, id)
	}
	return nil
}

// RestoreLastGood puts versions that were kept elsewhere into a state folder, before New
// reads it. What the folder has of an object is not touched.
func RestoreLastGood(state string, objects []*config.Object, log *slog.Logger) error {
	l, saved, err := openLastGood(filepath.Join(state, "lastgood"), log)
	if err != nil {
		return fmt.Errorf("opening the state folder: %w", err)
	}
	for _, o := range objects {
		if saved[o.ID] != nil {
			continue
		}
		if err := l.replace(o.ID, o); err != nil {
			return fmt.Errorf("keeping the last good version of %s: %w", o.ID, err)
		}
	}
	return nil
}
