package cli

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weirmesh/weir/cli/client"
)

var update = flag.Bool("update", false, "rewrite the files that scripts compare with: only commit the changes if you understand what caused them and if they are desired")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"weir": func() {
			os.Exit(Main(context.Background(), Options{Args: os.Args[1:], Version: "v1.0.0", State: os.Getenv("STATE"),
				Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(), NoColor: os.Getenv("NO_COLOR") != ""}))
		},
		"weir-up-stand-in": standIn,
	})
}

// Each script is a person's session. What the control plane and the proxies answer
// stands in the script, too, in files named like the requests:
//
//	-- GET/api/v1/status.json --          the answer to GET /api/v1/status
//	-- proxies/default_a-0/GET/certs --   the answer of a proxy's admin interface
//
// "HTTP 404" in the first line is the status, "@-3m@" the time three minutes ago,
// $STATE the state folder, the file "requests" has the changes that were asked for, and "calls" a line of everything that
// was. Commands of our own:
//
//	mesh              start both, and write the state folder $STATE; the control plane is at $MESH, too
//	second FOLDER     start another control plane, whose answers stand below FOLDER, at $SECOND
//	mesh-process      start a process that holds the lock and ends with SIGTERM
//	kill-mesh         as if killed: nobody answers, the lock is free
//	await-program     until a program was asked for on up.sock
//
// The condition race is for scripts of commands that do one thing after the other: under the race detector each takes half a
// second to start, and shows nothing.
//
// On up.sock a program prints what was asked for to its standard output, then a line of
// its standard input, and a signal, if its argument is "wait" for one; it ends with 3.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Condition: func(cond string) (bool, error) {
			if cond == "race" {
				return raced, nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("STATE", e.Getenv("WORK")+"/state")
			e.Values["mesh"] = &standInMesh{asked: make(chan struct{}, 8)}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mesh": startMesh,
			"second": func(ts *testscript.TestScript, _ bool, args []string) {
				srv := httptest.NewServer(answers(ts, ts.MkAbs(args[0])))
				ts.Defer(srv.Close)
				ts.Setenv("SECOND", strings.TrimPrefix(srv.URL, "http://"))
			},
			"mesh-process":  startProcess,
			"await-program": func(ts *testscript.TestScript, _ bool, _ []string) { <-ts.Value("mesh").(*standInMesh).asked },
			"kill-mesh":     killMesh,
		},
	})
}

func startMesh(ts *testscript.TestScript, _ bool, _ []string) {
	state := ts.Getenv("STATE")
	ts.Check(os.MkdirAll(state, 0o700))
	srv := httptest.NewServer(answers(ts, ts.MkAbs(".")))
	ts.Setenv("MESH", strings.TrimPrefix(srv.URL, "http://"))
	lock, err := os.Create(client.LockFile(state))
	ts.Check(err)
	ts.Check(syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	_, err = fmt.Fprintf(lock, `{"pid":%d,"http":%q}`, os.Getpid(), strings.TrimPrefix(srv.URL, "http://"))
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(state, "token"), []byte("sesame\n"), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("requests"), nil, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("calls"), nil, 0o600))
	end := func() {
		srv.Close()
		_ = lock.Close()
	}
	ts.Defer(end)
	ts.Value("mesh").(*standInMesh).end = end

	ts.Check(os.MkdirAll(filepath.Dir(client.UpSocket(state)), 0o700))
	up, err := net.ListenUnix("unix", &net.UnixAddr{Name: client.UpSocket(state), Net: "unix"})
	ts.Check(err)
	ts.Defer(func() { _ = up.Close() })
	go func() {
		for {
			c, err := up.AcceptUnix()
			if err != nil {
				return
			}
			go answerUp(ts, c)
		}
	}()

	proxies, err := filepath.Glob(ts.MkAbs("proxies/*"))
	ts.Check(err)
	for _, p := range proxies {
		dir := filepath.Join(client.ProxyFolder(state), filepath.Base(p))
		ts.Check(os.MkdirAll(dir, 0o700))
		l, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
		ts.Check(err)
		admin := httptest.Server{Listener: l, Config: &http.Server{Handler: answers(ts, p), ReadHeaderTimeout: time.Minute}}
		admin.Start()
		ts.Defer(admin.Close)
	}
}

// standInMesh is the mesh that a script started.
type standInMesh struct {
	end   func()
	asked chan struct{} // gets a value with every program
}

func killMesh(ts *testscript.TestScript, _ bool, _ []string) { ts.Value("mesh").(*standInMesh).end() }

// answers serves the files below dir, and notes what is asked for.
func answers(ts *testscript.TestScript, dir string) http.Handler {
	note := func(file, text string) {
		f, err := os.OpenFile(ts.MkAbs(file), os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			ts.Logf("%v", err)
		}
		_, _ = fmt.Fprintf(f, "%s\n", strings.TrimSpace(text))
		_ = f.Close()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note("calls", r.Method+" "+r.URL.RequestURI())
		if r.Method != http.MethodGet {
			body, _ := io.ReadAll(r.Body)
			note("requests", r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization")+"\n"+strings.TrimSpace(string(body)))
		}
		path := filepath.Join(dir, r.Method, filepath.FromSlash(r.URL.Path))
		data, err := os.ReadFile(path + map[bool]string{true: ".yaml", false: ".json"}[r.URL.Query().Has("raw")])
		if err != nil {
			if data, err = os.ReadFile(path); err != nil {
				http.Error(w, `{"error":"the script has no answer to `+r.Method+" "+r.URL.Path+`"}`, http.StatusNotImplemented)
				return
			}
		}
		text := times.ReplaceAllStringFunc(strings.ReplaceAll(string(data), "$STATE", ts.Getenv("STATE")), func(s string) string {
			d, err := time.ParseDuration(strings.Trim(s, "@"))
			if err != nil {
				ts.Logf("%v", err)
			}
			return time.Now().Add(d).UTC().Format(time.RFC3339)
		})
		status := http.StatusOK
		if n, _ := fmt.Sscanf(text, "HTTP %d", &status); n == 1 {
			_, text, _ = strings.Cut(text, "\n")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

var times = regexp.MustCompile(`@-[0-9a-z]+@`)

func startProcess(ts *testscript.TestScript, _ bool, _ []string) {
	state := ts.Getenv("STATE")
	ts.Check(os.MkdirAll(state, 0o700))
	program, err := exec.LookPath("weir-up-stand-in")
	ts.Check(err)
	cmd := exec.Command(program, state)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		ts.Fatalf("the process says %q: %v", line, err)
	}
}

// standIn holds the lock of a state folder as `weir up` does.
func standIn() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	lock, err := os.Create(client.LockFile(os.Args[1]))
	err = errors.Join(err, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	_, werr := fmt.Fprintf(lock, `{"pid":%d,"http":"127.0.0.1:1"}`, os.Getpid())
	if err = errors.Join(err, werr); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	<-ctx.Done()
	runtime.KeepAlive(lock) // a collected file is closed, and its lock free
}
