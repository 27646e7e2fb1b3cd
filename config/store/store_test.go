package store_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

func unit(name, text string) config.Unit { return file.Parse(name, []byte(text), "default") }

func routeTo(name, host string, weights ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s}\nspec:\n  hosts: [%s]\n  http:\n  - route:\n", name, host)
	for i, w := range weights {
		fmt.Fprintf(&b, "    - {destination: {host: %s, subset: v%d}, weight: %d}\n", host, i+1, w)
	}
	return b.String()
}

func weights(t *testing.T, s *mesh.Snapshot, key mesh.Key) []uint32 {
	t.Helper()
	vs, ok := s.VirtualServices.Get(key)
	if !ok {
		return nil
	}
	var out []uint32
	for _, d := range vs.HTTP[0].Action.Destinations {
		out = append(out, d.Weight)
	}
	return out
}

const id = "networking.istio.io/VirtualService/default/reviews"

// A bad edit leaves the last good version in force; repair, removal and restart behave
// as if the bad version had never been there.
func TestLastGoodVersionStays(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	u := s.Step(unit("a.yaml", routeTo("reviews", "reviews", 50, 50)), unit("b.yaml", routeTo("ratings", "ratings", 10, 90)))
	first := u.Snapshot
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	bad := unit("a.yaml", routeTo("reviews", "reviews", 50, -1))
	u = s.Step(bad)
	o := u.Objects.At(id)
	if o.State != store.Quarantined || !o.LastGood() || o.Raw.Ref.Hash == o.Serving.Ref.Hash {
		t.Errorf("after a bad edit: %+v", o)
	}
	if u.Snapshot != first {
		t.Error("a bad edit changed the plan")
	}
	if config.Errors(u.Findings) != 1 {
		t.Errorf("findings %v", u.Findings)
	}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}

	restarted := newStore(t, dir)
	r := restarted.Step(bad, unit("b.yaml", routeTo("ratings", "ratings", 10, 90)))
	if diff := cmp.Diff(plan(u.Snapshot), plan(r.Snapshot)); diff != "" {
		t.Errorf("a restart changed the plan (-running +restarted):\n%s", diff)
	}
	if o := r.Objects.At(id); o.State != store.Quarantined || !o.LastGood() {
		t.Errorf("after the restart: %+v", o)
	}

	u = restarted.Step(unit("a.yaml", routeTo("reviews", "reviews", 1, 99)))
	if got := weights(t, u.Snapshot, "default/reviews"); !slices.Equal(got, []uint32{1, 99}) || u.Objects.At(id).State != store.Compiled {
		t.Errorf("after the repair: weights %v, %+v", got, u.Objects.At(id))
	}
	u = restarted.Step(config.Unit{Name: "a.yaml", Gone: true})
	if err := restarted.Save(); err != nil {
		t.Fatal(err)
	}
	if u.Snapshot.VirtualServices.Has("default/reviews") || u.Objects.Has(id) {
		t.Error("a removed object is still there")
	}
	again := newStore(t, dir)
	if u := again.Step(bad); u.Objects.At(id).LastGood() {
		t.Error("an object that was deleted came back from the state folder")
	}
}

// A Sidecar with errors never takes anything from its workloads: its last good version limits on, and where there was
// none nothing does, another Sidecar of the namespace excepted, and it is said.
func TestRefusedSidecarLimitsNothing(t *testing.T) {
	sidecar := func(name, host string) string {
		return "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: " + name + "}\nspec: {egress: [{hosts: [" + host + "]}]}\n---\n"
	}
	const bad = "'not a host'"
	check := func(t *testing.T, u *store.Update, said bool, inForce ...string) {
		t.Helper()
		var names []string
		for k, s := range u.Snapshot.Sidecars.All() {
			names = append(names, string(k)+" "+s.Egress[0].Hosts[0].Host)
		}
		if !slices.Equal(names, inForce) {
			t.Errorf("in force: %q, want %q", names, inForce)
		}
		if got := slices.ContainsFunc(u.Findings, func(f config.Finding) bool { return f.Code == config.LimitsNothing && f.Object.Name == "new" }); got != said {
			t.Errorf("said that it limits nothing: %v, want %v: %v", got, said, u.Findings)
		}
	}
	dir := t.TempDir()
	s := newStore(t, dir)
	check(t, s.Step(unit("a.yaml", sidecar("new", bad))), true)
	check(t, s.Step(unit("a.yaml", sidecar("new", bad)+sidecar("old", "./a.example.com"))), true, "default/old a.example.com")
	check(t, s.Step(unit("a.yaml", sidecar("new", "./b.example.com")+sidecar("old", "./a.example.com"))), false, "default/new b.example.com", "default/old a.example.com")
	check(t, s.Step(unit("a.yaml", sidecar("new", bad)+sidecar("old", "./a.example.com"))), false, "default/new b.example.com", "default/old a.example.com")
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, dir)
	check(t, s.Step(unit("a.yaml", sidecar("new", bad)+sidecar("old", "./a.example.com"))), false, "default/new b.example.com", "default/old a.example.com")
	check(t, s.Step(unit("a.yaml", sidecar("old", "./a.example.com"))), false, "default/old a.example.com")
	check(t, s.Step(unit("a.yaml", sidecar("new", bad)+sidecar("old", "./a.example.com"))), true, "default/old a.example.com")
}

