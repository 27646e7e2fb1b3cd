package cli

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/cli/client"
)

// topEvery is how often the table is made anew: as often as proxies report.
const topEvery = 5 * time.Second

func (a *app) top() *cobra.Command {
	var namespace string
	var once bool
	var most int
	cmd := &cobra.Command{
		Use:   "top [flags]",
		Short: "show the busiest edges of the mesh: rate, errors, latency",
		Long: `Show who calls whom most: requests (of TCP, connections) a second, the share of
errors (5xx, or an answer of a proxy), and latency, all of the last minute, as the
proxies count them. No Prometheus is needed. The table is made anew every 5
seconds, which is how often proxies report, until Ctrl-C.

Latencies are estimated from a coarse histogram (1, 5, 25, 100, 500, 2500 ms).`,
		Example: `  weir top
  weir top --sort errors
  weir top -n shop --once
  weir top -o json | jq '.[] | select(.failures > 0)'`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd)
	sort := choose(cmd, "sort", "", "what comes first", "rate", "errors", "latency")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "edges from or to this `namespace` (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	cmd.Flags().BoolVar(&once, "once", false, "print the table once (as if standard output is no terminal, and with -o)")
	cmd.Flags().IntVar(&most, "limit", 20, "at most `n` edges")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if most < 1 {
			return usage("for example --limit 50", "--limit must be 1 at least")
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		for {
			list, err := a.busiest(cmd.Context(), c, namespace, time.Minute)
			if err != nil {
				return err
			}
			slices.SortStableFunc(list, func(x, y call) int {
				switch sort.value {
				case "errors":
					return cmp.Or(cmp.Compare(y.errors(), x.errors()), cmp.Compare(y.Failures, x.Failures))
				case "latency":
					return cmp.Compare(slowness(&y), slowness(&x))
				}
				return 0 // by rate they are already
			})
			if output.value != asTable {
				return a.out.emit(output.value, list[:min(len(list), most)])
			}
			again := !once && a.out.terminal
			if again {
				a.out.clear()
			}
			a.topTable(list, most, namespace)
			if !again {
				return nil
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(topEvery):
			}
		}
	}
	return cmd
}

// busiest are the calls of the edges that something happened on within a time, those with the most requests first.
func (a *app) busiest(ctx context.Context, c *client.Client, namespace string, since time.Duration) ([]call, error) {
	e, err := c.Edges(ctx, namespace, "", since)
	if err != nil {
		return nil, err
	}
	a.silent(e.Silent)
	return calls(e.Edges, time.Now()), nil
}

// slowness orders latencies, those beyond the last bound last.
func slowness(c *call) float64 {
	switch {
	case c.P99 == nil:
		return -1
	case *c.P99 < 0:
		return 1e9
	}
	return *c.P99
}

// noCalls says that nothing happened, and where not.
func (a *app) noCalls(namespace, when string) {
	if namespace != "" {
		a.errs.printf("no calls from or to namespace %s %s; without -n all are shown\n", clean(namespace), when)
		return
	}
	a.errs.printf("no calls %s\n", when)
}

func (a *app) topTable(list []call, most int, namespace string) {
	if len(list) == 0 {
		a.noCalls(namespace, "in the last minute; proxies report every 5 seconds")
		return
	}
	var all call
	rate := 0.0
	for i := range list {
		all.Requests, all.Failures, rate = all.Requests+list[i].Requests, all.Failures+list[i].Failures, rate+list[i].Rate
	}
	a.out.printf("%s, %s, %s errors, last minute, %s\n", count(len(list), "edge"), rateText(rate), errorText(&all).text, time.Now().Format(time.TimeOnly))
	t := newTable("FROM", "TO", "SERVICE", "RATE", "ERRORS", "P50", "P99", "PROTOCOL", "TRANSPORT")
	for i := range list[:min(len(list), most)] {
		c := &list[i]
		t.add(text(c.Source), text(c.Destination), text(c.Service), text(rateText(c.Rate)), errorText(c), text(latencyText(c.P50)), text(latencyText(c.P99)), text(c.Protocol), text(cmp.Or(c.Transport, "-")))
	}
	a.out.print(t)
	if len(list) > most {
		a.out.printf("and %d more: --limit\n", len(list)-most)
	}
}
