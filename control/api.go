package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

const (
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	closeTimeout  = time.Second
	// maxWait bounds GET /api/v1/wait.
	maxWait = time.Minute
)

func (p *Plane) serveHTTP(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: p.guard(p.mux()), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 32 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if srv.Shutdown(short) != nil {
			_ = srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

// Health answers whether the plane lives and is ready, to whoever asks: what a kubelet needs.
func (p *Plane) Health() http.Handler {
	m := http.NewServeMux()
	p.health(m)
	return m
}

func (p *Plane) health(m *http.ServeMux) {
	live := func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "live"})
	}
	m.HandleFunc("GET /healthz/live", live)
	m.HandleFunc("GET /live", live)
	m.HandleFunc("GET /healthz/ready", p.handleReady)
	m.HandleFunc("GET /ready", p.handleReady)
}

func (p *Plane) mux() *http.ServeMux {
	m := http.NewServeMux()
	p.health(m)
	m.HandleFunc("GET /metrics", p.handleMetrics)
	m.HandleFunc("GET /api/v1/status", p.handleStatus)
	m.HandleFunc("GET /api/v1/workloads", p.known(func(u *store.Update) any { return workloads(u.Snapshot) }))
	m.HandleFunc("GET /api/v1/services", p.known(func(u *store.Update) any { return services(u.Snapshot) }))
	m.HandleFunc("GET /api/v1/proxies", p.handleProxies)
	m.HandleFunc("GET /api/v1/proxies/{namespace}/{name}/config", p.handleDump)
	m.HandleFunc("GET /api/v1/workloads/{namespace}/{name}/config", p.handleWorkloadConfig)
	m.HandleFunc("GET /api/v1/findings", p.handleFindings)
	m.HandleFunc("GET /api/v1/objects", p.handleObjects)
	m.HandleFunc("GET /api/v1/objects/{kind}", p.handleObjects)
	m.HandleFunc("GET /api/v1/objects/{kind}/{namespace}", p.handleObjects)
	m.HandleFunc("GET /api/v1/objects/{kind}/{namespace}/{name}", p.handleObjects)
	m.HandleFunc("GET /api/v1/receipts/{kind}/{namespace}/{name}", p.handleReceipt)
	m.HandleFunc("POST /api/v1/receipts", p.handleReceipts)
	m.HandleFunc("GET /api/v1/events", p.handleEvents)
	m.HandleFunc("GET /api/v1/edges", p.handleEdges)
	m.HandleFunc("GET /api/v1/why", p.handleWhy)
	m.HandleFunc("GET /api/v1/limits", p.handleLimits)
	m.HandleFunc("GET /api/v1/ejections", p.handleEjections)
	m.HandleFunc("GET /api/v1/tap", p.handleTap)
	m.HandleFunc("GET /api/v1/log-level", p.handleLevels)
	m.HandleFunc("POST /api/v1/log-level", p.handleLevels)
	m.HandleFunc("GET /api/v1/identity", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, p.everyIdentity(r.Context(), time.Now().Round(0)))
	})
	m.HandleFunc("POST /api/v1/identity/token", p.handleToken)
	m.HandleFunc("GET /api/v1/mtls", p.handleMTLS)
	m.HandleFunc("GET /api/v1/identity/rehearsal", p.handleRehearsal)
	m.HandleFunc("POST /api/v1/objects", p.handleApply)
	m.HandleFunc("DELETE /api/v1/objects/{kind}/{namespace}/{name}", p.handleDelete)
	m.HandleFunc("GET /api/v1/wait", p.handleWait)
	p.debug(m)
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path, "GET /api/v1/status is a good start")
	})
	return m
}

func (p *Plane) handleReady(w http.ResponseWriter, _ *http.Request) {
	switch {
	case p.stopping.Load():
		fail(w, http.StatusServiceUnavailable, "the control plane is stopping: its streams go to others", "")
	case p.self.Certificate() == nil:
		fail(w, http.StatusServiceUnavailable, "there is no serving certificate: the certificate authority makes none", "the log says why")
	case p.latest.Load() == nil:
		why := "the configuration is not read yet"
		if c := p.o.Cluster; c != nil && c.Awaits != nil {
			why += c.Awaits()
		}
		fail(w, http.StatusServiceUnavailable, why, "")
	default:
		answer(w, http.StatusOK, map[string]string{"status": "ready"})
	}
}

