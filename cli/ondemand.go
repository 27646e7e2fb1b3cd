package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/xds/dump"
)

func (a *app) pcOnDemand() *cobra.Command {
	return a.viewer("ondemand", "show what a proxy has asked for because it is used",
		`Show the configuration that a sidecar holds on demand: the listeners and virtual
hosts that it has asked for by name, because the workload uses what they are for.
Clusters, endpoints and the rest follow from these.

  SERVED   it is in use; if something is missing, as it was before
  WAITING  it is not there, or not all that it needs: first uses wait for it
  ABSENT   it was used, and there is no such thing
  LEARNED  it came because other replicas of the workload use it

SINCE is how long ago it was asked for, LAST USED how long it was not used (after
10 minutes it goes; open connections count as use), MISSING what has to come
first. Gateways and proxies in env capture hold everything from the beginning.`,
		`  weir proxy-config ondemand productpage-v1
  weir proxy-config ondemand reviews-v1-0 -o json | jq -r '.resources[].name'`,
		resourceFormats, func(ctx context.Context, h *holder, read reader) error {
			body, err := read(ctx, "/ondemand")
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }()
			x := &dump.OnDemand{}
			if err := json.NewDecoder(body).Decode(x); err != nil {
				return fmt.Errorf("reading configuration on demand: %w", err)
			}
			if h.output.value != asShort {
				return a.out.emit(h.output.value, x)
			}
			a.out.onDemand(x)
			return nil
		})
}

func (p *printer) onDemand(x *dump.OnDemand) {
	if !x.Active {
		p.printf("nothing is on demand: %s\n", clean(x.Why))
		return
	}
	index := "the index has not come yet, so all waits that is not held"
	if x.Index != nil {
		index = count(*x.Index, "name") + " in the index"
	}
	p.printf("%s, %d asked for; %s now", index, asked(x), count(x.Held, "request")+" waiting")
	if x.Waits > 0 {
		p.printf(", %d before, %s at most", x.Waits, x.LongestWait)
	}
	if n := x.Refused + x.Expired; n > 0 {
		p.printf(", %s", p.paint(red, fmt.Sprintf("%d in vain", n)))
	}
	p.printf("\n")
	if x.Away != "" {
		p.printf("%s: %s\n", p.paint(yellow, "the control plane is away, so what is not held does not come"), clean(x.Away))
	}
	if len(x.Resources) == 0 {
		return
	}
	t := newTable("TYPE", "NAME", "STATE", "SINCE", "LAST USED", "MISSING")
	for _, d := range x.Resources {
		since, used := "", ""
		if d.Since != nil {
			since = age(*d.Since)
		}
		if d.Idle != nil {
			if used = "<1m"; *d.Idle > 0 {
				used = span(time.Duration(*d.Idle) * time.Minute)
			}
		}
		state := cell{text: d.State}
		switch d.State {
		case dump.Served:
			state.color = green
		case dump.Waiting:
			state.color = yellow
		}
		t.add(text(d.Type), text(d.Name), state, text(since), text(used), text(strings.Join(d.Missing, ", ")))
	}
	p.print(t)
}

func asked(x *dump.OnDemand) int {
	n := 0
	for _, d := range x.Resources {
		if d.State != dump.Learned {
			n++
		}
	}
	return n
}
