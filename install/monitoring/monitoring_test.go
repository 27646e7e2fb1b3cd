package monitoring

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
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

// Whom an alert wakes finds what to do.
func TestEveryAlertIsExplained(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	rules, err := os.ReadFile("rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(rules, &f); err != nil || len(f.Groups) == 0 {
		t.Fatal(err, len(f.Groups))
	}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if !bytes.Contains(doc, []byte("\n### "+r.Alert+"\n")) {
				t.Errorf("docs/operations.md does not explain %s", r.Alert)
			}
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s has no severity or summary", r.Alert)
			}
		}
	}
}

// Rules fire when they should, and Prometheus reads them.
func TestRules(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: apt-get install prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml"}} {
		if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