// What a rule with errors closes stays closed: while its file cannot be read, over a
// restart, and until it is repaired or removed; and a version that was good comes first.
func TestRefusedStaysClosed(t *testing.T) {
	rule := func(policy string) string {
		return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bank}\nspec: {host: bank.example.com, trafficPolicy: {" + policy + "}}\n"
	}
	const key = "default/bank"
	const id = "networking.istio.io/DestinationRule/" + key
	dir := t.TempDir()
	refused := func(t *testing.T, u *store.Update, want bool) {
		t.Helper()
		r := u.Snapshot.DestinationRules.At(key)
		if got := r != nil && r.Refused && r.Policy.TLS.Mode == mesh.TLSRefused; got != want {
			t.Errorf("refused: %v, want %v (%+v)", got, want, r)
		}
		told := slices.ContainsFunc(u.Findings, func(f config.Finding) bool { return f.Code == config.FailClosed })
		if told != want {
			t.Errorf("findings: %v", u.Findings)
		}
		if o := u.Objects.At(id); o != nil && (o.LastGood() || o.Ref().File != "a.yaml") {
			t.Errorf("object: %+v", o)
		}
	}
	s := newStore(t, dir)
	bad := unit("a.yaml", rule("tls: {mode: MUTUAL}"))
	refused(t, s.Step(bad), true)
	refused(t, s.Step(unit("a.yaml", rule("tls: {mode: SIMPL}"))), true)
	refused(t, s.Step(unit("a.yaml", rule("tls: {mode: [}"))), true)
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, dir)
	refused(t, s.Step(unit("a.yaml", rule("tls: {mode: [}"))), true)
	u := s.Step(bad)
	refused(t, u, true)
	if slices.ContainsFunc(u.Findings, func(f config.Finding) bool { return f.Code == config.LastGoodServed }) {
		t.Errorf("its file can be read again: %v", u.Findings)
	}
	refused(t, s.Step(config.Unit{Name: "a.yaml", Gone: true}), false)
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, dir)
	refused(t, s.Step(unit("a.yaml", rule("tls: {mode: [}"))), false)
	u = s.Step(unit("a.yaml", rule("tls: {mode: SIMPLE}")))
	refused(t, u, false)
	good := u.Snapshot
	if u = s.Step(bad); u.Snapshot != good || !u.Objects.At(id).LastGood() {
		t.Errorf("a good version is not kept: %+v", u.Objects.At(id))
	}
}

// An edit made while nothing runs is judged as if it had been made before.
func TestBrokenWhileStopped(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	s.Step(unit("a.yaml", routeTo("reviews", "reviews", 50, 50)+"---\n"+routeTo("ratings", "ratings", 1, 2)))
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"bad value":    routeTo("reviews", "reviews", -1, 50) + "---\n" + routeTo("ratings", "ratings", 1, 2),
		"syntax error": "kind: {\n---\n" + routeTo("ratings", "ratings", 1, 2),
		"wrong kind":   strings.Replace(routeTo("reviews", "reviews", 50, 50), "VirtualService", "VirtualServce", 1) + "---\n" + routeTo("ratings", "ratings", 1, 2),
	} {
		u := newStore(t, dir).Step(unit("a.yaml", text))
		if got := weights(t, u.Snapshot, "default/reviews"); !slices.Equal(got, []uint32{50, 50}) {
			t.Errorf("%s: weights %v", name, got)
		}
		if got := weights(t, u.Snapshot, "default/ratings"); !slices.Equal(got, []uint32{1, 2}) {
			t.Errorf("%s: the neighbour has weights %v", name, got)
		}
		if o := u.Objects.At(id); !o.LastGood() || o.State != store.Quarantined {
			t.Errorf("%s: %+v", name, o)
		}
	}
	// A folder that cannot be read hides what is below it.
	u := newStore(t, dir).Step(config.Unit{Name: "elsewhere", Incomplete: true})
	if u.Snapshot.VirtualServices.Len() != 0 {
		t.Error("an object of a file that is gone is in force")
	}
}

