package istio

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/mesh"
)

// Each version of which defaults are known has its own; another is refused with those there are.
func TestCompatible(t *testing.T) {
	old := mesh.Defaults{Balancing: mesh.RoundRobin, PoolLimit: 1024, GatewayErrors: true, MinHealthPercent: 50}
	for version, want := range map[string]struct {
		defaults mesh.Defaults
		attempts uint32
		on       string
	}{
		Weir:     {mesh.Defaults{}, 2, "connect-failure,refused-stream,reset-before-request,reset-idempotent"},
		Istio10:  {old, 0, "connect-failure,refused-stream,unavailable,cancelled,resource-exhausted,503"},
		Istio11:  {old, 2, "connect-failure,refused-stream,unavailable,cancelled,resource-exhausted,503"},
		Istio131: {mesh.Defaults{}, 2, "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"},
	} {
		got := mesh.Settings{TrustDomain: "kept", DefaultRetries: mesh.RetryPolicy{Attempts: 9}, Defaults: mesh.Defaults{PoolLimit: 9}}
		if err := Compatible(version, &got); err != nil {
			t.Errorf("%q: %v", version, err)
		}
		if diff := cmp.Diff(mesh.Settings{TrustDomain: "kept", Defaults: want.defaults,
			DefaultRetries: mesh.RetryPolicy{Attempts: want.attempts, RetryOn: want.on, IgnorePreviousHosts: true}}, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", version, diff)
		}
	}
	if err := Compatible("1.32", &mesh.Settings{}); err == nil || !strings.Contains(err.Error(), `"1.32" is none of 1.0, 1.1 and 1.31`) {
		t.Errorf("1.32: %v", err)
	}
}
