package e2e_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// Who called is suggested as the one who may; what is suggested denies nothing at first, and enforced it denies nobody who called,
// and who did not.
func TestSuggestedPoliciesDenyNobodyWhoCalled(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	all := m.Workloads(caller("client"), caller("other"), echoPod("echo-0", "v1"))
	status := func(from *mesh.Workload) int { return from.Get("http://echo:8080/").Status }
	if s := status(all[0]); s != http.StatusOK {
		t.Fatal(s)
	}
	var policy string
	m.Eventually("the call is seen", func() error {
		// What it says beside the objects, `weir` prints too.
		policy, _, _ = strings.Cut(weir(t, m, "authz", "suggest", "default"), "1 policy for a dry run")
		if !strings.Contains(policy, "- cluster.local/ns/default/sa/client\n") {
			return errors.New(policy)
		}
		return nil
	})
	m.Config("suggested.yaml", policy)
	for i, from := range all[:2] {
		if s := status(from); s != http.StatusOK {
			t.Errorf("caller %d of a dry run: %d", i, s)
		}
	}
	enforced := strings.ReplaceAll(policy, `istio.io/dry-run: "true"`, `istio.io/dry-run: "false"`)
	if enforced == policy {
		t.Fatal(policy)
	}
	m.Config("suggested.yaml", enforced)
	for i, want := range []int{http.StatusOK, http.StatusForbidden} {
		if s := status(all[i]); s != want {
			t.Errorf("caller %d, enforced: %d, want %d:\n%s", i, s, want, enforced)
		}
	}
}
