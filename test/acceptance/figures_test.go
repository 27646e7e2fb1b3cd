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
	before := used()
	<-time.After(idle)
	t.Logf("idle: %.2f %% of a core over %v; up after %v", 100*float64(used()-before)/float64(idle), idle, m.started.Round(time.Millisecond))
}
