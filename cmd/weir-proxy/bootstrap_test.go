package main

import (
	"os"
	"testing"
)

// FuzzBootstrap: a file is a bootstrap with listeners, or an error says why not.
func FuzzBootstrap(f *testing.F) {
	for _, file := range []string{"../../test/soak/body.yaml", "../../test/conformance/h2spec.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, s := range []string{"", "a", "[]", "{}", "node: {id: 1}", "static_resources: {listeners: [{name: a}, {name: a}]}", "static_resources: {clusters: [{x: 1}, {name: [}]}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if b, err := parseBootstrap(text); err == nil && len(b.GetStaticResources().GetListeners()) == 0 && b.GetDynamicResources() == nil {
			t.Error("nothing to do, and no error")
		}
	})
}
