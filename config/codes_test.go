package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/mesh"
)

// The table is what documentation and command line print.
func TestCodesAreExplained(t *testing.T) {
	for i, c := range codes {
		if c.Title == "" || !strings.HasSuffix(c.Explanation, ".") {
			t.Errorf("%s has no title or explanation: %+v", c.Code, c)
		}
		if i > 0 && c.Code <= codes[i-1].Code {
			t.Errorf("%s follows %s", c.Code, codes[i-1].Code)
		}
	}
	if _, ok := Explain("WEIR9999"); ok {
		t.Error("a code that does not exist is explained")
	}
}

var update = flag.Bool("update", false, "rewrite docs/findings.md")

// docs/findings.md is the table.
func TestFindingsAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Findings\n\nWhat `weir analyze`, `weir status` and the API say about configuration. IST codes are Istio's and mean the same there; WEIR codes\nare our own. An *error* about one object keeps that object out of force: its last good version stays. (`go test ./config -update` writes\nthis page.)\n")
	for _, c := range codes {
		fmt.Fprintf(&b, "\n## %s %s\n\n*%s.* %s\n", c.Code, c.Title, c.Severity, c.Explanation)
		if want := "docs/findings.md#" + strings.ToLower(strings.ReplaceAll(fmt.Sprintf("%s %s", c.Code, c.Title), " ", "-")); c.Docs() != want {
			t.Errorf("%s: %s leads nowhere, the heading is at %s", c.Code, c.Docs(), want)
		}
	}
	const path = "../docs/findings.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the table says: run go test ./config -update (%v)", path, err)
	}
}

func TestTidy(t *testing.T) {
	a := New(SchemaError, mesh.Ref{Kind: "Service", Name: "a", File: "a.yaml", Line: 3}, "spec", 0, "x", "")
	b := New(Deprecated, mesh.Ref{File: "a.yaml"}, "", 1, "y", "do z")
	c := New(LastGoodServed, mesh.Ref{File: "b.yaml"}, "", 1, "z", "")
	got := Tidy([]Finding{c, a, b, a})
	if !slices.Equal(got, []Finding{b, a, c}) || a.Line != 3 {
		t.Errorf("%v", got)
	}
	worst := New(TrafficNotCaptured, mesh.Ref{Kind: "Pod", Name: "z", File: "z.yaml"}, "", 9, "w", "")
	if got := Tidy([]Finding{a, worst, b}); got[0] != worst {
		t.Errorf("a pod whose traffic goes past its proxy is not first: %v", got)
	}
	if m := Merge([]Finding{b, c}, []Finding{a, c}); !slices.Equal(m, []Finding{b, a, c}) {
		t.Errorf("merged: %v", m)
	}
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"code":"IST0106","severity":"error","object":{"kind":"Service","name":"a","file":"a.yaml","line":3},"fieldPath":"spec","line":3,"message":"x"}`; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	var back Finding
	if err := json.Unmarshal(data, &back); err != nil || back != a {
		t.Errorf("%+v %v", back, err)
	}
}

func TestIDs(t *testing.T) {
	id := ID{"apps", "Deployment", "ns", "web"}
	if back, err := ParseID(id.String()); back != id || err != nil {
		t.Error(back, err)
	}
	if _, err := ParseID("apps/Deployment"); err == nil {
		t.Error("half an ID was read")
	}
}
