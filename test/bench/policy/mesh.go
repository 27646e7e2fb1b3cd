package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	proxyCore, loadCore = 0, 1
	// patience bounds everything that should take milliseconds.
	patience = 30 * time.Second
)

// mesh is what `weir up` runs, and its workloads.
type mesh struct {
	o       options
	dir     string
	tokens  []string
	running []*exec.Cmd // in order of their start
	address map[string]string
	bulk    map[string]string
	echo    map[string]string
	http2   map[string]string
	grpc    map[string]string
	pids    map[string]int // of proxies, by workload
	client  *http.Client
}

func start(ctx context.Context, o options) (m *mesh, err error) {
	m = &mesh{o: o, address: map[string]string{}, bulk: map[string]string{}, echo: map[string]string{}, http2: map[string]string{}, grpc: map[string]string{}, pids: map[string]int{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}}
	if m.dir, err = os.MkdirTemp("", "weir-policy-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	var keys string
	if m.tokens, keys, err = mint(many); err != nil {
		return nil, err
	}
	file := filepath.Join(m.dir, "mesh.yaml")
	if err := os.WriteFile(file, []byte(objects(keys)), 0o600); err != nil {
		return nil, err
	}
	up := m.command(ctx, "up", "--capture", "env", "--http", "127.0.0.1:25814", "--ingress", "127.0.0.1:25880", "-f", file)
	if _, err := m.background(up, "The mesh is up"); err != nil {
		return nil, err
	}
	site, err := m.site()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		c := m.command(ctx, "run", "--as", "shop/"+s, "-l", "app="+s, "-p", "http=8080", "-p", "tcp-bulk=9000", "-p", "tcp-echo=9001", "-p", "http2-site=7071", "-p", "grpc-echo=7070",
			"--", "taskset", "-c", strconv.Itoa(loadCore), "sh", "-c",
			fmt.Sprintf(`%[1]s $PORT_8080 1024 & %[2]s echo $PORT_9001 & nghttpd --no-tls -a 127.0.0.1 -d %[3]s $PORT_7071 & %[4]s -serve 127.0.0.1:$PORT_7070 & exec %[2]s sink $PORT_9000`,
				m.tool("backend"), m.tool("tcpload"), site, self))
		if _, err := m.background(c, "is in the mesh"); err != nil {
			return nil, err
		}
	}
	web := m.command(ctx, "run", "--as", "shop/web", "--service-account", "web", "--", "sh", "-c", "env; echo complete; exec sleep 3600")
	env, err := m.background(web, "complete")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(env) {
		for _, s := range services {
			if a, ok := strings.CutPrefix(strings.TrimSpace(line), strings.ToUpper(s)+"_SERVICE_HOST="); ok {
				m.address[s], m.bulk[s], m.echo[s], m.http2[s], m.grpc[s] = a+":8080", a+":9000", a+":9001", a+":7071", a+":7070"
			}
		}
	}
	return m, m.pin()
}

func (m *mesh) tool(name string) string { return filepath.Join(m.o.tools, name) }

func (m *mesh) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(m.o.bin, "weir"), append([]string{"--state", filepath.Join(m.dir, "state")}, args...)...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// output is what a command says, to be read while it speaks.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// background starts c, and waits until it says word.
func (m *mesh) background(c *exec.Cmd, word string) (string, error) {
	var out output
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		return "", err
	}
	m.running = append(m.running, c)
	err := eventually(func() error {
		if !strings.Contains(out.String(), word) {
			return fmt.Errorf("%s: it does not say %q:\n%s", strings.Join(c.Args, " "), word, out.String())
		}
		return nil
	})
	return out.String(), err
}

