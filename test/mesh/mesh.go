// Package mesh runs a whole mesh inside a test: one control plane over a temporary
// folder, any number of workloads with their own proxies, and programs from sample.
//
// YAML enters (Config, Write, Workloads), calls enter (Workload.Get, Workload.Dial);
// responses, metrics, access logs and findings leave. Nothing needs root, a cluster or a
// network beyond 127.0.0.0/8: workloads live in env capture, each with a 127.W.0.0/16 of
// its own. Control plane, proxies and programs are the real ones, over real sockets; each
// can be stopped, killed and started again. Nothing waits for time to pass: every wait is
// for a condition, and fails the test with what was missing.
//
// A Mesh belongs to one test; several may run at once, in one process or in many. Its
// methods may be called from any goroutine, except those that fail the test, which are
// for the test's own.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/proxy/loop"
)

// census counts the loops of the process, which is what it is about: loops of all meshes
// share one set of processors.
var census loop.Census

// patience is how long a condition may take to come true. It is not a measure of speed:
// the machine may be doing ten other things.
const patience = 30 * time.Second

// apiToken is the token of the state folder.
const apiToken = "test-token"

// Mesh is one mesh.
type Mesh struct {
	T   testing.TB
	Dir string // config/, pods/, state/, proxies/

	change func(*control.Options)
	log    *slog.Logger
	logs   *locked.Buffer
	keys   *token.Key

	mu        sync.Mutex
	api       *client.Client
	address   string   // of the API
	binary    []string // the control plane that is started next: see ControlBinary
	plane     *plane
	workloads []*Workload
	writes    int               // how often files were written: the newest marker
	markers   map[string]string // by file: its marker now
	services  map[string]apiv1.Service
	names     map[string][]netip.Addr
}

// plane is a control plane that runs.
type plane struct {
	cancel context.CancelFunc
	done   chan struct{} // closed after err is set
	err    error
	cut    func() // its connections break, and nobody says goodbye
}

