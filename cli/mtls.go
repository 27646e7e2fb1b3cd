package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

func (a *app) mtls() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mtls COMMAND [flags]",
		Short: "who still calls in plaintext, and demanding mutual TLS without losing a call",
		Long: `Who still calls in plaintext, and demanding mutual TLS without losing a call.

"weir mtls status" shows what each port of each workload accepts and who called it
in plaintext lately; "weir mtls enforce" demands mutual TLS of all callers, once
nobody stands against it.`,
		Example: `  weir mtls status
  weir mtls enforce shop`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.mtlsStatus(), a.mtlsEnforce())
	return cmd
}

// scope reads NAMESPACE or NAMESPACE/WORKLOAD.
func scope(arg string) (namespace, workload string, err error) {
	namespace, workload, slash := strings.Cut(arg, "/")
	if namespace == "" || slash && (workload == "" || strings.Contains(workload, "/")) {
		return "", "", usage("NAMESPACE or NAMESPACE/WORKLOAD, for example shop/cart", "%q names no workload", arg)
	}
	return namespace, workload, nil
}

// scopeOf is the scope of an optional argument: the whole mesh without it.
func scopeOf(args []string) (namespace, workload string, err error) {
	if len(args) == 0 {
		return "", "", nil
	}
	return scope(args[0])
}

func (a *app) mtlsStatus() *cobra.Command {
	var window time.Duration
	cmd := &cobra.Command{
		Use:   "status [NAMESPACE[/WORKLOAD]] [flags]",
		Short: "show what ports accept, and who calls them in plaintext",
		Long: `Show what each port of each workload with a proxy accepts, who called it in
plaintext within the window, and whether it could demand mutual TLS.

A caller without a proxy has no name: its connection proves nothing. All control
planes of the mesh are asked, and what none has seen counts against being ready:
the time before all callers were known, proxies that report to nobody, and a
control plane that does not answer, which is named.`,
		Example: `  weir mtls status
  weir mtls status shop/cart --window 1h
  weir mtls status -o json | jq '.ports[] | select(.ready | not)'`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd)
	windowFlag(cmd, &window)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		namespace, workload, err := scopeOf(args)
		if err != nil {
			return err
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		v, err := c.MTLS(cmd.Context(), namespace, workload, window, false)
		if err != nil {
			return err
		}
		if output.value != asTable {
			return a.out.emit(output.value, v)
		}
		t := newTable("NAMESPACE", "WORKLOAD", "PORT", "MODE", "LAST MTLS", "PLAINTEXT CALLERS", "STRICT")
		for _, p := range v.Ports {
			ready := cell{text: "ready", color: green}
			switch {
			case p.Mode == "STRICT":
				ready = text("in force")
			case !p.Ready:
				ready = cell{text: "not yet", color: yellow}
			}
			t.add(text(p.Namespace), text(p.Workload), text(fmt.Sprint(p.Port)), text(p.Mode), text(ago(p.LastTLS, v.Time)), text(callers(p.Callers, v.Time)), ready)
		}
		a.out.print(t)
		for _, b := range v.Blockers {
			a.out.printf("%s\n", a.out.paint(yellow, clean(b)))
		}
		return nil
	}
	return cmd
}

func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(now.Sub(t)) + " ago"
}

func callers(all []apiv1.MTLSCaller, now time.Time) string {
	var out []string
	for _, c := range all {
		who := "without a proxy"
		if c.Workload != "" {
			who = c.Namespace + "/" + c.Workload
		}
		out = append(out, who+" ("+ago(c.Last, now)+")")
	}
	return strings.Join(out, ", ")
}

// leastWindow is how far back callers count at least where it is decided by that: three times as long as proxies keep what they have seen.
const leastWindow = 15 * time.Second