// Entries of lists and JSON documents are kept across restarts like others.
func TestLastGoodOfListsAndJSON(t *testing.T) {
	const vs = `{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": %q},
 "spec": {"hosts": [%[1]q], "http": [{"route": [{"destination": {"host": %[1]q}}],
  "timeout": %q}]}}`
	one, two := fmt.Sprintf(vs, "one", "1s"), fmt.Sprintf(vs, "two", "2s")
	bad := strings.Replace(two, "2s", "2 s", 1)
	for _, c := range []struct{ name, before, after string }{
		{"list.yaml", "apiVersion: v1\nkind: List\nitems:\n- " + one + "\n- " + two + "\n", "apiVersion: v1\nkind: List\nitems:\n- " + one + "\n- " + bad + "\n"},
		{"two.json", one + two, one + bad},
		{"flow.yaml", "---\n" + one + "\n---\n" + two, "---\n" + one + "\n---\n" + bad},
	} {
		dir := t.TempDir()
		s := newStore(t, dir)
		want := s.Step(unit(c.name, c.before)).Snapshot
		if err := s.Save(); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second restart finds what the first one kept
			s := newStore(t, dir)
			u := s.Step(unit(c.name, c.after))
			if diff := cmp.Diff(plan(want), plan(u.Snapshot)); diff != "" || config.Errors(u.Findings) != 1 {
				t.Errorf("%s: %v (-before +after):\n%s", c.name, u.Findings, diff)
			}
			s.Analyze()
			if err := s.Save(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What a file defined stays in force while the file cannot be read completely, and goes
// once it can.
func TestUnreadableFileHoldsObjects(t *testing.T) {
	s := newStore(t, "")
	both := routeTo("reviews", "reviews", 1) + "---\n" + routeTo("ratings", "ratings", 1)
	s.Step(unit("conf/a.yaml", both))
	for _, u := range []config.Unit{
		{Name: "conf/a.yaml", Incomplete: true},
		unit("conf/a.yaml", "a: b: c\n---\n"+routeTo("ratings", "ratings", 1)),
		unit("conf/a.yaml", routeTo("ratings", "ratings", 1)+"---\nkind: Lis"),
	} {
		up := s.Step(u)
		if up.Snapshot.VirtualServices.Len() != 2 {
			t.Errorf("%+v: %d VirtualServices in force", u.Findings, up.Snapshot.VirtualServices.Len())
		}
		if o := up.Objects.At(id); o == nil || !o.LastGood() || o.Findings[0].Code != config.LastGoodServed {
			t.Errorf("%+v: %+v", u.Findings, o)
		}
	}
	up := s.Step(unit("conf/a.yaml", routeTo("ratings", "ratings", 1)))
	if up.Snapshot.VirtualServices.Len() != 1 {
		t.Error("an object stays in force after its file was repaired without it")
	}
}

// A definition of last resort gives way without a word, to whoever comes and whenever.
func TestFallbacksGiveWay(t *testing.T) {
	own, demo := unit("z.yaml", routeTo("reviews", "reviews", 1, 1)), unit("a.yaml", routeTo("reviews", "reviews", 2, 2))
	demo.Rank = config.Fallback
	for _, units := range [][]config.Unit{{own, demo}, {demo, own}} {
		s := newStore(t, "")
		var u *store.Update
		for _, x := range units {
			u = s.Step(x)
		}
		if got := weights(t, u.Snapshot, "default/reviews"); !slices.Equal(got, []uint32{1, 1}) || len(u.Findings) != 0 {
			t.Errorf("in force: %v, findings %v", got, u.Findings)
		}
		u = s.Step(config.Unit{Name: "z.yaml", Gone: true})
		if got := weights(t, u.Snapshot, "default/reviews"); !slices.Equal(got, []uint32{2, 2}) || len(u.Findings) != 0 {
			t.Errorf("alone: %v, findings %v", got, u.Findings)
		}
	}
	twice := demo
	twice.Name = "b.yaml"
	if u := newStore(t, "").Step(demo, unit("b.yaml", ""), twice); len(u.Findings) != 1 || u.Findings[0].Code != config.Duplicate {
		t.Errorf("twice among themselves: %v", u.Findings)
	}
}

// Of two definitions the first is used, by order of the command line and then of names,
// whatever the order they are read in; when it goes the other takes its place.
func TestDuplicates(t *testing.T) {
	a, b := unit("a.yaml", routeTo("reviews", "reviews", 1, 1)), unit("b.yaml", routeTo("reviews", "reviews", 2, 2))
	a.Rank = 1 // named after b
	for _, units := range [][]config.Unit{{a, b}, {b, a}} {
		s := newStore(t, "")
		var u *store.Update
		for _, x := range units {
			u = s.Step(x)
		}
		if got := weights(t, u.Snapshot, "default/reviews"); !slices.Equal(got, []uint32{2, 2}) {
			t.Errorf("in force: %v", got)
		}
		if len(u.Findings) != 1 || u.Findings[0].Code != config.Duplicate || u.Findings[0].Object.File != "a.yaml" || !strings.Contains(u.Findings[0].Message, "b.yaml:1") {
			t.Errorf("findings %v", u.Findings)
		}
		u = s.Step(config.Unit{Name: "b.yaml", Gone: true})
		if got := weights(t, u.Snapshot, "default/reviews"); !slices.Equal(got, []uint32{1, 1}) || len(u.Findings) != 0 {
			t.Errorf("after the first is gone: %v, %v", got, u.Findings)
		}
	}
}

// What did not change keeps its address, and what changed nothing makes no new plan.
func TestStructureIsShared(t *testing.T) {
	s := newStore(t, "")
	before := s.Step(unit("a.yaml", routeTo("reviews", "reviews", 1)), unit("b.yaml", routeTo("ratings", "ratings", 1)),
		unit("s.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {selector: {app: reviews}, ports: [{port: 1, name: http}]}")).Snapshot
	if after := s.Step(unit("a.yaml", routeTo("reviews", "reviews", 1)+"# a comment at the end\n")).Snapshot; after != before {
		t.Error("a comment made a new plan")
	}
	after := s.Step(unit("b.yaml", routeTo("ratings", "ratings", 2, 3))).Snapshot
	if after == before || after.Version != before.Version+1 {
		t.Error("a change made no new plan")
	}
	if before.VirtualServices.At("default/reviews") != after.VirtualServices.At("default/reviews") || !before.Services.Same(after.Services) || !before.Endpoints.Same(after.Endpoints) {
		t.Error("the change touched something else")
	}
}

// Addresses and indices are given again after a restart, also when other services came
// and went meanwhile.
func TestAllocationsSurvive(t *testing.T) {
	dir := t.TempDir()
	service := func(name string) config.Unit {
		return unit(name+".yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: "+name+"}\nspec: {ports: [{port: 80, name: http}]}")
	}
	s := newStore(t, dir)
	u := s.Step(service("b"), service("c"))
	want := [2]*mesh.Service{u.Snapshot.Services.At("default/b.default.svc.cluster.local"), u.Snapshot.Services.At("default/c.default.svc.cluster.local")}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, dir)
	s.Step(service("a"))
	s.Step(service("c"))
	u = s.Step(service("b"))
	for _, w := range want {
		if diff := cmp.Diff(w, u.Snapshot.Services.At(w.Key()), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s got something else after the restart:\n%s", w.Name, diff)
		}
	}
	// A damaged file costs the addresses, not the start.
	if err := os.WriteFile(filepath.Join(dir, "registry", "services.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if u := newStore(t, dir).Step(service("a")); u.Snapshot.Services.Len() != 1 {
		t.Error("no service after a damaged file")
	}
}

func TestLowered(t *testing.T) {
	s := newStore(t, "")
	u := s.Step(unit("d.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}"))
	n := 0
	for o, d := range store.Lowered[*appsv1.Deployment](u) {
		n++
		if d.Name != "web" || d.Namespace != "default" || o.Ref().File != "d.yaml" {
			t.Errorf("%+v", d.ObjectMeta)
		}
	}
	if n != 1 {
		t.Errorf("%d Deployments", n)
	}
}

// plan is a snapshot as a comparable text: all but version, and all but what depends on
// the order of arrival by its nature (virtual addresses, given first come first served).
func plan(s *mesh.Snapshot) string {
	c := *s
	for k, v := range c.Services.All() {
		n := *v
		n.Addresses, n.Index = nil, 0
		c.Services = c.Services.Set(k, &n)
	}
	return dump(&c, []string{"virtualservices", "destinationrules", "gateways", "peerauths", "services", "workloads", "endpoints"})
}

// A small world of files in which names collide, documents break, selectors meet.
func genUnit(t *rapid.T) config.Unit {
	name := rapid.SampledFrom([]string{"a.yaml", "b.yaml", "c.yaml"}).Draw(t, "file")
	if rapid.IntRange(0, 9).Draw(t, "gone") == 0 {
		return config.Unit{Name: name, Gone: true}
	}
	var docs []string
	for range rapid.IntRange(0, 3).Draw(t, "documents") {
		app := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app")
		n := rapid.IntRange(1, 2).Draw(t, "n")
		docs = append(docs, rapid.SampledFrom([]string{
			routeTo(app, app, n),
			fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: %s}\nspec: {host: %s, subsets: [{name: v%d}]}\n", app, app, n),
			fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {selector: {app: %s}, ports: [{port: %d, name: http}]}\n", app, app, n),
			fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: p%d, labels: {app: %s}}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.1.0.%d}\n", n, app, n),
			fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: %s%d}\nspec: {hosts: [%s.com], ports: [{number: 80, name: http}], resolution: DNS}\n", app, n, app),
			fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: p%d}\nspec: {address: 10.2.0.%d, labels: {app: %s}}\n", n, n, app),
		}).Draw(t, "document"))
	}
	return unit(name, strings.Join(docs, "---\n"))
}

