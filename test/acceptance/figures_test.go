//go:build linux

package acceptance_test

import (
	"testing"
	"time"
)

// The figures of the README are printed: they are the machine's as much as ours.
func TestFigures(t *testing.T) {
	long(t)
	m := start(t, options{args: []string{"--demo", "bookinfo"}})
	m.share(2000)
	for _, p := range m.tree() {
		name := p.name()
		if name == "weir-proxy" {
			name += " " + p.flag("--name")
		}
		if name == "weir" && p.pid != m.cmd.Process.Pid {
			name += " (first process of the namespaces)"
		}
		t.Logf("%-46s RssAnon %9s, VmRSS %9s", name, p.status("RssAnon"), p.status("VmRSS"))
	}
	used := func() (sum time.Duration) {
		for _, p := range m.tree() {
			sum += p.cpu()
		}
		return sum
	}
	const idle = 10 * time.Second
	for _, when := range []string{"just after requests", "memory given back", "settled"} {
		before := used()
		<-time.After(idle)
		t.Logf("idle, %s: %.2f %% of a core over %v", when, 100*float64(used()-before)/float64(idle), idle)
	}
	t.Logf("up after %v", m.started.Round(time.Millisecond))
}
