package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/ledger"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

// mtlsWindow is how far back callers count unless it is asked for: who calls once a day is
// seen, and callers are remembered for an hour more.
const mtlsWindow = 24 * time.Hour

var mtlsModes = map[mesh.MTLSMode]string{mesh.MTLSDisable: "DISABLE", mesh.MTLSPermissive: "PERMISSIVE", mesh.MTLSStrict: "STRICT"}

// olderReports is how long it takes until proxies that do not report when they are asked have: twice as long as they are silent.
const olderReports = 10 * time.Second

// workloadPort is a port of all replicas of a workload.
type workloadPort struct {
	namespace, owner string
	port             uint16
}

// handleMTLS is GET /api/v1/mtls?namespace=shop&workload=cart&window=24h&now=true. With now the proxies report before it is answered.
func (p *Plane) handleMTLS(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	window := mtlsWindow
	if s := q.Get("window"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 || d > ledger.Age {
			fail(w, http.StatusBadRequest, "window "+quote(s)+" is not a duration up to "+ledger.Age.String(), "for example window=24h")
			return
		}
		window = d
	}
	p.known(func(u *store.Update) any {
		var reported map[string]bool
		waited := ""
		if q.Get("now") == "true" {
			older := 0
			if reported, older = p.reportNow(r.Context(), q.Get("namespace"), q.Get("workload")); older > 0 {
				waited = fmt.Sprintf("%d proxies, or the control planes that they report to, are older than reports on demand: %s were waited for theirs", older, olderReports)
			}
		}
		told, silent := p.everyCaller(r.Context())
		if reported != nil {
			for i := range told {
				told[i].Reporting = slices.DeleteFunc(told[i].Reporting, func(name string) bool { return !reported[name] })
			}
		}
		out := mtls(u.Snapshot, told, silent, time.Now().Round(0), window)
		out.Waited = waited
		out.Ports = slices.DeleteFunc(out.Ports, func(x apiv1.MTLSPort) bool {
			return q.Get("namespace") != "" && x.Namespace != q.Get("namespace") || q.Get("workload") != "" && x.Workload != q.Get("workload")
		})
		return out
	})(w, r)
}

// reportNow has the proxies of a workload, or of all of a namespace (or mesh), report what they have counted. reported are those that did, namespace/name;
// for the older ones, which do so every few seconds only, it has waited.
func (p *Plane) reportNow(ctx context.Context, namespace, workload string) (reported map[string]bool, older int) {
	asked := ""
	if namespace != "" {
		asked = namespace + "/" + workload
	}
	all, _, _ := p.replicas.ask(ctx, question{message: askLimits(&observev1.LimitsRequest{Report: true}), workload: asked})
	reported = map[string]bool{}
	for _, a := range all {
		reported[workloadOf(a.node)] = true
		if !a.message.GetLimits().GetReported() {
			older++
		}
	}
	if older > 0 {
		select {
		case <-time.After(olderReports):
		case <-ctx.Done():
		}
	}
	return reported, older
}

