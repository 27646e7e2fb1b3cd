// Package file keeps the registry's allocations in a file, services.json: which index
// and which virtual addresses a service was given.
//
// Allocations enter and leave (Save, Load). The control plane alone writes; the local
// runtime reads, at any time, because the file is replaced as a whole.
package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

// Name is the file's name inside its folder.
const Name = "services.json"

// before is what the file was before it was last replaced, for when it is damaged.
const before = Name + ".before"

type content struct {
	Services map[mesh.Key]registry.Allocation `json:"services"`
}

// Load reads the allocations in folder dir; there are none if there is no file. If it is
// damaged they are those before the last change, with the error.
func Load(dir string) (map[mesh.Key]registry.Allocation, error) {
	given, err := load(filepath.Join(dir, Name))
	if err != nil {
		if old, e := load(filepath.Join(dir, before)); e == nil && old != nil {
			return old, fmt.Errorf("%w; what was before the last change is used", err)
		}
	}
	return given, err
}

func load(path string) (map[mesh.Key]registry.Allocation, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c content
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return c.Services, nil
}

// Save replaces the allocations in folder dir.
func Save(dir string, given map[mesh.Key]registry.Allocation) error {
	data, err := json.MarshalIndent(content{given}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path, old := filepath.Join(dir, Name), filepath.Join(dir, before)
	// Without the one before there is only less to fall back to.
	if err := os.Remove(old); err == nil || errors.Is(err, fs.ErrNotExist) {
		_ = os.Link(path, old)
	}
	return replace(path, append(data, '\n'))
}

// replace writes a file so that readers see the old content or the new, and the new
// survives a crash of the machine once it returned.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
