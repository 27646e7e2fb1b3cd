package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/weirmesh/weir/internal/redact"
)

// openState makes the state folder this process's own, for as long as the file it returns is
// open: two that write into one folder would each undo what the other remembers.
func openState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("--state %s is in use by another weir-control: each replica needs a folder of its own", dir)
	}
	return nil, fmt.Errorf("--state %s: locking it: %w", dir, err)
}

// apiToken is the secret in the state folder that changes by the API need: made once, by weir
// up or here.
func apiToken(dir string) (redact.String, error) {
	path := filepath.Join(dir, "token")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return redact.String{}, fmt.Errorf("reading the API token: %w", err)
	}
	if t := strings.TrimSpace(string(text)); t != "" {
		return redact.New(t), nil
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	t := base64.RawURLEncoding.EncodeToString(secret[:])
	tmp := path + ".new"
	err = errors.Join(os.RemoveAll(tmp), os.WriteFile(tmp, []byte(t+"\n"), 0o600))
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return redact.String{}, fmt.Errorf("making the API token: %w", err)
	}
	return redact.New(t), nil
}
