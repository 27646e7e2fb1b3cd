// Package up is `weir up`: it runs a mesh on this machine and everything in it.
//
// Options enter, a Report leaves when the mesh is up, and Run returns when it has ended
// and nothing of it is left. There are one or two processes of ours: Run is the one the
// user started (top). It holds the state folder's lock, keeps weir-control, listens on
// the local API and talks to the user. The pods are kept by inside, which with network
// namespaces is the first process of the tree (RunInit) and otherwise part of Run. They
// share the state folder (docs/design/local.md) and a link.
//
// One Run per state folder; several on different folders may run in one process, if they
// have different addresses.
package up

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/local/process"
	"github.com/weirmesh/weir/local/sandbox"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/local/upsock"
)

// Options of a mesh.
type Options struct {
	State   string   // the state folder
	Paths   []string // files and folders with configuration; "-" is Stdin
	Demo    string   // name of a demo to run, too
	Capture Capture
	// OneAddress makes env capture use no loopback address but 127.0.0.1, as on a Mac.
	OneAddress bool
	HTTP       netip.AddrPort // where the control plane's API is
	Ingress    netip.AddrPort // where port 8080 of the ingress gateway is
	Namespace  string         // of objects that name none
	Compatible string         // compatibility version; "" is Weir's own
	LogProxy   bool           // show what proxies print
	Color      bool           // in logs
	// Binaries is the folder looked into for weir-control, weir-proxy and weir-sample
	// before PATH.
	Binaries string
	// InitArgs are the arguments that make this program call RunInit.
	InitArgs []string
	Environ  []string
	Stdin    *os.File
	// Logs takes what the workloads print, after Started returned.
	Logs *os.File
	// Progress is told what is being waited for, Started that the mesh is up.
	Progress func(string)
	Started  func(*Report)
}

// Capture is how traffic gets into the proxies.
type Capture string

// The ways of capture.
const (
	CaptureAuto  Capture = "auto"
	CaptureNetns Capture = "netns"
	CaptureEnv   Capture = "env"
)

// Error is a failure that the user can do something about.
type Error struct{ Message, Hint string }

func (e *Error) Error() string { return e.Message }

// TrustDomain is that of every mesh on a laptop.
const trustDomain = "cluster.local"

// Virtual addresses of services, as the control plane gives them (registry.Ranges).
var virtualRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("240.240.0.0/16")}

// Run runs a mesh until ctx ends or something it cannot do without fails.
func Run(ctx context.Context, o Options) error {
	t := &top{o: o}
	defer t.close()
	for _, step := range []func(context.Context) error{
		t.folder,       // make the state folder, its lock and its token
		t.programsFind, // weir-control, weir-proxy
		t.cleanUp,      // what a mesh that was killed left there
		t.addresses,    // nobody else has them
		t.files,        // fill run/ with configuration of our own
		t.capture,      // namespaces or not
		t.control,      // start the control plane and wait for it
		t.inside,       // start the pods
	} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // asked to end while starting
			}
			return err
		}
	}
	return t.serve(ctx)
}

// top is one Run.
type top struct {
	o        Options
	layout   sandbox.Layout
	lock     *os.File
	programs struct{ control, proxy string }
	paths    []string // of configuration, for control plane and pods alike
	watched  []string // the same as the user named it
	mode     Capture
	why      string
	starter  *process.Starter
	link     link
	// controlLog is what the control plane prints: its end is in controlWrite.
	controlLog, controlWrite *os.File
	endControl               func() error
	controlState             chan supervise.State
}

func (t *top) progress(format string, args ...any) {
	if t.o.Progress != nil {
		t.o.Progress(fmt.Sprintf(format, args...))
	}
}

// programsFind finds what is to be run.
func (t *top) programsFind(context.Context) error {
	for _, p := range []struct {
		name string
		path *string
	}{{"weir-control", &t.programs.control}, {"weir-proxy", &t.programs.proxy}} {
		path, err := process.LookPath(p.name, []string{"PATH=" + t.searchPath(t.o.Binaries, "")})
		if err != nil {
			return &Error{fmt.Sprintf("the program %s is neither in %s, beside weir, nor in PATH", p.name, t.o.Binaries), "install all of weir's programs together (`make build` puts them into bin)"}
		}
		*p.path = path
	}
	return nil
}

