package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/api/causes"
)

const scenarios = "../../docs/scenarios.md"

// promises are words of docs/scenarios.md about what else is told, and what a row has to state then.
var promises = map[string]func(f *fault) bool{
	"with the field":     func(f *fault) bool { return f.object != "" },
	"its value, use":     func(f *fault) bool { return f.limit != "" },
	"with the Sidecar":   func(f *fault) bool { return strings.HasPrefix(f.object, "Sidecar ") },
	"and the field":      func(f *fault) bool { return f.object != "" },
	"policy and rule":    func(f *fault) bool { return strings.Contains(f.object, "rules[") },
	"nearest hosts":      func(f *fault) bool { return strings.Contains(f.detail, "nearest") },
	"ended the attempts": func(f *fault) bool { return f.stopped != "" },
}

// What docs/scenarios.md says that `weir why` says of a scenario is what it says of a fault.
func TestScenariosAreTold(t *testing.T) {
	text, err := os.ReadFile(scenarios)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]*fault{}
	for _, f := range catalogue(t) {
		rows[f.name] = &f
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		for _, says := range strings.Split(line, "`weir why`: ")[1:] {
			says, _, _ = strings.Cut(says, "; `weir ")
			told := map[string]bool{}
			for clause := range strings.SplitSeq(says, ";") {
				for _, m := range regexp.MustCompile(`([a-z_]+) \(([^)]*)\)`).FindAllStringSubmatch(clause, -1) {
					told[m[1]] = true
					found++
					f := rows[m[2]]
					if f == nil || f.cause != m[1] {
						t.Errorf("no row %q has the cause %q", m[2], m[1])
						continue
					}
					for words, holds := range promises {
						if strings.Contains(clause, words) && !holds(f) {
							t.Errorf("%q is told %q, and its row does not hold that", m[2], words)
						}
					}
				}
			}
			for _, word := range regexp.MustCompile(`[a-z_]+`).FindAllString(says, -1) {
				if c, ok := causes.Named(word); ok && strings.Contains(word, "_") && !told[word] {
					t.Errorf("%s is told, and no row shows it: %s", c.Name(), line)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("%d are told", found)
	}
}

// Of each finding that docs/scenarios.md names there is a test that has its code, among those that the page names.
func TestScenariosFindingsAreTested(t *testing.T) {
	page, err := os.ReadFile(scenarios)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("../../config/codes.go")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`\bTest\w+`).FindAllString(string(page), -1)
	of := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	var tests strings.Builder
	if err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2 {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") || path == "scenarios_test.go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if slices.ContainsFunc(of.FindAllSubmatch(text, -1), func(m [][]byte) bool { return slices.Contains(named, string(m[1])) }) {
			tests.Write(text)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`\b(WEIR|IST)\d{4}\b`).FindAllString(string(page), -1)
	for _, code := range codes {
		name := regexp.MustCompile(`(?m)^\s*(\w+)\s+Code = "` + code + `"`).FindStringSubmatch(string(table))
		if name == nil {
			t.Errorf("%s is no code", code)
		} else if !strings.Contains(tests.String(), code) && !regexp.MustCompile(`config\.`+name[1]+`\b`).MatchString(tests.String()) {
			t.Errorf("no test that the page names has %s", code)
		}
	}
	if len(codes) < 6 {
		t.Errorf("%d codes", len(codes))
	}
}
