package verdict

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/config/verdict"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/simulate"
)

// stage is what every set stands on: two clients, services, an ingress gateway and a Gateway.
const stage = `
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  clusterIP: 10.96.0.10
  selector: {app: echo}
  ports: [{name: http, port: 8080}, {name: tcp, port: 9000}, {name: tls, port: 9443}]
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: other}
spec:
  clusterIP: 10.96.0.20
  selector: {app: shop}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: raw, namespace: default}
spec:
  clusterIP: 10.96.0.30
  selector: {app: echo}
  ports: [{name: anything, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  clusterIP: 10.96.0.40
  selector: {istio: ingressgateway}
  ports: [{name: http2, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
`

type pod struct {
	name, namespace, address string
	labels                   mesh.Labels
	gateway                  bool
}

var pods = []pod{
	{"client", "default", "10.1.0.1", mesh.Labels{"app": "client", "version": "v1"}, false},
	{"other", "other", "10.1.0.2", mesh.Labels{"app": "other", "version": "v1"}, false},
	{"echo", "default", "10.1.0.3", mesh.Labels{"app": "echo", "version": "v1"}, false},
	{"shop", "other", "10.1.0.4", mesh.Labels{"app": "shop", "version": "v1"}, false},
	{"gateway", "istio-system", "10.1.0.5", mesh.Labels{"app": "istio-ingressgateway", "istio": "ingressgateway"}, true},
}

