package rbac

import (
	"fmt"
	"testing"

	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

// A request counts once, however many ways there are to read it, and what is only watched is told apart.
func TestCounts(t *testing.T) {
	l := NewLedger()
	second := func(f *Facts) bool { return f.Path != nil }
	f := &Filter{Counts: l.Of("a.", "a.dry_"), Rules: &Rules{Action: Deny, Policies: []Policy{NewPolicy("p", second, Any())}}, Shadow: &Rules{Action: Allow}}
	one, two := &Facts{}, &Facts{Path: []byte("/")}
	if d := Enforce([]*Filter{f}, false, one); !d.Allowed {
		t.Error("one reading, which is allowed, was denied")
	}
	if d := Enforce([]*Filter{f}, false, one, two); d.Allowed || d.Policy.Name != "p" {
		t.Errorf("a reading is denied: %+v", d)
	}
	mark := &Filter{Counts: l.Of("c.", "c."), Rules: &Rules{Action: Log, Policies: []Policy{NewPolicy("m", second, Any())}}}
	if d := Enforce([]*Filter{mark, f}, false, one, two); d.Allowed || d.Policy.Name != "p" || d.Marked == nil || d.Marked.Name != "m" {
		t.Errorf("what is denied is marked, too: %+v", d)
	}
	if d := Enforce([]*Filter{mark}, false, one); !d.Allowed || d.Marked != nil {
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

// What comes several times has to be allowed as one list and line by line, and a host with the dot that may end it and without.
func TestReadings(t *testing.T) {
	is := func(name, value string) Test {
		return Header(route.ValueMatch{Name: name, ID: message.IDOf(name), Kind: route.ValueExact, Value: value})
	}
	for _, c := range []struct {
		name      string
		what      Test
		authority string
		lines     []string // of x-role
		denied    bool     // by a DENY of what; an ALLOW of it
		allowed   bool
	}{
		{"one line", is("x-role", "admin"), "a", []string{"admin"}, true, true},
		{"another", is("x-role", "admin"), "a", []string{"user"}, false, false},
		{"the first of two", is("x-role", "admin"), "a", []string{"admin", "user"}, true, false},
		{"the middle", is("x-role", "admin"), "a", []string{"user", "admin", ""}, true, false},
		{"as a list", is("x-role", "user,admin"), "a", []string{"user", "admin"}, true, false},
		{"all but it", Not(is("x-role", "admin")), "a", []string{"user", "admin"}, true, false},
		{"neither", is("x-role", "admin"), "a", []string{"user", "guest"}, false, false},
		{"a dot", is(":authority", "a.example"), "a.example.", nil, true, false},
		{"before a port", is(":authority", "a.example:80"), "a.example.:80", nil, true, false},
		{"no dot", is(":authority", "a.example"), "a.example", nil, true, true},
	} {
		q := &message.Request{Authority: []byte(c.authority)}
		for _, v := range c.lines {
			q.Headers.AddName([]byte("x-role"), []byte(v))
		}
		for action, want := range map[Action]bool{Deny: !c.denied, Allow: c.allowed} {
			f := &Filter{Rules: &Rules{Action: action, Policies: []Policy{NewPolicy("p", c.what, Any())}}, Counts: &Counts{}}
			for range 2 { // facts can be looked at again
				if got := f.Enforce(&Facts{Request: q}).Allowed; got != want {
					t.Errorf("%s, action %d: allowed is %v", c.name, action, got)
				}
			}
		}
	}
}
