package observe

import "math/bits"

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

// AnyFlag is the set of all flags.
const AnyFlag = DownstreamRemoteReset<<1 - 1

var flagNames = [...]string{
	"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE",
	"UMSDR", "DT", "UPE", "NC", "OM", "DF", "DR",
}

// longFlagNames are those of %RESPONSE_FLAGS_LONG%.
var longFlagNames = [len(flagNames)]string{
	"FailedLocalHealthCheck", "NoHealthyUpstream", "UpstreamRequestTimeout", "LocalReset", "UpstreamRemoteReset", "UpstreamConnectionFailure",
	"UpstreamConnectionTermination", "UpstreamOverflow", "NoRouteFound", "DelayInjected", "FaultInjected", "RateLimited", "UnauthorizedExternalService",
	"RateLimitServiceError", "DownstreamConnectionTermination", "UpstreamRetryLimitExceeded", "StreamIdleTimeout", "InvalidEnvoyRequestHeaders",
	"DownstreamProtocolError", "UpstreamMaxStreamDurationReached", "DurationTimeout", "UpstreamProtocolError", "NoClusterFound", "OverloadManagerTerminated",
	"DnsResolutionFailed", "DownstreamRemoteReset",
}

// String is what access logs and metrics show: comma-joined, "-" for none. It allocates only for two flags or more.
func (f Flags) String() string {
	switch {
	case f == 0:
		return "-"
	case f&(f-1) == 0:
		return flagNames[bits.TrailingZeros32(uint32(f))]
	}
	return string(f.append(nil, flagNames[:]))
}

// append appends the names of the flags, comma-joined, "-" for none.
func (f Flags) append(b []byte, names []string) []byte {
	if f == 0 {
		return append(b, '-')
	}
	for first := true; f != 0; f &= f - 1 {
		if !first {
			b = append(b, ',')
		}
		b, first = append(b, names[bits.TrailingZeros32(uint32(f))]...), false
	}
	return b
}
