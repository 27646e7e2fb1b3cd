package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/weirmesh/weir/internal/redact"
)

// ErrNoMesh says that no `weir up` runs on a state folder.
var ErrNoMesh = errors.New("no mesh is running")

// Lock is what `weir up` writes into the file of that name while it holds it, as JSON.
type Lock struct {
	PID       int    `json:"pid"`
	HTTP      string `json:"http"`                // host:port of the control plane's API
	Namespace string `json:"namespace,omitempty"` // of objects and workloads that name none
}

// LockFile is the path of the lock, held with flock(2) as long as `weir up` runs.
func LockFile(state string) string { return filepath.Join(state, "lock") }

// UpSocket is the path of the socket on which `weir up` takes exec, run and logs.
func UpSocket(state string) string { return filepath.Join(state, "run", "up.sock") }

// ProxyFolder has one folder a proxy, named namespace_name, with its admin.sock.
func ProxyFolder(state string) string { return filepath.Join(state, "run", "proxies") }

// ReadLock reads the lock, which may have been left behind by a mesh that was killed
// (see Held). The error is ErrNoMesh if there is none.
func ReadLock(state string) (Lock, error) {
	var l Lock
	data, err := os.ReadFile(LockFile(state))
	if errors.Is(err, fs.ErrNotExist) {
		return l, ErrNoMesh
	}
	if err != nil {
		return l, fmt.Errorf("looking for the mesh: %w", err)
	}
	if err := json.Unmarshal(data, &l); err != nil || l.HTTP == "" {
		if held, _ := Held(state); held {
			return l, fmt.Errorf("%s does not say where the mesh is; it is just starting", LockFile(state))
		}
		return l, ErrNoMesh
	}
	return l, nil
}

// Held reports whether somebody holds the lock. It takes the lock for a moment, so ask
// only when there is a doubt.
func Held(state string) (bool, error) {
	f, err := os.Open(LockFile(state))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Token reads the API token. It is empty if there is none: reads need none.
func Token(state string) (redact.String, error) {
	data, err := os.ReadFile(filepath.Join(state, "token"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return redact.String{}, fmt.Errorf("reading the API token: %w", err)
	}
	return redact.New(strings.TrimSpace(string(data))), nil
}

// Open makes a client of the mesh that runs on a state folder.
func Open(state string) (*Client, error) {
	l, err := ReadLock(state)
	if err != nil {
		return nil, err
	}
	token, err := Token(state)
	if err != nil {
		return nil, err
	}
	return New(l.HTTP, token), nil
}

// Released returns when nobody holds the lock any more, or with ctx.
func Released(ctx context.Context, state string) error {
	f, err := os.Open(LockFile(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	got := make(chan error, 1)
	go func() { // outlives ctx by as long as the lock is held
		defer f.Close()
		for {
			err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
			if !errors.Is(err, syscall.EINTR) {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
