//go:build linux

package acceptance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what commands print into docs/why.md")

// whyPage has the transcripts of five faults, of which each command is run again: in a code block, "$ COMMAND" and what it printed. A line
// "…" stands for any lines. What differs from run to run (see steady) may be whatever it is.
const whyPage = "../../docs/why.md"

// seed is how somebody else has broken the bookinfo demo, by the story in which a user finds it.
type seed struct {
	story   string // how it begins, on the page
	objects func(m *mesh) string
	mended  string   // what is applied before the second block of the story
	env     []string // of the user
	status  string   // what `weir status` says besides
	settled string   // what is printed by one command of each block once it shows the fault; "": whatever it prints
}

// seeds are all of them, in the order of the page; keys is an issuer's set, and token one of its that has expired.
func seeds(keys, token string) []seed {
	return []seed{
		{story: "**Jason sees no reviews.**", status: "no workload of reviews.default has the labels of subset v2", settled: "no_endpoints", objects: text(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2.0}}
`)},
		{story: "**The page has no stars.**", status: "all is well", settled: "not_allowed", objects: text(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route: [{destination: {host: reviews, subset: v3}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ratings-callers}
spec:
  selector: {matchLabels: {app: ratings}}
  rules:
  - from:
    - source: {principals: [cluster.local/ns/default/sa/reviews]}
    to:
    - operation: {methods: [GET]}
`), mended: `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ratings-callers}
spec:
  selector: {matchLabels: {app: ratings}}
  rules:
  - from:
    - source: {principals: [cluster.local/ns/default/sa/bookinfo-reviews]}
    to:
    - operation: {methods: [GET]}
`},
		{story: "**Now and then a POST to details fails**", settled: "upstream_idle_closed", objects: func(m *mesh) string { return deployment(m, "details-v2", "app: details, version: v2", "brief", 9080) }},
		{story: "**A new service answers nobody.**", settled: "upstream_protocol_error", objects: func(m *mesh) string {
			return `apiVersion: v1
kind: Service
metadata: {name: quotes}
spec:
  selector: {app: quotes}
  ports:
  - {name: http2, port: 8000}
---
` + deployment(m, "quotes", "app: quotes", "quotes", 8000)
		}},
		{story: "**A client that worked yesterday gets 401.**", settled: "token_expired", env: []string{"TOKEN=" + token}, objects: text(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: login}
spec:
  selector: {matchLabels: {app: productpage}}
  jwtRules:
  - issuer: https://login.example
    jwks: '` + keys + `'
`)},
	}
}

func text(s string) func(*mesh) string { return func(*mesh) string { return s } }

func deployment(m *mesh, name, labels, role string, port int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {%[2]s}}
  template:
    metadata: {labels: {%[2]s}}
    spec:
      serviceAccountName: bookinfo-details
      containers:
      - name: main
        image: example.com/program
        command: [%[3]q]
        env: [{name: ACCEPTANCE_PROGRAM, value: %[4]s}]
        ports: [{containerPort: %[5]d}]
`, name, labels, filepath.Join(m.bin, "program"), role, port)
}

