package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/test/mesh"
)

// earlier are versions that are still to work with what is here, the last two minor ones (docs/operations.md), each by the commit
// that it was; 0.1 is the first that ran in a cluster. A release adds itself, and takes the oldest away.
var earlier = []struct{ version, commit string }{
	{"0.1", "553e195f59e29f0500097cd82919c232584ee9a8"},
	{"0.2", "eb4a360fddb630d2e54ce1230b4cbe6b30588665"},
}

// programs builds weir-proxy and weir-control as they were at a commit. It needs the history.
func programs(t *testing.T, commit string) (proxy, control string) {
	t.Helper()
	if os.Getenv("WEIR_SKEW") == "" {
		t.Skip("programs of earlier versions are built by make skew: minutes the first time")
	}
	source, bin := t.TempDir(), t.TempDir()
	tree, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "archive", commit).Output()
	if err != nil {
		t.Skipf("the history does not go back to %s (a shallow clone?): %v", commit, err)
	}
	unpack := exec.CommandContext(t.Context(), "tar", "-x", "-C", source)
	unpack.Stdin = bytes.NewReader(tree)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-o", bin+"/", "./cmd/weir-proxy", "./cmd/weir-control")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", commit, err, out)
	}
	return filepath.Join(bin, "weir-proxy"), filepath.Join(bin, "weir-control")
}

// skewed is a mesh whose workloads have proxies of two versions, and call one another all the time.
type skewed struct {
	*mesh.Mesh
	t     *testing.T
	all   []*mesh.Workload
	loads []*load
}

// both is a workload that calls and is called.
func both(name, binary string) mesh.Spec {
	return mesh.Spec{Name: name + "-0", Owner: name, ServiceAccount: name, Labels: map[string]string{"app": name}, Binary: binary,
		Ports: []mesh.Port{{Name: "http", Number: 8080}, {Name: "tcp", Number: 9000}}, Program: []string{"echo", "--port", "8080", "--tcp-port", "9000", "--version", name}}
}

func bothService(name string) string {
	return strings.NewReplacer("name: echo", "name: "+name, "app: echo", "app: "+name).Replace(echoService)
}

// noneFailed says that all of them call all others.
func (s *skewed) noneFailed(doing string) {
	s.t.Helper()
	for _, l := range s.loads {
		l.noneFailed(s.t, doing)
	}
}

// pairs calls a path of each from each.
func (s *skewed) pairs(path string, judge func(from, to *mesh.Workload, r *mesh.Response) error) {
	s.t.Helper()
	for _, from := range s.all {
		for _, to := range s.all {
			if err := judge(from, to, from.Get("http://"+to.Owner+":8080"+path)); err != nil {
				s.t.Errorf("%s calls %s at %s: %v", from.Name, to.Name, path, err)
			}
		}
	}
}

func statusIs(want int) func(from, to *mesh.Workload, r *mesh.Response) error {
	return func(_, _ *mesh.Workload, r *mesh.Response) error {
		if r.Status != want {
			return fmt.Errorf("%v, want %d", r, want)
		}
		return nil
	}
}

// hears says a line by TCP, and hears it.
func hears(from *mesh.Workload, to string) error {
	c, err := from.Dial(context.Background(), to)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("hear me\n"))
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && line != "hear me\n" {
		err = fmt.Errorf("it hears %q", line)
	}
	return err
}