func (a *app) mtlsEnforce() *cobra.Command {
	var window time.Duration
	var accept, printed bool
	var wait waiting
	cmd := &cobra.Command{
		Use:   "enforce NAMESPACE[/WORKLOAD] [flags]",
		Short: "demand mutual TLS of all callers, unless that would lose calls",
		Long: `Demand mutual TLS of all callers of a namespace or workload: if nobody called it
in plaintext within the window, a PeerAuthentication with mode STRICT is applied.
Otherwise what stands against it is shown, nothing is changed, and the exit
status is 1; so it is if that is not known, because a control plane does not
answer or callers are observed for less than the window. With --accept-loss it is
applied all the same.

The proxies of the workloads are asked first to report what they have seen until
now: one that does not stands against it. Those of versions that know no such
question are waited for instead, for ten seconds.

--print writes the object instead: in Kubernetes, for kubectl apply.`,
		Example: `  weir mtls enforce shop
  weir mtls enforce shop/cart --window 2h
  weir mtls enforce shop --print | kubectl apply -f -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("for example `weir mtls enforce shop`, or shop/cart", "weir mtls enforce needs one namespace or workload")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	windowFlag(cmd, &window)
	cmd.Flags().BoolVar(&accept, "accept-loss", false, "refuse those who call in plaintext")
	cmd.Flags().BoolVar(&printed, "print", false, "write the object and change nothing")
	wait.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		namespace, workload, err := scope(args[0])
		if err != nil {
			return err
		}
		if window < leastWindow {
			return usage("for example --window 2h: longer than the pauses between the calls of whoever calls", "--window %v is too short to see who calls in plaintext, the least is %v", window, leastWindow)
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		v, err := c.MTLS(cmd.Context(), namespace, workload, window, true)
		if err != nil {
			return err
		}
		if v.Waited != "" {
			a.errs.printf("%s\n", clean(v.Waited))
		}
		if len(v.Ports) == 0 {
			return hinted("`weir mtls status` lists those there are", "no workload with a proxy serves anything in %s", args[0])
		}
		object, err := enforcement(namespace, workload, v.Ports)
		if err != nil {
			return err
		}
		blocked := against(v)
		for _, b := range blocked {
			a.errs.printf("%s\n", clean(b))
		}
		if len(blocked) > 0 && !accept {
			a.errs.printf("nothing was changed; give those callers a proxy, or wait; --window counts less far back, --accept-loss refuses them\n")
			return silent(exitNo)
		}
		if printed {
			a.out.printf("%s", object)
			return nil
		}
		b := &bundle{}
		b.add("(made here)", []byte(object))
		start := time.Now()
		r, err := c.Apply(cmd.Context(), b.text, false)
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), c, b, r, start, wait, asTable)
	}
	return cmd
}

// against is what stands against STRICT, of ports that are not already: first at each, then at all.
func against(v *apiv1.MTLS) (out []string) {
	undecided := false
	for _, p := range v.Ports {
		if p.Mode == "STRICT" {
			continue
		}
		undecided = true
		for _, b := range p.Blockers {
			if !slices.Contains(v.Blockers, b) {
				out = append(out, fmt.Sprintf("%s/%s port %d: %s", p.Namespace, p.Workload, p.Port, b))
			}
		}
	}
	if undecided {
		out = append(out, v.Blockers...)
	}
	return out
}

// enforcement is the PeerAuthentication that makes all of ports STRICT.
func enforcement(namespace, workload string, ports []apiv1.MTLSPort) (string, error) {
	name := "default"
	if workload != "" {
		name = workload
	}
	for _, p := range ports {
		for _, by := range p.Policies {
			// The oldest of several on one level counts, and a workload's goes before its namespace's.
			if p.Mode != "STRICT" && by.Name != name && (by.Level == "workload" || by.Level == "namespace" && workload == "") {
				return "", hinted("change that one to mode STRICT, or delete it", "PeerAuthentication %s/%s decides about %s/%s port %d, and goes before another", by.Namespace, by.Name, p.Namespace, p.Workload, p.Port)
			}
		}
	}
	var object strings.Builder
	fmt.Fprintf(&object, "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: %s\n  namespace: %s\nspec:\n", name, namespace)
	if workload != "" {
		if len(ports[0].Labels) == 0 {
			return "", hinted("enforce it for the whole namespace", "the pods of %s/%s have no labels in common that could select them", namespace, workload)
		}
		object.WriteString("  selector:\n    matchLabels:\n")
		for _, l := range slices.Sorted(maps.Keys(ports[0].Labels)) {
			fmt.Fprintf(&object, "      %s: %q\n", l, ports[0].Labels[l])
		}
	}
	object.WriteString("  mtls:\n    mode: STRICT\n")
	return object.String(), nil
}

func windowFlag(cmd *cobra.Command, window *time.Duration) {
	cmd.Flags().DurationVar(window, "window", 24*time.Hour, "how far back callers count, up to 25h")
}
