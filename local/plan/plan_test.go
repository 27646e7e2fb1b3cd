package plan_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

var update = flag.Bool("update", false, "rewrite the expected sections: only commit the changes if you understand what caused them and if they are desired")

func read(t *testing.T, files []txtar.File) *store.Update {
	t.Helper()
	s, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}})
	if err != nil {
		t.Fatal(err)
	}
	var units []config.Unit
	for _, f := range files {
		units = append(units, file.Parse(f.Name, f.Data, "default"))
	}
	u := s.Step(units...)
	for _, f := range u.Findings {
		if f.Severity == config.Error {
			t.Fatalf("the case itself is wrong: %s", f)
		}
	}
	return u
}

// allocate stands in for the control plane.
func allocate(u *store.Update) map[mesh.Key]registry.Allocation {
	given := map[mesh.Key]registry.Allocation{}
	for k, s := range u.Snapshot.Services.All() {
		given[k] = registry.Allocation{Index: s.Index, Addresses: s.Addresses}
	}
	return given
}

// Each case is a sentence of intention, YAML files, and the first pod of each group with
// its programs, followed by all findings.
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(bytes.TrimSpace(ar.Comment)) == 0 {
				t.Fatal("the case does not say what the user intends")
			}
			last := len(ar.Files) - 1
			if last < 1 || ar.Files[last].Name != "want" {
				t.Fatal("the last section must be called want")
			}
			u := read(t, ar.Files[:last])
			in, pending := plan.From(u, allocate(u))
			if len(pending) > 0 {
				t.Fatalf("pending: %v", pending)
			}
			got := project(plan.Make(in))
			if *update {
				ar.Files[last].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(ar.Files[last].Data), got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func project(p *plan.Plan) string {
	var b strings.Builder
	for _, g := range p.Groups {
		fmt.Fprintf(&b, "%s: %d replicas", g.Key(), g.Replicas)
		if g.Recreate {
			b.WriteString(", recreate")
		}
		if g.Blocked != "" {
			fmt.Fprintf(&b, ", blocked: %s\n", g.Blocked)
			continue
		}
		t := &g.Template
		fmt.Fprintf(&b, ", surge %d, account %s, grace %v", g.Surge, t.ServiceAccount, t.Grace)
		for _, k := range slices.Sorted(maps.Keys(t.Labels)) {
			fmt.Fprintf(&b, ", %s=%s", k, t.Labels[k])
		}
		b.WriteString("\n")
		full := t.Pod(plan.Instance{
			Name: g.Name + "-0", IP: netip.MustParseAddr("10.244.0.9"),
			Services: p.Called(g.Namespace, func(s *mesh.Service) []netip.AddrPort {
				var out []netip.AddrPort
				for _, port := range s.Ports {
					if len(s.Addresses) > 0 {
						out = append(out, netip.AddrPortFrom(s.Addresses[0], port.Number))
					}
				}
				return out
			}),
		})
		show := func(what string, programs []plan.Program) {
			for _, r := range programs {
				fmt.Fprintf(&b, "  %s %s: %q", what, r.Container.Name, r.Argv)
				if r.Dir != "" {
					fmt.Fprintf(&b, " in %s", r.Dir)
				}
				for _, port := range r.Container.Ports {
					fmt.Fprintf(&b, " %s:%d", port.Name, port.Number)
					if port.Derived {
						b.WriteString("(derived)")
					}
				}
				if pr := r.Container.Ready; pr != nil {
					fmt.Fprintf(&b, " probe http=%v port=%d period=%v", pr.HTTP != nil, pr.Port, pr.Period)
				}
				b.WriteString("\n")
				for _, e := range r.Env {
					fmt.Fprintf(&b, "    %s\n", e)
				}
			}
		}
		show("init", full.Init)
		show("run", full.Programs)
	}
	for _, f := range p.Findings {
		fmt.Fprintf(&b, "%s\n", f)
	}
	return b.String()
}

// What replaces a pod, and what does not.
func TestHash(t *testing.T) {
	const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  replicas: 1
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      containers:
      - {name: a, image: x, command: [a], env: [{name: MODE, valueFrom: {configMapKeyRef: {name: m, key: mode}}}]}
`
	const settings = `
apiVersion: v1
kind: ConfigMap
metadata: {name: m}
data: {mode: slow, other: "1"}
`
	const service = `
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}
`
	hash := func(loopback bool, docs ...string) string {
		t.Helper()
		u := read(t, []txtar.File{{Name: "a.yaml", Data: []byte(strings.Join(docs, "---"))}})
		in, _ := plan.From(u, allocate(u))
		in.Loopback = loopback
		p := plan.Make(in)
		if len(p.Groups) != 1 || p.Groups[0].Blocked != "" {
			t.Fatalf("%+v", p)
		}
		return p.Groups[0].Hash
	}
	edit := strings.ReplaceAll
	for _, c := range []struct {
		name string
		same bool
		docs []string
		loop bool
	}{
		{name: "more replicas", same: true, docs: []string{edit(deployment, "replicas: 1", "replicas: 2"), settings}},
		{name: "a comment", same: true, docs: []string{deployment + "# x\n", settings}},
		{name: "another argument", docs: []string{edit(deployment, "command: [a]", "command: [a, b]"), settings}},
		{name: "a ConfigMap value that is used", docs: []string{deployment, edit(settings, "slow", "fast")}},
		{name: "a ConfigMap value that is not", same: true, docs: []string{deployment, edit(settings, `"1"`, `"2"`)}},
		{name: "a pod annotation", docs: []string{edit(deployment, "metadata: {labels", "metadata: {annotations: {a: b}, labels"), settings}},
		{name: "a Service's target port", same: true, docs: []string{deployment, settings, service}},
		{name: "a Service's target port that the proxy must know", docs: []string{deployment, settings, service}, loop: true},
	} {
		if got := hash(c.loop, c.docs...) == hash(c.loop, deployment, settings); got != c.same {
			t.Errorf("%s: same hash %v, want %v", c.name, got, c.same)
		}
	}
}

// A Service without an address from the control plane is pending, and not among the
// variables.
func TestPending(t *testing.T) {
	u := read(t, []txtar.File{{Name: "a.yaml", Data: []byte("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n")}})
	in, pending := plan.From(u, nil)
	if want := []mesh.Key{"default/a.default.svc.cluster.local"}; !slices.Equal(pending, want) {
		t.Errorf("pending %v, want %v", pending, want)
	}
	if s := in.Services[0]; s.Index != 0 || len(s.Addresses) != 0 {
		t.Errorf("%+v", s)
	}
}

// An ordinary user learns under which variable the port is that cannot be listened on.
func TestPortsThatNeedRoot(t *testing.T) {
	web := &mesh.Service{Ref: mesh.Ref{Kind: "Service", Name: "my-web", Namespace: "d"}, Name: "my-web", Namespace: "d",
		Ports: []mesh.Port{{Number: 80}, {Number: 8080}, {Number: 443, Name: "https-in"}}}
	var got []string
	for _, f := range plan.Make(plan.Input{Services: []*mesh.Service{web}, Loopback: true, HighPorts: true}).Findings {
		got = append(got, f.FieldPath+" "+f.Hint)
	}
	want := []string{
		"spec.ports[0].port call $MY_WEB_SERVICE_HOST:$MY_WEB_SERVICE_PORT, or use --capture=netns",
		"spec.ports[2].port call $MY_WEB_SERVICE_HOST:$MY_WEB_SERVICE_PORT_HTTPS_IN, or use --capture=netns",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	at := []netip.AddrPort{netip.MustParseAddrPort("127.3.1.0:10080"), netip.MustParseAddrPort("127.3.1.0:8080"), netip.MustParseAddrPort("127.3.1.0:10443")}
	variables := plan.ServiceVariables([]plan.ServiceAddress{{Service: web, At: at}})
	for _, v := range []string{"MY_WEB_SERVICE_PORT=10080", "MY_WEB_SERVICE_PORT_HTTPS_IN=10443", "MY_WEB_PORT_443_TCP=tcp://127.3.1.0:10443", "MY_WEB_PORT_8080_TCP_PORT=8080"} {
		if !slices.Contains(variables, v) {
			t.Errorf("no %s in %q", v, variables)
		}
	}
}

// A name means what it would in a pod: a search domain is tried first, the workload's
// namespace before others, what is not exported to it is nobody.
func TestHost(t *testing.T) {
	p := &plan.Plan{}
	for _, s := range []struct{ hostname, namespace, only string }{
		{"ratings.shop.svc.cluster.local", "shop", ""},
		{"ratings.other.svc.cluster.local", "other", ""},
		{"hidden.other.svc.cluster.local", "other", "other"},
		{"api.example.com", "other", ""},
		{"api.example.com", "shop", ""},
		{"com.example.svc.cluster.local", "example", ""},
		{"localhost.shop.svc.cluster.local", "shop", ""},
	} {
		v := mesh.Visibility{Limited: s.only != "", Namespaces: []string{s.only}}
		p.Hosts = append(p.Hosts, &mesh.Service{Hostname: s.hostname, Namespace: s.namespace, Visible: v})
	}
	for name, want := range map[string]string{
		"ratings": "shop/ratings.shop.svc.cluster.local", "Ratings.Shop": "shop/ratings.shop.svc.cluster.local",
		"ratings.other": "other/ratings.other.svc.cluster.local", "ratings.other.svc": "other/ratings.other.svc.cluster.local",
		"ratings.other.svc.cluster.local": "other/ratings.other.svc.cluster.local", "ratings.other.svc.cluster.local.": "other/ratings.other.svc.cluster.local",
		"ratings.": "", "ratings.other.": "", "hidden.other": "", "details": "", "": "", ".": "",
		"api.example.com": "shop/api.example.com", "API.example.com.": "shop/api.example.com", "com.example": "example/com.example.svc.cluster.local",
		"localhost": "", "127.0.0.1": "", "::1": "",
	} {
		got := ""
		if s := p.Host("shop", name); s != nil {
			got = s.Namespace + "/" + s.Hostname
		}
		if got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}
