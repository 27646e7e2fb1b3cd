package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
)

// related is one object of a small world in which objects refer to each other, and to some that are not there.
func related(t *rapid.T) string {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	app, ns := pick("app", "x", "y"), pick("namespace", "default", "default", "default", "other", "out")
	host := pick("host", "x", "x", "y", "x.default.svc.cluster.local", "y.other.svc.cluster.local", "e.com", "a.e.com", "nowhere", "z")
	export := pick("export", "", "exportTo: ['.'], ", "exportTo: [default], ")
	gateway := pick("gateway", "mesh", "g", "default/g", "other/g")
	n := rapid.IntRange(1, 2).Draw(t, "n")
	suppressed := pick("suppressed", "", "", ", annotations: {galley.istio.io/analyze-suppress: '*'}")
	istio := func(group, kind, spec string) string {
		return fmt.Sprintf("apiVersion: %s.istio.io/v1\nkind: %s\nmetadata: {name: %s%d, namespace: %s, creationTimestamp: '2026-01-0%dT00:00:00Z'%s}\nspec: {%s}\n", group, kind, app, n, ns,
			rapid.IntRange(1, 3).Draw(t, "created"), suppressed, spec)
	}
	core := func(version, kind, spec string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: %s, labels: {app: %s}%s}\n%s\n", version, kind, app, ns, app, suppressed, spec)
	}
	network, security := "networking", "security"
	doc := pick("document",
		istio(network, "VirtualService", export+fmt.Sprintf("hosts: [%s, %s.com], gateways: [%s, mesh], http: [{match: [{uri: {prefix: /%d}}], route: [{destination: {host: %s, subset: v%d}}]}, {route: [{destination: {host: %s, port: {number: 8%d}}}]}]", host, app, gateway, n, host, n, app, n)),
		istio(network, "VirtualService", fmt.Sprintf("hosts: [%s], gateways: [%s], http: [{match: [{uri: {prefix: /}}], route: [{destination: {host: %s}}]}]", host, gateway, host)),
		istio(network, "DestinationRule", export+fmt.Sprintf("host: %s, trafficPolicy: {tls: {mode: %s}}, subsets: [{name: v%d, labels: {version: v%d}}]", host, pick("tls", "DISABLE", "ISTIO_MUTUAL"), n, n)),
		istio(network, "DestinationRule", fmt.Sprintf("host: '*.%s', subsets: [{name: v1}, {name: v2}]", pick("wild", "e.com", "default.svc.cluster.local"))),
		istio(network, "Gateway", fmt.Sprintf("selector: {app: %s}, servers: [{port: {number: 8%d, name: p, protocol: %s}, hosts: ['%s'], tls: {mode: SIMPLE, credentialName: %s}}]", app, n, pick("protocol", "HTTPS", "HTTPS", "TLS"), pick("served", "*", "x.com", "./*"), app)),
		fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: %s}\nspec: {selector: {app: %s}, servers: [{port: {number: 81, name: p, protocol: HTTP}, hosts: ['%s']}]}\n", ns, app, pick("accepted", "*", "y.com")),
		istio(network, "Sidecar", fmt.Sprintf("%segress: [{hosts: ['%s', '%s/*'], port: {number: 81, name: p, protocol: %s}}]", pick("selects", "", "workloadSelector: {labels: {app: "+app+"}}, "), pick("import", "./*", "other/y.other.svc.cluster.local", "*/nowhere.com"), ns, pick("spoken", "HTTP", "TCP"))),
		istio(security, "PeerAuthentication", fmt.Sprintf("%smtls: {mode: %s}", pick("for", "", "selector: {matchLabels: {app: "+app+"}}, "), pick("mode", "STRICT", "DISABLE"))),
		istio(network, "ServiceEntry", fmt.Sprintf("%shosts: [%s], ports: [{number: 8%d, name: http}], resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {labels: {app: %s}}", export, pick("entry", "e.com", "'*.e.com'"), n, app)),
		core("v1", "Service", fmt.Sprintf("spec: {selector: {app: %s}, ports: [{name: %s, port: 8%d, targetPort: %s}]}", pick("selected", "x", "y", "z"), pick("name", "http", "tcp", "odd"), n, pick("target", "80", "web"))),
		core("v1", "Pod", fmt.Sprintf("spec: {containers: [{name: c, image: i, ports: [{name: %s, containerPort: 80}]}]}\nstatus: {podIP: 10.1.0.%d, phase: Running, conditions: [{type: Ready, status: '%s'}]}", pick("named", "web", "other"), n, pick("ready", "True", "False"))),
		core("apps/v1", "Deployment", fmt.Sprintf("spec: {selector: {matchLabels: {app: %s}}, template: {metadata: {labels: {app: %s, version: v%d}}, spec: {serviceAccountName: %s, containers: [{name: c, image: i, env: [{name: A, valueFrom: {%s: {name: %s, key: k%d}}}], ports: [{name: web, containerPort: 8%d}]}]}}}",
			app, app, n, app, pick("from", "secretKeyRef", "configMapKeyRef"), app, n, n)),
		core("v1", "ServiceAccount", ""),
		core("v1", "ConfigMap", fmt.Sprintf("data: {k%d: v}", n)),
		core("v1", "Secret", fmt.Sprintf("stringData: {k%d: v, tls.crt: c, tls.key: k}", n)),
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: out, labels: {mesh: '"+pick("discovered", "yes", "no")+"'}}\n",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: "+ns+", labels: {"+pick("injection", "", "istio-injection: enabled", "istio-injection: enabled, istio.io/rev: a", "istio.io/rev: a", "istio-injection: disabled")+"}}\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: \"discoverySelectors: [{matchExpressions: [{key: mesh, operator: NotIn, values: ['no']}]}]\"}\n",
	)
	return strings.Repeat("# moves what follows\n", rapid.IntRange(0, 1).Draw(t, "comment")) + doc
}

