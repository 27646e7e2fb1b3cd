package live

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/test/mesh"
)

var update = flag.Bool("update", false, "write what commands print into the transcripts")

// Each file of testdata is what somebody does with a mesh that runs, and reads: real proxies, the real control plane, the real command
// line. A section is a step, in its order:
//
//	objects.yaml               objects besides the service echo, whose workload is echo-v1; the caller is client
//	call GET /status/503 503   a request of the client and the status it gets; what follows are headers
//	hold /wait 200             one that the application holds, until release; for its end, its status is known already
//	queue / 200                one that waits for a connection, until release
//	release                    the application lets go, and what was held gets its status
//	weir ARGUMENTS             a command line and what it prints in the end, errors and exit status behind it
//	tap GET /status/418 418 | ARGUMENTS   what `weir tap` prints first, with these arguments, while that request is made
//
// The application answers /status/N with N, holds /wait and, of /again, all attempts but the first, which it answers with 503. Times,
// durations, ids, addresses and folders are written as TIME, SPAN, ID, ADDRESS and …; proxies report every few seconds, so a
// command is repeated until it prints what is expected. With -update it is asked once, when they have, and what it prints is written.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(f)
			if err != nil {
				t.Fatal(err)
			}
			s := newSession(t)
			for i := range a.Files {
				s.step(a.Files[i].Name, &a.Files[i].Data)
			}
			if *update {
				if err := os.WriteFile(f, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// reported is after how long proxies have reported what happened.
const reported = 7 * time.Second

// session is a mesh with a client, and an application that the test is.
type session struct {
	*mesh.Mesh
	t      *testing.T
	client *mesh.Workload
	app    *application
	wait   sync.WaitGroup // for calls that are held
}

func newSession(t *testing.T) *session {
	s := &session{Mesh: mesh.New(t, nil), t: t, app: &application{let: make(chan struct{})}}
	s.Config("echo.yaml", service)
	all := s.Workloads(mesh.Spec{Name: "client-0", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}},
		mesh.Spec{Name: "echo-v1-0", Owner: "echo-v1", ServiceAccount: "echo", Labels: map[string]string{"app": "echo"}, Ports: []mesh.Port{{Name: "http", Number: 8080}}})
	s.client = all[0]
	l, err := net.Listen("tcp", all[1].App(8080).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.app, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		s.app.release()
		s.wait.Wait()
		_ = server.Close()
	})
	return s
}

