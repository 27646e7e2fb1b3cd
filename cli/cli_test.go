package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

// What is shown again: changes, and a control plane that goes away and comes back. What
// stays the same is not, and the end of the mesh ends it.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shown strings.Builder
		a := &app{out: &printer{w: &shown}, Options: Options{}, state: t.TempDir()}
		steps := []any{uint64(1), uint64(1), uint64(2), errors.New("away"), errors.New("away"), uint64(2), client.ErrNoMesh}
		asked := 0
		start := time.Now()
		err := a.watch(t.Context(), func(context.Context) (*apiv1.Status, error) {
			step := steps[asked]
			asked++
			if err, ok := step.(error); ok {
				return nil, err
			}
			// Bytes are sent all the time.
			return &apiv1.Status{Mesh: step.(uint64), Proxies: []apiv1.Proxy{{BytesSent: uint64(asked)}}}, nil
		}, func(s *apiv1.Status) error {
			fmt.Fprintf(&shown, "version %d\n", s.Mesh)
			return nil
		})
		if !errors.Is(err, client.ErrNoMesh) {
			t.Errorf("ended with %v, want ErrNoMesh", err)
		}
		if diff := cmp.Diff("version 1\n\nversion 2\n\naway\nversion 2\n\n", shown.String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if d := time.Since(start); d != 6*watchInterval {
			t.Errorf("took %s", d)
		}
	})
}

// A change on its way is no problem, one that does not arrive is.
func TestProblemsBehind(t *testing.T) {
	now := time.Now()
	long := now.Add(-time.Minute)
	for _, tc := range []struct {
		proxy apiv1.Proxy
		want  []string
	}{
		{apiv1.Proxy{Name: "a/b", Active: 2, Latest: 2}, nil},
		{apiv1.Proxy{Name: "a/b", Active: 1, Latest: 2, Behind: &now}, nil},
		{apiv1.Proxy{Name: "a/b", Active: 1, Latest: 2, Behind: &long}, []string{"the proxy of a/b is at version 1 of 2, behind for 60s"}},
		{apiv1.Proxy{Name: "a/b", Behind: &long, Rejected: []apiv1.Rejection{{Type: "CDS", Resources: []string{"x"}, Message: "no", Current: true}}}, []string{"the proxy of a/b refuses CDS x: no"}},
		{apiv1.Proxy{Name: "a/b", Rejected: []apiv1.Rejection{{Type: "CDS", Message: "then"}}}, nil},
	} {
		if diff := cmp.Diff(tc.want, problems(&apiv1.Status{Proxies: []apiv1.Proxy{tc.proxy}})); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tc.proxy, diff)
		}
	}
}

// What many proxies refuse for one reason is one thing, with since when.
func TestProblemsOfMany(t *testing.T) {
	var all []apiv1.Proxy
	for i, why := range []string{"no", "no", "no", "no", "other", "no"} {
		r := apiv1.Rejection{Type: "CDS", Resources: []string{"x", "y"}, Message: why, Current: true, Time: time.Now().Add(-time.Duration(i) * time.Hour)}
		all = append(all, apiv1.Proxy{Name: fmt.Sprintf("a/%d", i), Rejected: []apiv1.Rejection{r, r}})
	}
	want := []string{"the proxies of a/0, a/1, a/2 and 2 more refuse CDS x, y, first 5h ago: no", "the proxy of a/4 refuses CDS x, y, first 4h ago: other"}
	if diff := cmp.Diff(want, problems(&apiv1.Status{Proxies: all})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Columns line up by what is seen, colours or not; control characters are not obeyed.
func TestTable(t *testing.T) {
	for _, tc := range []struct {
		color bool
		want  string
	}{
		{false, "NAME   STATE\nöl     fine\na�[2J  -\n"},
		{true, "\x1b[2mNAME\x1b[0m   \x1b[2mSTATE\x1b[0m\nöl     \x1b[32mfine\x1b[0m\na�[2J  -\n"},
	} {
		var b strings.Builder
		p := &printer{w: &b, color: tc.color}
		tab := newTable("NAME", "STATE")
		tab.add(text("öl"), cell{"fine", green})
		tab.add(text("a\x1b[2J"), cell{"", red})
		p.print(tab)
		want := tc.want
		if tc.color {
			want = strings.Replace(want, "  -\n", "  \x1b[31m-\x1b[0m\n", 1)
		}
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Errorf("colour %v (-want +got):\n%s", tc.color, diff)
		}
	}
}

func TestWords(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{span(300 * time.Millisecond), "0s"},
		{span(119 * time.Second), "119s"},
		{span(2 * time.Minute), "2m"},
		{span(3 * time.Hour), "3h"},
		{span(50 * time.Hour), "2d"},
		{age(time.Time{}), ""},
		{shortly(38 * time.Millisecond), "38 ms"},
		{shortly(2100 * time.Millisecond), "2.1 s"},
		{latencyText(new(0.754)), "0.75 ms"},
		{latencyText(new(15.4)), "15 ms"},
		{latencyText(new(488.0)), "490 ms"},
		{latencyText(new(2500.0)), "2500 ms"},
		{count(0, "error"), "no errors"},
		{count(1, "error"), "1 error"},
		{count(2, "proxy"), "2 proxies"},
	} {
		if tc.got != tc.want {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"vs", "VirtualService default/"},
		{"vs reviews", "VirtualService default/reviews"},
		{"VirtualServices shop/reviews", "VirtualService shop/reviews"},
		{"vs,dr a b", "VirtualService default/a VirtualService default/b DestinationRule default/a DestinationRule default/b"},
		{"vs/a dr/shop/b", "VirtualService default/a DestinationRule shop/b"},
		{"ns shop", "Namespace /shop"},
		{"statefulset a", "statefulset default/a"},
		{"all", " default/"},
		{"all a", "error"},
		{"vs/a b", "error"},
		{"vs/ a/b", "error"},
	} {
		ts, err := targets(strings.Fields(tc.args), "default")
		var words []string
		for _, t := range ts {
			words = append(words, t.kind.name+" "+t.namespace+"/"+t.name)
		}
		got := strings.Join(words, " ")
		if err != nil {
			got = "error"
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.args, got, tc.want)
		}
	}
}

