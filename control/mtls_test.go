package control

import (
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// What stands against STRICT: callers in plaintext, and what nobody has seen.
func TestBlockers(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	long := now.Add(-30 * time.Hour)
	legacy := apiv1.MTLSCaller{Namespace: "shop", Workload: "legacy", Last: now.Add(-20 * time.Hour), Requests: 3}
	for _, c := range []struct {
		name    string
		callers []apiv1.MTLSCaller
		since   time.Time
		silent  int
		want    []string
	}{
		{"nobody", nil, long, 0, nil},
		{"one that calls once a day", []apiv1.MTLSCaller{legacy}, long, 0, []string{"shop/legacy called in plaintext, 3 times, last 20h0m0s ago"}},
		{"a stranger", []apiv1.MTLSCaller{{Last: now, Requests: 1}}, long, 0, []string{"somebody without a proxy"}},
		{"a control plane that has just started", nil, now.Add(-time.Hour), 0, []string{"for 1h0m0s only"}},
		{"another replica's proxies", nil, long, 2, []string{"2 of its proxies do not report"}},
	} {
		got := blockers(&apiv1.MTLSPort{Callers: c.callers}, now, c.since, 24*time.Hour, c.silent)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q", c.name, got)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%s: %q, want %q", c.name, got[i], c.want[i])
			}
		}
	}
}
