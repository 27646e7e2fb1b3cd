package soak_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// orders are what a process of its own that holds a crowd is told, on its standard input; the input's end ends the crowd. A
// process has no more descriptors than another, so that connections are shared out among several.
type orders struct {
	Size    int
	Targets map[string]string // where the workload's program calls host:port
	From    []net.IP          // where connections come from, in turn
	Roots   string            // a file: what the application proves itself by
}

// news is what such a process says, a line each: that all connections were opened once, or that one was used.
type news struct {
	Opened bool
	Kind   crowdKind
	Error  string `json:",omitempty"`
}

const crowdVariable = "WEIR_SOAK_CROWD"

func TestMain(m *testing.M) {
	if os.Getenv(crowdVariable) == "" {
		os.Exit(m.Run())
	}
	if err := obey(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// obey is the process with the crowd.
func obey(in io.Reader, out io.Writer) error {
	var o orders
	decode := json.NewDecoder(in)
	if err := decode.Decode(&o); err != nil {
		return err
	}
	text, err := os.ReadFile(o.Roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	var mu sync.Mutex
	encode, next := json.NewEncoder(out), 0
	say := func(n news) {
		mu.Lock()
		defer mu.Unlock()
		_ = encode.Encode(n) // who reads no more ends this
	}
	x := &traffic{roots: &tls.Config{RootCAs: pool, ServerName: "soak"}, dial: func(ctx context.Context, target string) (net.Conn, error) {
		mu.Lock()
		from := o.From[next%len(o.From)]
		next++
		mu.Unlock()
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext(ctx, "tcp", o.Targets[target])
	}}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in)
	}()
	newCrowd(o.Size).live(ctx, x, func() { say(news{Opened: true}) }, func(k crowdKind, err error) {
		n := news{Kind: k}
		if err != nil {
			n.Error = err.Error()
		}
		say(n)
	})
	return nil
}

// gather has a crowd live in a process of its own, as the workload's program would, until ctx ends.
func gather(ctx context.Context, w *mesh.Workload, s *server, size int, opened func(), tell func(crowdKind, error)) error {
	o := orders{Size: size, Targets: map[string]string{}, Roots: s.cert}
	for i := range byte(4) {
		ip := w.IP().As4()
		ip[2], ip[3] = 250, 1+i
		o.From = append(o.From, ip[:])
	}
	var err error
	for _, target := range crowdTargets {
		if o.Targets[target], err = w.Resolve(target); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command(self)
	c.Env, c.Stderr = append(os.Environ(), crowdVariable+"=1"), os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = in.Close() })()
	told := json.NewEncoder(in).Encode(o)
	for decode := json.NewDecoder(bufio.NewReader(out)); ; {
		var n news
		err := decode.Decode(&n)
		switch {
		case errors.Is(err, io.EOF):
			return errors.Join(told, c.Wait())
		case err != nil:
			return errors.Join(told, err, c.Process.Kill(), c.Wait())
		case n.Opened:
			opened()
		case n.Error != "":
			tell(n.Kind, errors.New(n.Error))
		default:
			tell(n.Kind, nil)
		}
	}
}

// crowdTargets is where a crowd's members go, by their kind.
var crowdTargets = []string{kept1: "app:8080", kept2: "app:8081", keptWebSocket: "app:8080", keptTCP: "app:9000", keptTLS: "app:9443", keptStream: "app:8081"}

// crowdSize is how many connections each of several crowds is to keep (CONNECTIONS in all). Three in ten connections pass the proxy
// of who called as two, which is more than any other process has.
func crowdSize(t *testing.T, crowds int) int {
	t.Helper()
	n, text := 50, os.Getenv("CONNECTIONS")
	if text != "" {
		if _, err := fmt.Sscan(text, &n); err != nil || n < 0 {
			t.Fatalf("CONNECTIONS=%q: want a number of connections, like 20000", text)
		}
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	const others = 2000
	if want := uint64(n*13/10/crowds + others); limit.Cur < want {
		// Processes that are started have the limit, too.
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: want, Max: max(want, limit.Max)}); err != nil {
			fit := int(limit.Cur-others) * 10 / 13 * crowds
			t.Logf("%d connections need %d descriptors, the limit (ulimit -n) is %d and stays (%v): %d connections instead", n, want, limit.Cur, err, fit)
			n = fit
		}
	}
	return n / crowds
}
