package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config"
)

const (
	watchInterval = time.Second
	// A change is on its way for some milliseconds; a proxy that has been behind this
	// long has a problem.
	behindTooLong = 2 * time.Second
)

func (a *app) status() *cobra.Command {
	var watch, check bool
	var namespace string
	cmd := &cobra.Command{
		Use:   "status [KIND/NAME...] [flags]",
		Short: "show workloads, proxies and what needs attention, or what became of an object",
		Long: `Show workloads, their proxies and what needs attention.

VERSION is the version of the configuration that a proxy has accepted all of.
Things that need attention: workloads that are not ready, proxies that are not
connected, are behind or refuse configuration, and errors in configuration.
Requests that fail are another matter: "weir why --last-errors" tells of them.

With objects: the receipt of each. Whether it is in force; how many of the
connected proxies need it, because they are subscribed to something that was made
of it; on how many it is active, since when, and how long it took from the change
to half of them (p50) and to all but one in a hundred (p99). Which proxies do not
have it and why: they refuse it, have not answered yet, or are not connected.
Which of its rules have no effect, because of which rule of which object. With
--check the exit status is 1 unless it is in force wherever it is needed.`,
		Example: `  weir status
  weir status virtualservice/reviews
  weir status vs/shop/cart dr/shop/cart --check
  weir status --watch
  weir status --check && echo all is well
  weir status -o json | jq -r '.proxies[] | select(.behind) | .name'
  weir status -o json | jq .busiest         # what changed most in the last minute`,
		ValidArgsFunction: a.completeObjects(&namespace),
	}
	output := outputFlag(cmd)
	severity := choose(cmd, "severity", "", "least severity of the findings shown", "warning", "error", "info")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again whenever something changes")
	cmd.Flags().BoolVar(&check, "check", false, "exit status 1 if something needs attention")
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			if watch {
				return usage("`weir get events -w` shows what happens to objects", "--watch is for the whole mesh")
			}
			if namespace == "" {
				namespace = a.namespace()
			}
			ts, err := targets(args, namespace)
			if err != nil {
				return err
			}
			if i := slices.IndexFunc(ts, func(t target) bool { return t.name == "" }); i >= 0 {
				return usage("for example `weir status virtualservice/reviews`", "weir status needs kind and name of an object, got %q", args[0])
			}
			c, err := a.mesh()
			if err != nil {
				return err
			}
			return a.receipts(cmd.Context(), c, ts, output.value, check)
		}
		show := func(s *apiv1.Status) error {
			if output.value != asTable {
				return a.out.emit(output.value, s)
			}
			own := a.inState("run", "config") // what `weir up` wrote there was given to it otherwise
			s.Watching = slices.DeleteFunc(s.Watching, func(path string) bool { return path == own })
			a.out.status(s, severity.value)
			return nil
		}
		var c *client.Client
		ask := func(ctx context.Context) (s *apiv1.Status, err error) {
			if c == nil {
				if c, err = a.mesh(); err != nil {
					return nil, err
				}
			}
			if s, err = c.Status(ctx); err != nil {
				c = nil // the next mesh may be elsewhere
			}
			return s, err
		}
		switch {
		case watch && check:
			return usage("leave out one of them", "--watch goes on, --check ends with an answer")
		case watch:
			return a.watch(cmd.Context(), ask, show)
		}
		s, err := ask(cmd.Context())
		if err != nil {
			return err
		}
		if err := show(s); err != nil {
			return err
		}
		if check && len(problems(s)) > 0 {
			return silent(exitNo)
		}
		return nil
	}
	return cmd
}

