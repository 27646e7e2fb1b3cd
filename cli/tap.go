package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/api/causes"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// statusFilter is what --status takes: a status, or a class of them.
var statusFilter = regexp.MustCompile(`^[1-5](\d\d|[xX]{2})$`)

func (a *app) tap() *cobra.Command {
	var namespace, from, to, method, path, status, flag, header string
	var least time.Duration
	var rate int
	cmd := &cobra.Command{
		Use:   "tap [SERVICE] [flags]",
		Short: "show requests as they happen",
		Long: `Show requests as they end, until Ctrl-C: those to SERVICE, or all, as far as the
filters let them pass. Each is shown once: as its caller's proxy saw it, or the
server's where the caller has none.

Proxies filter and send so many a second each (--rate); what is more is left out
and counted. Nothing is sent, and nothing costs anything, while nobody taps.
-o json prints an object a line. Queries, headers and bodies are never shown.`,
		Example: `  weir tap
  weir tap reviews --status 5xx
  weir tap --from productpage-v1 --method GET --path /reviews --min-duration 100ms
  weir tap reviews --header end-user=jason -o json`,
		Args:              atMostOne,
		ValidArgsFunction: a.completeService(&namespace),
	}
	output := choose(cmd, "output", "o", "form of the output", asText, asJSON)
	a.namespaceFlag(cmd, &namespace)
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "those of `workload`")
	f.StringVar(&to, "to", "", "those to `workload`")
	f.StringVar(&method, "method", "", "those with this `method`")
	f.StringVar(&path, "path", "", "those whose path begins with this `prefix`")
	f.StringVar(&status, "status", "", "those with this `status`, for example 503 or 5xx")
	f.StringVar(&flag, "flag", "", "those with this response `flag`, for example UO")
	f.StringVar(&header, "header", "", "those whose header has a value: `name=value`")
	f.DurationVar(&least, "min-duration", 0, "those that took so long")
	f.IntVar(&rate, "rate", 20, "at most `n` a second of each proxy, up to 100")
	a.completeEnds(cmd)
	_ = cmd.RegisterFlagCompletionFunc("flag", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for f := range causes.AnyFlag.Each() {
			out = append(out, f.String()+"\t"+f.Sentence())
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if rate < 1 || rate > 100 {
			return usage("for example --rate 100", "--rate must be from 1 to 100")
		}
		if flag != "" && causes.Parse(flag) == 0 {
			return usage("for example --flag UO; `weir explain` lists them", "--flag %q is no response flag", flag)
		}
		if status != "" && !statusFilter.MatchString(status) {
			return usage("for example --status 503, or --status 5xx", "--status %q is no status", status)
		}
		if name, _, ok := strings.Cut(header, "="); header != "" && (!ok || name == "") {
			return usage("for example --header end-user=jason", "--header %q is not NAME=VALUE", header)
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		if err := nobody(cmd.Context(), c, false, from, to); err != nil {
			return err
		}
		q := url.Values{"from": {from}, "to": {to}, "method": {method}, "path": {path}, "status": {strings.ToLower(status)}, "flag": {strings.ToUpper(flag)}, "header": {header}, "min": {least.String()}, "rate": {strconv.Itoa(rate)}}
		if len(args) == 1 {
			host, err := a.host(cmd.Context(), c, args[0], namespace)
			if err != nil {
				return err
			}
			q.Set("service", host)
		}
		dropped := map[string]uint64{} // by proxy
		return c.Tap(cmd.Context(), q, func(t *apiv1.Tapped) error {
			if output.value == asJSON {
				data, err := json.Marshal(t)
				a.out.printf("%s\n", data)
				return err
			}
			if t.Silent != "" {
				a.silent([]string{t.Silent})
				return nil
			}
			if t.Dropped > dropped[t.Proxy] {
				a.errs.printf("%s was too busy to show %s more: --rate, or filters\n", clean(t.Proxy), count(int(t.Dropped-dropped[t.Proxy]), "request"))
				dropped[t.Proxy] = t.Dropped
			}
			a.out.tapped(t)
			return nil
		})
	}
	return cmd
}

// tapped is a line: "12:00:00.123 200 GET reviews:9080/reviews/0  3.2 ms  default/page > default/reviews-v1  ID".
func (p *printer) tapped(t *apiv1.Tapped) {
	line := fmt.Sprintf("%s %s %s  %s  %s > %s", t.Time.Local().Format("15:04:05.000"), p.paint(statusColor(t.Status), statusText(t.Status)), clean(t.Method+" "+t.Authority+t.Path), milliseconds(t.Milliseconds),
		clean(firstOf(t.Source, unknown)), clean(firstOf(t.Destination, t.Service, "nowhere")))
	if t.Flags != "" || t.Cause != "" {
		line += "  " + p.paint(red, clean(strings.TrimSpace(t.Flags+" "+t.Cause)))
	}
	if t.ID != "" {
		line += "  " + p.paint(dim, clean(t.ID))
	}
	p.printf("%s\n", line)
}
