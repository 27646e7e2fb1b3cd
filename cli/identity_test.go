package cli

import (
	"strings"
	"testing"
)

// What is no span of years is refused before anybody is asked.
func TestRehearsalsAreBounded(t *testing.T) {
	for _, flag := range []string{"--years=0", "--years=31", "--years=NaN", "--away=1", "--away=NaN"} {
		if got := weir(t, t.TempDir(), "identity", "rehearse", flag); !strings.Contains(got, "--years is more than 0 and at most 30, --away from 0 to 0.9") || !strings.Contains(got, "exit 2") {
			t.Errorf("%s: %s", flag, got)
		}
	}
}