// watch shows the status when it changes, on a terminal every second. A control plane
// that does not answer may be back soon; a mesh that ended will not.
func (a *app) watch(ctx context.Context, ask func(context.Context) (*apiv1.Status, error), show func(*apiv1.Status) error) error {
	var last string
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		s, err := ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if f := a.judge(err); first || errors.Is(f, client.ErrNoMesh) {
				return f
			}
		}
		now := key(s, err)
		switch {
		case now == last && !a.out.terminal:
		case err != nil:
			a.out.clear()
			a.out.printf("%s\n", a.out.paint(red, clean(err.Error())))
		default:
			a.out.clear()
			if err := show(s); err != nil {
				return err
			}
			if !a.out.terminal {
				a.out.printf("\n")
			}
		}
		last = now
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// key changes when something does that is worth showing again.
func key(s *apiv1.Status, err error) string {
	if err != nil {
		return err.Error()
	}
	c := *s
	c.Proxies, c.Busiest = slices.Clone(s.Proxies), nil
	for i := range c.Proxies {
		c.Proxies[i].BytesSent = 0
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// clear empties a terminal.
func (p *printer) clear() {
	if p.terminal {
		p.printf("\x1b[H\x1b[2J")
	}
}

func (p *printer) status(s *apiv1.Status, severity string) {
	others := p.alarm(s.Findings)
	if len(others) < len(s.Findings) {
		p.printf("\n")
	}
	p.printf("mesh %s, configuration version %d, control plane %s up %s\n", clean(s.TrustDomain), s.Mesh, clean(s.Version), age(s.Started))
	if len(s.Watching) > 0 {
		p.printf("watching %s\n", clean(strings.Join(s.Watching, ", ")))
	}
	p.printf("%s, %s, %s\n\n", count(s.Counts.Services, "service"), count(s.Counts.Workloads, "workload"), count(s.Counts.Objects, "object"))

	t := newTable("WORKLOAD", "HEALTH", "ADDRESS", "SERVICE ACCOUNT", "PROXY", "VERSION")
	for _, r := range rows(s) {
		t.add(r.name, r.health, r.address, r.account, r.proxy, r.version)
	}
	if len(t.rows) > 1 {
		p.print(t)
		p.printf("\n")
	}
	if fs := atLeast(severity, others); len(fs) > 0 {
		p.findings(fs)
		p.printf("\n")
	}
	bad := problems(s)
	switch {
	case len(bad) > 0:
		p.printf("%s\n", p.paint(red, needAttention(len(bad))))
		for _, b := range bad {
			p.printf("  %s\n", clean(b))
		}
	case s.Counts.Warnings > 0:
		p.printf("%s, apart from %s\n", p.paint(green, "all is well"), count(s.Counts.Warnings, "warning"))
	default:
		p.printf("%s\n", p.paint(green, "all is well"))
	}
}

func needAttention(n int) string {
	if n == 1 {
		return "1 thing needs attention"
	}
	return fmt.Sprintf("%d things need attention", n)
}

type row struct{ name, health, address, account, proxy, version cell }

// rows are the workloads, each with its proxy, and proxies without a known workload.
func rows(s *apiv1.Status) []row {
	proxies := map[string]apiv1.Proxy{}
	for _, p := range s.Proxies {
		proxies[p.Name] = p
	}
	var out []row
	for _, w := range s.Workloads {
		name := w.Namespace + "/" + w.Name
		r := row{name: text(name), health: cell{w.Health, healthColor(w.Health)}, address: text(strings.Join(w.Addresses, ",")), account: text(w.ServiceAccount)}
		p, connected := proxies[name]
		delete(proxies, name)
		switch {
		case connected:
			r.proxy, r.version = proxyState(p)
		case w.Proxied:
			r.proxy = cell{"not connected", red}
		default:
			r.proxy = cell{"none", dim}
		}
		out = append(out, r)
	}
	for _, p := range s.Proxies {
		if _, left := proxies[p.Name]; left {
			r := row{name: text(p.Name)}
			r.proxy, r.version = proxyState(p)
			out = append(out, r)
		}
	}
	return out
}

func healthColor(health string) color {
	switch health {
	case "healthy":
		return green
	case "draining":
		return yellow
	}
	return red
}

func proxyState(p apiv1.Proxy) (state, version cell) {
	version = text(fmt.Sprint(p.Active))
	switch {
	case slices.ContainsFunc(p.Rejected, func(r apiv1.Rejection) bool { return r.Current }):
		return cell{"refuses configuration", red}, version
	case p.Behind != nil:
		return cell{"behind for " + age(*p.Behind), yellow}, version
	}
	return cell{"up to date", green}, version
}

// refusal is what proxies refuse for the same reason.
type refusal struct {
	what, why string
	by        []string
	since     time.Time // of the first
}

// refusals are those that are as they were: one that concerns every proxy is one thing to attend to.
func refusals(all []apiv1.Proxy) (out []refusal) {
	for _, p := range all {
		for _, r := range p.Rejected {
			if !r.Current {
				continue
			}
			what := r.Type + " " + strings.Join(slices.Sorted(slices.Values(r.Resources)), ", ")
			i := slices.IndexFunc(out, func(x refusal) bool { return x.what == what && x.why == r.Message })
			if i < 0 {
				i = len(out)
				out = append(out, refusal{what: what, why: r.Message, since: r.Time})
			}
			if x := &out[i]; !slices.Contains(x.by, p.Name) {
				x.by = append(x.by, p.Name)
				if r.Time.Before(x.since) {
					x.since = r.Time
				}
			}
		}
	}
	return out
}

// problems are the things that need attention, a sentence each.
func problems(s *apiv1.Status) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	uncaptured := 0
	for _, f := range s.Findings {
		if f.Code == string(config.TrafficNotCaptured) {
			uncaptured++
		}
	}
	if uncaptured > 0 {
		say("traffic goes past the proxies of %s: `weir explain %s`", count(uncaptured, "pod"), config.TrafficNotCaptured)
	}
	connected := map[string]bool{}
	for _, p := range s.Proxies {
		connected[p.Name] = true
	}
	for _, silent := range s.Silent {
		say("%s did not say which proxies are connected to it: some of those that are not connected here may be there", silent)
	}
	for _, w := range s.Workloads {
		name := w.Namespace + "/" + w.Name
		if w.Health == "unhealthy" {
			say("%s is not ready: `weir logs %s` may say why", name, name)
		}
		if w.Proxied && !connected[name] && w.Health != "draining" {
			say("the proxy of %s is not connected: `weir logs %s --proxy` may say why", name, name)
		}
	}
	for _, r := range refusals(s.Proxies) {
		of, since := "the proxy of "+r.by[0]+" refuses", ""
		if n := len(r.by); n > 1 {
			of = "the proxies of " + strings.Join(r.by[:min(n, 3)], ", ")
			if n > 3 {
				of += fmt.Sprintf(" and %d more", n-3)
			}
			of += " refuse"
		}
		if !r.since.IsZero() {
			since = ", first " + age(r.since) + " ago"
		}
		say("%s %s%s: %s", of, r.what, since, r.why)
	}
	for _, p := range s.Proxies {
		refuses := slices.ContainsFunc(p.Rejected, func(r apiv1.Rejection) bool { return r.Current })
		if !refuses && p.Behind != nil && time.Since(*p.Behind) > behindTooLong {
			say("the proxy of %s is at version %d of %d, behind for %s", p.Name, p.Active, p.Latest, age(*p.Behind))
		}
	}
	if s.Counts.Errors > 0 {
		say("%s in the configuration", count(s.Counts.Errors, "error"))
	}
	return out
}
