package up

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shortFolder is one whose path leaves room for the names of sockets.
func shortFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A folder with other things in it is left alone, whatever they are called: what a mesh
// finds in its state folder it removes.
func TestOnlyOurFolders(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds []string // files; a path that ends in "/" is a folder
		ours  bool
	}{
		{"an empty folder", nil, true},
		{"of a mesh that was killed as it began", []string{"lock"}, true},
		{"of a mesh that ended", []string{"lock", "token", "ca/root-cert.pem", "applied/"}, true},
		{"of a control plane alone", []string{"ca/root-cert.pem", "registry/"}, true},
		{"with something of the user's in it", []string{"lock", "token", "notes.txt"}, true},
		{"with a folder run", []string{"run/precious"}, false},
		{"of a program that has a lock, too", []string{"lock", "run/precious"}, false},
		{"where lock is a folder", []string{"lock/", "token", "run/precious"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shortFolder(t)
			for _, h := range c.holds {
				path := filepath.Join(dir, h)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				err := error(nil)
				if strings.HasSuffix(h, "/") {
					err = os.MkdirAll(path, 0o700)
				} else {
					err = os.WriteFile(path, []byte("x"), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			top := &top{o: Options{State: dir, HTTP: netip.MustParseAddrPort("127.0.0.1:1")}}
			defer top.close()
			err := top.folder(t.Context())
			var refused *Error
			switch {
			case c.ours && err != nil:
				t.Error(err)
			case !c.ours && (!errors.As(err, &refused) || !strings.Contains(refused.Message, "is not a state folder of weir: it holds ") || refused.Hint == ""):
				t.Errorf("got %#v", err)
			}
			if !c.ours {
				if _, err := os.Stat(filepath.Join(dir, "run/precious")); err != nil {
					t.Error("lost: ", err)
				}
			}
		})
	}
}

// The folder is closed to others, and one of theirs is not used.
func TestFolderIsPrivate(t *testing.T) {
	dir := shortFolder(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	one := &top{o: Options{State: dir}}
	defer one.close()
	if err := one.folder(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if os.Geteuid() != 0 {
		t.Skip("a folder of another user can be made by root only")
	}
	theirs := shortFolder(t)
	if err := os.Chown(theirs, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	two := &top{o: Options{State: theirs}}
	defer two.close()
	var refused *Error
	if err := two.folder(t.Context()); !errors.As(err, &refused) || !strings.Contains(refused.Message, "belongs to another user") {
		t.Errorf("got %#v", err)
	}
	if _, err := os.Stat(filepath.Join(theirs, "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written there: %v", err)
	}
}

// A token that is damaged, or that others could have read, is replaced; a good one stays.
func TestToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	read := func() string {
		t.Helper()
		if err := makeToken(path); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 || len(b) != 44 {
			t.Errorf("token of %d bytes, %v, %v", len(b), info.Mode(), err)
		}
		return string(b)
	}
	good := read()
	if again := read(); again != good {
		t.Error("a good token was replaced")
	}
	for name, damage := range map[string]func() error{
		"empty":                   func() error { return os.WriteFile(path, nil, 0o600) },
		"half":                    func() error { return os.Truncate(path, 20) },
		"readable by others":      func() error { return os.Chmod(path, 0o644) },
		"a link":                  func() error { return errors.Join(os.Rename(path, path+".1"), os.Symlink(path+".1", path)) },
		"a start that was killed": func() error { return errors.Join(os.Remove(path), os.WriteFile(path+".new", nil, 0o400)) },
	} {
		before := read()
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if after := read(); after == before {
			t.Errorf("%s: the token stays", name)
		}
	}
}
