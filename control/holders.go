package control

import (
	"cmp"
	"context"
	"crypto/x509"
	"maps"
	"slices"
	"sync"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

const (
	// maxIssued bounds what is remembered: 20,000 proxies, and as many that ended within the
	// life of their certificates; some 200 bytes each.
	maxIssued = 40_000
	// maxWorkloadName is what is kept of a name that an asker gives itself.
	maxWorkloadName = 253
)

// issued is what this control plane signed and what is still good, by who asked.
type issued struct {
	mu sync.Mutex
	m  map[holder]certificate
}

type holder struct {
	id       identity.ID
	workload string // the pod, if it said so
	host     string // it asked from, if it did not
}

type certificate struct {
	from, until time.Time
	root        string // the serial number of that to which it leads, as its holder says
}

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
		i.makeRoom(time.Now())
	}
	i.m[k] = certificate{from: leaf.NotBefore, until: leaf.NotAfter}
}

// count is how many are good still.
func (i *issued) count(now time.Time) (n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, c := range i.m {
		if now.Before(c.until) {
			n++
		}
	}
	return n
}

// makeRoom forgets what has ended; if there is none, the older half of what the identity has that has most: who asks under names that he
// makes up has nobody forgotten but himself. i.mu is held.
func (i *issued) makeRoom(now time.Time) {
	maps.DeleteFunc(i.m, func(_ holder, c certificate) bool { return now.After(c.until) })
	if len(i.m) < maxIssued {
		return
	}
	of := map[identity.ID][]holder{}
	var most identity.ID
	for k := range i.m {
		if of[k.id] = append(of[k.id], k); len(of[k.id]) > len(of[most]) {
			most = k.id
		}
	}
	all := of[most]
	slices.SortFunc(all, func(a, b holder) int { return i.m[a].from.Compare(i.m[b].from) })
	for _, k := range all[:(len(all)+1)/2] {
		delete(i.m, k)
	}
}

// said is what a proxy says that it shows, and reads.
type said struct {
	certificate
	files []heldFile
}

// heldFile is a file of certificates that a proxy reads.
type heldFile struct {
	Workload string    `json:"workload"` // namespace/name
	Path     string    `json:"path"`
	Subject  string    `json:"subject"`
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
}

const (
	// maxFiles and maxFileText bound what is kept of what one proxy says of its files.
	maxFiles    = 100
	maxFileText = 512
)

func saidToHold(c *observev1.Certificate) *said {
	at := func(nano uint64) time.Time { return time.Unix(0, int64(nano)) }
	out := &said{certificate: certificate{from: at(c.GetFromUnixNano()), until: at(c.GetUntilUnixNano()), root: c.GetRoot()[:min(len(c.GetRoot()), maxRootText)]}}
	for _, f := range c.GetFiles()[:min(len(c.GetFiles()), maxFiles)] {
		out.files = append(out.files, heldFile{Path: f.GetPath()[:min(len(f.GetPath()), maxFileText)], Subject: f.GetSubject()[:min(len(f.GetSubject()), maxFileText)],
			From: at(f.GetFromUnixNano()), Until: at(f.GetUntilUnixNano())})
	}
	return out
}

// holders is what one control plane knows of who holds which certificate.
type holders struct {
	Name      string                   `json:"name"`      // its own
	Authority apiv1.Identity           `json:"authority"` // what signs; without workloads
	All       []apiv1.IdentityWorkload `json:"all"`
	Connected []string                 `json:"connected,omitempty"` // namespace/name
	// Conditions are what connected proxies said of themselves that somebody has to know, DependOn who leads to which root.
	Conditions []condition           `json:"conditions,omitempty"`
	DependOn   map[string]dependants `json:"dependOn,omitempty"`
	Files      []heldFile            `json:"files,omitempty"`
	// Of this one alone, for the others have the same: certificates in Secrets, and what names files.
	secrets []apiv1.IdentityGiven
	snap    *mesh.Snapshot
}

// ownHolders are those known here: what proxies say that are connected here, and what was issued here. overdue leaves out all but those
// that say themselves that they should have renewed, and of files all that end soon.
func (p *Plane) ownHolders(now time.Time, overdue bool) holders {
	out := holders{Name: p.o.Name, Authority: p.authorityView(now), DependOn: p.dependOn(now), secrets: p.secretsGiven()}
	if u := p.latest.Load(); u != nil {
		out.snap = u.Snapshot
	}
	for _, r := range p.edges.asking.list() {
		c, said := r.held.Load(), r.condition.Load()
		if said == nil {
			said = &condition{}
		}
		if said.worthTelling(now) {
			out.Conditions = append(out.Conditions, *said)
		}
		_, name, ok := nodeName(r.node)
		if c == nil || !ok {
			continue
		}
		for _, f := range c.files {
			if f.Workload = name; !overdue || endsSoon(now, f.From, f.Until) {
				out.Files = append(out.Files, f)
			}
		}
		if overdue && !late(now, c.from, c.until, overdueLeft) {
			continue
		}
		out.All = append(out.All, apiv1.IdentityWorkload{Identity: r.self.Identity, Workload: name[len(r.self.Namespace)+1:], From: c.from, Until: c.until, Connected: true, Reported: true,
			LastError: said.Error, LastErrorAt: said.Failed})
	}
	if overdue {
		return out
	}
	connected := map[string]bool{}
	for _, c := range p.xds.Clients() {
		if _, name, ok := nodeName(c.Node); ok && !connected[name] {
			connected[name] = true
			out.Connected = append(out.Connected, name)
		}
	}
	p.issued.mu.Lock()
	defer p.issued.mu.Unlock()
	for k, c := range p.issued.m {
		if now.After(c.until.Add(time.Hour)) {
			delete(p.issued.m, k)
			continue
		}
		out.All = append(out.All, apiv1.IdentityWorkload{Identity: k.id.String(), Workload: cmp.Or(k.workload, k.host), From: c.from, Until: c.until,
			Connected: k.workload != "" && connected[k.id.Namespace+"/"+k.workload]})
	}
	return out
}

// otherHolders are those known to the other control planes; silent are those that did not say.
func (p *Plane) otherHolders(ctx context.Context, overdue bool) (out []holders, silent []string) {
	silent = page(ctx, p.replicas, &replicasv1.Question{Question: &replicasv1.Question_Holders{Holders: &replicasv1.Holders{Overdue: overdue}}}, func(h holders) {
		out = append(out, h)
	})
	slices.SortFunc(out, func(a, b holders) int { return cmp.Compare(a.Name, b.Name) })
	return out, silent
}

// unheard are those that are connected and of whom nothing is known.
func unheard(all []holders, known []apiv1.IdentityWorkload) []string {
	names := map[string]bool{}
	for _, h := range all {
		for _, name := range h.Connected {
			names[name] = true
		}
	}
	for i := range known {
		if id, err := identity.Parse(known[i].Identity); err == nil {
			delete(names, id.Namespace+"/"+known[i].Workload)
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// merged is each workload once: as its proxy says, which knows; otherwise with the newest that was issued.
func merged(all []holders) (out []apiv1.IdentityWorkload) {
	type key struct{ identity, workload string }
	at := map[key]int{}
	for _, h := range all {
		for _, w := range h.All {
			k := key{w.Identity, w.Workload}
			i, known := at[k]
			if !known {
				at[k] = len(out)
				out = append(out, w)
				continue
			}
			o := &out[i]
			connected := o.Connected || w.Connected
			if w.Reported && !o.Reported || w.Reported == o.Reported && w.From.After(o.From) {
				*o = w
			}
			o.Connected = connected
		}
	}
	return out
}
