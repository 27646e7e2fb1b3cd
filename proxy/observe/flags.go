package observe

import (
	"math/bits"
	"strings"
)

// Flags is a set of Envoy's response flags (%RESPONSE_FLAGS%, features of an
// exchange or connection that did not simply succeed).
type Flags uint32

// Response flags, in the order Envoy prints them.
const (
	FailedLocalHealthCheck           Flags = 1 << iota // LH
	NoHealthyUpstreamFlag                              // UH
	UpstreamRequestTimeout                             // UT
	LocalReset                                         // LR
	UpstreamRemoteReset                                // UR
	UpstreamConnectionFailure                          // UF
	UpstreamConnectionTermination                      // UC
	UpstreamOverflowFlag                               // UO
	NoRouteFound                                       // NR
	DelayInjected                                      // DI
	FaultInjected                                      // FI
	RateLimited                                        // RL
	UnauthorizedExternalService                        // UAEX
	RateLimitServiceError                              // RLSE
	DownstreamConnectionTermination                    // DC
	UpstreamRetryLimitExceeded                         // URX
	StreamIdleTimeoutFlag                              // SI
	InvalidEnvoyRequestHeaders                         // IH
	DownstreamProtocolErrorFlag                        // DPE
	UpstreamMaxStreamDurationReached                   // UMSDR
	DurationTimeout                                    // DT
	UpstreamProtocolErrorFlag                          // UPE
	NoClusterFound                                     // NC
	OverloadManagerTerminated                          // OM
	DNSResolutionFailed                                // DF
	DownstreamRemoteReset                              // DR
)

var flagNames = [...]string{
	"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE",
	"UMSDR", "DT", "UPE", "NC", "OM", "DF", "DR",
}

// String is what access logs and metrics show: comma-joined, "-" for none. It allocates only for two flags or more.
func (f Flags) String() string {
	switch {
	case f == 0:
		return "-"
	case f&(f-1) == 0:
		return flagNames[bits.TrailingZeros32(uint32(f))]
	}
	var names []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}
