package control

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/weirmesh/weir/identity"
)

// Trust domain aliases of a MeshConfig in files let their workloads in while the mesh runs, and shut them out when they are taken back.
func TestTrustDomainAliasesComeAndGo(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	old := identity.ID{TrustDomain: "old.example", Namespace: "default", ServiceAccount: "reviews"}
	if (members{p.Plane}).Accepts(old) {
		t.Fatal("a stranger is accepted")
	}
	for _, step := range []struct {
		mesh string
		want []string
	}{
		{"trustDomainAliases: [old.example, cluster.local, old.example, 'not a name']", []string{"old.example"}},
		{"accessLogFile: /dev/stdout", nil},
	} {
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    " + step.mesh + "\n"
		if err := os.WriteFile(filepath.Join(p.dir, "mesh.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p.until(t, step.mesh, func() bool { return slices.Equal(p.trustDomains()[1:], step.want) })
		if got, want := (members{p.Plane}).Accepts(old), len(step.want) > 0; got != want {
			t.Errorf("%s: accepted %v, want %v", step.mesh, got, want)
		}
	}
}
