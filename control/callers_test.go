package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/control/ledger"
)

const carts = `apiVersion: v1
kind: Service
metadata: {name: cart}
spec:
  clusterIP: 10.96.7.1
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: cart-0, labels: {app: cart}, annotations: {sidecar.istio.io/status: "{}"}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: cart, uid: x, controller: true}]}
spec: {serviceAccountName: cart, containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, labels: {app: cart}, annotations: {sidecar.istio.io/status: "{}"}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: cart, uid: x, controller: true}]}
spec: {serviceAccountName: cart, containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: "True"}]}
`

// shelf is what replicas have in common.
type shelf struct {
	mu   sync.Mutex
	text []byte
	err  error
}

func (s *shelf) keep(change func([]byte) ([]byte, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	text, err := change(s.text)
	if err == nil {
		s.text = text
	}
	return err
}

func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// observed is a shelf of a mesh whose callers are known for days.
func observed(t *testing.T, sightings ...ledger.Sighting) *shelf {
	t.Helper()
	b := ledger.Book{Since: time.Now().Add(-72 * time.Hour), Saved: time.Now(), Sightings: sightings}
	text, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{text: text}
}

// inPlaintext is that a workload without an identity called a cart.
func inPlaintext(workload string, n uint64) *observev1.Edge {
	return &observev1.Edge{Side: observev1.Side_SIDE_DESTINATION, Transport: observev1.Transport_TRANSPORT_PLAINTEXT, Protocol: "http", Peer: &observev1.Peer{Namespace: "default", Workload: workload},
		Service: &observev1.Service{Name: "cart", Namespace: "default", Port: 8080}, Outcomes: []*observev1.OutcomeCount{{Outcome: observev1.Outcome_OUTCOME_OK, Count: n}}}
}

// cartPort is the one port there is, as a replica shows it.
func cartPort(t *testing.T, at *replica) (apiv1.MTLSPort, apiv1.MTLS) {
	t.Helper()
	var v apiv1.MTLS
	fetch(t, "http://"+at.http+"/api/v1/mtls?namespace=default&workload=cart", &v)
	if len(v.Ports) != 1 || v.Ports[0].Port != 8080 {
		t.Fatalf("%+v", v)
	}
	return v.Ports[0], v
}

func blocked(t *testing.T, at *replica, want ...string) {
	t.Helper()
	x, _ := cartPort(t, at)
	if !slices.EqualFunc(x.Blockers, want, strings.Contains) || x.Ready != (len(want) == 0) {
		t.Errorf("at %s: ready %v, %q; want %q", at.o.Name, x.Ready, x.Blockers, want)
	}
}

// Who calls in plaintext is known wherever it was reported: whichever replica is asked, after one of them has ended, and to one that
// starts afterwards. What is not known stands against STRICT: proxies that report to nobody, and a replica that does not answer.
func TestCallersOfSeveralReplicas(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "config")
	for _, err := range []error{os.MkdirAll(folder, 0o700), os.WriteFile(filepath.Join(folder, "cart.yaml"), []byte(carts), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	kept := observed(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	replicaAt := func(name string, change func(*Options)) *replica {
		if name != "a" {
			copyAuthority(t, filepath.Join(dir, "a"), filepath.Join(dir, name))
		}
		return startReplica(t, filepath.Join(dir, name), folder, 0, func(o *Options) { o.Callers = kept.keep; change(o) })
	}
	a := replicaAt("a", func(o *Options) { o.Replicas = []string{l.Addr().String()} })
	b := replicaAt("b", func(o *Options) {
		_ = o.GRPC[0].Close()
		o.GRPC, o.Replicas = []net.Listener{l}, []string{a.grpc, l.Addr().String()}
	})
	await := func(what string, at *replica, ok func(apiv1.MTLSPort) bool) {
		t.Helper()
		eventually(t, what, func() error {
			x, _ := cartPort(t, at)
			if !ok(x) {
				return errors.New(strings.Join(x.Blockers, "; "))
			}
			return nil
		})
	}

	atA, _ := a.connect(t, "cart", "sidecar~10.0.0.1~cart-0.default~default.svc.cluster.local")
	await("one proxy reports", b, func(x apiv1.MTLSPort) bool { return len(x.Blockers) == 1 && strings.HasPrefix(x.Blockers[0], "1 of") }) // until then: 2
	blocked(t, a, "1 of its proxies do not report to any control plane")
	atB, _ := b.connect(t, "cart", "sidecar~10.0.0.2~cart-1.default~default.svc.cluster.local")
	await("both report", a, func(x apiv1.MTLSPort) bool { return x.Ready })
	blocked(t, b)
	if x, v := cartPort(t, b); x.Mode != "PERMISSIVE" || time.Since(v.Since) < 71*time.Hour || v.Silent != nil || v.Blockers != nil {
		t.Errorf("%+v", v)
	}

	tell := func(stream observing, n uint64, e *observev1.Edge) {
		t.Helper()
		if got, err := report(stream, &observev1.Report{Sequence: n, Edges: []*observev1.Edge{e}}); got != n || err != nil {
			t.Fatalf("report %d: %v", got, err)
		}
	}
	tell(atA, 1, inPlaintext("batch", 2))
	tell(atB, 1, inPlaintext("batch", 3))
	for _, r := range []*replica{a, b} {
		blocked(t, r, "default/batch called in plaintext, 5 times")
	}

	// Who is about to demand mutual TLS is told of them, before it is in force: of a port that would, and nothing of one that would not.
	for mode, want := range map[string]string{"{mode: STRICT}": "spec.mtls.mode", "{mode: STRICT}, portLevelMtls: {8080: {mode: STRICT}}": "spec.portLevelMtls.8080.mode",
		"{mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}": "", "{mode: PERMISSIVE}": ""} {
		policy := "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: cart, namespace: default}\nspec: {selector: {matchLabels: {app: cart}}, mtls: " + mode + "}\n"
		got, said := "", ""
		unit := file.Parse(apiv1.GivenFile, []byte(policy), "default")
		planned, _ := a.plan(t.Context(), a.latest.Load(), unit)
		for _, f := range planned.Findings {
			if f.Code == string(config.WouldRefuse) {
				got, said = f.Field, f.Message
			}
		}
		if got != want || want != "" && !strings.Contains(said, "default/cart port 8080: default/batch called in plaintext, 5 times") {
			t.Errorf("%s: %q, %q", mode, got, said)
		}
		judged := ""
		for _, f := range a.Judge(unit.Objects[0]) {
			if f.Code == config.WouldRefuse {
				judged = f.FieldPath
			}
		}
		if judged != want {
			t.Errorf("%s: the webhook says %q", mode, judged)
		}
	}

	b.stop()
	if err := <-b.ended; err != nil {
		t.Fatal(err)
	}
	await("the replica is gone, and the proxy with it", a, func(x apiv1.MTLSPort) bool { return len(x.Blockers) == 3 })
	blocked(t, a, "default/batch called in plaintext", "1 of its proxies do not report", "the control plane at "+b.grpc+" did not answer")
	if _, v := cartPort(t, a); !slices.Equal(v.Silent, []string{apiv1.SilentReplica + b.grpc}) || len(v.Blockers) != 1 {
		t.Errorf("silent %q, blockers %q", v.Silent, v.Blockers)
	}

	// Both are replaced: nothing is forgotten, and the window goes on.
	a.stop()
	if err := <-a.ended; err != nil {
		t.Fatal(err)
	}
	c := replicaAt("c", func(*Options) {})
	for i, at := range []string{"10.0.0.1~cart-0", "10.0.0.2~cart-1"} {
		c.connect(t, "cart", "sidecar~"+at+".default~default.svc.cluster.local")
		await("its proxies report", c, func(x apiv1.MTLSPort) bool { return len(x.Blockers) == 2-i })
	}
	blocked(t, c, "default/batch called in plaintext")
	if _, v := cartPort(t, c); time.Since(v.Since) < 71*time.Hour {
		t.Errorf("known since %v", v.Since)
	}

	// What was written down cannot be read: nobody knows what is in it.
	kept.fail(errors.New("the API server is away"))
	blocked(t, c, "cannot be read: the API server is away", "callers are known for 0s only")
	kept.fail(nil)
}

// What a control plane without others knows is in its state folder; it goes on with that, unless nobody was there for too long or the
// file is damaged.
func TestCallersAreKept(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "config")
	for _, err := range []error{os.MkdirAll(folder, 0o700), os.WriteFile(filepath.Join(folder, "cart.yaml"), []byte(carts), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(f func(r *replica)) {
		t.Helper()
		r := startReplica(t, filepath.Join(dir, "state"), folder, 0)
		f(r)
		r.stop()
		if err := <-r.ended; err != nil {
			t.Fatal(err)
		}
	}
	var began time.Time
	run(func(r *replica) {
		stream, _ := r.connect(t, "cart", "sidecar~10.0.0.1~cart-0.default~default.svc.cluster.local")
		if _, err := report(stream, &observev1.Report{Sequence: 1, Edges: []*observev1.Edge{inPlaintext("batch", 2)}}); err != nil {
			t.Fatal(err)
		}
		_, v := cartPort(t, r)
		began = v.Since
	})
	run(func(r *replica) {
		x, v := cartPort(t, r)
		if len(x.Callers) != 1 || x.Callers[0].Workload != "batch" || x.Callers[0].Requests != 2 || v.Since.After(began) {
			t.Errorf("after a restart: %+v since %v, before %v", x.Callers, v.Since, began)
		}
	})
	file := filepath.Join(dir, "state", callersFile)
	old := ledger.Book{Since: time.Now().Add(-72 * time.Hour), Saved: time.Now().Add(-time.Hour), Sightings: []ledger.Sighting{
		{Key: ledger.Key{Namespace: "default", Workload: "cart", Port: 8080}, Last: time.Now().Add(-2 * time.Hour)}}}
	text, err := old.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text    string
		callers int
	}{"after an hour": {string(text), 1}, "damaged": {string(text[:len(text)/2]), 0}} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		run(func(r *replica) {
			if x, v := cartPort(t, r); len(x.Callers) != c.callers || v.Since.Before(r.started.Add(-time.Second)) {
				t.Errorf("%s: %+v since %v", name, x.Callers, v.Since)
			}
		})
	}
}
