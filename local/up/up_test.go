package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/local/netns"
	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/upsock"
)

// freeAddress is one of this machine that nobody listens on.
func freeAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (m meshFiles) options(t *testing.T, capture Capture) Options {
	t.Helper()
	logs, err := os.OpenFile(filepath.Join(filepath.Dir(m.bin), "logs"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { logs.Close() })
	return Options{
		State: m.state, Paths: []string{m.conf}, Capture: capture, HTTP: freeAddress(t), Ingress: freeAddress(t), Namespace: "default",
		Binaries: m.bin, InitArgs: []string{"up-init"}, Environ: []string{"PATH=/usr/bin:/bin", "HOME=/", "SECRET=of the user"}, Logs: logs,
	}
}

// running is a mesh in a test.
type running struct {
	t      *testing.T
	files  meshFiles
	o      Options
	report *Report
	socket string
	end    context.CancelFunc
	done   chan error
}

func start(t *testing.T, files meshFiles, o Options) *running {
	t.Helper()
	r := &running{t: t, files: files, o: o, socket: client.UpSocket(o.State), done: make(chan error, 1)}
	started := make(chan *Report, 1)
	r.o.Started = func(r *Report) { started <- r }
	var ctx context.Context
	ctx, r.end = context.WithCancel(t.Context())
	go func() { r.done <- Run(ctx, r.o) }()
	select {
	case r.report = <-started:
	case err := <-r.done:
		t.Fatalf("the mesh ended while starting: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the mesh is not up after 30 s")
	}
	return r
}

func (r *running) logs() string {
	b, err := os.ReadFile(r.o.Logs.Name())
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *running) logged(text string) {
	r.t.Helper()
	within(r.t, 20*time.Second, fmt.Sprintf("the log says %q", text), func() bool { return strings.Contains(r.logs(), text) })
}

func (r *running) list() []pod.Info {
	r.t.Helper()
	list, err := upsock.List(r.t.Context(), r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

// stop ends the mesh as Ctrl-C does and looks whether anything is left.
func (r *running) stop() {
	r.t.Helper()
	pids := r.processes()
	began := time.Now()
	r.end()
	if err := <-r.done; err != nil {
		r.t.Errorf("the mesh ended with: %v", err)
	}
	// 2 s is what a person gets; tests share the machine and run under the race detector.
	if took := time.Since(began); took > 4*time.Second {
		r.t.Errorf("the end took %v, want at most 2 s on an idle machine", took)
	}
	for _, pid := range pids {
		within(r.t, 5*time.Second, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
	if _, err := os.Stat(filepath.Join(r.o.State, "run")); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("the run folder is left: %v", err)
	}
	if held, err := client.Held(r.o.State); held || err != nil {
		r.t.Errorf("the lock is held: %v, %v", held, err)
	}
	for _, a := range []netip.AddrPort{r.o.HTTP, r.o.Ingress} {
		if err := free(a.String()); err != nil {
			r.t.Errorf("%s: %v", a, err)
		}
	}
}

// processes are those of this mesh, found by the paths they were started with.
func (r *running) processes() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if strings.Contains(string(line), r.files.bin) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// One mesh from start to end, in both ways of capture.
func TestMesh(t *testing.T) {
	for _, capture := range []Capture{CaptureEnv, CaptureNetns} {
		t.Run(string(capture), func(t *testing.T) {
			if capture == CaptureNetns {
				needNamespaces(t)
			}
			files := newMeshFiles(t)
			files.write(t, "shop.yaml", application)
			r := start(t, files, files.options(t, capture))
			testReport(t, r, capture)
			testExec(t, r, capture)
			testRun(t, r)
			testLogs(t, r)
			testCrash(t, r)
			testChange(t, r)
			testControlRestarts(t, r)
			r.stop()
		})
	}
}

func needNamespaces(t *testing.T) {
	t.Helper()
	if ok, why := netns.Probe(t.Context(), "up-init"); !ok {
		if os.Getenv("WEIR_KERNEL_TESTS") == "require" {
			t.Fatal("no network namespaces: ", why)
		}
		t.Skip("no network namespaces: ", why)
	}
}

func testReport(t *testing.T, r *running, capture Capture) {
	t.Helper()
	got := r.report
	if got.Capture != capture || got.Why == "" || got.PID != os.Getpid() || got.API != "http://"+r.o.HTTP.String() || got.Ingress != "http://"+r.o.Ingress.String() {
		t.Errorf("report %+v", got)
	}
	want := []ServiceReport{{Namespace: "default", Name: "shop", Ports: []uint16{80}, Versions: []string{"v1"}, Workloads: []string{"shop-v1-0"}, Ready: 1}}
	if d := cmp.Diff(want, got.Services); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
	var names []string
	for _, w := range got.Workloads {
		names = append(names, fmt.Sprint(w.Namespace, "/", w.Name, " ", w.Ready))
	}
	if d := cmp.Diff([]string{"default/shop-v1-0 true", "istio-system/istio-ingressgateway-0 true"}, names); d != "" {
		t.Errorf("workloads (-want +got):\n%s", d)
	}
	if i := slices.IndexFunc(got.Findings, func(f config.Finding) bool { return f.Code == config.ImageNotRunnable }); i < 0 ||
		!strings.Contains(got.Findings[i].Hint, "weir run --as default/stranger -- CMD") {
		t.Errorf("findings %v", got.Findings)
	}
	if b, err := os.ReadFile(filepath.Join(r.o.State, "run", "findings.json")); err != nil || !strings.Contains(string(b), string(config.ImageNotRunnable)) {
		t.Errorf("findings for the control plane: %s, %v", b, err)
	}
	if lock, err := client.ReadLock(r.o.State); err != nil || lock.PID != os.Getpid() || lock.HTTP != r.o.HTTP.String() || lock.Namespace != "default" {
		t.Errorf("lock %+v, %v", lock, err)
	}
	r.logged("shop-v1-0 | workload one listens")
}

// capturing runs f with a file whose content it returns.
func capturing(t *testing.T, f func(*os.File)) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	f(out)
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func testExec(t *testing.T, r *running, capture Capture) {
	t.Helper()
	exec := func(o upsock.ExecOptions) (out string, status int, err error) {
		null, e := os.Open(os.DevNull)
		if e != nil {
			t.Fatal(e)
		}
		defer null.Close()
		out = capturing(t, func(f *os.File) {
			o.Stdio = [3]*os.File{null, f, f}
			status, err = upsock.Exec(t.Context(), r.socket, o)
		})
		return out, status, err
	}
	sh := func(script string) upsock.Program {
		return upsock.Program{Argv: []string{"sh", "-c", script}, Env: []string{"MINE=yes"}}
	}

	out, status, err := exec(upsock.ExecOptions{Workload: "shop-v1", Program: sh("echo $COLOR $MINE $SECRET; pwd; exit 4")})
	dir, _ := os.Getwd()
	if want := "red yes\n" + dir + "\n"; err != nil || status != 4 || out != want {
		t.Errorf("exec: %q, status %d, %v, want %q and status 4", out, status, err, want)
	}
	mine := sh("echo $COLOR")
	mine.Env = []string{"COLOR=blue"}
	if out, _, err = exec(upsock.ExecOptions{Workload: "shop-v1", Program: mine}); err != nil || out != "blue\n" {
		t.Errorf("with a variable of its own: %q, %v", out, err)
	}
	if out, status, err = exec(upsock.ExecOptions{Workload: "shop-v1-0", Program: sh("kill -9 $$")}); err != nil || status != 128+9 {
		t.Errorf("a killed program: %q, %d, %v", out, status, err)
	}
	out, _, err = exec(upsock.ExecOptions{Workload: "shop-v1", Program: sh("echo $SHOP_SERVICE_HOST:$SHOP_SERVICE_PORT $HOSTNAME")})
	host, rest, _ := strings.Cut(strings.TrimSpace(out), ":")
	ip, ipErr := netip.ParseAddr(host)
	if err != nil || ipErr != nil || rest != "80 shop-v1-0" || ip.IsLoopback() != (capture == CaptureEnv) {
		t.Errorf("service variables: %q, %v", out, err)
	}
	for _, c := range []struct {
		o    upsock.ExecOptions
		want string
	}{
		{upsock.ExecOptions{Workload: "nobody", Program: sh("")}, "there is no workload nobody in namespace default"},
		{upsock.ExecOptions{Workload: "shop-v1", Container: "none", Program: sh("")}, "has no container none"},
		{upsock.ExecOptions{Workload: "shop-v1", Program: upsock.Program{Argv: []string{"no-such-program"}}}, "no-such-program"},
		{upsock.ExecOptions{Workload: "shop-v1"}, "there is no command"},
	} {
		if _, _, err := exec(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("exec %s: %v, want %q", c.o.Workload, err, c.want)
		}
	}

	// A client that goes away takes its program with it.
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		defer write.Close()
		null, err := os.Open(os.DevNull)
		if err == nil {
			defer null.Close()
			_, err = upsock.Exec(ctx, r.socket, upsock.ExecOptions{Workload: "shop-v1", Program: upsock.Program{Argv: []string{"sh", "-c", "echo on; sleep 1000"}, Stdio: [3]*os.File{null, write, write}}})
		}
		gone <- err
	}()
	b := make([]byte, 10)
	if n, err := read.Read(b); err != nil || string(b[:n]) != "on\n" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	cancel()
	if err := <-gone; err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(read); err != nil { // nobody holds the other end any more
		t.Error(err)
	}
}

func testRun(t *testing.T, r *running) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ready, signals := make(chan string, 1), make(chan os.Signal, 1)
	done := make(chan error, 1)
	status := -1
	go func() {
		var err error
		status, err = upsock.Run(t.Context(), r.socket, upsock.RunOptions{
			As: "default/stranger", Labels: map[string]string{"tier": "x"}, Ports: map[string]uint16{"http": 9080},
			Program: upsock.Program{Argv: []string{r.files.bin + "/workload", "mine"}, Env: []string{"PATH=/bin"}, Stdio: [3]*os.File{null, r.o.Logs, r.o.Logs}, Signals: signals},
			Ready:   func(name string) { ready <- name },
		})
		done <- err
	}()
	select {
	case name := <-ready:
		if name != "default/stranger-0" {
			t.Errorf("joined as %s", name)
		}
	case err := <-done:
		t.Fatalf("run: %v", err)
	}
	list := r.list()
	i := slices.IndexFunc(list, func(p pod.Info) bool { return p.Name == "stranger-0" })
	if i < 0 || !list[i].Ready || list[i].Labels["app"] != "stranger" || list[i].Labels["tier"] != "x" || list[i].ServiceAccount != "default" {
		t.Errorf("joined: %+v", list)
	}
	r.logged("workload mine listens")
	signals <- syscall.SIGTERM
	if err := <-done; err != nil || status != 0 {
		t.Errorf("run ended with status %d, %v", status, err)
	}
	within(t, 5*time.Second, "the workload leaves", func() bool {
		return !slices.ContainsFunc(r.list(), func(p pod.Info) bool { return p.Name == "stranger-0" })
	})
	_, err = upsock.Run(t.Context(), r.socket, upsock.RunOptions{As: "x", Program: upsock.Program{Argv: []string{"/no/such/program"}, Stdio: [3]*os.File{null, null, null}}})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is not there: %v", err)
	}

	// Until the program runs, signals end the wait for it.
	waiting := make(chan string, 1)
	go func() {
		_, err := upsock.Run(t.Context(), r.socket, upsock.RunOptions{
			As:      "never",
			Program: upsock.Program{Argv: []string{"/bin/true"}, Stdio: [3]*os.File{null, null, null}, Signals: signals},
			Message: func(m string) { waiting <- m },
		})
		done <- err
	}()
	if m := <-waiting; !strings.Contains(m, "proxy") {
		t.Errorf("waits for %q", m)
	}
	signals <- syscall.SIGINT
	if err := <-done; err == nil || !strings.Contains(err.Error(), "ended before the program was started") {
		t.Errorf("run ended with %v", err)
	}

	// Names become names of files and identities.
	for name, o := range map[string]upsock.RunOptions{
		`"../x" is not a workload's name`:               {As: "default/../x"},
		`"b/c" is not a workload's name`:                {As: "a/b/c"},
		`"Bad_Name" is not a workload's name`:           {As: "Bad_Name"},
		`".." is not a namespace`:                       {As: "../x"},
		`"../.." is not a service account's name`:       {As: "x", ServiceAccount: "../.."},
		`"a b=c" is not a label`:                        {As: "x", Labels: map[string]string{"a b": "c"}},
		`"Web Port" is not a port's name`:               {As: "x", Ports: map[string]uint16{"Web Port": 80}},
		"a workload needs a name and a command":         {As: "x/"},
		`"` + strings.Repeat("a", 64) + `" is not a wo`: {As: strings.Repeat("a", 64)},
	} {
		o.Program = upsock.Program{Argv: []string{"/bin/true"}, Stdio: [3]*os.File{null, null, null}}
		var refused *upsock.Error
		if _, err := upsock.Run(t.Context(), r.socket, o); !errors.As(err, &refused) || !strings.HasPrefix(refused.Message, name) || refused.Hint == "" {
			t.Errorf("got %#v, want %s", err, name)
		}
	}
}

func testLogs(t *testing.T, r *running) {
	t.Helper()
	logs := func(o upsock.LogsOptions) string {
		var err error
		out := capturing(t, func(f *os.File) { err = upsock.Logs(t.Context(), r.socket, o, f) })
		if err != nil {
			return err.Error()
		}
		return out
	}
	if got := logs(upsock.LogsOptions{Workload: "shop-v1", Tail: -1}); got != "workload one listens\n" {
		t.Errorf("logs of a workload: %q", got)
	}
	if got := logs(upsock.LogsOptions{Workload: "shop-v1", Proxy: true, Tail: -1}); !strings.HasPrefix(got, "proxy sidecar --name shop-v1-0 ") {
		t.Errorf("logs of its proxy: %q", got)
	}
	if got := logs(upsock.LogsOptions{Workload: "shop-v1", Container: "none", Tail: -1}); !strings.Contains(got, "shop-v1-0 has no container none") {
		t.Errorf("logs of a container that is not there: %q", got)
	}
	if got := logs(upsock.LogsOptions{Workload: "weir-control", Tail: -1}); !strings.Contains(got, "asked about default/shop-v1-0 healthy") {
		t.Errorf("logs of the control plane: %q", got)
	}
	if got := logs(upsock.LogsOptions{Tail: 1000}); !strings.Contains(got, "shop-v1-0 | workload one listens\n") {
		t.Errorf("all logs: %q", got)
	}
	if got := logs(upsock.LogsOptions{Workload: "nobody"}); !strings.Contains(got, "there is no workload nobody") {
		t.Errorf("logs of nobody: %q", got)
	}
}

func testCrash(t *testing.T, r *running) {
	t.Helper()
	list := r.list()
	pid := list[0].Containers[0].PID
	if list[0].Name != "shop-v1-0" || pid == 0 {
		t.Fatalf("%+v", list)
	}
	// By its own namespace's number.
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := upsock.Exec(t.Context(), r.socket, upsock.ExecOptions{Workload: "shop-v1-0", Program: upsock.Program{Argv: []string{"kill", "-9", fmt.Sprint(pid)}, Stdio: [3]*os.File{null, null, null}}}); err != nil {
		t.Fatal(err)
	}
	r.logged("shop-v1-0: ended: signal: killed, started again in")
	within(t, 5*time.Second, "the workload is back", func() bool {
		l := r.list()
		return l[0].Ready && l[0].Restarts == 1 && l[0].Containers[0].PID != pid
	})
}

// An edited file replaces the pod; the broken one leaves everything as it is and says so.
func testChange(t *testing.T, r *running) {
	t.Helper()
	changed := strings.ReplaceAll(application, "/workload, one]", "/workload, two]")
	r.files.write(t, "shop.yaml", changed)
	r.logged("Deployment default/shop-v1 has changed")
	r.logged("workload two listens")
	within(t, 10*time.Second, "the new pod alone is there", func() bool {
		l := r.list()
		return len(l) == 2 && l[0].Name == "shop-v1-1" && l[0].Ready
	})
	r.files.write(t, "shop.yaml", strings.ReplaceAll(changed, "replicas: 1", "replicas: many"))
	r.logged("error IST0106 Deployment default/shop-v1")
	if l := r.list(); l[0].Name != "shop-v1-1" || !l[0].Ready {
		t.Errorf("after a broken file: %+v", l)
	}
}

func testControlRestarts(t *testing.T, r *running) {
	t.Helper()
	for _, pid := range r.processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), "weir-control\x00") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.logged("the control plane ended: signal: killed, started again in")
	c := client.New(r.o.HTTP.String(), redact.String{})
	within(t, 10*time.Second, "the control plane is back", func() bool { _, err := c.Status(t.Context()); return err == nil })
}

