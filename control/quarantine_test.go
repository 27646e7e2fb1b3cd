package control

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// village is a mesh of many objects of all kinds, each in a file of its own.
type village struct {
	state  string
	store  *store.Store
	cache  *translate.Cache
	files  map[string]string // text by name
	names  []string
	update *store.Update // with all of them good
}

// villagers makes the texts: groups of eleven objects around a service.
func villagers(groups int) map[string]string {
	out := map[string]string{}
	for i := range groups {
		ns := fmt.Sprint("n", i%7)
		put := func(kind, text string) {
			out[fmt.Sprintf("%s-%d.yaml", kind, i)] = strings.NewReplacer("~", ns, "#", strconv.Itoa(i), "%", strconv.Itoa(i/200+1), "&", strconv.Itoa(i%200+1)).Replace(text)
		}
		put("service", `{apiVersion: v1, kind: Service, metadata: {name: s#, namespace: ~}, spec: {selector: {app: s#}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-db, port: 9000}, {name: other, port: 7000}]}}`)
		put("pod", `{apiVersion: v1, kind: Pod, metadata: {name: s#-0, namespace: ~, labels: {app: s#, version: v1}, annotations: {sidecar.istio.io/status: "{}"}}, spec: {serviceAccountName: s#, containers: [{name: app, ports: [{containerPort: 8080}]}]}, status: {podIP: 10.1.%.&, podIPs: [{ip: 10.1.%.&}], conditions: [{type: Ready, status: "True"}]}}`)
		put("virtualservice", `{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: s#, namespace: ~}, spec: {hosts: [s#], http: [
{name: first, match: [{uri: {prefix: /a}, headers: {user: {exact: u}}, queryParams: {q: {regex: x.*}}}], timeout: 3s, retries: {attempts: 2, perTryTimeout: 1s, retryOn: 5xx}, fault: {delay: {fixedDelay: 1s, percentage: {value: 5}}}, route: [{destination: {host: s#, subset: v1, port: {number: 80}}, weight: 30, headers: {request: {set: {a: b}}}}, {destination: {host: s#, port: {number: 80}}, weight: 70}]},
{match: [{method: {exact: GET}, ignoreUriCase: true, uri: {exact: /r}}], redirect: {uri: /b, redirectCode: 302}},
{corsPolicy: {allowOrigins: [{exact: "*"}], maxAge: 24h}, rewrite: {uri: /c}, mirror: {host: s#, port: {number: 80}}, mirrorPercentage: {value: 1}, route: [{destination: {host: s#, port: {number: 80}}}]}]}}`)
		put("destinationrule", `{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: s#, namespace: ~}, spec: {host: s#, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {maxConnections: 10, connectTimeout: 2s}, http: {http1MaxPendingRequests: 5, maxRetries: 3}}, outlierDetection: {consecutive5xxErrors: 3, interval: 5s, baseEjectionTime: 10s, maxEjectionPercent: 50}, portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]}}`)
		put("serviceentry", `{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e#, namespace: ~}, spec: {hosts: [e#.example.com], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}], endpoints: [{address: a#.example.com, ports: {http: 8080}, weight: 2, labels: {zone: a}}]}}`)
		put("workloadentry", `{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: w#, namespace: ~}, spec: {address: 10.2.%.&, labels: {app: s#, version: v2}, serviceAccount: s#, weight: 3, ports: {http: 8080}}}`)
		put("peerauthentication", `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: s#, namespace: ~}, spec: {selector: {matchLabels: {app: s#}}, mtls: {mode: STRICT}, portLevelMtls: {9000: {mode: PERMISSIVE}}}}`)
		put("secret", `{apiVersion: v1, kind: Secret, metadata: {name: c#, namespace: istio-system}, type: kubernetes.io/tls, data: {ca.crt: aGVsbG8=}}`)
		put("gateway", `{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g#, namespace: ~}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [g#.example.com]}, {port: {number: 443, name: https, protocol: HTTPS}, hosts: [g#.example.com], tls: {mode: SIMPLE, credentialName: c#}}]}}`)
		put("sidecar", `{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: s#, namespace: ~}, spec: {workloadSelector: {labels: {app: s#}}, egress: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["./*", "n1/*"]}, {hosts: ["*/*"]}], outboundTrafficPolicy: {mode: ALLOW_ANY}}}`)
		put("edge", `{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: g#, namespace: ~}, spec: {hosts: [g#.example.com], gateways: [g#], http: [{match: [{uri: {prefix: /}}], route: [{destination: {host: s#, port: {number: 80}}}]}]}}`)
	}
	return out
}

