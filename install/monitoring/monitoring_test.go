package monitoring

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write dashboards/*.json and docs/metrics.md")

// The files people load are the tables of this package.
func TestDashboards(t *testing.T) {
	for _, d := range dashboards {
		name := filepath.Join("dashboards", d.file+".json")
		want := d.render()
		if *update {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what dashboards.go says; go test ./install/monitoring -update (%v)", name, err)
		}
	}
	for name, q := range Queries() {
		if strings.Contains(q, "$") {
			t.Errorf("%s: a variable that no dashboard has: %s", name, q)
		}
	}
}

// alert is one of rules.yaml.
type alert struct {
	Alert       string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) (out []alert) {
	t.Helper()
	var f struct{ Groups []struct{ Rules []alert } }
	read(t, "rules.yaml", &f)
	for _, g := range f.Groups {
		out = append(out, g.Rules...)
	}
	if len(out) == 0 {
		t.Fatal("there are no alerts")
	}
	return out
}

func read(t *testing.T, name string, to any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err == nil {
		err = yaml.Unmarshal(text, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whom an alert wakes finds what to do.
func TestEveryAlertIsExplained(t *testing.T) {
	doc, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, entry := range strings.Split(string(doc), "\n### ")[1:] {
		name, text, _ := strings.Cut(entry, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		said[name] = text
	}
	command := regexp.MustCompile("`(weir|kubectl) [^`]+`")
	for _, r := range alerts(t) {
		_, means, _ := strings.Cut(said[r.Alert], "\n- **Means**: ")
		means, do, _ := strings.Cut(means, "\n- **Do**: ")
		do, otherwise, _ := strings.Cut(do, "\n- **If nothing is done**: ")
		if means == "" || otherwise == "" || !command.MatchString(do) {
			t.Errorf("docs/alerts.md does not say of %s what it means (%q), a command (%q) and what follows if nobody gives it (%q)", r.Alert, means, do, otherwise)
		}
		delete(said, r.Alert)
		if r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
			t.Errorf("%s has no severity or summary", r.Alert)
		}
	}
	for name := range said {
		t.Errorf("docs/alerts.md explains %s, which is no alert", name)
	}
}

// Of every alert it is shown when it fires and when not.
func TestEveryAlertIsTried(t *testing.T) {
	var f struct {
		Tests []struct {
			Cases []struct {
				Alert  string            `json:"alertname"`
				Firing []json.RawMessage `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	read(t, "rules_test.yaml", &f)
	fires, rests := map[string]bool{}, map[string]bool{}
	for _, x := range f.Tests {
		for _, c := range x.Cases {
			if len(c.Firing) > 0 {
				fires[c.Alert] = true
			} else {
				rests[c.Alert] = true
			}
		}
	}
	for _, r := range alerts(t) {
		if !fires[r.Alert] || !rests[r.Alert] {
			t.Errorf("rules_test.yaml does not show when %s fires (%v) and when it does not (%v)", r.Alert, fires[r.Alert], rests[r.Alert])
		}
	}
}

// Every metric that a program says something about, an alert asks for or a dashboard shows, is in docs/metrics.md, with the type and the labels that the
// source says, where it says them in one place.
func TestMetricsAreListed(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile("rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	from := map[string]string{}
	named := regexp.MustCompile(`\b(weir|istio|pilot|citadel|sidecar|galley|mesh_ca)_[a-z_]+\b`)
	asked := string(rules)
	for _, q := range Queries() {
		asked += "\n" + q
	}
	for _, name := range named.FindAllString(regexp.MustCompile(`\{[^}]*\}|by \([^)]*\)`).ReplaceAllString(asked, ""), -1) {
		from[strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum")] = "rules or dashboards"
	}
	made := regexp.MustCompile(`# HELP ([a-z_]+) |Name: "([a-z_]+)", Help:|(?:metric\{|counter\()"([a-z_]+_[a-z_]+)", "`)
	typed := regexp.MustCompile(`# TYPE ([a-z_]+) (counter|gauge|histogram)\b|prometheus\.(Counter|Gauge|Histogram)Opts\{Name: "([a-z_]+)"|\{"([a-z_]+)", "(counter|gauge|histogram)"`)
	labelled := regexp.MustCompile(`Opts\{Name: "([a-z_]+)", Help: "[^"]*"[^"]*\},\s*\[\]string\{([^}\n]*)\}`)
	told := regexp.MustCompile(`# HELP ([a-z_]+) ([^\\\n"]+)|Name: "([a-z_]+)", Help: "([^"]*)"|(?:\{|counter\()"([a-z_]+_[a-z_]+)", (?:"(?:counter|gauge|histogram)", )?"([^"]*)"`)
	types, labels, helps := map[string]string{}, map[string]string{}, map[string]string{}
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && slices.Contains([]string{"sample", "test", ".git", "bin", "dist"}, d.Name()) {
			return cmp.Or(err, fs.SkipDir)
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range made.FindAllStringSubmatch(string(text), -1) {
			from[cmp.Or(m[1], m[2], m[3])] = path
		}
		for _, m := range told.FindAllStringSubmatch(string(text), -1) {
			helps[cmp.Or(m[1], m[3], m[5])] = cmp.Or(m[2], m[4], m[6])
		}
		for _, m := range typed.FindAllStringSubmatch(string(text), -1) {
			types[cmp.Or(m[1], m[4], m[5])] = strings.ToLower(cmp.Or(m[2], m[3], m[6]))
		}
		for _, m := range labelled.FindAllStringSubmatch(string(text), -1) {
			names := strings.Split(strings.ReplaceAll(m[2], `"`, ""), ", ")
			slices.Sort(names)
			labels[m[1]] = strings.Join(names, ", ")
		}
		return err
	})
	if err != nil || len(from) < 60 {
		t.Fatal(len(from), err)
	}
	if len(types) < 30 || len(labels) < 5 {
		t.Fatalf("the sources say the types of %d metrics and the labels of %d: they are written otherwise now", len(types), len(labels))
	}
	want := listed(string(doc), from, types, labels, helps)
	if *update {
		if err := os.WriteFile("../../docs/metrics.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		doc = []byte(want)
	}
	if d := gocmp.Diff(string(doc), want); d != "" {
		t.Errorf("docs/metrics.md is not what the sources say; go test ./install/monitoring -update writes it: (-it +they)\n%s", d)
	}
	for line := range strings.Lines(want) {
		if cells := strings.Split(line, " | "); strings.HasPrefix(line, "| `") && (len(cells) != 5 || strings.Trim(cells[4], " |\n") == "") {
			t.Errorf("docs/metrics.md does not say what this means: %s", line)
		}
	}
}

// listed is the page with a row for each metric, of the type and with the labels that the sources say, where they say them. Units and words are people's:
// a new row has the HELP of the source.
func listed(doc string, from, types, labels, helps map[string]string) string {
	var out []string
	section, sections := "", map[string]int{} // where the rows of each begin
	for line := range strings.SplitSeq(doc, "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) == 5 && strings.HasPrefix(line, "| `") {
			name := strings.Trim(cells[0], "| `")
			delete(from, name)
			if is, ok := types[name]; ok {
				cells[1] = is
			}
			said := strings.Split(cells[3], ", ")
			if slices.Sort(said); strings.Join(said, ", ") != cmp.Or(labels[name], strings.Join(said, ", ")) {
				cells[3] = labels[name]
			}
			line = strings.Join(cells, " | ")
		}
		out = append(out, line)
		switch {
		case strings.HasPrefix(line, "## "):
			section = strings.TrimPrefix(line, "## ")
		case strings.HasPrefix(line, "|---"):
			sections[section] = len(out)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		section = "The control plane"
		for folder, of := range map[string]string{"../../proxy/": "Proxies", "../../cmd/weir-proxy/": "Proxies", "../../capture/cni/": "The node agent", "../../ca/": "The certificate authority (in the control plane)"} {
			if strings.HasPrefix(from[name], folder) {
				section = of
			}
		}
		unit := map[bool]string{true: "s"}[strings.Contains(name, "_seconds")] + map[bool]string{true: "bytes"}[strings.Contains(name, "_bytes")]
		at := sections[section]
		for at < len(out) && strings.HasPrefix(out[at], "| `") && out[at] < "| `"+name+"`" {
			at++
		}
		out = slices.Insert(out, at, fmt.Sprintf("| `%s` | %s | %s | %s | %s |", name, types[name], unit, labels[name], helps[name]))
		for s, begins := range sections {
			if begins > sections[section] {
				sections[s]++
			}
		}
	}
	return strings.Join(out, "\n")
}

// Rules fire when they should, and Prometheus reads them.
func TestRules(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil && os.Getenv("WEIR_PROMETHEUS") == "require" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("promtool is not installed (Debian: apt-get install prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml"}} {
		if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
