package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// What stands against STRICT: callers in plaintext, and what nobody has seen.
func TestBlockers(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	legacy := apiv1.MTLSCaller{Namespace: "shop", Workload: "legacy", Last: now.Add(-20 * time.Hour), Requests: 3}
	for _, c := range []struct {
		name    string
		callers []apiv1.MTLSCaller
		silent  int
		want    []string
	}{
		{"nobody", nil, 0, nil},
		{"one that calls once a day", []apiv1.MTLSCaller{legacy}, 0, []string{"shop/legacy called in plaintext, 3 times, last 20h0m0s ago"}},
		{"a stranger", []apiv1.MTLSCaller{{Last: now, Requests: 1}}, 0, []string{"somebody without a proxy"}},
		{"one seen where the clock is ahead", []apiv1.MTLSCaller{{Last: now.Add(time.Minute), Requests: 1}}, 0, []string{"last 0s ago"}},
		{"proxies that say nothing", nil, 2, []string{"2 of its proxies do not report"}},
	} {
		got := blockers(&apiv1.MTLSPort{Callers: c.callers}, now, c.silent)
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

// What nobody knows stands against STRICT at every port.
func TestUnknown(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name           string
		since          time.Duration // ago
		away, problems []string
		want           []string
	}{
		{"all is known", 30 * time.Hour, nil, nil, nil},
		{"a control plane that has just started", time.Hour, nil, nil, []string{"for 1h0m0s only, of a window of 24h0m0s"}},
		{"one whose clock is ahead", -time.Minute, nil, nil, []string{"for 0s only"}},
		{"a replica that is away", 30 * time.Hour, []string{apiv1.SilentReplica + "10.0.0.7:15012"}, nil, []string{"the control plane at 10.0.0.7:15012 did not answer"}},
		{"an API server that is away", 30 * time.Hour, nil, []string{"Secret x: away"}, []string{"cannot be read: Secret x: away"}},
	} {
		got := unknown(now, now.Add(-c.since), 24*time.Hour, c.away, c.problems)
		if !slices.EqualFunc(got, c.want, strings.Contains) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
