package control

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

const (
	// maxIssued bounds what is remembered: 20,000 proxies, and as many that ended within the
	// life of their certificates; some 200 bytes each.
	maxIssued = 40_000
	// maxWorkloadName is what is kept of a name that an asker gives itself.
	maxWorkloadName = 253
	// A certificate is renewed at 40 to 60 % of its life; who has not by this part of it has
	// failed for a while.
	overdueAfter = 0.65
	// worriedAfter is when that is a finding: at this part of the life.
	worriedAfter = 0.75
	// maxRehearsal is how far ahead is rehearsed, maxLapses how many a page shows.
	maxRehearsal = 30
)

// issued is what this replica signed and what is still good, by who asked.
type issued struct {
	mu sync.Mutex
	m  map[holder]certificate
}

type holder struct {
	id       identity.ID
	workload string // the pod, if it said so
	host     string // it asked from, if it did not
}

type certificate struct{ from, until time.Time }

func (i *issued) note(id identity.ID, workload, host string, leaf *x509.Certificate) {
	k := holder{id: id, workload: workload[:min(len(workload), maxWorkloadName)]}
	if workload == "" {
		k.host = host
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.m == nil {
		i.m = map[holder]certificate{}
	}
	if _, known := i.m[k]; !known && len(i.m) >= maxIssued {
		now := time.Now()
		maps.DeleteFunc(i.m, func(_ holder, c certificate) bool { return now.After(c.until) })
		if len(i.m) >= maxIssued {
			return
		}
	}
	i.m[k] = certificate{leaf.NotBefore, leaf.NotAfter}
}

// identityView is GET /api/v1/identity.
func (p *Plane) identityView(now time.Time) apiv1.Identity {
	held, _ := p.auth.Watch()
	out := apiv1.Identity{TrustDomain: p.o.TrustDomain, Aliases: p.o.Settings.TrustDomainAliases, Time: now,
		SigningUntil: held.ChainNotAfter(), CertificateTTL: cmp.Or(p.o.CertTTL, 24*time.Hour).String(), Roots: []apiv1.IdentityRoot{}, Workloads: []apiv1.IdentityWorkload{}}
	for _, v := range p.views(now) {
		out.Roots = append(out.Roots, apiv1.IdentityRoot{Name: v.Name, Serial: v.Serial, From: v.From, Until: v.Until, Succeeds: v.Ours, Signs: v.Signs, Begins: v.Begins, Retires: v.Retires})
	}
	out.Succeeds = slices.ContainsFunc(out.Roots, func(r apiv1.IdentityRoot) bool { return r.Signs && r.Succeeds })
	if x, ok := p.auth.(interface{ Problem() string }); ok {
		out.Problem = x.Problem()
	}
	if x, ok := p.auth.(interface{ Notes() []string }); ok {
		out.Notes = x.Notes()
	}
	connected := map[string]bool{}
	if p.xds != nil {
		for _, c := range p.xds.Clients() {
			if _, name, ok := nodeName(c.Node); ok {
				connected[name] = true
			}
		}
	}
	p.issued.mu.Lock()
	for k, c := range p.issued.m {
		if now.After(c.until.Add(time.Hour)) {
			delete(p.issued.m, k)
			continue
		}
		out.Certificates++
		w := apiv1.IdentityWorkload{Identity: k.id.String(), Workload: cmp.Or(k.workload, k.host), From: c.from, Until: c.until,
			Connected: k.workload != "" && connected[k.id.Namespace+"/"+k.workload]}
		w.Overdue = w.Connected && now.Sub(c.from) > time.Duration(overdueAfter*float64(c.until.Sub(c.from)))
		out.Workloads = append(out.Workloads, w)
	}
	p.issued.mu.Unlock()
	slices.SortFunc(out.Workloads, func(a, b apiv1.IdentityWorkload) int {
		return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Workload, b.Workload))
	})
	out.Horizon = horizon(now, &out)
	return out
}

// nodeName is the workload of a node's id: type~ip~name.namespace~domain.
func nodeName(node string) (kind, name string, ok bool) {
	parts := strings.Split(node, "~")
	if len(parts) != 4 {
		return "", "", false
	}
	i := strings.LastIndexByte(parts[2], '.')
	if i < 0 {
		return "", "", false
	}
	return parts[0], parts[2][i+1:] + "/" + parts[2][:i], true
}

// views are the roots in force; an authority that stays as it is says less.
func (p *Plane) views(now time.Time) []ca.View {
	if x, ok := p.auth.(interface{ Views(time.Time) []ca.View }); ok {
		return x.Views(now)
	}
	held, _ := p.auth.Watch()
	return held.Views()
}