// works shows that what a mesh is for is done: identities, routes that are sent, policies, certificates that are renewed. n tells
// one time from another.
func (s *skewed) works(n int) {
	s.t.Helper()
	s.pairs("/", func(from, to *mesh.Workload, r *mesh.Response) error {
		if r.Status != http.StatusOK {
			return fmt.Errorf("%v", r)
		}
		if got := r.Report(s.t); got.Identity != from.ID() || got.Version != to.Owner {
			return fmt.Errorf("%s answers, for %q", got.Version, got.Identity)
		}
		return nil
	})
	for _, from := range s.all {
		for _, to := range s.all {
			if err := hears(from, to.Owner+":9000"); err != nil {
				s.t.Errorf("%s talks to %s: %v", from.Name, to.Name, err)
			}
		}
	}
	s.noneFailed("over mutual TLS")

	var routes, policies []string
	for _, w := range s.all {
		routes = append(routes, virtualService(w.Owner, fmt.Sprintf(`{hosts: [%[1]s], http: [{match: [{uri: {prefix: /status-%[2]d}}], directResponse: {status: 21%[2]d}},
  {match: [{uri: {prefix: /rewritten}}], rewrite: {uri: /denied-%[2]d}, route: [{destination: {host: %[1]s, port: {number: 8080}}}]},
  {timeout: 5s, retries: {attempts: 2, retryOn: "connect-failure,refused-stream,503"}, headers: {request: {set: {x-round: "%[2]d"}}}, route: [{destination: {host: %[1]s, port: {number: 8080}}}]}]}`, w.Owner, n)),
			destinationRule(w.Owner, fmt.Sprintf("{host: %s, trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}, connectionPool: {http: {http2MaxRequests: %d}}, outlierDetection: {consecutive5xxErrors: 50}}}", w.Owner, 500+n)))
		policies = append(policies, authorizationPolicy(w.Owner, fmt.Sprintf("{selector: {matchLabels: {app: %s}}, action: DENY, rules: [{to: [{operation: {ports: ['8080'], paths: [/denied-%d]}}]}, {from: [{source: {principals: [cluster.local/ns/default/sa/%s]}}], to: [{operation: {ports: ['8080'], paths: [/mine]}}]}]}", w.Owner, n, s.all[0].ServiceAccount)))
	}
	s.Config("routes.yaml", documents(routes...))
	s.pairs(fmt.Sprintf("/status-%d", n), statusIs(210+n))
	s.pairs("/", func(_, _ *mesh.Workload, r *mesh.Response) error {
		if !bytes.Contains(r.Body, []byte("X-Round")) && !bytes.Contains(r.Body, []byte("x-round")) {
			return fmt.Errorf("no header is set: %v", r)
		}
		return nil
	})
	s.noneFailed("with other routes")

	s.Config("policies.yaml", documents(policies...))
	s.pairs(fmt.Sprintf("/denied-%d", n), statusIs(http.StatusForbidden))
	s.pairs("/rewritten", statusIs(http.StatusForbidden))
	s.pairs("/mine", func(from, _ *mesh.Workload, r *mesh.Response) error {
		if want := map[bool]int{true: http.StatusForbidden, false: http.StatusOK}[from == s.all[0]]; r.Status != want {
			return fmt.Errorf("%v, want %d", r, want)
		}
		return nil
	})
	s.noneFailed("with policies")

	for _, w := range s.all {
		before := serial(s.t, w)
		s.Eventually("the certificate of "+w.Name+" is renewed", func() error {
			if now, err := w.Serial(); err != nil || now == before {
				return errors.Join(err, errors.New("it is the same"))
			}
			return nil
		})
	}
	s.pairs("/", statusIs(http.StatusOK))
	s.noneFailed("with new certificates")
}

// replaced has another pod of each come, and go again.
func (s *skewed) replaced(specs ...mesh.Spec) {
	s.t.Helper()
	for i := range specs {
		specs[i].Name = specs[i].Owner + "-1"
	}
	for _, w := range s.Workloads(specs...) {
		w.End()
	}
	s.noneFailed("while pods come and go")
}

// A proxy of an earlier version goes on working at today's control plane, among today's proxies: traffic in each direction, routes,
// policies, certificates, pods that end. So does today's proxy at a control plane of an earlier version, to which an upgrade that is
// taken back leads, and which begins with what today's has kept.
func TestEarlierVersions(t *testing.T) {
	const life = 12 * time.Second // of certificates
	for _, v := range earlier {
		t.Run(v.version, func(t *testing.T) {
			proxy, plane := programs(t, v.commit)
			m := mesh.New(t, func(o *control.Options) { o.CertTTL = life })
			m.Write("strict.yaml", strings.Replace(peerAuthentication("default", "{mtls: {mode: STRICT}}"), "{name: default}", "{name: default, namespace: istio-system}", 1))
			m.Config("services.yaml", documents(bothService("old"), bothService("new")))
			s := &skewed{Mesh: m, t: t, all: m.Workloads(both("old", proxy), both("new", ""))}
			for _, from := range s.all {
				for _, to := range s.all {
					s.loads = append(s.loads, startLoadOf(t, 1, 5*time.Millisecond, func() *mesh.Response { return from.Get("http://" + to.Owner + ":8080/") }, func(r *mesh.Response) error {
						if r.Status != http.StatusOK {
							return fmt.Errorf("%v", r)
						}
						return nil
					}))
				}
			}
			s.works(1)
			s.replaced(both("old", proxy), both("new", ""))

			m.StopControl()
			m.ControlBinary(plane, "--cert-ttl", life.String())
			m.StartControl()
			m.Settle()
			s.noneFailed("while the control plane is replaced by the earlier one")
			s.works(2)
			s.replaced(both("old", proxy), both("new", ""))

			m.StopControl()
			m.ControlBinary()
			m.StartControl()
			m.Settle()
			s.works(3)
			for _, l := range s.loads {
				l.stop(t)
			}

			// What a program of one version has kept, one of the other begins with, or does without.
			for _, w := range s.all {
				w.StopProxy()
			}
			s.all[0].Binary, s.all[1].Binary = "", proxy
			for _, w := range s.all {
				w.StartProxy()
			}
			m.Settle()
			s.loads = nil
			s.works(4)
		})
	}
}