func villageNodes() []*translate.Node {
	return []*translate.Node{
		{Type: translate.Sidecar, Namespace: "n0", Name: "s0-0", ServiceAccount: "s0", Labels: mesh.Labels{"app": "s0", "version": "v1"}, VHDS: true, DNS: true},
		{Type: translate.Sidecar, Namespace: "n1", Name: "s1-0", ServiceAccount: "s1", Labels: mesh.Labels{"app": "s1", "version": "v1"}},
		{Type: translate.Sidecar, Namespace: "n2", Name: "s2-0", ServiceAccount: "s2", Labels: mesh.Labels{"app": "s2"}, Interception: translate.NoInterception, VirtualNet: 3},
		{Type: translate.Sidecar, Namespace: "n3", Name: "s3-0", ServiceAccount: "s3", Labels: mesh.Labels{"app": "s3", "version": "v1"}, VHDS: true, OnDemand: true,
			Learned: &translate.Learned{Listeners: []string{"0.0.0.0_80"}, VirtualHosts: []string{"80/s3.n3.svc.cluster.local", "80/s10.n3.svc.cluster.local"}}},
		{Type: translate.Router, Namespace: "istio-system", Name: "istio-ingressgateway-0", Labels: mesh.Labels{"istio": "ingressgateway"}},
	}
}

func newVillage(t testing.TB, state string, files map[string]string) (*village, *store.Update) {
	t.Helper()
	s, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, State: state})
	if err != nil {
		t.Fatal(err)
	}
	v := &village{state: state, store: s, cache: translate.New(), files: files, names: slices.Sorted(maps.Keys(files))}
	var units []config.Unit
	for _, name := range v.names {
		units = append(units, file.Parse(name, []byte(files[name]), "default"))
	}
	v.update = s.Step(units...)
	return v, v.update
}

// views are those of all nodes.
func (v *village) views(u *store.Update) (out []*resource.View) {
	for _, n := range villageNodes() {
		out = append(out, v.cache.View(u.Snapshot, n))
	}
	return out
}

// differences yields what two views differ in, with what it was made of on both sides.
func differences(t testing.TB, what string, a, b []*resource.View, allowed func(n *translate.Node, typeURL, name string, origins []resource.Origin) bool) {
	t.Helper()
	for i := range a {
		n := villageNodes()[i]
		for _, sets := range [][2]map[string]resource.Set{{a[i].Sets, b[i].Sets}, {a[i].Wild, b[i].Wild}} {
			types := maps.Clone(sets[0])
			maps.Copy(types, sets[1])
			for typeURL := range types {
				was, is := sets[0][typeURL], sets[1][typeURL]
				for name := range is.Diff(was, resource.Same) {
					var origins []resource.Origin
					for _, r := range []*resource.Resource{was.At(name), is.At(name)} {
						if r != nil {
							origins = append(origins, r.Origins()...)
						}
					}
					if !allowed(n, typeURL, name, origins) {
						t.Fatalf("%s: %s %q of %s differs", what, resource.Short(typeURL), name, n.Name)
					}
				}
			}
		}
	}
}

func nothing(*translate.Node, string, string, []resource.Origin) bool { return false }

// others are the states of all objects but those.
func others(u *store.Update, but []config.ID) map[config.ID]store.State {
	out := map[config.ID]store.State{}
	for o := range u.Objects.Values() {
		if !slices.Contains(but, o.ID) {
			out[o.ID] = o.State
		}
	}
	return out
}

// garbage takes the place of a value.
func garbage(r *rand.Rand, old any) any {
	values := []any{nil, "", "x", true, -1.0, 0.0, 1e300, 4294967296.0, 0.5, "99999999999s", "-1s", "*", "*.", "[", "(?P<", "\x00\x01", "\u2028", strings.Repeat("a", 5000), strings.Repeat("a.", 200),
		[]any{}, []any{nil}, []any{"", ""}, map[string]any{}, map[string]any{"": ""}, map[string]any{"exact": 1.0, "prefix": "x"}, "256.1.1.1", "::", "0.0.0.0/0", "10.0.0.0/99",
		[]any{old}, []any{old, old}, map[string]any{"x": old}, fmt.Sprint(old), "http://", "v1", "STRICT", "DISABLE", "UNKNOWN", 65536.0, 80.0}
	return values[r.IntN(len(values))]
}

// mutate changes one thing somewhere in v.
func mutate(r *rand.Rand, v any) any {
	switch x := v.(type) {
	case map[string]any:
		if len(x) == 0 || r.IntN(8) == 0 {
			x["surprise"] = garbage(r, "y")
			return x
		}
		k := slices.Sorted(maps.Keys(x))[r.IntN(len(x))]
		switch r.IntN(6) {
		case 0:
			delete(x, k)
		case 1:
			x[k] = garbage(r, x[k])
		default:
			x[k] = mutate(r, x[k])
		}
		return x
	case []any:
		if len(x) == 0 {
			return []any{garbage(r, nil)}
		}
		i := r.IntN(len(x))
		switch r.IntN(6) {
		case 0:
			return slices.Delete(x, i, i+1)
		case 1:
			return append(x, x[i])
		default:
			x[i] = mutate(r, x[i])
			return x
		}
	}
	return garbage(r, v)
}

