package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) ejections() *cobra.Command {
	var namespace string
	var all bool
	cmd := &cobra.Command{
		Use:   "ejections [SERVICE] [flags]",
		Short: "show which endpoints proxies have set aside, why, and until when",
		Long: `Show which endpoints proxies have set aside: who did, why (how many errors in a
row, the last answer, active health checks, or no answer to connections), since
when and until when, how often. Each proxy judges by what came of its own
requests, so one may have ejected an endpoint that another still uses.

With --all also those that are in use again. Changes are events, too:
"weir get events" shows them.`,
		Example: `  weir ejections
  weir ejections reviews
  weir ejections reviews --all -o json
  weir get events --watch   # as they happen`,
		Args:              atMostOne,
		ValidArgsFunction: a.completeService(&namespace),
	}
	output := outputFlag(cmd)
	a.namespaceFlag(cmd, &namespace)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that are in use again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.mesh()
		if err != nil {
			return err
		}
		host := ""
		if len(args) == 1 {
			if host, err = a.host(cmd.Context(), c, args[0], namespace); err != nil {
				return err
			}
		}
		e, err := c.Ejections(cmd.Context(), host, "")
		if err != nil {
			return err
		}
		shown := e.Ejections[:0:0]
		for _, x := range e.Ejections {
			if all || x.State != "returned" {
				shown = append(shown, x)
			}
		}
		before := len(e.Ejections)
		e.Ejections = append(e.Ejections[:0:0], shown...)
		if output.value != asTable {
			return a.out.emit(output.value, e)
		}
		a.silent(e.Silent)
		if len(shown) == 0 {
			a.errs.printf("%s asked, and none has set an endpoint aside\n", count(e.Asked, "proxy"))
			if before > 0 {
				a.errs.printf("in use again: %s, shown by --all\n", count(before, "endpoint"))
			}
			return nil
		}
		t := newTable("SERVICE", "ENDPOINT", "WORKLOAD", "STATE", "BY", "SINCE", "UNTIL", "TIMES", "WHY")
		for _, x := range shown {
			service := fmt.Sprintf("%s:%d", x.Service, x.Port)
			if x.Subset != "" {
				service += " " + x.Subset
			}
			until, times := "", ""
			if x.Until != nil {
				until = x.Until.Local().Format(time.TimeOnly)
			}
			if x.Times > 0 {
				times = fmt.Sprint(x.Times)
			}
			t.add(text(service), text(x.Endpoint), text(x.Workload), cell{x.State, asideColor(x.State)}, text(x.Proxy), text(x.Since.Local().Format(time.TimeOnly)), text(until), text(times), text(x.Text))
		}
		a.out.print(t)
		return nil
	}
	return cmd
}

func asideColor(state string) color {
	switch state {
	case "returned":
		return green
	case "probed":
		return yellow
	}
	return red
}
