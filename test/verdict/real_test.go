package verdict

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/config/verdict"
	testmesh "github.com/weirmesh/weir/test/mesh"
)

// TestMain holds the mesh to its end: nothing that was started is left behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// targets are where rules for connections lead to: nobody is there, but the log has the name.
func targets() string {
	var b strings.Builder
	for i := range 60 {
		fmt.Fprintf(&b, "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: target-%d, namespace: istio-system}\nspec:\n  hosts: [r%d.target]\n"+
			"  resolution: STATIC\n  ports: [{number: 9000, name: tcp, protocol: TCP}]\n  endpoints: [{address: 127.0.0.1, ports: {tcp: 1}}]\n", i, i)
	}
	return b.String()
}

// real is the stage with real proxies.
type real struct {
	*testmesh.Mesh
	cast  map[string]*testmesh.Workload // by namespace
	certs string
}

func newReal(t *testing.T) *real {
	r := &real{Mesh: testmesh.New(t, nil), cast: map[string]*testmesh.Workload{}, certs: t.TempDir()}
	for name, data := range certificate(t) {
		if err := os.WriteFile(filepath.Join(r.certs, filepath.Base(name)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.Config("stage.yaml", stage+targets())
	specs := []testmesh.Spec{testmesh.Gateway()}
	for _, p := range pods[:2] {
		specs = append(specs, testmesh.Spec{Name: p.name, Namespace: p.namespace, Labels: p.labels, Captured: true})
	}
	for _, w := range r.Workloads(specs...) {
		r.cast[w.Namespace] = w
	}
	return r
}

// dial connects as an example does.
func (r *real) dial(e *verdict.Example) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	w := r.cast[e.Namespace]
	var c net.Conn
	var err error
	if w.Gateway {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(w.IP(), e.To.Port()).String())
	} else {
		to := e.To
		if !to.Addr().IsValid() {
			to = netip.AddrPortFrom(nowhere, to.Port())
		}
		c, err = w.DialAt(ctx, to)
	}
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(10 * time.Second))
}

// nowhere is an address of documentation (RFC 5737).
var nowhere = netip.MustParseAddr("203.0.113.9")

// allotted are virtual addresses of hosts that have none of their own.
var allotted = netip.MustParsePrefix("240.240.0.0/16")

// request makes a request and says which rule answered it, "" if none did.
func (r *real) request(e *verdict.Example) (rule string, status int, err error) {
	c, err := r.dial(e)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = c.Close() }()
	if e.SNI != "" {
		c = tls.Client(c, &tls.Config{ServerName: e.SNI, InsecureSkipVerify: true})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 0\r\n", e.Method, e.Path, e.Host)
	for _, k := range slices.Sorted(maps.Keys(e.Headers)) {
		fmt.Fprintf(&b, "%s: %s\r\n", k, e.Headers[k])
	}
	if _, err := io.WriteString(c, b.String()+"\r\n"); err != nil {
		return "", 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		body = nil
	}
	return string(body), res.StatusCode, err
}

