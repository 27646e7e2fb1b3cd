package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
)

func (a *app) pcLog() *cobra.Command {
	var namespace, level string
	var lasts time.Duration
	var reset bool
	cmd := &cobra.Command{
		Use:   "log WORKLOAD [flags]",
		Short: "show and change the level of proxies' logs",
		Long: `Show what level the logs of a workload's proxies have, and with --level change it:
of all its pods, at once, through the control plane. Nothing is restarted, and
pods that start later have the usual level. With --for it goes back by itself.

WORKLOAD is a pod, or a Deployment: then all of its pods are meant. Where no
control plane runs, "weir proxy POD log-level debug" asks the proxy itself.`,
		Example: `  weir proxy-config log reviews-v1
  weir proxy-config log reviews-v1 --level debug --for 10m
  weir proxy-config log istio-ingressgateway -n istio-system --reset`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("`weir proxy-config log reviews-v1`; `weir proxy-status` lists the proxies", "%s needs one workload", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: a.completeProxies,
	}
	output := outputFlag(cmd)
	a.namespaceFlag(cmd, &namespace)
	f := cmd.Flags()
	f.StringVar(&level, "level", "", "the new `level`: "+joined(logLevels))
	_ = cmd.RegisterFlagCompletionFunc("level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp))
	f.DurationVar(&lasts, "for", 0, "how long it lasts, up to 24h; then the level is the usual one again")
	f.BoolVarP(&reset, "reset", "r", false, "back to the usual level")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case level != "" && reset:
			return usage("leave one out", "--level and --reset exclude each other")
		case cmd.Flags().Changed("for") && (level == "" || lasts <= 0 || lasts > 24*time.Hour):
			return usage("for example --level debug --for 10m", "--for is how long a --level lasts, up to 24h")
		case level == "warning": // istioctl's word
			level = "warn"
		case strings.ContainsAny(level, ":,"):
			return usage("--level debug", "the log of a proxy has one level, not one for each part of it: %q", level)
		case level != "" && !slices.Contains(logLevels, level):
			hint := "use one of: " + joined(logLevels)
			if near := document.Suggest(level, logLevels); near != "" {
				hint = "did you mean " + near + "?"
			}
			return usage(hint, "%q is not a log level", level)
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		workload := args[0]
		split(&namespace, &workload)
		if namespace == "" {
			namespace = a.namespace()
		}
		l, err := c.LogLevel(cmd.Context(), namespace, workload, level, lasts, reset)
		if err != nil {
			return err
		}
		return a.levels(l, output.value)
	}
	return cmd
}

// levels prints what proxies answered; that one refuses, or none answered, is a no.
func (a *app) levels(l *apiv1.LogLevels, format string) error {
	failed := len(l.Proxies) == 0
	for _, p := range l.Proxies {
		if p.Refused != "" {
			failed = true
			a.errs.printf("%s refuses: %s\n", clean(p.Proxy), clean(p.Refused))
		}
	}
	if len(l.Silent) > 0 {
		failed = true
		a.silent(l.Silent)
		a.errs.printf("%s what is no weir-proxy, or one from before this could be asked, does not answer\n", a.errs.paint(cyan, " hint:"))
	}
	if format != asTable {
		if err := a.out.emit(format, l); err != nil {
			return err
		}
	} else if len(l.Proxies) > 0 {
		t := newTable("PROXY", "LEVEL", "USUAL", "UNTIL")
		for _, p := range l.Proxies {
			until := ""
			if p.Until != nil {
				until = p.Until.Local().Format(time.DateTime)
			}
			t.add(text(p.Proxy), text(p.Level), text(p.Usual), text(until))
		}
		a.out.print(t)
	}
	if failed {
		return silent(exitNo)
	}
	return nil
}
