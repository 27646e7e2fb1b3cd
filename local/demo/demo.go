// Package demo holds the applications that `weir up --demo` runs.
//
// A name enters; YAML of Services, Deployments and Istio's objects leaves. It is the
// configuration a user would write, and nothing else is done for a demo.
package demo

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Names lists the demos.
func Names() []string {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		panic(err) // embedded
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), path.Ext(e.Name())))
	}
	slices.Sort(out)
	return out
}

// YAML is the configuration of a demo.
func YAML(name string) (data []byte, ok bool) {
	data, err := files.ReadFile(name + ".yaml")
	return data, err == nil
}
