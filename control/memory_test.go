package control

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/internal/locked"
)

// nearlyFull is the environment variable by which the test below is a control plane in a process of its own: its state folder.
const nearlyFull = "WEIR_TEST_NEARLY_FULL"

// A control plane whose memory is limited, as a process by itself, sheds and then refuses as more and more proxies come, and goes on serving those it
// has: what changes meanwhile they get. It does not end. (That it takes others when there is memory again: TestMemoryIsNearlyUsedUp.)
func TestProcessWithLittleMemory(t *testing.T) {
	if state := os.Getenv(nearlyFull); state != "" {
		debug.SetGCPercent(50) // as weir-control has it
		r := startReplica(t, state, filepath.Join(filepath.Dir(state), "config"), 0)
		fmt.Printf("serves %s %s\n", r.grpc, r.http)
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
		return
	}
	dir := t.TempDir()
	folder, first, state := filepath.Join(dir, "config"), filepath.Join(dir, "first"), filepath.Join(dir, "full")
	write := func(text string) {
		t.Helper()
		tmp := filepath.Join(dir, "new")
		if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, filepath.Join(folder, "shop.yaml"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write(shop)
	a := startReplica(t, first, folder, 0) // whose authority makes certificates; nobody is connected to it
	copyAuthority(t, first, state)

	cmd := exec.Command(os.Args[0], "-test.run", "^TestProcessWithLittleMemory$")
	cmd.Env = append(os.Environ(), nearlyFull+"="+state, "GOMEMLIMIT=40MiB")
	out := &locked.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := <-ended; err != nil {
			t.Errorf("it did not end well: %v\n%s", err, out.Tail(3000))
		}
	})
	full := &replica{Plane: a.Plane}
	eventually(t, "the process serves", func() error {
		_, rest, ok := strings.Cut(out.String(), "serves ")
		if !ok || !strings.Contains(rest, "\n") {
			return errors.New(out.Tail(300))
		}
		_, err := fmt.Sscan(rest, &full.grpc, &full.http)
		return err
	})
	gauge := func(name string) (v float64) {
		t.Helper()
		resp, err := http.Get("http://" + full.http + "/metrics")
		if err != nil {
			t.Fatalf("%v\n%s", err, out.Tail(2000))
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(text), "\n"+name+" ")
		if _, err := fmt.Sscan(rest, &v); err != nil || !ok {
			t.Fatalf("%s: %v", name, err)
		}
		return v
	}
	const pressure = "weir_control_memory_pressure"
	var held []*subscriber
	const most, batch = 3000, 20
	for levels := map[float64]bool{}; gauge(pressure) < 2; levels[gauge(pressure)] = true {
		if len(held) >= most {
			t.Fatalf("%d proxies fit into the memory: levels %v", most, levels)
		}
		before := len(held)
		for i := range batch {
			held = append(held, subscribe(t, full, fmt.Sprintf("shop-%d", before+i), nil, nil))
		}
		eventually(t, "they are served, or refused", func() error {
			for _, s := range held[before:] {
				if s.received() == 0 && gauge(pressure) < 2 {
					return errors.New("some are not")
				}
			}
			return nil
		})
	}
	served := 0
	for _, s := range held {
		if s.received() > 0 {
			served++
		}
	}
	t.Logf("%d proxies were served with 40 MiB before others were refused", served)
	if served < batch {
		t.Fatalf("only %d were served", served)
	}
	write(strings.ReplaceAll(shop, "9090", "9191"))
	eventually(t, "those it has get what changes", func() error {
		for _, s := range held {
			all := s.contents()
			if len(all) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(k string) bool { return strings.Contains(k, "9191") }) {
				return fmt.Errorf("one has %d resources of before", len(all))
			}
		}
		return nil
	})
	select {
	case err := <-ended:
		ended <- err
		t.Fatalf("it ended: %v\n%s", err, out.Tail(3000))
	default:
	}
}