// What keeps a mesh from being started is said in a sentence, with the remedy.
func TestCannotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().(*net.TCPAddr).AddrPort()
	for _, c := range []struct {
		name          string
		change        func(*Options, meshFiles)
		message, hint string
	}{
		{"the API's port is taken", func(o *Options, _ meshFiles) { o.HTTP = addr }, addr.String() + ", for the control plane's API, is taken by another program", "--http"},
		{"the ingress port is taken", func(o *Options, _ meshFiles) { o.Ingress = addr }, addr.String() + ", for the ingress gateway, is taken by another program", "--ingress"},
		{"one address for both", func(o *Options, _ meshFiles) { o.Ingress = o.HTTP }, "are both", "its own"},
		{"an address of another machine", func(o *Options, _ meshFiles) { o.HTTP = netip.MustParseAddrPort("192.0.2.1:15014") }, "cannot be listened on", "--http"},
		{"no such file", func(o *Options, _ meshFiles) { o.Paths = []string{"/no/such/file"} }, "/no/such/file does not exist", "-f"},
		{"no such demo", func(o *Options, _ meshFiles) { o.Demo = "zoo" }, `there is no demo "zoo"`, "bookinfo"},
		{"no programs", func(o *Options, _ meshFiles) { o.Binaries, o.Environ = "/nowhere", []string{"PATH=/also-nowhere"} }, "weir-control is neither in /nowhere", "make build"},
		{"a long path", func(o *Options, _ meshFiles) { o.State = "/tmp/" + strings.Repeat("x", 100) }, "is too long", ""},
		{"a control plane that fails", func(_ *Options, m meshFiles) {
			if err := os.MkdirAll(m.state, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"lock", "token", "control-fails"} {
				if err := os.WriteFile(filepath.Join(m.state, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "the control plane ended with status 1", "it is Monday"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := newMeshFiles(t)
			o := files.options(t, CaptureEnv)
			c.change(&o, files)
			err := Run(t.Context(), o)
			var failed *Error
			if !errors.As(err, &failed) || !strings.Contains(failed.Message, c.message) || !strings.Contains(failed.Hint, c.hint) {
				t.Errorf("got %#v, want %q and %q", err, c.message, c.hint)
			}
			if held, _ := client.Held(o.State); held {
				t.Error("the lock is held")
			}
		})
	}
}

// A second mesh on the same folder is told who has it; a folder whose mesh was killed is
// taken over, and what that left behind is ended.
func TestTakeOver(t *testing.T) {
	files := newMeshFiles(t)
	files.write(t, "shop.yaml", strings.ReplaceAll(application, "[BIN/workload, one]", `[sh, -c, "BIN/workload one & wait"]`))
	if os.Getenv("UP_STATE") != "" { // the mesh that will be killed
		o := files.options(t, CaptureEnv)
		o.State = os.Getenv("UP_STATE")
		_ = start(t, files, o)
		fmt.Println("up", files.bin)
		select {}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	first := exec.Command(exe, "-test.run=TestTakeOver$")
	first.Env = append(os.Environ(), "UP_STATE="+files.state)
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	n, err := out.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "up ") {
		t.Fatalf("%q, %v", b[:n], err)
	}
	left := running{t: t, files: meshFiles{bin: strings.TrimSpace(strings.TrimPrefix(string(b[:n]), "up "))}}
	defer os.RemoveAll(filepath.Dir(left.files.bin))

	o := files.options(t, CaptureEnv)
	err = Run(t.Context(), o)
	var failed *Error
	if !errors.As(err, &failed) || !strings.Contains(failed.Message, fmt.Sprintf("(process %d, API at http://127.0.0.1:", first.Process.Pid)) || !strings.Contains(failed.Hint, "weir down") {
		t.Errorf("a second mesh: %#v", err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = first.Process.Wait()
	applied := filepath.Join(o.State, "applied")
	if err := errors.Join(os.MkdirAll(applied, 0o700), os.WriteFile(filepath.Join(applied, "ConfigMap._default_c.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var progress []string
	// Where all addresses are listened on, programs of this machine call one of them.
	o.HTTP = netip.AddrPortFrom(netip.IPv4Unspecified(), o.HTTP.Port())
	o.Progress = func(s string) { progress = append(progress, s) }
	r := start(t, files, o)
	// The shell's child alone is left for certain; others may still be dying.
	if !slices.ContainsFunc(progress, func(s string) bool {
		return strings.HasSuffix(s, "of an earlier mesh's programs, which were left behind")
	}) {
		t.Errorf("progress %q", progress)
	}
	if pids := left.processes(); len(pids) > 0 {
		t.Errorf("left of the first mesh: %v", pids)
	}
	local := fmt.Sprintf("127.0.0.1:%d", o.HTTP.Port())
	if lock, err := client.ReadLock(o.State); err != nil || lock.HTTP != local || r.report.API != "http://"+local {
		t.Errorf("lock %+v, %v, report of %s, want %s", lock, err, r.report.API, local)
	}
	if r.report.Applied != 1 {
		t.Errorf("%d objects applied earlier, want 1", r.report.Applied)
	}
	r.stop()
}

func TestReached(t *testing.T) {
	for listens, want := range map[string]string{"127.0.0.1:80": "127.0.0.1:80", "192.0.2.1:80": "192.0.2.1:80", "0.0.0.0:80": "127.0.0.1:80", "[::]:80": "[::1]:80"} {
		if got := reached(netip.MustParseAddrPort(listens)).String(); got != want {
			t.Errorf("%s: %s, want %s", listens, got, want)
		}
	}
}

// A folder full of objects does not flood the terminal.
func TestFirst(t *testing.T) {
	lines := []string{"a", "b", "c", "d"}
	if d := cmp.Diff(lines, first(4, lines, "changes")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"a", "b", "and 2 more changes"}, first(3, lines, "changes")); d != "" || lines[2] != "c" {
		t.Error(d, lines)
	}
}
