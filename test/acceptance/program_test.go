//go:build linux

package acceptance_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// roles are what this test's program is when a mesh runs it as a workload: unmodified
// programs, which know nothing of a mesh.
var roles = map[string]func() error{
	// stubborn listens on 0.0.0.0:9080 whatever it is told, and fetches ?url=.
	"stubborn": func() error { return relay("0.0.0.0:9080") },
	// confine is who is called weir-proxy.
	"confine": confine,
	// two is two callers at once.
	"two": two,
	// brief answers one request a connection, quotes no HTTP/2.
	"brief": brief, "quotes": quotes,
	// polite listens where PORT and BIND_ADDRESS say.
	"polite": func() error {
		return relay(net.JoinHostPort(os.Getenv("BIND_ADDRESS"), cmp.Or(os.Getenv("PORT"), "9080")))
	},
}

// relay answers what the URL in the query answers. $NAME in it is a variable of its own.
func relay(addr string) error {
	client := &http.Client{Timeout: 10 * time.Second}
	s := &http.Server{Addr: addr, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		url := os.Expand(r.URL.Query().Get("url"), os.Getenv)
		if url == "" {
			fmt.Fprintln(w, "here")
			return
		}
		a, err := client.Get(url)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer a.Body.Close()
		w.WriteHeader(a.StatusCode)
		_, _ = io.Copy(w, a.Body)
	})}
	return s.ListenAndServe()
}

// relayYAML is a Deployment of it, with a route through the ingress.
func relayYAML(m *mesh, role string) string { return programYAML(m, "relay", role, 9080) + relayRoute }

