package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite cmd/*/deps.txt: only commit the changes if you understand what caused them and if they are desired")

// Every binary has a reviewed list of the modules it is made of, so that a further one is
// a line in a diff, with who brought it. Versions are in go.mod.
func TestDependencies(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command: ", err)
	}
	binaries, err := filepath.Glob("../../cmd/*")
	if err != nil || len(binaries) == 0 {
		t.Fatal("no binaries", err)
	}
	for _, dir := range binaries {
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, "deps.txt")
			got := dependencies(t, name)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(modules(string(want)), modules(got)); d != "" {
				t.Errorf("cmd/%s has other modules than reviewed; if that is meant: go test ./internal/archtest -update (-reviewed +found)\n%s", name, d)
			}
		})
	}
}

// modules are the names in a list. Who brings one may change without a new list: several
// do, and only one of them is named.
func modules(list string) []string {
	var out []string
	for line := range strings.Lines(list) {
		if name, _, ok := strings.Cut(line, " ("); ok {
			out = append(out, name)
		}
	}
	return out
}

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Module     *struct{ Path string }
	Imports    []string
}

// dependencies lists the modules of a binary as it is released, each with the first of
// our packages, or else of the other modules, that imports it.
func dependencies(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Module,Imports", "./cmd/"+name)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	moduleOf := map[string]string{}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module != nil {
			moduleOf[p.ImportPath] = p.Module.Path
			packages = append(packages, p)
		}
	}
	// Of ours the first in order of name, otherwise the first module.
	ours, others := map[string]string{}, map[string]string{}
	first := func(m map[string]string, module, by string) {
		if old, ok := m[module]; !ok || by < old {
			m[module] = by
		}
	}
	for _, p := range packages {
		for _, imp := range p.Imports {
			switch to := moduleOf[imp]; {
			case to == "" || to == p.Module.Path:
			case p.Module.Path == module:
				first(ours, to, strings.TrimPrefix(p.ImportPath, module+"/"))
			default:
				first(others, to, p.Module.Path)
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The modules that cmd/%s is made of, and who brought each when it was listed. go test ./internal/archtest -update writes this.\n", name)
	who := maps.Clone(others)
	maps.Copy(who, ours)
	delete(who, module)
	for _, m := range slices.Sorted(maps.Keys(who)) {
		fmt.Fprintf(&b, "%s (%s)\n", m, who[m])
	}
	return b.String()
}
