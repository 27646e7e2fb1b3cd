package up

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/sandbox"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/local/upsock"
	"github.com/weirmesh/weir/mesh"
	registryfile "github.com/weirmesh/weir/registry/file"
)

// task is what inside is told.
type task struct {
	Layout    sandbox.Layout
	Paths     []string
	Namespace string
	API       netip.AddrPort
	Ingress   netip.AddrPort
	Proxy     string // the program
	Environ   []string
	Resolvers []string
	LogProxy  bool
	Color     bool
	Loopback  bool
	Shape     sandbox.Shape // of a machine without namespaces
	Dir       string
}

const (
	// startTime is how long the report waits for workloads that do not come up.
	startTime = 10 * time.Second
	// allocationTime is how long a plan waits for the control plane to give its services
	// addresses; it does so within milliseconds.
	allocationTime  = 2 * time.Second
	allocationCheck = 20 * time.Millisecond
	// settleTimeout is what the control plane is asked to wait at most; see pod.Runtime.
	settleTimeout = time.Second
)

// inside keeps the pods of a mesh.
type inside struct {
	task    task
	out     *gate
	logs    *supervise.Logs
	log     *slog.Logger
	runtime *pod.Runtime
	server  *upsock.Server
	api     *client.Client
	started chan *Report // gets one

	// changed says that latest is to be planned.
	changed chan struct{}
	mu      sync.Mutex
	latest  *store.Update
	since   time.Time
	told    []config.Finding
}

// dialer opens connections of the host's network.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func newInside(t task, sb pod.Sandbox, dial dialer, out io.Writer) *inside {
	i := &inside{task: t, out: &gate{out: out}, started: make(chan *Report, 1), changed: make(chan struct{}, 1), api: client.NewVia(dial, t.API.String(), redact.String{})}
	i.logs = supervise.NewLogs(i.out, t.Color)
	i.log = slog.New(slog.NewTextHandler(i.logs.Source("weir", false), &slog.HandlerOptions{Level: slog.LevelWarn}))
	i.runtime = pod.New(pod.Options{
		Sandbox: sb, Dir: t.Layout.Pods(), Settled: i.settled, Assigns: t.Loopback, Environ: t.Environ, Namespace: t.Namespace,
		Logs: i.logs, ProxyLogs: t.LogProxy, Say: i.say, Log: i.log,
	})
	i.server = &upsock.Server{Runtime: i.runtime, Logs: i.logs}
	return i
}

// say shows a sentence among the logs.
func (i *inside) say(text string) { fmt.Fprintln(i.logs.Source("weir", false), text) }

// settled asks the control plane.
func (i *inside) settled(ctx context.Context, w mesh.Key, h pod.Health) error {
	namespace, name := w.Split()
	err := i.api.WaitWorkload(ctx, namespace, name, string(h), settleTimeout)
	if e := (*client.Error)(nil); errors.As(err, &e) && e.Status == http.StatusGatewayTimeout {
		return context.DeadlineExceeded
	}
	return err
}