// searchPath is PATH with folders before and after.
func (t *top) searchPath(before, after string) string {
	parts := []string{before, variable(t.o.Environ, "PATH"), after}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), string(filepath.ListSeparator))
}

func variable(env []string, name string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// passed are the variables of the user's that programs get. All others a Deployment must
// give itself, as in a cluster: what runs here should run there.
var passed = []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "COLORTERM",
	"JAVA_HOME", "GOPATH", "GOROOT", "GOCACHE", "GOMODCACHE", "VIRTUAL_ENV", "NVM_DIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}

// environ is what every program gets. weir-sample is found last, beside weir.
func (t *top) environ() []string {
	out := []string{"PATH=" + t.searchPath("", t.o.Binaries)}
	for _, e := range t.o.Environ {
		name, _, _ := strings.Cut(e, "=")
		if name != "PATH" && (slices.Contains(passed, name) || strings.HasPrefix(name, "LC_")) {
			out = append(out, e)
		}
	}
	return out
}

// inside starts the pods.
func (t *top) inside(ctx context.Context) error {
	task := t.task()
	var err error
	if t.mode == CaptureNetns {
		t.link, err = startTree(ctx, task, t.o, t.controlLog)
	} else {
		t.link, err = startHere(ctx, task, t.o, t.controlLog, t.starter)
	}
	if err != nil {
		return err
	}
	t.controlLog = nil // theirs now
	return nil
}

func (t *top) task() task {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	return task{
		Layout: t.layout, Paths: t.paths, Namespace: t.o.Namespace, API: reached(t.o.HTTP), Proxy: t.programs.proxy, Ingress: t.o.Ingress,
		Environ: t.environ(), Resolvers: resolvers("/etc/resolv.conf"), LogProxy: t.o.LogProxy, Color: t.o.Color, Loopback: t.mode == CaptureEnv, Shape: t.shape(), Dir: dir,
	}
}

func (t *top) shape() sandbox.Shape {
	s := sandbox.ShapeHere()
	s.OneAddress = s.OneAddress || t.o.OneAddress
	return s
}

// endTime is how long the pods have to end: their own 1 s and a margin. The rest of the
// 2 s is the control plane's.
const endTime = 1500 * time.Millisecond

// serve runs until ctx ends, or the pods or the local API do.
func (t *top) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	apiDone := make(chan struct{})
	go func() {
		defer close(apiDone)
		if err := upsock.Listen(ctx, t.layout.Up(), t.link.Connect); err != nil {
			cancel(err)
		}
	}()
	insideDone := make(chan error, 1)
	go func() {
		insideDone <- t.link.Wait()
		cancel(nil)
	}()
	go t.watchControl(ctx)
	go func() {
		r, err := t.link.Started(ctx)
		if err != nil {
			return // it has ended: Wait says why
		}
		t.complete(r)
		if t.o.Started != nil {
			t.o.Started(r)
		}
		t.link.Show()
	}()

	<-ctx.Done()
	t.link.End()
	var err error
	select {
	case err = <-insideDone:
	case <-time.After(endTime): // close kills them
	}
	<-apiDone
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// watchControl tells when the control plane ends and comes back.
func (t *top) watchControl(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-t.controlState:
			if s.Phase == supervise.BackingOff && ctx.Err() == nil {
				t.link.Say(fmt.Sprintf("the control plane %s, started again in %v; traffic goes on as configured (`weir logs weir-control`)", s.Last, time.Until(s.Retry).Round(time.Millisecond)))
			}
		}
	}
}

// close undoes what the steps did.
func (t *top) close() {
	if t.link != nil {
		t.link.Close()
	}
	if t.endControl != nil {
		_ = t.endControl()
	}
	for _, f := range []*os.File{t.controlLog, t.controlWrite} {
		if f != nil {
			f.Close()
		}
	}
	if t.lock != nil {
		_ = os.RemoveAll(t.layout.Run()) // the next start does it otherwise
		unlock(t.lock)
	}
}
