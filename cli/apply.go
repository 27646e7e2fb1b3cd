package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

const (
	// waitDefault is long for a change, which is live within 300 ms, and short for a person.
	waitDefault = 2 * time.Second
	// waitAsked is long for a script that wants to be sure.
	waitAsked = 10 * time.Second
)

func (a *app) apply() *cobra.Command {
	var paths []string
	var dryRun bool
	var wait waiting
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|- [flags]",
		Short: "create or change objects in the running mesh",
		Long: `Create or change objects in the running mesh, all of them or none.

An object with an error is refused, and nothing is changed then. Otherwise the
command waits, for 2 seconds at most, until all connected proxies that need the
change work with it, and says how long that took. With --wait it waits longer, and
for proxies that are not connected, too. If some proxy does not have the change in
the end, the command says which and why, and its exit status is 1.

Objects stay until "weir delete", also when the mesh is started anew. What stands
in a file that "weir up" watches is changed there; an object of a demo is replaced
by one that is applied, until that is deleted.`,
		Example: `  weir apply -f virtual-service-reviews-v3.yaml
  weir apply -f reviews.yaml --wait --timeout 30s || echo not everywhere
  weir apply -f networking/ --dry-run
  sed s/v1/v3/ reviews.yaml | weir apply -f -`,
		Args: func(_ *cobra.Command, args []string) error {
			if _, err := time.ParseDuration(strings.Join(args, "")); err == nil {
				return usage("`--wait --timeout "+args[0]+"`, or `--wait="+args[0]+"`", "--wait takes its duration with an equals sign")
			}
			if len(args) > 0 {
				return usage("files are given with -f: `weir apply -f "+args[0]+"`", "weir apply takes no arguments, got %q", args[0])
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd)
	filesFlag(cmd, &paths)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	wait.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(paths) == 0 {
			return usage("`weir apply -f reviews.yaml`, a folder, or `-f -` for standard input", "weir apply needs to know what to apply")
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		b, err := a.bundle(paths)
		if err != nil {
			return err
		}
		start := time.Now()
		r, err := c.Apply(cmd.Context(), b.text, dryRun)
		if err != nil {
			return err
		}
		b.relocate(r.Findings)
		return a.finish(cmd.Context(), c, b, r, start, wait, output.value)
	}
	return cmd
}

// waiting is --wait and --timeout: whether to wait for proxies, and how long.
type waiting struct {
	off     bool
	asked   bool // --wait was given: those that are not connected count, too
	timeout time.Duration
}

func (w *waiting) flags(cmd *cobra.Command) {
	f := cmd.Flags().VarPF(w, "wait", "", "wait until all proxies that need the change work with it; false not to wait at all")
	f.NoOptDefVal = "true"
	f.DefValue = ""
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "how long to wait (default 2s, with --wait 10s)")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"true", "false"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
}

func (w *waiting) String() string { return "" }
func (w *waiting) Type() string   { return "true|false" }

// Set takes true, false, or a duration as well, of which 0 is false.
func (w *waiting) Set(s string) error {
	if b, err := strconv.ParseBool(s); err == nil {
		w.asked, w.off = b, !b
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return errors.New("use true, false or a duration such as 10s")
	}
	w.asked, w.off, w.timeout = d > 0, d == 0, d
	return nil
}

func (w *waiting) long() time.Duration {
	switch {
	case w.timeout > 0:
		return min(w.timeout, maxWait)
	case w.asked:
		return waitAsked
	}
	return waitDefault
}

// maxWait is what the control plane allows.
const maxWait = time.Minute

// report is what -o json and yaml show of a change.
type report struct {
	*apiv1.ApplyResult
	Live *live `json:"live,omitempty"`
}

