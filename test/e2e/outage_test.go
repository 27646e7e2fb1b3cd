package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/test/garbage"
	"github.com/weirmesh/weir/test/mesh"
)

// answers routes echo to a direct answer for /status, by which one sees what a proxy has.
func answers(status int) string {
	return virtualService("echo", fmt.Sprintf("{hosts: [echo], http: [{match: [{uri: {prefix: /status}}], directResponse: {status: %d}}, {route: [{destination: {host: echo, port: {number: 8080}}}]}]}", status))
}

// outage is a mesh with requests going through it all the time.
type outage struct {
	*mesh.Mesh
	t      *testing.T
	client *mesh.Workload
	pod    *mesh.Workload // the client's server
	load   *load
	mark   mesh.Mark
}

func newOutage(t *testing.T, change func(*control.Options)) *outage {
	m, client, pods := echoMesh(t, change, echoPod("echo-0", "v1"))
	m.Config("routes.yaml", answers(210))
	o := &outage{Mesh: m, t: t, client: client, pod: pods[0], load: startLoad(t, client, 2, "http://echo:8080/")}
	o.says(inControl, "proxies came and went", "connected=2")
	o.begin()
	return o
}

// begin is the moment since which the log is looked at. Until the control plane says
// something else the client finds its services.
func (o *outage) begin() {
	o.t.Helper()
	o.load.noneFailed(o.t, "before")
	if _, err := o.client.Virtual("echo"); err != nil {
		o.t.Fatal(err)
	}
	o.mark = o.Mark()
}

// serves says that requests are answered, and by which configuration.
func (o *outage) serves(when string, status int) {
	o.t.Helper()
	o.load.noneFailed(o.t, when)
	if r := o.client.Get("http://echo:8080/status"); r.Status != status {
		o.t.Errorf("%s: %v, want %d", when, r, status)
	}
}

// has waits for the client's configuration.
func (o *outage) has(status int) {
	o.t.Helper()
	o.Eventually(fmt.Sprintf("the client answers %d", status), func() error {
		if r := o.client.Get("http://echo:8080/status"); r.Status != status {
			return errors.New(r.String())
		}
		return nil
	})
}

// says waits for a line of the log; that there is no second one is for said.
func (o *outage) says(texts ...string) {
	o.t.Helper()
	o.Eventually(fmt.Sprintf("the log says %q", texts), func() error {
		if len(o.Logged(o.mark, texts...)) == 0 {
			return fmt.Errorf("it says: %s", strings.Join(o.Logged(o.mark), "\n"))
		}
		return nil
	})
}

// once waits for a line of the log and holds the log to this one line.
func (o *outage) once(texts ...string) string {
	o.t.Helper()
	o.says(texts...)
	lines := o.Logged(o.mark, texts...)
	if len(lines) != 1 {
		o.t.Errorf("the log says %q %d times:\n%s", texts, len(lines), strings.Join(lines, "\n"))
	}
	return lines[0]
}

const (
	alone     = "no control plane: what it said last stays in force"
	together  = "configuration stream open"
	inClient  = "proxy=default/client"
	inServer  = "proxy=default/echo-0"
	inControl = "room=control"
)

// back says that a proxy lost the control plane and found it again, in one line each.
func (o *outage) back(proxy string) {
	o.t.Helper()
	o.once(proxy, alone)
	o.once(proxy, together, "away=")
}

func TestOutageKilled(t *testing.T) {
	t.Parallel()
	o := newOutage(t, nil)
	o.KillControl()
	o.once(inClient, alone)
	o.once(inServer, alone)
	o.serves("killed", 210)
	o.WriteRaw("routes.yaml", []byte(answers(211)))
	o.StartControl()
	o.has(211)
	o.once(inControl, "configuration in force", "errors=0")
	o.once(inControl, "proxies came and went", "connected=2")
	o.back(inClient)
	o.back(inServer)
	o.load.stop(t)
}

// A replica has a state folder of its own, made from a copy of what the first one must not
// lose: the authority and the addresses.
func TestOutageOtherReplica(t *testing.T) {
	t.Parallel()
	state := ""
	o := newOutage(t, func(o *control.Options) {
		if state != "" {
			o.State = state
		}
	})
	state = filepath.Join(o.Dir, "replica")
	for _, dir := range []string{"ca", "registry"} {
		must(t, os.CopyFS(filepath.Join(state, dir), os.DirFS(filepath.Join(o.Dir, "state", dir))))
	}
	// As files of a secret are; CopyFS goes by the umask.
	for _, name := range []string{"ca.pem", "token-key.pem"} {
		must(t, os.Chmod(filepath.Join(state, "ca", name), 0o600))
	}
	o.KillControl()
	o.once(inClient, alone)
	o.serves("without a replica", 210)
	o.WriteRaw("routes.yaml", []byte(answers(211)))
	o.StartControl()
	o.has(211)
	o.back(inClient)
	o.back(inServer)
	if lines := o.Logged(o.mark, "configuration rejected"); len(lines) > 0 {
		t.Error(lines)
	}
	o.load.stop(t)
}

