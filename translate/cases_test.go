package translate_test

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/simulate"
)

var update = flag.Bool("update", false, "rewrite the expected sections: only commit the changes if you understand what caused them and if they are desired")

// Each case is a sentence of intention, a mesh as YAML, a node, and what the node gets:
// "want: PROJECTION [FILTER]" shows the part the case is about (see project), "want:
// calls" where the lines of "calls" land, "want: refused" what our own proxy does not take.
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
			if strings.TrimSpace(string(ar.Comment)) == "" {
				t.Fatal("the case does not say what the user intends")
			}
			if runCase(t, ar) {
				if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// runCase reports whether it changed what ar expects.
func runCase(t *testing.T, ar *txtar.Archive) (changed bool) {
	settings := meshSettings()
	faulty := false
	var units []config.Unit
	node, calls := sidecar("default", "client-0", nil), ""
	for _, f := range ar.Files {
		switch {
		case strings.HasSuffix(f.Name, ".yaml"):
			units = append(units, unit(t, f.Name, f.Data))
		case f.Name == "include":
			units = append(units, included(t, string(f.Data))...)
		case f.Name == "settings":
			for word := range strings.FieldsSeq(string(f.Data)) {
				switch word {
				case "registryOnly":
					settings.RegistryOnly = true
				case "accessLog":
					settings.AccessLog = true
				case "faulty": // the objects have errors, and that is what the case is about
					faulty = true
				default:
					t.Fatalf("settings: %q", word)
				}
			}
		case f.Name == "node":
			node = parseNode(t, string(f.Data))
		case f.Name == "calls":
			calls = string(f.Data)
		}
	}
	snap := step(t, settings, units, !faulty)
	cache := translate.New()
	view := cache.View(snap, node)
	accepted(t, cache, snap, node)
	refused := ""
	if !node.Proxyless { // whose language our proxy does not speak
		refused = refusals(view)
	}
	if r := section(ar, "want: refused"); r == nil && refused != "" {
		t.Errorf("our proxy refuses\n%s", refused)
	}
	for i := range ar.Files {
		f := &ar.Files[i]
		want, ok := strings.CutPrefix(f.Name, "want: ")
		if !ok {
			continue
		}
		kind, filter, _ := strings.Cut(want, " ")
		var got string
		switch kind {
		case "calls":
			got = callAll(t, &simulator{t, cache, snap}, node, calls)
		case "refused":
			got = refused
		case "problems":
			for _, p := range cache.Problems() {
				got += fmt.Sprintf("%s %s/%s (%s:%d): %s\n", p.Ref.Kind, p.Ref.Namespace, p.Ref.Name, p.Ref.File, max(p.Line, p.Ref.Line), p.Text)
			}
		default:
			got = project(t, view, kind, filter)
		}
		switch {
		case got == string(f.Data):
		case *update:
			f.Data, changed = []byte(got), true
		default:
			t.Errorf("%s: got\n%s\nwant\n%s", f.Name, got, f.Data)
		}
	}
	return changed
}

// nobody is a proxy's identity before its first certificate.
type nobody struct{}

func (nobody) Certificate() *tls.Certificate { return nil }
func (nobody) Bundle() *identity.Bundle      { return nil }

// refusals hands a View to our own proxy and says what it refuses, which is what must
// not be sent; "want: refused" names what this version of the proxy lacks.
func refusals(v *resource.View) string {
	b := state.NewBuilder(state.Options{Identity: nobody{}})
	var out strings.Builder
	for _, typ := range []string{resource.SecretType, resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.VirtualHostType, resource.RouteType, resource.NameTableType} {
		u := state.Update{TypeURL: typ}
		for name, r := range v.Set(typ).All() {
			u.Set = append(u.Set, state.Resource{Name: name, Version: r.Version(), Body: r.Any()})
		}
		if _, _, err := b.Apply(u); err != nil {
			fmt.Fprintf(&out, "%s: %v\n", resource.Short(typ), err)
		}
	}
	return out.String()
}

func section(ar *txtar.Archive, name string) []byte {
	for _, f := range ar.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func meshSettings() mesh.Settings {
	return mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system",
		DefaultRetries: mesh.RetryPolicy{Attempts: 2, IgnorePreviousHosts: true}}
}

func unit(t testing.TB, name string, data []byte) config.Unit {
	u := file.Parse(name, data, "default")
	for _, f := range u.Findings {
		if f.Severity == config.Error {
			t.Fatal(f)
		}
	}
	return u
}

// included reads files of testdata/include: meshes that several cases share.
func included(t testing.TB, names string) []config.Unit {
	var out []config.Unit
	for name := range strings.FieldsSeq(names) {
		data, err := os.ReadFile(filepath.Join("testdata", "include", name))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, unit(t, name, data))
	}
	return out
}

func snapshot(t testing.TB, settings mesh.Settings, units []config.Unit) *mesh.Snapshot {
	t.Helper()
	return step(t, settings, units, true)
}