// live says where a change is in force.
type live struct {
	Proxies int     `json:"proxies"` // that need it
	Active  int     `json:"active"`  // those of them that work with it
	Seconds float64 `json:"seconds"` // since the change was sent
	// Behind are those that do not, with the reason.
	Behind    []string `json:"behind,omitempty"`
	Connected int      `json:"connected"` // proxies
	Failed    bool     `json:"failed,omitempty"`
	// Receipts are those of the objects applied.
	Receipts []apiv1.Receipt `json:"receipts,omitempty"`
	// Findings are errors and warnings about the objects applied, beside all others that are in force.
	Findings []apiv1.Finding `json:"findings,omitempty"`
}

// finish tells what became of a change and waits until it is live. b is where the objects stand; nil: nowhere any more.
func (a *app) finish(ctx context.Context, c *client.Client, b *bundle, r *apiv1.ApplyResult, start time.Time, wait waiting, format string) error {
	if format == asTable {
		a.out.applied(r)
	}
	var l *live
	var err error
	if !r.Refused && !r.DryRun && !wait.off && len(r.Objects) > 0 {
		if b == nil {
			l, err = waitGone(ctx, c, r.Mesh, start, wait.long())
		} else {
			l, err = waitLive(ctx, c, r, start, wait)
		}
		if err != nil {
			return err
		}
		if b != nil {
			l.Findings = across(ctx, c, r)
			b.relocate(l.Findings)
		}
	}
	if format != asTable {
		if err := a.out.emit(format, report{r, l}); err != nil {
			return err
		}
	}
	switch {
	case r.Refused:
		if format == asTable {
			a.errs.printf("nothing was changed\n")
		}
		return silent(exitNo)
	case r.DryRun && format == asTable:
		a.errs.printf("nothing was changed: it was a dry run\n")
	case l != nil && format == asTable:
		a.out.live(l)
		if len(l.Findings) > 0 {
			a.out.printf("\n")
			a.out.findings(l.Findings)
		}
	}
	if l != nil && l.Failed {
		return silent(exitNo)
	}
	return nil
}

var errNotTakenUp = hinted("`weir status` shows when it has", "the change is written, but the control plane has not taken it up yet")