// run keeps the pods until ctx ends. controlLog is what the control plane prints.
func (i *inside) run(ctx context.Context, controlLog io.ReadCloser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	part := func(run func(context.Context) error) {
		running.Go(func() {
			if err := run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	go func() { // ends with the pipe
		_, _ = io.Copy(i.logs.Source("weir-control", true), controlLog)
		controlLog.Close()
	}()
	part(i.runtime.Run)
	part(i.configuration)
	part(i.plan)
	part(i.report)
	<-ctx.Done()
	running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// configuration reads what the control plane reads, in the same order.
func (i *inside) configuration(ctx context.Context) error {
	s, err := store.New(store.Options{
		Settings: mesh.Settings{TrustDomain: trustDomain, DomainSuffix: "cluster.local", RootNamespace: gatewayNamespace},
		Assume:   []*mesh.Workload{gatewayWorkload()}, Applied: i.task.Layout.Applied(), Log: i.log,
		Publish: func(u *store.Update) {
			i.mu.Lock()
			before := i.latest
			if before == nil || before.Snapshot != u.Snapshot {
				i.since = time.Now()
			}
			i.latest = u
			i.mu.Unlock()
			if before != nil {
				for _, c := range first(shown, changes(before, u), "changes; `weir get all` shows what there is") {
					i.say(c)
				}
			}
			i.poke()
		},
	})
	if err != nil {
		return err
	}
	return s.Run(ctx, file.New(file.Options{Paths: append(slices.Clone(i.task.Paths), i.task.Layout.Applied()), Namespace: i.task.Namespace, Log: i.log}),
		file.New(file.Options{Paths: []string{i.task.Layout.Fallback()}, Namespace: i.task.Namespace, Rank: config.Fallback, Log: i.log}))
}

func (i *inside) poke() {
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// plan applies the newest configuration, once its services have addresses.
func (i *inside) plan(ctx context.Context) error {
	var again <-chan time.Time
	var before *plan.Plan
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-i.changed:
		case <-again:
		}
		again = nil
		i.mu.Lock()
		u, since := i.latest, i.since
		i.mu.Unlock()
		given, err := registryfile.Load(i.task.Layout.Registry())
		if err != nil {
			i.log.Warn("virtual addresses of services cannot be read", "err", err)
		}
		in, pending := plan.From(u, given)
		if len(pending) > 0 {
			wait := allocationCheck
			if time.Since(since) > allocationTime {
				wait = time.Second
			}
			again = time.After(wait)
			if wait == allocationCheck {
				continue
			}
		}
		in.Loopback, in.HighPorts = i.task.Loopback, i.task.Loopback && i.task.Shape.HighPorts && !i.task.Shape.OneAddress
		in.Services = slices.DeleteFunc(in.Services, func(s *mesh.Service) bool {
			return in.HighPorts && s.Ref.Namespace == gatewayNamespace && s.Ref.Name == gatewayName
		})
		in.Deployments = slices.DeleteFunc(in.Deployments, func(d plan.Deployment) bool {
			return d.Object.Namespace == gatewayNamespace && d.Object.Name == gatewayName // ours is built in
		})
		p := plan.Make(in)
		p.Groups = append(p.Groups, gatewayGroup())
		i.runtime.Apply(p)
		if i.task.Loopback && before != nil {
			i.tellNew(before, p)
		}
		before = p
		i.tell(u, p)
	}
}

// tellNew says of new services how programs that run find them, which cannot get variables.
func (i *inside) tellNew(before, now *plan.Plan) {
	known := map[mesh.Key]bool{}
	for _, s := range before.Services {
		known[s.Key()] = true
	}
	for _, s := range now.Services {
		if !known[s.Key()] {
			how := "call it by its name, through $http_proxy, and learn"
			if i.task.Shape.OneAddress {
				how = "learn"
			}
			i.say(fmt.Sprintf("Service %s/%s: workloads that run now %s its address ($%s) when they are started again", s.Namespace, s.Name, how, plan.HostVariable(s)))
		}
	}
}

// tell publishes the findings: to the control plane as a file, to the person if they are
// new.
func (i *inside) tell(u *store.Update, p *plan.Plan) {
	b, err := json.MarshalIndent(append([]config.Finding{}, p.Findings...), "", "  ")
	if err == nil {
		err = replace(i.task.Layout.Findings(), append(b, '\n'))
	}
	if err != nil {
		i.log.Warn("findings cannot be written", "err", err)
	}
	if !u.Analyzed {
		return // the rest follows at once
	}
	all := worse(config.Tidy(slices.Concat(u.Findings, p.Findings)))
	i.mu.Lock()
	before := i.told
	i.told = all
	i.mu.Unlock()
	if !i.out.opened() {
		return // the report has them
	}
	// A finding on another line is not a new one.
	placeless := func(f config.Finding) config.Finding {
		f.Line, f.Object.Line = 0, 0
		return f
	}
	known := map[config.Finding]bool{}
	for _, f := range before {
		known[placeless(f)] = true
	}
	var news []string
	for _, f := range all {
		if !known[placeless(f)] {
			news = append(news, f.String())
		}
	}
	for _, f := range first(shown, news, "findings; `weir status` shows them") {
		i.say(f)
	}
}

// shown is how many lines about one change of the configuration a person may be told: a
// screen has 24.
const shown = 20

// first leaves the first n lines, and says how many more of what there are.
func first(n int, lines []string, what string) []string {
	if len(lines) <= n {
		return lines
	}
	return append(lines[:n-1:n-1], fmt.Sprintf("and %d more %s", len(lines)-n+1, what))
}

// replace writes a file so that readers see the old content or the new.
func replace(path string, b []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// report describes the mesh when everything that can run is in service, or has had its
// time.
func (i *inside) report(ctx context.Context) error {
	late := time.After(startTime)
	tick := time.NewTicker(allocationCheck)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			return nil
		case <-late:
			waiting = false
		case <-tick.C:
			i.mu.Lock()
			ready := i.told != nil
			i.mu.Unlock()
			waiting = !ready || !i.runtime.Satisfied()
		}
	}
	i.mu.Lock()
	u, findings := i.latest, i.told
	i.mu.Unlock()
	r := &Report{Workloads: i.runtime.List(), Findings: append([]config.Finding{}, findings...), URLs: []URL{}, Services: []ServiceReport{}}
	if u != nil {
		var list []*mesh.Service
		for s := range u.Snapshot.Services.Values() {
			if s.Ref.Kind == "Service" {
				list = append(list, s)
			}
		}
		r.Services = services(list, r.Workloads)
		r.URLs = urls(u, reached(i.task.Ingress))
		for o := range u.Objects.Values() {
			if o.Raw != nil && filepath.Dir(o.Raw.Ref.File) == filepath.Clean(i.task.Layout.Applied()) {
				r.Applied++
			}
		}
	}
	i.started <- r
	return nil
}

// proxies is what the sandboxes need.
func (t *task) proxies(p *sandbox.Proxies) {
	p.Program, p.Layout, p.TrustDomain, p.Listen = t.Proxy, t.Layout, trustDomain, gatewayListen(t.Ingress)
	for _, e := range t.Environ {
		if name, _, _ := strings.Cut(e, "="); slices.Contains([]string{"PATH", "HOME", "TZ", "TMPDIR"}, name) {
			p.Environ = append(p.Environ, e)
		}
	}
}

// gate keeps what is printed until the report has been.
type gate struct {
	mu   sync.Mutex
	out  io.Writer
	open bool
	held bytes.Buffer
	lost int
}

// maxHeld bounds what is kept; whoever prints more while starting is not read line by line.
const maxHeld = 1 << 20

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.open:
		return g.out.Write(p)
	case g.held.Len()+len(p) > maxHeld:
		g.lost += len(p)
	default:
		g.held.Write(p)
	}
	return len(p), nil
}

func (g *gate) opened() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *gate) show() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		return
	}
	g.open = true
	_, _ = g.out.Write(g.held.Bytes())
	g.held = bytes.Buffer{}
	if g.lost > 0 {
		fmt.Fprintf(g.out, "(%d bytes of logs left out)\n", g.lost)
	}
}
