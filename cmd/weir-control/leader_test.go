package main

import (
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/config"
)

// That nobody leads names the Lease, who had it last, since when, and what to look at.
func TestNobodyLeads(t *testing.T) {
	f := nobodyLeads("istio-system", "istio-leader", "istiod-1", time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	if said := f.Message + " " + f.Hint; f.Code != config.LeaderAway || f.Object.Kind != "Lease" || f.Object.Name != "istio-leader" ||
		!strings.Contains(said, "2026-11-22T10:00:00Z (last: istiod-1)") || !strings.Contains(said, "leases in istio-system") {
		t.Errorf("%+v", f)
	}
}
