package e2e_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/mesh"
)

// good is what a file says at first: /mark answers 210.
const good = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME}
spec:
  hosts: [NAME]
  http:
  - match: [{uri: {exact: /mark}}]
    directResponse: {status: 210}
  - route: [{destination: {host: echo, port: {number: 8080}}}]
`

// Each sort of bad YAML is found where it is, with what to do about it; what was in force
// stays in force, also when the control plane starts again with the bad file; other files
// work, and traffic does not notice.
func TestBadInputIsNamedAndHarmsNothing(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	load := startLoadOf(t, 2, 5*time.Millisecond, func() *mesh.Response { return client.Get("http://echo:8080/") }, func(r *mesh.Response) error {
		if r.Status != 200 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	cases := []struct {
		name string
		// text is the bad file; the line to be named ends in # HERE.
		text string
		size int64 // what zero bytes fill it up to
		want apiv1.Finding
	}{
		{name: "an unknown field", text: strings.Replace(good, "    directResponse: {status: 210}", "    directRespons: {status: 211} # HERE", 1),
			want: apiv1.Finding{Code: "IST0106", Severity: "error", Kind: "VirtualService", Namespace: "default", Name: "NAME", Field: "spec.http[0].directRespons"}},
		{name: "a wrong type", text: strings.Replace(good, "{status: 210}", "{status: many} # HERE", 1),
			want: apiv1.Finding{Code: "IST0106", Severity: "error", Kind: "VirtualService", Namespace: "default", Name: "NAME", Field: "spec.http[0].directResponse.status"}},
		{name: "a value that is not allowed", text: strings.Replace(good, "{status: 210}", "{status: 42} # HERE", 1),
			want: apiv1.Finding{Code: "IST0106", Severity: "error", Kind: "VirtualService", Namespace: "default", Name: "NAME", Field: "spec.http[0].directResponse.status"}},
		{name: "a bad regular expression", text: strings.Replace(good, "{exact: /mark}}]", "{regex: \"/mark(\"}}] # HERE", 1),
			want: apiv1.Finding{Code: "IST0106", Severity: "error", Kind: "VirtualService", Namespace: "default", Name: "NAME", Field: "spec.http[0].match[0].uri.regex"}},
		{name: "no hosts, at a gateway", text: strings.Replace(good, "hosts: [NAME]", "hosts: []\n  gateways: [x] # HERE", 1),
			want: apiv1.Finding{Code: "IST0106", Severity: "error", Kind: "VirtualService", Namespace: "default", Name: "NAME", Field: "spec.gateways"}},
		{name: "an unknown kind", text: good + "---\napiVersion: networking.istio.io/v1\nkind: VirtualServise # HERE\nmetadata: {name: x}\n",
			want: apiv1.Finding{Code: "WEIR0007", Severity: "error", Kind: "VirtualServise", Namespace: "default", Name: "x", Field: "kind"}},
		{name: "a policy that is not enforced", text: good + "---\napiVersion: networking.istio.io/v1alpha3 # HERE\nkind: EnvoyFilter\nmetadata: {name: tokens}\nspec: {}\n",
			want: apiv1.Finding{Code: "WEIR0008", Severity: "error", Kind: "EnvoyFilter", Namespace: "default", Name: "tokens"}},
		{name: "a kind of Kubernetes that is left alone", text: good + "---\napiVersion: apps/v1 # HERE\nkind: StatefulSet\nmetadata: {name: db}\nspec: {serviceName: db}\n",
			want: apiv1.Finding{Code: "WEIR0009", Severity: "info", Kind: "StatefulSet", Namespace: "default", Name: "db"}},
		{name: "a document that is no object", text: good + "---\nhello: world # HERE\n",
			want: apiv1.Finding{Code: "WEIR0004", Severity: "error"}},
		{name: "no name", text: good + "---\napiVersion: v1\nkind: Service\nmetadata: {} # HERE\nspec: {ports: [{port: 80}]}\n",
			want: apiv1.Finding{Code: "WEIR0006", Severity: "error", Kind: "Service", Field: "metadata.name"}},
		{name: "a bad name", text: good + "---\napiVersion: v1\nkind: Service\nmetadata: {name: \"Not A Name\"} # HERE\nspec: {ports: [{port: 80}]}\n",
			want: apiv1.Finding{Code: "WEIR0006", Severity: "error", Kind: "Service", Name: "Not A Name", Field: "metadata.name"}},
		{name: "a duplicate", text: good + "---\napiVersion: networking.istio.io/v1 # HERE\nkind: VirtualService\nmetadata: {name: NAME}\nspec: {hosts: [NAME], http: [{directResponse: {status: 500}}]}\n",
			want: apiv1.Finding{Code: "WEIR0005", Severity: "error", Kind: "VirtualService", Namespace: "default", Name: "NAME"}},
		{name: "tabs", text: strings.Replace(good, "    directResponse: {status: 210}", "\t\tdirectResponse: {status: 211} # HERE", 1),
			want: apiv1.Finding{Code: "WEIR0002", Severity: "error"}},
		{name: "a broken bracket", text: strings.Replace(good, "exact: /mark}}]\n    directResponse: {status: 210}", "exact: /mark}}] # HERE\n    directResponse: {status: 211", 1),
			want: apiv1.Finding{Code: "WEIR0002", Severity: "error"}},
		{name: "a billion laughs", text: good + laughs(),
			want: apiv1.Finding{Code: "WEIR0003", Severity: "error"}},
		{name: "a file of 65 MB", text: good + "# ", size: 65 << 20,
			want: apiv1.Finding{Code: "WEIR0003", Severity: "error"}},
		{name: "a program", text: program(t),
			want: apiv1.Finding{Code: "WEIR0002", Severity: "error"}},
		{name: "bytes that are no text", text: good + "---\n\xff\xfe\x00\x01\n",
			want: apiv1.Finding{Code: "WEIR0002", Severity: "error"}},
	}
	// Every case has a host and a file of its own.
	name := func(i int) string { return fmt.Sprintf("host-%d", i) }
	var services []string
	for i := range len(cases) + 1 {
		services = append(services, "apiVersion: v1\nkind: Service\nmetadata: {name: "+name(i)+"}\nspec: {selector: {app: echo}, ports: [{name: http, port: 8080}]}\n")
	}
	m.Write("services.yaml", documents(services...))
	for i := range cases {
		m.Write(name(i)+".yaml", strings.ReplaceAll(good, "NAME", name(i)))
	}
	m.Settle()

	marked := func() {
		t.Helper()
		for i, c := range cases {
			if r := client.Get("http://" + name(i) + ":8080/mark"); r.Status != 210 {
				t.Errorf("%s: %v", c.name, r)
			}
		}
	}
	found := func() {
		t.Helper()
		for i, c := range cases {
			line := 0
			if before, _, ok := strings.Cut(c.text, "# HERE"); ok {
				line = strings.Count(before, "\n") + 1
			}
			want := c.want
			want.Name = strings.ReplaceAll(want.Name, "NAME", name(i))
			m.Eventually("there is a finding for "+c.name, func() error {
				for _, f := range m.Findings() {
					if filepath.Base(f.File) != name(i)+".yaml" || f.Code != want.Code {
						continue
					}
					got := f
					got.File, got.Line, got.Message, got.Hint = "", 0, "", ""
					if got != want || line != 0 && f.Line != line {
						return fmt.Errorf("found %+v at line %d, want %+v at line %d", got, f.Line, want, line)
					}
					if f.Message == "" || f.Hint == "" {
						return fmt.Errorf("no message or no remedy: %+v", f)
					}
					return nil
				}
				return fmt.Errorf("findings are %+v", m.Findings())
			})
		}
		m.Settle()
	}
	// Somebody else's change goes through.
	change := func(status int) {
		t.Helper()
		other := name(len(cases))
		m.Config("other.yaml", virtualService("other", fmt.Sprintf("{hosts: [%s], http: [{directResponse: {status: %d}}]}", other, status)))
		if r := client.Get("http://" + other + ":8080/"); r.Status != status {
			t.Errorf("a change of another file: %v, want %d", r, status)
		}
	}
	marked()
	change(231)
	for i, c := range cases {
		m.WriteLong(name(i)+".yaml", []byte(strings.ReplaceAll(c.text, "NAME", name(i))), c.size)
	}
	found()
	marked()
	change(232)
	load.noneFailed(t, "reading bad files")

	m.KillControl()
	m.StartControl()
	found()
	marked()
	change(233)

	// Repaired, the files are in force again, and nothing is found.
	for i := range cases {
		m.Write(name(i)+".yaml", strings.ReplaceAll(strings.Replace(good, "210", "299", 1), "NAME", name(i)))
	}
	m.Settle()
	for i, c := range cases {
		if r := client.Get("http://" + name(i) + ":8080/mark"); r.Status != 299 {
			t.Errorf("%s, repaired: %v", c.name, r)
		}
	}
	for _, f := range m.Findings() {
		if f.Severity == "error" {
			t.Errorf("repaired: finding %+v", f)
		}
	}
	load.stop(t)
}

// program is the beginning of one.
func program(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	b := make([]byte, 256<<10)
	_, err = io.ReadFull(f, b)
	must(t, err)
	return string(b)
}

// laughs is a document of a few lines that expands to a billion.
func laughs() string {
	var b strings.Builder
	b.WriteString("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: laughs}\na0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

// What looks odd and is fine is taken without a word.
func TestOddInputThatIsFineIsTaken(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	for name, text := range map[string]string{
		"CRLF":        strings.ReplaceAll(good, "\n", "\r\n"),
		"BOM":         "\ufeff" + strings.TrimPrefix(good, "\n"),
		"empty parts": "---\n---\n# nothing\n---" + good + "---\n",
		"anchors":     strings.Replace(strings.Replace(good, "{number: 8080}", "&p {number: 8080}", 1), "route: [", "route: &r [", 1) + "  - route: *r\n",
		"JSON":        `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"echo"},"spec":{"hosts":["echo"],"http":[{"match":[{"uri":{"exact":"/mark"}}],"directResponse":{"status":210}},{"route":[{"destination":{"host":"echo","port":{"number":8080}}}]}]}}`,
		"v1alpha3":    strings.Replace(good, "istio.io/v1", "istio.io/v1alpha3", 1),
		"v1beta1":     strings.Replace(good, "istio.io/v1", "istio.io/v1beta1", 1),
	} {
		m.WriteRaw("subject.yaml", []byte(strings.ReplaceAll(text, "NAME", "echo")))
		m.Eventually(name+" is in force", func() error {
			if r := client.Get("http://echo:8080/mark"); r.Status != 210 {
				return fmt.Errorf("%v, with findings %+v", r, m.Findings())
			}
			return nil
		})
		m.WriteRaw("subject.yaml", nil) // an empty file says nothing, and takes away what it said
		m.Eventually("an empty file is in force", func() error {
			if r := client.Get("http://echo:8080/mark"); r.Status != 200 {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
		for _, f := range m.Findings() {
			if f.Severity == "error" {
				t.Errorf("%s: finding %+v", name, f)
			}
		}
	}
}
