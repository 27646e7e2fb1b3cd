//go:build linux

package acceptance_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The demo's page is there within 10 s, in both ways of capture and as any user.
func TestDemoShowsThePage(t *testing.T) {
	for _, c := range []struct {
		name string
		o    options
	}{
		{"namespaces", options{}},
		{"environment", options{capture: "env"}},
		{"namespaces, unprivileged", options{user: unprivileged}},
		{"environment, unprivileged", options{user: unprivileged, capture: "env"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.o.user != 0 {
				long(t)
			}
			c.o.args = []string{"--demo", "bookinfo"}
			m := prepare(t, c.o)
			began := time.Now()
			m.up()
			var took time.Duration
			wait(t, 10*time.Second-m.started, "the page", func() error {
				p, err := m.view("")
				if err == nil {
					err = p.whole()
				}
				took = time.Since(began)
				return err
			})
			t.Logf("page after %v, report after %v", took.Round(time.Millisecond), m.started.Round(time.Millisecond))
			if m.report.Capture != m.options.capture {
				t.Errorf("capture is %s (%s)", m.report.Capture, m.report.Why)
			}
			for _, f := range m.report.Findings {
				t.Errorf("finding: %+v", f)
			}
		})
	}
}

// However weir up ends, nothing is left behind.
func TestNothingIsLeftBehind(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      options
		signal syscall.Signal
		quick  bool
	}{
		{"Ctrl-C", options{}, syscall.SIGINT, true},
		{"SIGTERM", options{}, syscall.SIGTERM, false},
		{"kill -9", options{}, syscall.SIGKILL, true},
		{"environment, Ctrl-C", options{capture: "env"}, syscall.SIGINT, false},
		{"environment, kill -9", options{capture: "env"}, syscall.SIGKILL, false},
		{"unprivileged, Ctrl-C", options{user: unprivileged}, syscall.SIGINT, false},
		{"unprivileged, kill -9", options{user: unprivileged}, syscall.SIGKILL, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.quick {
				long(t)
			}
			c.o.args = []string{"--demo", "bookinfo"}
			m := prepare(t, c.o)
			r := before(m)
			m.up()
			m.sees()
			r.look()
			if want := 12; len(r.processes) < want {
				t.Fatalf("only %d processes, want at least %d", len(r.processes), want)
			}
			took := m.end(c.signal)
			t.Logf("ended %v after %v", took.Round(time.Millisecond), c.signal)
			killed := c.signal == syscall.SIGKILL
			switch code := m.cmd.ProcessState.ExitCode(); {
			case killed:
			case code != 0:
				t.Errorf("exit status %d", code)
			case took > 2*time.Second:
				t.Errorf("it took %v to end", took)
			}
			if !killed || c.o.capture != "env" {
				limit := time.Duration(0)
				if killed {
					limit = 2 * time.Second
				}
				r.gone(t, limit)
			}
			run := filepath.Join(m.state, "run")
			if _, err := os.Stat(run); !killed && err == nil {
				t.Errorf("%s is still there", run)
			}
			if !killed {
				return
			}
			// The next start finds a place it can use, and cleans it.
			stale := filepath.Join(run, "stale")
			if err := os.WriteFile(stale, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			m.up()
			m.sees()
			if _, err := os.Stat(stale); err == nil {
				t.Error("the next start did not clean run/")
			}
		})
	}
}

// A second mesh in the same place, and a port that is taken, are refused in a sentence.
func TestWhatIsTakenIsRefused(t *testing.T) {
	m := start(t, options{args: []string{"--demo", "bookinfo"}})
	other := *m
	other.api, other.ingress = freePort(t), freePort(t)
	refused := func(m *mesh, want ...string) {
		t.Helper()
		r := m.weir(m.upArgs()...)
		if r.code != 1 || r.out != "" || strings.Count(r.err, "\n") > 3 {
			t.Errorf("want one sentence, got %v", r)
		}
		for _, w := range want {
			if !strings.Contains(r.err, w) {
				t.Errorf("it does not say %q: %s", w, r.err)
			}
		}
	}
	refused(&other, "another", other.state, "--state")
	elsewhere := other
	elsewhere.state = filepath.Join(m.dir, "elsewhere")
	elsewhere.ingress = m.ingress
	refused(&elsewhere, m.ingress, "taken", "--ingress")
	elsewhere.ingress, elsewhere.api = freePort(t), m.api
	refused(&elsewhere, m.api, "taken", "--http")
	if r, err := http.Get("http://" + m.api + "/healthz/ready"); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("the first mesh: %v %v", r, err)
	}
	m.sees()
}
