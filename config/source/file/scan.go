package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// stamp changes when a file does, as far as its metadata can tell.
type stamp struct {
	size  int64
	mtime int64
	inode uint64
}

// unknown is the stamp of a file that cannot be looked at.
var unknown = stamp{size: -1}

func stampOf(info fs.FileInfo) stamp {
	return stamp{info.Size(), info.ModTime().UnixNano(), inode(info)}
}

// listing is what is there at one moment.
type listing struct {
	files   map[string]entry
	dirs    []string        // to be watched
	targets map[string]bool // roots, and the files behind roots that are links
	// opaque are folders that could not be read; files known below them are not gone.
	opaque []problem
}

type entry struct {
	stamp stamp
	rank  int
}

type problem struct {
	path string
	err  error
}

// hides reports whether path lies in a folder that could not be read.
func (l *listing) hides(path string) bool {
	for _, p := range l.opaque {
		if path == p.path || strings.HasPrefix(path, p.path+string(filepath.Separator)) || p.path == "." && !filepath.IsAbs(path) {
			return true
		}
	}
	return false
}

// wanted are the files taken from folders; a file that is named itself is always taken.
func wanted(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !hidden(name) && !strings.HasPrefix(name, "#")
	}
	return false
}

// hidden entries are version control, editors' swap files and the "..data" folders
// behind a mounted ConfigMap.
func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// scan lists roots. folders says which of them were folders at the beginning: a folder
// that vanishes (an unmounted volume) takes nothing with it, a file does.
func scan(roots []string, folders map[string]bool) *listing {
	l := &listing{files: map[string]entry{}, targets: map[string]bool{}}
	for rank, root := range roots {
		if root == stdin {
			continue
		}
		l.targets[root] = true
		info, err := os.Stat(root)
		switch {
		case err != nil:
			if folders[root] || !errors.Is(err, fs.ErrNotExist) {
				l.opaque = append(l.opaque, problem{root, err})
			}
			// Its parent tells when it is back.
			l.dirs = append(l.dirs, filepath.Dir(root))
		case info.IsDir():
			l.walk(root, rank, map[string]bool{})
			l.dirs = append(l.dirs, filepath.Dir(root))
		default:
			l.add(root, rank, info)
			l.dirs = append(l.dirs, filepath.Dir(root))
			if target, err := filepath.EvalSymlinks(root); err == nil {
				l.dirs = append(l.dirs, filepath.Dir(target))
				l.targets[target] = true
			}
		}
	}
	slices.Sort(l.dirs)
	l.dirs = slices.Compact(l.dirs)
	return l
}

func (l *listing) add(path string, rank int, info fs.FileInfo) {
	if _, ok := l.files[path]; !ok {
		l.files[path] = entry{stampOf(info), rank}
	}
}

// walk lists a folder. Links are followed; above holds the real paths of the folders
// being walked, so that a link to one of them ends there.
func (l *listing) walk(dir string, rank int, above map[string]bool) {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil && above[real] {
		return
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		if len(above) == 0 || !errors.Is(err, fs.ErrNotExist) {
			l.opaque = append(l.opaque, problem{dir, err})
		}
		return
	}
	above[real] = true
	defer delete(above, real)
	l.dirs = append(l.dirs, dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if hidden(e.Name()) || e.Type().IsRegular() && !wanted(e.Name()) {
			continue
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // just removed, or a dangling link
		case err != nil: // a link that leads in a circle, or to where we may not look: reading it will say so
			if wanted(e.Name()) {
				l.files[path] = entry{unknown, rank}
			}
		case info.IsDir():
			l.walk(path, rank, above)
		case info.Mode().IsRegular() && wanted(e.Name()):
			l.add(path, rank, info)
		}
	}
}

// read returns the content of a file, at most one byte more than allowed; errTooLarge
// if it is known to have more.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxFile {
		return nil, errTooLarge
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}
