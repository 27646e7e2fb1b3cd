package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/weirmesh/weir/identity"
)

// process starts a sidecar as a program of its own, with the flags that come to what
// options gives.
func (w *Workload) process() (*running, error) {
	m := w.mesh
	id, err := identity.New(trustDomain, w.Namespace, w.ServiceAccount)
	if err != nil {
		return nil, err
	}
	given, err := m.token(id, w.Name)
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	_, err = write.WriteString(given.Reveal())
	if err = errors.Join(err, write.Close()); err != nil {
		return nil, err
	}
	args := []string{"sidecar", "--name", w.Name, "--namespace", w.Namespace, "--service-account", w.ServiceAccount, "--ip", w.IP().String(),
		"--owner", w.Owner, "--xds", m.target(), "--ca-root", m.path("state", "ca", "root-cert.pem"), "--token-fd", "3",
		"--state", m.path("proxies", w.Namespace+"_"+w.Name), "--admin", "unix://" + w.admin, "--capture", "none",
		"--virtual-net", fmt.Sprintf("127.%d", w.net), "--drain", "2s"}
	var labels []string
	for k, v := range w.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	args = append(args, "--labels", strings.Join(labels, ","))
	for _, p := range w.Ports {
		args = append(args, "--inbound", fmt.Sprintf("%d=%v->%v", p.Number, w.inbound(p.Number), w.App(p.Number)))
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, w.Binary, args...)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = patience
	c.ExtraFiles = []*os.File{read}
	c.Stdout, c.Stderr = &w.log, &w.log
	if w.Command != nil {
		w.Command(c)
	}
	if err := c.Start(); err != nil {
		cancel()
		return nil, err
	}
	r := &running{cancel: cancel, done: make(chan struct{}), ready: func() error {
		if a := w.Admin(http.MethodGet, "/healthz/ready"); a.Err != nil || a.Status != http.StatusOK {
			return fmt.Errorf("it answers %v", a)
		}
		return nil
	}}
	go func() {
		defer close(r.done)
		if r.err = c.Wait(); errors.Is(r.err, context.Canceled) {
			r.err = nil // it was asked to end, and did
		}
	}()
	return r, nil
}
