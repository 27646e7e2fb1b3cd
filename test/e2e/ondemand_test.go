package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/test/mesh"
	"github.com/weirmesh/weir/xds/dump"
)

// captured is a caller that takes configuration on demand.
func captured(name string) mesh.Spec {
	s := caller(name)
	s.Captured = true
	return s
}

// demanded is what a proxy says of its configuration on demand.
func demanded(t *testing.T, w *mesh.Workload) *dump.OnDemand {
	t.Helper()
	r := w.Admin(http.MethodGet, "/ondemand")
	x := &dump.OnDemand{}
	if err := json.Unmarshal(r.Body, x); err != nil || !x.Active {
		t.Fatalf("%s has nothing on demand: %v, %v", w.Name, r, err)
	}
	return x
}

// demands are the states of what it has asked for, by type and name.
func demands(t *testing.T, w *mesh.Workload) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, d := range demanded(t, w).Resources {
		m[d.Type+" "+d.Name] = d.State
	}
	return m
}

// states are those of `weir proxy-status`, by type.
func states(t *testing.T, m *mesh.Mesh, w *mesh.Workload) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, p := range proxies(t, m) {
		if p.Name == w.Namespace+"/"+w.Name {
			for _, s := range p.Types {
				out[s.Type] = s.State
			}
		}
	}
	return out
}

