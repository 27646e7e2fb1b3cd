package cli

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/install/cluster"
)

// A revision that is still asked for does not go while another one stays: --force is for namespaces, whose pods then start without a proxy, never
// for tags, whose pods could not start. The last installation may always go.
func TestWhatUninstallRefuses(t *testing.T) {
	prod := &unstructured.Unstructured{}
	prod.SetLabels(map[string]string{"istio.io/tag": "prod"})
	tags := []*unstructured.Unstructured{prod}
	for _, tc := range []struct {
		name    string
		found   cluster.Remains
		force   bool
		refused string
		hint    string
	}{
		{name: "nobody asks", found: cluster.Remains{Heir: "weir"}},
		{name: "namespaces ask", found: cluster.Remains{Heir: "weir", Asking: []string{"cart", "shop"}}, refused: "cart, shop", hint: "--force"},
		{name: "namespaces ask, and --force", found: cluster.Remains{Heir: "weir", Asking: []string{"shop"}}, force: true},
		{name: "a tag leads to it", found: cluster.Remains{Heir: "weir", Tags: tags, Asking: []string{"shop"}}, refused: "tag prod", hint: "weir tag set prod --revision OTHER --overwrite"},
		{name: "a tag leads to it, and --force", found: cluster.Remains{Heir: "weir", Tags: tags}, force: true, refused: "tag prod", hint: "weir tag set prod"},
		{name: "the last one", found: cluster.Remains{Tags: tags, Asking: []string{"shop"}}},
	} {
		err := unfit(&tc.found, tc.force)
		if (err == nil) != (tc.refused == "") {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.refused)
			continue
		}
		if err == nil {
			continue
		}
		var f *failure
		if !errors.As(err, &f) || !strings.Contains(err.Error(), tc.refused) || !strings.Contains(f.hint, tc.hint) {
			t.Errorf("%s: %+v, want %q (%q)", tc.name, f, tc.refused, tc.hint)
		}
	}
}
