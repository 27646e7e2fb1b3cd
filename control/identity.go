package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

const (
	// A certificate is renewed at 40 to 60 % of its life; who has less left than this part of it has
	// failed for a while.
	overdueLeft = 0.35
	// worriedLeft is when that is a finding: with this part of the life left.
	worriedLeft = 0.25
	// clocksApart is how far apart clocks of machines may be before somebody is told; an answer takes some seconds, too.
	clocksApart = time.Minute
	// maxRehearsal is how far ahead is rehearsed, maxLapses how many a page shows.
	maxRehearsal = 30
)

// trustDomains are the mesh's own, first, and its aliases as they are now.
func (p *Plane) trustDomains() []string {
	settings := &p.o.Settings
	if u := p.latest.Load(); u != nil {
		settings = u.Snapshot.Settings
	}
	return append([]string{p.o.TrustDomain}, settings.TrustDomainAliases...)
}

// members accepts the workloads of the mesh, by the trust domains it has when somebody comes.
type members struct{ p *Plane }

func (m members) Accepts(id identity.ID) bool { return m.now().Accepts(id) }
func (m members) String() string              { return m.now().String() }
func (m members) now() identity.TrustDomains  { return m.p.trustDomains() }

// authorityView is what this control plane says of what signs.
func (p *Plane) authorityView(now time.Time) apiv1.Identity {
	held, _ := p.auth.Watch()
	out := apiv1.Identity{TrustDomain: p.o.TrustDomain, Aliases: p.trustDomains()[1:], Time: now,
		SigningUntil: held.ChainNotAfter(), CertificateTTL: cmp.Or(p.o.CertTTL, 24*time.Hour).String(), Roots: []apiv1.IdentityRoot{}, Workloads: []apiv1.IdentityWorkload{}}
	for _, v := range p.views(now) {
		out.Roots = append(out.Roots, apiv1.IdentityRoot{Name: v.Name, Serial: v.Serial, From: v.From, Until: v.Until, Succeeds: v.Ours, Signs: v.Signs, Begins: v.Begins, Retires: v.Retires})
	}
	out.Succeeds = slices.ContainsFunc(out.Roots, func(r apiv1.IdentityRoot) bool { return r.Signs && r.Succeeds })
	out.SigningEnds = ended(held.FirstEnd())
	if p.o.CA == "" && p.o.Authority == nil {
		out.SigningEnds.File = "" // the mesh's own
	}
	if p.o.ExternalCA != nil {
		out.External = &apiv1.IdentityEnd{}
		if c := p.above.Load(); c != nil {
			*out.External = ended(c, "")
		}
	}
	if x, ok := p.auth.(interface{ Problem() string }); ok {
		out.Problem = x.Problem()
	}
	if x, ok := p.auth.(interface{ Notes() []string }); ok {
		out.Notes = x.Notes()
	}
	return out
}

// identityView is what this control plane knows: of those connected here, and of what it issued.
func (p *Plane) identityView(now time.Time) apiv1.Identity {
	own := p.ownHolders(now, false)
	return together(now, own, nil, !p.replicas.alone(), nil)
}

// everyIdentity is GET /api/v1/identity: what all control planes of the mesh know.
func (p *Plane) everyIdentity(ctx context.Context, now time.Time) apiv1.Identity {
	others, silent := p.otherHolders(ctx, false)
	return together(now, p.ownHolders(now, false), others, len(silent) > 0, silent)
}

// together is what control planes know together. partial says that more could be known than they do: then who does not say himself that
// he has not renewed may have.
func together(now time.Time, own holders, others []holders, partial bool, silent []string) apiv1.Identity {
	out := own.Authority
	out.Silent = silent
	for i := range others {
		agree(&out, &own.Authority, &others[i])
	}
	all := append([]holders{own}, others...)
	out.Workloads = append([]apiv1.IdentityWorkload{}, merged(all)...)
	var files []heldFile
	for _, h := range all {
		files = append(files, h.Files...)
	}
	out.Given = slices.Concat(own.secrets, inFiles(own.snap, files))
	slices.SortStableFunc(out.Given, func(a, b apiv1.IdentityGiven) int { return a.Until.Compare(b.Until) })
	out.Unknown = unheard(all, out.Workloads)
	out.Certificates = len(out.Workloads)
	for i := range out.Workloads {
		w := &out.Workloads[i]
		w.Overdue = w.Connected && (w.Reported || !partial) && late(now, w.From, w.Until, overdueLeft)
	}
	slices.SortFunc(out.Workloads, func(a, b apiv1.IdentityWorkload) int {
		return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Workload, b.Workload))
	})
	out.Horizon = horizon(now, &out)
	return out
}