func step(t testing.TB, settings mesh.Settings, units []config.Unit, faultless bool) *mesh.Snapshot {
	t.Helper()
	s, err := store.New(store.Options{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	u := s.Step(units...)
	for _, f := range u.Findings {
		if faultless && f.Severity == config.Error {
			t.Error(f)
		}
	}
	return u.Snapshot
}

// parseNode reads "sidecar|router NAME.NAMESPACE [key=value]…"; keys net, capture, proxy-protocol, topology,
// unprivileged, own-dns, outbound=SERVICE:PORT>BIND, inbound=BIND>PORT>APP and label keys.
func parseNode(t testing.TB, s string) *translate.Node {
	words := strings.Fields(s)
	if len(words) < 2 {
		t.Fatalf("node %q", s)
	}
	name, ns, _ := strings.Cut(words[1], ".")
	n := &translate.Node{Type: translate.NodeType(words[0]), Name: name, Namespace: ns, Labels: mesh.Labels{}, Interception: translate.Redirect, DNS: true}
	for _, w := range words[2:] {
		k, v, _ := strings.Cut(w, "=")
		switch k {
		case "net":
			net, err := strconv.ParseUint(v, 10, 8)
			if err != nil {
				t.Fatal(err)
			}
			n.VirtualNet, n.Interception = uint8(net), translate.NoInterception
		case "proxy-protocol":
			n.ProxyProtocol = true
		case "topology": // TRUSTED[,CLIENTCERT]
			trusted, cert, _ := strings.Cut(v, ",")
			hops, err := strconv.ParseUint(trusted, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			n.Topology = &mesh.Topology{TrustedProxies: uint32(hops), ClientCert: cert}
		case "capture":
			n.Interception = translate.Interception(v)
		case "outbound":
			service, bind, _ := strings.Cut(v, ">")
			if n.Outbound == nil {
				n.Outbound, n.Interception = map[string]netip.AddrPort{}, translate.NoInterception
			}
			n.Outbound[service] = addrPort(bind)
		case "proxyless":
			n.Proxyless, n.DNS = true, false
		case "address":
			n.Addresses = append(n.Addresses, netip.MustParseAddr(v))
		case "locality":
			parts := append(strings.Split(v, "/"), "", "")
			n.Locality = mesh.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
		case "unprivileged":
			n.Unprivileged = true
		case "own-dns":
			n.DNS = false
		case "inbound":
			f := strings.Split(v, ">")
			port, err := strconv.ParseUint(f[1], 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			n.Inbound = append(n.Inbound, translate.Inbound{Bind: addrPort(f[0]), Port: uint16(port), App: addrPort(f[2])})
		default:
			n.Labels[k] = v
		}
	}
	return n
}

// callAll makes the calls of a case: a line "HOST:PORT[/PATH] [key=value]…" each, keys
// from=NAME.NAMESPACE, host, method, tcp, sni and header:NAME.
func callAll(t testing.TB, s *simulator, node *translate.Node, lines string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		from, c := node, call{}
		c.to = words[0]
		if i := strings.IndexByte(c.to, '/'); i >= 0 {
			c.to, c.path = c.to[:i], c.to[i:]
		}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			switch {
			case k == "from":
				from = parseNode(t, "sidecar "+v)
				if w := s.snap.Workloads.At(mesh.NewKey(from.Namespace, from.Name)); w == nil {
					t.Fatalf("%s: there is no workload %s", line, v)
				}
			case k == "host":
				c.host = v
			case k == "method":
				c.method = v
			case k == "tcp":
				c.tcp = true
			case k == "sni":
				c.sni, c.tcp = v, true
			case strings.HasPrefix(k, "header:"):
				c.headers = append(c.headers, simulate.Header{Name: strings.TrimPrefix(k, "header:"), Value: v})
			default:
				t.Fatalf("%s: what is %q?", line, w)
			}
		}
		fmt.Fprintf(&b, "%s\n    %s\n", line, s.send(from, c))
	}
	return b.String()
}

// Every published networking file of the bookinfo sample, applied to the sample as it is
// deployed, gives what a proxy accepts and leaves nothing set aside.
func TestBookinfoSamples(t *testing.T) {
	root := "../../shared/fixtures/istio-samples/bookinfo"
	if _, err := os.Stat(root); err != nil {
		root = "../" + root // from a linked worktree
	}
	n := 0
	err := filepath.WalkDir(filepath.Join(root, "networking"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return filepath.SkipAll
		}
		if filepath.Ext(path) != ".yaml" {
			return nil
		}
		n++
		t.Run(filepath.Base(path), func(t *testing.T) {
			units, err := file.New(file.Options{Paths: []string{filepath.Join(root, "platform/kube/bookinfo.yaml"), path}}).Read()
			if err != nil {
				t.Fatal(err)
			}
			units = append(units, included(t, "bookinfo-pods.yaml gateway.yaml")...)
			snap := snapshot(t, meshSettings(), units)
			cache := translate.New()
			for _, n := range []*translate.Node{parseNode(t, "sidecar productpage-v1-0.default"), parseNode(t, "sidecar reviews-v2-0.default net=3"),
				parseNode(t, "router istio-ingressgateway-0.istio-system istio=ingressgateway"), parseNode(t, "sidecar reviews-v1-0.default proxyless")} {
				accepted(t, cache, snap, n)
				if r := refusals(cache.View(snap, n)); r != "" && !n.Proxyless {
					t.Errorf("our proxy refuses\n%s", r)
				}
			}
			for _, p := range cache.Problems() {
				if strings.Contains(p.Text, "gRPC clients without proxy") {
					continue // which cannot do what only a proxy can
				}
				t.Errorf("%v: %s", p.Ref, p.Text)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Skip("no samples at " + root)
	}
}