// Lines of joined files lead back to the files, whatever they end with.
func TestBundle(t *testing.T) {
	var b bundle
	for _, f := range []struct{ name, text string }{{"a", "1\n2"}, {"b", "\ufeff1\r\n2\r\n"}, {"c", ""}, {"d", "1"}} {
		b.add(f.name, []byte(f.text))
	}
	if diff := cmp.Diff("1\n2\n---\n1\r\n2\r\n---\n---\n1", string(b.text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var got []string
	for line := range 9 {
		name, at := b.place(line)
		got = append(got, fmt.Sprintf("%d=%s:%d", line, name, at))
	}
	// A marker belongs to the file before it, as its next line would.
	want := []string{"0=:0", "1=a:1", "2=a:2", "3=a:3", "4=b:1", "5=b:2", "6=b:3", "7=c:1", "8=d:1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// docs/cli.md is the help of all commands. go test ./cli -update writes it.
func TestDocumentation(t *testing.T) {
	root := newApp(Options{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}).root()
	path := filepath.Join("..", "docs", "cli.md")
	want := documentation(root)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/cli.md does not say what the commands say; go test ./cli -update (-want +got):\n%s", diff)
	}
}

// Every command has examples and every flag of it a sentence.
func TestHelp(t *testing.T) {
	for _, c := range commands(newApp(Options{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}).root()) {
		if c.Example == "" || c.Long == "" {
			t.Errorf("%s has no examples or no text", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") || c.Short != strings.ToLower(c.Short[:1])+c.Short[1:] {
			t.Errorf("%s: %q: a short text is a clause, not a sentence", c.CommandPath(), c.Short)
		}
		for line := range strings.SplitSeq(c.Long+"\n"+c.Example, "\n") {
			if len([]rune(line)) > 82 {
				t.Errorf("%s: too long for a terminal: %s", c.CommandPath(), line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no text", c.CommandPath(), f.Name)
			}
		})
	}
}

// commands are all that are shown, the root first.
func commands(root *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			out = append(out, commands(c)...)
		}
	}
	return out
}

func documentation(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# The command line\n\nThis page is written by `go test ./cli -update` from the help of the commands.\n\n" +
		"Exit status: 0; 1 if the answer is no or an error; 2 for a command line that makes no sense; `weir exec` and `weir run` end with that of\n" +
		"their program. What was asked for is on standard output, everything else on standard error. Colours are used on a terminal, unless\n" +
		"`NO_COLOR` is set.\n\n| command | what it does |\n|---|---|\n")
	all := commands(root)
	for _, c := range all[1:] {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", c.CommandPath(), strings.ReplaceAll(c.CommandPath(), " ", "-"), c.Short)
	}
	for i, c := range all {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```\n%s\n```\n\n```sh\n%s\n```\n", c.CommandPath(), markdown(c.Long), c.UseLine(), outdent(c.Example))
		flags := c.NonInheritedFlags().FlagUsages()
		if i == 0 {
			flags = c.PersistentFlags().FlagUsages()
			b.WriteString("\nFlags of all commands:\n")
		}
		if flags != "" {
			fmt.Fprintf(&b, "\n```\n%s```\n", flags)
		}
	}
	return b.String()
}

// markdown keeps indented lines together as they are.
func markdown(long string) string {
	lines := strings.Split(long, "\n")
	first := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "  ") })
	if first < 0 {
		return long
	}
	last := first
	for last < len(lines) && strings.HasPrefix(lines[last], "  ") {
		last++
	}
	lines = slices.Insert(lines, last, "```")
	return strings.Join(slices.Insert(lines, first, "```"), "\n")
}

func outdent(s string) string {
	return strings.TrimPrefix(strings.ReplaceAll(s, "\n  ", "\n"), "  ")
}