// A user who knows no more than the README and the help finds what somebody else has broken: the transcripts are what is printed.
func TestFiveFaults(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl")
	}
	data, err := os.ReadFile(whyPage)
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Split(string(data), "\n")
	m := start(t, options{args: []string{"--demo", "bookinfo"}})
	m.sees()
	var edits []edit
	all := seeds(expired(t))
	for i := range all {
		s := &all[i]
		t.Run(strings.Trim(s.story, "*."), func(t *testing.T) {
			u := &user{t: t, m: m, seed: s}
			file := m.file("seed.yaml", strings.TrimPrefix(s.objects(m), "\n"))
			m.must("apply", "-f", file)
			defer m.must("delete", "-f", file, "--ignore-not-found")
			told := blocks(page, s.story)
			if len(told) == 0 {
				t.Fatalf("%s has no such story", whyPage)
			}
			for n, b := range told {
				if n == 1 { // what was found is corrected, if it is, and tried out
					if s.mended != "" {
						m.apply(strings.TrimPrefix(s.mended, "\n"))
					}
					s.settled = ""
				}
				u.follow(page, b)
				wait(t, patience, "weir status", func() error {
					if status := m.weir("status"); !strings.Contains(status.out+status.err, s.status) {
						return fmt.Errorf("it does not say %q: %v", s.status, status)
					}
					return nil
				})
			}
			edits = append(edits, u.edits...)
		})
	}
	if *update && !t.Failed() {
		for _, e := range slices.Backward(edits) { // from the end, since lines move
			page = slices.Replace(page, e.at-1, e.end, append([]string{"$ " + e.line}, e.lines...)...)
		}
		if err := os.WriteFile(whyPage, []byte(strings.Join(page, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// command is a command of a transcript: the lines of the page that it printed are from at to end.
type command struct {
	line    string
	at, end int
}

// blocks are the code blocks of a story.
func blocks(page []string, story string) (out [][]command) {
	begin := slices.IndexFunc(page, func(l string) bool { return strings.HasPrefix(l, story) })
	inside := false
	for i := begin + 1; begin >= 0 && i < len(page); i++ {
		switch l := page[i]; {
		case strings.HasPrefix(l, "```"):
			if inside = !inside; inside {
				out = append(out, nil)
			}
		case !inside && (strings.HasPrefix(l, "**") || strings.HasPrefix(l, "## ")):
			return out
		case inside && strings.HasPrefix(l, "$ "):
			out[len(out)-1] = append(out[len(out)-1], command{l[2:], i + 1, i + 1})
		case inside:
			b := out[len(out)-1]
			b[len(b)-1].end = i + 1
		}
	}
	return out
}

// user types what the page says.
type user struct {
	*seed
	t  *testing.T
	m  *mesh
	id string // the last one that was shown

	edits []edit
}

// follow runs a block again and again until all of it prints what the page says; or, to write that, until it shows the fault. Of what
// failed last only the newest story is looked at.
func (u *user) follow(page []string, b []command) {
	u.t.Helper()
	var diff string
	var said [][]string
	once := func() error {
		diff, said = "", nil
		for _, c := range b {
			got := u.run(c.line)
			said = append(said, got)
			if want := page[c.at:c.end]; !alike(steady(want), steady(got)) {
				diff += fmt.Sprintf("$ %s (-page +now)\n%s", c.line, cmp.Diff(steady(want), steady(got)))
			}
		}
		all := strings.Join(slices.Concat(said...), "\n")
		switch {
		case *update && strings.Contains(all, u.settled) && !slices.ContainsFunc(said, func(lines []string) bool { return len(lines) == 0 }):
			return nil
		case diff != "":
			return errors.New("not yet")
		}
		return nil
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); once() != nil; <-tick.C {
		if time.Now().After(end) {
			u.t.Fatalf("%s prints something else (go test ./test/acceptance -run FiveFaults -update writes it):\n%s", whyPage, diff)
		}
	}
	if !*update {
		return
	}
	if diff == "" {
		return
	}
	for n, c := range b { // all of them: ids are in several
		if want := page[c.at:c.end]; !slices.Contains(want, elided) {
			u.edits = append(u.edits, edit{command{anID.ReplaceAllLiteralString(c.line, u.id), c.at, c.end}, said[n]})
		} else if !alike(steady(want), steady(said[n])) {
			u.t.Errorf("line %d: what %q prints is to be shortened by hand:\n%s", c.at, c.line, strings.Join(said[n], "\n"))
		}
	}
}

// edit is what a command prints now.
type edit struct {
	command
	lines []string
}

// elided stands for any lines.
const elided = "…"

// run is what a command prints, as the page shows it: the ingress is at port 8080, and names of folders are left out.
func (u *user) run(line string) []string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	line = strings.ReplaceAll(line, elided+"/", filepath.Join(u.m.state, "applied")+"/")
	if u.id != "" {
		line = anID.ReplaceAllLiteralString(line, u.id)
	}
	line = strings.ReplaceAll(line, ingress, u.m.ingress)
	cmd := exec.CommandContext(ctx, "sh", "-c", "weir() { "+filepath.Join(u.m.bin, "weir")+" --state "+u.m.state+" \"$@\"; }\n"+line)
	cmd.Dir = u.m.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.m.dir, "NO_COLOR=1"}
	cmd.Env = append(cmd.Env, u.env...)
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		u.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	text := strings.ReplaceAll(strings.ReplaceAll(string(out), u.m.ingress, ingress), "\r", "")
	text = aFolder.ReplaceAllString(text, elided+"/")
	if id := anID.FindString(text); id != "" {
		u.id = id
	}
	if strings.Contains(line, "why --last-errors") { // the newest is this one; what failed while the mesh or a program began is older
		text, _, _ = strings.Cut(text, "\n\n")
	}
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// ingress is where a user's is.
const ingress = "127.0.0.1:8080"

var (
	anID    = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	aFolder = regexp.MustCompile(`(/[^/ ]+)+/applied/`)
	more    = regexp.MustCompile(`^  and \d+ more like it$`)
)

// changing is what differs from run to run, and what stands for it.
var changing = []struct {
	is    *regexp.Regexp
	stand string
}{
	{regexp.MustCompile(`^date: .*`), "date: TIME"},
	{regexp.MustCompile(`(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(\.\d+)?`), "TIME"},
	{anID, "ID"},
	{regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b`), "ADDRESS"},
	{regexp.MustCompile(`\b[\d.]+(e-?\d+)? ?(ms|µs|s)\b`), "SPAN"},
	{regexp.MustCompile(`^x-envoy-upstream-service-time: \d+`), "x-envoy-upstream-service-time: N"},
	{regexp.MustCompile(` {2,}`), "  "},
	{regexp.MustCompile(`\S+ \((source|destination), 2\d\d, SPAN\) > `), ""}, // what went well is kept in a sample
}

// steady are lines as they are each time.
func steady(lines []string) (out []string) {
	for _, l := range lines {
		if more.MatchString(l) {
			continue
		}
		for _, c := range changing {
			l = c.is.ReplaceAllString(l, c.stand)
		}
		out = append(out, strings.TrimRight(l, " "))
	}
	return out
}

// alike reports whether lines are those that are wanted, some of which may stand for any.
func alike(want, got []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] != elided:
		return len(got) > 0 && got[0] == want[0] && alike(want[1:], got[1:])
	case alike(want[1:], got):
		return true
	}
	return len(got) > 0 && alike(want, got[1:])
}

// expired is an issuer's set of keys, and a token of it whose time is over.
func expired(t *testing.T) (keys, token string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Sign([]byte(`{"iss":"https://login.example","sub":"jane","exp":1700000000}`))
	if err != nil {
		t.Fatal(err)
	}
	if token, err = o.CompactSerialize(); err != nil {
		t.Fatal(err)
	}
	return string(set), token
}

// brief answers one request a connection and says nothing of it: when another one comes it closes.
func brief() error {
	return each("0.0.0.0:9080", func(c net.Conn, in *bufio.Reader) {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
		_, _ = in.Peek(1)
	})
}

// quotes speaks HTTP/1 only, and answers everything else as the server of Python's library does: a page, without a head.
func quotes() error {
	return each("0.0.0.0:8000", func(c net.Conn, in *bufio.Reader) {
		line, err := in.ReadSlice('\n')
		if err == nil && bytes.Contains(line, []byte("HTTP/1")) {
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nTo be, or not to be")
			return
		}
		_, _ = io.WriteString(c, "<!DOCTYPE HTML>\n<html lang=\"en\">\n<title>Error response</title>\n<p>Invalid HTTP version (2.0)</p>\n</html>\n")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, in)
	})
}

// each serves connections one at a time and side by side.
func each(at string, serve func(net.Conn, *bufio.Reader)) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			serve(c, bufio.NewReader(c))
		}()
	}
}