func programYAML(m *mesh, name, role string, port int) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {selector: {app: %[1]s}, ports: [{name: http, port: %[4]d}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
      - name: main
        image: example.com/program
        command: [%[2]q]
        env: [{name: ACCEPTANCE_PROGRAM, value: %[3]s}]
        ports: [{containerPort: %[4]d}]
---
`, name, filepath.Join(m.bin, "program"), role, port)
}

const relayRoute = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: relay}
spec:
  hosts: ["*"]
  gateways: [bookinfo]
  http:
  - match: [{uri: {prefix: /relay}}]
    route: [{destination: {host: relay, port: {number: 9080}}}]
`

// fetch lets the relay ask a URL.
func (m *mesh) fetch(url string) (int, string, error) {
	r, err := m.client.Get("http://" + m.ingress + "/relay?url=" + strings.ReplaceAll(url, "&", "%26"))
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

const ratingsAnswer = `"Reviewer1":5`

// A program that knows nothing of a mesh is reached, and reaches services by their names
// and the world outside; as root and as anybody.
func TestUnmodifiedProgramsWorkInNamespaces(t *testing.T) {
	outside := hostServer(t)
	for name, user := range map[string]uint32{"as the user": 0, "unprivileged": unprivileged} {
		t.Run(name, func(t *testing.T) {
			long(t)
			m := prepare(t, options{user: user, args: []string{"--demo", "bookinfo"}})
			m.write("relay.yaml", relayYAML(m, "stubborn"))
			m.up()
			for _, url := range []string{
				"http://ratings:9080/ratings/0",
				"http://ratings.default:9080/ratings/0",
				"http://ratings.default.svc.cluster.local:9080/ratings/0",
				"http://$RATINGS_SERVICE_HOST:$RATINGS_SERVICE_PORT/ratings/0",
			} {
				if code, body, err := m.fetch(url); code != http.StatusOK || !strings.Contains(body, ratingsAnswer) {
					t.Errorf("%s: %d %s %v", url, code, body, err)
				}
			}
			if outside == "" {
				t.Log("this machine has no address but the loopback: outside is not tried")
			} else if code, body, err := m.fetch(outside); code != http.StatusOK || body != "outside" {
				t.Errorf("%s: %d %s %v", outside, code, body, err)
			}
			if code, body, _ := m.fetch("http://nobody.example.invalid/"); code < 500 {
				t.Errorf("a name nobody has: %d %s", code, body)
			}
		})
	}
}

// teapotYAML lets nobody call without mTLS, and shows whose routes a call of ratings takes.
const teapotYAML = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
  - match: [{uri: {exact: /teapot}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: ratings}}]
`

// Without namespaces, a program that listens where it is told works, on ports that need
// root, too, and calls services by their names, over mTLS and by its routes; one that
// listens elsewhere is reported with the remedy.
func TestProgramsCooperateWithoutNamespaces(t *testing.T) {
	outside := hostServer(t)
	for _, c := range []struct {
		name string
		user uint32
		args []string
	}{
		{"as the user", 0, nil},
		{"unprivileged", unprivileged, nil},
		{"as on a Mac", 0, []string{"--one-address"}},
		{"as on a Mac, unprivileged", unprivileged, []string{"--one-address"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			long(t)
			m := prepare(t, options{user: c.user, capture: "env", args: append([]string{"--demo", "bookinfo"}, c.args...)})
			m.write("relay.yaml", relayYAML(m, "polite"))
			m.write("low.yaml", programYAML(m, "low", "polite", 80))
			m.write("strict.yaml", teapotYAML)
			m.up()
			m.sees()
			if code, body, err := m.fetch("http://ratings:9080/teapot"); code != http.StatusTeapot {
				t.Errorf("not by the route of its VirtualService: %d %s %v", code, body, err)
			}
			if code, body, _ := m.fetch("http://ratings:81/"); code != http.StatusBadGateway || !strings.Contains(body, "has no port 81, only 9080") {
				t.Errorf("a port that ratings does not have: %d %s", code, body)
			}
			if outside != "" {
				if code, body, err := m.fetch(outside); code != http.StatusOK || body != "outside" {
					t.Errorf("%s: %d %s %v", outside, code, body, err)
				}
			}
			if curl, err := exec.LookPath("curl"); err != nil {
				t.Log("there is no curl: not tried")
			} else if got := m.must("exec", "relay", "--", curl, "-sS", "http://ratings:9080/ratings/0"); !strings.Contains(got, ratingsAnswer) {
				t.Errorf("curl prints %s", got)
			}
			for url, want := range map[string]string{
				"http://ratings:9080/ratings/0":                           ratingsAnswer,
				"http://ratings.default:9080/ratings/0":                   ratingsAnswer,
				"http://ratings.default.svc.cluster.local:9080/ratings/0": ratingsAnswer,
				"http://low/": "here",
				"http://$RATINGS_SERVICE_HOST:$RATINGS_SERVICE_PORT/ratings/0": ratingsAnswer,
				"http://$LOW_SERVICE_HOST:$LOW_SERVICE_PORT_HTTP/":             "here",
			} {
				if code, body, err := m.fetch(url); code != http.StatusOK || !strings.Contains(body, want) {
					t.Errorf("%s: %d %s %v", url, code, body, err)
				}
			}
			if c.user != 0 || c.args != nil {
				return // port 9080 may be another's
			}
			m.write("relay.yaml", relayYAML(m, "stubborn"))
			wait(t, patience, "the report of a program that ignores PORT", func() error {
				if s := m.logs.String(); !strings.Contains(s, "$BIND_ADDRESS") && !strings.Contains(s, "BIND_ADDRESS") {
					return errors.New("nothing is said")
				}
				return nil
			})
			for line := range strings.Lines(m.logs.String()) {
				if strings.Contains(line, "BIND_ADDRESS") {
					t.Log(strings.TrimSpace(line))
				}
			}
			m.sees()
		})
	}
}

// hostServer listens on an address of this machine that is not the loopback's, "" if there is none.
func hostServer(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLoopback() || n.IP.To4() == nil {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0"))
		if err != nil {
			continue
		}
		s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "outside") })}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		return "http://" + l.Addr().String() + "/"
	}
	return ""
}
