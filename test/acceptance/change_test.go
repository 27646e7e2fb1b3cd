//go:build linux

package acceptance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/local/demo"
)

// load sends requests at a fixed rate whatever becomes of them, as users do.
type load struct {
	mu       sync.Mutex
	sent     int
	failures []string // the first ones
	failed   int
	took     []time.Duration
}

var answered5xx = regexp.MustCompile(`HTTP/[0-9.]+" (5|0)`)

// maxFailures is how many are told in detail.
const maxFailures = 40

// run sends until ctx ends, and waits for the last answer.
func (l *load) run(ctx context.Context, m *mesh, perSecond int) {
	var out sync.WaitGroup
	defer out.Wait()
	began := time.Now()
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A ticker that was late is caught up with.
		for due := int(time.Since(began).Seconds() * float64(perSecond)); n < due; n++ {
			out.Go(func() { l.request(m, began) })
		}
	}
}

func (l *load) request(m *mesh, began time.Time) {
	at := time.Now()
	p, err := m.view("")
	if err == nil {
		err = p.whole()
	}
	took := time.Since(at)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.took = append(l.took, took)
	if err != nil {
		if l.failed++; l.failed <= maxFailures {
			l.failures = append(l.failures, fmt.Sprintf("at %v, after %v, from %s: %v", at.Sub(began).Round(time.Millisecond), took.Round(time.Millisecond), p.version, err))
		}
	}
}

// report fails the test for every request that failed.
func (l *load) report(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d requests, %d failed; latency %s", l.sent, l.failed, quantiles(l.took))
	for _, f := range l.failures {
		t.Error(f)
	}
	if n := l.failed - len(l.failures); n > 0 {
		t.Errorf("and %d more", n)
	}
}

// quantiles says how long things took.
func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "nothing measured"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration {
		return d[min(len(d)-1, int(math.Ceil(q*float64(len(d))))-1)].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v, max %v", at(0.5), at(0.99), at(1))
}

// bookinfo is the demo's configuration with replicas.
func bookinfo(t *testing.T, replicas int) string {
	t.Helper()
	b, ok := demo.YAML("bookinfo")
	if !ok {
		t.Fatal("there is no demo bookinfo")
	}
	return strings.ReplaceAll(string(b), "replicas: 1", fmt.Sprintf("replicas: %d", replicas))
}

// A change is a configuration with which every page is whole, and the object to look at.
type change struct {
	n            int
	kind, name   string
	text         string
	byFile       bool
	applySeconds float64 // as weir apply says
}

// makeChange is change n: by file and by `weir apply` in turns.
func makeChange(n int) *change {
	c := &change{n: n, byFile: n%2 == 0}
	switch n % 4 {
	case 0: // reviews by weight
		c.kind, c.name = "VirtualService", "reviews"
		c.text = fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, annotations: {change: "%d"}}
spec:
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: v1}, weight: %d}
    - {destination: {host: reviews, subset: v3}, weight: %d}
`, n, n%101, 100-n%101)
	case 1: // how ratings and details are called
		c.kind, c.name = "VirtualService", "details"
		c.text = fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings}
spec:
  host: ratings
  trafficPolicy:
    loadBalancer: {simple: %s}
    connectionPool: {http: {maxRequestsPerConnection: %d}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details, annotations: {change: "%d"}}
spec:
  hosts: [details]
  http:
  - route: [{destination: {host: details}}]
    timeout: %ds
`, []string{"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"}[n%3], 100+n, n, 5+n%5)
	case 2: // a version for testers, retries
		c.kind, c.name = "VirtualService", "reviews"
		c.text = fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, annotations: {change: "%d"}}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: tester-%d}}}]
    route: [{destination: {host: reviews, subset: v1}}]
  - route: [{destination: {host: reviews, subset: v2}}]
    timeout: 10s
    retries: {attempts: %d, perTryTimeout: 5s, retryOn: "connect-failure,refused-stream,unavailable,cancelled,503"}
