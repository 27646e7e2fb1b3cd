package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

func (a *app) why() *cobra.Command {
	var from, to string
	var last bool
	var most int
	cmd := &cobra.Command{
		Use:   "why [REQUEST_ID | --last-errors [SERVICE] | --from A --to B] [flags]",
		Short: "say why a request failed: the true cause, which object decided, what to change",
		Long: `Say why a request failed. The proxies on its way are asked what they decided and
what became of each attempt, and one story is made of it: the true cause first,
the object and line that decided, what the other side did, what to change.

REQUEST_ID is the x-request-id of the request, which access logs have, its trace,
or the header x-weir-why of its answer. --last-errors tells of the last that
failed, those that are alike once; of calls to SERVICE, if one is named. --from
and --to choose by workload, service or namespace/name. "weir explain CODE" says
more about a cause.

Proxies remember their last 1,024 failures, and of what went well one in 64.`,
		Example: `  weir why --last-errors
  weir why --last-errors reviews
  weir why --from productpage --to reviews
  weir why 0c7cd0b4-3f21-4d2b-9a55-5f0b7cfe5e21`,
		Args:              atMostOne,
		ValidArgsFunction: a.completeService(new("")), // of --last-errors; ids are not known
	}
	output := outputFlag(cmd)
	cmd.Flags().BoolVar(&last, "last-errors", false, "the last requests that failed")
	cmd.Flags().StringVar(&from, "from", "", "those of `workload`")
	cmd.Flags().StringVar(&to, "to", "", "those to `workload` or service")
	cmd.Flags().IntVar(&most, "limit", 10, "at most `n` stories")
	a.completeEnds(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, service := "", ""
		switch {
		case len(args) == 1 && last:
			service = args[0]
		case len(args) == 1 && (from != "" || to != ""):
			return usage("`weir why --from A --to B`, or `weir why REQUEST_ID`", "--from and --to do not go with a request id")
		case len(args) == 1:
			id = args[0]
			if _, told, ok := strings.Cut(id, "; id="); ok { // all of x-weir-why
				id = told
			}
		}
		if most < 1 || most > 100 {
			return usage("for example --limit 20", "--limit must be from 1 to 100")
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		w, err := c.Why(cmd.Context(), id, service, from, to, most)
		if err != nil {
			return err
		}
		if output.value != asTable {
			return a.out.emit(output.value, w)
		}
		for i := range w.Stories {
			if i > 0 {
				a.out.printf("\n")
			}
			a.out.story(&w.Stories[i])
		}
		a.silent(w.Silent)
		if len(w.Stories) > 0 {
			return nil
		}
		return a.noStory(cmd.Context(), c, w.Asked, id, service, from, to)
	}
	return cmd
}

// noStory says why there is none: nobody could be asked, nobody knows the request, there is nobody of a name, or nothing failed.
func (a *app) noStory(ctx context.Context, c *client.Client, asked int, id, service, from, to string) error {
	if asked == 0 {
		return hinted("`weir proxy-status` shows which proxies there are", "no proxy is connected that could be asked")
	}
	if id != "" {
		hint := "of requests that went well one in 64 is kept, and failures until 1,024 newer ones came; `weir why --last-errors` tells of those, and of a service's with its name after it"
		if len(lookUp(id)) > 0 {
			hint = "what it means says `weir explain " + id + "`; which requests failed, `weir why --last-errors`"
		} else if known, err := knownNames(ctx, c, true); err == nil && among(known, id) {
			hint = "of calls to it tells `weir why --last-errors " + id + "`"
		}
		return hinted(hint, "none of %s knows a request %s", count(asked, "proxy"), id)
	}
	if err := nobody(ctx, c, true, service, from, to); err != nil {
		return err
	}
	what := "nothing failed"
	if service != "" || from != "" || to != "" {
		what = "no such call failed"
	}
	a.errs.printf("%s asked, and %s\n", count(asked, "proxy"), what)
	return nil
}

// story prints what became of a request: the cause, where, who decided, what to do, and the way it took.
func (p *printer) story(s *apiv1.Story) {
	what := s.Target
	if s.Method != "" {
		what = s.Method + " " + what
	}
	head := p.paint(statusColor(s.Status), statusText(s.Status)) + " " + p.paint(bold, clean(what)) + "  " + s.Time.Local().Format("15:04:05.000")
	if s.ID != "" {
		head += "  " + p.paint(dim, clean(s.ID))
	}
	p.printf("%s\n", head)
	line := func(name, text string) {
		if text != "" {
			p.printf("  %-9s %s\n", name, clean(text))
		}
	}
	p.printf("  %s: %s\n", p.paint(bold, clean(s.Cause)), clean(s.Text))
	if why := httpReason(s.Detail); why != "" {
		line("detail", s.Detail+": "+why)
	} else {
		line("detail", s.Detail)
	}
	if h := &s.Hops[s.Hop]; h.Side == "source" {
		line("where", "the proxy of "+h.Workload+", calling "+firstOf(h.Service, h.Peer, h.Asked)+subset(h))
	} else {
		by := firstOf(h.Peer, h.Identity, h.Client)
		if h.Identity != "" && by != h.Identity {
			by += " as " + strings.TrimPrefix(h.Identity, "spiffe://") // as policies write it
		}
		line("where", "the proxy of "+h.Workload+", called by "+by)
	}
	for i := range s.Decided {
		name := "decided"
		if s.Decided[i].Field == "" {
			name = "by way of"
		}
		line(name, decidedBy(&s.Decided[i]))
	}
	if l := s.Limit; l != nil {
		line("limit", fmt.Sprintf("%s: %s per proxy; in this one %d in use now, %d at most so far, reached %s", l.Name, limitValue(l), l.Use, l.Peak, count(int(l.Trips), "time")))
	}
	line("unknown", s.Unknown)
	for i := range s.Hops[s.Hop].Tries {
		line("attempt", attempt(&s.Hops[s.Hop], i))
	}
	if x := s.Stopped; x != nil {
		text := x.Text
		if x.Decided != nil {
			text += ": " + decidedBy(x.Decided)
		}
		line("no retry", text)
	}
	if len(s.Hops) > 1 {
		line("way", way(s.Hops))
	}
	if s.Remedy != "" {
		p.printf("  %s %s\n", p.paint(dim, "->"), clean(s.Remedy))
	}
	if s.Others > 0 {
		p.printf("  %s\n", p.paint(dim, fmt.Sprintf("and %d more like it", s.Others)))
	}
}

// way is "default/page (source, 503 URX, 5.1 ms) > default/reviews-v1 (destination, 503, 3 times)".
func way(hops []apiv1.Hop) string {
	var out []string
	for i := 0; i < len(hops); {
		h, n := &hops[i], 1 // attempts that came to the same are told once
		for i+n < len(hops) && hops[i+n].Workload == h.Workload && hops[i+n].Side == h.Side && hops[i+n].Status == h.Status && hops[i+n].Flags == h.Flags {
			n++
		}
		took := milliseconds(h.Ended)
		if n > 1 {
			took = fmt.Sprintf("%d times", n)
		}
		out = append(out, fmt.Sprintf("%s (%s, %s%s, %s)", h.Workload, h.Side, statusText(h.Status), flagged(h), took))
		i += n
	}
	return strings.Join(out, " > ")
}

// subset is ", subset v2" of a call that was routed to one.
func subset(h *apiv1.Hop) string {
	for i := range h.Decisions {
		if name := strings.Split(h.Decisions[i].Name, "|"); h.Decisions[i].Stage == "cluster" && len(name) == 4 && name[2] != "" { // direction|port|subset|host
			return ", subset " + name[2]
		}
	}
	return ""
}

func statusText(status int) string {
	if status == 0 {
		return "---"
	}
	return fmt.Sprint(status)
}

func statusColor(status int) color {
	switch {
	case status == 0, status >= 500:
		return red
	case status >= 400:
		return yellow
	}
	return green
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return "somebody unknown"
}

func flagged(h *apiv1.Hop) string {
	if h.Flags == "" {
		return ""
	}
	return " " + h.Flags
}

// decidedBy is "VirtualService default/reviews, http[].timeout, reviews.yaml:12, in force since 14:03:22".
func decidedBy(d *apiv1.Decider) string {
	parts := []string{object(d.Kind, d.Namespace, d.Name)}
	if d.Field != "" {
		parts = append(parts, d.Field)
	}
	if d.File != "" {
		at := d.File
		if d.Line > 0 {
			at += fmt.Sprintf(":%d", d.Line)
		}
		parts = append(parts, at)
	}
	switch {
	case d.Gone:
		parts = append(parts, "which is gone by now")
	case d.Behind:
		parts = append(parts, "in an older version: the proxy did not have the one yet that is in force since "+d.Since.Local().Format(time.TimeOnly))
	case d.Changed && d.Since == nil:
		parts = append(parts, "which was changed after that")
	case d.Changed:
		parts = append(parts, "which was changed after that, at "+d.Since.Local().Format(time.TimeOnly))
	case d.Since != nil:
		parts = append(parts, "in force since "+d.Since.Local().Format(time.DateTime))
	}
	if d.Quarantined {
		parts = append(parts, "its last good version: what is written is refused (`weir status`)")
	}
	return strings.Join(parts, ", ")
}

// attempt says what became of an attempt.
func attempt(h *apiv1.Hop, i int) string {
	t := &h.Tries[i]
	number := i + 1
	if i == len(h.Tries)-1 {
		number = h.Attempts
	}
	s := fmt.Sprintf("%d of %d: %s", number, h.Attempts, t.Endpoint)
	switch {
	case t.Cause != "":
		s += ", " + t.Cause
	case t.Status != 0:
		s += fmt.Sprintf(", answered %d", t.Status)
	}
	s += fmt.Sprintf(" after %s", milliseconds(t.Ended-t.Began))
	switch {
	case t.Local == "":
		s += ", no connection"
	case t.Requests == 0:
		s += ", new connection"
	default:
		s += fmt.Sprintf(", connection of %s with %s before", milliseconds(t.Age), count(t.Requests, "request"))
	}
	return s
}

func milliseconds(ms float64) string {
	switch {
	case ms >= 10_000:
		return span(time.Duration(ms * float64(time.Millisecond)))
	case ms >= 999.5: // what would be shown as 1000, and %g as 1e+03
		return fmt.Sprintf("%.3g s", ms/1000)
	}
	return fmt.Sprintf("%.3g ms", ms)
}
