package pod

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/mesh"
)

// fake is a Sandbox in the virtual time of testing/synctest, and the record of what
// happened.
//
// Proxies are ready 50 ms after their start and end 20 ms after SIGTERM; programs listen
// after 100 ms and end 10 ms after SIGTERM. The words of a program's argv change that:
// deaf (listens nowhere), partly (only on its first port), stubborn (ignores SIGTERM),
// short (succeeds after 200 ms), fails (fails after 200 ms), missing (cannot be started).
type fake struct {
	dir   string
	began time.Time

	mu        sync.Mutex
	events    []string
	next      byte
	processes []*fakeProcess
	slow      bool // proxies take no changes
	deaf      bool // the control plane cannot be asked
	broken    bool // places cannot be made
	hung      bool // proxies answer nothing
}

func (f *fake) log(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, fmt.Sprintf("%6d ms  ", time.Since(f.began).Milliseconds())+fmt.Sprintf(format, args...))
}

// aPod finds the pod an event is about.
var aPod = regexp.MustCompile(`[a-z]+-[0-9]+`)

// take returns the events since the last call, times from now on beginning at 0. What
// happened to different pods at one moment has no order.
func (f *fake) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortStableFunc(f.events, func(a, b string) int {
		return cmp.Or(strings.Compare(a[:9], b[:9]), strings.Compare(aPod.FindString(a), aPod.FindString(b)))
	})
	out := strings.Join(f.events, "\n")
	f.events, f.began = nil, time.Now()
	return out
}

// Write takes what is shown at the terminal.
func (f *fake) say(text string) { f.log("say: %s", text) }

func (f *fake) settled(ctx context.Context, w mesh.Key, h Health) error {
	f.mu.Lock()
	slow, deaf := f.slow, f.deaf
	f.mu.Unlock()
	if deaf {
		return syscall.ECONNREFUSED
	}
	if slow {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(30 * time.Millisecond)
	f.log("every proxy knows %s is %s", w, h)
	return nil
}

func (f *fake) Add(_ context.Context, s Spec) (Place, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return nil, errors.New("no room")
	}
	f.next++
	return &fakePlace{f: f, spec: s, ip: netip.AddrFrom4([4]byte{10, 244, 0, f.next})}, nil
}

// watchFiles logs every change of a Pod file, looking in between the milliseconds in
// which other things happen.
func (f *fake) watchFiles(ctx context.Context) {
	seen, said := map[string]string{}, map[string]string{}
	time.Sleep(500 * time.Microsecond)
	for ctx.Err() == nil {
		now := map[string]string{}
		entries, _ := os.ReadDir(f.dir)
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), ".yaml")
			b, err := os.ReadFile(filepath.Join(f.dir, e.Name()))
			if !ok || err != nil {
				continue
			}
			if now[name] = string(b); now[name] == seen[name] {
				continue
			}
			if s := summary(b); s != said[name] {
				said[name] = s
				f.log("file %s: %s", name, s)
			}
		}
		for name := range seen {
			if _, ok := now[name]; !ok {
				f.log("file %s: removed", name)
				delete(said, name)
			}
		}
		seen = now
		time.Sleep(time.Millisecond)
	}
}

func summary(b []byte) string {
	var p corev1.Pod
	if err := yaml.UnmarshalStrict(b, &p); err != nil {
		return err.Error()
	}
	out := string(p.Status.Phase) + " not ready"
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			out = string(p.Status.Phase) + " ready"
		}
	}
	if p.DeletionTimestamp != nil {
		out += ", being deleted"
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.RestartCount > 0 {
			out += fmt.Sprintf(", %d restarts", s.RestartCount)
		}
		if w := s.State.Waiting; w != nil {
			out += ", " + w.Reason
		}
	}
	return out
}

type fakePlace struct {
	f    *fake
	spec Spec
	ip   netip.Addr

	mu      sync.Mutex
	proxy   *fakeProcess
	program *fakeProcess
}

