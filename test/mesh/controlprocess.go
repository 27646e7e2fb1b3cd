package mesh

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// ControlBinary has the next control plane be a weir-control with further flags, a process of its own, over the same folders; without
// any it runs in this process again.
func (m *Mesh) ControlBinary(argv ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.binary = argv
}

// controlProcess starts one, with the flags that come to what TryControl gives.
func (m *Mesh) controlProcess(argv []string) error {
	http, err := net.Listen("tcp", "127.0.0.1:0") // a port that nobody has
	if err != nil {
		return err
	}
	address := http.Addr().String()
	if err := errors.Join(http.Close(), os.WriteFile(m.path("state", "token"), []byte(apiToken), 0o600)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, argv[0], append([]string{"--state", m.path("state"), "-f", m.path("config"), "--pods", m.path("pods"), "--http", address,
		"--grpc", "", "--grpc-unix", m.path("xds.sock"), "--access-log"}, argv[1:]...)...)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = patience
	c.Stdout, c.Stderr = m.logs, m.logs
	if err := c.Start(); err != nil {
		cancel()
		return err
	}
	pl := &plane{cancel: cancel, done: make(chan struct{}), cut: func() { _ = c.Process.Kill() }}
	go func() {
		defer close(pl.done)
		if pl.err = c.Wait(); errors.Is(pl.err, context.Canceled) {
			pl.err = nil // it was asked to end, and did
		}
	}()
	m.await(pl, address)
	return nil
}
