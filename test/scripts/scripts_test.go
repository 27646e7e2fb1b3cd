package scripts

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// read reads all scripts and counts their calls.
func read(t *testing.T) map[string]*script {
	t.Helper()
	paths, err := filepath.Glob("*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scripts", err)
	}
	out := map[string]*script{}
	for _, path := range paths {
		s, err := readScript(path)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(path, ".txt")] = s
	}
	page, err := readPage("../../docs/traffic.md")
	if err != nil || len(page) == 0 {
		t.Fatal("no scripts in docs/traffic.md", err)
	}
	for i, s := range page {
		out[fmt.Sprintf("docs-%d", i+1)] = s
	}
	return out
}

// Translation and simulation alone: what the control plane generates means what the scripts say.
func TestSimulated(t *testing.T) {
	calls, v := 0, newVault(t)
	for name, s := range read(t) {
		t.Run(name, func(t *testing.T) {
			for i := range s.rounds {
				r := &s.rounds[i]
				sim := simulated(t, v, r.objects)
				for j := range r.calls {
					c := &r.calls[j]
					calls++
					all, err := sim.call(c)
					if err != nil {
						t.Errorf("%s: %s: %v", c.at, c.text, err)
					} else if why := c.judge(all, 0); why != "" {
						t.Errorf("%s: %s\n    %s", c.at, c.text, why)
					}
				}
			}
		})
	}
	t.Logf("%d calls", calls)
}

// The whole mesh: what proxies do is what the scripts say.
func TestRealProxies(t *testing.T) {
	st := newStage(t)
	for name, s := range read(t) {
		st.Run(name, func(t *testing.T) {
			for i := range s.rounds {
				r := &s.rounds[i]
				st.set(r)
				for j := range r.calls {
					if err := st.run(&r.calls[j]); err != nil {
						t.Errorf("%s: %s\n    %v", r.calls[j].at, r.calls[j].text, err)
					}
				}
			}
		})
	}
}