`, n, n, 2+n%3)
	case 3: // encryption is demanded, and again only offered
		c.kind, c.name = "PeerAuthentication", "default"
		c.text = fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, annotations: {change: "%d"}}
spec: {mtls: {mode: %s}}
`, n, []string{"STRICT", "PERMISSIVE"}[n/4%2])
	}
	return c
}

const subsets = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
`

// make makes a change: its error says that the control plane is away.
func (m *mesh) make(c *change) error {
	if c.byFile {
		m.write("reviews.yaml", c.text)
		return nil
	}
	r := m.weir("apply", "-o", "json", "-f", m.file("apply.yaml", c.text))
	var said struct {
		Live struct{ Seconds float64 }
	}
	if r.code != 0 {
		return fmt.Errorf("weir apply: %v", r)
	}
	if err := json.Unmarshal([]byte(r.out), &said); err != nil {
		return err
	}
	c.applySeconds = said.Live.Seconds
	return nil
}

// live is nil when a change is in force on all proxies that need it.
func (m *mesh) live(c *change) error {
	path := "objects/" + c.kind + "/default/" + c.name
	text, err := m.raw(path)
	if err != nil {
		return err
	}
	if !strings.Contains(text, fmt.Sprintf(`change: "%d"`, c.n)) {
		return errors.New("it is not read yet")
	}
	var found []apiv1.Object
	if err := m.get(path, &found); err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d objects", len(found))
	}
	o := found[0]
	if o.State != "compiled" || o.LastGood || o.Active != o.Proxies || o.Active == 0 {
		return fmt.Errorf("it is %s, active on %d of %d proxies (%v)", o.State, o.Active, o.Proxies, o.Findings)
	}
	return nil
}

// At 300 requests a second, no change of configuration, no restart of a workload and no
// end of the control plane costs a single request.
func TestChangesAndRestartsCostNoRequest(t *testing.T) {
	long(t)
	const rate, changes = 300, 200
	m := start(t, options{args: []string{"--log-proxies"}, files: map[string]string{"bookinfo.yaml": bookinfo(t, 2), "subsets.yaml": subsets, "reviews.yaml": makeChange(0).text}})
	m.sees()
	if n := len(m.report.Workloads); n != 13 {
		t.Fatalf("%d workloads, want 2 a Deployment and the gateway", n)
	}
	l := &load{}
	ctx, cancel := context.WithCancel(t.Context())
	var loading sync.WaitGroup
	loading.Go(func() { l.run(ctx, m, rate) })
	defer func() {
		loading.Wait()
		l.report(t)
		if l.failed == 0 {
			return
		}
		// What the proxies say about it.
		n := 0
		for line := range strings.Lines(m.logs.String()) {
			if answered5xx.MatchString(line) && n < maxFailures {
				n++
				t.Log(strings.TrimSpace(line))
			}
		}
	}()
	defer cancel()
	began := time.Now()

	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() { m.restartAll(began) })
	others.Go(func() {
		<-time.After(3 * time.Second) // among the changes
		m.killControl(began)
	})

	var byFile, byApply, said []time.Duration
	slow := 0
	for n := 1; n <= changes; n++ {
		c := makeChange(n)
		at := time.Now()
		err := m.make(c)
		for tick := time.NewTicker(2 * time.Millisecond); time.Since(at) < patience; <-tick.C {
			if err != nil {
				err = m.make(c)
			}
			if err == nil && m.live(c) == nil {
				break
			}
		}
		if err == nil {
			err = m.live(c)
		}
		took := time.Since(at)
		switch {
		case err != nil:
			t.Fatalf("change %d did not become live: %v", n, err)
		case c.byFile:
			byFile = append(byFile, took)
		default:
			byApply = append(byApply, took)
			said = append(said, time.Duration(c.applySeconds*float64(time.Second)))
		}
		if took > 300*time.Millisecond {
			slow++
			t.Logf("change %d took %v, at %v", n, took.Round(time.Millisecond), at.Sub(began).Round(time.Millisecond))
		}
	}
	done := time.Since(began)
	others.Wait()
	t.Logf("%d changes in %v, live on all proxies: by file %s; by weir apply %s, as it says %s; %d took more than 300 ms",
		changes, done.Round(time.Second), quantiles(byFile), quantiles(byApply), quantiles(said), slow)
}

// restartAll ends the application of each workload by SIGTERM, one after the other, and
// waits until it is back.
func (m *mesh) restartAll(began time.Time) {
	before := map[string]int32{}
	for _, w := range m.report.Workloads {
		if strings.HasPrefix(w.Name, "istio-ingressgateway") {
			continue
		}
		n, err := m.restarts(w.Namespace, w.Name)
		if err != nil {
			m.t.Errorf("%s: %v", w.Name, err)
			continue
		}
		before[w.Name] = n
	}
	for _, w := range m.report.Workloads {
		n, ok := before[w.Name]
		if !ok {
			continue
		}
		old, err := m.application(w.Name)
		if err != nil {
			m.t.Error(err)
			continue
		}
		if err := syscall.Kill(old.pid, syscall.SIGTERM); err != nil {
			m.t.Errorf("SIGTERM to %s: %v", w.Name, err)
			continue
		}
		at := time.Now()
		// It is back when all proxies know that it is healthy after a restart. That it was out
		// of service meanwhile is for nobody to see who looks too late.
		for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
			now, err := m.restarts(w.Namespace, w.Name)
			if err == nil && now == n {
				err = errors.New("the control plane knows of no restart")
			}
			if err == nil {
				var known any
				err = m.get("wait?workload="+w.Namespace+"/"+w.Name+"&health=healthy&timeout=5s", &known)
			}
			if err == nil {
				break
			}
			if time.Since(at) > 2*patience {
				now, _ := m.application(w.Name)
				m.t.Errorf("%s did not come back: %v (process %d, was %d)\n%v", w.Name, err, now.pid, old.pid, m.weir("status"))
				break
			}
		}
		m.t.Logf("%s restarted at %v, back after %v", w.Name, at.Sub(began).Round(time.Millisecond), time.Since(at).Round(time.Millisecond))
	}
}

// restarts is how often the program of a workload, which is ready, has been started again,
// as far as the control plane knows.
func (m *mesh) restarts(namespace, name string) (int32, error) {
	text, err := m.raw("objects/Pod/" + namespace + "/" + name)
	if err != nil {
		return 0, err
	}
	var p corev1.Pod
	if err := yaml.Unmarshal([]byte(text), &p); err != nil {
		return 0, err
	}
	s := p.Status.ContainerStatuses
	if len(s) != 1 || !s[0].Ready {
		return 0, fmt.Errorf("the control plane has %+v", s)
	}
	return s[0].RestartCount, nil
}

// killControl kills the control plane and waits until it is back with all proxies.
func (m *mesh) killControl(began time.Time) {
	at := time.Now()
	for _, p := range m.tree() {
		if p.name() == "weir-control" {
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
				m.t.Error(err)
			}
		}
	}
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		var s apiv1.Status
		err := m.get("status", &s)
		if err == nil && s.Started.Before(at) {
			err = errors.New("it has not ended")
		}
		if err == nil && len(s.Proxies) < len(m.report.Workloads) {
			err = fmt.Errorf("only %d proxies are back", len(s.Proxies))
		}
		if err == nil {
			break
		}
		if time.Since(at) > 2*patience {
			m.t.Errorf("the control plane did not come back: %v", err)
			break
		}
	}
	m.t.Logf("control plane killed at %v, back with all proxies after %v", at.Sub(began).Round(time.Millisecond), time.Since(at).Round(time.Millisecond))
}