// spoil makes another text of one object: bad in its fields, or as a text.
func spoil(t testing.TB, r *rand.Rand, text string) string {
	if r.IntN(5) == 0 {
		b := []byte(text)
		for range 1 + r.IntN(4) {
			b[r.IntN(len(b))] = byte(r.IntN(256))
		}
		return string(b[:r.IntN(len(b)+1)])
	}
	var v map[string]any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	for range 1 + r.IntN(3) {
		if r.IntN(4) > 0 { // what matters
			if body := slices.DeleteFunc([]string{"spec", "status", "data"}, func(k string) bool { return v[k] == nil }); len(body) > 0 {
				k := body[r.IntN(len(body))]
				v[k] = mutate(r, v[k])
				continue
			}
		}
		mutate(r, v)
	}
	out, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// suffer spoils one object of the village, and sees that no other is affected.
func (v *village) suffer(t testing.TB, seed uint64, all []*resource.View, restart bool) {
	t.Helper()
	before := all
	r := rand.New(rand.NewPCG(seed, 1))
	name := v.names[r.IntN(len(v.names))]
	text := spoil(t, r, v.files[name])
	good, bad := file.Parse(name, []byte(v.files[name]), "default"), file.Parse(name, []byte(text), "default")
	// It comes bad into a mesh that has never seen it, or in the place of a good version.
	fresh := seed%4 == 3
	if fresh {
		before = v.views(v.store.Step(config.Unit{Name: name, Gone: true}))
	}
	whole := v.update
	u := v.store.Step(bad)
	after := v.views(u)
	what := fmt.Sprintf("seed %d, %s with\n%s\n", seed, name, text)

	id := good.Objects[0].ID
	ids := []config.ID{id}
	for _, o := range bad.Objects {
		ids = append(ids, o.ID)
	}
	ofIt := func(n *translate.Node, typeURL, _ string, origins []resource.Origin) bool {
		return typeURL == resource.IndexType || // the names of what is compared besides
			slices.ContainsFunc(ids, func(id config.ID) bool {
				return slices.Contains(origins, translate.Origin(id.Kind, id.Namespace, id.Name)) ||
					id.Kind == "Sidecar" && (id.Namespace == n.Namespace || id.Namespace == "istio-system") // it says what they see
			})
	}
	if a, b := others(whole, ids), others(u, ids); !maps.Equal(a, b) {
		t.Fatalf("%sothers are not what they were: %v, %v", what, len(a), len(b))
	}
	o := u.Objects.At(id.String())
	if o != nil && o.State == store.Quarantined && len(bad.Objects) <= 1 && fresh {
		if o.LastGood() {
			t.Fatalf("%shas a last good version, and never had one", what)
		}
		if id.Kind == "Sidecar" { // it limits nothing
			ofIt = nothing
		}
		differences(t, what+"which nobody has seen before", before, after, ofIt)
	} else if o != nil && o.State == store.Quarantined && len(bad.Objects) <= 1 {
		// Its last good version is in force: nothing has changed at all.
		if !o.LastGood() {
			t.Fatalf("%sis quarantined without its last good version", what)
		}
		differences(t, what+"although it is quarantined", before, after, nothing)
	} else {
		// What is in force of it may decide of its own host what is made of others: a Service without endpoints, a subset that nobody leads to.
		host := id.Name + "." + id.Namespace + ".svc."
		differences(t, what+"is made of others", before, after, func(n *translate.Node, typeURL, name string, origins []resource.Origin) bool {
			return ofIt(n, typeURL, name, origins) || strings.Contains(name, host) || id.Kind == "Service" && typeURL == resource.RouteType // whose tables have all hosts of a port
		})
	}
	if restart {
		if err := v.store.Save(); err != nil {
			t.Fatal(err)
		}
		files := maps.Clone(v.files)
		files[name] = text
		again, u := newVillage(t, v.state, files)
		allowed := nothing
		if isPod(id) { // of which no old version is kept: the runtime writes those there are
			allowed = ofIt
		}
		differences(t, what+"after a restart", after, again.views(u), allowed)
	}
	differences(t, what+"after its repair", all, v.views(v.store.Step(good)), nothing)
}

// One bad object among a thousand never affects another: what is not made of it is the
// same to the byte; while it is quarantined everything is; and a control plane that
// starts with it gives what one gives that runs on. WEIR_QUARANTINE is how often.
func TestOneBadObject(t *testing.T) {
	rounds := 60
	if n, err := strconv.Atoi(os.Getenv("WEIR_QUARANTINE")); err == nil {
		rounds = n
	}
	v, u := newVillage(t, t.TempDir(), villagers(91))
	if n := u.Objects.Len(); n != 1001 {
		t.Fatalf("%d objects", n)
	}
	for o := range u.Objects.Values() {
		if o.State != store.Compiled {
			t.Fatalf("%v is %s: %v", o.ID, o.State, o.Findings)
		}
	}
	before := v.views(u)
	for seed := range rounds {
		v.suffer(t, uint64(seed), before, seed%15 == 0)
	}
}

// FuzzOneBadObject is the same in a small mesh, for as long as one likes.
func FuzzOneBadObject(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	state, files := f.TempDir(), villagers(5)
	f.Fuzz(func(t *testing.T, seed uint64) {
		dir, err := os.MkdirTemp(state, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		v, u := newVillage(t, dir, files)
		v.suffer(t, seed, v.views(u), true)
	})
}
