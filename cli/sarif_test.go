package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
)

// Where a log of SARIF says that things are: on no machine in particular, so that a code host finds them in its own copy.
func TestSARIFLocations(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"repo/deploy", "other/deploy"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Join(top, "repo"))
	in := func(file string, line int) apiv1.Finding {
		return apiv1.Finding{Code: "IST0101", Severity: "error", Kind: "Service", Namespace: "shop", Name: "cart", File: file, Line: line, Message: "m"}
	}
	for _, c := range []struct {
		what  string
		paths []string
		f     apiv1.Finding
		want  string
	}{
		{"as it was named", []string{"deploy"}, in("deploy/a.yaml", 8), "%SRCROOT% deploy/a.yaml:8 shop/cart"},
		{"by its whole path", []string{filepath.Join(top, "repo", "deploy")}, in(filepath.Join(top, "repo/deploy/a.yaml"), 8), "%SRCROOT% deploy/a.yaml:8 shop/cart"},
		{"from a mesh that runs on files", nil, in(filepath.Join(top, "repo/a.yaml"), 8), "%SRCROOT% a.yaml:8 shop/cart"},
		{"with detours", []string{"./deploy/../deploy"}, in("./deploy/../deploy/a.yaml", 8), "%SRCROOT% deploy/a.yaml:8 shop/cart"},
		{"with characters that URIs have for something else", []string{"."}, in("a b:c#d%.yaml", 8), "%SRCROOT% ./a%20b:c%23d%25.yaml:8 shop/cart"},
		{"in the one folder given", []string{"../other"}, in("../other/deploy/a.yaml", 8), "%SRCROOT% deploy/a.yaml:8 shop/cart"},
		{"in one of several folders elsewhere", []string{"../other", "deploy"}, in("../other/deploy/a.yaml", 8), " file://TOP/other/deploy/a.yaml:8 shop/cart"},
		{"about a file as a whole", []string{"deploy"}, apiv1.Finding{Code: "IST0106", Severity: "error", File: "deploy/a.yaml", Message: "m"}, "%SRCROOT% deploy/a.yaml:1 "},
		{"from standard input", []string{"-"}, in(stdinName, 8), "shop/cart"},
		{"from a cluster", nil, in("", 0), "shop/cart"},
		{"about the mesh", nil, apiv1.Finding{Code: "WEIR0120", Severity: "warning", Message: "m"}, "nowhere"},
	} {
		b, err := json.Marshal(sarif("v1", checkedFolder(c.paths), []apiv1.Finding{c.f}))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(located(t, b), top, "TOP"); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		if strings.Contains(c.want, "SRCROOT") && bytes.Contains(b, []byte(top)) {
			t.Errorf("%s: the log names a folder of this machine: %s", c.what, b)
		}
	}
}

// located is where the only result of a log is: its file and line, and its object.
func located(t *testing.T, log []byte) string {
	t.Helper()
	var l struct {
		Runs []struct {
			OriginalURIBaseIDs map[string]any
			Results            []struct {
				Locations []struct {
					PhysicalLocation *struct {
						ArtifactLocation struct{ URI, URIBaseID string }
						Region           struct{ StartLine json.Number }
					}
					LogicalLocations []struct{ Name, FullyQualifiedName string }
				}
			}
		}
	}
	if err := json.Unmarshal(log, &l); err != nil {
		t.Fatal(err)
	}
	if len(l.Runs) != 1 || len(l.Runs[0].Results) != 1 || l.Runs[0].OriginalURIBaseIDs[sourceRoot] == nil {
		t.Fatalf("%s", log)
	}
	list := l.Runs[0].Results[0].Locations
	if len(list) == 0 {
		return "nowhere"
	}
	out := ""
	if p := list[0].PhysicalLocation; p != nil {
		out = p.ArtifactLocation.URIBaseID + " " + p.ArtifactLocation.URI + ":" + p.Region.StartLine.String() + " "
	}
	for _, o := range list[0].LogicalLocations {
		out += strings.TrimPrefix(o.FullyQualifiedName, "Service ")
		if !strings.HasSuffix(o.FullyQualifiedName, "/"+o.Name) {
			out += " is not " + o.Name
		}
	}
	return out
}

// The rules of a log are the codes of its results, and the levels those that SARIF knows.
func TestSARIFRules(t *testing.T) {
	var fs []apiv1.Finding
	var want []string
	for _, c := range config.Codes() {
		fs = append(fs, apiv1.Finding{Code: string(c.Code), Severity: c.Severity.String()})
		want = append(want, string(c.Code)+" "+map[string]string{"error": "error", "warning": "warning", "info": "note"}[c.Severity.String()])
	}
	b, err := json.Marshal(sarif("v1", "", fs))
	if err != nil {
		t.Fatal(err)
	}
	var l struct {
		Runs []struct {
			Tool struct {
				Driver struct {
					Rules []struct {
						ID                   string
						DefaultConfiguration struct{ Level string }
					}
				}
			}
			Results []struct{ RuleID, Level string }
		}
	}
	if err := json.Unmarshal(b, &l); err != nil {
		t.Fatal(err)
	}
	var rules, results []string
	for _, r := range l.Runs[0].Tool.Driver.Rules {
		rules = append(rules, r.ID+" "+r.DefaultConfiguration.Level)
	}
	for _, r := range l.Runs[0].Results {
		results = append(results, r.RuleID+" "+r.Level)
	}
	if d := cmp.Diff(want, rules) + cmp.Diff(want, results); d != "" {
		t.Error(d)
	}
}
