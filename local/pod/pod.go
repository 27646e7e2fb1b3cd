package pod

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/mesh"
)

const (
	// settleTime bounds how long a change of a pod's readiness may take to every proxy.
	// A change is live within 300 ms; a proxy that is slower is stuck, and waiting for it
	// would not help those it serves.
	settleTime = time.Second
	// proxyGrace is how long a proxy may take to end: its own 5 s for requests under way
	// and a margin. Without any it takes one.
	proxyGrace = 6 * time.Second
	// hurry replaces the grace periods when the whole mesh ends: together less than the
	// 2 s after which a person presses Ctrl-C again.
	hurry      = 700 * time.Millisecond
	hurryProxy = 300 * time.Millisecond
	// placeRetry is the pause before a place is asked for again.
	placeRetry = time.Second
)

// pod is one pod from its start to its end, driven by one goroutine (run).
type pod struct {
	rt       *Runtime
	name     string
	ordinal  int
	hash     string
	template *plan.Template
	services func(at func(*mesh.Service) []netip.AddrPort) []plan.ServiceAddress
	host     func(name string) *mesh.Service
	join     *Joined // nil: belongs to a group
	created  time.Time

	stop    context.CancelFunc
	stopped func() bool   // stop was called
	done    chan struct{} // run has returned
	kick    chan struct{} // something to check again

	// The goroutine of run has these for itself.
	proxyBad int                // failures of the proxy's readiness in a row
	unsettle context.CancelFunc // the pod is not ready any more
	settling sync.WaitGroup

	mu       sync.Mutex
	place    Place
	proxy    supervise.State
	proxyRun supervise.Process
	init     []*program
	programs []*program
	ready    bool // as the Pod file says
	settled  bool // ready, and every proxy knows
	stopping bool
	message  string
	written  *corev1.Pod // in its file
}

// program is a container's program.
type program struct {
	plan.Program
	state    supervise.State
	process  supervise.Process
	started  time.Time
	accepted map[uint16]bool // ports that took a connection since it was started
	probe    probeState
	complain bool // was told that it listens nowhere
	told     bool // was told where it must listen
}

func (p *pod) key() mesh.Key { return mesh.NewKey(p.template.Namespace, p.name) }

// run keeps the pod until ctx ends, then stops it in good order, and in a hurry once hard
// has ended.
func (p *pod) run(ctx, hard context.Context) {
	place := p.claim(ctx)
	if place == nil {
		return
	}
	defer place.Close()
	p.fill(place)
	p.write()
	defer p.rt.files.remove(p)

	defer context.AfterFunc(hard, func() { p.killLate(hurry) })()

	proxyCtx, endProxy := context.WithCancel(context.WithoutCancel(ctx))
	var proxy sync.WaitGroup
	proxy.Go(func() { p.keepProxy(proxyCtx, place) })
	defer func() {
		endProxy()
		defer context.AfterFunc(hard, func() { p.killLate(hurryProxy) })()
		proxy.Wait()
	}()
	if !p.untilProxyReady(ctx) || !p.initialize(ctx) {
		return
	}

	appCtx, endApps := context.WithCancel(context.WithoutCancel(ctx))
	defer endApps()
	var apps sync.WaitGroup
	for _, g := range p.programs {
		apps.Go(func() { p.keep(appCtx, g) })
	}
	p.watch(ctx)
	p.settling.Wait()

	p.withdraw(hard)
	endApps()
	apps.Wait()
}

// claim makes the pod's place, however often it takes.
func (p *pod) claim(ctx context.Context) Place {
	said := ""
	for ctx.Err() == nil {
		place, err := p.rt.o.Sandbox.Add(ctx, Spec{Name: p.name, Template: p.template, Host: p.host, Output: p.output(proxyLog, !p.rt.o.ProxyLogs)})
		if err == nil {
			return place
		}
		if err.Error() != said {
			said = err.Error()
			p.say("cannot be started: %s", said)
		}
		select {
		case <-ctx.Done():
		case <-time.After(placeRetry):
		}
	}
	return nil
}

