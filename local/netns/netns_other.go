//go:build !linux

package netns

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/weirmesh/weir/internal/sockbroker"
)

var errLinux = errors.New("network namespaces exist on Linux only; use --capture=env")

// Probe answers no: there are no namespaces here.
func Probe(context.Context, ...string) (ok bool, reason string) { return false, errLinux.Error() }

// Start is for Linux.
func Start(context.Context, Options) (*Tree, error) { return nil, errLinux }

// RunInit is for Linux.
func RunInit(InitOptions, func(context.Context, *Fabric) error) error { return errLinux }

// OpenPTY is for Linux.
func OpenPTY() (controller, terminal *os.File, err error) { return nil, nil, errLinux }

// Tree is never made here.
type Tree struct{ Control *net.UnixConn }

func (*Tree) Wait() error { return errLinux }

// Fabric is never made here.
type Fabric struct {
	Control *net.UnixConn
	Host    *sockbroker.Client
	Files   []*os.File
	Network Network
}

func (*Fabric) AddPod(PodConfig) (*Pod, error)  { return nil, errLinux }
func (*Fabric) Start(Command) (*Process, error) { return nil, errLinux }

// Pod is never made here.
type Pod struct{}

func (*Pod) Do(func() error) error           { return errLinux }
func (*Pod) Broker() (*os.File, error)       { return nil, errLinux }
func (*Pod) Start(Command) (*Process, error) { return nil, errLinux }
func (*Pod) Close()                          {}

// Process is never made here.
type Process struct{}

func (*Process) PID() int                    { return 0 }
func (*Process) Done() <-chan struct{}       { return nil }
func (*Process) Wait() syscall.WaitStatus    { return 0 }
func (*Process) Signal(syscall.Signal) error { return errLinux }
