package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/test/mesh"
)

// weir is what a command line prints.
func weir(t *testing.T, m *mesh.Mesh, args ...string) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	must(t, err)
	defer out.Close()
	cli.Main(t.Context(), cli.Options{Args: append(args, "--api", m.Address()), State: t.TempDir(), Stdin: os.Stdin, Stdout: out, Stderr: out})
	text, err := os.ReadFile(out.Name())
	must(t, err)
	return string(text)
}

// said are faults of what is configured, and what `weir status` says of each: of the objects in status, if it has any, else of the mesh.
var said = []struct {
	scenario, name, config, status string
	want                           string // regular expression
}{
	{scenario: "S18", name: "not taken", config: destinationRule("second", "{host: second, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /no/such/ca.pem}}}"),
		want: `the prox(y|ies) of .*default/client.* refuses? CDS .*outbound\|9000\|\|second\.default\.svc\.cluster\.local, first \d+[sm] ago: .*open /no/such/ca\.pem: no such file`},
	{scenario: "S21", name: "the rule's own status", status: "destinationrule/second", want: `(?s)default/client.*/no/such/ca\.pem`},
	{scenario: "S19", name: "overlapping", config: documents(virtualService("a-first", "{hosts: [second], http: [{route: [{destination: {host: echo, port: {number: 8080}}}]}]}"), virtualService("b-later", "{hosts: [second], http: [{route: [{destination: {host: second, port: {number: 8080}}}]}]}")),
		status: "virtualservice/b-later", want: `spec\.http\[0\] at mesh shadowed by VirtualService default/a-first`},
	{scenario: "S20", name: "no weight", config: virtualService("heavy", "{hosts: [echo], http: [{route: [{destination: {host: echo}, weight: null}, {destination: {host: echo}, weight: 0}]}]}"),
		want: `error +IST0106 +VirtualService default/heavy, spec\.http\[0\]\.route: all weights are 0`},
	{scenario: "S20", name: "nothing but a fault", config: virtualService("faulty", "{hosts: [echo], http: [{fault: {abort: {httpStatus: 500, percentage: {value: 100}}}}]}"),
		want: `error +IST0106 +VirtualService default/faulty, spec\.http\[0\]: the rule says nothing to do`},
	{scenario: "S20", name: "an empty route", config: virtualService("empty", "{hosts: [echo], http: [{route: []}]}"),
		want: `error +IST0106 +VirtualService default/empty, spec\.http\[0\]: the rule says nothing to do`},
	{scenario: "S22", name: "two Gateways for a port", config: documents(edgeGateway("first", "2020", "http, protocol: HTTP"), edgeGateway("second", "2021", "tcp, protocol: TCP")),
		want: `error +IST0145 +Gateway default/second, spec\.servers\[0\]: port 80 is also opened by Gateway default/first`},
	{scenario: "S31", name: "an EnvoyFilter", config: "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: matches-nothing, namespace: default}\nspec: {}\n",
		want: `error +WEIR0008 +EnvoyFilter default/matches-nothing: EnvoyFilter is not enforced in this version`},
	{scenario: "S32", name: "keys that cannot be fetched", config: requestAuthentication("login", "{jwtRules: [{issuer: me, jwksUri: 'http://127.0.0.1:1/keys'}]}"),
		want: `warning +WEIR0116 +RequestAuthentication default/login, spec\.jwtRules: keys at http://127\.0\.0\.1:1/keys could never be fetched, the first time at .*connection refused`},
	{scenario: "S34", name: "one address of keys of several", config: requestAuthentication("logins", "{jwtRules: [{issuer: me, jwks: '{\"keys\":[]}'}, {issuer: you, jwksUri: 'http://127.0.0.1:1/others'}]}"),
		want: `warning +WEIR0116 +RequestAuthentication default/logins, spec\.jwtRules(\[1\])?[^ ]*: keys at http://127\.0\.0\.1:1/others could never be fetched`},
}

func edgeGateway(name, year, port string) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: %s, namespace: default, creationTimestamp: "%s-01-01T00:00:00Z"}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: %s}, hosts: ["*"]}]}
`, name, year, port)
}

// Whoever asks `weir status` is told what is wrong, with object, field or proxy.
func TestStatusSaysIt(t *testing.T) {
	t.Parallel()
	m, _, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("second.yaml", second)
	for i, s := range said {
		if s.config != "" {
			m.Write(fmt.Sprintf("said-%d.yaml", i), s.config)
		}
	}
	for _, s := range said {
		m.Eventually(s.scenario+", "+s.name, func() error {
			if text := weir(t, m, strings.Fields("status "+s.status)...); !regexp.MustCompile(s.want).MatchString(text) {
				return fmt.Errorf("nothing like %q in\n%s", s.want, text)
			}
			return nil
		})
	}
}

// Of whom docs/scenarios.md says that `weir status` says something, it is shown here, or by a test of the control plane.
func TestScenariosAreSaid(t *testing.T) {
	// control: TestWhoPushesMost, TestAuthorityFindings, TestStatusSaysWhoDoesNotRenew, TestStatusSaysWhatProxiesSayOfThemselves
	shown := map[string]bool{"S23": true, "S39": true, "S40": true, "S41": true, "S42": true, "S46": true}
	for _, s := range said {
		shown[s.scenario] = true
	}
	text, err := os.ReadFile("../../docs/scenarios.md")
	must(t, err)
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[2], "`weir status") {
			continue
		}
		rows++
		for scenario := range strings.SplitSeq(cells[1], ",") {
			if !shown[strings.TrimSpace(scenario)] {
				t.Errorf("%s: no test shows what `weir status` says of it", scenario)
			}
		}
	}
	if rows < 5 {
		t.Errorf("%d rows", rows)
	}
}

// The tests that docs/scenarios.md names are there.
func TestScenariosAreTests(t *testing.T) {
	there := map[string]bool{}
	of := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	must(t, filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2 {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range of.FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
		return err
	}))
	text, err := os.ReadFile("../../docs/scenarios.md")
	must(t, err)
	for _, name := range regexp.MustCompile(`\bTest\w+`).FindAllString(string(text), -1) {
		if !there[name] {
			t.Errorf("%s is not there", name)
		}
	}
}
