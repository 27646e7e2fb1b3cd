// Package secretfile keeps a secret in a file that is made once, by whichever
// process comes first, and read by all.
//
// In: a folder, a name, a function that makes the content. Out: the content. The
// folder is made 0700 and must not be writable by other users, the file is 0600,
// appears whole or not at all, and survives a power cut once it was returned.
// Processes and goroutines may call at the same time; a lock file orders them.
package secretfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weirmesh/weir/internal/redact"
)

// maxSize bounds what is read: a key and 64 roots are below 200 KB.
const maxSize = 1 << 20

// LoadOrCreate returns the content of dir/name. If there is no such file, it is
// made of what create returns; an error of create leaves nothing behind.
func LoadOrCreate(dir, name string, create func() (redact.Bytes, error)) (redact.Bytes, error) {
	return Update(dir, name, create, func(held redact.Bytes) (redact.Bytes, error) { return held, nil })
}

// Update is LoadOrCreate of a file that may have to change: what change makes of its content
// takes its place and is returned. With an error of change the file stays as it is.
func Update(dir, name string, create func() (redact.Bytes, error), change func(redact.Bytes) (redact.Bytes, error)) (redact.Bytes, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return redact.Bytes{}, fmt.Errorf("making the folder for %s: %w", name, err)
	}
	switch info, err := os.Stat(dir); {
	case err != nil:
		return redact.Bytes{}, err
	case info.Mode().Perm()&0o022 != 0:
		return redact.Bytes{}, fmt.Errorf("folder %s (mode %#o) can be written by other users, who could replace %s: chmod 700 it, or use another", dir, info.Mode().Perm(), name)
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return redact.Bytes{}, fmt.Errorf("locking folder %s: %w", dir, err)
	}
	defer unlock()

	path := filepath.Join(dir, name)
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = create()
	}
	if err == nil {
		data, err = change(data)
	}
	if err != nil {
		return redact.Bytes{}, err
	}
	return data, Replace(path, data.Reveal(), 0o600)
}

// Load returns the content of a file that is its user's alone.
func Load(path string) (redact.Bytes, error) { return read(path) }

func read(path string) (redact.Bytes, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return redact.Bytes{}, err
	}
	if !info.Mode().IsRegular() {
		return redact.Bytes{}, fmt.Errorf("%s is a %s, not a regular file", path, info.Mode().Type())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return redact.Bytes{}, fmt.Errorf("%s (mode %#o) is open to other users: if nobody read it, chmod 600 it; if in doubt, remove it and a new one is made",
			path, info.Mode().Perm())
	}
	f, err := os.Open(path)
	if err != nil {
		return redact.Bytes{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return redact.Bytes{}, err
	}
	if len(data) > maxSize {
		return redact.Bytes{}, fmt.Errorf("%s is larger than %d bytes", path, maxSize)
	}
	return redact.New(data), nil
}

// Replace writes a file in whole: whoever reads path sees the old content or the
// new, also after a crash. A file that is as it should be is left alone.
func Replace(path string, data []byte, mode fs.FileMode) (err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The rename itself is durable once the folder is.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
