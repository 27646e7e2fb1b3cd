package archtest

import (
	"bufio"
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/weirmesh/weir"

// rule forbids imports. A package whose path (below the module) is in, or under,
// one of From must not import anything in, or under, Deny (a module-relative
// room, or a full import path), unless the imported path matches Except or the
// importing package is in Unless.
type rule struct {
	From   []string
	Deny   []string
	Except []string
	Unless []string
	Why    string
}

var rules = []rule{
	{From: []string{"mesh"}, Deny: []string{"*"}, Except: []string{"internal/persist", "mesh"},
		Why: "mesh is the plan: pure data that every input language and every output can depend on"},
	{From: []string{"translate"}, Deny: []string{"config", "registry", "xds/server", "xds/client", "proxy", "control", "local", "cli", "ca", "identity", "time/tzdata", "log", "log/slog", "os", "net/http", "sync", "context"},
		Why: "translation is a pure function of the snapshot: no clock, no goroutine, no logger, no look-ups"},
	{From: []string{"xds"}, Deny: []string{"mesh", "config", "registry", "translate", "proxy", "control", "local", "cli"},
		Why: "the corridor moves opaque resources and knows neither plane"},
	{From: []string{"proxy", "cmd/weir-proxy"}, Deny: []string{"mesh", "config", "registry", "translate", "control", "local", "cli", "ca", "xds/server", "k8s.io"},
		Why: "the two planes meet only on the wire, and the data plane stays small"},
	{From: []string{"config", "registry", "ca", "identity", "control", "inject"}, Deny: []string{"proxy", "local", "cli"},
		Why: "the control plane drives any xDS proxy; it must not know ours"},
	{From: []string{"internal"}, Deny: []string{"mesh", "config", "registry", "translate", "xds", "proxy", "control", "local", "cli", "ca", "identity", "capture", "inject"},
		Why: "the tool drawer is mesh-agnostic"},
	{From: []string{"inject"}, Deny: []string{"log/slog", "net/http", "context", "os", "time", "k8s.io/client-go"}, Unless: []string{"inject/webhook"},
		Why: "what a pod gets is a pure function: the same in a cluster and of a file"},
	{From: []string{""}, Deny: []string{"k8s.io/client-go"},
		Unless: []string{"config/source/kube", "registry/kube", "inject", "ca/kube", "control/kubestatus", "control/lastgood", "internal/leader", "internal/kubeconfig", "internal/kubekeep", "internal/kubewatch", "capture/cni/agent", "install", "cli", "cmd/weir", "cmd/weir-control", "cmd/weir-cni", "test"},
		Why:    "a Kubernetes client is heavy and ties a package to one platform"},
	{From: []string{""}, Deny: []string{"github.com/spf13/cobra", "flag"}, Unless: []string{"cmd", "cli", "sample", "test", "capture/flags"},
		Why: "flags are read at the front doors; options are struct fields"},
	{From: []string{""}, Deny: []string{"github.com/stretchr/testify", "io/ioutil", "github.com/pkg/errors", "gopkg.in/yaml.v2", "gopkg.in/yaml.v3"},
		Why: "style.md section 9 has the choices"},
}

// bannedNames are package names that say nothing about what is inside.
var bannedNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "types", "manager"}

const (
	hardFileLines = 800 // the tail of file sizes is what makes a tree unreadable
)

type source struct {
	rel, dir string // module-relative file and folder, slash-separated
	data     []byte
}

func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var out []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == ".git" || n == "node_modules" || n == "testdata" || n == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		out = append(out, source{rel, path.Dir(rel), data})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("no source files found: the test looks in the wrong place")
	}
	return out
}

func generated(data []byte) bool {
	return bytes.Contains(data[:min(len(data), 2000)], []byte("DO NOT EDIT"))
}

// under reports whether p is room or lies below it. "" is the whole module.
func under(p, room string) bool {
	return room == "" || p == room || strings.HasPrefix(p, room+"/")
}

func anyUnder(p string, rooms []string) bool {
	for _, r := range rooms {
		if under(p, r) {
			return true
		}
	}
	return false
}

