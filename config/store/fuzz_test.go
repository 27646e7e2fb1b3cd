package store_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
)

// Whatever a document says, lowering ends, says the same twice, gives something exactly
// if there is no error, and its findings read well.
func FuzzLower(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range paths {
		ar, err := txtar.ParseFile(p)
		if err != nil {
			f.Fatal(err)
		}
		for _, x := range ar.Files {
			if filepath.Ext(x.Name) == ".yaml" {
				f.Add(x.Data)
			}
		}
	}
	s := settings()
	f.Fuzz(func(t *testing.T, data []byte) {
		u := file.Parse("f.yaml", data, "default")
		for _, o := range u.Objects {
			a, state, findings := store.Lower(o, &s)
			b, _, again := store.Lower(o.Compact(), &s)
			if !reflect.DeepEqual(a, b) || !reflect.DeepEqual(config.Tidy(findings), config.Tidy(again)) {
				t.Errorf("%v lowers differently the second time:\n%v\n%v", o.ID, findings, again)
			}
			if errors := config.Errors(findings) > 0; errors != (state == store.Quarantined || state == store.Unenforced) || (a != nil) != (state == store.Compiled) {
				t.Errorf("%v is %s with %v: %v", o.ID, state, a, findings)
			}
			for _, fd := range findings {
				if fd.Line == 0 || fd.Message == "" || strings.HasSuffix(fd.Message, ".") || strings.Contains(fd.String(), "%!") {
					t.Errorf("a bad finding: %+v", fd)
				}
			}
		}
		st, err := store.New(store.Options{Settings: s})
		if err != nil {
			t.Fatal(err)
		}
		st.Step(u)
		st.Analyze()
	})
}