// horizon is when the first thing breaks if nothing is done, and why.
func horizon(now time.Time, v *apiv1.Identity) *apiv1.Horizon {
	var first *apiv1.Horizon
	take := func(h apiv1.Horizon) {
		if first == nil || h.At.Before(first.At) {
			first = &h
		}
	}
	if ended := !now.Before(v.SigningUntil); ended || !v.Succeeds || v.Problem != "" {
		h := apiv1.Horizon{At: v.SigningUntil, What: "no certificate is made any more, and none in use is accepted",
			Why: "the signing certificate ends, or one above it", Remedy: "put a new one into the folder of --ca, or into the Secret cacerts"}
		if v.Succeeds {
			h.Why, h.Remedy = "the root ends, and its successor cannot be made: "+v.Problem, "correct what is said"
		}
		take(h)
	}
	for _, r := range v.Roots {
		if !r.Signs && !r.Succeeds && r.Retires.IsZero() && now.Before(r.Until) {
			take(apiv1.Horizon{At: r.Until, What: "workloads whose certificates lead to the root " + strconv.Quote(r.Name) + " are refused", Why: "it ends", Remedy: "put its successor beside it in root-cert.pem"})
		}
	}
	for _, w := range v.Workloads {
		if w.Overdue {
			take(apiv1.Horizon{At: w.Until, What: "workload " + w.Workload + " is refused by all others", Why: "its certificate ends, and it has not renewed it, though that was due: it is connected to this replica, and may not be able to reach its certificate authority, or renews with another replica",
				Remedy: "look at lastError of `weir proxy certs " + w.Workload + "`, and at the log of the control plane"})
			break // sorted by their ends
		}
	}
	return first
}

// identityFindings are what of it somebody has to know without asking.
func (p *Plane) identityFindings(now time.Time) (out []config.Finding) {
	if p.issued == nil {
		return nil
	}
	for _, w := range p.identityView(now).Workloads {
		if w.Overdue && now.Sub(w.From) > time.Duration(worriedAfter*float64(w.Until.Sub(w.From))) {
			id, err := identity.Parse(w.Identity)
			if err != nil {
				continue
			}
			out = append(out, config.New(config.IdentityHorizon, mesh.Ref{Kind: "Pod", Namespace: id.Namespace, Name: w.Workload}, "", 0,
				fmt.Sprintf("the certificate of %s ends %s and was not renewed here, though that was due", w.Identity, w.Until.UTC().Format(time.RFC3339)),
				"look at the workload's certificate (`weir identity`), and whether it reaches the control plane"))
		}
		if len(out) == 20 {
			break
		}
	}
	return out
}

// handleRehearsal is GET /api/v1/identity/rehearsal?years=3&away=0.4.
func (p *Plane) handleRehearsal(w http.ResponseWriter, r *http.Request) {
	years, away := 3.0, 0.0
	for name, at := range map[string]*float64{"years": &years, "away": &away} {
		if s := r.URL.Query().Get(name); s != "" {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				fail(w, http.StatusBadRequest, name+" "+quote(s)+" is not a number", "for example years=3&away=0.4")
				return
			}
			*at = v
		}
	}
	if !(years > 0 && years <= maxRehearsal) || !(away >= 0 && away <= 0.9) {
		fail(w, http.StatusBadRequest, "years is from 0 to "+strconv.Itoa(maxRehearsal)+", away (a part of the time) from 0 to 0.9", "for example years=3&away=0.4")
		return
	}
	answer(w, http.StatusOK, p.rehearse(time.Now().Round(0), years, away))
}

func (p *Plane) rehearse(now time.Time, years, away float64) apiv1.Rehearsal {
	v := p.identityView(now)
	// Three workloads see what a thousand would: they differ in their jitter.
	r := ca.Rehearsal{From: now, Until: now.Add(time.Duration(years * 365.25 * 24 * float64(time.Hour))), Succeeds: v.Succeeds, Signing: v.SigningUntil, TTL: p.o.CertTTL, Away: away, Workloads: 3}
	for _, root := range v.Roots {
		r.Roots = append(r.Roots, ca.Root{From: root.From, Until: root.Until, Ours: root.Succeeds})
	}
	done := r.Run()
	out := apiv1.Rehearsal{From: r.From, Until: r.Until, Away: away, Issued: done.Issued, Refused: done.Refused, Events: []apiv1.RehearsalEvent{}, Breaks: []apiv1.RehearsalEvent{}}
	for _, e := range done.Events {
		out.Events = append(out.Events, apiv1.RehearsalEvent{At: e.At, What: e.What})
	}
	for _, l := range done.Lapses {
		out.Breaks = append(out.Breaks, apiv1.RehearsalEvent{At: l.From, What: fmt.Sprintf("a workload is without a certificate for %s: %s", l.For.Round(time.Minute), l.Why)})
	}
	for _, e := range done.Refusals {
		out.Breaks = append(out.Breaks, apiv1.RehearsalEvent{At: e.At, What: e.What})
	}
	slices.SortFunc(out.Breaks, func(a, b apiv1.RehearsalEvent) int { return a.At.Compare(b.At) })
	return out
}
