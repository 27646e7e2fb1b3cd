//go:build linux

package acceptance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/internal/locked"
)

const reviewsV3 = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route: [{destination: {host: reviews, subset: v3}}]
`

// Bad input of every kind, dropped into the watched folder while traffic flows, is
// reported with its place and hurts nobody; what was good before stays in force.
func TestBadInputIsReportedAndHurtsNobody(t *testing.T) {
	long(t)
	m := start(t, options{args: []string{"--demo", "bookinfo"}, files: map[string]string{"reviews.yaml": reviewsV3}})
	l := &load{}
	ctx, cancel := context.WithCancel(t.Context())
	var loading sync.WaitGroup
	loading.Go(func() { l.run(ctx, m, 50) })
	defer func() {
		cancel()
		loading.Wait()
		l.report(t)
	}()
	billion := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		billion += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	reviewsV2 := strings.Replace(reviewsV3, "subset: v3", "subset: v2", 1) // with v2: it was read
	policy := "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: deny}\nspec: {configPatches: []}\n"
	for _, c := range []struct {
		name, text, code, severity string
		lastGood                   bool // of reviews, whose file this is
	}{
		{"unknown field", strings.Replace(reviewsV3, "  http:", "  htpp: []\n  http:", 1), "IST0106", "error", true},
		{"wrong type", strings.Replace(reviewsV3, "[reviews]", "{a: b}", 1), "IST0106", "error", true},
		{"invalid value", strings.Replace(reviewsV3, "subset: v3}", "subset: v3}, weight: -1", 1), "IST0106", "error", true},
		{"no YAML", "spec: [\n\t{", "WEIR0002", "error", true},
		{"unknown kind", "apiVersion: networking.istio.io/v1\nkind: VirtualServise\nmetadata: {name: a}\n", "WEIR0007", "", false},
		{"Kubernetes' own", "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a}\n", "WEIR0009", "info", false},
		{"not enforced yet", policy, "WEIR0008", "error", false},
		{"duplicate", reviewsV3 + "---\n" + reviewsV3, "WEIR0005", "", false},
		{"billion laughs", billion, "WEIR0003", "error", false},
		{"50 MB", "# " + strings.Repeat("x", 50<<20) + "\n" + "a: b\n", "", "", false},
		{"empty", "", "", "", false},
		{"CRLF", strings.ReplaceAll(reviewsV2, "\n", "\r\n"), "", "", false},
		{"anchors", strings.Replace(strings.Replace(reviewsV2, "hosts: [reviews]", "hosts: [&h reviews]", 1), "host: reviews,", "host: *h,", 1), "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := "bad.yaml"
			if c.lastGood || strings.Contains(c.text, "name: reviews") {
				file = "reviews.yaml"
			}
			m.write(file, c.text)
			var found apiv1.Finding
			wait(t, patience, "the finding "+c.code, func() error {
				fs := m.findings()
				at := func(f apiv1.Finding) bool {
					return filepath.Base(f.File) == file && (c.code == "" || f.Code == c.code)
				}
				i := slices.IndexFunc(fs, at)
				if c.code == "" {
					return nil
				}
				if i < 0 {
					return fmt.Errorf("there are %+v", fs)
				}
				found = fs[i]
				return nil
			})
			if c.code != "" {
				t.Logf("%s %s %s/%s %s:%d %s: %s (%s)", found.Code, found.Severity, found.Kind, found.Name, filepath.Base(found.File), found.Line, found.Field, found.Message, found.Hint)
				if c.severity != "" && found.Severity != c.severity {
					t.Errorf("severity is %s, want %s", found.Severity, c.severity)
				}
				if found.Line == 0 && c.code != "WEIR0003" {
					t.Error("it has no line")
				}
			}
			want := "v3" // the last good version
			if strings.Contains(c.text, "subset: v2") {
				want = "v2"
				wait(t, patience, "the change", func() error {
					if p := m.sees(); p.version != want {
						return fmt.Errorf("reviews %s is shown", p.version)
					}
					return nil
				})
			}
			for range 10 {
				if p := m.sees(); p.version != want {
					t.Fatalf("reviews %s is shown, want %s", p.version, want)
				}
			}
			r := m.weir("analyze", "-f", filepath.Join(m.config, file))
			if status := map[string]int{"error": 1}[found.Severity]; r.code != status && c.code != "" {
				t.Errorf("weir analyze: want exit status %d, got %v", status, r)
			}
			if file == "bad.yaml" {
				m.remove(file)
			} else {
				m.write(file, reviewsV3)
			}
			wait(t, patience, "the end of the findings", func() error {
				for _, f := range m.findings() {
					if f.Severity == "error" {
						return fmt.Errorf("still %+v", f)
					}
				}
				if p := m.sees(); p.version != "v3" {
					return fmt.Errorf("reviews %s is shown", p.version)
				}
				return nil
			})
		})
	}
}

// The commands of the tour do what they say.
func TestCommands(t *testing.T) {
	long(t)
	m := start(t, options{args: []string{"--demo", "bookinfo"}})
	says := func(want string, args ...string) {
		t.Helper()
		if out := m.must(args...); !strings.Contains(out, want) {
			t.Errorf("weir %s does not say %q:\n%s", strings.Join(args, " "), want, out)
		}
	}
	says("all is well", "status", "--check")
	var s apiv1.Status
	if err := json.Unmarshal([]byte(m.must("status", "-o", "json")), &s); err != nil || len(s.Proxies) != 7 {
		t.Errorf("status -o json: %v, %d proxies", err, len(s.Proxies))
	}
	says("proxies:", "status", "-o", "yaml")
	v3 := m.file("v3.yaml", reviewsV3)
	m.sees() // who has not called a service does not need its routes
	says("proxies that need it after", "apply", "-f", v3)
	for range 10 {
		if p := m.sees(); p.version != "v3" {
			t.Fatalf("reviews %s is shown", p.version)
		}
	}
	says("reviews", "get", "virtualservices")
	says("subset: v3", "get", "vs/reviews", "-o", "raw")
	says("deleted", "delete", "vs", "reviews")
	if r := m.weir("delete", "vs", "bookinfo"); r.code != 1 {
		t.Errorf("deleting what stands in a file: %v", r)
	}
	bad := m.file("bad.yaml", strings.Replace(reviewsV3, "hosts", "hots", 1))
	if r := m.weir("apply", "-f", bad); r.code != 1 || !strings.Contains(r.out, "bad.yaml") || !strings.Contains(r.out, "hots") {
		t.Errorf("applying an error: %v", r)
	}
	says("nameserver", "exec", "reviews-v1", "--", "cat", "/etc/resolv.conf")
	says("listening", "logs", "reviews-v1-0")
	m.sees()
	says("GET /reviews/0", "logs", "productpage-v1-0", "--proxy")
	if r := m.weir("exec", "reviews-v1", "--", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exec does not pass the exit status on: %v", r)
	}

	// A program of the user's joins, serves, and is gone when it ends.
	run := m.command(t.Context(), "run", "--as", "default/relay", "--port", "http=9080", "--", filepath.Join(m.bin, "program"))
	run.Env = append(run.Env, "ACCEPTANCE_PROGRAM=stubborn")
	out := &locked.Buffer{}
	run.Stdout, run.Stderr = out, out
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	m.apply("apiVersion: v1\nkind: Service\nmetadata: {name: relay}\nspec: {selector: {app: relay}, ports: [{name: http, port: 9080}]}\n")
	m.apply(relayRoute)
	wait(t, patience, "an answer of the program that joined", func() error {
		code, body, err := m.fetch("http://ratings:9080/ratings/0")
		if err == nil && (code != 200 || !strings.Contains(body, ratingsAnswer)) {
			err = fmt.Errorf("%d %s\n%s", code, body, out)
		}
		return err
	})
	if err := run.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = run.Wait()
	wait(t, patience, "the end of the workload", func() error {
		if strings.Contains(m.must("status"), "relay-0") {
			return fmt.Errorf("it is still there")
		}
		return nil
	})
}
