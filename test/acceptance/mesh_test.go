//go:build linux

package acceptance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/internal/locked"
)

// patience bounds everything that should take milliseconds, on a machine that others use.
const patience = 20 * time.Second

// required says that a kernel that does not permit is a failure, and that long tests run.
func required() bool { return os.Getenv("WEIR_KERNEL_TESTS") == "require" }

// long skips a test that takes more than some seconds.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() || !required() {
		t.Skip("takes long: make acceptance runs it")
	}
}

// unprivileged is the user of tests that run as nobody in particular.
const unprivileged = 65534

// programs builds the programs once, where every user can run them. The test's own
// program is beside them, as "program".
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "weir-acceptance-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	names := []string{"weir", "weir-control", "weir-proxy", "weir-sample"}
	if given := os.Getenv("WEIR_BIN"); given != "" {
		for _, n := range names {
			if err := copyProgram(filepath.Join(given, n), filepath.Join(dir, n)); err != nil {
				return dir, err
			}
		}
	} else {
		args := []string{"build", "-o", dir + "/"}
		for _, n := range names {
			args = append(args, "github.com/weirmesh/weir/cmd/"+n)
		}
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("building the programs: %w\n%s", err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return dir, err
	}
	return dir, copyProgram(self, filepath.Join(dir, "program"))
})

func copyProgram(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

func TestMain(m *testing.M) {
	role := os.Getenv("ACCEPTANCE_PROGRAM")
	if filepath.Base(os.Args[0]) == "weir-proxy" {
		role = "confine"
	}
	if role != "" {
		if err := roles[role](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if dir, _ := programs(); dir != "" && needed {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// options of a mesh.
type options struct {
	args    []string // of weir up
	user    uint32   // 0: whoever runs the test
	capture string   // netns unless given
	files   map[string]string
}

// mesh is a running `weir up`.
type mesh struct {
	t        *testing.T
	options  options
	bin, dir string
	state    string // folder
	config   string // folder that is watched; files of options are in it
	api      string // host:port
	ingress  string // host:port
	cmd      *exec.Cmd
	ended    chan struct{}
	err      error // once ended
	report   report
	started  time.Duration // until the report
	logs     *locked.Buffer
	client   *http.Client
}

// report is what -o json says of it, as far as tests care.
type report struct {
	PID       int    `json:"pid"`
	Capture   string `json:"capture"`
	Why       string `json:"why"`
	Ingress   string `json:"ingress"`
	API       string `json:"api"`
	Workloads []struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		Ready     bool   `json:"ready"`
		IP        string `json:"ip"`
	} `json:"workloads"`
	Findings []apiv1.Finding `json:"findings"`
}

// prepare makes the folders of a mesh and chooses its ports.
func prepare(t *testing.T, o options) *mesh {
	t.Helper()
	needed = true
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	if o.capture == "" {
		o.capture = "netns"
	}
	// Not t.TempDir: its path is too long for the sockets in it.
	dir, err := os.MkdirTemp("", "weir")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &mesh{t: t, options: o, bin: bin, dir: dir, state: filepath.Join(dir, "state"), config: filepath.Join(dir, "config"), logs: &locked.Buffer{}}
	m.client = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
	t.Cleanup(m.client.CloseIdleConnections)
	if err := os.Mkdir(m.config, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range o.files {
		m.write(name, text)
	}
	if o.user != 0 {
		if os.Geteuid() != 0 {
			t.Skip("only root can become another user")
		}
		if err := errors.Join(os.Chown(dir, int(o.user), int(o.user)), os.Chmod(dir, 0o755), os.Chown(m.config, int(o.user), int(o.user))); err != nil {
			t.Fatal(err)
		}
	}
	m.api, m.ingress = freePort(t), freePort(t)
	return m
}

// needed says that programs was called: there is something to remove.
var needed bool

// freePort is one nobody listens on now. It is below those that the kernel gives to connections and to listeners that
// do not care (32768 and up): a mesh that is killed wants it again.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("of 100 ports none is free")
	return ""
}

// write puts a file into the watched folder, whole.
func (m *mesh) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, "."+name+".new")
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Rename(path, filepath.Join(m.config, name))); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.config, name)); err != nil {
		m.t.Fatal(err)
	}
}