// names is a server on 127.0.0.1 that says which name was asked for by SNI.
func names(t *testing.T) netip.AddrPort {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS.ServerName) }))
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// plain is a server on 127.0.0.1 that says a word.
func plain(t *testing.T, word string) netip.AddrPort {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, word) }))
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// What the mesh has, a sidecar with configuration on demand reaches at its first use, each kind of destination: and it
// has asked for that and nothing else.
func TestOnDemand(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	secure, other, api, six := names(t), names(t), plain(t, "api"), plain(t, "six")
	m.Resolve("strict.example.com", api.Addr())
	m.Resolve("logical.example.com", api.Addr())
	m.Config("mesh.yaml", documents(echoService, `
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: echo}
  ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]
`, `
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  selector: {app: db}
  ports: [{name: tcp, port: 5432}]
`,
		serviceEntry("secure", fmt.Sprintf("{hosts: [a.secure.example.com, b.secure.example.com], ports: [{number: 8443, name: tls, protocol: TLS, targetPort: %d}], resolution: STATIC, location: MESH_EXTERNAL, endpoints: [{address: 127.0.0.1}]}", secure.Port())),
		serviceEntry("wild", fmt.Sprintf("{hosts: ['*.wild.example.com'], ports: [{number: 8443, name: tls, protocol: TLS, targetPort: %d}], resolution: STATIC, location: MESH_EXTERNAL, endpoints: [{address: 127.0.0.1}]}", other.Port())),
		serviceEntry("strict", fmt.Sprintf("{hosts: [strict.example.com], ports: [{number: 8090, name: http, protocol: HTTP, targetPort: %d}], resolution: DNS, location: MESH_EXTERNAL}", api.Port())),
		serviceEntry("logical", fmt.Sprintf("{hosts: [logical.example.com], ports: [{number: 8090, name: http, protocol: HTTP, targetPort: %d}], resolution: DNS_ROUND_ROBIN, location: MESH_EXTERNAL}", api.Port())),
		serviceEntry("nowhere", "{hosts: [nowhere.example.com], ports: [{number: 8090, name: http, protocol: HTTP}], resolution: DNS, location: MESH_EXTERNAL}"),
		serviceEntry("six", fmt.Sprintf("{hosts: [six.example.com], addresses: ['fd00::6'], ports: [{number: 8091, name: tcp, protocol: TCP, targetPort: %d}, {number: 8090, name: http, protocol: HTTP, targetPort: %d}], resolution: STATIC, location: MESH_EXTERNAL, endpoints: [{address: 127.0.0.1}]}", six.Port(), six.Port()))))
	all := m.Workloads(captured("client"), echoPod("echo-0", "v1"), echoPod("echo-1", "v1"),
		mesh.Spec{Name: "db-0", Owner: "db", ServiceAccount: "db", Labels: map[string]string{"app": "db"}, Ports: []mesh.Port{{Name: "tcp", Number: 5432}}})
	client, echo, db := all[0], all[1], all[3]
	greet(t, db.App(5432).String())
	if got := demanded(t, client).Resources; len(got) > 0 {
		t.Fatalf("before anything was used there is %v", got)
	}
	if got := states(t, m, client); got["CDS"] != apiv1.Synced || got["LDS"] != apiv1.Synced || got["EDS"] != apiv1.NotSent || got["RDS"] != apiv1.NotSent || got["ECDS"] != apiv1.Ignored {
		t.Errorf("proxy-status before anything was used: %v", got)
	}
	known := map[string]string{}
	// asks checks what was asked for since it was called last.
	asks := func(t *testing.T, want ...string) {
		t.Helper()
		now := demands(t, client)
		var fresh []string
		for k, state := range now {
			if state != dump.Served {
				t.Errorf("%s is %s", k, state)
			}
			if known[k] == "" {
				fresh = append(fresh, k)
			}
		}
		known = now
		slices.Sort(fresh)
		if !slices.Equal(fresh, want) {
			t.Errorf("asked for %q, want %q", fresh, want)
		}
	}
	expect := func(t *testing.T, url, want string, headers ...string) {
		t.Helper()
		if r := client.Get(url, headers...); r.Status != 200 || string(r.Body) != want {
			t.Errorf("%s %v: %v, want %q", url, headers, r, want)
		}
	}
	sni := func(at, name string) (string, error) {
		h := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: name},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return client.DialAt(ctx, netip.MustParseAddrPort(at))
			}}}
		r, err := h.Get("https://" + at + "/")
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return string(b), err
	}

	m.Run("HTTP by name and by virtual address", func(t *testing.T) {
		client.Get("http://echo:8080/").Report(t)
		asks(t, "LDS 0.0.0.0_8080", "VHDS 8080/echo.default.svc.cluster.local")
		at := m.Services()["echo.default.svc.cluster.local"].Addresses[0]
		client.Get("http://" + at + ":8080/").Report(t)
		asks(t, "VHDS 8080/"+at)
	})
	m.Run("TLS passthrough by SNI", func(t *testing.T) {
		for _, name := range []string{"x.wild.example.com", "y.z.wild.example.com"} {
			if got, err := sni("192.0.2.1:8443", name); got != name {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		asks(t, "LDS 0.0.0.0_8443")
		at := m.Services()["a.secure.example.com"].Addresses[0]
		if got, err := sni(at+":8443", "a.secure.example.com"); got != "a.secure.example.com" {
			t.Errorf("at its virtual address: %q, %v", got, err)
		}
		asks(t, "LDS "+at+"_8443")
		// Not of the mesh: where it was going. And nobody there is nobody there.
		if got, err := sni(other.String(), "elsewhere.example.org"); got != "elsewhere.example.org" {
			t.Errorf("outside: %q, %v", got, err)
		}
		asks(t)
	})
	m.Run("headless by pod name and by address", func(t *testing.T) {
		pod := echo.IP().String()
		for _, host := range []string{"headless", "echo-0.headless.default.svc.cluster.local", "echo-0.headless.default", "echo-0.headless"} {
			r := client.Get("http://"+pod+":8080/", "host: "+host+":8080").Report(t)
			if r.Hostname != "echo-0" {
				t.Errorf("%s at %s: %s answers", host, pod, r.Hostname)
			}
		}
		// Pods by name are reached by the service's routes, a wildcard for each of its names.
		asks(t, "VHDS 8080/*.headless", "VHDS 8080/*.headless.default", "VHDS 8080/*.headless.default.svc.cluster.local", "VHDS 8080/headless.default.svc.cluster.local")
		if got := exchange(t, client, pod+":9000", "hello\n"); got != "hello\n" {
			t.Errorf("TCP by the address of a pod: %q", got)
		}
		asks(t, "LDS "+pod+"_9000")
	})
	m.Run("a server that speaks first", func(t *testing.T) {
		got, err := greeted(dialer(client, "db:5432"))
		if err != nil || got != "hello, who are you?\nI am x\n" {
			t.Errorf("%q, %v", got, err)
		}
		asks(t, "LDS "+m.Services()["db.default.svc.cluster.local"].Addresses[0]+"_5432")
	})
	m.Run("names found by DNS", func(t *testing.T) {
		expect(t, "http://192.0.2.1:8090/", "api", "host: strict.example.com")
		expect(t, "http://192.0.2.1:8090/", "api", "host: logical.example.com:8090")
		began := time.Now()
		if r := client.Get("http://192.0.2.1:8090/", "host: nowhere.example.com"); r.Status != 503 || time.Since(began) > 3*time.Second {
			t.Errorf("a name that does not exist: %v after %v", r, time.Since(began))
		}
		asks(t, "LDS 0.0.0.0_8090", "VHDS 8090/logical.example.com", "VHDS 8090/nowhere.example.com", "VHDS 8090/strict.example.com")
	})
	m.Run("IPv6", func(t *testing.T) {
		expect(t, "http://[fd00::6]:8091/", "six")
		asks(t, "LDS fd00::6_8091")
		expect(t, "http://[fd00::6]:8090/", "six")
		asks(t, "VHDS 8090/[fd00::6]")
	})
	m.Run("what is seen of it", func(t *testing.T) {
		m.Eventually("the proxy is in sync", func() error {
			if got := states(t, m, client); got["CDS"] != apiv1.Synced || got["LDS"] != apiv1.Synced || got["EDS"] != apiv1.Synced || got["RDS"] != apiv1.Synced {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
		x := demanded(t, client)
		if x.Held != 0 || x.Refused+x.Expired != 0 || x.Index == nil || *x.Index < len(x.Resources) {
			t.Errorf("%+v", x)
		}
	})
}

// What replicas use is there for a new one, and after a restart of the control plane; while that is away what is not
// held waits for it, and the error says so.
func TestOnDemandWithoutControlPlane(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", documents(echoService, strings.ReplaceAll(echoService, "name: echo", "name: twin")))
	spec := captured("client-0")
	spec.Owner = "client"
	client := m.Workloads(spec, echoPod("echo-0", "v1"))[0]
	client.Get("http://echo:8080/").Report(t)
	want := map[string]string{"LDS 0.0.0.0_8080": dump.Served, "VHDS 8080/echo.default.svc.cluster.local": dump.Served}
	if got := demands(t, client); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("asked for %v", got)
	}
	learned := map[string]string{"LDS 0.0.0.0_8080": dump.Learned, "VHDS 8080/echo.default.svc.cluster.local": dump.Learned}
	sibling := func(name string) *mesh.Workload {
		s := spec
		s.Name = name
		w := m.Workload(s)
		m.Eventually(name+" has what its siblings use", func() error {
			if got := demands(t, w); fmt.Sprint(got) != fmt.Sprint(learned) {
				return fmt.Errorf("it has %v", got)
			}
			return nil
		})
		return w
	}
	other := sibling("client-1")

	services := m.Services()
	twin := services["twin.default.svc.cluster.local"].Addresses[0] + ":8080"
	m.KillControl()
	m.Eventually("the proxy knows that nobody is there", func() error {
		if demanded(t, client).Away == "" {
			return errors.New("it does not")
		}
		return nil
	})
	client.Get("http://" + services["echo.default.svc.cluster.local"].Addresses[0] + ":8080/") // another name of the same: not held
	client.Get("http://echo:8080/").Report(t)
	refused := make(chan *mesh.Response, 1)
	go func() { refused <- other.Get("http://"+twin+"/", "host: twin:8080", "x-request-id: while-away") }()
	r := client.Get("http://"+twin+"/", "host: twin:8080")
	<-refused
	if r.Status != 503 || r.Took < 4*time.Second || !strings.Contains(string(r.Body), "destination configuration unavailable") {
		t.Errorf("a first use meanwhile: %v after %v", r, r.Took)
	}
	if got := client.AccessLog("destination_config_unavailable"); !strings.Contains(got[0], " 503 NC ") {
		t.Errorf("logged %q", got)
	}
	x := demanded(t, client)
	i := slices.IndexFunc(x.Resources, func(d dump.Demanded) bool { return d.Name == "8080/twin.default.svc.cluster.local" })
	if x.Away == "" || x.Expired == 0 || i < 0 || x.Resources[i].State != dump.Waiting {
		t.Errorf("it shows %+v", x)
	}

	// A proxy that starts now has what it had; one who waits is served when the control plane is back.
	client.StopProxy()
	client.StartProxy()
	client.Get("http://echo:8080/").Report(t)
	answered := make(chan *mesh.Response, 1)
	go func() { answered <- client.Get("http://"+twin+"/", "host: twin:8080") }()
	m.Eventually("it is held", func() error {
		if demanded(t, client).Held == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	m.StartControl()
	(<-answered).Report(t)
	learned["VHDS 8080/twin.default.svc.cluster.local"] = dump.Learned
	learned["VHDS 8080/"+services["echo.default.svc.cluster.local"].Addresses[0]] = dump.Learned
	m.Eventually("the control plane has heard from all", func() error {
		if n := len(proxies(t, m)); n != 3 {
			return fmt.Errorf("%d are connected", n)
		}
		return nil
	})
	sibling("client-2")
	m.Eventually("weir why knows of the first use meanwhile", func() error {
		if text := weir(t, m, "why", "while-away"); !regexp.MustCompile(`503 .*while-away\n  destination_config_unavailable: .*\n  where +the proxy of default/client, calling`).MatchString(text) {
			return errors.New(text)
		}
		return nil
	})
}

// What is sent with a first use waits with it, however large, in HTTP/1.1, HTTP/2 and gRPC; and what is kept of all
// that waits is bounded: who would be too much is told so at once, and nobody else notices.
func TestOnDemandBodies(t *testing.T) {
	t.Parallel()
	const hosts = 6
	m := mesh.New(t, nil)
	var services []string
	for i := range hosts {
		services = append(services, strings.ReplaceAll(echoService, "name: echo", fmt.Sprintf("name: echo-%d", i)))
	}
	m.Config("echo.yaml", documents(services...))
	client := m.Workloads(captured("client"), echoPod("echo-0", "v1"))[0]
	at := m.Services()["echo-0.default.svc.cluster.local"].Addresses[0] + ":8080"
	h2 := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, target string) (net.Conn, error) {
		return client.Dial(ctx, at)
	}}}
	h2.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2.CloseIdleConnections)
	large := bytes.Repeat([]byte("0123456789abcdef"), 640<<10) // 10 MB
	post := func(c *http.Client, host string, body []byte, headers ...string) *mesh.Response {
		return mesh.Do(c, http.MethodPost, "http://"+at+"/", body, append(headers, "host: "+host)...)
	}
	served := func(what string, r *mesh.Response) {
		t.Helper()
		if x := r.Report(t); x.Body == nil || x.Body.Bytes != int64(len(large)) {
			t.Errorf("%s: the application got %+v", what, x.Body)
		}
	}
	served("HTTP/1.1", post(client.Client(), "echo-0", large))
	served("HTTP/2", post(h2, "echo-1", large))
	served("gRPC", post(h2, "echo-2", large, "content-type: application/grpc", "te: trailers"))

	m.KillControl()
	const each, many = 60 << 10, demand.MaxBody/(60<<10) + 20
	results := make(chan *mesh.Response, many+2)
	for range many {
		go func() { results <- post(client.Client(), "echo-3", large[:each]) }()
	}
	m.Eventually("some are refused, and the rest is held", func() error {
		if x := demanded(t, client); x.Refused == 0 || x.HeldBytes > demand.MaxBody || int(x.Refused)+x.Held != many {
			return fmt.Errorf("%d refused, %d held with %d bytes", x.Refused, x.Held, x.HeldBytes)
		}
		return nil
	})
	if r := post(client.Client(), "echo-0", []byte("short")); r.Status != 200 {
		t.Errorf("what is there, meanwhile: %v", r)
	}
	if r := post(h2, "echo-4", nil, "content-type: application/grpc", "te: trailers"); r.Status != 200 || r.Header.Get("grpc-status") != "14" || r.Header.Get("grpc-message") == "" {
		t.Errorf("gRPC, when the time is over: %v %v", r, r.Header)
	}
	counts := map[int]int{}
	for range many {
		counts[(<-results).Status]++
	}
	if counts[503] != many {
		t.Errorf("in the end: %v", counts)
	}
	m.StartControl()
	served("when the control plane is back", post(h2, "echo-5", large))
	if r := post(client.Client(), "echo-3", []byte("short")); r.Status != 200 {
		t.Errorf("what was refused, when the control plane is back: %v", r)
	}
}

// What is said to be active is: the first request after it goes as the change says, though the proxy has to fetch
// what the change refers to, and though nobody has used the new service before.
func TestOnDemandActiveIsActive(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	client := m.Workloads(captured("client"), echoPod("echo-1", "v1"), echoPod("echo-2", "v2"))[0]
	client.Get("http://echo:8080/").Report(t)
	apply := func(text string, objects ...apiv1.ObjectName) []apiv1.Receipt {
		t.Helper()
		r, err := m.API().Apply(t.Context(), []byte(text), false)
		if err != nil || r.Refused || r.Mesh == 0 { // without a version the receipts may be of what was before
			t.Fatalf("%v, %+v", err, r)
		}
		receipts, err := m.API().Receipts(t.Context(), objects, 20*time.Second, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range receipts {
			if !x.Everywhere {
				t.Fatalf("not active: %+v", x)
			}
		}
		return receipts
	}
	client.Link().Far(20 * time.Millisecond)
	for i := range 6 {
		version := fmt.Sprintf("v%d", i%2+1)
		subset := fmt.Sprintf("s%d", i)
		r := apply(documents(destinationRule("echo", fmt.Sprintf("{host: echo, subsets: [{name: %s, labels: {version: %s}}]}", subset, version)),
			virtualService("echo", fmt.Sprintf("{hosts: [echo], http: [{route: [{destination: {host: echo, port: {number: 8080}, subset: %s}}]}]}", subset))),
			apiv1.ObjectName{Kind: "VirtualService", Namespace: "default", Name: "echo"})
		if got := client.Get("http://echo:8080/").Report(t).Version; got != version {
			t.Errorf("edit %d: %s answers after it was said to be active: %+v", i, got, r)
		}
		if r[0].Proxies == 0 || r[0].Active != r[0].Proxies {
			t.Errorf("edit %d: %d of %d", i, r[0].Active, r[0].Proxies)
		}
	}
	for i := range 4 {
		name := fmt.Sprintf("fresh-%d", i)
		at := fmt.Sprintf("10.96.77.%d", i+1)
		apply(fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: %s, selector: {app: echo}, ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]}\n", name, at),
			apiv1.ObjectName{Kind: "Service", Namespace: "default", Name: name})
		if r := client.Get("http://"+at+":8080/", "host: "+name); r.Status != 200 {
			t.Errorf("%s after it was said to be in force: %v", name, r)
		}
		if got := exchange(t, client, at+":9000", "hello\n"); got != "hello\n" {
			t.Errorf("%s by TCP: %q", name, got)
		}
	}
}
