package soak_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

const mixedService = `
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  selector: {app: app}
  ports:
  - {name: http, port: 8080}
  - {name: grpc, port: 8081}
  - {name: tcp-echo, port: 9000}
  - {name: tls, port: 9443}
`

// variants of the configuration, none of which may be noticed by traffic that behaves. The idle timeout makes pools empty
// soon after the traffic, so that what is left can be counted.
var variants = []string{
	rules(`{}`),
	rules(`{loadBalancer: {simple: ROUND_ROBIN}}`) + `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - match: [{port: 8080, uri: {prefix: /large}}]
    route: [{destination: {host: app, port: {number: 8080}}, headers: {response: {set: {x-large: "yes"}}}}]
  - match: [{port: 8081}]
    route: [{destination: {host: app, port: {number: 8081}}}]
    timeout: 120s
  - route: [{destination: {host: app, port: {number: 8080}}}]
    timeout: 120s
    retries: {attempts: 3, retryOn: connect-failure}
`,
	rules(`{outlierDetection: {consecutive5xxErrors: 1000}}`) + `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - match: [{port: 8081}]
    route: [{destination: {host: app, subset: one, port: {number: 8081}}}]
  - route: [{destination: {host: app, subset: one, port: {number: 8080}}, weight: 30}, {destination: {host: app, port: {number: 8080}}, weight: 70}]
`,
	rules(`{}`) + `
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
`,
	rules(`{}`) + `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 127.0.0.9}]
`,
	// Policies that everybody who behaves meets, and the log in another format each time.
	rules(`{}`) + logged("TEXT", `"%START_TIME% %REQ(:PATH)% %RESPONSE_CODE%\n"`) + policy("callers", `
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]
  - to: [{operation: {ports: ["9443"]}}]
`),
	rules(`{}`) + logged("JSON", `'{"path": "%REQ(:PATH)%", "flags": "%RESPONSE_FLAGS%", "id": "%REQ(X-REQUEST-ID)%"}'`) + policy("nobody", `
  action: DENY
  rules:
  - to: [{operation: {ports: ["8080", "8081"], paths: [/admin, /admin/*]}}] # without ports it would deny what is no HTTP
  - from: [{source: {namespaces: [elsewhere]}}]
`) + policy("tried", `
  action: DENY
  rules: [{to: [{operation: {methods: [GET, POST]}}]}]
`, "istio.io/dry-run: 'true'"),
	rules(`{}`) + logged("TEXT", `"%BYTES_SENT% %DURATION% %UPSTREAM_HOST%\n"`) + policy("audited", `
  action: AUDIT
  rules: [{}]
`) + policy("callers", `
  rules:
  - from: [{source: {namespaces: [default]}}]
  - from: [{source: {notNamespaces: [elsewhere]}}]
    to: [{operation: {ports: ["9000", "9443"]}}]
`),
}

// policy is an AuthorizationPolicy of the application.
func policy(name, spec string, annotations ...string) string {
	return fmt.Sprintf(`
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s, annotations: {%s}}
spec:
  selector: {matchLabels: {app: app}}%s`, name, strings.Join(annotations, ", "), spec)
}

// logged is a mesh whose proxies log.
func logged(encoding, format string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: %s
    accessLogFormat: %s
`, encoding, format)
}

// rules is a DestinationRule with some trafficPolicy.
func rules(policy string) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: app}
spec:
  host: app
  trafficPolicy: {connectionPool: {http: {idleTimeout: 1s}}, %s
  subsets: [{name: one, labels: {app: app}}]
`, policy[1:])
}

// mixedGrowth is how much private memory may grow under load once everything has happened some hundred times: a burst of
// requests, of which a busy machine makes many, leaves up to 16 MB of buffers with each of two loops for ten seconds
// (loop.Pool). heapGrowth is how much what is alive may grow from rest to rest: each loop keeps 2.3 MB of buffers and 1 MB of
// exchanges for good once it has had them.
const mixedGrowth, heapGrowth = 2 * 16 << 20, 2 * 3 << 20

// TestMixedTraffic lets HTTP/1.1, HTTP/2, streams like gRPC's, WebSockets, TCP and the application's own TLS, slow readers
// and writers, requests too large and peers that abort on either side pass sidecars with mTLS between them, while their
// configuration changes: routes, mutual TLS, policies and the log's format. What behaves is answered, always and with the right bytes; memory stays flat, and what is
// alive, descriptors and goroutines are afterwards what they were after the first of it.
func TestMixedTraffic(t *testing.T) {
	t.Parallel()
	long, soak := length(t)
	m := mesh.New(t, nil)
	m.Config("app.yaml", mixedService)
	m.Config("rules.yaml", variants[0])
	binary := build(t, m.Dir)
	var here, more, there process
	all := m.Workloads(
		mesh.Spec{Name: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}, Binary: binary, Command: here.adopt},
		mesh.Spec{Name: "other", ServiceAccount: "client", Labels: map[string]string{"app": "client"}, Binary: binary, Command: more.adopt},
		mesh.Spec{Name: "app", ServiceAccount: "app", Labels: map[string]string{"app": "app"}, Binary: binary, Command: there.adopt,
			Ports: []mesh.Port{{Name: "http", Number: 8080}, {Name: "grpc", Number: 8081}, {Name: "tcp-echo", Number: 9000}, {Name: "tls", Number: 9443}}})
	s := newServer(t, all[2])
	x := newTraffic(all[0], s.roots)
	sides := []*side{{Workload: all[0], process: &here}, {Workload: all[1], process: &more}, {Workload: all[2], process: &there}}
	callers := all[:2]

	m.Eventually("the application is reached", func() error { return x.small(t.Context()) })
	for _, v := range slices.Backward(variants) {
		m.Config("rules.yaml", v)
		for _, f := range m.Findings() {
			if f.Severity == "error" {
				t.Fatal(f)
			}
		}
	}
	warm := long / 8
	size := crowdSize(t, len(callers))
	first := run(m, x, s, callers, size, warm, func() error { return nil })
	rest(m, x, s)
	patience := 2 * time.Second
	if soak {
		patience = 12 * time.Second // twice as long as pools keep what nobody needs
	}
	before := atRest(m, sides, patience)
	begin := time.Now()
	second := run(m, x, s, callers, size, long-warm, func() error {
		for _, p := range sides {
			done := time.Since(begin).Seconds() / (long - warm).Seconds()
			// In a short time nothing is settled.
			if err := p.curve.add(p.memory(t), done, mixedGrowth); err != nil && soak {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
		}
		return nil
	})
	rest(m, x, s)
	after := atRest(m, sides, patience)
	for i, p := range sides {
		if was, is := before[i], after[i]; is.descriptors > was.descriptors || is.goroutines > was.goroutines || soak && is.heap > was.heap+heapGrowth {
			t.Errorf("the proxy of %s has %v, it had %v", p.Name, is, was)
		}
		t.Logf("proxy of %s: %v; %v", p.Name, &p.curve, after[i])
		p.StopProxy()
		if p.log.Len() > 0 {
			t.Errorf("the proxy of %s said\n%s", p.Name, p.log.String())
		}
	}
	for _, k := range slices.Sorted(maps.Keys(second.done)) {
		t.Logf("%8d × %s", first.done[k]+second.done[k], k)
	}
	t.Logf("%d changes of configuration, %d failures", first.changes+second.changes, first.failed+second.failed)
}