// connection opens a connection and says which rule the proxy sent it by.
func (r *real) connection(e *verdict.Example) (rule string, err error) {
	w := r.cast[e.Namespace]
	const mark = ".target"
	before := len(w.LoggedWith(mark))
	c, err := r.dial(e)
	switch {
	case err != nil: // where a target refuses, the proxy may reset it at once: what it logs is what counts
	case e.SNI != "":
		_ = tls.Client(c, &tls.Config{ServerName: e.SNI, InsecureSkipVerify: true}).Handshake()
		_ = c.Close()
	default:
		_, _ = io.WriteString(c, "hello\n")
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	err = r.Await(func() error {
		lines := w.LoggedWith(mark)
		if len(lines) == before {
			return errors.New("nothing was logged that leads to a target")
		}
		_, rest, _ := strings.Cut(lines[len(lines)-1], "outbound|9000||")
		rule, _, _ = strings.Cut(rest, mark)
		return nil
	})
	return rule, err
}

// Proxies do what verdicts say: the control plane says in its receipts what the world in which
// calls are simulated does, and every example, and other calls beside them, end where that says.
func TestRealProxies(t *testing.T) {
	sets := 25
	if n, err := strconv.Atoi(os.Getenv("VERDICT_SETS")); err == nil {
		sets = n / 20
	}
	r := newReal(t)
	calls := map[string]int{}
	for seed := range uint64(sets) {
		g := newGenerator(1_000_000 + seed)
		g.unbound = true
		objects := g.set()
		w := newWorld(t, g, objects)
		r.Config("set.yaml", strings.ReplaceAll(w.text, "/certs/", r.certs+"/"))
		view := verdict.On(w.update.Snapshot)
		var all []verdict.Verdict
		for i := range objects {
			found := w.judge(view, &objects[i])
			r.receipt(w, &objects[i], found)
			all = append(all, found...)
		}
		for _, d := range all {
			if d.Sample != nil && d.Object.Kind == "VirtualService" {
				r.compare(w, g.inCast(d.Sample), calls)
			}
		}
		for range 10 {
			for _, gateway := range []bool{false, true} {
				if e := g.probe(nil, gateway); e.Method != "" {
					r.compare(w, g.inCast(e), calls)
				}
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d\n%s", seed, w.text)
		}
	}
	t.Logf("%d sets, calls %v", sets, calls)
}

// inCast is an example by who is there: it may get elsewhere then.
func (g *generator) inCast(e *verdict.Example) *verdict.Example {
	out := *e
	for _, p := range pods {
		if p.namespace == e.Namespace && (p.gateway || p.name == "client" || p.name == "other") {
			out.Labels = p.labels
		}
	}
	return &out
}

// receipt holds the states in the receipt of an object against verdicts.
func (r *real) receipt(w *world, o *object, want []verdict.Verdict) {
	key := func(part, at string) string { return part + " at " + at }
	states := map[string]string{}
	for _, d := range want {
		states[key(d.Part, d.At)] = d.State.String()
	}
	receipt, err := r.API().Receipt(context.Background(), o.kind, o.namespace, o.name)
	if err != nil {
		w.errorf("%v", err)
		return
	}
	got := map[string]string{}
	for _, u := range receipt.Rules {
		if u.State == "active" && u.Example == "" && o.kind == "VirtualService" || u.State != "active" && u.Why == "" {
			w.errorf("the receipt of %s says too little: %+v", o.name, u)
		}
		got[key(u.Part, u.At)] = u.State
	}
	if receipt.State == "quarantined" && receipt.LastGood {
		return // of an object of an earlier set that has the name
	}
	if !maps.Equal(states, got) {
		w.errorf("the receipt of %s says %v, and not %v: %+v", o.name, got, states, receipt.Rules)
	}
}

// compare makes a call by real proxies if the simulation says that a rule takes it, or none.
func (r *real) compare(w *world, e *verdict.Example, calls map[string]int) {
	if allotted.Contains(e.To.Addr()) { // which depends on what was there before
		return
	}
	if r.cast[e.Namespace] == nil || !pods[0].labels.Selects(e.Labels) && e.Namespace == "default" {
		return
	}
	gateway := r.cast[e.Namespace].Gateway
	simulated := *e
	outcomes, err := w.simulated(gateway, &simulated)
	if err != nil || len(outcomes) != 1 {
		return
	}
	want := got(outcomes)
	x := &outcomes[0]
	switch {
	case x.Refused != "", gateway && (x.Listener == "" || x.Details == "filter_chain_not_found"):
		return // nobody logs or answers that
	case e.Method == "" && len(want) == 1:
		rule, err := r.connection(e)
		if calls["connections"]++; err != nil || rule != want[0] {
			w.errorf("a connection %s ends at %q (%v), and simulated at %v", e, rule, err, want)
		}
	case e.Method != "" && (x.Status != 0 && x.Route != "" || x.Status == 404 && x.Flags == "NR"):
		rule, status, err := r.request(e)
		name := ""
		if x.Status == http.StatusOK {
			name = x.Body
		}
		if calls["requests"]++; err != nil || rule != name && e.Method != http.MethodHead || status != x.Status {
			w.errorf("a request %s gets %d by rule %q (%v), and simulated %d by %q", e, status, rule, err, x.Status, name)
		}
	}
}