// agree takes into v what another control plane says of what signs; what breaks first there breaks first. What they do not agree about
// is a note.
func agree(v, own *apiv1.Identity, other *holders) {
	o, who := &other.Authority, "the control plane "+other.Name
	if o.SigningUntil.Before(v.SigningUntil) {
		v.SigningUntil = o.SigningUntil
	}
	v.Succeeds = v.Succeeds && o.Succeeds
	if o.Problem != "" && o.Problem != own.Problem {
		if v.Problem != "" {
			v.Problem += "; "
		}
		v.Problem += who + ": " + o.Problem
	}
	for _, n := range o.Notes {
		if !slices.Contains(v.Notes, n) {
			v.Notes = append(v.Notes, n)
		}
	}
	if a, b := signs(own), signs(o); a != b {
		v.Notes = append(v.Notes, fmt.Sprintf("%s signs by the root of serial %s, and this one by %s", who, b, a))
	}
	if a, b := trusts(own), trusts(o); a != b {
		v.Notes = append(v.Notes, fmt.Sprintf("%s trusts the roots of serials %s, and this one %s: workloads trust those of who renewed theirs last", who, b, a))
	}
	if d := o.Time.Sub(own.Time); d.Abs() > clocksApart {
		v.Notes = append(v.Notes, fmt.Sprintf("the clock of %s is %s off this one's", who, d.Round(time.Second)))
	}
}

func signs(v *apiv1.Identity) string {
	for _, r := range v.Roots {
		if r.Signs {
			return r.Serial
		}
	}
	return "none"
}