func eventually(check func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// pin finds the proxies, and gives all that they and the control plane do to one processor.
func (m *mesh) pin() error {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range all {
		text, _ := os.ReadFile(file)
		args := strings.Split(string(text), "\x00")
		if !strings.Contains(string(text), m.dir) || !strings.HasPrefix(filepath.Base(args[0]), "weir-") {
			continue
		}
		dir := filepath.Dir(file)
		for i, a := range args[:len(args)-1] {
			if a == "--name" {
				name, _, _ := strings.Cut(args[i+1], "-")
				m.pids[name], _ = strconv.Atoi(filepath.Base(dir))
			}
		}
		tasks, _ := filepath.Glob(filepath.Join(dir, "task", "*"))
		for _, task := range tasks {
			tid, _ := strconv.Atoi(filepath.Base(task))
			var set unix.CPUSet
			set.Set(proxyCore)
			if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("giving %s to processor %d: %w", args[0], proxyCore, err)
			}
		}
	}
	for _, w := range append([]string{"web"}, services...) {
		if m.pids[w] == 0 {
			return fmt.Errorf("workload %s has no proxy", w)
		}
	}
	return nil
}

// stop ends everything, what was started last first.
func (m *mesh) stop() {
	for i := range m.running {
		c := m.running[len(m.running)-1-i]
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
	}
	_ = os.RemoveAll(m.dir)
}

// check proves that a row does what its name says, before anybody measures how fast.
func (m *mesh) check(ctx context.Context, r *row) error {
	type call struct {
		path, token string
		want        int
	}
	calls := []call{{path, m.tokens[0], 200}}
	if governed(r.service) {
		calls = append(calls, call{"/admin/x", m.tokens[0], 403}, call{"/team-01/x", m.tokens[0], 403})
	}
	if checked(r.service) {
		calls = append(calls, call{path, m.tokens[0] + "x", 401})
	}
	for _, text := range m.tokens[:r.tokens] { // the first call of each is not what is measured
		calls = append(calls, call{path, text, 200})
	}
	for _, c := range calls {
		if err := eventually(func() error { return m.call(ctx, r, c.path, c.token, c.want) }); err != nil {
			return err
		}
	}
	return m.checkGRPC(r)
}

// call makes one call.
func (m *mesh) call(ctx context.Context, r *row, path, token string, want int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.address[r.service]+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := m.client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("GET %s: %s; it should be %d", path, resp.Status, want)
	}
	return nil
}

// cpu is the time that a process has had of processors.
func cpu(pid int) (time.Duration, error) {
	var total time.Duration
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if len(tasks) == 0 {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	for _, t := range tasks {
		line, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		ns, _, _ := strings.Cut(string(line), " ")
		n, _ := strconv.ParseInt(ns, 10, 64)
		total += time.Duration(n)
	}
	return total, err
}

func (m *mesh) measure(ctx context.Context, r *row) (s sample, err error) {
	var before [2]time.Duration
	ids := [2]int{m.pids["web"], m.pids[r.service]}
	for i, pid := range ids {
		if before[i], err = cpu(pid); err != nil {
			return s, err
		}
	}
	began := time.Now()
	n, err := r.load(ctx, m, r)
	if err != nil {
		return s, err
	}
	took := time.Since(began)
	scale := 1e6 // µs
	if strings.HasPrefix(r.unit, "ms") {
		scale = 1e3
	}
	var spent [2]float64
	for i, pid := range ids {
		now, err := cpu(pid)
		if err != nil {
			return s, err
		}
		spent[i] = (now - before[i]).Seconds() / n * scale
	}
	s = sample{client: spent[0], server: spent[1], rate: n / took.Seconds()}
	if calls := len(r.took); calls > 0 {
		s.half, s.most = r.took[calls/2], r.took[calls*99/100]
	}
	return s, nil
}

// profile loads a row once more, and keeps what its proxies were doing.
func (m *mesh) profile(ctx context.Context, r *row) error {
	failed := make(chan error, 2)
	for side, workload := range map[string]string{"client": "web", "server": r.service} {
		go func() {
			failed <- save(ctx, m.admin(workload), fmt.Sprintf("http://admin/debug/pprof/profile?seconds=%.0f", m.o.length.Seconds()), filepath.Join(m.o.profiles, r.name+"-"+side+".pprof"))
		}()
	}
	_, err := r.load(ctx, m, r)
	return errors.Join(err, <-failed, <-failed)
}

func save(ctx context.Context, client *http.Client, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}