// file writes one that is not watched, and returns its path.
func (m *mesh) file(name, text string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// start runs `weir up` and returns when it said that the mesh is up. The test ends it.
func start(t *testing.T, o options) *mesh {
	t.Helper()
	m := prepare(t, o)
	m.up()
	return m
}

// command is the program weir on this mesh's state folder.
func (m *mesh) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(m.bin, "weir"), append([]string{"--state", m.state}, args...)...)
	cmd.Dir = m.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.dir}
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if m.options.user != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: m.options.user, Gid: m.options.user}
	}
	return cmd
}

func (m *mesh) upArgs() []string {
	args := []string{"up", "--http", m.api, "--ingress", m.ingress, "--capture", m.options.capture, "-f", m.config, "-o", "json"}
	return append(args, m.options.args...)
}

func (m *mesh) up() {
	m.t.Helper()
	began := time.Now()
	m.cmd = m.command(context.Background(), m.upArgs()...)
	m.cmd.SysProcAttr.Setpgid = true // a terminal's Ctrl-C is for the test
	m.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	m.cmd.Stderr = m.logs
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd, ended, started, said := m.cmd, make(chan struct{}), make(chan error, 1), make(chan error, 1)
	m.ended = ended
	go func() {
		// The death signal comes when this thread ends.
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		said <- json.NewDecoder(stdout).Decode(&m.report)
		_, _ = io.Copy(io.Discard, stdout)
		m.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if m.t.Failed() {
			status := m.weir("status")
			m.t.Logf("weir status: %v", status)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			m.t.Errorf("weir up did not end within 5 s of SIGTERM and was killed")
			_ = cmd.Process.Kill()
			<-ended
		}
		if m.t.Failed() {
			m.t.Logf("what weir up printed, the end of it:\n%s", m.logs.Tail(6000))
		}
	})
	select {
	case err = <-said:
	case <-time.After(patience):
		err = errors.New("it does not say that the mesh is up")
	}
	m.started = time.Since(began)
	if err == nil {
		return
	}
	if text := m.logs.String(); strings.Contains(text, "network namespaces do not work here") && !required() {
		m.t.Skip(strings.TrimSpace(text))
	}
	m.t.Fatalf("weir up: %v\n%s", err, m.logs.Tail(4000))
}

// end sends a signal to weir up, waits until it has ended and returns how long it took.
func (m *mesh) end(s os.Signal) time.Duration {
	m.t.Helper()
	began := time.Now()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
	select {
	case <-m.ended:
	case <-time.After(patience):
		m.t.Fatalf("weir up did not end within %v of %v", patience, s)
	}
	return time.Since(began)
}

// result of a command.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d\n--- stdout\n%s--- stderr\n%s", r.code, r.out, r.err)
}

// weir runs one command line.
func (m *mesh) weir(args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := m.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		m.t.Fatalf("weir %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must is weir, and it has to succeed.
func (m *mesh) must(args ...string) string {
	m.t.Helper()
	r := m.weir(args...)
	if r.code != 0 {
		m.t.Fatalf("weir %s: %v", strings.Join(args, " "), r)
	}
	return r.out
}

// apply applies one document.
func (m *mesh) apply(text string) {
	m.t.Helper()
	m.must("apply", "-f", m.file("apply.yaml", text))
}

// get asks the control plane's API.
func (m *mesh) get(path string, into any) error {
	r, err := m.client.Get("http://" + m.api + "/api/v1/" + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(r.Body)
		return fmt.Errorf("%s: %s %s", path, r.Status, b)
	}
	return json.NewDecoder(r.Body).Decode(into)
}

// raw is an object as it was written.
func (m *mesh) raw(path string) (string, error) {
	r, err := m.client.Get("http://" + m.api + "/api/v1/" + path + "?raw")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// findings are what the running mesh has to say.
func (m *mesh) findings() []apiv1.Finding {
	m.t.Helper()
	var s apiv1.Status
	if err := m.get("status", &s); err != nil {
		m.t.Fatal(err)
	}
	return s.Findings
}

// wait polls until ok returns nil.
func wait(t *testing.T, limit time.Duration, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
	}
}
