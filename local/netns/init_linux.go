package netns

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/internal/sockbroker"
)

// RunInit is the first process of a tree. The program calls it when it finds the
// arguments of Options.Args, and exits when it returns. It builds the fabric, reports to
// Start, and runs body; what the caller needs comes with the Fabric. The context that
// body gets ends on SIGTERM and SIGINT. When body returns, every process of the tree is
// asked to end, and after Grace killed.
//
// A failure before body runs is reported to Start and not returned.
func RunInit(o InitOptions, body func(context.Context, *Fabric) error) error {
	guard, err := unixConn(guardFD, "guard")
	if err != nil {
		return fmt.Errorf("not started as the first process of a namespace tree: %w", err)
	}
	f, probe, err := newFabric(guard, o)
	if err == nil && probe {
		err = f.probe()
	}
	var out outcome
	if err != nil {
		out = outcome{Error: err.Error(), Denied: denied(err)}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	if _, err := guard.Write(b); err != nil {
		return fmt.Errorf("reporting to the starting process: %w", err)
	}
	if out.Error != "" || probe {
		return nil
	}

	go func() {
		// Top never writes again: this returns when top is dead.
		_, _ = guard.Read(make([]byte, 1))
		syscall.Exit(1) // and the kernel kills everything else
	}()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	err = body(ctx, f)
	f.processes.end(cmp.Or(o.Grace, time.Second))
	return err
}

// Fabric is a running tree, seen from init: the network that pods are attached to. Its
// methods are safe for concurrent use.
type Fabric struct {
	// Control is the connection to top's Tree.Control.
	Control *net.UnixConn
	// Host hands out sockets of the host's network namespace.
	Host *sockbroker.Client
	// Files are top's Options.Files.
	Files []*os.File
	// Network is the address plan; Gateway6 is zero if the kernel has no IPv6.
	Network Network

	log       *slog.Logger
	bridge    int // its interface index
	nsswitch  string
	ids       idMapping
	processes *processes
	pods      podTable
}

func newFabric(guard *net.UnixConn, o InitOptions) (f *Fabric, probe bool, err error) {
	if os.Getpid() != 1 {
		return nil, false, fmt.Errorf("process %d is not the first of its PID namespace", os.Getpid())
	}
	if err := guard.SetReadDeadline(time.Now().Add(setupTimeout)); err != nil {
		return nil, false, err
	}
	b := make([]byte, 4096)
	n, err := guard.Read(b)
	if err != nil {
		return nil, false, fmt.Errorf("reading what to start: %w", err)
	}
	if err := guard.SetReadDeadline(time.Time{}); err != nil {
		return nil, false, err
	}
	var s spec
	if err := json.Unmarshal(b[:n], &s); err != nil {
		return nil, false, fmt.Errorf("reading what to start: %w", err)
	}

	f = &Fabric{Network: o.Network, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler))}
	if f.Control, err = unixConn(controlFD, "control"); err != nil {
		return nil, false, err
	}
	if f.Host, err = sockbroker.NewClient(os.NewFile(brokerFD, "broker")); err != nil {
		return nil, false, err
	}
	for i := range s.Files {
		unix.CloseOnExec(filesFD + i)
		f.Files = append(f.Files, os.NewFile(uintptr(filesFD+i), "inherited "+strconv.Itoa(i)))
	}
	if err := privateMounts(); err != nil {
		return nil, false, err
	}
	conf, err := os.ReadFile("/etc/nsswitch.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	f.nsswitch = NSSwitch(string(conf))
	if f.ids, err = mappings(s, o.User); err != nil {
		return nil, false, err
	}
	if f.processes, err = newProcesses(); err != nil {
		return nil, false, err
	}
	if err := f.buildNetwork(); err != nil {
		return nil, false, err
	}
	return f, s.Probe, nil
}

// probe does what else a mesh will need.
func (f *Fabric) probe() error {
	p, err := f.AddPod(PodConfig{
		Name:  "probe",
		IPv4:  f.Network.Gateway4.Addr().Next(),
		Rules: capture.Default(),
	})
	if err != nil {
		return err
	}
	defer p.Close()
	// Everything of a start but the program, which does not exist.
	_, err = p.Start(Command{Argv: []string{"/proc/self/no such program"}})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = errno // that program's name would only confuse
	}
	return fmt.Errorf("starting a process in a user namespace of its own: %w", err)
}

// privateMounts cuts the mount namespace off from the host's and gives it the /proc of
// the PID namespace, without which /proc/self means nothing here.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting a private /proc: %w", err)
	}
	return nil
}

// idMapping is the user namespace of the tree's processes.
type idMapping struct {
	uid, gid   []syscall.SysProcIDMap
	setgroups  bool
	credential *syscall.Credential // to become once mapped; nil: stay
}

// mappings gives processes the user's own ids. Root's tree maps every id to itself, so
// that files look as outside; what is taken away are the capabilities.
func mappings(s spec, user *User) (idMapping, error) {
	if !s.Privileged {
		return idMapping{
			uid: []syscall.SysProcIDMap{{ContainerID: s.UID, HostID: 0, Size: 1}},
			gid: []syscall.SysProcIDMap{{ContainerID: s.GID, HostID: 0, Size: 1}},
		}, nil
	}
	// A namespace may not allow what the one around it denies.
	allowed, err := os.ReadFile("/proc/self/setgroups")
	if err != nil {
		return idMapping{}, err
	}
	m := idMapping{setgroups: strings.TrimSpace(string(allowed)) == "allow"}
	if m.uid, err = identity("/proc/self/uid_map"); err != nil {
		return m, err
	}
	if m.gid, err = identity("/proc/self/gid_map"); err != nil {
		return m, err
	}
	if user != nil {
		m.credential = &syscall.Credential{Uid: user.UID, Gid: user.GID, NoSetGroups: !m.setgroups}
	}
	return m, nil
}

// identity maps the ids that exist here to themselves. A line of a map file has the first
// id inside, the first outside and how many (user_namespaces(7)).
func identity(file string) (out []syscall.SysProcIDMap, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, size int
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", file, line, err)
		}
		out = append(out, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: size})
	}
	return out, nil
}