// Whatever happened before, the plan is that of a fresh start from what files say now:
// order of events, repetition and removal leave no trace. (Good files only: a last good
// version is history by design.)
func TestPlanDependsOnFilesOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		running, err := store.New(store.Options{Settings: settings()})
		if err != nil {
			t.Fatal(err)
		}
		now := map[string]config.Unit{}
		var u *store.Update
		for range rapid.IntRange(1, 8).Draw(t, "events") {
			x := genUnit(t)
			now[x.Name] = x
			u = running.Step(x)
			if rapid.Bool().Draw(t, "analyzed") {
				running.Analyze()
			}
		}
		var units []config.Unit
		for _, x := range now {
			if !x.Gone {
				units = append(units, x)
			}
		}
		fresh, err := store.New(store.Options{Settings: settings()})
		if err != nil {
			t.Fatal(err)
		}
		f := fresh.Step(units...)
		if diff := cmp.Diff(plan(f.Snapshot), plan(u.Snapshot)); diff != "" {
			t.Fatalf("(-fresh +running):\n%s", diff)
		}
		if diff := cmp.Diff(findings(fresh.Analyze().Findings), findings(running.Analyze().Findings)); diff != "" {
			t.Fatalf("findings (-fresh +running):\n%s", diff)
		}
	})
}