// fill gives the pod what depends on its place.
func (p *pod) fill(place Place) {
	full := p.template.Pod(plan.Instance{Name: p.name, IP: place.IP(), Services: p.services(place.ServiceAt), Extra: place.Variables})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.place = place
	for _, g := range full.Init {
		p.init = append(p.init, &program{Program: g})
	}
	for _, g := range full.Programs {
		p.programs = append(p.programs, &program{Program: g, accepted: map[uint16]bool{}})
	}
}

func (p *pod) keepProxy(ctx context.Context, place Place) {
	_ = supervise.Keep(ctx, supervise.Program{
		Start: func() (supervise.Process, error) {
			proc, err := place.StartProxy()
			p.mu.Lock()
			defer p.mu.Unlock()
			p.proxyRun = proc
			return proc, err
		},
		Grace: proxyGrace,
		Changed: func(s supervise.State) {
			p.mu.Lock()
			before := p.proxy
			p.proxy = s
			p.mu.Unlock()
			if s.Phase == supervise.BackingOff && before.Phase != supervise.BackingOff {
				p.say("its proxy %s, started again in %v; see `weir logs %s --proxy`", s.Last, time.Until(s.Retry).Round(time.Millisecond), p.name)
			}
			p.wake()
		},
	})
}

// untilProxyReady waits for the certificate and the configuration of the proxy: a program
// that calls others as its first act must find them.
func (p *pod) untilProxyReady(ctx context.Context) bool {
	began, said := time.Now(), ""
	for pause := firstCheck; ctx.Err() == nil; pause = min(2*pause, slowestCheck) {
		err := p.proxyReady(ctx)
		if err == nil {
			return true
		}
		waits := "waiting for its proxy"
		if pause == slowestCheck { // longer than a start takes
			waits += ": " + err.Error()
		}
		p.note(waits)
		if time.Since(began) >= proxyPatience && waits != said {
			said = waits
			p.say("%s; see `weir logs %s --proxy`", waits, p.name)
			p.note(waits)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return false
}

// initialize runs the init containers, each until it succeeds.
func (p *pod) initialize(ctx context.Context) bool {
	for _, g := range p.init {
		p.note("running init container " + g.Container.Name)
		ok, end := context.WithCancel(ctx)
		_ = supervise.Keep(ok, supervise.Program{
			Start: func() (supervise.Process, error) {
				proc, err := p.start(g)
				if err == nil {
					proc = &until{Process: proc, success: end}
				}
				return proc, err
			},
			Grace:   p.template.Grace,
			Changed: func(s supervise.State) { p.changed(g, s) },
		})
		end()
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// until is a Process whose success is to be its last start.
type until struct {
	supervise.Process
	success func()
}

func (u *until) Wait() error {
	err := u.Process.Wait()
	if err == nil {
		u.success()
	}
	return err
}

// keep keeps a program running; a joined one runs once, and its end is the pod's.
func (p *pod) keep(ctx context.Context, g *program) {
	err := supervise.Keep(ctx, supervise.Program{
		Start:   func() (supervise.Process, error) { return p.start(g) },
		Grace:   p.template.Grace,
		Changed: func(s supervise.State) { p.changed(g, s) },
		Once:    p.join != nil,
	})
	if p.join != nil {
		p.join.ended(err)
		p.stop()
	}
}

func (p *pod) start(g *program) (supervise.Process, error) {
	c := Command{Argv: g.Argv, Env: slices.Concat(p.rt.o.Environ, g.Env), Dir: g.Dir}
	if j := p.join; j != nil {
		c = j.command(g)
	} else {
		c.Output = p.output(g.Container.Name, false)
	}
	proc, err := p.place.Start(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	g.process, g.started, g.accepted, g.probe, g.complain = proc, time.Now(), map[uint16]bool{}, probeState{}, false
	return proc, err
}

func (p *pod) changed(g *program, s supervise.State) {
	p.mu.Lock()
	before := g.state
	g.state = s
	if s.Phase != supervise.Running && s.Phase != supervise.Stopping {
		g.process = nil
	}
	p.mu.Unlock()
	if s.Phase == supervise.BackingOff && before.Phase != supervise.BackingOff {
		p.say("%s%s, started again in %v%s", p.containerPrefix(g), s.Last, time.Until(s.Retry).Round(time.Millisecond), p.remedy(g))
	}
	p.wake()
}

// remedy is what a program must do that did not listen where it was told to: said once,
// and not to one that did before.
func (p *pod) remedy(g *program) string {
	port := p.assigned(g)
	p.mu.Lock()
	defer p.mu.Unlock()
	if port == "" || g.told || len(g.accepted) > 0 {
		return ""
	}
	g.told = true
	return fmt.Sprintf(". Without network namespaces it must listen on $BIND_ADDRESS, port $PORT (here %s), and other ports may be taken: make it read these variables, or use --capture=netns", port)
}

// assigned is the port that a program must listen on, "" if it may choose.
func (p *pod) assigned(g *program) string {
	for _, e := range g.Env {
		if port, ok := strings.CutPrefix(e, "PORT="); ok && p.rt.o.Assigns {
			return port
		}
	}
	return ""
}

func (p *pod) containerPrefix(g *program) string {
	if len(p.init)+len(p.programs) == 1 {
		return ""
	}
	return g.Container.Name + " "
}

// withdraw takes the pod out of service: no new requests come once the proxies know, and
// those under way are finished by the application. Its proxy goes on as it is until the
// application is gone, which may call others to the last.
func (p *pod) withdraw(hard context.Context) {
	p.mu.Lock()
	was := p.settled
	p.ready, p.settled, p.stopping, p.message = false, false, true, "stopping"
	p.mu.Unlock()
	p.write()
	if was && hard.Err() == nil {
		p.rt.settle(hard, p, Draining)
	}
}

// killLate kills what has not ended d after it was asked to: the programs, or the proxy
// once they are gone.
func (p *pod) killLate(d time.Duration) {
	select {
	case <-p.done:
		return
	case <-time.After(d):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	left := false
	for _, g := range slices.Concat(p.init, p.programs) {
		if g.process != nil {
			left = true
			_ = g.process.Signal(syscall.SIGKILL)
		}
	}
	if !left && p.proxyRun != nil {
		_ = p.proxyRun.Signal(syscall.SIGKILL)
	}
}

// say tells the person at the terminal.
func (p *pod) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.note(text)
	p.rt.o.Say(p.rt.display(p.template.Namespace, p.name) + ": " + text)
}

// note keeps what the pod is waiting for.
func (p *pod) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.message = text
}

func (p *pod) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// source is the name of a container's log.
func (p *pod) source(container string) string {
	name := p.rt.display(p.template.Namespace, p.name)
	if container == proxyLog || len(p.template.Init)+len(p.template.Containers) > 1 {
		return name + "/" + container
	}
	return name
}

// hopeless reports whether the pod has had its chances to become ready: it crashes again
// and again.
func (p *pod) hopeless() bool {
	return !p.ready && slices.ContainsFunc(slices.Concat(p.init, p.programs), func(g *program) bool { return g.state.Restarts >= 2 })
}

func (p *pod) info() Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := Info{
		Namespace: p.template.Namespace, Name: p.name, Owner: p.template.Owner, ServiceAccount: p.template.ServiceAccount,
		Phase: Pending, Ready: p.settled, Message: p.message, Labels: p.template.Labels, Gateway: p.template.Gateway,
		ProxyPID: p.proxy.Pid, ProxyRestarts: p.proxy.Restarts,
	}
	if p.place != nil {
		i.IP = p.place.IP()
	}
	for _, g := range p.programs {
		i.Restarts += g.state.Restarts
		i.Containers = append(i.Containers, ContainerInfo{
			Name: g.Container.Name, Command: strings.Join(g.Argv, " "), PID: g.state.Pid, Restarts: g.state.Restarts, Phase: string(g.state.Phase), Last: g.state.Last,
		})
	}
	switch {
	case p.stopping:
		i.Phase = Terminating
	case p.ready:
		i.Phase = Running
	}
	if p.ready {
		i.Message = ""
	}
	return i
}
