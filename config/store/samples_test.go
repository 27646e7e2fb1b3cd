package store_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
)

// Istio's published samples must be accepted as they are, each file by itself: no error
// about an object alone. What the files say about each other is another matter.
func TestIstioSamples(t *testing.T) {
	root := "../../../shared/fixtures/istio-samples"
	if _, err := os.Stat(root); err != nil {
		root = "../" + root // from a linked worktree
	}
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return filepath.SkipAll
		}
		if filepath.Ext(path) != ".yaml" {
			return nil
		}
		n++
		t.Run(strings.TrimPrefix(path, root+"/"), func(t *testing.T) {
			units, err := file.New(file.Options{Paths: []string{path}}).Read()
			if err != nil {
				t.Fatal(err)
			}
			s := newStore(t, "")
			u := s.Step(units...)
			for _, f := range u.Findings {
				if f.Severity == config.Error {
					t.Error(f)
				} else {
					t.Log(f)
				}
			}
			for o := range u.Objects.Values() {
				if o.State == store.Quarantined {
					t.Errorf("%v is quarantined", o.ID)
				}
			}
			for _, f := range s.Analyze().Findings {
				t.Log(f)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Skip("no samples at " + root)
	}
}
