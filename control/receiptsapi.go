package control

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/config/verdict"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

const (
	maxMissing = 100     // proxies listed in a receipt
	maxQuery   = 4 << 20 // bytes of a ReceiptQuery: some 40,000 objects
	// eventsWait is how long a request for events waits for one.
	eventsWait = 30 * time.Second
)

// handleReceipt is GET /api/v1/receipts/{kind}/{namespace}/{name}.
func (p *Plane) handleReceipt(w http.ResponseWriter, r *http.Request) {
	u := p.latest.Load()
	if u == nil {
		fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
		return
	}
	name := apiv1.ObjectName{Kind: r.PathValue("kind"), Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	keys := find(u, name)
	if len(keys) == 0 {
		fail(w, http.StatusNotFound, "there is no "+name.Kind+" "+qualified(name.Namespace, name.Name), "`weir get "+name.Kind+"` lists those there are")
		return
	}
	timeout, ok := timeoutOf(w, r.URL.Query().Get("timeout"))
	if !ok {
		return
	}
	answer(w, http.StatusOK, p.judged(p.awaitReceipts(r.Context(), keys[:1], timeout, false))[0])
}

// handleReceipts is POST /api/v1/receipts.
func (p *Plane) handleReceipts(w http.ResponseWriter, r *http.Request) {
	u := p.latest.Load()
	if u == nil {
		fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
		return
	}
	var q apiv1.ReceiptQuery
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuery)).Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, "reading the query: "+err.Error(), `for example {"objects":[{"kind":"VirtualService","namespace":"default","name":"reviews"}],"timeout":"5s"}`)
		return
	}
	timeout, ok := timeoutOf(w, q.Timeout)
	if !ok {
		return
	}
	var keys []string
	for _, name := range q.Objects {
		found := find(u, name)
		if len(found) == 0 {
			fail(w, http.StatusNotFound, "there is no "+name.Kind+" "+qualified(name.Namespace, name.Name), "")
			return
		}
		keys = append(keys, found...)
	}
	answer(w, http.StatusOK, p.judged(p.awaitReceipts(r.Context(), keys, timeout, q.Absent)))
}

// timeoutOf reads a duration of at most maxWait; "" is 0.
func timeoutOf(w http.ResponseWriter, text string) (time.Duration, bool) {
	if text == "" {
		return 0, true
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > maxWait {
		fail(w, http.StatusBadRequest, "timeout "+quote(text)+" is not a duration up to 1m", "for example timeout=2s")
		return 0, false
	}
	return d, true
}

// find returns the keys of the objects that a name means.
func find(u *store.Update, name apiv1.ObjectName) (keys []string) {
	for key, o := range u.Objects.All() {
		if o.ID.Name == name.Name && sameKind(o.ID.Kind, name.Kind) && (inNamespace(o.ID.Namespace, name.Namespace) || o.ID.Namespace == "" && name.Namespace == "") {
			keys = append(keys, key)
		}
	}
	return keys
}

// awaitReceipts returns receipts when all are active everywhere, or after timeout; absent
// waits for proxies that are not connected, too.
func (p *Plane) awaitReceipts(ctx context.Context, keys []string, timeout time.Duration, absent bool) []apiv1.Receipt {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		moved := p.watch.next()
		out := p.receiptsOf(keys)
		if timeout == 0 || !slices.ContainsFunc(out, func(r apiv1.Receipt) bool { return !r.Everywhere || absent && len(r.Missing) > 0 }) {
			return out
		}
		tick := time.NewTimer(10 * lookInterval) // Views may be published without a word of any stream
		select {
		case <-moved:
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return out
		}
		tick.Stop()
	}
}

// judged adds what became of each rule.
func (p *Plane) judged(all []apiv1.Receipt) []apiv1.Receipt {
	u := p.latest.Load()
	var view *verdict.View
	for i := range all {
		r := &all[i]
		if r.Kind != "VirtualService" && r.Kind != "DestinationRule" && r.Kind != "Gateway" {
			continue
		}
		o := u.Objects.At(config.ID{Group: "networking.istio.io", Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}.String())
		if o == nil || o.Raw == nil {
			continue
		}
		if view == nil {
			view = verdict.On(u.Snapshot)
		}
		for _, d := range view.Of(o.Raw, o.State == store.Compiled, o.Findings) {
			rule := apiv1.Rule{Part: d.Part, At: d.At, State: d.State.String(), ByPart: d.ByPart, Why: d.Why}
			if d.By.Kind != "" {
				rule.By = named(d.By)
			}
			if d.Sample != nil {
				rule.Example = d.Sample.String()
			}
			r.Rules = append(r.Rules, rule)
		}
	}
	return all
}