// waitLive waits until the objects applied are where they are needed.
func waitLive(ctx context.Context, c *client.Client, r *apiv1.ApplyResult, start time.Time, wait waiting) (*live, error) {
	if r.Mesh == 0 {
		return nil, errNotTakenUp
	}
	var names []apiv1.ObjectName
	for _, o := range r.Objects {
		names = append(names, apiv1.ObjectName{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
	}
	receipts, err := c.Receipts(ctx, names, wait.long(), wait.asked)
	if err != nil {
		return nil, err
	}
	l := &live{Seconds: time.Since(start).Seconds(), Receipts: receipts}
	for _, x := range receipts {
		// What few objects need and have must not hide behind what all do.
		if l.Proxies-l.Active <= x.Proxies-x.Active && l.Proxies <= x.Proxies {
			l.Proxies, l.Active = x.Proxies, x.Active
		}
		l.Connected = x.Connected
		l.Failed = l.Failed || !x.Everywhere
		for _, m := range x.Missing {
			if m.Why == disconnected && !wait.asked {
				continue
			}
			l.Failed = true
			line := lacks(m)
			if len(receipts) > 1 {
				line = object(x.Kind, x.Namespace, x.Name) + ": " + line
			}
			l.Behind = append(l.Behind, line)
		}
	}
	return l, nil
}

const disconnected = "disconnected"

// lacks says why a proxy does not have an object.
func lacks(m apiv1.Missing) string {
	switch m.Why {
	case "rejected":
		return fmt.Sprintf("%s refuses %s %s: %s", m.Proxy, m.Type, joined(m.Resources), m.Message)
	case disconnected:
		if m.Since != nil {
			return fmt.Sprintf("%s is not connected, for %s", m.Proxy, age(*m.Since))
		}
		return m.Proxy + " is not connected"
	case "behind":
		if m.Type == "" {
			return m.Proxy + " has not been sent it yet"
		}
		return fmt.Sprintf("%s has not answered %s %s yet", m.Proxy, m.Type, joined(m.Resources))
	}
	return m.Proxy + " " + m.Why
}

// waitGone waits until all proxies work with a version of the configuration.
func waitGone(ctx context.Context, c *client.Client, version uint64, start time.Time, timeout time.Duration) (*live, error) {
	if version == 0 {
		return nil, errNotTakenUp
	}
	err := c.WaitActive(ctx, version, timeout)
	took := time.Since(start)
	e, ok := errors.AsType[*client.Error](err)
	late := ok && e.Status == http.StatusGatewayTimeout
	if err != nil && !late {
		return nil, err
	}
	proxies, _, err := c.Proxies(ctx)
	if err != nil {
		return nil, err
	}
	l := &live{Proxies: len(proxies), Connected: len(proxies), Seconds: took.Seconds()}
	for _, p := range proxies {
		// One that came after the wait gets nothing older.
		if p.Active >= version || !late {
			l.Active++
			continue
		}
		why := []string{p.Name}
		for _, r := range p.Rejected {
			if r.Current {
				why = append(why, fmt.Sprintf("refuses %s %s: %s", r.Type, joined(r.Resources), r.Message))
			}
		}
		l.Failed = true
		l.Behind = append(l.Behind, strings.Join(why, " "))
	}
	return l, nil
}

// analysisTime bounds the wait for findings across objects. They follow a change at once; a large mesh takes longer, and
// `weir status` shows them then.
const analysisTime = time.Second

// across asks what the control plane finds about applied objects now that they stand beside all others: a subset
// that nobody defines, a gateway that does not exist.
func across(ctx context.Context, c *client.Client, r *apiv1.ApplyResult) (out []apiv1.Finding) {
	type id struct{ kind, namespace, name string }
	begins := map[id]int{}
	for _, o := range r.Objects {
		begins[id{o.Kind, o.Namespace, o.Name}] = o.Line
	}
	for until := time.Now().Add(analysisTime); ; {
		s, err := c.Status(ctx)
		if err != nil || time.Now().After(until) {
			return nil
		}
		if s.Mesh < r.Mesh || !s.Analyzed {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		for _, f := range s.Findings {
			line, ours := begins[id{f.Kind, f.Namespace, f.Name}]
			if !ours || f.Severity == "info" {
				continue
			}
			if f.Line > 0 {
				f.File, f.Line = apiv1.GivenFile, line+f.Line-1
			}
			out = append(out, f)
		}
		return out
	}
}

// applied prints a line an object, and what was found.
func (p *printer) applied(r *apiv1.ApplyResult) {
	for _, o := range r.Objects {
		c := green
		switch {
		case o.Action == "refused":
			c = red
		case r.Refused: // nothing is done by halves
			o.Action, c = "not applied", dim
		case o.Action == "unchanged":
			c = dim
		}
		if o.Note != "" {
			o.Action += ", " + o.Note
		}
		p.printf("%s %s\n", clean(object(o.Kind, o.Namespace, o.Name)), p.paint(c, clean(o.Action)))
	}
	if len(r.Findings) > 0 {
		p.printf("\n")
		p.findings(r.Findings)
		p.printf("\n")
	}
}

func (p *printer) live(l *live) {
	took := shortly(time.Duration(l.Seconds * float64(time.Second)).Round(time.Millisecond))
	where := fmt.Sprintf("%d of %d proxies that need it", l.Active, l.Proxies)
	if l.Receipts == nil { // deleted: nobody needs it any more, all must forget it
		where = fmt.Sprintf("%d of %d connected proxies", l.Active, l.Proxies)
	}
	switch {
	case l.Connected == 0 && len(l.Behind) == 0:
		p.printf("no proxy is connected\n")
	case l.Failed:
		p.printf("%s\n", p.paint(yellow, fmt.Sprintf("active on %s after %s, not yet on:", where, took)))
		for _, b := range l.Behind {
			p.printf("  %s\n", clean(b))
		}
	case l.Proxies == 0:
		p.printf("in force after %s; none of %s needs it\n", took, count(l.Connected, "connected proxy"))
	default:
		p.printf("active on %s after %s\n", where, took)
	}
}

// shortly is a duration with a space before the unit.
func shortly(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