// known answers from the state of the configuration, once there is one.
func (p *Plane) known(f func(*store.Update) any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		u := p.latest.Load()
		if u == nil {
			fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
			return
		}
		answer(w, http.StatusOK, f(u))
	}
}

func (p *Plane) handleStatus(w http.ResponseWriter, r *http.Request) {
	p.known(func(u *store.Update) any { return p.status(r.Context(), u) })(w, r)
}

func (p *Plane) handleFindings(w http.ResponseWriter, r *http.Request) {
	p.known(func(u *store.Update) any {
		found, _, _ := p.everyFinding(r.Context(), u)
		return findings(found)
	})(w, r)
}

func (p *Plane) status(ctx context.Context, u *store.Update) apiv1.Status {
	found, all, silent := p.everyFinding(ctx, u)
	s := apiv1.Status{Version: p.o.Version, Mesh: u.Snapshot.Version, Started: p.started, TrustDomain: p.o.TrustDomain, Watching: p.o.Paths,
		Workloads: workloads(u.Snapshot), Proxies: []apiv1.Proxy{}, Findings: findings(found), Analyzed: u.Analyzed}
	for _, x := range all {
		s.Proxies = append(s.Proxies, x.Proxy)
	}
	s.Silent, s.Busiest = silent, p.pushers.busiest(time.Now())
	s.Counts = apiv1.Counts{Services: u.Snapshot.Services.Len(), Workloads: u.Snapshot.Workloads.Len(), Objects: u.Objects.Len()}
	for _, f := range found {
		switch f.Severity {
		case config.Error:
			s.Counts.Errors++
		case config.Warning:
			s.Counts.Warnings++
		case config.Info:
		}
	}
	return s
}

func workloads(s *mesh.Snapshot) []apiv1.Workload {
	out := []apiv1.Workload{}
	for w := range s.Workloads.Values() {
		x := apiv1.Workload{Namespace: w.Namespace, Name: w.Name, Owner: w.Owner, ServiceAccount: w.ServiceAccount,
			Identity: w.SPIFFE(s.Settings.TrustDomain), Labels: w.Labels, Proxied: w.Proxied, Health: health(w.Health), Addresses: []string{}}
		for _, a := range w.Addresses {
			x.Addresses = append(x.Addresses, a.String())
		}
		out = append(out, x)
	}
	return out
}

// gone is the health of a workload that is not there.
const (
	healthy = "healthy"
	gone    = "gone"
)

func health(h mesh.Health) string {
	switch h {
	case mesh.Unhealthy:
		return "unhealthy"
	case mesh.Draining:
		return "draining"
	}
	return healthy
}

func proxy(c server.Client) apiv1.Proxy {
	x := apiv1.Proxy{Node: c.Node, Name: workloadOf(c.Node), Identity: c.Peer.ID, Connected: c.Since, Latest: c.Latest, Active: c.Active, BytesSent: c.BytesSent}
	if !c.BehindSince.IsZero() {
		x.Behind = &c.BehindSince
	}
	for _, t := range c.Types {
		if n := t.LastNACK; n != nil {
			x.Rejected = append(x.Rejected, apiv1.Rejection{Type: resource.Short(t.TypeURL), Resources: n.Names, Message: n.Message, Time: n.Time, Current: len(t.Rejected) > 0})
		}
	}
	return x
}

// workloadOf turns "sidecar~10.0.0.1~name.namespace~domain" into "namespace/name".
func workloadOf(node string) string {
	parts := strings.Split(node, "~")
	if len(parts) != 4 {
		return node
	}
	dot := strings.LastIndexByte(parts[2], '.')
	if dot < 0 {
		return parts[2]
	}
	return parts[2][dot+1:] + "/" + parts[2][:dot]
}

