package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestShell(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         []string // nil: refused
		reason       string
	}{
		{"words", "exec /usr/local/bin/pilot-agent proxy sidecar", []string{"/usr/local/bin/pilot-agent", "proxy", "sidecar"}, ""},
		{"lines", "exec a \\\n--x \\\n  y\n", []string{"a", "--x", "y"}, ""},
		{"a line in a word", "exec a b\\\nc", []string{"a", "bc"}, ""},
		{"quotes", `exec a "15000" 'b c' d"e f"'g' "" \"h\ i`, []string{"a", "15000", "b c", "de fg", "", `"h i`}, ""},
		{"backslashes in double quotes", `exec a "b\c\"\$\` + "`" + `\\"`, []string{"a", `b\c"$` + "`" + `\`}, ""},
		{"a newline in double quotes", "exec a \"b\\\nc\nd\"", []string{"a", "bc\nd"}, ""},
		{"operators in quotes", `exec a ';|&' "<>()*?[#~" '$x' x#y x~`, []string{"a", ";|&", "<>()*?[#~", "$x", "x#y", "x~"}, ""},
		{"space around", "\n\t exec a \n\n", []string{"a"}, ""},
		{"JSON in quotes", `exec a '{"b":[1]}'`, []string{"a", `{"b":[1]}`}, ""},

		{"nothing", "", nil, "does not begin with exec"},
		{"no exec", "ls -l", nil, "does not begin with exec"},
		{"an assignment", "A=b exec c", nil, "does not begin with exec"},
		{"exec alone", "exec", nil, "exec is alone"},
		{"an option of exec", "exec -a b c", nil, "own options"},
		{"an empty program", "exec ''", nil, "own options"},
		{"two commands", "exec a; b", nil, `';' is for a shell`},
		{"two lines", "exec a\nexec b", nil, "a second command"},
		{"a pipe", "exec a | b", nil, `'|'`},
		{"background", "exec a &", nil, `'&'`},
		{"redirection", "exec a > b", nil, `'>'`},
		{"a pattern", "exec a *", nil, `'*'`},
		{"braces", "exec a {b,c}", nil, `'{'`},
		{"a home", "exec a ~/b", nil, `'~'`},
		{"a comment", "exec a # b", nil, `'#'`},
		{"a variable", "exec a $B", nil, "$(NAME)"},
		{"a variable in quotes", `exec a "${B}"`, nil, "$(NAME)"},
		{"what Kubernetes did not know", "exec a $(B)", nil, "has not done so here"},
		{"substitution", "exec a `b`", nil, "'`' is for a shell"},
		{"an open quote", "exec a 'b", nil, "without its end"},
		{"an open double quote", `exec a "b`, nil, "without its end"},
		{"an open backslash", `exec a \`, nil, "a backslash at the end"},
		{"an open backslash in quotes", `exec a "\`, nil, "a backslash at the end"},
		{"NUL", "exec a\x00", nil, "NUL"},
	} {
		got, err := shell([]string{"-c", c.script})
		if c.want == nil {
			if err == nil || !strings.Contains(err.Error(), c.reason) || !strings.Contains(err.Error(), "no shell") {
				t.Errorf("%s: %q, %v, want an error that says %q", c.name, got, err, c.reason)
			}
		} else if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	for _, args := range [][]string{nil, {"-c"}, {"-i"}, {"-ec", "exec a"}, {"-c", "exec a", "b"}, {"script.sh"}} {
		if got, err := shell(args); err == nil {
			t.Errorf("%q: %q", args, got)
		}
	}
}

// The container of 2018 runs as it stands.
func TestShellOfFixture(t *testing.T) {
	data, err := os.ReadFile("../../../shared/fixtures/sidecar-container.yaml")
	if err != nil {
		t.Skip("the fixtures are not beside this repository:", err)
	}
	var f struct{ Containers []struct{ Command []string } }
	if err := yaml.Unmarshal(data, &f); err != nil || len(f.Containers) != 1 {
		t.Fatal(len(f.Containers), err)
	}
	words, err := shell(f.Containers[0].Command[1:])
	want := strings.Fields(`/usr/local/bin/pilot-agent proxy sidecar --configPath /etc/istio/proxy --binaryPath /usr/local/bin/envoy
		--serviceCluster service-name --drainDuration 45s --parentShutdownDuration 1m0s --discoveryAddress istio-pilot.istio-system:15007
		--discoveryRefreshDelay 1s --connectTimeout 10s --proxyAdminPort 15000 --controlPlaneAuthPolicy NONE`)
	if err != nil || !slices.Equal(words, want) {
		t.Errorf("%q, %v, want %q", words, err, want)
	}
}

func TestCalled(t *testing.T) {
	for _, c := range []struct{ argv, want string }{
		{"/usr/local/bin/weir-proxy version", "version"},
		{"pilot-agent proxy sidecar --x", "proxy sidecar --x"},
		{"/usr/local/bin/istio-iptables -p 15001", "init -p 15001"},
		{"weir-proxy", ""},
		{"", ""},
	} {
		got, err := called(strings.Fields(c.argv))
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, %v, want %q", c.argv, got, err, c.want)
		}
	}
	for _, argv := range [][]string{{"bash"}, {"/bin/sh", "-c", "ls"}, {"sh", "-c", "exec " + filepath.Join(t.TempDir(), "none")}} {
		if got, err := called(argv); err == nil || !strings.Contains(err.Error(), "as "+filepath.Base(argv[0])) {
			t.Errorf("%q: %q, %v", argv, got, err)
		}
	}
}

// Words that are quoted in the simplest way come back as they were, and whatever comes in
// never holds what a shell would interpret.
func FuzzShell(f *testing.F) {
	f.Add("exec a \\\n\"b\" 'c d'\n")
	f.Add(`exec "\$" \x`)
	f.Fuzz(func(t *testing.T, script string) {
		words, err := split(script)
		if err != nil {
			return
		}
		var quoted strings.Builder
		for _, w := range words {
			quoted.WriteString(" '" + strings.ReplaceAll(w, "'", `'\''`) + "'")
		}
		again, err := split(quoted.String())
		if err != nil || !slices.Equal(words, again) {
			t.Errorf("%q gives %q, which gives %q, %v", script, words, again, err)
		}
	})
}
