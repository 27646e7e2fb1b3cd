package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/test/mesh"
)

// The whole bookinfo application, two of each, stays whole: under 200 changes of
// configuration, while every workload is restarted in turn, and while the control plane is
// killed and started again.
func TestNothingFailsWhateverHappensToTheMesh(t *testing.T) {
	t.Parallel()
	b := newBookinfoOf(t, 2, "20s", nil) // a busy machine is nobody's failure
	const rules = "destination-rule-all.yaml"
	read := b.origins["ours"]
	variants := []string{
		documents(read("bookinfo-gateway.yaml")),
		documents(read("bookinfo-gateway.yaml"), read(rules), read("virtual-service-all-v1.yaml")),
		documents(read("bookinfo-gateway.yaml"), read(rules), read("virtual-service-reviews-50-v3.yaml")),
		documents(read("bookinfo-gateway.yaml"), read("destination-rule-reviews.yaml"), read("virtual-service-reviews-test-v2.yaml")),
		documents(read("bookinfo-gateway.yaml"), read("destination-rule-all-mtls.yaml"), read("virtual-service-reviews-v2-v3.yaml"), peerAuthentication("default", "{mtls: {mode: STRICT}}")),
		documents(read("bookinfo-gateway.yaml"), read(rules), read("virtual-service-reviews-80-20.yaml")),
	}
	b.Config("networking.yaml", variants[0])
	outside := b.gateway.OutsideKept()
	pages := startLoadOf(t, 4, 20*time.Millisecond, func() *mesh.Response {
		return mesh.Do(outside, http.MethodGet, "http://gateway:8080/productpage", nil)
	}, whole)

	changes := 200
	if testing.Short() { // under the race detector
		changes = 40
	}
	var took []time.Duration
	for i := range changes {
		begin := time.Now()
		b.Write("networking.yaml", variants[i%len(variants)]+fmt.Sprintf("\n# change %d\n", i))
		b.AwaitActive("networking.yaml")
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("%d changes, written to live on %d proxies: median %v, 95 %% %v, slowest %v", changes, len(b.pods), took[changes/2], took[changes*95/100], took[changes-1])
	pages.noneFailed(t, "changing the configuration")

	for _, name := range slices.Sorted(maps.Keys(b.pods)) {
		if w := b.pods[name]; w.Program != nil {
			w.StopApp()
			w.StartApp()
		}
	}
	pages.noneFailed(t, "restarting every workload")

	before := b.Services()
	b.KillControl()
	pages.await(20)
	b.StartControl()
	b.Settle()
	pages.noneFailed(t, "killing the control plane")
	for host, s := range b.Services() {
		if before[host].Index != s.Index {
			t.Errorf("%s has index %d after the restart, had %d", host, s.Index, before[host].Index)
		}
	}
	b.Config("networking.yaml", variants[1])
	pages.stop(t)
	b.sees("v1")(t)
}

// whole checks a product page.
func whole(r *mesh.Response) error {
	if r.Err != nil || r.Status != http.StatusOK {
		return fmt.Errorf("%v", r)
	}
	if m := marks.FindAllSubmatch(r.Body, -1); len(m) == 0 || bytes.Contains(r.Body, []byte("data-unavailable")) {
		return fmt.Errorf("the page shows %q", m)
	}
	return nil
}

// Endpoints come and go, also by dying without a word, and no request fails.
func TestEndpointsComeAndGoUnderLoad(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"), echoPod("echo-1", "v1"))
	load := startLoad(t, client, 4, "http://echo:8080/")
	for i := range 6 {
		added := m.Workload(echoPod(fmt.Sprintf("echo-new-%d", i), "v1"))
		load.await(20)
		pods[i%2].SetHealth("unhealthy")
		load.await(20)
		pods[i%2].SetHealth("healthy")
		added.End()
	}
	load.noneFailed(t, "adding and removing endpoints")

	// The last one leaves and another comes: for a while there is nobody.
	load.stop(t)
	if e := client.Endpoints("outbound|8080||echo.default.svc.cluster.local"); len(e) != 2 {
		t.Errorf("the client's proxy still knows %v", e)
	}
}

// A program that ends and starts again, with another one beside it, is not noticed by
// callers; nobody has to tell the mesh first.
func TestAProgramThatRestartsIsNotNoticed(t *testing.T) {
	t.Parallel()
	_, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"), echoPod("echo-1", "v1"))
	load := startLoad(t, client, 4, "http://echo:8080/")
	for i := range 8 {
		pods[i%2].StopApp()
		load.await(20)
		pods[i%2].StartApp()
		load.await(20)
	}
	load.stop(t)
}

// What is not harmless twice happens at most once, and if it is answered, once.
func TestNothingIsDoneTwice(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"), echoPod("echo-1", "v1"))
	var mu sync.Mutex
	answered := map[string]int{}
	n := 0
	load := startLoadOf(t, 4, 0, func() *mesh.Response {
		mu.Lock()
		n++
		id := fmt.Sprintf("once-%d-", n)
		mu.Unlock()
		r := client.Do(http.MethodPost, "http://echo:8080/", []byte("do it"), "x-request-id: "+id)
		mu.Lock()
		defer mu.Unlock()
		answered[id] = r.Status
		return r
	}, func(r *mesh.Response) error {
		if r.Status == http.StatusOK || r.Status == http.StatusServiceUnavailable { // a POST under a dying program may fail
			return nil
		}
		return fmt.Errorf("%v", r)
	})
	for i := range 6 {
		pods[i%2].StopApp()
		load.await(20)
		pods[i%2].StartApp()
		load.await(20)
	}
	load.stop(t)
	m.Eventually("every POST that was answered was done once, others at most once", func() error {
		done := map[string]int{}
		for _, p := range pods {
			for _, line := range p.Logged() {
				if at := strings.Index(line, "once-"); at >= 0 && strings.Contains(line, " 200 - via_upstream") {
					id, _, _ := strings.Cut(line[at:], `"`)
					done[id]++
				}
			}
		}
		for id, status := range answered {
			if done[id] > 1 || status == http.StatusOK && done[id] != 1 {
				return fmt.Errorf("%s was answered %d and done %d times", id, status, done[id])
			}
		}
		return nil
	})
}

// A proxy that starts while the control plane is away serves with what it knew.
func TestAProxyRestartsWithoutTheControlPlane(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("routes.yaml", virtualService("echo", "{hosts: [echo], http: [{match: [{uri: {prefix: /away}}], directResponse: {status: 203}}, {route: [{destination: {host: echo, port: {number: 8080}}}]}]}"))
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	echo := func(what string) {
		t.Helper()
		if r := client.Get("http://echo:8080/").Report(t); r.Identity != client.ID() {
			t.Errorf("%s: the request came as %q", what, r.Identity)
		}
		if r := client.Get("http://echo:8080/away"); r.Status != 203 {
			t.Errorf("%s: %v", what, r)
		}
	}
	echo("at first")
	m.KillControl()
	echo("without the control plane")
	for _, w := range append(pods, client) {
		w.StopProxy()
		w.StartProxy()
	}
	echo("after a restart of both proxies without the control plane")
	if info := string(client.Admin(http.MethodGet, "/server_info").Body); !bytes.Contains([]byte(info), []byte("continued, was")) {
		t.Errorf("the proxy does not say that it continues with kept state: %s", info)
	}
	m.StartControl()
	m.Settle()
	echo("with the control plane again")
	m.Config("routes.yaml", virtualService("echo", "{hosts: [echo], http: [{match: [{uri: {prefix: /away}}], directResponse: {status: 204}}, {route: [{destination: {host: echo, port: {number: 8080}}}]}]}"))
	if r := client.Get("http://echo:8080/away"); r.Status != 204 {
		t.Errorf("a change after all that: %v", r)
	}
	// What was removed meanwhile is gone when the proxy comes back.
	client.StopProxy()
	m.Remove("routes.yaml")
	client.StartProxy()
	m.Settle()
	client.Get("http://echo:8080/away").Report(t)
}

// Certificates are renewed at half their life; connections made with old ones stay.
func TestCertificatesAreRenewedUnderConnections(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, func(o *control.Options) { o.CertTTL = 4 * time.Second }, echoPod("echo-0", "v1"))
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	long, err := client.Dial(t.Context(), "echo:9000")
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	talk := func() error {
		if _, err := long.Write([]byte("still here\n")); err != nil {
			return err
		}
		buf := make([]byte, 32)
		_, err := long.Read(buf)
		return err
	}
	if err := talk(); err != nil {
		t.Fatal(err)
	}
	first := serial(t, pods[0])
	load := startLoadOf(t, 1, 10*time.Millisecond, func() *mesh.Response { return client.Get("http://echo:8080/") }, func(r *mesh.Response) error {
		if r.Status != http.StatusOK {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	var last string
	for range 2 {
		before := serial(t, pods[0])
		m.Eventually("the certificate is renewed", func() error {
			if last = serial(t, pods[0]); last == before {
				return errors.New("it is the same")
			}
			return talk()
		})
	}
	load.stop(t)
	if err := talk(); err != nil {
		t.Errorf("the connection made with certificate %s ended: %v", first, err)
	}
	c := dialTLS(t, pods[0], 8080, m.Certificate("default", "client"), "istio-http/1.1")
	defer c.Close()
	if got := fmt.Sprintf("%x", c.ConnectionState().PeerCertificates[0].SerialNumber); got == first {
		t.Errorf("a new connection is shown the old certificate %s", got)
	}
}

func serial(t *testing.T, w *mesh.Workload) string {
	t.Helper()
	s, err := w.Serial()
	if err != nil {
		t.Fatal(err)
	}
	return s
}
