package cli

import (
	"strings"
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// The object that enforces mutual TLS selects what was meant, and nothing else; where another would go
// before it, that one is named.
func TestEnforcement(t *testing.T) {
	policy := func(level, name string) []apiv1.MTLSPolicy {
		return []apiv1.MTLSPolicy{{Level: level, Namespace: "shop", Name: name}}
	}
	port := func(mode string, by []apiv1.MTLSPolicy) []apiv1.MTLSPort {
		return []apiv1.MTLSPort{{Namespace: "shop", Workload: "cart-v1", Port: 80, Mode: mode, Labels: map[string]string{"version": "v1", "app": "cart"}, Policies: by}}
	}
	for _, c := range []struct {
		name, workload string
		ports          []apiv1.MTLSPort
		want           string // of the object, or of the error
	}{
		{"a namespace", "", port("PERMISSIVE", nil), "name: default\n  namespace: shop\nspec:\n  mtls:\n    mode: STRICT\n"},
		{"a namespace whose policy is replaced", "", port("PERMISSIVE", policy("namespace", "default")), "name: default\n"},
		{"a namespace with another policy", "", port("PERMISSIVE", policy("namespace", "older")), "shop/older decides"},
		{"a workload", "cart-v1", port("PERMISSIVE", policy("namespace", "older")), "name: cart-v1\n  namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: \"cart\"\n      version: \"v1\"\n  mtls:"},
		{"a workload with a policy of its own", "cart-v1", port("DISABLE", policy("workload", "older")), "shop/older decides"},
		{"one that is strict already", "cart-v1", port("STRICT", policy("workload", "older")), "name: cart-v1"},
		{"a workload without labels", "cart-v1", []apiv1.MTLSPort{{}}, "no labels in common"},
	} {
		got, err := enforcement("shop", c.workload, c.ports)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}
