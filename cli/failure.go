package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"syscall"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/cli/forward"
	"github.com/weirmesh/weir/internal/kubeconfig"
	"github.com/weirmesh/weir/local/up"
	"github.com/weirmesh/weir/local/upsock"
)

const (
	exitNo    = 1 // the answer is no, or it could not be found out
	exitUsage = 2
)

// failure is an error with what to do about it. Without err it is only an exit status:
// everything was said.
type failure struct {
	err  error
	hint string
	exit int // 0 is exitNo
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit status %d", f.exit)
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

func hinted(hint, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), hint: hint}
}

func usage(hint, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), hint: hint, exit: exitUsage}
}

// silent ends with an exit status and without a word.
func silent(exit int) error { return &failure{exit: exit} }

// fail tells what went wrong and returns the exit status.
func (a *app) fail(err error) int {
	f := a.judge(err)
	if f.err != nil {
		a.errs.printf("%s %s\n", a.errs.paint(red, "error:"), clean(f.err.Error()))
		if f.hint != "" {
			a.errs.printf(" %s %s\n", a.errs.paint(cyan, "hint:"), clean(f.hint))
		}
	}
	if f.exit == 0 {
		return exitNo
	}
	return f.exit
}

// judge finds the remedy for errors that come from below.
func (a *app) judge(err error) *failure {
	var f *failure
	var refused *client.Error
	var runtime *upsock.Error
	var inCluster *kubeconfig.Error
	var starting *up.Error
	var missing *forward.Missing
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &missing) && missing.Outside != "":
		return &failure{err: missing, hint: "name its API: --api HOST:15014, where weir-control was given --http; by default it listens on the machine's own loopback, so run the command there"}
	case errors.As(err, &missing) && len(missing.Pods) > 0:
		return &failure{err: missing, hint: "`kubectl -n " + missing.Namespace + " describe pod " + missing.Pods[0] + "` says what it waits for"}
	case errors.As(err, &missing) && missing.Deployment != "":
		return &failure{err: missing, hint: "`kubectl -n " + missing.Namespace + " describe deployment " + missing.Deployment + "` says whether any are wanted, and why they cannot be made"}
	case errors.As(err, &missing):
		hint := "`weir install` installs it; --istioNamespace names another namespace"
		if a.meant.Kubeconfig == "" && a.meant.Context == "" {
			hint += ". Without a mesh on this machine (`weir up`) the cluster of the kubeconfig is meant"
		}
		return &failure{err: missing, hint: hint}
	case errors.As(err, &refused):
		f = &failure{err: err, hint: refused.Hint}
		if a.cluster == nil && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden) {
			f.hint = "the token in " + a.state + " must be that of the mesh: name its folder with --state"
		}
		return f
	case errors.As(err, &inCluster):
		return &failure{err: err, hint: inCluster.Hint}
	case errors.As(err, &runtime):
		return &failure{err: err, hint: runtime.Hint}
	case errors.As(err, &starting):
		return &failure{err: err, hint: starting.Hint}
	case a.cluster != nil:
		return &failure{err: err, hint: "the cluster is " + a.cluster.Server() + ": `kubectl cluster-info` shows whether it answers; --context names another"}
	case errors.Is(err, client.ErrNoMesh):
		return a.noMesh()
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT):
		held, _ := client.Held(a.state)
		switch {
		case held:
			return &failure{err: err, hint: "the mesh runs; its control plane is starting or was ended: `weir logs weir-control`"}
		case a.api != "":
			return &failure{err: err, hint: "is it running there?"}
		}
		return a.noMesh()
	case errors.Is(err, fs.ErrPermission):
		return &failure{err: err, hint: "was the mesh started by another user (sudo)? Then use this command in the same way"}
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{err: err, hint: "`weir logs weir-control` may say why"}
	}
	return &failure{err: err}
}

func (a *app) noMesh() *failure {
	return &failure{err: fmt.Errorf("%w here (%s)", client.ErrNoMesh, a.state), hint: "start one with `weir up`, or name its folder with --state"}
}