// everyFinding are findings with those about proxies of the mesh, at whichever control plane; silent are those of which they are not known.
func (p *Plane) everyFinding(ctx context.Context, u *store.Update) (found []config.Finding, all []apiv1.ProxyStatus, silent []string) {
	var asking sync.WaitGroup
	var overdue []config.Finding
	asking.Go(func() { overdue = p.identityFindings(ctx, time.Now()) })
	all, silent = p.everyProxy(ctx)
	asking.Wait()
	return config.Tidy(slices.Concat(p.findings(u), versionFindings(all, p.o.Version), overdue, p.replicas.findings())), all, silent
}

// findings are those of the configuration, of its translation for the proxies, of the
// proxies themselves, and of the runtime that keeps the workloads of a laptop mesh.
func (p *Plane) findings(u *store.Update) []config.Finding {
	all := slices.Concat(u.Findings, p.runtimeFindings(), p.authorityFindings(time.Now()), p.feeds.plaintextFindings(), p.issuerFindings(), p.clusterFindings(u), p.pushers.findings(time.Now()))
	if problems := p.feeds.problems.Load(); problems != nil {
		for _, x := range *problems {
			all = append(all, config.New(config.SetAside, x.Ref, "", cmp.Or(x.Line, x.Ref.Line), x.Text, ""))
		}
	}
	return config.Tidy(all)
}

// runtimeFindings reads what the runtime found out, beside the folder of its Pods. There
// is none without a runtime, and none while it is starting.
func (p *Plane) runtimeFindings() (out []config.Finding) {
	if p.o.Pods == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(p.o.Pods), "findings.json"))
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.o.Log.Warn("findings about workloads cannot be read", "err", err)
	}
	return out
}

func findings(fs []config.Finding) []apiv1.Finding {
	out := []apiv1.Finding{}
	for _, f := range fs {
		line := f.Line
		if line == 0 {
			line = f.Object.Line
		}
		out = append(out, apiv1.Finding{Code: string(f.Code), Severity: f.Severity.String(), Kind: f.Object.Kind, Namespace: f.Object.Namespace,
			Name: f.Object.Name, File: f.Object.File, Line: line, Field: f.FieldPath, Message: f.Message, Hint: f.Hint, By: named(f.By), ByField: f.ByPath})
	}
	return out
}

// named is an object as people write it; "" of none.
func named(r mesh.Ref) string {
	if r.Kind == "" {
		return ""
	}
	return r.Kind + " " + qualified(r.Namespace, r.Name)
}

// sameKind compares kinds as people write them: any case, plural or singular.
func sameKind(kind, asked string) bool {
	k, a := strings.ToLower(kind), strings.ToLower(asked)
	return a == k || a == k+"s" || strings.HasSuffix(k, "y") && a == k[:len(k)-1]+"ies" || shortKinds[a] == kind
}

// shortKinds are kubectl's and Istio's short names.
var shortKinds = map[string]string{"vs": "VirtualService", "dr": "DestinationRule", "gw": "Gateway", "se": "ServiceEntry", "we": "WorkloadEntry",
	"pa": "PeerAuthentication", "ra": "RequestAuthentication", "ap": "AuthorizationPolicy", "svc": "Service", "sa": "ServiceAccount", "deploy": "Deployment", "po": "Pod", "cm": "ConfigMap", "ns": "Namespace"}

// noNamespace stands for the namespace of objects that have none in a path.
const noNamespace = "-"

func inNamespace(namespace, asked string) bool {
	return namespace == asked || namespace == "" && asked == noNamespace
}

func qualified(namespace, name string) string {
	if namespace == "" || namespace == noNamespace {
		return name
	}
	return namespace + "/" + name
}

