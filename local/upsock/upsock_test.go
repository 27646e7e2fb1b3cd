package upsock

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/supervise"
)

// What programs and workloads do is tested with whole meshes in local/up; here is what a
// client may send, and what is said to it.

func newServer() *Server {
	logs := supervise.NewLogs(io.Discard, false)
	fmt.Fprintln(logs.Source("shown", false), "a line")
	fmt.Fprintln(logs.Source("weir-control", true), "one\ntwo\nthree")
	return &Server{Runtime: pod.New(pod.Options{Logs: logs, Namespace: "default"}), Logs: logs}
}

// serve opens a socket with s behind it.
func serve(t *testing.T, s *Server) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "up") // short, as names of sockets must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path = filepath.Join(dir, "up.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended, opened := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- Listen(ctx, path, func(c *net.UnixConn) { go s.Serve(ctx, c) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	go func() {
		defer close(opened)
		for {
			if c, err := net.Dial("unix", path); err == nil {
				c.Close()
				return
			}
		}
	}()
	select {
	case <-opened:
	case <-time.After(10 * time.Second):
		t.Fatal("the socket is not open after 10 s")
	}
	return path
}

func TestListIsEmptyNotNull(t *testing.T) {
	path := serve(t, newServer())
	list, err := List(t.Context(), path)
	if err != nil || list == nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestNoMesh(t *testing.T) {
	var e *Error
	if _, err := List(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.As(err, &e) || !strings.Contains(e.Hint, "weir up") {
		t.Errorf("%v", err)
	}
}

// Requests that make no sense are refused with a sentence, and the descriptors that came
// with them are closed.
func TestRefused(t *testing.T) {
	path := serve(t, newServer())
	for _, c := range []struct {
		name  string
		r     request
		files int
		want  string
	}{
		{"an unknown request", request{Do: "dance"}, 0, `"dance" is not known here`},
		{"exec without descriptors", request{Do: "exec", Workload: "a", Argv: []string{"x"}}, 0, "exec came with 0 descriptors, want 3"},
		{"list with one", request{Do: "list"}, 1, "list came with 1 descriptors, want 0"},
		{"exec without a command", request{Do: "exec", Workload: "a"}, 3, "there is no command"},
		{"exec in nobody", request{Do: "exec", Workload: "a", Argv: []string{"x"}}, 3, "there is no workload a in namespace default"},
		{"run without a name", request{Do: "run", Argv: []string{"x"}}, 3, "a workload needs a name and a command"},
		{"run while nothing runs", request{Do: "run", As: "a", Argv: []string{"x"}}, 3, "the mesh is not running"},
		{"logs of nobody", request{Do: "logs", Workload: "a"}, 1, "there is no workload a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			files := make([]*os.File, c.files)
			for i := range files {
				files[i] = write
			}
			conn, answers, err := call(t.Context(), path, c.r, files...)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			write.Close()
			if _, err := next(answers); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := io.ReadAll(read); err != nil { // ends when nobody has the other end
				t.Error(err)
			}
		})
	}
}

func TestNonsenseEndsTheConnection(t *testing.T) {
	path := serve(t, newServer())
	for _, text := range []string{"\n", "GET / HTTP/1.1\r\n\r\n", "{\"do\":1}\n", "[]\n", strings.Repeat("x", maxRequest+8192)} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, text) }()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.20q: answered %q, %v", text, b, err)
		}
		c.Close()
	}
}

func TestLogsOfTheControlPlane(t *testing.T) {
	path := serve(t, newServer())
	for _, c := range []struct {
		o    LogsOptions
		want string
	}{
		{LogsOptions{Workload: "weir-control", Tail: 2}, "two\nthree\n"},
		{LogsOptions{Workload: "weir-control", Tail: -1}, "one\ntwo\nthree\n"},
		{LogsOptions{Tail: -1}, "shown | a line\n"},
	} {
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := Logs(t.Context(), path, c.o, out); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(out.Name()); err != nil || string(got) != c.want {
			t.Errorf("%+v: %q, %v, want %q", c.o, got, err, c.want)
		}
	}
}

// A followed log goes on until the reader has enough.
func TestFollow(t *testing.T) {
	s := newServer()
	path := serve(t, s)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Logs(ctx, path, LogsOptions{Workload: "weir-control", Follow: true, Tail: 1}, write)
		write.Close()
	}()
	lines := bufio.NewReader(read)
	for i, want := range []string{"three\n", "four\n"} {
		if i == 1 {
			fmt.Fprintln(s.Logs.Source("weir-control", true), "four")
		}
		if got, err := lines.ReadString('\n'); got != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{exited{3, 3 << 8}, 3},
		{fmt.Errorf("wrapped: %w", exited{-1, 9}), 128 + 9},
		{errors.New("never started"), 255},
	} {
		if got := exitStatus(c.err); *got != c.want {
			t.Errorf("%v: %d, want %d", c.err, *got, c.want)
		}
	}
}

type exited struct {
	code   int
	status syscall.WaitStatus
}

func (e exited) Error() string { return "exited" }
func (e exited) ExitCode() int { return e.code }
func (e exited) Sys() any      { return e.status }

// Whatever a client sends first, the request is what the line says or the connection ends,
// and no descriptor is left.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"do":"exec","workload":"a","argv":["x"],"tty":true}`+"\n"), true)
	f.Add([]byte("{}\n{}"), false)
	f.Add([]byte("\n"), true)
	f.Add([]byte(`{"do":"run","ports":{"http":65536}}`+"\n"), false)
	f.Fuzz(func(t *testing.T, data []byte, withFile bool) {
		p, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range p {
			file := os.NewFile(uintptr(fd), "pair")
			c, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			ends[i] = c.(*net.UnixConn)
		}
		defer ends[1].Close()
		go func() {
			defer ends[0].Close()
			if withFile && len(data) > 0 {
				if _, _, err := ends[0].WriteMsgUnix(data[:1], syscall.UnixRights(0), nil); err != nil {
					return
				}
				_, _ = ends[0].Write(data[1:])
				return
			}
			_, _ = ends[0].Write(data)
		}()
		var r request
		files, lines, err := receive(ends[1], &r)
		if err != nil {
			return
		}
		closeAll(files)
		if want := withFile && len(data) > 0; (len(files) == 1) != want {
			t.Errorf("%d descriptors", len(files))
		}
		line, rest, _ := strings.Cut(string(data), "\n")
		if !json.Valid([]byte(line)) {
			t.Errorf("%q was taken for a request", line)
		}
		if got, _ := io.ReadAll(lines); string(got) != rest {
			t.Errorf("after the request: %q, want %q", got, rest)
		}
	})
}
