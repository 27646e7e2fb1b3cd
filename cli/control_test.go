package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/mesh"
)

const virtualService = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews.example.com]
  http: [{timeout: %s, route: [{destination: {host: reviews}}]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
`

// controlPlane runs a real control plane on a state folder, without proxies.
func controlPlane(t *testing.T, paths ...string) (state string, c *client.Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	state = t.TempDir()
	p, err := control.New(control.Options{Version: "v1.0.0", State: state, Paths: paths, HTTP: []net.Listener{l}, Token: redact.New("sesame"),
		Settings: mesh.Settings{DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	write(t, client.LockFile(state), fmt.Sprintf(`{"pid":1,"http":%q}`, l.Addr()))
	write(t, filepath.Join(state, "token"), "sesame")
	c, err = client.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	return state, c
}

// analyzedStatus waits until the control plane has read and analyzed its files.
func analyzedStatus(t *testing.T, c *client.Client) *apiv1.Status {
	t.Helper()
	for {
		s, err := c.Status(t.Context())
		if err == nil && s.Analyzed {
			return s
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// The same files have the same findings in a mesh and without one.
func TestSameFindings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "all.yaml")
	write(t, path, `apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: revews}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: broken}
spec: {hosts: 7}
---
kind: [
`)
	_, c := controlPlane(t, path)
	want := analyzedStatus(t, c).Findings
	var got []apiv1.Finding
	out := weir(t, t.TempDir(), "analyze", "-f", path, "-o", "json")
	if err := json.Unmarshal([]byte(strings.TrimSuffix(out, "exit 1\n")), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) < 4 {
		t.Errorf("%d findings (-mesh +analyze):\n%s", len(got), diff)
	}
}

// subsetOfNobody is right by itself and wrong beside all others.
const subsetOfNobody = `# a comment
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v9}
`

// The commands against a real control plane: what is applied is in force when the
// command returns, and gone when it was deleted.
func TestControlPlane(t *testing.T) {
	dir := t.TempDir()
	watched := filepath.Join(dir, "services.yaml")
	write(t, watched, "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {ports: [{name: http, port: 9080}]}\n")
	state, c := controlPlane(t, watched)
	analyzedStatus(t, c)

	for _, step := range []struct {
		write string // vs.yaml before
		args  string
		want  string // output and, if not 0, exit status
	}{
		{fmt.Sprintf(virtualService, "3s"), "apply -f DIR/vs.yaml", "VirtualService default/reviews created\nNamespace shop created\nno proxy is connected\n"},
		{"", "get vs", "NAME     STATE     SINCE  ACTIVE  FROM\nreviews  compiled  Ns     -       weir apply\n"},
		{"", "apply -f DIR/vs.yaml", "VirtualService default/reviews unchanged\nNamespace shop unchanged\nno proxy is connected\n"},
		{fmt.Sprintf(virtualService, "4s"), "apply -f DIR/vs.yaml --dry-run", "VirtualService default/reviews configured\nNamespace shop unchanged\nnothing was changed: it was a dry run\n"},
		{"", "apply -f DIR/vs.yaml", "VirtualService default/reviews configured\nNamespace shop unchanged\nno proxy is connected\n"},
		{fmt.Sprintf(virtualService, "soon"), "apply -f DIR/vs.yaml", "VirtualService default/reviews refused\nNamespace shop not applied\n\n" +
			"DIR/vs.yaml\n     6  error    IST0106   VirtualService default/reviews, spec.http[0].timeout: \"soon\" is not a duration\n" +
			"                           -> a duration is a number with a unit: \"1.5s\", \"200ms\", \"1h\"\n\nnothing was changed\nexit 1\n"},
		{subsetOfNobody, "apply -f DIR/vs.yaml", "VirtualService default/reviews configured\nno proxy is connected\n\n" +
			"DIR/vs.yaml\n    10  error    IST0101   VirtualService default/reviews, spec.http[0].route[0].destination.subset: subset v9 of reviews.default is not defined\n" +
			"                           -> apply a DestinationRule for reviews.default that defines it\n"},
		{"", "get namespaces -o name", "namespace/shop\n"},
		{"", "delete vs/reviews ns/shop", "VirtualService default/reviews deleted\nNamespace shop deleted\nno proxy is connected\n"},
		{"", "delete vs reviews", "error: there is no VirtualService default/reviews\n hint: `weir get VirtualService` lists those there are\nexit 1\n"},
		{"", "delete svc reviews", "error: Service default/reviews stands in DIR/services.yaml:1\n hint: remove it there; the file is watched\nexit 1\n"},
		{"", "get all -o name", "service/default/reviews\n"},
	} {
		if step.write != "" {
			write(t, filepath.Join(dir, "vs.yaml"), step.write)
		}
		got := strings.ReplaceAll(weir(t, state, strings.Fields(strings.ReplaceAll(step.args, "DIR", dir))...), dir, "DIR")
		if diff := cmp.Diff(step.want, regexp.MustCompile(` [0-9]s `).ReplaceAllString(got, " Ns ")); diff != "" {
			t.Errorf("weir %s (-want +got):\n%s", step.args, diff)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// weir runs a command line in this process and returns everything it prints.
func weir(t *testing.T, state string, args ...string) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if exit := Main(t.Context(), Options{Args: args, State: state, Stdin: os.Stdin, Stdout: out, Stderr: out}); exit != 0 {
		_, _ = fmt.Fprintf(out, "exit %d\n", exit)
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
