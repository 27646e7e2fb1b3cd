package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

// waitDefault is long for a change, which is live within 300 ms, and short for a person.
const waitDefault = 2 * time.Second

func (a *app) apply() *cobra.Command {
	var paths []string
	var dryRun bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|- [flags]",
		Short: "create or change objects in the running mesh",
		Long: `Create or change objects in the running mesh, all of them or none.

An object with an error is refused, and nothing is changed then. Otherwise the
command waits until all connected proxies work with the change, and says how
long that took. Objects stay until "weir delete", also when the mesh is started
anew. What stands in a file that "weir up" watches is changed there; an object
of a demo is replaced by one that is applied, until that is deleted.`,
		Example: `  weir apply -f virtual-service-reviews-v3.yaml
  weir apply -f networking/ --dry-run
  sed s/v1/v3/ reviews.yaml | weir apply -f -`,
		Args: func(_ *cobra.Command, args []string) error {
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
	waitFlag(cmd, &wait)
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

func waitFlag(cmd *cobra.Command, wait *time.Duration) {
	cmd.Flags().DurationVar(wait, "wait", waitDefault, "how long to wait until all proxies work with the change; 0 not to wait")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.NoFileCompletions)
}

// report is what -o json and yaml show of a change.
type report struct {
	*apiv1.ApplyResult
	Live *live `json:"live,omitempty"`
}

// live says where a change is in force.
type live struct {
	Active  int      `json:"active"`  // proxies that work with it
	Proxies int      `json:"proxies"` // connected
	Seconds float64  `json:"seconds"` // since the change was sent
	Behind  []string `json:"behind,omitempty"`
	// Findings are errors and warnings about the objects applied, beside all others that are in force.
	Findings []apiv1.Finding `json:"findings,omitempty"`
}

// finish tells what became of a change and waits until it is live. b is where the objects stand; nil: nowhere any more.
func (a *app) finish(ctx context.Context, c *client.Client, b *bundle, r *apiv1.ApplyResult, start time.Time, wait time.Duration, format string) error {
	if format == asTable {
		a.out.applied(r)
	}
	var l *live
	var err error
	if !r.Refused && !r.DryRun && wait > 0 && len(r.Objects) > 0 {
		if l, err = waitLive(ctx, c, r.Mesh, start, wait); err != nil {
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
	if l != nil && l.Active < l.Proxies {
		return silent(exitNo)
	}
	return nil
}

// waitLive waits for a version of the configuration.
func waitLive(ctx context.Context, c *client.Client, version uint64, start time.Time, timeout time.Duration) (*live, error) {
	if version == 0 {
		return nil, hinted("`weir status` shows when it has", "the change is written, but the control plane has not taken it up yet")
	}
	err := c.WaitActive(ctx, version, timeout)
	took := time.Since(start)
	e, ok := errors.AsType[*client.Error](err)
	late := ok && e.Status == http.StatusGatewayTimeout
	if err != nil && !late {
		return nil, err
	}
	proxies, err := c.Proxies(ctx)
	if err != nil {
		return nil, err
	}
	l := &live{Proxies: len(proxies), Seconds: took.Seconds()}
	for _, p := range proxies {
		// One that came after the wait gets nothing older.
		if p.Active >= version || !late {
			l.Active++
			continue
		}
		why := []string{p.Name}
		for _, r := range p.Rejected {
			if r.Current {
				why = append(why, fmt.Sprintf("(refuses %s %s: %s)", r.Type, joined(r.Resources), r.Message))
			}
		}
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
	took := time.Duration(l.Seconds * float64(time.Second)).Round(time.Millisecond)
	switch {
	case l.Proxies == 0:
		p.printf("no proxy is connected\n")
	case l.Active == l.Proxies:
		p.printf("active on %d of %d connected proxies after %s\n", l.Active, l.Proxies, shortly(took))
	default:
		p.printf("%s\n", p.paint(yellow, fmt.Sprintf("active on %d of %d connected proxies after %s, not yet on:", l.Active, l.Proxies, shortly(took))))
		for _, b := range l.Behind {
			p.printf("  %s\n", clean(b))
		}
	}
}

// shortly is a duration with a space before the unit.
func shortly(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