func (s *session) step(line string, text *[]byte) {
	s.t.Helper()
	words := strings.Fields(line)
	switch verb, args := words[0], words[1:]; verb {
	case "objects.yaml":
		s.Config(line, string(*text))
	case "call":
		s.call(args[0], args[1], args[2], args[3:]...)
	case "hold":
		n := s.app.held()
		s.wait.Go(func() { s.call(http.MethodGet, args[0], args[1]) })
		s.Eventually("the application holds it", func() error {
			if s.app.held() <= n {
				return errors.New("not yet")
			}
			return nil
		})
	case "queue":
		s.wait.Go(func() { s.call(http.MethodGet, args[0], args[1]) })
		s.Eventually("it waits for a connection", func() error {
			if stats := string(s.client.Admin(http.MethodGet, "/stats?filter=echo").Body); !strings.Contains(stats, "upstream_rq_pending_active: 1\n") {
				return fmt.Errorf("not yet: %s", stats)
			}
			return nil
		})
	case "release":
		s.app.release()
		s.wait.Wait()
	case "tap":
		got := s.tapped(args)
		if *update {
			*text = []byte(got)
		}
		if diff := cmp.Diff(string(*text), got); diff != "" {
			s.t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	case "weir":
		if *update {
			<-time.After(reported)
			*text = []byte(s.said(args))
		}
		s.weir(args, string(*text))
	default:
		s.t.Fatalf("there is no step %q", line)
	}
}

func (s *session) call(method, path, status string, headers ...string) {
	for i := range headers {
		headers[i] = strings.Replace(headers[i], ":", ": ", 1)
	}
	if r := mesh.Do(s.client.Client(), method, "http://echo:8080"+path, nil, headers...); strconv.Itoa(r.Status) != status {
		s.t.Errorf("%s %s: %v, want %s", method, path, r, status)
	}
}

// weir waits until a command line prints what is expected.
func (s *session) weir(args []string, want string) {
	s.t.Helper()
	diff := ""
	err := s.Await(func() error {
		if diff = cmp.Diff(want, s.said(args)); diff != "" {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		s.t.Errorf("weir %s (-want +got):\n%s\nit prints\n%s", strings.Join(args, " "), diff, s.said(args))
	}
}

// said is what a command line prints now.
func (s *session) said(args []string) string {
	var files [2]*os.File
	for i := range files {
		files[i] = s.file()
		defer files[i].Close()
	}
	status := s.main(s.t.Context(), args, files[0], files[1])
	text := s.read(files[0]) + s.read(files[1])
	if status != 0 {
		text += fmt.Sprintf("exit status %d\n", status)
	}
	return s.steady(text)
}

// tapped is the first line that a tap prints while a request is made again and again: a proxy is told of the tap a little later.
func (s *session) tapped(words []string) string {
	at := slices.Index(words, "|")
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	out := s.file()
	defer out.Close()
	status := make(chan int, 1)
	go func() { status <- s.main(ctx, append([]string{"tap"}, words[at+1:]...), out, out) }()
	first := ""
	s.Eventually("the tap shows a request", func() error {
		s.call(words[0], words[1], words[2], words[3:at]...)
		if text := s.read(out); strings.Contains(text, "\n") {
			first, _, _ = strings.Cut(text, "\n")
			return nil
		}
		return errors.New("not yet")
	})
	cancel()
	if n := <-status; n != 0 {
		s.t.Errorf("a tap that is ended has exit status %d:\n%s", n, s.read(out))
	}
	return s.steady(first + "\n")
}

func (s *session) main(ctx context.Context, args []string, out, errs *os.File) int {
	return cli.Main(ctx, cli.Options{Args: append(slices.Clone(args), "--api", s.Address()), State: filepath.Join(s.Dir, "nothing"), Stdin: os.Stdin, Stdout: out, Stderr: errs, NoColor: true})
}

func (s *session) file() *os.File {
	f, err := os.CreateTemp(s.Dir, "said-")
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s *session) read(f *os.File) string {
	data, err := os.ReadFile(f.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// changing is what differs from run to run, and what stands for it.
var changing = []struct {
	is    *regexp.Regexp
	stand string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(\.\d+)?`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`127\.\d+\.\d+\.\d+(:\d+)?`), "ADDRESS"},
	{regexp.MustCompile(`\b[\d.]+(e-?\d+)? ?(ms|µs)\b`), "SPAN"},
	{regexp.MustCompile(`[\d.]+/s\b`), "RATE"},
	{regexp.MustCompile(` {2,}`), "  "},
}

func (s *session) steady(text string) string {
	text = strings.ReplaceAll(text, s.Dir, "…")
	for _, c := range changing {
		text = c.is.ReplaceAllString(text, c.stand)
	}
	return text
}

// application is what the test serves as.
type application struct {
	mu      sync.Mutex
	seen    map[string]bool // ids of requests for /again
	holding int
	let     chan struct{}
	once    sync.Once
}

func (a *application) held() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.holding
}

func (a *application) release() { a.once.Do(func() { close(a.let) }) }

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	hold := r.URL.Path == "/wait"
	a.mu.Lock()
	if id := r.Header.Get("x-request-id"); r.URL.Path == "/again" {
		if hold = a.seen[id]; !hold {
			if a.seen == nil {
				a.seen = map[string]bool{}
			}
			a.seen[id] = true
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	if hold {
		a.holding++
	}
	a.mu.Unlock()
	if hold {
		select {
		case <-a.let:
		case <-r.Context().Done():
		}
	}
	if status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/status/")); err == nil {
		w.WriteHeader(status)
	}
}