// side is one of the sidecars.
type side struct {
	*mesh.Workload
	*process
	curve curve
}

// use is what a proxy has in use.
type use struct{ goroutines, descriptors, heap int }

func (u use) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MB alive at rest", u.goroutines, u.descriptors, mb(u.heap))
}

// atRest is the least of some time, in which pools lose what they have kept.
func atRest(m *mesh.Mesh, sides []*side, patience time.Duration) []use {
	m.T.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	least := make([]use, len(sides))
	for begin := time.Now(); ; <-tick.C {
		for i, p := range sides {
			now := use{
				goroutines:  p.number(m, "/debug/pprof/goroutine?debug=1", "goroutine profile: total "),
				descriptors: len(p.descriptors(m.T.(*testing.T))),
				heap:        p.number(m, "/debug/pprof/heap?debug=1&gc=1", "# HeapAlloc = "),
			}
			if u := &least[i]; *u == (use{}) {
				*u = now
			} else {
				*u = use{min(u.goroutines, now.goroutines), min(u.descriptors, now.descriptors), min(u.heap, now.heap)}
			}
		}
		if time.Since(begin) > patience {
			return least
		}
	}
}

// number is what follows a text in what the proxy says of itself.
func (p *side) number(m *mesh.Mesh, path, text string) (n int) {
	m.T.Helper()
	r := p.Admin(http.MethodGet, path)
	_, rest, _ := strings.Cut(string(r.Body), text)
	if _, err := fmt.Sscanf(rest, "%d", &n); err != nil {
		m.T.Fatalf("the proxy of %s does not say %q at %s: %v", p.Name, text, path, r.Err)
	}
	return n
}

// rest waits until no connection is left.
func rest(m *mesh.Mesh, x *traffic, s *server) {
	m.T.Helper()
	x.end()
	m.Eventually("all connections are closed", func() error {
		s.closeIdle()
		if n := s.open(); n > 0 {
			return fmt.Errorf("%d connections to the application are open", n)
		}
		return nil
	})
}

// tally is what has happened.
type tally struct {
	mu              sync.Mutex
	done            map[string]int
	failed, changes int
}

// tell counts something that was done.
func (y *tally) tell(t testing.TB, name string, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.done[name]++
	if err != nil {
		if y.failed++; y.failed <= 10 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// run opens a crowd of connections for each caller, makes traffic of every kind for some time, looks several times a second, and changes the
// configuration every second.
func run(m *mesh.Mesh, x *traffic, s *server, callers []*mesh.Workload, size int, long time.Duration, look func() error) *tally {
	m.T.Helper()
	ctx, cancel := context.WithCancel(m.T.Context())
	defer cancel()
	y := &tally{done: map[string]int{}}
	var wg sync.WaitGroup
	var opened sync.WaitGroup
	for _, w := range callers {
		opened.Add(1)
		arrived := sync.OnceFunc(opened.Done)
		wg.Go(func() {
			defer arrived()
			if err := gather(ctx, w, s, size, arrived, func(k crowdKind, err error) { y.tell(m.T, k.String(), err) }); err != nil {
				m.T.Errorf("the crowd of %s: %v", w.Name, err)
			}
		})
	}
	opened.Wait()
	defer time.AfterFunc(long, cancel).Stop()
	for name, do := range x.kinds() {
		for range 2 {
			wg.Go(func() {
				tick := time.NewTicker(pace)
				defer tick.Stop()
				for ; ctx.Err() == nil; <-tick.C {
					// What has begun ends as it would: only its own troubles count.
					own, done := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
					err := do(own)
					done()
					y.tell(m.T, name, err)
				}
			})
		}
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		if n%5 == 0 {
			y.changes++
			m.Write("rules.yaml", variants[y.changes%len(variants)]+fmt.Sprintf("\n# change %d\n", y.changes))
			m.AwaitActive("rules.yaml")
		}
		if err := look(); err != nil {
			m.T.Error(err)
			cancel()
		}
		<-tick.C
	}
	wg.Wait()
	m.Config("rules.yaml", variants[0])
	return y
}