// receiptsOf are the receipts of objects.
func (p *Plane) receiptsOf(keys []string) []apiv1.Receipt {
	u := p.latest.Load()
	var held []*store.Object
	var wanted []*receipt
	for _, k := range keys {
		if o, x := u.Objects.At(k), p.receipts.of(k); o != nil && x != nil {
			held, wanted = append(held, o), append(wanted, x)
		}
	}
	counts, connected := p.census.take(wanted, maxMissing)
	absent := p.absent(u)
	all := p.findings(u)
	out := []apiv1.Receipt{}
	for i, x := range wanted {
		r := apiv1.Receipt{Object: p.object(held[i], x, &counts[i]), Connected: connected, Everywhere: counts[i].active == counts[i].needed && counts[i].unknown == 0}
		if s := x.took.Load(); s != nil {
			r.Propagation = &apiv1.Propagation{Proxies: s.count(), P50: s.quantile(.5).Seconds(), P99: s.quantile(.99).Seconds()}
		}
		if at := x.settled.Load(); at != 0 {
			t := time.Unix(0, at)
			r.Settled = &t
		}
		for _, m := range counts[i].missing {
			a := apiv1.Missing{Proxy: workloadOf(m.node), Why: "behind"}
			if m.typeURL != "" {
				a.Type, a.Resources = resource.Short(m.typeURL), m.names
			}
			if m.nack != nil {
				a.Why, a.Message, a.Since = "rejected", m.nack.Message, &m.nack.Time
			}
			r.Missing = append(r.Missing, a)
		}
		slices.SortFunc(r.Missing, func(a, b apiv1.Missing) int {
			return cmp.Or(cmp.Compare(a.Proxy, b.Proxy), cmp.Compare(a.Type, b.Type))
		})
		if needsProxies(x) {
			r.Missing = append(r.Missing, absent...)
		}
		r.Findings, r.Shadowed = nil, nil
		for _, f := range all {
			if f.Object.Kind != x.id.Kind || f.Object.Namespace != x.id.Namespace || f.Object.Name != x.id.Name {
				continue
			}
			r.Findings = append(r.Findings, findings([]config.Finding{f})...)
			if f.By.Kind != "" {
				r.Shadowed = append(r.Shadowed, apiv1.Shadow{Part: f.FieldPath, By: named(f.By), ByPart: f.ByPath, Message: f.Message})
			}
		}
		out = append(out, r)
	}
	return out
}

// needsProxies reports whether anything of an object gets to proxies at all.
func needsProxies(x *receipt) bool {
	switch x.id.Kind {
	case "VirtualService", "DestinationRule", "Gateway", "ServiceEntry", "WorkloadEntry", "Sidecar", "PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy", "Service", "Secret":
		return x.state == store.Compiled
	}
	return false
}

// absent are the workloads whose proxies are not connected.
func (p *Plane) absent(u *store.Update) (out []apiv1.Missing) {
	connected := map[string]bool{}
	for _, node := range p.census.nodes() {
		connected[workloadOf(node)] = true
	}
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	for key, w := range u.Snapshot.Workloads.All() {
		if !w.Proxied || w.Health == mesh.Draining || connected[string(key)] {
			continue
		}
		m := apiv1.Missing{Proxy: string(key), Why: "disconnected"}
		if at, ok := p.watch.gone[string(key)]; ok {
			m.Since = &at
		}
		if out = append(out, m); len(out) == maxMissing {
			break
		}
	}
	return out
}

// handleEvents is GET /api/v1/events.
func (p *Plane) handleEvents(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var after uint64
	if s := q.Get("after"); s != "" {
		var err error
		if after, err = strconv.ParseUint(s, 10, 64); err != nil {
			fail(w, http.StatusBadRequest, "after "+quote(s)+" is not a number", "the field next of the answer before")
			return
		}
	}
	timeout, ok := timeoutOf(w, q.Get("timeout"))
	if !ok {
		return
	}
	kind, namespace, name := q.Get("kind"), q.Get("namespace"), q.Get("name")
	ctx, cancel := context.WithTimeout(r.Context(), min(timeout, eventsWait))
	defer cancel()
	list, next := p.events.after(ctx, after, func(e *apiv1.Event) bool {
		return (kind == "" || sameKind(e.Kind, kind)) && (namespace == "" || inNamespace(e.Namespace, namespace)) && (name == "" || e.Name == name)
	})
	answer(w, http.StatusOK, apiv1.Events{Events: list, Next: next})
}
