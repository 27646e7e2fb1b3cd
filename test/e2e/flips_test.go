package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// ahead is an order in which proxies hear of flips: some at once, the late ones of all of them together.
type ahead struct {
	name  string
	late  []*mesh.Workload
	flips int
}

// flipper flips what servers demand and what the caller's rule says, and knows which flip each proxy has heard of.
type flipper struct {
	*mesh.Mesh
	t       *testing.T
	client  *mesh.Workload
	servers []*mesh.Workload
	outside *http.Client
	flips   int
	version uint64 // of the last flip
}

// strict says what a flip demands: every other one STRICT.
func strict(flip int) bool { return flip%2 == 1 }

// flip makes the next change and waits until the control plane has it.
func (f *flipper) flip() {
	f.flips++
	text := peerAuthentication("default", "{mtls: {mode: PERMISSIVE}}")
	if strict(f.flips) {
		text = documents(peerAuthentication("default", "{mtls: {mode: STRICT}}"), destinationRule("echo", "{host: echo, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"))
	}
	f.Write("policy.yaml", text)
	before := f.version
	f.Eventually("the control plane has the flip", func() error {
		o, err := f.API().Objects(context.Background(), "PeerAuthentication", "default", "default")
		if err == nil && o[0].Mesh <= before {
			err = fmt.Errorf("it is on version %d", o[0].Mesh)
		}
		if err == nil {
			f.version = o[0].Mesh
		}
		return err
	})
}

// heard waits until all proxies but the late ones are on the newest version, and fails the test if one of those is not before since.
func (f *flipper) heard(order ahead, since uint64) {
	f.t.Helper()
	f.Eventually("the others have the flip", func() error {
		proxies, _, err := f.API().Proxies(context.Background())
		if err != nil {
			return err
		}
		active := map[string]uint64{}
		for _, p := range proxies {
			active[p.Name] = max(active[p.Name], p.Active)
		}
		for _, w := range append([]*mesh.Workload{f.client}, f.servers...) {
			version, late := active[w.Namespace+"/"+w.Name], slices.Contains(order.late, w)
			if late && version >= since {
				f.t.Errorf("%s: %s is on version %d, and was to be before %d", order.name, w.Name, version, since)
				return nil
			}
			if !late && version < f.version {
				return fmt.Errorf("%s is on version %d", w.Name, version)
			}
		}
		return nil
	})
}

// demand fails the test unless each server refuses plaintext as it should after the flip it has heard of.
func (f *flipper) demand(order ahead, heard int) {
	f.t.Helper()
	for _, w := range f.servers {
		flip := f.flips
		if slices.Contains(order.late, w) {
			flip = heard
		}
		if r := mesh.Do(f.outside, http.MethodGet, w.At(8080), nil); (r.Err != nil) != strict(flip) {
			f.t.Errorf("%s: plaintext to %s, which has heard of flip %d of %d: %v", order.name, w.Name, flip, f.flips, r)
		}
	}
}

// in makes an order's flips, and has requests begin and end meanwhile and between two of them.
func (f *flipper) in(order ahead, meanwhile func()) {
	f.t.Helper()
	for _, w := range order.late {
		w.Link().Partition()
	}
	heard, since := f.flips, f.version+1
	for range order.flips {
		f.flip()
		f.heard(order, since)
		f.demand(order, heard)
		meanwhile()
		f.heard(order, since) // as it was all the time
	}
	for _, w := range order.late {
		w.Link().Heal()
	}
	f.heard(ahead{}, 0)
	f.demand(ahead{}, 0)
}

// talk is one TCP connection and what is said on it.
type talk struct {
	c io.ReadWriteCloser
	r *bufio.Reader
	n int
}

