package up

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weirmesh/weir/local/sandbox"
)

// folder makes the state folder ours.
func (t *top) folder(context.Context) error {
	dir, err := filepath.Abs(t.o.State)
	if err != nil {
		return err
	}
	t.layout = sandbox.Layout(dir)
	if err := t.layout.Check(); err != nil {
		return &Error{err.Error(), ""}
	}
	if err := claim(t.layout); err != nil {
		return err
	}
	if t.lock, err = lock(t.layout, reached(t.o.HTTP), t.o.Namespace); err != nil {
		return err
	}
	return makeToken(t.layout.Token())
}

// claim makes the state folder, or makes sure that it is one. We remove and replace what
// is in it, and believe what it says: it must not be somebody's folder with other things
// in it, and nobody else may write there.
func claim(l sandbox.Layout) error {
	dir := string(l)
	const other = "name another one with --state"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &Error{fmt.Sprintf("the state folder cannot be made: %v", err), other}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return &Error{fmt.Sprintf("the state folder %s belongs to another user", dir), other}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return &Error{fmt.Sprintf("the state folder cannot be read: %v", err), other}
	}
	for _, e := range entries {
		// A mesh that was killed as it began leaves nothing but the lock.
		if e.Name() != filepath.Base(l.Lock()) && !marked(l) {
			return &Error{fmt.Sprintf("%s is not a state folder of weir: it holds %s", dir, e.Name()), "name an empty folder, or one that does not exist, with --state"}
		}
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
			return fmt.Errorf("closing the state folder to other users: %w", err)
		}
	}
	return nil
}

// marked reports whether a folder has what every mesh, or every control plane, leaves in
// its state folder.
func marked(l sandbox.Layout) bool {
	regular := func(path string) bool {
		info, err := os.Lstat(path)
		return err == nil && info.Mode().IsRegular()
	}
	return regular(l.Root()) || regular(l.Lock()) && regular(l.Token())
}

// tokenBytes is the length of the secret that the API token is the text of.
const tokenBytes = 32

// makeToken makes the token that writes to the API need, once per state folder: again if
// it is damaged, or others could have read it.
func makeToken(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making the API token: %w", err)
		}
	}()
	whole := int64(base64.RawURLEncoding.EncodedLen(tokenBytes) + len("\n"))
	switch info, err := os.Lstat(path); {
	case err == nil && info.Mode() == 0o600 && info.Size() == whole:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	secret := make([]byte, tokenBytes)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	// The lock is held: nobody else makes one.
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(tmp, []byte(base64.RawURLEncoding.EncodeToString(secret)+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
