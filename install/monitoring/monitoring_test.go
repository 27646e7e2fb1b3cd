package monitoring

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write dashboards/*.json")

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
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range alerts(t) {
		if !bytes.Contains(doc, []byte("\n### "+r.Alert+"\n")) {
			t.Errorf("docs/operations.md does not explain %s", r.Alert)
		}
		if r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
			t.Errorf("%s has no severity or summary", r.Alert)
		}
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
	types, labels := map[string]string{}, map[string]string{}
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
	for name, where := range from {
		if !bytes.Contains(doc, []byte("| `"+name+"` |")) {
			t.Errorf("docs/metrics.md does not list %s (%s)", name, where)
		}
	}
	if len(types) < 30 || len(labels) < 5 {
		t.Fatalf("the sources say the types of %d metrics and the labels of %d: they are written otherwise now", len(types), len(labels))
	}
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(line, " | ")
		if len(cells) < 5 || !strings.HasPrefix(line, "| `") {
			continue
		}
		name := strings.Trim(cells[0], "| `")
		if is, ok := types[name]; ok && is != strings.TrimSpace(cells[1]) {
			t.Errorf("docs/metrics.md: %s is a %s, not a %s", name, is, cells[1])
		}
		said := strings.Split(strings.TrimSpace(cells[3]), ", ")
		slices.Sort(said)
		if are, ok := labels[name]; ok && are != strings.Join(said, ", ") {
			t.Errorf("docs/metrics.md: %s has the labels %s, not %s", name, are, cells[3])
		}
	}
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
