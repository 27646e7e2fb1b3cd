package secretfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weirmesh/weir/internal/redact"
)

func always(s string) func() (redact.Bytes, error) {
	return func() (redact.Bytes, error) { return redact.New([]byte(s)), nil }
}

func never(t *testing.T) func() (redact.Bytes, error) {
	return func() (redact.Bytes, error) {
		t.Error("a secret was made where one exists")
		return redact.New([]byte("other")), nil
	}
}

// The first call makes the file, closed to others; later ones read it.
func TestLoadOrCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "ca")
	got, err := LoadOrCreate(dir, "key", always("first"))
	if err != nil || string(got.Reveal()) != "first" {
		t.Fatalf("%q, %v", got.Reveal(), err)
	}
	if got, err = LoadOrCreate(dir, "key", never(t)); err != nil || string(got.Reveal()) != "first" {
		t.Errorf("second call: %q, %v", got.Reveal(), err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "key": 0o600, ".lock": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v", name, info.Mode(), err)
		}
	}
}

// However many start at once, one secret is made and all see that one.
func TestConcurrentStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	var wg sync.WaitGroup
	got := make([]string, 32)
	for i := range got {
		wg.Go(func() {
			s, err := LoadOrCreate(dir, "key", always(fmt.Sprint("made by ", i)))
			if err != nil {
				t.Error(err)
			}
			got[i] = string(s.Reveal())
		})
	}
	wg.Wait()
	for _, s := range got {
		if s != got[0] || s == "" {
			t.Fatalf("two secrets: %q and %q", got[0], s)
		}
	}
}

func TestCreateFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadOrCreate(dir, "key", func() (redact.Bytes, error) { return redact.Bytes{}, errors.New("no entropy") }); err == nil || err.Error() != "no entropy" {
		t.Errorf("error %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*key*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, err string
		prepare   func(dir, path string) error
	}{
		{"folder open to others", "chmod 700", func(dir, _ string) error { return os.Chmod(dir, 0o777) }},
		{"file open to others", "chmod 600", func(_, path string) error { return os.WriteFile(path, nil, 0o644) }},
		{"a folder in its place", "not a regular file", func(_, path string) error { return os.Mkdir(path, 0o700) }},
		{"a link in its place", "not a regular file", func(_, path string) error { return os.Symlink("/etc/passwd", path) }},
		{"too large", "larger than", func(_, path string) error { return os.WriteFile(path, make([]byte, maxSize+1), 0o600) }},
		{"a file in the folder's place", "not a directory", func(dir, _ string) error {
			return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600))
		}},
	} {
		dir := filepath.Join(t.TempDir(), "ca")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := c.prepare(dir, filepath.Join(dir, "key")); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreate(dir, "key", never(t)); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.err)
		}
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.pem")
	for _, s := range []string{"one", "two", "two"} {
		if err := Replace(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != s {
			t.Errorf("%q, %v", got, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*tmp*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := Replace(filepath.Join(path, "below a file"), nil, 0o600); err == nil {
		t.Error("wrote below a file")
	}
}