// Which namespaces are part of the mesh follows labels and the MeshConfig at once, and a
// MeshConfig with mistakes changes nothing.
func TestDiscoveryFollows(t *testing.T) {
	s := newStore(t, "")
	unit := func(name, text string) config.Unit { return file.Parse(name, []byte(text), "default") }
	namespace := func(label string) config.Unit {
		return unit("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {mesh: \""+label+"\"}}\n")
	}
	meshConfig := func(text string) config.Unit {
		return unit("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: '"+text+"'}\n")
	}
	objects := unit("o.yaml", `
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec: {egress: [{hosts: ["./*"]}]}
`)
	for _, step := range []struct {
		intention string
		unit      config.Unit
		in        bool
		limited   bool
	}{
		{"without MeshConfig all are", namespace("no"), true, false},
		{"others are left out", meshConfig(`discoverySelectors: [{matchLabels: {mesh: "yes"}}]`), false, false},
		{"a label brings in", namespace("yes"), true, false},
		{"mistakes change nothing", meshConfig(`discoverySelectors: 3`), true, false},
		{"a label leaves out", namespace("no"), false, false},
		{"the default of exportTo comes to all", meshConfig(`defaultServiceExportTo: ["."]`), true, true},
		{"a MeshConfig that is gone", config.Unit{Name: "mesh.yaml", Gone: true}, true, false},
	} {
		u := s.Step(objects, step.unit)
		objects = config.Unit{Name: "none.yaml"}
		service := u.Snapshot.Services.At("shop/cart.shop.svc.cluster.local")
		if in := u.Snapshot.Sidecars.Has("shop/default"); in != step.in || in != (service != nil) {
			t.Errorf("%s: sidecar %v service %v, want %v", step.intention, in, service != nil, step.in)
		}
		if service != nil && service.Visible.Limited != step.limited {
			t.Errorf("%s: visible %+v", step.intention, service.Visible)
		}
	}
}