func (p *Plane) handleObjects(w http.ResponseWriter, r *http.Request) {
	u := p.latest.Load()
	if u == nil {
		fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
		return
	}
	kind, namespace, name := r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name")
	var keys []string
	var raw []*config.Object
	for id, o := range u.Objects.All() {
		if kind != "" && !sameKind(o.ID.Kind, kind) || namespace != "" && !inNamespace(o.ID.Namespace, namespace) || name != "" && o.ID.Name != name {
			continue
		}
		keys = append(keys, id)
		if o.Raw != nil {
			raw = append(raw, o.Raw)
		} else if o.Serving != nil {
			raw = append(raw, o.Serving)
		}
	}
	if name != "" && len(keys) == 0 {
		fail(w, http.StatusNotFound, "there is no "+kind+" "+qualified(namespace, name), "`weir get "+kind+"` lists those there are")
		return
	}
	if r.URL.Query().Has("raw") {
		secret := func(o *config.Object) bool {
			keys := o.ID.Kind == "RequestAuthentication" || o.ID.Group == "authentication.istio.io"
			return o.ID.Group == "" && o.ID.Kind == "Secret" || keys && jwt.Redacted(o.Text()) != o.Text()
		}
		if slices.ContainsFunc(raw, secret) && !p.holdsToken(w, r, "Secrets, and objects with secret keys, are shown with") {
			return
		}
		w.Header().Set("Content-Type", "application/yaml")
		for i, o := range raw {
			if i > 0 {
				_, _ = w.Write([]byte("---\n"))
			}
			_, _ = io.WriteString(w, o.Text())
		}
		return
	}
	answer(w, http.StatusOK, p.objects(u, keys))
}

// objects are objects with the short form of their receipts.
func (p *Plane) objects(u *store.Update, keys []string) []apiv1.Object {
	wanted := make([]*receipt, 0, len(keys))
	for _, k := range keys {
		x := p.receipts.of(k)
		if x == nil { // gone a moment ago
			x = &receipt{origin: translate.Origin("", "", "")}
		}
		wanted = append(wanted, x)
	}
	counts, _ := p.census.take(wanted, 0)
	out := []apiv1.Object{}
	for i, k := range keys {
		out = append(out, p.object(u.Objects.At(k), wanted[i], &counts[i]))
	}
	return out
}

func (p *Plane) object(o *store.Object, x *receipt, n *count) apiv1.Object {
	ref := o.Ref()
	return apiv1.Object{Group: o.ID.Group, Kind: o.ID.Kind, Namespace: o.ID.Namespace, Name: o.ID.Name, File: ref.File, Line: ref.Line,
		State: string(o.State), LastGood: o.LastGood(), Since: x.since, Mesh: x.mesh, Proxies: n.needed, Active: n.active, Findings: findings(o.Findings)}
}

func (p *Plane) handleWait(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	timeout := 2 * time.Second
	if t := q.Get("timeout"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil || d <= 0 || d > maxWait {
			fail(w, http.StatusBadRequest, "timeout "+quote(t)+" is not a duration up to 1m", "for example timeout=2s")
			return
		}
		timeout = d
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	var version uint64
	switch v, workload, wanted := q.Get("version"), q.Get("workload"), q.Get("health"); {
	case v != "":
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			fail(w, http.StatusBadRequest, "version "+quote(v)+" is not a number", "")
			return
		}
		version = n
	case workload != "":
		if !slices.Contains([]string{healthy, "unhealthy", "draining", gone}, wanted) {
			fail(w, http.StatusBadRequest, "health "+quote(wanted)+" is not known", "healthy, unhealthy, draining or gone")
			return
		}
		u, err := p.await(ctx, func(u *store.Update) bool {
			x := u.Snapshot.Workloads.At(mesh.Key(workload))
			return x == nil && wanted == gone || x != nil && health(x.Health) == wanted
		})
		if err != nil {
			fail(w, http.StatusGatewayTimeout, "workload "+quote(workload)+" is not "+wanted, "")
			return
		}
		version = u.Snapshot.Version
	default:
		if u := p.latest.Load(); u != nil {
			version = u.Snapshot.Version
		}
	}
	if err := p.xds.WaitActive(ctx, version); err != nil {
		behind := []string{}
		for _, c := range p.xds.Clients() {
			if c.Active < version {
				behind = append(behind, workloadOf(c.Node))
			}
		}
		slices.SortFunc(behind, cmp.Compare[string])
		fail(w, http.StatusGatewayTimeout, "version "+strconv.FormatUint(version, 10)+" is not active everywhere: "+err.Error(), "behind: "+strings.Join(behind, ", "))
		return
	}
	answer(w, http.StatusOK, map[string]uint64{"version": version})
}
