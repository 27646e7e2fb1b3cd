package control

import (
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

// Whoever looks is told of the end of the authority a month before, and of a Secret that
// cannot be used at once.
func TestAuthorityFindings(t *testing.T) {
	a, err := ca.OpenSelfSigned(t.TempDir(), "cluster.local", ca.Options{})
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
		{"31 days before", a, end.Add(-31 * 24 * time.Hour), nil},
		{"a week before", a, end.Add(-7 * 24 * time.Hour), []config.Code{config.AuthorityEnds}},
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