func trusts(v *apiv1.Identity) string {
	var out []string
	for _, r := range v.Roots {
		out = append(out, r.Serial)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// late reports whether less than a part of a certificate's life is left, whatever the clocks.
func late(now, from, until time.Time, part float64) bool {
	return until.Sub(now)+clocksApart < time.Duration(part*float64(until.Sub(from)))
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
		h := apiv1.Horizon{At: v.SigningUntil, What: "no certificate is made any more, and none in use is accepted", Object: "CertificateAuthority " + v.TrustDomain, Field: v.SigningEnds.File}
		switch {
		case v.Succeeds:
			h.Why, h.Remedy = "the root ends, and its successor cannot be made: "+v.Problem, "correct what is said"
		case v.SigningEnds.File == "root-cert.pem":
			h.Why = "the root " + v.SigningEnds.Name + " ends"
			h.Remedy = "put its successor and what that signed into the folder of --ca, or into Secret cacerts: it is trusted at once, and signs when everybody knows it"
		case v.SigningEnds.File == "":
			h.Why, h.Remedy = "the signing certificate "+v.SigningEnds.Name+" ends", "put a new one into the folder of --ca, or into the Secret cacerts"
		default:
			h.Why = "the intermediate " + v.SigningEnds.Name + " ends"
			h.Remedy = "put another one of the same root into " + v.SigningEnds.File + " in the folder of --ca, or in Secret cacerts: it is used at once"
		}
		if v.External != nil && !v.Succeeds {
			h.What = "the control plane has no certificate any more: proxies take no configuration from it, and certificates of workloads, which somebody else signs, end without being renewed"
		}
		take(h)
	}
	if e := v.External; e != nil && e.Name != "" {
		take(apiv1.Horizon{At: e.Until, Object: "CertificateAuthority " + v.TrustDomain, What: "what the external certificate authority signed is refused", Why: "its " + e.Name + " ends, unless it signs by another one before",
			Remedy: "renew it at the external authority; if its root changes, put that into root-cert.pem of the mesh's own authority first"})
	}
	for _, r := range v.Roots {
		if !r.Signs && !r.Succeeds && r.Retires.IsZero() && now.Before(r.Until) {
			take(apiv1.Horizon{At: r.Until, Object: "CertificateAuthority " + v.TrustDomain, Field: "root-cert.pem",
				What: "workloads whose certificates lead to the root " + strconv.Quote(r.Name) + " are refused", Why: "it ends", Remedy: "put its successor beside it in root-cert.pem"})
		}
	}
	for _, w := range v.Workloads {
		if w.Overdue {
			take(apiv1.Horizon{At: w.Until, Object: "Pod " + w.Workload, What: "workload " + w.Workload + " is refused by all others",
				Why:    "its certificate ends, and it has not renewed it, though that was due: " + cmp.Or(w.LastError, "it is connected, and may not be able to reach its certificate authority"),
				Remedy: "look at lastError of `weir proxy certs " + w.Workload + "`, and at the log of the control plane"})
			break // sorted by their ends
		}
	}
	if len(v.Given) > 0 { // sorted, too
		g := &v.Given[0]
		h := apiv1.Horizon{At: g.Until, Object: g.Object, Field: g.Field, What: g.Breaks, Why: g.Source + " ends", Remedy: remedy(g)}
		if g.Object != "" {
			h.Why += ", which " + g.Object + " names in " + g.Field
		}
		take(h)
	}
	return first
}

// identityFindings are what of it somebody has to know without asking: of all control planes that answer.
func (p *Plane) identityFindings(ctx context.Context, now time.Time) (out []config.Finding) {
	others, _ := p.otherHolders(ctx, true)
	own := p.ownHolders(now, false)
	conditions, on := own.Conditions, maps.Clone(own.DependOn)
	for _, o := range others {
		conditions = append(conditions, o.Conditions...)
		for serial, d := range o.DependOn {
			all := on[serial]
			all.add(d)
			on[serial] = all
		}
	}
	out = append(conditionFindings(conditions, now), rootFindings(own.Authority.Roots, on, p.o.TrustDomain, now)...)
	named, given := 0, 0
	v := together(now, own, others, !p.replicas.alone(), nil)
	for i := range v.Given {
		if g := &v.Given[i]; endsSoon(now, g.From, g.Until) && given < maxTold {
			out = append(out, ending(g))
			given++
		}
	}
	for _, w := range v.Workloads {
		if w.Overdue && late(now, w.From, w.Until, worriedLeft) {
			id, err := identity.Parse(w.Identity)
			if err != nil {
				continue
			}
			failed, hint := "", "lastError of `weir proxy certs "+w.Workload+"` is what its authority answered, or why it was not reached; `weir identity` shows all certificates"
			if w.LastError != "" {
				failed, hint = fmt.Sprintf(": at %s its proxy met: %s", w.LastErrorAt.UTC().Format(time.RFC3339), w.LastError), "correct what its authority refuses, or what keeps it from being reached: it asks again by itself; `weir identity` shows all certificates"
			}
			out = append(out, config.New(config.IdentityHorizon, mesh.Ref{Kind: "Pod", Namespace: id.Namespace, Name: w.Workload}, "", 0,
				fmt.Sprintf("the certificate of %s ends %s and was not renewed, though that was due%s", w.Identity, w.Until.UTC().Format(time.RFC3339), failed),
				hint))
			named++
		}
		if named == maxTold {
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
		fail(w, http.StatusBadRequest, "years is more than 0 and at most "+strconv.Itoa(maxRehearsal)+", away (a part of the time) from 0 to 0.9", "for example years=3&away=0.4")
		return
	}
	answer(w, http.StatusOK, p.rehearse(time.Now().Round(0), years, away))
}

func (p *Plane) rehearse(now time.Time, years, away float64) apiv1.Rehearsal {
	v := p.authorityView(now)
	// Three workloads see what a thousand would: they differ in their jitter.
	r := ca.Rehearsal{From: now, Until: now.Add(time.Duration(years * 365.25 * 24 * float64(time.Hour))), Succeeds: v.Succeeds, Signing: v.SigningUntil, TTL: p.o.CertTTL, Away: away, Workloads: 3}
	for _, root := range v.Roots {
		r.Roots = append(r.Roots, ca.Root{From: root.From, Until: root.Until, Ours: root.Succeeds})
	}
	done := r.Run()
	for _, g := range p.identityView(now).Given {
		if g.Until.Before(r.Until) {
			done.Events = append(done.Events, ca.Event{At: g.Until, What: fmt.Sprintf("%s: %s, unless somebody puts another there before", g.Source, g.Breaks)})
		}
	}
	slices.SortStableFunc(done.Events, func(a, b ca.Event) int { return a.At.Compare(b.At) })
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
