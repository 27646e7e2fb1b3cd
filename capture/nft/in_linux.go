package nft

import (
	"fmt"
	"os"
	"runtime"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// In calls f in the network namespace that the file at path is, on a thread of its own
// that ends with it. Entering one needs SYS_ADMIN, which an init container does not have
// and a node agent does.
func In(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and would stay there, /proc/self with it. Held here, it
			// is not the next one's.
			defer runtime.UnlockOSThread()
			done <- In(path, f)
			return
		}
		// Never unlocked: the thread ends with the goroutine.
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Present reports whether the calling thread's network namespace has the table of rules.
func Present() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	return tableExists(c)
}
