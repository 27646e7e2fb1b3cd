package istio

import (
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Each way to make paths canonical is taken; the one that policies can be got around by is told of.
func TestPathNormalization(t *testing.T) {
	o := configMap(t)
	for _, c := range []struct {
		text string
		want mesh.PathNormalization
		code config.Code
	}{
		{"{}", mesh.PathsBase, ""},
		{"{pathNormalization: {}}", mesh.PathsBase, ""},
		{"{pathNormalization: {normalization: DEFAULT}}", mesh.PathsBase, ""},
		{"{pathNormalization: {normalization: BASE}}", mesh.PathsBase, ""},
		{"{pathNormalization: {normalization: MERGE_SLASHES}}", mesh.PathsMerged, ""},
		{"{pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}}", mesh.PathsDecoded, ""},
		{"{pathNormalization: {normalization: NONE}}", mesh.PathsAsTheyCome, config.PathsAsTheyCome},
		{"{pathNormalization: {normalization: MERGE}}", 0, config.SchemaError},
		{"{pathNormalization: {normalization: 7}}", 0, config.SchemaError},
	} {
		m, findings := LowerMeshConfig(o, "mesh", c.text, &mesh.Settings{})
		code := config.Code("")
		for _, f := range findings {
			code = f.Code
		}
		if code != c.code || len(findings) > 1 {
			t.Errorf("%s: %v, want %q", c.text, findings, c.code)
		}
		if refused := c.code == config.SchemaError; refused != (m == nil) {
			t.Errorf("%s: refused %v", c.text, m == nil)
		} else if !refused && m.Settings(&mesh.Settings{}).Paths != c.want {
			t.Errorf("%s: %+v", c.text, m.Settings(&mesh.Settings{}))
		}
	}
}

// configMap is the object that a MeshConfig is in.
func configMap(t *testing.T) *config.Object {
	t.Helper()
	root, err := document.ParseYAML("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n", 1)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := config.NewObject(root, document.Part{}, "in.yaml", "default")
	return o
}
