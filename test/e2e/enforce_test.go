package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/control"
	callers "github.com/weirmesh/weir/control/ledger"
	"github.com/weirmesh/weir/test/mesh"
)

// command runs a command line as who may change things, and returns what it prints and its exit status.
func command(t *testing.T, m *mesh.Mesh, args ...string) (string, int) {
	t.Helper()
	state := t.TempDir()
	must(t, os.WriteFile(filepath.Join(state, "token"), []byte("test-token"), 0o600))
	out, err := os.Create(filepath.Join(state, "out"))
	must(t, err)
	defer out.Close()
	status := cli.Main(t.Context(), cli.Options{Args: append(args, "--api", m.Address()), State: state, Stdin: os.Stdin, Stdout: out, Stderr: out, NoColor: true})
	text, err := os.ReadFile(out.Name())
	must(t, err)
	return string(text), status
}

// A namespace goes STRICT without losing a call: while somebody calls in plaintext `weir mtls enforce` says who and changes nothing, also
// after the control plane was replaced; once he calls by his proxy, it demands mutual TLS under load, and no request fails.
func TestEnforceWithoutLosingACall(t *testing.T) {
	t.Parallel()
	var kept []byte // observed for days
	m, client, pods := echoMesh(t, func(o *control.Options) {
		if kept == nil {
			b := callers.Book{Since: time.Now().Add(-72 * time.Hour), Saved: time.Now()}
			var err error
			kept, err = b.Marshal()
			must(t, err)
			must(t, os.WriteFile(filepath.Join(o.State, "plaintext-callers.json"), kept, 0o600))
		}
	}, echoPod("echo-0", "v1"))
	echo := pods[0]
	calls := startLoadOf(t, 2, 0, func() *mesh.Response { return client.Get("http://echo:8080/") }, func(r *mesh.Response) error {
		if r.Err != nil || r.Status != http.StatusOK {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	plain := func() error {
		r := mesh.Do(client.Outside(), http.MethodGet, echo.At(8080), nil)
		return r.Err
	}
	must(t, plain())
	refused := func(when string) {
		t.Helper()
		m.Eventually("who calls in plaintext is named", func() error {
			if text, _ := command(t, m, "mtls", "status", "default"); !strings.Contains(text, "without a proxy (") || !strings.Contains(text, "not yet") || strings.Contains(text, "in force") {
				return errors.New(text)
			}
			text, status := command(t, m, "mtls", "enforce", "default")
			if status != 1 || !strings.Contains(text, "port 8080: somebody without a proxy called in plaintext") || !strings.Contains(text, "nothing was changed") || strings.Contains(text, "callers are known for") {
				return fmt.Errorf("%s: status %d: %s", when, status, text)
			}
			if strings.Contains(text, "do not report") { // they come back within seconds
				return errors.New(text)
			}
			return nil
		})
	}
	refused("at first")
	m.StopControl()
	m.StartControl()
	refused("after the control plane was replaced")
	must(t, plain())

	// From now on he calls by a proxy. (Who waits a day does not shorten the window.)
	m.Eventually("nothing stands against it", func() error {
		text, status := command(t, m, "mtls", "enforce", "default", "--window", "15s", "--print")
		if status != 0 || !strings.Contains(text, "mode: STRICT") {
			return fmt.Errorf("status %d: %s", status, text)
		}
		return nil
	})
	m.Eventually("it is enforced", func() error {
		text, status := command(t, m, "mtls", "enforce", "default", "--window", "15s", "--wait", "--timeout", "30s")
		if status != 0 || !strings.Contains(text, "PeerAuthentication default/default created") {
			return fmt.Errorf("status %d: %s", status, text)
		}
		return nil
	})
	if plain() == nil {
		t.Error("plaintext is taken")
	}
	if text, _ := command(t, m, "mtls", "status", "default"); !strings.Contains(text, "STRICT") || !strings.Contains(text, "in force") {
		t.Errorf("afterwards: %s", text)
	}
	calls.awaitNew(20)
	calls.stop(t)
}

// Nobody waits for the reports of proxies: who called once, just before it is asked to demand mutual TLS, is known.
func TestEnforceKnowsTheLastCall(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, func(o *control.Options) {
		b := callers.Book{Since: time.Now().Add(-72 * time.Hour), Saved: time.Now()}
		kept, err := b.Marshal()
		must(t, err)
		must(t, os.WriteFile(filepath.Join(o.State, "plaintext-callers.json"), kept, 0o600))
	}, echoPod("echo-0", "v1"))
	m.Eventually("nothing stands against it", func() error {
		if text, status := command(t, m, "mtls", "enforce", "default", "--print"); status != 0 {
			return fmt.Errorf("status %d: %s", status, text)
		}
		return nil
	})
	must(t, mesh.Do(client.Outside(), http.MethodGet, pods[0].At(8080), nil).Err)
	text, status := command(t, m, "mtls", "enforce", "default", "--print")
	if status != 1 {
		t.Fatalf("status %d: %s", status, text)
	}
	m.Eventually("the caller is named", func() error { // a proxy that was too slow to report stood against it, too
		if text, _ := command(t, m, "mtls", "enforce", "default", "--print"); !strings.Contains(text, "port 8080: somebody without a proxy called in plaintext, 1 times") {
			return errors.New(text)
		}
		return nil
	})
	if text, status := command(t, m, "mtls", "enforce", "default", "--window", "1s"); status != 2 || !strings.Contains(text, "--window 1s is too short") {
		t.Errorf("status %d: %s", status, text)
	}
}

// Who holds which certificate is what the proxies say, also to a control plane that has just started and issued none.
func TestProxiesSayWhichCertificateTheyShow(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	all := []*mesh.Workload{client, pods[0]}
	reported := func() error {
		v, err := m.API().Identity(t.Context())
		if err != nil {
			return err
		}
		if len(v.Workloads) != len(all) || v.Horizon != nil {
			return fmt.Errorf("%+v", v)
		}
		for _, w := range v.Workloads {
			if !w.Connected || !w.Reported || w.Overdue || w.Until.Sub(w.From) < 24*time.Hour {
				return fmt.Errorf("%+v", w)
			}
		}
		return nil
	}
	m.Eventually("the proxies say what they show", reported)
	m.StopControl()
	m.StartControl()
	m.Eventually("they say it again", reported)
}
