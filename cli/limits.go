package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

func (a *app) limits() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "limits SERVICE [flags]",
		Short: "show every limit that calls to a service meet: value, who set it, use, trips",
		Long: `Show every limit that calls to a service meet, in the proxies of its callers and
in those that serve it: how much is allowed, of what (SCOPE), by which field of
which object; how much is in use, the most that ever was, how often the limit was
reached (TRIPS), and by whose calls.

A limit is that of each proxy by itself: USE and PEAK are of the proxy with the
most, since it started; TRIPS of all. "default" is what holds because no object
says anything.`,
		Example: `  weir limits reviews
  weir limits shop/cart
  weir limits reviews -o json | jq '.limits[] | select(.trips > 0)'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("for example `weir limits reviews`; `weir get services -A` lists them", "weir limits needs the name of one service")
			}
			return nil
		},
		ValidArgsFunction: a.completeService(&namespace),
	}
	output := outputFlag(cmd)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.mesh()
		if err != nil {
			return err
		}
		host, err := a.host(cmd.Context(), c, args[0], namespace)
		if err != nil {
			return err
		}
		l, err := c.Limits(cmd.Context(), host, "")
		if err != nil {
			return err
		}
		if output.value != asTable {
			return a.out.emit(output.value, l)
		}
		a.limitTables(l)
		a.silent(l.Silent)
		if len(l.Limits) == 0 {
			return hinted("`weir proxy-status` shows which proxies there are", "none of %s calls or serves %s", count(l.Asked, "proxy"), host)
		}
		return nil
	}
	return cmd
}

// silent says which proxies did not answer, and which replicas of the control plane, whose proxies nobody has asked.
func (a *app) silent(names []string) {
	of := map[string][]string{}
	for _, n := range names {
		what := "proxy"
		if addr, ok := strings.CutPrefix(n, apiv1.SilentReplica); ok {
			what, n = "control plane", addr
		}
		of[what] = append(of[what], n)
	}
	for _, what := range []string{"proxy", "control plane"} {
		if list := of[what]; len(list) > 0 {
			a.errs.printf("%s did not answer: %s\n", count(len(list), what), clean(strings.Join(list, ", ")))
		}
	}
}

// limitTables prints a table for each port and subset, of callers and of those that serve.
func (a *app) limitTables(l *apiv1.Limits) {
	var t *table
	title := ""
	for i := range l.Limits {
		x := &l.Limits[i]
		head := fmt.Sprintf("%s:%d, as proxies of its callers have it", l.Host, x.Port)
		if x.At == "server" {
			head = fmt.Sprintf("%s, as its own proxies have it, for the application's port %d", l.Host, x.Port)
		}
		if x.Subset != "" {
			head = strings.Replace(head, ",", ", subset "+x.Subset+",", 1)
		}
		if head != title {
			if t != nil {
				a.out.print(t)
				a.out.printf("\n")
			}
			a.out.printf("%s\n", a.out.paint(bold, clean(head)))
			t, title = newTable("LIMIT", "VALUE", "SCOPE", "USE", "PEAK", "TRIPS", "SET BY"), head
		}
		use, peak := "", ""
		if counted(x.Name) {
			use, peak = strconv.FormatUint(x.Use, 10), strconv.FormatUint(x.Peak, 10)
		}
		trips := cell{strconv.FormatUint(x.Trips, 10), dim}
		if x.Trips > 0 {
			trips.color = yellow
		}
		if x.Value == nil || !trippable(x.Name) {
			trips.text = ""
		}
		from := text("unknown")
		switch {
		case x.Default:
			from = cell{"default", dim}
		case x.SetBy != nil:
			from = text(setBy(x.SetBy))
		}
		t.add(text(strings.ReplaceAll(x.Name, "_", " ")), text(limitValue(x)), text(x.Scope), text(use), text(peak), trips, from)
		for j, w := range x.Callers {
			const shown = 5
			if j == shown {
				t.add(text(fmt.Sprintf("  and %d more callers", len(x.Callers)-shown)))
				break
			}
			t.add(text("  by "+w.Workload), text(""), text(""), text(""), text(""), cell{strconv.FormatUint(w.Trips, 10), yellow}, text(""))
		}
	}
	if t != nil {
		a.out.print(t)
	}
}

// counted reports whether a limit is of something of which so many are in use.
func counted(name string) bool {
	switch name {
	case "requests", "pending", "connections", "retries", "retry_budget", "ejected":
		return true
	}
	return false
}

// trippable reports whether proxies count how often a limit is reached.
func trippable(name string) bool {
	return name != "requests_per_connection" && name != "connection_age"
}

func limitValue(x *apiv1.Limit) string {
	if x.Value == nil {
		return "none"
	}
	switch x.Unit {
	case "s":
		return time.Duration(*x.Value * float64(time.Second)).String()
	case "%":
		return strconv.FormatFloat(*x.Value, 'g', 6, 64) + " %"
	}
	return strconv.FormatFloat(*x.Value, 'f', -1, 64)
}

// setBy is "DestinationRule default/reviews, trafficPolicy.…, reviews.yaml:12".
func setBy(d *apiv1.Decider) string {
	d.Since = nil
	return decidedBy(d)
}

// host is the host name of a service that is named as SERVICE, NAMESPACE/SERVICE or by its host name.
func (a *app) host(ctx context.Context, c *client.Client, name, namespace string) (string, error) {
	if ns, short, ok := strings.Cut(name, "/"); ok {
		name, namespace = short, ns
	}
	t := target{name: name, namespace: namespace}
	if t.namespace == "" {
		t.namespace = a.namespace()
	}
	list, err := services(ctx, c, []target{t}, strings.Contains(name, "."))
	if err != nil {
		return "", err
	}
	return list[0].Hostname, nil
}
