package rbac

import (
	"fmt"
	"testing"
)

// A request counts once, however many ways there are to read it, and what is only watched is told apart.
func TestCounts(t *testing.T) {
	l := NewLedger()
	second := func(f *Facts) bool { return f.Path != nil }
	f := &Filter{Counts: l.Of("a.", "a.dry_"), Rules: &Rules{Action: Deny, Policies: []Policy{NewPolicy("p", second, Any())}}, Shadow: &Rules{Action: Allow}}
	one, two := &Facts{}, &Facts{Path: []byte("/")}
	if d := Enforce([]*Filter{f}, one); !d.Allowed {
		t.Error("one reading, which is allowed, was denied")
	}
	if d := Enforce([]*Filter{f}, one, two); d.Allowed || d.Policy.Name != "p" {
		t.Errorf("a reading is denied: %+v", d)
	}
	mark := &Filter{Counts: l.Of("c.", "c."), Rules: &Rules{Action: Log, Policies: []Policy{NewPolicy("m", second, Any())}}}
	if d := Enforce([]*Filter{mark, f}, one, two); d.Allowed || d.Policy.Name != "p" || d.Marked == nil || d.Marked.Name != "m" {
		t.Errorf("what is denied is marked, too: %+v", d)
	}
	if d := Enforce([]*Filter{mark}, one); !d.Allowed || d.Marked != nil {
		t.Errorf("nothing is marked: %+v", d)
	}
	l.Of("b.", "b.")
	if l.Of("a.", "a.dry_") != f.Counts {
		t.Error("counts do not outlive their filter")
	}
	got := ""
	for name, value := range l.All() {
		got += fmt.Sprintf("%s=%d ", name, value)
	}
	if want := "a.allowed=1 a.denied=2 a.dry_shadow_allowed=0 a.dry_shadow_denied=3 b.allowed=0 b.denied=0 c.allowed=0 c.denied=0 c.logged=1 c.not_logged=1 "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
