package e2e_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/sample/health"
	"github.com/weirmesh/weir/test/mesh"
)

// written is a DestinationRule for echo: in which namespace it is, whom it is shown to, and where in it mTLS is spoken of.
type written struct{ namespace, exportTo, kind, mode string }

// visible reports whether a client's namespace is shown the rule.
func (w written) visible(client string) bool {
	return w.exportTo == "" || w.exportTo == "." && client == w.namespace || w.exportTo == client
}

// says is what the rule makes of the mode on port 8080, and on every other.
func (w written) says() (http, other string) {
	switch w.kind {
	case "port", "port of subset":
		return w.mode, ""
	case "nothing":
		return "", ""
	}
	return w.mode, w.mode
}

func (w written) subset() bool { return strings.HasSuffix(w.kind, "subset") }

func (w written) yaml() string {
	const tls = "tls: {mode: %s}"
	host, policy, subset := "echo.default.svc.cluster.local", "", ""
	switch w.kind {
	case "top level":
		policy = tls
	case "wildcard":
		host, policy = `"*.default.svc.cluster.local"`, tls
	case "port":
		policy = "portLevelSettings: [{port: {number: 8080}, " + tls + "}]"
	case "subset":
		subset = tls
	case "port of subset":
		subset = "portLevelSettings: [{port: {number: 8080}, " + tls + "}]"
	case "nothing":
		policy = "loadBalancer: {simple: RANDOM}"
	}
	in := func(text string) string {
		if text == "" {
			return ""
		}
		return ", trafficPolicy: {" + strings.ReplaceAll(text, "%s", w.mode) + "}"
	}
	export := ""
	if w.exportTo != "" {
		export = fmt.Sprintf(", exportTo: [%q]", w.exportTo)
	}
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo, namespace: %s}\n"+
		"spec: {host: %s%s%s, subsets: [{name: v1, labels: {version: v1}%s}]}\n", w.namespace, host, export, in(policy), in(subset))
}

// Namespaces of clients, of the service, of the mesh, and one that has to do with neither.
const (
	calling, edge, serving, root, elsewhere = "calling", "edge", "default", "istio-system", "elsewhere"
)

// writtenRules are sets of rules: one, in every place and kind, and those of several namespaces that say the opposite.
func writtenRules() [][]written {
	out := [][]written{nil}
	kinds := []string{"top level", "wildcard", "port", "subset", "port of subset"}
	modes := []string{"DISABLE", "ISTIO_MUTUAL"}
	for _, kind := range kinds {
		for _, mode := range modes {
			for _, namespace := range []string{calling, edge, serving, root, elsewhere} {
				for _, exportTo := range []string{"", ".", calling} {
					if exportTo != namespace {
						out = append(out, []written{{namespace, exportTo, kind, mode}})
					}
				}
			}
			opposite := modes[1-slices.Index(modes, mode)]
			for i, second := range append(kinds, "nothing") {
				out = append(out,
					[]written{{calling, "", second, opposite}, {serving, "", kind, mode}},
					[]written{{serving, "", second, opposite}, {root, "", kind, mode}},
					[]written{{edge, ".", kind, mode}, {calling, edge, second, opposite}, {serving, ".", kind, mode}, {root, "", kinds[(i+1)%len(kinds)], opposite}})
			}
		}
	}
	return out
}

// inForce is the rule a client goes by: of its own namespace, else the service's, else the mesh's, of those that it is shown.
func inForce(rules []written, client string) written {
	for _, namespace := range []string{client, serving, root} {
		for _, r := range rules {
			if r.namespace == namespace && r.visible(client) {
				return r
			}
		}
	}
	return written{kind: "nothing"}
}

// asked are PeerAuthentications of the mesh, of the namespace, of the workload and of its port 8080; "" is none.
type asked struct{ mesh, namespace, workload, port string }

func (a asked) http() string {
	return cmp.Or(a.port, strings.TrimPrefix(a.workload, "UNSET"), strings.TrimPrefix(a.namespace, "UNSET"), a.mesh, "PERMISSIVE")
}
func (a asked) other() string { a.port = ""; return a.http() }

func (a asked) yaml() string {
	one := func(name, namespace, spec string) string {
		return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: %s, namespace: %s}\nspec: {%s}\n", name, namespace, spec)
	}
	var out []string
	if a.mesh != "" {
		out = append(out, one("mesh", root, "mtls: {mode: "+a.mesh+"}"))
	}
	if a.namespace != "" {
		out = append(out, one("namespace", serving, "mtls: {mode: "+a.namespace+"}"))
	}
	if spec := "selector: {matchLabels: {app: echo}}"; a.workload+a.port != "" {
		if a.workload != "" {
			spec += ", mtls: {mode: " + a.workload + "}"
		}
		if a.port != "" {
			spec += ", portLevelMtls: {8080: {mode: " + a.port + "}}"
		}
		out = append(out, one("workload", serving, spec))
	}
	return documents(out...)
}

