package rbac

import (
	"fmt"
	"strings"
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

// Several headers that come several times are read in every combination: who gets the request may take the first line of one and
// the last of another. What can be read in more ways than are looked at is denied.
func TestReadingsOfSeveralHeaders(t *testing.T) {
	is := func(name, value string) Test {
		return Header(route.ValueMatch{Name: name, ID: message.IDOf(name), Kind: route.ValueExact, Value: value})
	}
	both := All([]Test{is("x-a", "x"), is("x-b", "y")})
	var eight []Test
	for i := range 8 {
		eight = append(eight, Not(is(fmt.Sprintf("x-%d", i), "z")))
	}
	for _, c := range []struct {
		name, authority string
		what            Test
		headers         []string
		denied, allowed bool // by a DENY of what; by an ALLOW
	}{
		{"first and last", "a", both, []string{"x-a=x", "x-a=z", "x-b=z", "x-b=y"}, true, false},
		{"last and first", "a", both, []string{"x-a=z", "x-a=x", "x-b=y", "x-b=z"}, true, false},
		{"the middle of three and the last of two", "a", both, []string{"x-a=1", "x-b=2", "x-a=x", "x-a=3", "x-b=y"}, true, false},
		{"one alone", "a", both, []string{"x-a=x", "x-a=z", "x-b=z", "x-b=z"}, false, false},
		{"once each", "a", both, []string{"x-a=x", "x-b=y"}, true, true},
		{"another spelling alone", "a", is("x-a", "x"), []string{"x_a=x"}, true, false},
		{"another spelling beside it", "a", is("x-a", "x"), []string{"x-a=z", "x_a=x"}, true, false},
		{"another spelling that says something else", "a", is("x-a", "x"), []string{"x-a=x", "x_a=z"}, true, false},
		{"another spelling that says the same", "a", is("x-a", "x"), []string{"x_a=x", "x-a=x"}, true, true},
		{"other spellings of both", "a", both, []string{"x_a=x", "x-a=z", "x-b=z", "x_b=y"}, true, false},
		{"the second of two other spellings", "a", is("x-a-b", "x"), []string{"x_a-b=z", "x-a_b=x"}, true, false},
		{"of a name with a number of its own", "a", is("user-agent", "x"), []string{"user-agent=z", "user_agent=x"}, true, false},
		{"a hyphen for an underscore", "a", is("x_a", "x"), []string{"x-a=x"}, true, false},
		{"neither hyphen nor underscore", "a", is("x-a", "x"), []string{"x.a=x", "x-b=x", "xx_a=x"}, false, false},
		{"with a host that ends in a dot", "a.example.", All([]Test{is(":authority", "a.example"), is("x-a", "x")}), []string{"x-a=z", "x-a=x"}, true, false},
		{"eight that come twice", "a", All(eight), []string{"x-0=1", "x-0=2", "x-1=1", "x-1=2", "x-2=1", "x-2=2", "x-3=1", "x-3=2", "x-4=1", "x-4=2", "x-5=1", "x-5=2", "x-6=1", "x-6=2", "x-7=1", "x-7=2"}, true, false},
		{"eight of which none is it", "a", One([]Test{is("x-0", "z"), is("x-1", "z"), is("x-2", "z"), is("x-3", "z"), is("x-4", "z"), is("x-5", "z"), is("x-6", "z"), is("x-7", "z")}),
			[]string{"x-0=1", "x-0=2", "x-1=1", "x-1=2", "x-2=1", "x-2=2", "x-3=1", "x-3=2", "x-4=1", "x-4=2", "x-5=1", "x-5=2", "x-6=1", "x-6=2", "x-7=1", "x-7=2"}, true, false},
	} {
		q := &message.Request{Authority: []byte(c.authority)}
		for _, h := range c.headers {
			name, value, _ := strings.Cut(h, "=")
			q.Headers.AddName([]byte(name), []byte(value))
		}
		facts := &Facts{Request: q}
		for action, want := range map[Action]bool{Deny: !c.denied, Allow: c.allowed} {
			r := &Rules{Action: action, Policies: []Policy{NewPolicy("p", c.what, Any())}}
			for range 2 { // facts can be looked at again
				if got := (&Filter{Rules: r, Counts: &Counts{}}).Enforce(facts).Allowed; got != want {
					t.Errorf("%s, action %d: allowed is %v", c.name, action, got)
				}
			}
			if got := r.Match(facts, map[string]bool{"p": true}) == "p"; got != c.denied {
				t.Errorf("%s: asked about is %v", c.name, got)
			}
		}
	}
}
