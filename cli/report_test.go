package cli

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/up"
	"github.com/weirmesh/weir/mesh"
)

// What a person sees when a mesh is up: what to open first, what is not right, and of many
// findings those that must not be missed.
func TestStartUpTable(t *testing.T) {
	at := func(line int) mesh.Ref {
		return mesh.Ref{Kind: "Deployment", Namespace: "default", Name: "db", File: "a.yaml", Line: line}
	}
	r := &up.Report{
		Capture: up.CaptureEnv, Why: "as asked", API: "http://127.0.0.1:15014", Ingress: "http://127.0.0.1:8080",
		Watching: []string{"a.yaml", "b", "c", "d", "e"}, Demo: "bookinfo", Stdin: true, Applied: 2,
		URLs: []up.URL{{URL: "http://127.0.0.1:8080/productpage"}, {URL: "http://127.0.0.1:8080/", Host: "shop.example.com"}},
		Services: []up.ServiceReport{
			{Namespace: "default", Name: "reviews", Ports: []uint16{9080, 9090}, Versions: []string{"v1", "v2"}, Workloads: []string{"reviews-v1-0", "reviews-v2-0"}, Ready: 2},
			{Namespace: "default", Name: "late", Ports: []uint16{80}, Workloads: []string{"late-0"}},
			{Namespace: "shop", Name: "nobody", Ports: []uint16{80}},
		},
		Workloads: []pod.Info{{Namespace: "default", Name: "reviews-v1-0", Ready: true}, {Namespace: "default", Name: "reviews-v2-0", Ready: true}, {Namespace: "default", Name: "late-0", Message: "accepts no connections on port 80"}},
	}
	for n := range 11 {
		r.Findings = append(r.Findings, config.New(config.ReferenceNotFound, at(n+1), "", n+1, "something is missing", ""))
	}
	r.Findings = append(r.Findings, config.New(config.KindNotEnforced, mesh.Ref{Kind: "AuthorizationPolicy", Namespace: "default", Name: "deny", File: "z.yaml", Line: 3}, "", 3, "is not enforced in this version", "do not rely on it"))
	want := `
The mesh is up.  2 of 3 workloads ready, env capture (as asked)

SERVICE      PORTS      VERSIONS  WORKLOADS
reviews      9080,9090  v1,v2     reviews-v1-0 reviews-v2-0
late         80         -         late-0 (0 ready)
shop/nobody  80         -         none

not ready: default/late-0: accepts no connections on port 80

open           http://127.0.0.1:8080/productpage
               http://127.0.0.1:8080/  (curl -H 'Host: shop.example.com')
ingress        http://127.0.0.1:8080
control plane  http://127.0.0.1:15014
configuration  a.yaml, b, c, 2 more  (watched; ` + "`weir apply -f FILE`" + ` works, too)
               standard input
               demo bookinfo  (` + "`weir apply -f FILE`" + ` changes it)
               2 objects applied earlier  (` + "`weir get all` shows them, `weir delete`" + ` removes them)
see also       weir status, weir why (what failed), weir logs, weir exec WORKLOAD -- COMMAND; Ctrl-C ends the mesh

12 errors, no warnings in the configuration:
a.yaml
     1  error    IST0101   Deployment default/db: something is missing
     2  error    IST0101   Deployment default/db: something is missing
     3  error    IST0101   Deployment default/db: something is missing
     4  error    IST0101   Deployment default/db: something is missing
     5  error    IST0101   Deployment default/db: something is missing
     6  error    IST0101   Deployment default/db: something is missing
     7  error    IST0101   Deployment default/db: something is missing
     8  error    IST0101   Deployment default/db: something is missing
     9  error    IST0101   Deployment default/db: something is missing

z.yaml
     3  error    WEIR0008  AuthorizationPolicy default/deny: is not enforced in this version
                           -> do not rely on it
and 2 more: ` + "`weir status`" + ` shows all

`
	var out bytes.Buffer
	(&printer{w: &out}).mesh(r)
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestListenAddress(t *testing.T) {
	for s, want := range map[string]string{
		"127.0.0.1:9000": "127.0.0.1:9000", "localhost:9000": "127.0.0.1:9000", ":9000": "127.0.0.1:9000", "[::1]:9000": "[::1]:9000", "0.0.0.0:80": "0.0.0.0:80",
		"127.0.0.1:0": "", "9000": "", "example.com:80": "", "127.0.0.1:http": "", "": "",
	} {
		got, err := listenAddress("--http", s)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: %v, %v, want %q", s, got, err, want)
		}
	}
}