func askedModes() []asked {
	out := []asked{{}, {mesh: "STRICT", namespace: "UNSET"}, {mesh: "DISABLE", namespace: "UNSET", workload: "UNSET"}}
	modes := []string{"PERMISSIVE", "STRICT", "DISABLE"}
	for _, x := range modes {
		out = append(out, asked{mesh: x}, asked{namespace: x}, asked{workload: x}, asked{port: x})
		for _, y := range modes {
			if x != y {
				out = append(out, asked{mesh: x, namespace: y}, asked{mesh: x, workload: y}, asked{namespace: x, workload: y}, asked{mesh: x, port: y}, asked{namespace: x, port: y})
			}
		}
	}
	return out
}

// A rule may stand in the client's namespace, the service's or the mesh's, be shown to some only, and speak of a port or a subset or a port of a subset;
// what a server takes may stand in the mesh, its namespace, itself or one of its ports. Whatever of it is said where, for HTTP/1.1, HTTP/2,
// gRPC and TCP, by a sidecar and by a gateway: a connection is TLS at both ends or at none, and who was overruled finds it said. What the rule is that a client
// goes by, and the mode of a port, is worked out here again, by a line each.
//
// Of 14,445 combinations few are tried; all of them if WEIR_MATRIX is set (make matrix).
func TestNoPlaceOfRulesContradictsItself(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("services.yaml", documents(`
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec: {selector: {app: echo}, ports: [{name: http, port: 8080}, {name: http2, port: 8081}, {name: grpc, port: 8082}, {name: tcp, port: 9000}]}
`, `
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: edge}
spec: {selector: {app: edge}, ports: [{name: http2, port: 8080}, {name: tcp, port: 9000}]}
`, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: edge}
spec: {selector: {app: edge}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}, {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}]}
`))
	client, gateway := caller("client"), caller("edge")
	client.Namespace, gateway.Namespace, gateway.Gateway = calling, edge, true
	server := echoPod("echo-0", "v1")
	server.Ports, server.Program = []mesh.Port{{Name: "http", Number: 8080}, {Name: "http2", Number: 8081}, {Name: "grpc", Number: 8082}, {Name: "tcp", Number: 9000}}, nil
	w := m.Workloads(client, gateway, server)
	serveIdentities(t, w[2])
	ends := []*end{
		newEnd(t, w[0], "http://echo.default:8080", dialer(w[0], "echo.default:8080"), dialer(w[0], "echo.default:9000")),
		newEnd(t, w[1], "http://echo.example", outsider(w[1], 8080), outsider(w[1], 9000)),
	}

	rules, modes := writtenRules(), askedModes()
	every, whole := 6, os.Getenv("WEIR_MATRIX") != ""
	if testing.Short() {
		every = 30
	}
	tried, all := 0, 0
	for i, set := range rules {
		for j, a := range modes {
			if all++; !whole && (j != i%len(modes) || i%every != 0) {
				continue
			}
			tried++
			texts := []string{a.yaml()}
			for _, r := range set {
				texts = append(texts, r.yaml())
			}
			texts = append(texts, routesFor("mesh", "mesh", inForce(set, calling)), routesFor("gateway", "edge/edge", inForce(set, edge)))
			m.Config("all.yaml", documents(texts...))
			for _, e := range ends {
				e.agrees(t, m, inForce(set, e.w.Namespace), a, fmt.Sprintf("client in %s, rules %+v, servers %+v", e.w.Namespace, set, a))
			}
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d of %d combinations", tried, all)
}

// routesFor sends calls by path to ports of echo, and to the subset that a rule speaks of.
func routesFor(name, gateway string, r written) string {
	to := func(port int) string {
		if r.subset() {
			return fmt.Sprintf("route: [{destination: {host: echo.default.svc.cluster.local, subset: v1, port: {number: %d}}}]", port)
		}
		return fmt.Sprintf("route: [{destination: {host: echo.default.svc.cluster.local, port: {number: %d}}}]", port)
	}
	host := "echo.example"
	if gateway == "mesh" {
		host = "echo.default.svc.cluster.local"
	}
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s, namespace: default}\nspec: {hosts: [%s], gateways: [%s], "+
		"http: [{match: [{uri: {prefix: /two}}], %s}, {match: [{uri: {prefix: /grpc.health}}], %s}, {%s}], tcp: [{match: [{port: 9000}], %s}]}\n",
		name, host, gateway, to(8081), to(8082), to(8080), to(9000))
}

// serveIdentities is a program whose answers say who its proxy says has called.
func serveIdentities(t *testing.T, w *mesh.Workload) {
	t.Helper()
	of := func(r *http.Request) string {
		_, uri, _ := strings.Cut(r.Header.Get("X-Forwarded-Client-Cert"), ";URI=")
		return cmp.Or(uri, "nobody")
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == health.Path {
			health.Handler(of(r)).ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, "%s %s", r.Proto, of(r))
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	for _, port := range []uint16{8080, 8081, 8082} {
		l, err := net.Listen("tcp", w.App(port).String())
		must(t, err)
		go func() { _ = s.Serve(l) }() // ends with Close
	}
	t.Cleanup(func() { s.Close() })
	l, err := net.Listen("tcp", w.App(9000).String())
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, _ := bufio.NewReader(c).ReadString('\n')
				_, _ = io.WriteString(c, line)
			}()
		}
	}()
}

// outsider dials a gateway as somebody outside the mesh.
func outsider(w *mesh.Workload, port uint16) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(w.IP(), port).String())
	}
}

// end is a proxy that calls echo, and who has it do that.
type end struct {
	w        *mesh.Workload
	url      string
	one, two *http.Client
	tcp      func(context.Context) (net.Conn, error)
}

func newEnd(t *testing.T, w *mesh.Workload, url string, dial, tcp func(context.Context) (net.Conn, error)) *end {
	e := &end{w: w, url: url, tcp: tcp}
	for i, c := range []**http.Client{&e.one, &e.two} {
		tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
		tr.Protocols.SetHTTP1(i == 0)
		tr.Protocols.SetUnencryptedHTTP2(i == 1)
		t.Cleanup(tr.CloseIdleConnections)
		*c = &http.Client{Transport: tr, Timeout: 20 * time.Second}
	}
	return e
}

// agrees calls echo in every protocol, by a rule, while its ports take what is asked.
func (e *end) agrees(t *testing.T, m *mesh.Mesh, r written, a asked, at string) {
	t.Helper()
	first, other := r.says()
	// Encrypted unless the server takes no mTLS and nobody asks the client for it, or it takes plaintext and the client is asked for that.
	want := func(client, server string) string {
		if server == "DISABLE" && client != "ISTIO_MUTUAL" || client == "DISABLE" && server != "STRICT" {
			return "nobody"
		}
		return e.w.ID()
	}
	check := func(what, got string, err error, want string) {
		if err != nil || got != want {
			t.Errorf("%s: %s is answered %q, %v, want %q", at, what, got, err, want)
		}
	}
	get := func(c *http.Client, path string) (string, error) {
		r := mesh.Do(c, "GET", e.url+path, nil)
		return string(r.Body), r.Err
	}
	got, err := get(e.one, "/")
	check("HTTP/1.1", got, err, "HTTP/1.1 "+want(first, a.http()))
	got, err = get(e.two, "/two")
	check("HTTP/2", got, err, "HTTP/2.0 "+want(other, a.other()))
	by, err := health.Ask(t.Context(), e.two, strings.TrimPrefix(e.url, "http://"))
	check("gRPC", by, err, want(other, a.other()))

	// A port that takes no mTLS and is not HTTP looks for none, because its application may speak first: nothing is sent there.
	line, err := exchangeWith(e.tcp, "hi\n")
	if refused := other == "ISTIO_MUTUAL" && a.other() == "DISABLE"; refused == (line == "hi\n") {
		t.Errorf("%s: TCP is answered %q, %v", at, line, err)
	}

	// Whoever is overruled is told.
	for _, pair := range [][2]string{{first, a.http()}, {other, a.other()}} {
		says := map[[2]string]string{{"DISABLE", "STRICT"}: "accepts only mesh mTLS (STRICT)", {"ISTIO_MUTUAL", "DISABLE"}: "accepts no mesh mTLS (DISABLE)"}[pair]
		if says != "" && !slices.ContainsFunc(m.Findings(), func(f apiv1.Finding) bool { return f.Namespace == r.namespace && strings.Contains(f.Message, says) }) {
			t.Errorf("%s: no finding says that echo %s: %+v", at, says, m.Findings())
		}
	}
}