func (p *fakePlace) IP() netip.Addr { return p.ip }
func (p *fakePlace) Annotations() map[string]string {
	return map[string]string{"weir.dev/admin": "unix:///x"}
}
func (p *fakePlace) ServiceAt(*mesh.Service) []netip.AddrPort { return nil }
func (p *fakePlace) Variables(plan.Container) []string        { return nil }
func (p *fakePlace) Listening(int) []netip.AddrPort {
	return []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:7777")}
}
func (p *fakePlace) Close() { p.f.log("%s: place closed", p.spec.Name) }
func (p *fakePlace) StartProxy() (supervise.Process, error) {
	proc := p.f.start(p.spec.Name+" proxy", 20*time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy = proc
	return proc, nil
}

func (p *fakePlace) ProxyReady(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.f.mu.Lock()
	hung := p.f.hung
	p.f.mu.Unlock()
	switch {
	case hung:
		return errors.New("hung")
	case p.proxy == nil || time.Since(p.proxy.started) < 50*time.Millisecond:
		return errors.New("no certificate yet")
	}
	return nil
}

func (p *fakePlace) Start(c Command) (supervise.Process, error) {
	if slices.Contains(c.Argv, "missing") {
		return nil, errors.New("no such program")
	}
	ends := 10 * time.Millisecond
	if slices.Contains(c.Argv, "stubborn") {
		ends = -1
	}
	proc := p.f.start(p.spec.Name+" "+strings.Join(c.Argv, " "), ends)
	if slices.Contains(c.Argv, "short") {
		proc.end(200*time.Millisecond, nil)
	}
	if slices.Contains(c.Argv, "fails") {
		proc.end(200*time.Millisecond, errors.New("exit status 1"))
	}
	proc.deaf = slices.Contains(c.Argv, "deaf")
	proc.partly = slices.Contains(c.Argv, "partly")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.program = proc
	return proc, nil
}

func (p *fakePlace) Dial(_ context.Context, port uint16) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.program == nil || p.program.deaf || p.program.partly && port%10 != 0 || time.Since(p.program.started) < 100*time.Millisecond {
		return nil, syscall.ECONNREFUSED
	}
	a, b := net.Pipe()
	b.Close()
	return a, nil
}

type fakeProcess struct {
	f            *fake
	name         string
	pid          int
	started      time.Time
	ends         time.Duration // after SIGTERM; negative: never
	deaf, partly bool
	done         chan error
}

func (f *fake) start(name string, ends time.Duration) *fakeProcess {
	f.log("%s: started", name)
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &fakeProcess{f: f, name: name, pid: 100 + len(f.processes), started: time.Now(), ends: ends, done: make(chan error, 9)}
	f.processes = append(f.processes, p)
	return p
}

func (p *fakeProcess) end(after time.Duration, err error) {
	time.AfterFunc(after, func() {
		select {
		case p.done <- err:
		default:
		}
	})
}

func (p *fakeProcess) Pid() int { return p.pid }
func (p *fakeProcess) Wait() error {
	err := <-p.done
	p.f.log("%s: ended (%v)", p.name, err)
	return err
}

func (p *fakeProcess) Signal(s os.Signal) error {
	p.f.log("%s: %v", p.name, s)
	switch {
	case s == syscall.SIGKILL:
		p.end(0, errors.New("signal: killed"))
	case s == syscall.SIGTERM && p.ends >= 0:
		p.end(p.ends, errors.New("signal: terminated"))
	}
	return nil
}

// crash ends the youngest process of that name.
func (f *fake) crash(name string, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range slices.Backward(f.processes) {
		if p.name == name {
			p.end(0, err)
			return true
		}
	}
	return false
}

func (f *fake) runtime() *Runtime {
	return New(Options{
		Sandbox: f, Dir: f.dir, Settled: f.settled, Namespace: "default", Logs: supervise.NewLogs(&bytes.Buffer{}, false),
		Say: f.say, Log: slog.New(slog.DiscardHandler),
	})
}