// What is found across objects step by step is what one look at all of them finds, and judging
// an object that is not stored finds what storing it would.
func TestFindingsDoNotDependOnHistory(t *testing.T) {
	codes := map[config.Code]int{}
	rapid.Check(t, func(t *rapid.T) {
		running, err := store.New(store.Options{Settings: settings()})
		if err != nil {
			t.Fatal(err)
		}
		now := map[string]config.Unit{}
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			var docs []string
			for range rapid.IntRange(0, 10).Draw(t, "documents") {
				docs = append(docs, related(t))
			}
			x := unit(rapid.SampledFrom([]string{"a.yaml", "b.yaml", "c.yaml", "d.yaml", "e.yaml", "f.yaml"}).Draw(t, "file"), strings.Join(docs, "---\n"))
			now[x.Name] = x
			running.Step(x)
			found := running.Analyze()
			fresh, err := store.New(store.Options{Settings: settings()})
			if err != nil {
				t.Fatal(err)
			}
			var units []config.Unit
			for _, x := range now {
				units = append(units, x)
			}
			fresh.Step(units...)
			want := fresh.Analyze()
			if plan(found.Snapshot) != plan(want.Snapshot) {
				t.Skip("an object with mistakes has a history")
			}
			if diff := cmp.Diff(findings(want.Findings), findings(found.Findings)); diff != "" {
				t.Fatalf("(-at once +step by step):\n%s", diff)
			}
			for _, f := range found.Findings {
				codes[f.Code]++
			}
		}
	})
	t.Log(codes)
	if len(codes) < 8 {
		t.Errorf("%d kinds of findings: the test does not reach most of them", len(codes))
	}
}

// What was found about a name that comes, goes and comes back is not found once more by
// what remembers the first time.
func TestFindingsOfANameThatComesBack(t *testing.T) {
	gateway := func(host string) config.Unit {
		return unit("gateway.yaml", "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: default}\nspec: {selector: {app: x}, servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: ['"+host+"']}]}\n")
	}
	route := func(name string, day int) config.Unit {
		return unit(name+".yaml", fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s, namespace: default, creationTimestamp: '2026-01-0%dT00:00:00Z'}\nspec: {hosts: [x.com], gateways: [g], http: [{match: [{uri: {prefix: /}}], redirect: {uri: /there}}]}\n", name, day))
	}
	gone := func(name string) config.Unit { return config.Unit{Name: name + ".yaml", Gone: true} }
	s, err := store.New(store.Options{Settings: settings()})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		unit   config.Unit
		hidden int
	}{
		{gateway("*"), 0},
		{route("old", 1), 0}, {gone("old"), 0},
		{route("old", 1), 0}, {route("young", 2), 1},
		{gateway("x.com"), 1}, // whoever looked at the gateway looks again
		{gone("old"), 0},
	} {
		s.Step(step.unit)
		n := 0
		for _, f := range s.Analyze().Findings {
			if f.Code == config.UnreachableRule {
				n++
			}
		}
		if n != step.hidden {
			t.Errorf("after %s: %d hidden rules, want %d", step.unit.Name, n, step.hidden)
		}
	}
}
