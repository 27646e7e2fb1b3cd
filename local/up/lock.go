package up

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/local/sandbox"
)

const (
	// lockTries are attempts, lockPause apart: whoever only asks whether a mesh runs holds
	// the lock for a moment.
	lockTries = 5
	lockPause = 20 * time.Millisecond
)

// lock takes the state folder and says in its lock file who has it.
func lock(l sandbox.Layout, api netip.AddrPort, namespace string) (*os.File, error) {
	f, err := os.OpenFile(l.Lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state folder: %w", err)
	}
	for try := 1; ; try++ {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || try == lockTries {
			break
		}
		time.Sleep(lockPause)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		who := "another `weir up`"
		if other, err := client.ReadLock(string(l)); err == nil {
			who = fmt.Sprintf("another `weir up` (process %d, API at http://%s)", other.PID, other.HTTP)
		}
		return nil, &Error{fmt.Sprintf("%s runs on the state folder %s", who, l), "end it with `weir down`, or name another folder with --state, and other addresses with --http and --ingress"}
	}
	if err == nil {
		err = writeLock(f, client.Lock{PID: os.Getpid(), HTTP: api.String(), Namespace: namespace})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the state folder: %w", err)
	}
	return f, nil
}

func writeLock(f *os.File, l client.Lock) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	return err
}

// unlock leaves an empty file: removing it would let two take different files.
func unlock(f *os.File) {
	_ = f.Truncate(0)
	f.Close()
}