// denied reports whether rule r forbids package dir to import imp.
func (r rule) denied(dir, imp string) bool {
	if !anyUnder(dir, r.From) || anyUnder(dir, r.Unless) {
		return false
	}
	rel, ours := strings.CutPrefix(imp, module+"/")
	if anyUnder(rel, r.Except) && ours {
		return false
	}
	for _, d := range r.Deny {
		if d == "*" {
			if ours || strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
				return true
			}
			continue
		}
		if under(rel, d) && ours || under(imp, d) && !ours {
			return true
		}
	}
	return false
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		f, err := parser.ParseFile(token.NewFileSet(), s.rel, s.data, parser.ImportsOnly)
		if err != nil {
			t.Errorf("%s: %v", s.rel, err)
			continue
		}
		test := strings.HasSuffix(s.rel, "_test.go")
		for _, i := range f.Imports {
			imp, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				// Tests may reach across rooms (that is what integration is), not out of the library choices.
				if test && !anyUnder(imp, []string{"github.com/stretchr/testify"}) {
					continue
				}
				if r.denied(s.dir, imp) {
					t.Errorf("%s imports %s: %s", s.rel, imp, r.Why)
				}
			}
		}
	}
}

// The rules themselves: a rule that cannot fire protects nothing.
func TestRulesFire(t *testing.T) {
	for _, c := range []struct {
		dir, imp string
		want     bool
	}{
		{"mesh", "github.com/google/go-cmp/cmp", true},
		{"mesh", module + "/internal/persist", false},
		{"mesh", "strings", false},
		{"translate", "log/slog", true},
		{"xds/server", module + "/mesh", true},
		{"proxy/state", module + "/mesh", true},
		{"proxy/state", module + "/xds/client", false},
		{"proxy", "k8s.io/api/core/v1", true},
		{"config/source/kube", "k8s.io/client-go/rest", false},
		{"ca", "k8s.io/client-go/rest", true},
		{"internal/memnet", module + "/proxy", true},
		{"proxy/state", "flag", true},
		{"cmd/weir", "flag", false},
	} {
		got := false
		for _, r := range rules {
			got = got || r.denied(c.dir, c.imp)
		}
		if got != c.want {
			t.Errorf("%s importing %s: denied %v, want %v", c.dir, c.imp, got, c.want)
		}
	}
}

func TestPackagesHaveNamesAndOneComment(t *testing.T) {
	comments := map[string][]string{}
	packages := map[string]bool{}
	for _, s := range sources(t) {
		f, err := parser.ParseFile(token.NewFileSet(), s.rel, s.data, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("%s: %v", s.rel, err)
			continue
		}
		if strings.HasSuffix(s.rel, "_test.go") {
			continue
		}
		packages[s.dir] = true
		if f.Doc != nil {
			comments[s.dir] = append(comments[s.dir], s.rel)
		}
		for _, b := range bannedNames {
			if f.Name.Name == b {
				t.Errorf("%s: package name %s says nothing about its content", s.rel, b)
			}
		}
	}
	for dir := range packages {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("package %s has %d package comments (%v), want exactly one: what enters, what leaves, who may call it, what is concurrent", dir, n, comments[dir])
		}
	}
}

func TestFileLength(t *testing.T) {
	for _, s := range sources(t) {
		if generated(s.data) {
			continue
		}
		n := 0
		for sc := bufio.NewScanner(bytes.NewReader(s.data)); sc.Scan(); {
			n++
		}
		if n > hardFileLines {
			t.Errorf("%s has %d lines, at most %d: split it by concern", s.rel, n, hardFileLines)
		}
	}
}

// Tests own their clock: a sleep is either too short (flaky) or too long (slow).
func TestNoSleepInTests(t *testing.T) {
	sleep := []byte("time." + "Sleep(")
	for _, s := range sources(t) {
		if strings.HasSuffix(s.rel, "_test.go") && bytes.Contains(s.data, sleep) && !bytes.Contains(s.data, []byte("testing/synctest")) {
			t.Errorf("%s sleeps: use testing/synctest or wait for a condition", s.rel)
		}
	}
}