func podText() string {
	var b strings.Builder
	for _, p := range pods {
		annotation := "{sidecar.istio.io/status: '{}'}"
		if p.gateway {
			annotation = "{sidecar.istio.io/status: '{}', inject.istio.io/templates: gateway}"
		}
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: %s\n  annotations: %s\n  labels: {", p.name, p.namespace, annotation)
		for k, v := range p.labels {
			fmt.Fprintf(&b, "%q: %q, ", k, v)
		}
		fmt.Fprintf(&b, "}\nspec: {containers: [{name: app, image: x}]}\nstatus: {podIP: %s, conditions: [{type: Ready, status: 'True'}]}\n", p.address)
	}
	return b.String()
}

// world is a set of objects in force.
type world struct {
	t      *testing.T
	seed   uint64
	text   string
	update *store.Update
	cache  *translate.Cache
	nodes  map[string]*simulate.Proxy
}

func newWorld(t *testing.T, g *generator, objects []object) *world {
	st, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for i := range objects {
		texts = append(texts, objects[i].text())
	}
	w := &world{t: t, seed: g.seed, text: strings.Join(texts, "\n---\n"), cache: translate.New(), nodes: map[string]*simulate.Proxy{}}
	st.Step(file.Parse("stage.yaml", []byte(stage+podText()), "default"), file.Parse("set.yaml", []byte(w.text), "default"))
	w.update = st.Analyze()
	return w
}

func (w *world) held(o *object) *store.Object {
	held := w.update.Objects.At(config.ID{Group: "networking.istio.io", Kind: o.kind, Namespace: o.namespace, Name: o.name}.String())
	if held == nil || held.Raw == nil {
		w.t.Fatalf("seed %d: %s %s is not known", w.seed, o.kind, o.name)
	}
	return held
}

// judge are the verdicts on an object.
func (w *world) judge(view *verdict.View, o *object) []verdict.Verdict {
	held := w.held(o)
	return view.Of(held.Raw, held.State == store.Compiled, held.Findings)
}

func (w *world) errorf(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("seed %d: %s\n%s", w.seed, fmt.Sprintf(format, args...), w.text)
}

// proxy is one with labels in a namespace: the gateway, or a client that may have just come.
func (w *world) proxy(gateway bool, namespace string, labels mesh.Labels) *simulate.Proxy {
	key := fmt.Sprint(gateway, namespace, labels)
	if p := w.nodes[key]; p != nil {
		return p
	}
	n := &translate.Node{Type: translate.Sidecar, Namespace: namespace, Name: "probe", Labels: labels, Interception: translate.Redirect, DNS: true}
	if gateway {
		n.Type, n.DNS, n.Name = translate.Router, false, "gateway"
	}
	p := simulate.New()
	p.Bound = gateway
	for _, set := range w.cache.View(w.update.Snapshot, n).Sets {
		for name, r := range set.All() {
			if m, err := (&anypb.Any{TypeUrl: r.TypeURL(), Value: r.Body()}).UnmarshalNew(); err == nil {
				p.Add(name, m)
			}
		}
	}
	maps.Copy(p.Files, certificate(w.t))
	w.nodes[key] = p
	return p
}

// certificate is what servers of Gateways show; who they are does not matter here.
var certificate = func() func(testing.TB) map[string][]byte {
	var files map[string][]byte
	return func(t testing.TB) map[string][]byte {
		if files == nil {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.example"}}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			private, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			files = map[string][]byte{"/certs/c.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
				"/certs/c.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
		}
		return files
	}
}()

// simulated is what becomes of an example.
func (w *world) simulated(gateway bool, e *verdict.Example) ([]simulate.Outcome, error) {
	to := e.To
	if !to.Addr().IsValid() {
		to = netip.AddrPortFrom(nowhere, to.Port())
	}
	c := simulate.Call{To: to, SNI: e.SNI, Method: e.Method, Host: e.Host, Path: e.Path, Bytes: e.Method == ""}
	for _, k := range slices.Sorted(maps.Keys(e.Headers)) {
		c.Headers = append(c.Headers, simulate.Header{Name: k, Value: e.Headers[k]})
	}
	return w.proxy(gateway, e.Namespace, e.Labels).Call(c)
}

// got are the rules that a call gets to: names of routes, or where they lead.
func got(outcomes []simulate.Outcome) []string {
	var out []string
	for _, o := range outcomes {
		if o.Route != "" {
			out = append(out, o.Route)
		} else if name, ok := strings.CutSuffix(o.Cluster[strings.LastIndexByte(o.Cluster, '|')+1:], ".target"); ok {
			out = append(out, name)
		}
	}
	return out
}

// written is one rule as it is in the text.
type written struct {
	o    *object
	part string
	name string // by which calls tell that they got there; "" if it delegates
}

func rulesOf(objects []object) []written {
	var out []written
	for i := range objects {
		o := &objects[i]
		for _, field := range []string{"http", "tls", "tcp"} {
			list, _ := o.spec[field].([]any)
			for j, r := range list {
				m := r.(map[string]any)
				name, _ := m["name"].(string)
				if route, ok := m["route"].([]any); ok {
					name = strings.TrimSuffix(route[0].(map[string]any)["destination"].(map[string]any)["host"].(string), ".target")
				}
				out = append(out, written{o, fmt.Sprintf("spec.%s[%d]", field, j), name})
			}
		}
	}
	return out
}

// statistics of what was looked at.
type statistics struct {
	sets, objects, invalid, rules, probes, undecided int
	states                                           map[string]int
}

// check judges a set and holds the verdicts against what calls do.
func check(t *testing.T, seed uint64, s *statistics) {
	g := newGenerator(seed)
	objects := g.set()
	w := newWorld(t, g, objects)
	view := verdict.On(w.update.Snapshot)
	s.sets, s.objects = s.sets+1, s.objects+len(objects)

	type place struct{ part, at string }
	verdicts := map[string]map[place]verdict.Verdict{}
	for i := range objects {
		o := &objects[i]
		inForce := w.held(o).State == store.Compiled
		if !inForce {
			s.invalid++
		}
		m := map[place]verdict.Verdict{}
		verdicts[o.kind+o.namespace+"/"+o.name] = m
		for _, d := range w.judge(view, o) {
			k := place{d.Part, d.At}
			if _, twice := m[k]; twice {
				w.errorf("two verdicts on %s %s at %q", o.name, d.Part, d.At)
			}
			m[k] = d
			s.rules++
			s.states[d.State.String()]++
			switch {
			case d.State == verdict.Active && (d.Why != "" || d.By.Kind != ""), d.State == verdict.Shadowed && (d.By.Kind == "" || d.ByPart == "" || d.Why == ""),
				d.State == verdict.Rejected && (d.Why == "" || d.By.Kind != ""):
				w.errorf("%s %s at %q: not one thing: %+v", o.name, d.Part, d.At, d)
			case !inForce && d.State != verdict.Rejected:
				w.errorf("%s %s is not in force, and %s", o.name, d.Part, d.State)
			case d.State == verdict.Active && d.Sample == nil:
				s.undecided++
			}
		}
	}
	// Who has to have one has one.
	for _, r := range rulesOf(objects) {
		m := verdicts[r.o.kind+r.o.namespace+"/"+r.o.name]
		if !slices.ContainsFunc(slices.Collect(maps.Keys(m)), func(k place) bool { return k.part == r.part }) {
			w.errorf("no verdict on %s %s", r.o.name, r.part)
		}
	}
	// Examples get to what is active.
	names := map[string]written{}
	for _, r := range rulesOf(objects) {
		if r.name != "" {
			names[r.name] = r
		}
	}
	arrived := map[string]map[bool]bool{} // rules, by whether calls at gateways got there
	note := func(gateway bool, outcomes []simulate.Outcome) []string {
		all := got(outcomes)
		for i, name := range all {
			if j := strings.LastIndexByte(name, '.'); j >= 0 {
				name = name[:j]
			}
			all[i] = name
			if arrived[name] == nil {
				arrived[name] = map[bool]bool{}
			}
			arrived[name][gateway] = true
		}
		return all
	}
	var examples []*verdict.Example
	for _, r := range rulesOf(objects) {
		for k, d := range verdicts[r.o.kind+r.o.namespace+"/"+r.o.name] {
			if k.part != r.part || d.State != verdict.Active || d.Sample == nil {
				continue
			}
			s.probes++
			examples = append(examples, d.Sample)
			outcomes, err := w.simulated(k.at != mesh.Mesh, d.Sample)
			if err != nil {
				w.errorf("%s %s at %s: %v", r.o.name, r.part, k.at, err)
				continue
			}
			if all := note(k.at != mesh.Mesh, outcomes); r.name != "" && !slices.Contains(all, r.name) {
				w.errorf("%s %s (%s) at %s is said to be active for %+v, which gets to %v: %+v", r.o.name, r.part, r.name, k.at, *d.Sample, all, outcomes)
			}
		}
	}
	// Other calls, made of the rules' own words: none gets to what is not active.
	for range 20 {
		for _, gateway := range []bool{false, true} {
			e := g.probe(examples, gateway)
			s.probes++
			if outcomes, err := w.simulated(gateway, e); err == nil {
				note(gateway, outcomes)
			}
		}
	}
	for name, at := range arrived {
		r, known := names[name]
		if !known {
			continue
		}
		for gateway := range at {
			ok := false
			for k, d := range verdicts[r.o.kind+r.o.namespace+"/"+r.o.name] {
				ok = ok || k.part == r.part && (k.at != mesh.Mesh) == gateway && d.State == verdict.Active
			}
			if !ok {
				w.errorf("%s %s (%s) gets calls (at gateways: %v), and is said to be %+v", r.o.name, r.part, r.name, gateway, verdicts[r.o.kind+r.o.namespace+"/"+r.o.name])
			}
		}
	}
	w.policies(objects, func(o *object) []verdict.Verdict {
		return slices.Collect(maps.Values(verdicts[o.kind+o.namespace+"/"+o.name]))
	}, s)
}

// probe is a call at random, half of the time like one of the examples.
func (g *generator) probe(examples []*verdict.Example, gateway bool) *verdict.Example {
	e := &verdict.Example{Method: "GET", Host: "echo", Path: "/", Headers: map[string]string{}}
	if len(examples) > 0 && g.IntN(2) == 0 {
		*e = *examples[g.IntN(len(examples))]
		e.Host = cmp.Or(e.Host, "echo")
		e.Headers = maps.Clone(e.Headers)
	}
	if e.Headers == nil {
		e.Headers = map[string]string{}
	}
	p := pods[g.IntN(2)]
	if gateway {
		p = pods[4]
	}
	e.Namespace, e.Labels = p.namespace, p.labels
	if !gateway && g.IntN(3) == 0 {
		e.Labels = mesh.Labels{"version": "v2"}
	}
	if g.IntN(2) == 0 || !e.To.IsValid() {
		e.To = netip.AddrPortFrom(netip.MustParseAddr(pick(g, "10.96.0.10", "10.96.0.20", "10.96.0.30", "192.0.2.1", "203.0.113.1")), pick[uint16](g, 8080, 80, 9000, 9443, 443))
	}
	if gateway {
		e.To = netip.AddrPortFrom(netip.MustParseAddr("10.1.0.5"), pick[uint16](g, 8080, 8443, 9999))
	}
	if g.IntN(2) == 0 {
		e.Host = pick(g, "echo", "echo.default.svc.cluster.local", "shop.other", "a.example", "b.example", "c.example", "web.example", "a.wild.example", "x.default.svc.cluster.local", "echo.default:8080", "zzz")
	}
	if g.IntN(2) == 0 {
		e.Path = pick(g, "/", "/a", "/a/b", "/b", "/A", "/a/", "/ab", "/c?q=1", "/a?q=2", "/a/../b")
	}
	if g.IntN(3) == 0 {
		e.Headers[pick(g, "x-a", "x-b")] = pick(g, "1", "2", "12", "a", "")
	}
	if g.IntN(4) == 0 {
		delete(e.Headers, "x-a")
	}
	if g.IntN(4) == 0 {
		e.Method = pick(g, "GET", "POST", "PUT", "")
	}
	if g.IntN(4) == 0 {
		e.SNI = pick(g, "", "a.example", "b.example", "b.default.svc.cluster.local", "echo.default.svc.cluster.local", "web.example")
	}
	return e
}

// policies holds what is said of DestinationRules against the clusters that clients have: each
// policy has a time-out of its own.
func (w *world) policies(objects []object, of func(*object) []verdict.Verdict, s *statistics) {
	w.nodes = map[string]*simulate.Proxy{}
	for i := range objects {
		o := &objects[i]
		if o.kind != "DestinationRule" {
			continue
		}
		timeout := func(part string) (float64, bool) {
			p := o.spec
			if j, ok := strings.CutPrefix(part, "spec.subsets["); ok {
				n, _ := strconv.Atoi(strings.TrimSuffix(j, "]"))
				list, _ := o.spec["subsets"].([]any)
				if n >= len(list) {
					return 0, false
				}
				p = list[n].(map[string]any)
			}
			policy, ok := p["trafficPolicy"].(map[string]any)
			if !ok {
				return 0, false
			}
			text := policy["connectionPool"].(map[string]any)["tcp"].(map[string]any)["connectTimeout"].(string)
			n, _ := strconv.Atoi(strings.TrimSuffix(text, "ms"))
			return float64(n) / 1000, true
		}
		in := func(p *simulate.Proxy, seconds float64) bool {
			for _, c := range p.Clusters {
				if c.GetConnectTimeout().AsDuration().Seconds() == seconds {
					return true
				}
			}
			return false
		}
		for _, d := range of(o) {
			seconds, ok := timeout(d.Part)
			if !ok {
				continue
			}
			s.probes++
			if d.State == verdict.Active {
				if !in(w.proxy(false, d.Sample.Namespace, d.Sample.Labels), seconds) {
					w.errorf("%s %s is said to be active for %+v, who has no such cluster", o.name, d.Part, *d.Sample)
				}
				continue
			}
			for _, p := range pods[:4] {
				if in(w.proxy(false, p.namespace, p.labels), seconds) {
					w.errorf("%s %s is said to be %s (%s), and %s has such a cluster", o.name, d.Part, d.State, d.Why, p.name)
				}
			}
		}
	}
}

// Random sets of objects: every rule has one verdict, and calls agree with it.
func TestVerdicts(t *testing.T) {
	sets, s := 300, &statistics{states: map[string]int{}}
	if n, err := strconv.Atoi(os.Getenv("VERDICT_SETS")); err == nil {
		sets = n
	}
	for seed := range uint64(sets) {
		if check(t, seed, s); t.Failed() {
			break
		}
	}
	t.Logf("%+v", *s)
}