// mtls is who calls whom in plaintext: modes of the configuration in force, callers as proxies saw them and all control planes told;
// of those that are silent nothing is known.
func mtls(snap *mesh.Snapshot, told []callers, away []string, now time.Time, window time.Duration) apiv1.MTLS {
	accepts := translate.NewAccepts(snap)
	reports := map[string]bool{} // workloads whose proxies say who calls them
	routers := map[string]bool{}
	var books []ledger.Told
	var problems []string
	for _, c := range told {
		books = append(books, c.Told)
		for _, name := range c.Reporting {
			reports[name] = true
		}
		for _, name := range c.Routers {
			routers[name] = true
		}
		if c.Problem != "" && !slices.Contains(problems, c.Problem) {
			problems = append(problems, c.Problem)
		}
	}
	book := ledger.Join(books)
	out := apiv1.MTLS{Time: now, Since: book.Since, Window: window.String(), Silent: away, Blockers: unknown(now, book.Since, window, away, problems), Ports: []apiv1.MTLSPort{}}
	ports := map[workloadPort]*apiv1.MTLSPort{}
	silent := map[workloadPort]map[string]bool{}
	serving := map[string][]workloadPort{} // by service "namespace/name" and port
	for key, svc := range snap.Services.All() {
		eps := snap.Endpoints.At(key)
		if eps == nil {
			continue
		}
		for i := range svc.Ports {
			port := &svc.Ports[i]
			for j := range eps.Ports[port.Number] {
				wl := eps.Ports[port.Number][j].Workload
				if wl == nil || !wl.Proxied || routers[string(wl.Key())] {
					continue // what a gateway demands of its clients, its Gateway says
				}
				number, ok := wl.Serves(port)
				if !ok {
					continue
				}
				k := workloadPort{wl.Namespace, cmp.Or(wl.Owner, wl.Name), number}
				x := ports[k]
				if x == nil {
					mode, by := accepts.On(wl.Namespace, wl.Labels, number)
					x = &apiv1.MTLSPort{Namespace: k.namespace, Workload: k.owner, Port: k.port, Mode: mtlsModes[mode], Labels: map[string]string{}}
					maps.Copy(x.Labels, wl.Labels)
					for _, r := range by {
						x.Policies = append(x.Policies, apiv1.MTLSPolicy{Level: r.Level, Namespace: r.Ref.Namespace, Name: r.Ref.Name})
					}
					ports[k], silent[k] = x, map[string]bool{}
				}
				for l, v := range x.Labels {
					if wl.Labels[l] != v {
						delete(x.Labels, l)
					}
				}
				if name := string(wl.Key()); !reports[name] {
					silent[k][name] = true
				}
				service := fmt.Sprintf("%s/%s:%d", svc.Namespace, svc.Name, port.Number)
				if !slices.Contains(serving[service], k) {
					serving[service] = append(serving[service], k)
				}
			}
		}
	}
	of := map[workload][]*apiv1.MTLSPort{}
	for k, x := range ports {
		of[workload{k.namespace, k.owner}] = append(of[workload{k.namespace, k.owner}], x)
	}
	at := func(namespace, owner string, port uint32) *apiv1.MTLSPort {
		return ports[workloadPort{namespace, owner, uint16(min(port, math.MaxUint16))}]
	}
	for _, s := range book.Secured {
		if x := at(s.Namespace, s.Workload, s.Port.Port); x != nil {
			x.LastTLS = s.Last
		}
	}
	for _, s := range book.Sightings {
		if now.Sub(s.Last) > window {
			continue
		}
		var called []*apiv1.MTLSPort
		switch {
		case s.ByCaller:
			for _, k := range serving[fmt.Sprintf("%s:%d", s.Service, s.Port)] {
				if s.Workload == "" || k.owner == s.Workload && k.namespace == s.Namespace {
					called = append(called, ports[k])
				}
			}
		case s.Workload == "":
			for _, x := range ports {
				if x.Namespace == s.Namespace {
					called = append(called, x)
				}
			}
		case s.Port == 0:
			called = of[workload{s.Namespace, s.Workload}]
		default:
			if x := at(s.Namespace, s.Workload, s.Port); x != nil {
				called = append(called, x)
			}
		}
		for _, x := range called {
			x.Callers = meet(x.Callers, apiv1.MTLSCaller{Namespace: s.CallerNamespace, Workload: s.Caller, First: s.First, Last: s.Last, Requests: s.Requests})
		}
	}
	for k, x := range ports {
		x.Blockers = append(blockers(x, now, len(silent[k])), out.Blockers...)
		x.Ready = len(x.Blockers) == 0
		for _, l := range []string{"pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name", "security.istio.io/tlsMode", "service.istio.io/canonical-name", "service.istio.io/canonical-revision"} {
			delete(x.Labels, l) // of one revision, or of the mesh's own making
		}
		slices.SortFunc(x.Callers, func(a, b apiv1.MTLSCaller) int {
			return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload))
		})
		out.Ports = append(out.Ports, *x)
	}
	slices.SortFunc(out.Ports, func(a, b apiv1.MTLSPort) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// meet adds what one side says of a caller. Both ends may have seen it: the larger count is taken.
func meet(all []apiv1.MTLSCaller, c apiv1.MTLSCaller) []apiv1.MTLSCaller {
	i := slices.IndexFunc(all, func(o apiv1.MTLSCaller) bool { return o.Namespace == c.Namespace && o.Workload == c.Workload })
	if i < 0 {
		return append(all, c)
	}
	o := &all[i]
	o.Requests = max(o.Requests, c.Requests)
	if c.Last.After(o.Last) {
		o.Last = c.Last
	}
	if c.First.Before(o.First) {
		o.First = c.First
	}
	return all
}

// blockers is what stands against STRICT at one port: no evidence counts as much as evidence against it.
func blockers(x *apiv1.MTLSPort, now time.Time, silent int) (out []string) {
	for _, c := range x.Callers {
		who := "somebody without a proxy"
		if c.Workload != "" {
			who = c.Namespace + "/" + c.Workload
		}
		out = append(out, fmt.Sprintf("%s called in plaintext, %d times, last %s ago (%s)", who, c.Requests, since(now, c.Last), c.Last.UTC().Format(time.RFC3339)))
	}
	if silent > 0 {
		out = append(out, fmt.Sprintf("%d of its proxies do not report to any control plane, or did not when they were asked to: who calls them is not known", silent))
	}
	return out
}

// unknown is what stands against STRICT everywhere: that not all is known.
func unknown(now, from time.Time, window time.Duration, away, problems []string) (out []string) {
	for _, s := range away {
		out = append(out, s+" did not answer: who called the workloads whose proxies report to it is not known")
	}
	for _, s := range problems {
		out = append(out, "what control planes knew that have ended cannot be read: "+s)
	}
	if now.Sub(from) < window {
		out = append(out, fmt.Sprintf("callers are known for %s only, of a window of %s", since(now, from), window))
	}
	return out
}

// since is the time from then until now, whose clock may be behind that of then.
func since(now, then time.Time) time.Duration { return max(0, now.Sub(then)).Round(time.Second) }
