package manifest

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/inject"
)

var update = flag.Bool("update", false, "rewrite testdata: only commit the changes if you understand what caused them and if they are desired")

func settings(t testing.TB) *inject.Settings {
	t.Helper()
	s, _, err := inject.NewSettings(inject.Source{NativeSidecars: true}, "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each file of testdata is a file of a user (given) and what is written (want); the
// first line is the intention. What injection adds is elsewhere, so that the lines that
// are too long to read are left out.
func TestFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			given, want := string(a.Files[0].Data), &a.Files[1]
			format := Format(strings.TrimPrefix(strings.TrimPrefix(want.Name, "want"), ": "))
			got, workloads, err := Inject(given, Options{Settings: settings(t), Namespace: "shop", File: "given", Format: format})
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := Inject(got, Options{Settings: settings(t), Namespace: "shop", Format: format})
			if err != nil || again != got {
				t.Errorf("a second injection changes the file: %v\n%s", err, cmp.Diff(got, again))
			}
			for _, w := range workloads {
				got += "# " + w.Object.Kind + " " + w.Object.Namespace + "/" + w.Object.Name + ": " + w.Decision.Message + "\n"
				for _, f := range w.Findings {
					got += "# " + f.String() + "\n"
				}
			}
			got = short(got)
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(want.Data), got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// short leaves out the inner lines of injected containers and volumes.
func short(text string) string {
	var out []string
	skip := -1
	for line := range strings.Lines(text) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		entry := strings.HasPrefix(line[indent:], "- ")
		if skip >= 0 && indent > skip {
			continue
		}
		skip = -1
		if entry && (strings.Contains(line, "- args:") || strings.Contains(line, "- emptyDir:") || strings.Contains(line, "- configMap:") || strings.Contains(line, "- downwardAPI:") || strings.Contains(line, "- projected:")) {
			skip = indent
			line = strings.TrimRight(line, "\n") + " ...\n"
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

// Every published sample is injected, and comes out as a stream of the same documents.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob("../../../shared/fixtures/istio-samples/*/platform/kube/*.yaml")
	if err != nil || len(files) == 0 {
		t.Skip("the samples are not beside the repository")
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out, workloads, err := Inject(string(data), Options{Settings: settings(t), Namespace: "shop", File: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		count := func(text string) (n int) {
			for range document.Split(text) {
				n++
			}
			return n
		}
		if count(out) != count(string(data)) || strings.Count(out, "name: istio-proxy\n") != len(workloads) {
			t.Errorf("%s: %d documents became %d, %d of %d workloads have a proxy", name, count(string(data)), count(out), strings.Count(out, "name: istio-proxy\n"), len(workloads))
		}
	}
}

// Text of users: no fault, and without workloads not a byte changes.
func FuzzInject(f *testing.F) {
	for _, s := range []string{"apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a}]}\n", "---\n# c\nkind: List\nitems:\n- &a {kind: Pod, spec: {}}\n- *a\n", `{"kind":"CronJob","spec":{"jobTemplate":{"spec":{"template":{"metadata":null,"spec":{"containers":[]}}}}}}`, "a: b\n...\n---\n"} {
		f.Add(s)
	}
	s := settings(f)
	f.Fuzz(func(t *testing.T, text string) {
		out, workloads, err := Inject(text, Options{Settings: s, Namespace: "shop"})
		if err != nil {
			return
		}
		if len(workloads) == 0 && out != text {
			t.Errorf("%q became %q", text, out)
		}
		if asJSON, _, err := Inject(text, Options{Settings: s, Format: JSON}); err == nil {
			for d := json.NewDecoder(strings.NewReader(asJSON)); d.More(); {
				var v any
				if err := d.Decode(&v); err != nil {
					t.Errorf("%q became %q: %v", text, asJSON, err)
					return
				}
			}
		}
	})
}
