package istio

import (
	"fmt"

	"github.com/weirmesh/weir/mesh"
)

// Compatibility versions: whose defaults hold where objects say nothing.
const (
	Weir     = ""
	Istio10  = "1.0"
	Istio11  = "1.1"
	Istio131 = "1.31"
)

// Compatible sets the defaults of a compatibility version. What the versions differ in besides (ports, identities,
// injection) is the installation's.
func Compatible(version string, s *mesh.Settings) error {
	old := mesh.Defaults{Balancing: mesh.RoundRobin, PoolLimit: 1024, GatewayErrors: true, MinHealthPercent: 50}
	retries := func(on string) mesh.RetryPolicy {
		return mesh.RetryPolicy{Attempts: 2, RetryOn: on, IgnorePreviousHosts: true}
	}
	switch version {
	case Weir:
		s.Defaults, s.DefaultRetries = mesh.Defaults{}, mesh.SafeRetries()
	case Istio10:
		s.Defaults, s.DefaultRetries = old, mesh.RetryPolicy{RetryOn: istio11RetryOn, IgnorePreviousHosts: true}
	case Istio11:
		s.Defaults, s.DefaultRetries = old, retries(istio11RetryOn)
	case Istio131:
		s.Defaults, s.DefaultRetries = mesh.Defaults{}, retries("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes")
	default:
		return fmt.Errorf("compatibility version %q is none of %s, %s and %s: leave it out for Weir's own defaults", version, Istio10, Istio11, Istio131)
	}
	return nil
}

// istio11RetryOn repeats what an application answered 503, too.
const istio11RetryOn = "connect-failure,refused-stream,unavailable,cancelled,resource-exhausted,503"
