package control

import (
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
)

// good is a certificate of a day that began hours ago.
func good(now time.Time, hours float64) *x509.Certificate {
	from := now.Add(-time.Duration(hours * float64(time.Hour)))
	return &x509.Certificate{NotBefore: from, NotAfter: from.Add(24 * time.Hour)}
}

// holding is what a proxy says that it holds.
func holding(c *x509.Certificate) *observev1.ProxyMessage {
	return &observev1.ProxyMessage{Message: &observev1.ProxyMessage_Certificate{Certificate: &observev1.Certificate{FromUnixNano: uint64(c.NotBefore.UnixNano()), UntilUnixNano: uint64(c.NotAfter.UnixNano())}}}
}

// Who has not renewed is known whichever replica is asked, and where a renewal went to, and after a restart: what its proxy says counts.
// Of who says nothing the newest certificate counts that any replica issued, and nothing while one of them does not answer.
func TestHoldersOfSeveralReplicas(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := startReplica(t, first, folder, 0, func(o *Options) { o.Replicas = []string{o.GRPC[0].Addr().String(), l.Addr().String()} })
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, func(o *Options) {
		_ = o.GRPC[0].Close()
		o.GRPC, o.Replicas = []net.Listener{l}, []string{a.grpc, l.Addr().String()}
	})
	now := time.Now()
	id := func(account string) identity.ID {
		return identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: account}
	}
	// One that speaks plain xDS got its certificate here and renewed it there.
	subscribe(t, a, "other-0", nil, nil)
	eventually(t, "it is connected", func() error { return a.active(1) })
	a.issued.note(id("default"), "other-0", "10.0.0.9", good(now, 23))
	b.issued.note(id("default"), "other-0", "10.0.0.9", good(now, 1))
	// Ours say what they hold: one renewed at the other replica, the other has not, although it was answered.
	fine, _ := a.connect(t, "fine", "sidecar~10.0.0.1~fine-0.default~default.svc.cluster.local")
	a.issued.note(id("fine"), "fine-0", "10.0.0.1", good(now, 22))
	stuck, _ := a.connect(t, "stuck", "sidecar~10.0.0.2~stuck-0.default~default.svc.cluster.local")
	b.issued.note(id("stuck"), "stuck-0", "10.0.0.2", good(now, 1))
	for stream, c := range map[observing]*x509.Certificate{fine: good(now, 2), stuck: good(now, 20)} {
		if err := stream.Send(holding(c)); err != nil {
			t.Fatal(err)
		}
	}
	seen := func(at *replica, want ...string) func() error {
		return func() error {
			var v apiv1.Identity
			fetch(t, "http://"+at.http+"/api/v1/identity", &v)
			var got []string
			for _, w := range v.Workloads {
				state := ""
				if w.Connected {
					state += " connected"
				}
				if w.Reported {
					state += " reported"
				}
				if w.Overdue {
					state += " overdue"
				}
				got = append(got, fmt.Sprintf("%s %.0fh%s", w.Workload, w.Until.Sub(now).Hours(), state))
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("%q, want %q", got, want)
			}
			if overdue := v.Horizon != nil; overdue != strings.Contains(strings.Join(got, " "), "overdue") {
				return fmt.Errorf("horizon %+v", v.Horizon)
			}
			return nil
		}
	}
	all := []string{"stuck-0 4h connected reported overdue", "fine-0 22h connected reported", "other-0 23h connected"}
	eventually(t, "the first knows", seen(a, all...))
	eventually(t, "the second knows", seen(b, all...))
	for r, overdue := range map[*replica]int{a: 1, b: 0} {
		var text strings.Builder
		r.ownMetrics(&text)
		if want := fmt.Sprintf("weir_identity_overdue %d\n", overdue); !strings.Contains(text.String(), want) {
			t.Errorf("%s: no %q", r.o.Name, want)
		}
		var s apiv1.Status
		fetch(t, "http://"+r.http+"/api/v1/status", &s)
		if !slices.ContainsFunc(s.Findings, func(f apiv1.Finding) bool {
			return f.Code == string(config.IdentityHorizon) && f.Name == "stuck-0"
		}) || len(s.Findings) != 1 {
			t.Errorf("%s: findings %+v", r.o.Name, s.Findings)
		}
	}
	if err := stuck.Send(holding(good(now, 0))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has renewed", seen(b, "fine-0 22h connected reported", "other-0 23h connected", "stuck-0 24h connected reported"))

	// The second ends: where the one renewed that says nothing is not known any more, and that is said.
	b.stop()
	if err := <-b.ended; err != nil {
		t.Fatal(err)
	}
	if err := seen(a, "other-0 1h connected", "fine-0 22h connected reported", "stuck-0 24h connected reported")(); err != nil {
		t.Error(err)
	}
	var v apiv1.Identity
	if fetch(t, "http://"+a.http+"/api/v1/identity", &v); !slices.Equal(v.Silent, []string{apiv1.SilentReplica + b.grpc}) {
		t.Errorf("silent %q", v.Silent)
	}
	// One of which nothing is known is no less there for that.
	subscribe(t, a, "quiet-0", nil, nil)
	eventually(t, "it is counted", func() error {
		if fetch(t, "http://"+a.http+"/api/v1/identity", &v); !slices.Equal(v.Unknown, []string{"default/quiet-0"}) {
			return fmt.Errorf("%q", v.Unknown)
		}
		return nil
	})
	// One that has just started knows at once who is connected to it.
	third := t.TempDir()
	copyAuthority(t, first, third)
	c := startReplica(t, third, folder, 0)
	again, _ := c.connect(t, "stuck", "sidecar~10.0.0.2~stuck-0.default~default.svc.cluster.local")
	if err := again.Send(holding(good(now, 20))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one knows", seen(c, "stuck-0 4h connected reported overdue"))
}

// Control planes that do not agree: what breaks first anywhere breaks first, and everything on which they differ is said.
func TestTogether(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	at := func(name, signer string, until time.Duration, ahead time.Duration, more ...string) holders {
		v := apiv1.Identity{Time: now.Add(ahead), SigningUntil: now.Add(until), Succeeds: true}
		for _, serial := range append([]string{signer}, more...) {
			v.Roots = append(v.Roots, apiv1.IdentityRoot{Serial: serial, Signs: serial == signer, Succeeds: true})
		}
		return holders{Name: name, Authority: v}
	}
	broken := at("b", "1", time.Hour, 0)
	broken.Authority.Problem, broken.Authority.Notes = "ca.pem is damaged", []string{"root 2 signs from noon on"}
	unsucceeded := at("b", "1", time.Hour, 0)
	unsucceeded.Authority.Succeeds = false
	long := 9000 * time.Hour
	for _, c := range []struct {
		intent  string
		other   holders
		notes   []string
		problem string
		horizon string // after now
	}{
		{"they agree", at("b", "1", long, time.Second), nil, "", ""},
		{"another signs by another root", at("b", "2", long, 0, "1"), []string{"b signs by the root of serial 2, and this one by 1", "b trusts the roots of serials 1, 2, and this one 1:"}, "", ""},
		{"another cannot read its files", broken, []string{"root 2 signs from noon on"}, "the control plane b: ca.pem is damaged", "1h0m0s"},
		{"another has nobody who succeeds its root", unsucceeded, nil, "", "1h0m0s"},
		{"a clock that is ahead", at("b", "1", long, 2*time.Minute), []string{"the clock of the control plane b is 2m0s off"}, "", ""},
		{"a clock that is behind", at("b", "1", long, -2*time.Minute), []string{"is -2m0s off"}, "", ""},
		{"clocks as they are", at("b", "1", long, -time.Minute), nil, "", ""},
	} {
		v := together(now, at("a", "1", long, 0), []holders{c.other}, false, nil)
		when := ""
		if v.Horizon != nil {
			when = v.Horizon.At.Sub(now).String()
		}
		if !slices.EqualFunc(v.Notes, c.notes, strings.Contains) || v.Problem != c.problem || when != c.horizon {
			t.Errorf("%s: notes %q, problem %q, horizon %q", c.intent, v.Notes, v.Problem, when)
		}
	}
}

// Nobody is late who renews as he should, however short certificates live and if clocks are a minute apart.
func TestLate(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	const backdate = 2 * time.Minute
	for _, life := range []time.Duration{5 * time.Minute, 20 * time.Minute, time.Hour, 24 * time.Hour, 90 * 24 * time.Hour} {
		from, until := now.Add(-backdate), now.Add(life)
		last := now.Add(life * 6 / 10) // the latest renewal
		for _, off := range []time.Duration{0, time.Minute} {
			if off == 0 || life >= 20*time.Minute {
				if late(last.Add(off), from, until, overdueLeft) {
					t.Errorf("a life of %v, clocks %v apart: overdue before it was due", life, off)
				}
			}
		}
		if !late(until.Add(-life/10), from, until, overdueLeft) && life >= 20*time.Minute {
			t.Errorf("a life of %v: with a tenth left it is not overdue", life)
		}
		if !late(until, from, until, overdueLeft) {
			t.Errorf("a life of %v: not overdue at its end", life)
		}
	}
}

// Who asks for certificates under names that he makes up fills no more than there is, and has nobody else forgotten.
func TestIssuedIsBounded(t *testing.T) {
	var x issued
	now := time.Now()
	id := func(account string) identity.ID {
		return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: account}
	}
	for i := range 100 {
		x.note(id("honest"), fmt.Sprint("cart-", i), "", good(now, 1))
	}
	for i := range 2 * maxIssued {
		x.note(id("liar"), strings.Repeat("x", 300)+fmt.Sprint(i), "", good(now, 0)) // cut: one name
		x.note(id("liar"), fmt.Sprint("liar-", i), "", good(now, 0))
	}
	honest := 0
	for k := range x.m {
		if k.id == id("honest") {
			honest++
		}
		if len(k.workload) > maxWorkloadName {
			t.Fatalf("a name of %d bytes", len(k.workload))
		}
	}
	if len(x.m) > maxIssued || honest != 100 {
		t.Errorf("%d certificates are remembered, of %d honest ones of 100", len(x.m), honest)
	}
	x.note(id("late"), "late-0", "", good(now, 0))
	if _, ok := x.m[holder{id: id("late"), workload: "late-0"}]; !ok {
		t.Error("who comes later finds no room")
	}
}