// A network that loses everything, and tells nobody. What the other proxy gets is not held
// up; what was sent meanwhile arrives.
func TestOutagePartitioned(t *testing.T) {
	t.Parallel()
	o := newOutage(t, nil)
	link := o.client.Link()
	link.Partition()
	o.WriteRaw("routes.yaml", []byte(answers(211)))
	o.othersHave(211)
	o.serves("not noticed", 210)
	// Who asks the proxy is told nevertheless.
	if info := string(o.client.Admin(http.MethodGet, "/server_info").Body); !strings.Contains(info, "the control plane has not answered for 1s") {
		t.Errorf("it does not say that what it has may be old: %s", info)
	}
	link.Heal()
	o.has(211)
	o.Eventually("it says that the control plane answers", func() error {
		if info := string(o.client.Admin(http.MethodGet, "/server_info").Body); !strings.Contains(info, "answeredAfter") {
			return errors.New(info)
		}
		return nil
	})
	if lines := o.Logged(o.mark, inClient); len(lines) > 0 {
		t.Errorf("an interruption that nobody noticed: %v", lines)
	}

	// Noticed: TCP has given up (which it does when the kernel decides, not this test), and
	// new connections come to nothing.
	link.Partition()
	link.Break()
	o.WriteRaw("routes.yaml", []byte(answers(212)))
	o.once(inClient, alone)
	o.serves("noticed", 211)
	o.once(inControl, "proxies came and went", "connected=1", "came=0", "went=1")
	link.Heal()
	o.has(212)
	o.back(inClient)
	if lines := o.Logged(o.mark, inServer); len(lines) > 0 {
		t.Errorf("the other proxy: %v", lines)
	}
	o.load.stop(t)
}

// A byte a second: too slow to say hello, much too slow for configuration.
func TestOutageSlow(t *testing.T) {
	t.Parallel()
	o := newOutage(t, nil)
	link := o.client.Link()
	link.Slow()
	o.WriteRaw("routes.yaml", []byte(answers(211)))
	o.othersHave(211)
	o.serves("the change is under way", 210)
	link.Break()
	o.once(inClient, alone)
	o.serves("handshakes are under way", 210)
	link.Heal()
	o.has(211)
	o.back(inClient)
	o.load.stop(t)
}

// othersHave waits until the other proxy of the mesh has accepted a change that the client
// cannot have.
func (o *outage) othersHave(status int) {
	o.t.Helper()
	o.Eventually(fmt.Sprintf("the other proxy has the route that answers %d", status), func() error {
		dump := o.pod.Admin(http.MethodGet, "/config_dump?resource=dynamic_route_configs")
		if dump.Err != nil || !strings.Contains(strings.Join(strings.Fields(string(dump.Body)), ""), fmt.Sprintf(`"status":%d`, status)) {
			return fmt.Errorf("it has not: %d bytes, error %w", len(dump.Body), dump.Err)
		}
		return nil
	})
}

