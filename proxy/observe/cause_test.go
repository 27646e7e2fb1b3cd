package observe

import (
	"strings"
	"testing"
)

// Every cause can be explained: a bare 503 is what operators cannot work with.
func TestCausesExplainThemselves(t *testing.T) {
	for c := range numCauses {
		if c.Details() == "" || c.Sentence() == "" {
			t.Errorf("cause %d: details %q, sentence %q", c, c.Details(), c.Sentence())
		}
		if strings.ContainsAny(c.Details(), " \"") {
			t.Errorf("cause %d: details %q would break the columns of an access log", c, c.Details())
		}
		if s := c.Status(); s >= 500 && s != 500 && c.Flag() == 0 {
			t.Errorf("cause %d (%s): status %d without a response flag", c, c.Details(), s)
		}
		if c.Status() >= 500 && c.Flag() != UpstreamRequestTimeout && c.Remedy() == "" && c.Flag() != UpstreamMaxStreamDurationReached && c.Flag() != StreamIdleTimeoutFlag {
			t.Errorf("cause %d (%s): no remedy", c, c.Details())
		}
	}
}

func TestFlags(t *testing.T) {
	for f, want := range map[Flags]string{
		0:                             "-",
		UpstreamConnectionFailure:     "UF",
		DownstreamRemoteReset:         "DR",
		DelayInjected | FaultInjected: "DI,FI",
		UpstreamRetryLimitExceeded | UpstreamConnectionFailure: "UF,URX",
	} {
		if f.String() != want {
			t.Errorf("%d: %q, want %q", f, f, want)
		}
	}
	if len(flagNames) != 26 || DownstreamRemoteReset != 1<<25 {
		t.Errorf("%d names for flags up to %b", len(flagNames), DownstreamRemoteReset)
	}
}
