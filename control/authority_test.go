package control

import (
	"log/slog"
	"testing"
	"time"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
)

// troubled is an authority whose Secret cannot be used.
type troubled struct {
	*ca.Authority
	problem string
}

func (t troubled) Problem() string { return t.problem }

// Whoever looks is told of the end of an authority that somebody else replaces when half of its life is over, a year before at the earliest; of one
// that succeeds itself a month before, when it has failed to; and of a Secret that cannot be used at once.
func TestAuthorityFindings(t *testing.T) {
	a, err := ca.OpenSelfSigned(t.TempDir(), "cluster.local", ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := ca.FollowSelfSigned(t.TempDir(), "cluster.local", ca.Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now, end := time.Now(), a.RootNotAfter()
	for _, c := range []struct {
		name string
		from ca.Source
		at   time.Time
		want []config.Code
	}{
		{"new", a, now, nil},
		{"366 days before", a, end.Add(-366 * 24 * time.Hour), nil},
		{"a year before", a, end.Add(-364 * 24 * time.Hour), []config.Code{config.AuthorityEnds}},
		{"31 days before, and it succeeds itself", own, end.Add(-31 * 24 * time.Hour), nil},
		{"a week before, and it has not", own, end.Add(-7 * 24 * time.Hour), []config.Code{config.AuthorityEnds}},
		{"a broken Secret", troubled{a, "Secret cacerts: ca-cert.pem is missing"}, now, []config.Code{config.AuthorityUnusable}},
		{"a good Secret", troubled{a, ""}, now, nil},
	} {
		p := &Plane{auth: c.from}
		got := p.authorityFindings(c.at)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", c.name, got)
			continue
		}
		for i := range got {
			if got[i].Code != c.want[i] {
				t.Errorf("%s: %v", c.name, got[i])
			}
		}
	}
}

// Of a certificate that lives for a day people are told after half a day.
func TestNotice(t *testing.T) {
	a, err := ca.OpenSelfSigned(t.TempDir(), "cluster.local", ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &Plane{auth: a}
	now := time.Now()
	for life, want := range map[time.Duration]time.Duration{24 * time.Hour: 12 * time.Hour, 60 * 24 * time.Hour: soon, 20 * longAhead: longAhead} {
		if got := p.notice(now, now, now.Add(life)); got != want {
			t.Errorf("of %s: %s, want %s", life, got, want)
		}
	}
}
