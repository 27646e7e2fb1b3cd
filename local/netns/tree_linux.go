package netns

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/internal/sockbroker"
)

// Descriptors of init. What follows them is Options.Files.
const (
	guardFD = 3 + iota
	controlFD
	brokerFD
	filesFD
)

// setupTimeout bounds the way from clone to a ready fabric, which takes about 50 ms.
const setupTimeout = 10 * time.Second

// spec is the first message over the guard, from top to init.
type spec struct {
	Privileged bool // no user namespace was needed
	UID, GID   int  // of top
	Files      int
	Probe      bool // build a fabric and a pod, report, end
}

// outcome is the answer to it, from init to top. No further message follows.
type outcome struct {
	Error  string
	Denied bool
}

// Tree is a running namespace tree, seen from the process that started it.
type Tree struct {
	// Control is a connection to init's Fabric.Control, for the caller's own messages.
	Control *net.UnixConn

	guard  *net.UnixConn
	broker *sockbroker.Server
	ended  chan struct{}
	err    error // of init, once ended
}

// Start starts the tree and returns when its fabric is ready. The end of ctx ends it: by
// SIGTERM, which ends the context that RunInit gave its body, and after Options.Grace by
// SIGKILL.
func Start(ctx context.Context, o Options) (*Tree, error) { return start(ctx, o, false) }

// Probe finds out whether Start would succeed, by doing what it does: it starts a tree,
// gives it a pod with rules, and ends it. If not ok, reason is a phrase that says what
// failed and, where known, why. args are those of Options.
func Probe(ctx context.Context, args ...string) (ok bool, reason string) {
	t, err := start(ctx, Options{Args: args}, true)
	if err == nil {
		err = t.Wait()
	}
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}

func start(ctx context.Context, o Options, probe bool) (_ *Tree, err error) {
	s := spec{Privileged: privileged(), UID: os.Geteuid(), GID: os.Getegid(), Files: len(o.Files), Probe: probe}
	t := &Tree{broker: &sockbroker.Server{Allow: o.AllowListen}, ended: make(chan struct{})}
	started := false
	defer func() {
		if err != nil && !started {
			t.close()
		}
	}()
	var theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	if t.guard, theirs[0], err = socketPair(unix.SOCK_SEQPACKET); err != nil {
		return nil, err
	}
	if t.Control, theirs[1], err = socketPair(unix.SOCK_STREAM); err != nil {
		return nil, err
	}
	if theirs[2], err = t.broker.Connect(sockbroker.MayListen | sockbroker.MayFork); err != nil {
		return nil, err
	}

	// The first process of a new PID namespace has no /proc of its own yet, but this path
	// is resolved in the one it still shares with top.
	cmd := exec.CommandContext(ctx, "/proc/self/exe", o.Args...)
	cmd.Args[0] = os.Args[0]
	if o.Stdout != nil {
		cmd.Stdout = o.Stdout
	}
	if o.Stderr != nil {
		cmd.Stderr = o.Stderr
	}
	cmd.ExtraFiles = append(theirs[:], o.Files...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = cmp.Or(o.Grace, 2*time.Second)
	cmd.SysProcAttr = s.attributes()

	startErr, shaken := make(chan error), make(chan struct{})
	go func() {
		// The parent death signal comes when this thread ends, not when the process does.
		runtime.LockOSThread()
		err := cmd.Start()
		startErr <- err
		if err != nil {
			return
		}
		if t.err = cmd.Wait(); ctx.Err() != nil && errors.Is(t.err, ctx.Err()) {
			t.err = nil // ended as asked
		}
		<-shaken // init may have ended since its last word, which is not read yet
		t.close()
		close(t.ended)
	}()
	if err := <-startErr; err != nil {
		if path := (*os.PathError)(nil); errors.As(err, &path) {
			err = path.Err // the path is this program's own
		}
		return nil, fmt.Errorf("starting a process in new namespaces: %w%s", err, hint(denied(err)))
	}
	started = true
	for i, f := range theirs { // so that the guard reads as closed when init is gone
		f.Close()
		theirs[i] = nil
	}
	err = t.handshake(s)
	close(shaken)
	if err != nil {
		_ = cmd.Process.Kill()
		<-t.ended
		return nil, err
	}
	return t, nil
}

// attributes are those of init. It gets a session of its own: the terminal's Ctrl-C is
// top's to handle, and must not reach everything in the tree at once.
func (s spec) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     true,
	}
	if !s.Privileged {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: s.UID, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: s.GID, Size: 1}}
	}
	return a
}

func (t *Tree) handshake(s spec) error {
	if err := t.guard.SetDeadline(time.Now().Add(setupTimeout)); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if _, err := t.guard.Write(b); err != nil {
		return fmt.Errorf("the new namespaces' first process is gone: %w", err)
	}
	b = make([]byte, 4096)
	n, err := t.guard.Read(b)
	if err != nil {
		return fmt.Errorf("no word from the new namespaces' first process: %w", err)
	}
	var out outcome
	if err := json.Unmarshal(b[:n], &out); err != nil {
		return fmt.Errorf("report of the new namespaces' first process: %w", err)
	}
	if out.Error != "" {
		return errors.New(out.Error + hint(out.Denied))
	}
	return nil
}

// Wait returns when the tree has ended; nil if init ended well or the context of Start
// ended it. It may be called more than once.
func (t *Tree) Wait() error {
	<-t.ended
	return t.err
}

// close frees top's side.
func (t *Tree) close() {
	for _, c := range []*net.UnixConn{t.guard, t.Control} {
		if c != nil {
			c.Close()
		}
	}
	t.broker.Close()
}

// privileged reports whether namespaces can be made without a user namespace. Root in a
// container usually cannot.
func privileged() bool {
	if os.Geteuid() != 0 {
		return false
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN // both among the first 32
	return d[0].Effective&need == need
}

// denied reports whether err is how the kernel refuses namespaces: ENOSPC is a limit of 0.
func denied(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC)
}

// hint says why namespaces are denied, as far as the kernel's settings tell. The settings
// explain only; whether it works is found out by trying.
func hint(denied bool) string {
	if !denied {
		return ""
	}
	root := os.Geteuid() == 0
	for _, s := range []struct {
		file, denies string
		root         bool // too
	}{
		{"kernel/apparmor_restrict_unprivileged_userns", "1", false},
		{"kernel/unprivileged_userns_clone", "0", false},
		{"user/max_user_namespaces", "0", true},
	} {
		b, err := os.ReadFile("/proc/sys/" + s.file)
		if err != nil || strings.TrimSpace(string(b)) != s.denies || root && !s.root {
			continue
		}
		name := strings.ReplaceAll(s.file, "/", ".")
		if root {
			return fmt.Sprintf(" (%s is %s)", name, s.denies)
		}
		return fmt.Sprintf(" (%s is %s: try as root)", name, s.denies)
	}
	return " (a container's seccomp profile can be the reason)"
}

// socketPair returns top's end as a connection and init's as a file.
func socketPair(typ int) (mine *net.UnixConn, theirs *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs = os.NewFile(uintptr(p[1]), "socketpair")
	if mine, err = unixConn(p[0], "socketpair"); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return mine, theirs, nil
}

// unixConn takes fd over.
func unixConn(fd int, name string) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return nil, fmt.Errorf("%s: no descriptor", name)
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%s: not a Unix socket", name)
	}
	return u, nil
}