// The state folder is damaged while the control plane is away: what protects the mesh is
// never made anew or left out, the rest costs a line.
func TestOutageStateFolderDamaged(t *testing.T) {
	t.Parallel()
	o := newOutage(t, nil)
	apply := func(text string) {
		t.Helper()
		r, err := o.API().Apply(context.Background(), []byte(text), false)
		if err != nil || r.Refused {
			t.Fatal(r, err)
		}
	}
	apply(peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	apply(virtualService("applied", "{hosts: [applied.example.com], http: [{directResponse: {status: 204}}]}"))
	o.Settle()
	strict := func(when string) {
		t.Helper()
		c, err := net.Dial("tcp", netip.AddrPortFrom(o.pod.IP(), 8080).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if r, err := (&kept{c, bufio.NewReader(c)}).ask(getEcho); err == nil {
			t.Errorf("%s: plaintext is answered: %v", when, r)
		}
	}
	strict("at first")
	state := filepath.Join(o.Dir, "state")

	o.begin()
	o.KillControl()
	o.once(inClient, alone)
	key := filepath.Join(state, "ca", "ca.pem")
	good, err := os.ReadFile(key)
	must(t, err)
	for what, spoil := range map[string]func() error{
		"damaged": func() error { return os.WriteFile(key, good[:len(good)/2], 0o600) },
		"gone":    func() error { return os.Remove(key) },
	} {
		must(t, spoil())
		if err := o.TryControl(); err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "restore") || strings.Contains(err.Error(), "\n") {
			t.Errorf("the key is %s: %v", what, err)
		}
		must(t, os.WriteFile(key, good, 0o600))
	}
	o.serves("while it does not start", 210)

	// Everything else at once.
	for _, dir := range []string{"applied", "lastgood", "registry"} {
		files, err := filepath.Glob(filepath.Join(state, dir, "*"))
		must(t, err)
		for i, f := range files {
			must(t, os.WriteFile(f, [][]byte{nil, []byte("\x00\x00\x00"), []byte("{[,")}[i%3], 0o600))
		}
	}
	o.WriteRaw("routes.yaml", []byte(answers(211)))
	o.StartControl()
	o.has(211)
	strict("after the damage")
	o.back(inClient)
	o.once(inControl, "configuration in force")
	o.once(inControl, "errors in the configuration", "first=", "remedy=")
	o.once(inControl, "last good versions cannot be used", "files=")
	o.once(inControl, "virtual addresses of services may have changed", "services.json", "remedy=")
	o.serves("after the damage", 211)
	apply(peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	apply(virtualService("applied", "{hosts: [applied.example.com], http: [{directResponse: {status: 204}}]}"))
	o.once(inControl, "errors in the configuration are gone", "all=0")
	strict("after the repair")
	o.load.stop(t)
}

// Garbage of many kinds, in a hundred files: one line, and what is good is in force as ever.
func TestOutageGarbage(t *testing.T) {
	t.Parallel()
	o := newOutage(t, nil)
	const objects, files = 1000, 100
	dir, made := filepath.Join(o.Dir, "config", "garbage"), filepath.Join(o.Dir, "garbage")
	must(t, os.Mkdir(made, 0o700))
	for i := range files {
		var text []string
		for n := i; n < objects; n += files {
			text = append(text, garbage.Object(n))
		}
		must(t, os.WriteFile(filepath.Join(made, fmt.Sprintf("%d.yaml", i)), []byte(documents(text...)), 0o600))
	}
	must(t, os.Rename(made, dir)) // all at once: of what comes later there is another line later
	o.once(inControl, "errors in the configuration", "first=", "remedy=")
	o.serves("garbage", 210)
	o.WriteRaw("routes.yaml", []byte(answers(211)))
	o.has(211)
	o.begin()
	o.KillControl()
	o.StartControl()
	o.WriteRaw("routes.yaml", []byte(answers(212)))
	o.has(212)
	o.once(inControl, "configuration in force")
	o.once(inControl, "errors in the configuration")
	must(t, os.RemoveAll(dir))
	o.once(inControl, "errors in the configuration are gone", "all=0")
	o.serves("the garbage is removed", 212)
	if lines := o.Logged(o.mark, "level=ERROR"); len(lines) > 0 {
		t.Error(lines)
	}
	o.load.stop(t)
}

// Half of fifty replicas go while there is no control plane, which is half of a rollout; the others after it has come back, one by one, each for one
// that is new. No request fails, although callers are not told who went.
func TestFiftyReplicasAreReplacedAroundAnOutage(t *testing.T) {
	t.Parallel()
	const replicas = 50
	m, client, _ := echoMesh(t, nil)
	var running []*httptest.Server // by address, all of one workload's network: there are not networks enough for fifty
	start := func() *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(s.Close)
		return s
	}
	entry := func() string {
		var b strings.Builder
		b.WriteString("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: many}\nspec:\n  hosts: [many.example]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  endpoints:\n")
		for _, s := range running {
			at := netip.MustParseAddrPort(s.Listener.Addr().String())
			fmt.Fprintf(&b, "  - {address: %s, ports: {http: %d}}\n", at.Addr(), at.Port())
		}
		return b.String()
	}
	for range replicas {
		running = append(running, start())
	}
	known := func(when string) {
		t.Helper()
		var want []string
		for _, s := range running {
			want = append(want, s.Listener.Addr().String())
		}
		slices.Sort(want)
		m.Eventually(when, func() error {
			all := client.Endpoints("outbound|80||many.example")
			if slices.Sort(all); !slices.Equal(all, want) {
				return fmt.Errorf("it knows %v", all)
			}
			return nil
		})
	}
	m.Config("many.yaml", entry())
	known("the client's proxy knows all")
	load := startLoad(t, client, 4, "http://many.example/")
	load.noneFailed(t, "before")
	m.KillControl()
	for _, s := range running[:replicas/2] {
		s.Close()
		load.await(20)
	}
	known("nobody has told it who went")
	load.noneFailed(t, "half of them are gone, and nobody said so")
	for i := range replicas / 2 {
		running[i] = start()
	}
	m.WriteRaw("many.yaml", []byte(entry()))
	m.StartControl()
	known("the control plane has come back")
	for i := replicas / 2; i < replicas; i++ {
		old := running[i]
		running[i] = start()
		m.Write("many.yaml", entry())
		old.Close() // the proxy may not have heard yet
		load.await(20)
	}
	known("all are new")
	load.stop(t)
}