// say sends a line and reads it back.
func (k *talk) say() *mesh.Response {
	k.n++
	line := fmt.Sprintf("line %d\n", k.n)
	if _, err := io.WriteString(k.c, line); err != nil {
		return &mesh.Response{Err: fmt.Errorf("line %d of a kept connection: %w", k.n, err)}
	}
	got, err := k.r.ReadString('\n')
	if err == nil && got != line {
		err = fmt.Errorf("it is %q", got)
	}
	if err != nil {
		return &mesh.Response{Err: fmt.Errorf("the answer to line %d of a kept connection: %w", k.n, err)}
	}
	return &mesh.Response{}
}

// Flips between PERMISSIVE and STRICT in every order in which caller and servers can hear of them (each proxy's configuration goes
// over a link of its own), under requests that do not wait for each other: a hundred flips under 500 a second by make flips, fewer
// otherwise. Requests begin and end while one side has the older mode, on new connections and kept ones, HTTP and TCP: none fails,
// none is plaintext.
func TestFlippingMutualTLSInEveryOrderFailsNothing(t *testing.T) {
	t.Parallel()
	flips, kept, fresh, tcp := 14, 60, 20, 20 // a second
	asked := os.Getenv("FLIPS")
	if asked != "" {
		n, err := strconv.Atoi(asked)
		if err != nil || n < 1 {
			t.Fatalf("FLIPS=%q: want a number of flips, like 100", asked)
		}
		flips, kept, fresh, tcp = n, 440, 110, 60 // more than 500, so that it is 500 still if some fall behind
	}
	m, client, servers := echoMesh(t, nil, echoPod("echo-0", "v1"), echoPod("echo-1", "v1"))
	f := &flipper{Mesh: m, t: t, client: client, servers: servers, outside: client.Outside()}
	f.version = m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: PERMISSIVE}}"))
	orders := []ahead{
		{"servers first", []*mesh.Workload{client}, 1},
		{"caller first", servers, 1},
		{"one server last", servers[:1], 1},
		{"servers two ahead", []*mesh.Workload{client}, 2},
		{"caller two ahead", servers, 2},
	}

	once := client.Client()
	transport := once.Transport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	once.Transport = transport
	mutual := func(r *mesh.Response) error {
		if r.Err != nil || r.Status != http.StatusOK || !bytes.Contains(r.Body, []byte(client.ID())) {
			return fmt.Errorf("%v", r)
		}
		return nil
	}
	failed := func(r *mesh.Response) error { return r.Err }
	loads := []*load{
		startPaced(t, kept, func() *mesh.Response { return client.Get("http://echo:8080/") }, mutual),
		startPaced(t, fresh, func() *mesh.Response { return mesh.Do(once, http.MethodGet, "http://echo:8080/", nil) }, mutual),
		startPaced(t, tcp, func() *mesh.Response {
			got, err := exchangeWith(dialer(client, "echo:9000"), "hi\n")
			if err == nil && got != "hi\n" {
				err = fmt.Errorf("TCP answered %q", got)
			}
			return &mesh.Response{Err: err}
		}, failed),
	}
	for range 4 {
		c, err := client.Dial(t.Context(), "echo:9000")
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		k := &talk{c: c, r: bufio.NewReader(c)}
		loads = append(loads, startLoadOf(t, 1, 20*time.Millisecond, k.say, failed))
	}
	begin, before := time.Now(), loads[0].sent.Load()+loads[1].sent.Load()
	for i := 0; f.flips < flips; i++ {
		f.in(orders[i%len(orders)], func() {
			for _, l := range loads {
				l.awaitNew(3)
			}
		})
	}
	took := time.Since(begin)
	rate := float64(loads[0].sent.Load()+loads[1].sent.Load()-before) / took.Seconds()
	t.Logf("%d flips in %v under %.0f HTTP requests a second", f.flips, took.Round(time.Millisecond), rate)
	if asked != "" && rate < 500 {
		t.Errorf("%.0f requests a second, want 500", rate)
	}
	for _, l := range loads {
		l.stop(t)
	}
}
