package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

// receipts shows what became of objects; exit status 1, if asked to check, unless each is
// in force where it is needed.
func (a *app) receipts(ctx context.Context, c *client.Client, ts []target, format string, check bool) error {
	out := []apiv1.Receipt{}
	sound := true
	for _, t := range ts {
		r, err := c.Receipt(ctx, t.kind.name, t.namespace, t.name)
		if err != nil {
			return err
		}
		out = append(out, *r)
		sound = sound && r.State != "quarantined" && r.State != "unenforced" && r.Everywhere && len(r.Missing) == 0
	}
	if format != asTable {
		if err := a.out.emit(format, out); err != nil {
			return err
		}
	} else {
		for i := range out {
			if i > 0 {
				a.out.printf("\n")
			}
			a.receipt(&out[i])
		}
	}
	if check && !sound {
		return silent(exitNo)
	}
	return nil
}

func (a *app) receipt(r *apiv1.Receipt) {
	p := a.out
	p.printf("%s, from %s\n", clean(object(r.Kind, r.Namespace, r.Name)), clean(a.from(r.Object)))
	state, _ := objectState(r.Object)
	since := fmt.Sprintf(", for %s, as version %d of the configuration", age(r.Since), r.Mesh)
	if r.State != "compiled" && !r.LastGood {
		since = ""
	}
	p.printf("  %s%s\n", p.paint(state.color, state.text), since)
	p.printf("  needed by %d of %s\n", r.Proxies, count(r.Connected, "connected proxy"))
	if r.Proxies > 0 {
		active := fmt.Sprintf("active on %d", r.Active)
		c := yellow
		if r.Everywhere {
			c = green
			if r.Settled != nil {
				active += ", everywhere since " + r.Settled.Local().Format("15:04:05.000")
			}
		}
		if s := r.Propagation; s != nil {
			active += fmt.Sprintf(" (p50 %s, p99 %s)", seconds(s.P50), seconds(s.P99))
		}
		p.printf("  %s\n", p.paint(c, active))
	}
	for _, m := range r.Missing {
		p.printf("  %s\n", p.paint(red, clean("not on: "+lacks(m))))
	}
	a.rules(r)
	for _, s := range r.Shadowed {
		if slices.ContainsFunc(r.Rules, func(u apiv1.Rule) bool { return u.Part == s.Part && u.State == "shadowed" }) {
			continue // has been said
		}
		by := s.By
		if s.ByPart != "" {
			by += ", " + s.ByPart
		}
		part := s.Part
		if part == "" {
			part = "all of it"
		}
		p.printf("  %s\n", p.paint(yellow, clean(fmt.Sprintf("shadowed: %s by %s", part, by))))
	}
	if len(r.Findings) > 0 {
		p.printf("\n")
		p.findings(r.Findings)
	}
}

// rules shows what became of each rule, in each place.
func (a *app) rules(r *apiv1.Receipt) {
	p := a.out
	for _, u := range r.Rules {
		where := u.Part
		if u.At != "" {
			where += " at " + u.At
		}
		text, c := u.State, green
		switch u.State {
		case "active":
			if u.Example != "" {
				text += ": " + u.Example
			}
		case "shadowed":
			text, c = text+" by "+u.By+", "+u.ByPart, yellow
			if u.By == object(r.Kind, r.Namespace, r.Name) {
				text = "shadowed by " + u.ByPart
			}
		default:
			text, c = text+": "+u.Why, red
		}
		p.printf("  %s %s\n", clean(where), p.paint(c, clean(text)))
	}
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", s*1000)
	}
	return shortly(d)
}
