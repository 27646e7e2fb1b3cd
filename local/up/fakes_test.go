package up

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

// The test binary is all the programs of a mesh: they are links to it, and it looks at
// the name it was called by.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "up-init" {
		if err := RunInit(); err != nil {
			fmt.Fprintln(os.Stderr, "up-init:", err)
			os.Exit(1)
		}
		return
	}
	run, ok := map[string]func(context.Context, []string) error{
		"weir-control": fakeControl, "weir-proxy": fakeProxy, "workload": workload,
	}[filepath.Base(os.Args[0])]
	if !ok {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// fakeControl answers the API as the runtime uses it, and gives services addresses.
func fakeControl(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("weir-control", flag.ContinueOnError)
	var paths []string
	f.Func("f", "", func(s string) error { paths = append(paths, s); return nil })
	state, addr := f.String("state", "", ""), f.String("http", "", "")
	namespace := f.String("namespace", "", "")
	for _, name := range []string{"grpc", "grpc-unix", "pods", "trust-domain"} {
		f.String(name, "", "")
	}
	optional := f.Bool("grpc-optional", false, "")
	f.Bool("access-log", false, "")
	fallback := f.String("fallback", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if !*optional {
		return errors.New("weir-control: somebody took 127.0.0.1:15012 a moment ago")
	}
	if _, err := os.Stat(filepath.Join(*state, "control-fails")); err == nil {
		return fmt.Errorf("weir-control: it is Monday")
	}
	if _, err := ca.OpenSelfSigned(filepath.Join(*state, "ca"), "cluster.local", ca.Options{}); err != nil {
		return err
	}
	s, err := store.New(store.Options{
		Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, State: *state,
		Publish: func(*store.Update) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(apiv1.Status{}) })
	mux.HandleFunc("GET /api/v1/wait", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(os.Stderr, "asked about", r.URL.Query().Get("workload"), r.URL.Query().Get("health"))
		_, _ = io.WriteString(w, "{}")
	})
	srv := &http.Server{Handler: mux}
	context.AfterFunc(ctx, func() { srv.Close() })
	go func() { _ = srv.Serve(l) }()
	return s.Run(ctx, file.New(file.Options{Paths: append(paths, filepath.Join(*state, "applied")), Namespace: *namespace}),
		file.New(file.Options{Paths: []string{*fallback}, Namespace: *namespace, Rank: config.Fallback}))
}

// fakeProxy carries nothing. It is ready at once, or never if it is called so.
func fakeProxy(ctx context.Context, args []string) error {
	fmt.Println("proxy", strings.Join(args, " "))
	var socket string
	ready, fd := http.StatusOK, -1
	for i, a := range args[:len(args)-1] {
		switch a {
		case "--admin":
			socket = strings.TrimPrefix(args[i+1], "unix://")
		case "--name":
			if args[i+1] == "never-0" {
				ready = http.StatusServiceUnavailable
			}
		case "--token-fd":
			fmt.Sscan(args[i+1], &fd)
		}
	}
	token, err := io.ReadAll(os.NewFile(uintptr(fd), "token"))
	if err != nil || !strings.HasPrefix(string(token), "weir1.") {
		return fmt.Errorf("token %q: %w", token, err)
	}
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(ready) })
	srv := &http.Server{Handler: mux}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// workload listens where it is told, or on the port it is given, and ends with SIGTERM.
func workload(ctx context.Context, args []string) error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "9080"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("BIND_ADDRESS"), port))
	if err != nil {
		return err
	}
	fmt.Println("workload", strings.Join(args, " "), "listens")
	<-ctx.Done()
	fmt.Println("workload ends")
	return l.Close()
}

// meshFiles makes the folders of a mesh: programs, configuration, state.
type meshFiles struct{ bin, conf, state string }

func newMeshFiles(t *testing.T) meshFiles {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Unix sockets have short names, and test folders have long ones.
	dir, err := os.MkdirTemp("", "up")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := meshFiles{dir + "/bin", dir + "/conf", dir + "/state"}
	for _, d := range []string{m.bin, m.conf} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"weir-control", "weir-proxy", "workload"} {
		if err := os.Symlink(exe, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

const application = `apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 9080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-v1}
spec:
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop, version: v1}}
    spec:
      containers:
      - {name: shop, image: shop, command: [BIN/workload, one], ports: [{containerPort: 9080}], env: [{name: COLOR, value: red}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stranger}
spec:
  selector: {matchLabels: {app: stranger}}
  template:
    metadata: {labels: {app: stranger}}
    spec:
      containers: [{name: stranger, image: nginx}]
`

func (m meshFiles) write(t *testing.T, name, text string) {
	t.Helper()
	tmp := filepath.Join(m.conf, ".new")
	if err := os.WriteFile(tmp, []byte(strings.ReplaceAll(text, "BIN", m.bin)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(m.conf, name)); err != nil {
		t.Fatal(err)
	}
}

// within waits for a condition of the real world.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(d); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not within %v", what, d)
		}
	}
}
