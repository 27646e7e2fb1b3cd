package control

import (
	"fmt"
	"strings"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/ledger"
	"github.com/weirmesh/weir/mesh"
)

// mostRefused is how many callers a finding names.
const mostRefused = 5

// wouldRefuse is who called in plaintext lately and would be refused by a PeerAuthentication that is not in force yet: at ports which
// demand mutual TLS by it, and have not so far. told is asked for if there is one.
func wouldRefuse(u *store.Update, o *config.Object, lowered any, told func() []callers, now time.Time) []config.Finding {
	a, ok := lowered.(*mesh.PeerAuthentication)
	if !ok {
		return nil
	}
	known := told()
	next := *u.Snapshot
	next.PeerAuths = next.PeerAuths.Set(mesh.NewKey(o.ID.Namespace, o.ID.Name), a)
	strict := mtlsModes[mesh.MTLSStrict]
	demanded := map[workloadPort]bool{}
	of := func(x *apiv1.MTLSPort) workloadPort { return workloadPort{x.Namespace, x.Workload, x.Port} }
	was := mtls(u.Snapshot, known, nil, now, mtlsWindow).Ports
	for i := range was {
		demanded[of(&was[i])] = was[i].Mode == strict
	}
	var who []string
	path := "spec.mtls.mode"
	for _, x := range mtls(&next, known, nil, now, mtlsWindow).Ports {
		if x.Mode != strict || demanded[of(&x)] {
			continue
		}
		if a.Ports[x.Port] == mesh.MTLSStrict && len(x.Callers) > 0 {
			path = fmt.Sprintf("spec.portLevelMtls.%d.mode", x.Port)
		}
		for _, line := range blockers(&x, now, 0) {
			who = append(who, fmt.Sprintf("%s/%s port %d: %s", x.Namespace, x.Workload, x.Port, line))
		}
	}
	if len(who) == 0 {
		return nil
	}
	more := ""
	if n := len(who) - mostRefused; n > 0 {
		who, more = who[:mostRefused], fmt.Sprintf("; and %d more", n)
	}
	return []config.Finding{config.New(config.WouldRefuse, o.Ref, path, o.LineOf(path),
		"mutual TLS is demanded of callers that have called in plaintext lately, and are refused from then on: "+strings.Join(who, "; ")+more,
		"give them a proxy first; `weir mtls status` says when nobody calls in plaintext any more, and `weir mtls enforce` waits for that")}
}

// ownSightings are the callers that this control plane has seen itself, without asking anybody.
func (p *Plane) ownSightings() []callers {
	b := p.callers.Book(time.Now().Round(0))
	return []callers{{Told: ledger.Told{Own: b, Whole: b}}}
}
