package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

func (a *app) identity() *cobra.Command {
	var check bool
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "identity [flags]",
		Short: "show who signs certificates, what is trusted, and when the first thing breaks",
		Long: `Show the certificate authority: which root signs, which are trusted and until
when, which certificates are in use. The horizon is the time at which the first
thing breaks if nobody does anything, with what breaks and why; a mesh whose root
is its own has none while everything works: the root is succeeded in time.

Certificates that people put there, which nobody in the mesh renews, count, too:
of an authority that is plugged in and of an external one, in Secrets and files of
Gateways, Sidecars and DestinationRules. Files are those that connected proxies of
Weir read. Of a chain the first end counts, of authorities the last.

All control planes of the mesh are asked. A certificate is the one that its proxy
says it shows; of proxies that say nothing (Envoy, Istio's), the newest that the
control planes issued since they started; of which nothing is known are counted.
It is overdue if its workload is
connected and should have renewed it. With --check the exit status is 1 if
something breaks --within a time, or if a control plane does not answer.

"weir identity rehearse" runs ahead what keeps identities alive.`,
		Example: `  weir identity
  weir identity --check --within 720h
  weir identity -o json | jq .horizon
  weir identity rehearse --years 3`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd, asWide)
	cmd.Flags().BoolVar(&check, "check", false, "exit status 1 if the horizon is near")
	cmd.Flags().DurationVar(&within, "within", 30*24*time.Hour, "`time` that counts as near")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.mesh()
		if err != nil {
			return err
		}
		v, err := c.Identity(cmd.Context())
		if err != nil {
			return err
		}
		if output.value == asJSON || output.value == asYAML {
			err = a.out.emit(output.value, v)
		} else {
			a.out.identity(v, output.value == asWide)
		}
		if err == nil && check && (len(v.Silent) > 0 || v.Horizon != nil && v.Horizon.At.Sub(v.Time) < within) {
			return silent(exitNo)
		}
		return err
	}
	cmd.AddCommand(a.rehearse(), a.token())
	return cmd
}

func (p *printer) identity(v *apiv1.Identity, wide bool) {
	p.printf("trust domain %s; certificates live for %s\n", clean(v.TrustDomain), clean(v.CertificateTTL))
	for _, alias := range v.Aliases {
		p.printf("  identities of %s are accepted, too\n", clean(alias))
	}
	if h := v.Horizon; h == nil {
		p.printf("horizon: nothing breaks by itself\n")
	} else {
		c := yellow
		if h.At.Sub(v.Time) < 7*24*time.Hour {
			c = red
		}
		p.printf("horizon: %s\n", p.paint(c, fmt.Sprintf("%s (in %s): %s", day(h.At), span(h.At.Sub(v.Time)), clean(h.What))))
		p.printf("  why: %s\n", clean(h.Why))
		if h.Remedy != "" {
			p.printf("  remedy: %s\n", clean(h.Remedy))
		}
	}
	if v.Problem != "" {
		p.printf("%s\n", p.paint(red, clean(v.Problem)))
	}
	for _, n := range v.Notes {
		p.printf("%s\n", p.paint(yellow, clean(n)))
	}
	for _, s := range v.Silent {
		p.printf("%s\n", p.paint(red, clean(s+" did not answer: what breaks first there is not known, nor who renewed there")))
	}
	p.printf("\n")
	t := newTable("ROOT", "SERIAL", "VALID UNTIL", "SIGNS", "TRUSTED UNTIL")
	for _, r := range v.Roots {
		signs := ""
		switch {
		case r.Signs:
			signs = "yes"
		case r.Begins.After(v.Time):
			signs = "from " + day(r.Begins)
		}
		t.add(text(clean(r.Name)), text(clean(r.Serial)), text(day(r.Until)), text(signs), text(day(r.Retires)))
	}
	p.print(t)
	p.given(v, wide)
	overdue := 0
	t = newTable("IDENTITY", "WORKLOAD", "VALID UNTIL", "LEFT", "STATE")
	for _, w := range v.Workloads {
		state := cell{text: "connected"}
		switch {
		case w.Overdue:
			overdue++
			state = cell{text: "overdue", color: red}
		case !w.Connected:
			state = text("not connected")
		}
		if wide || w.Overdue {
			t.add(text(clean(w.Identity)), text(clean(w.Workload)), text(day(w.Until)), text(span(w.Until.Sub(v.Time))), state)
		}
	}
	p.printf("\n%d certificates in use are known, %d overdue\n", v.Certificates, overdue)
	if len(v.Unknown) > 0 {
		p.printf("%d connected proxies do not say which certificate they show, and none is remembered\n", len(v.Unknown))
	}
	if wide && len(v.Workloads) > 0 || overdue > 0 {
		p.print(t)
	}
}

// mostGiven of those that people put there are shown, unless all are asked for.
const mostGiven = 10

func (p *printer) given(v *apiv1.Identity, wide bool) {
	if len(v.Given) == 0 {
		return
	}
	t := newTable("NAMED BY", "FIELD", "CERTIFICATE", "VALID UNTIL", "LEFT")
	list := v.Given
	if !wide {
		list = list[:min(len(list), mostGiven)]
	}
	for _, g := range list {
		left := text(span(g.Until.Sub(v.Time)))
		if g.Until.Sub(v.Time) < 7*24*time.Hour {
			left.color = red
		}
		t.add(text(clean(g.Object)), text(clean(g.Field)), text(clean(g.Source)), text(day(g.Until)), left)
	}
	p.printf("\n")
	p.print(t)
	if more := len(v.Given) - len(list); more > 0 {
		p.printf("and %d that end later: -o wide\n", more)
	}
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

func (a *app) rehearse() *cobra.Command {
	var years, away float64
	cmd := &cobra.Command{
		Use:   "rehearse [flags]",
		Short: "run ahead what keeps identities alive, and show what breaks",
		Long: `Run ahead what keeps identities alive: the same machines that renew workloads'
certificates and succeed roots, with the roots there are now, on a clock of their
own. Shown is what happens to roots, and what breaks; the exit status is 1 if
something does. Nothing is signed and nothing changed.

--away lets nobody sign for a part of the time, in spells of up to six hours.`,
		Example: `  weir identity rehearse --years 3
  weir identity rehearse --years 12 --away 0.4`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd)
	cmd.Flags().Float64Var(&years, "years", 3, "how many, up to 30")
	cmd.Flags().Float64Var(&away, "away", 0, "`part` of the time without an authority, 0 to 0.9")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !(years > 0 && years <= 30) || !(away >= 0 && away <= 0.9) { // NaN is neither
			return usage("for example `weir identity rehearse --years 3 --away 0.4`", "--years is more than 0 and at most 30, --away from 0 to 0.9")
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		r, err := c.Rehearsal(cmd.Context(), years, away)
		if err != nil {
			return err
		}
		if output.value != asTable {
			err = a.out.emit(output.value, r)
		} else {
			a.out.printf("from %s until %s: three workloads got %d certificates", day(r.From), day(r.Until), r.Issued)
			if r.Refused > 0 {
				a.out.printf(", and asked %d times when nobody signed", r.Refused)
			}
			a.out.printf("\n")
			for _, e := range r.Events {
				a.out.printf("%s  %s\n", day(e.At), clean(e.What))
			}
			for _, e := range r.Breaks {
				a.out.printf("%s  %s\n", day(e.At), a.out.paint(red, clean(e.What)))
			}
			if len(r.Breaks) == 0 {
				a.out.printf("nothing breaks\n")
			}
		}
		if err == nil && len(r.Breaks) > 0 {
			return silent(exitNo)
		}
		return err
	}
	return cmd
}