// New starts a control plane without any configuration. change, if not nil, may alter
// its options each time it starts. Everything ends with the test.
func New(t testing.TB, change func(*control.Options)) *Mesh {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir-test-") // t.TempDir's names are too long for Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	logs := &locked.Buffer{}
	m := &Mesh{T: t, Dir: dir, change: change, markers: map[string]string{}, logs: logs,
		log: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	t.Cleanup(func() {
		m.close()
		if t.Failed() {
			t.Logf("what control plane and proxies logged (the end):\n%s", logs.Tail(16<<10))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the mesh's folder: %v", err)
		}
	})
	for _, d := range []string{"config", "pods", "state", "proxies"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if m.keys, err = token.OpenKey(m.path("state", "ca")); err != nil {
		t.Fatal(err)
	}
	m.StartControl()
	return m
}

func (m *Mesh) path(elements ...string) string {
	return filepath.Join(append([]string{m.Dir}, elements...)...)
}

func (m *Mesh) close() {
	m.mu.Lock()
	workloads := slices.Clone(m.workloads)
	m.mu.Unlock()
	var ending sync.WaitGroup
	for _, w := range workloads {
		ending.Go(w.end)
	}
	ending.Wait()
	m.endControl(func(*plane) {})
}

// StartControl starts the control plane and waits until it is ready.
func (m *Mesh) StartControl() {
	m.T.Helper()
	if err := m.TryControl(); err != nil {
		m.T.Fatal(err)
	}
}

// TryControl is StartControl for a control plane that may refuse to start: the error is its.
func (m *Mesh) TryControl() error {
	m.T.Helper()
	if err := os.Remove(m.path("xds.sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.T.Fatal(err)
	}
	m.mu.Lock()
	binary := m.binary
	m.mu.Unlock()
	if len(binary) > 0 {
		return m.controlProcess(binary)
	}
	http, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.T.Fatal(err)
	}
	unix, err := net.Listen("unix", m.path("xds.sock"))
	if err != nil {
		m.T.Fatal(err)
	}
	grpc := &cuttable{Listener: unix, open: map[net.Conn]bool{}}
	// What cmd/weir-control gives.
	o := control.Options{Version: "test", State: m.path("state"), Paths: []string{m.path("config")}, Pods: m.path("pods"),
		Token: redact.New(apiToken), Log: m.log.With("room", "control"), HTTP: []net.Listener{http}, GRPC: []net.Listener{grpc},
		Settings: mesh.Settings{ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system", AccessLog: true,
			DefaultRetries: mesh.SafeRetries()}}
	if m.change != nil {
		m.change(&o)
	}
	p, err := control.New(o)
	if err != nil {
		_ = http.Close()
		_ = unix.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	pl := &plane{cancel: cancel, done: make(chan struct{}), cut: grpc.cut}
	go func() {
		defer close(pl.done)
		pl.err = p.Run(ctx)
	}()
	m.await(pl, http.Addr().String())
	return nil
}

// await waits for a control plane that was started.
func (m *Mesh) await(pl *plane, address string) {
	m.T.Helper()
	m.mu.Lock()
	m.plane, m.address = pl, address
	m.api = client.New(address, redact.New(apiToken))
	m.mu.Unlock()
	m.Eventually("the control plane is ready", func() error {
		select {
		case <-pl.done:
			return fmt.Errorf("it ended: %w", pl.err)
		default:
		}
		_, err := m.API().Status(context.Background())
		return err
	})
}

// StopControl ends the control plane in good order.
func (m *Mesh) StopControl() {
	m.T.Helper()
	if err := m.endControl(func(*plane) {}); err != nil {
		m.T.Errorf("the control plane ended with: %v", err)
	}
}

// KillControl ends the control plane as kill -9 would: its proxies see a connection that
// breaks, and nobody says goodbye.
func (m *Mesh) KillControl() {
	m.T.Helper()
	_ = m.endControl(func(p *plane) { p.cut() })
}

func (m *Mesh) endControl(first func(*plane)) error {
	m.mu.Lock()
	p := m.plane
	m.plane = nil
	m.mu.Unlock()
	if p == nil {
		return nil
	}
	first(p)
	p.cancel()
	<-p.done
	return p.err
}

// Resolve gives a name outside the mesh its addresses. Other names do not exist: proxies
// of a test ask no real resolver.
func (m *Mesh) Resolve(host string, addrs ...netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names == nil {
		m.names = map[string][]netip.Addr{}
	}
	m.names[host] = addrs
}

func (m *Mesh) lookupHost(_ context.Context, host string) ([]netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.names[host]; ok {
		return a, nil
	}
	return nil, fmt.Errorf("there is no name %q", host)
}

// API is a client of the control plane that runs now.
func (m *Mesh) API() *client.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.api
}

// Address is where the API of the control plane that runs now is, for `weir --api`.
func (m *Mesh) Address() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.address
}

// marker is an object at the end of every file: when the control plane has it, it has
// the file.
const marker = `
---
apiVersion: v1
kind: ConfigMap
metadata: {name: %s, namespace: weir-test}
`

const markerNamespace = "weir-test"

// Write gives the control plane a file and returns at once.
func (m *Mesh) Write(name, text string) {
	m.T.Helper()
	m.mu.Lock()
	m.writes++
	mark := fmt.Sprintf("marker-%d", m.writes)
	m.markers[name] = mark
	m.mu.Unlock()
	m.replace(m.path("config", name), fmt.Appendf([]byte(text), marker, mark), 0)
}

// WriteRaw gives the control plane a file as it is, byte by byte.
func (m *Mesh) WriteRaw(name string, data []byte) { m.WriteLong(name, data, 0) }

// WriteLong does so with a file that zero bytes fill up to a size.
func (m *Mesh) WriteLong(name string, data []byte, size int64) {
	m.T.Helper()
	m.mu.Lock()
	delete(m.markers, name)
	m.mu.Unlock()
	m.replace(m.path("config", name), data, size)
}

// replace writes a file of at least size bytes so that a reader sees the old or the new one.
func (m *Mesh) replace(path string, data []byte, size int64) {
	m.T.Helper()
	tmp := filepath.Join(m.Dir, "new-"+filepath.Base(path))
	err := os.WriteFile(tmp, data, 0o600)
	if err == nil && size > int64(len(data)) {
		err = os.Truncate(tmp, size)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		m.T.Fatal(err)
	}
}

// Remove takes a file away and waits until every proxy does without it.
func (m *Mesh) Remove(name string) {
	m.T.Helper()
	m.mu.Lock()
	mark := m.markers[name]
	delete(m.markers, name)
	m.mu.Unlock()
	if err := os.Remove(m.path("config", name)); err != nil {
		m.T.Fatal(err)
	}
	if mark != "" {
		m.Eventually(name+" is forgotten", func() error {
			if _, err := m.markerVersion(mark); err == nil {
				return errors.New("its objects are still in force")
			}
			return nil
		})
	}
	m.settle(m.Status().Mesh)
}

// Config writes a file and waits until it is in force on every running proxy. It returns
// the version of the configuration in which it is.
func (m *Mesh) Config(name, text string) uint64 {
	m.T.Helper()
	m.Write(name, text)
	return m.Settle()
}

// AwaitActive waits until a file that was written is in force on every connected proxy, as
// `weir apply --wait` does: by asking the control plane to say when.
func (m *Mesh) AwaitActive(name string) {
	m.T.Helper()
	m.mu.Lock()
	mark := m.markers[name]
	m.mu.Unlock()
	var version uint64
	m.Eventually("the control plane has what was written", func() (err error) {
		version, err = m.markerVersion(mark)
		return err
	})
	if err := m.API().WaitActive(context.Background(), version, patience); err != nil {
		m.T.Fatal(err)
	}
}

// Settle waits until everything written, and everything else the control plane knows, is
// in force on every running proxy. It returns the version in which the files are.
func (m *Mesh) Settle() uint64 {
	m.T.Helper()
	m.mu.Lock()
	markers := make([]string, 0, len(m.markers))
	for _, mark := range m.markers {
		markers = append(markers, mark)
	}
	m.mu.Unlock()
	var version uint64
	for _, mark := range markers {
		m.Eventually("the control plane has what was written", func() error {
			v, err := m.markerVersion(mark)
			version = max(version, v)
			return err
		})
	}
	m.settle(max(version, m.Status().Mesh))
	return version
}

// settle waits until version is active on every running proxy.
func (m *Mesh) settle(version uint64) {
	m.T.Helper()
	m.Eventually(fmt.Sprintf("version %d is active on every proxy", version), func() error {
		proxies, _, err := m.API().Proxies(context.Background())
		if err != nil {
			return err
		}
		active := map[string]uint64{}
		var rejected []string
		for _, p := range proxies {
			active[p.Name] = max(active[p.Name], p.Active)
			for _, r := range p.Rejected {
				if r.Current {
					rejected = append(rejected, fmt.Sprintf("%s rejected %s %v: %s", p.Name, r.Type, r.Resources, r.Message))
				}
			}
		}
		for _, w := range m.running() {
			if got, connected := active[w.key()]; !connected {
				return fmt.Errorf("%s is not connected", w.key())
			} else if got < version {
				return fmt.Errorf("%s is on version %d; %s", w.key(), got, strings.Join(rejected, "; "))
			}
		}
		return nil
	})
	m.mu.Lock()
	m.services = nil // may have changed
	m.mu.Unlock()
}

// markerVersion is the version since which a marker is in force.
func (m *Mesh) markerVersion(mark string) (uint64, error) {
	o, err := m.API().Objects(context.Background(), "ConfigMap", markerNamespace, mark)
	if err != nil {
		return 0, err
	}
	return o[0].Mesh, nil
}

// Status is what the control plane says of itself.
func (m *Mesh) Status() *apiv1.Status {
	m.T.Helper()
	s, err := m.API().Status(context.Background())
	if err != nil {
		m.T.Fatal(err)
	}
	return s
}

// Findings are those of the configuration now in force, without those about markers.
func (m *Mesh) Findings() []apiv1.Finding {
	m.T.Helper()
	return slices.DeleteFunc(m.Status().Findings, func(f apiv1.Finding) bool { return f.Namespace == markerNamespace })
}

// Run runs a subtest, for whose duration the mesh fails that one. No two run at once.
func (m *Mesh) Run(name string, f func(t *testing.T)) {
	t := m.T.(*testing.T)
	t.Run(name, func(sub *testing.T) {
		m.T = sub
		defer func() { m.T = t }()
		f(sub)
	})
}

// Mark is a moment in the log.
type Mark int

// Mark is now.
func (m *Mesh) Mark() Mark { return Mark(len(m.logs.String())) }

// Logged are the lines that control plane (room=control) and proxies (proxy=NAMESPACE/NAME)
// wrote since a moment and that have all of the texts in them.
func (m *Mesh) Logged(since Mark, texts ...string) []string {
	var out []string
	for line := range strings.Lines(m.logs.String()[since:]) {
		if !slices.ContainsFunc(texts, func(t string) bool { return !strings.Contains(line, t) }) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// Eventually waits until check returns nil.
func (m *Mesh) Eventually(what string, check func() error) {
	m.T.Helper()
	if err := eventually(check); err != nil {
		m.T.Fatalf("waiting until %s: %v", what, err)
	}
}

// Await waits until check returns nil, and returns its last error if it never does.
func (m *Mesh) Await(check func() error) error { return eventually(check) }

func eventually(check func() error) error {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// cuttable is a listener that can be cut off with everything it has accepted.
type cuttable struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]bool
}

type accepted struct {
	net.Conn
	l *cuttable
}

func (l *cuttable) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a := &accepted{c, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[a] = true
	return a, nil
}

func (a *accepted) Close() error {
	a.l.mu.Lock()
	delete(a.l.open, a)
	a.l.mu.Unlock()
	return a.Conn.Close()
}

func (l *cuttable) cut() {
	_ = l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.(*accepted).Conn.Close()
	}
}
