package token

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
)

// A token for one machine is good for the first address that shows it, for some minutes, also after a restart of the control
// plane; shown from elsewhere, or later, it is refused. Other tokens are nobody's business here.
func TestUses(t *testing.T) {
	dir := t.TempDir()
	start := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	claims := func(once string, life time.Duration) Claims {
		return Claims{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "db"}, Audience: Audience, Expires: start.Add(life), Once: once}
	}
	u := OpenUses(dir)
	for _, c := range []struct {
		name    string
		restart bool
		claims  Claims
		host    string
		after   time.Duration
		want    string
	}{
		{"the first use", false, claims("a", time.Hour), "10.0.0.1", 0, ""},
		{"an answer was lost", false, claims("a", time.Hour), "10.0.0.1", time.Second, ""},
		{"from elsewhere", false, claims("a", time.Hour), "10.0.0.2", time.Second, "from 10.0.0.1 at 2026-11-22T08:00:00Z"},
		{"from elsewhere, after a restart", true, claims("a", time.Hour), "10.0.0.2", 2 * time.Second, "is for one machine"},
		{"the same machine, after a restart", true, claims("a", time.Hour), "10.0.0.1", 9 * time.Minute, ""},
		{"another token", false, claims("b", time.Hour), "10.0.0.2", time.Second, ""},
		{"not a minute more", false, claims("a", time.Hour), "10.0.0.1", 11 * time.Minute, "was used up at 2026-11-22T08:00:00Z"},
		{"the clock was set back", false, claims("a", time.Hour), "10.0.0.1", -time.Hour, "used up"},
		{"a token of a local workload, again and again", false, claims("", time.Hour), "10.0.0.2", 0, ""},
		{"used ones that have expired are forgotten", true, claims("c", 3*time.Hour), "10.0.0.3", 2 * time.Hour, ""},
	} {
		if c.restart {
			u = OpenUses(dir)
		}
		err := u.Use(c.claims, c.host, start.Add(c.after))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if len(u.known) != 1 {
		t.Errorf("%d uses are remembered: %v", len(u.known), u.known)
	}

	// What cannot be remembered is not granted.
	if err := os.WriteFile(filepath.Join(dir, usesFile), []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := OpenUses(dir).Use(claims("d", time.Hour), "10.0.0.1", start); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("with a damaged file: %v", err)
		}
	}
}
