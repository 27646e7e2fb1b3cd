package causes

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
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
	DropOverload                                       // DO
	UnconditionalDropOverload                          // UDO
)

// AnyFlag is the set of all flags.
const AnyFlag = UnconditionalDropOverload<<1 - 1

type flagInfo struct{ short, long, sentence string }

// flagTable has the names of flags: of %RESPONSE_FLAGS%, of %RESPONSE_FLAGS_LONG%, and a sentence.
var flagTable = [...]flagInfo{
	{"LH", "FailedLocalHealthCheck", "the proxy's own health check failed (Envoy's: proxies of this mesh do not say it)"},
	{"UH", "NoHealthyUpstream", "the destination has no endpoint that may be used"},
	{"UT", "UpstreamRequestTimeout", "the upstream did not answer in time"},
	{"LR", "LocalReset", "the connection was reset by the proxy itself"},
	{"UR", "UpstreamRemoteReset", "the upstream reset the request"},
	{"UF", "UpstreamConnectionFailure", "no connection to the upstream could be made"},
	{"UC", "UpstreamConnectionTermination", "the upstream ended the connection instead of answering, or in the middle of its answer"},
	{"UO", "UpstreamOverflow", "a limit of the destination was reached (circuit breaker)"},
	{"NR", "NoRouteFound", "no route, or no filter chain, for the request or connection"},
	{"DI", "DelayInjected", "the request was delayed on purpose (fault injection)"},
	{"FI", "FaultInjected", "the request was aborted on purpose (fault injection)"},
	{"RL", "RateLimited", "a rate limit was exceeded"},
	{"UAEX", "UnauthorizedExternalService", "the external authorization service denied the request, or did not answer"},
	{"RLSE", "RateLimitServiceError", "the rate limit service failed (Envoy's: proxies of this mesh do not say it)"},
	{"DC", "DownstreamConnectionTermination", "the client closed the connection before it had the whole response"},
	{"URX", "UpstreamRetryLimitExceeded", "every attempt failed: the number of retries, or of connection attempts, is used up; the flag beside it says what the last one met"},
	{"SI", "StreamIdleTimeout", "nothing was transferred for the stream idle timeout"},
	{"IH", "InvalidEnvoyRequestHeaders", "a header that the proxy reads is not valid, and the listener is strict about it"},
	{"DPE", "DownstreamProtocolError", "the client's request is not valid HTTP"},
	{"UMSDR", "UpstreamMaxStreamDurationReached", "the longest duration of a request to the upstream was reached"},
	{"DT", "DurationTimeout", "the longest duration of the connection was reached"},
	{"UPE", "UpstreamProtocolError", "the upstream's answer is not valid HTTP"},
	{"NC", "NoClusterFound", "the route's destination does not exist, or its configuration is not there"},
	{"OM", "OverloadManagerTerminated", "the proxy protects itself: memory, descriptors or connections are used up"},
	{"DF", "DnsResolutionFailed", "a name was not resolved by DNS (Envoy's: proxies of this mesh say UH, name_not_resolved)"},
	{"DR", "DownstreamRemoteReset", "the client reset the request before it had the whole response"},
	{"DO", "DropOverload", "the control plane has a share of the requests to the destination dropped"},
	{"UDO", "UnconditionalDropOverload", "the control plane has all requests to the destination dropped"},
}

// String is what access logs and metrics show: comma-joined, "-" for none. It allocates only for two flags or more.
func (f Flags) String() string {
	switch {
	case f == 0:
		return "-"
	case f&(f-1) == 0:
		return f.info().short
	}
	return string(f.Append(nil))
}

// Append appends the names of the flags, comma-joined, "-" for none.
func (f Flags) Append(b []byte) []byte { return f.join(b, func(i *flagInfo) string { return i.short }) }

// AppendLong appends the long names of the flags, comma-joined, "-" for none.
func (f Flags) AppendLong(b []byte) []byte {
	return f.join(b, func(i *flagInfo) string { return i.long })
}

func (f Flags) join(b []byte, name func(*flagInfo) string) []byte {
	if f == 0 {
		return append(b, '-')
	}
	for first := true; f != 0; f &= f - 1 {
		if !first {
			b = append(b, ',')
		}
		b, first = append(b, name(f.info())...), false
	}
	return b
}

// info describes the first flag of a set.
func (f Flags) info() *flagInfo { return &flagTable[bits.TrailingZeros32(uint32(f))] }

// Each are the flags of a set, one by one.
func (f Flags) Each() iter.Seq[Flags] {
	return func(yield func(Flags) bool) {
		for ; f != 0; f &= f - 1 {
			if !yield(f & -f) {
				return
			}
		}
	}
}

// Long is the long name of the first flag of a set that is not empty.
func (f Flags) Long() string { return f.info().long }

// Docs is where the documentation tells of flags.
func (Flags) Docs() string { return Page + "#response-flags" }

// Sentence is what the first flag of a set that is not empty means.
func (f Flags) Sentence() string { return f.info().sentence }

// FlagsOf is the set of the flags with these names, as %RESPONSE_FLAGS% has them; unknown is the first that is none.
func FlagsOf(names []string) (f Flags, unknown string) {
	for _, n := range names {
		i := slices.IndexFunc(flagTable[:], func(t flagInfo) bool { return t.short == n })
		if i < 0 {
			return 0, cmp.Or(n, `""`)
		}
		f |= 1 << i
	}
	return f, ""
}

// Parse is the set of flags that a word of an access log names: comma-joined, short or long, whatever their case; 0 if one of them is
// none.
func Parse(word string) (f Flags) {
	for n := range strings.SplitSeq(word, ",") {
		i := slices.IndexFunc(flagTable[:], func(t flagInfo) bool {
			return strings.EqualFold(t.short, n) || strings.EqualFold(t.long, n)
		})
		if i < 0 {
			return 0
		}
		f |= 1 << i
	}
	return f
}
