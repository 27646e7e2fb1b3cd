package state

import (
	"errors"
	"maps"
	"os"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weirmesh/weir/proxy/cluster"
)

// Files are what the kernel says of files; nil of one that is not there.
type Files map[string]os.FileInfo

// LookAt is what files are now.
func LookAt(names Files) Files {
	out := make(Files, len(names))
	for name := range names {
		out[name] = lookAt(name)
	}
	return out
}

func lookAt(name string) os.FileInfo {
	info, err := os.Stat(name)
	if err != nil {
		return nil
	}
	return info
}

// same reports whether a file is as it was. One that is replaced is another one, also of the same age and size.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// Equal reports whether all files are as they were.
func (f Files) Equal(o Files) bool { return maps.EqualFunc(f, o, same) }

// fileSource is dataSource of what is read again when its file changes: certificates, keys, roots and revocations of listeners
// and clusters.
func (b *Builder) fileSource(d *corev3.DataSource, path string) ([]byte, error) {
	if name := d.GetFilename(); name != "" {
		if !slices.Contains(b.uses.files, name) {
			b.uses.files = append(b.uses.files, name)
		}
		if _, known := b.files[name]; !known { // one that is known and has changed since is to be noticed by all who use it
			b.files[name] = lookAt(name)
		}
	}
	return dataSource(d, path)
}

// Files are those that configuration in force has been read from, as they were then.
func (b *Builder) Files() Files {
	if len(b.files) == 0 {
		return nil
	}
	used := map[string]bool{}
	for _, l := range b.cur.listeners {
		for _, name := range l.files {
			used[name] = true
		}
	}
	for _, s := range b.specs {
		for _, name := range s.files {
			used[name] = true
		}
	}
	maps.DeleteFunc(b.files, func(name string, _ os.FileInfo) bool { return !used[name] })
	return maps.Clone(b.files)
}

// Reread makes what is in files anew that are not what they were. What cannot be read, or does not fit together (half of a certificate and
// key that are being replaced), stays as it was until its files change again, and is told. next is nil if nothing is new.
func (b *Builder) Reread(now Files) (next *State, gone []*cluster.Endpoint, read []string, err error) {
	changed := func(name string) bool { return slices.Contains(read, name) }
	for name, info := range now {
		if was, known := b.files[name]; known && !same(was, info) {
			b.files[name] = info
			read = append(read, name)
		}
	}
	if len(read) == 0 {
		return nil, nil, nil, nil
	}
	slices.Sort(read)
	state := *b.cur
	state.Generation++
	b.came, b.gone = nil, nil
	state.listeners = maps.Clone(state.listeners)
	made := false
	for _, name := range slices.Sorted(maps.Keys(b.cur.listeners)) {
		l := b.cur.listeners[name]
		if !slices.ContainsFunc(l.files, changed) {
			continue
		}
		d, e := b.remade(l)
		if e == nil && d.unserved > 0 && d.unserved >= l.unserved {
			e = errors.Join(b.uses.unserved...) // who was served goes on to be
		}
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		state.listeners[name], made = d, true
	}
	for _, name := range slices.Sorted(maps.Keys(b.specs)) {
		s := b.specs[name]
		if !slices.ContainsFunc(s.files, changed) {
			continue
		}
		if e := b.clustersAgain(&state, func(x *clusterSpec) bool { return x == s }); e != nil {
			err = errors.Join(err, e)
			continue
		}
		made = true
	}
	if !made {
		return nil, nil, read, err
	}
	b.enliven(&state)
	b.cur = &state
	b.tellPeers()
	b.keepKeys()
	return &state, b.gone, read, err
}
