package control

import (
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
)

// The horizon is the first thing that breaks, with what and why; there is none while
// everything renews itself.
func TestHorizon(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	in := func(days int) time.Time { return now.AddDate(0, 0, days) }
	own := apiv1.IdentityRoot{Name: "CN=own", Until: in(3000), Signs: true, Succeeds: true}
	for _, c := range []struct {
		name      string
		v         apiv1.Identity
		at        time.Time
		what, why string
	}{
		{"a root of its own", apiv1.Identity{SigningUntil: in(3000), Succeeds: true, Roots: []apiv1.IdentityRoot{own}}, time.Time{}, "", ""},
		{"whose successor cannot be written", apiv1.Identity{SigningUntil: in(200), Succeeds: true, Problem: "ca.pem is damaged"}, in(200), "no certificate is made", "ca.pem is damaged"},
		{"given as it is", apiv1.Identity{SigningUntil: in(90), SigningEnds: apiv1.IdentityEnd{Name: "CN=S"}}, in(90), "no certificate is made", "signing certificate CN=S ends"},
		{"a plugged intermediate", apiv1.Identity{SigningUntil: in(90), SigningEnds: apiv1.IdentityEnd{Name: "CN=I", File: "ca-cert.pem", Until: in(90)}}, in(90), "no certificate is made", "intermediate CN=I ends"},
		{"a plugged root", apiv1.Identity{SigningUntil: in(90), SigningEnds: apiv1.IdentityEnd{Name: "CN=R", File: "root-cert.pem", Until: in(90)}}, in(90), "no certificate is made", "root CN=R ends"},
		{"an external signer's intermediate", apiv1.Identity{SigningUntil: in(90), External: &apiv1.IdentityEnd{Name: "CN=X", Until: in(20)}}, in(20), "external certificate authority signed", "CN=X ends"},
		{"an external signer of which nothing was seen", apiv1.Identity{SigningUntil: in(90), External: &apiv1.IdentityEnd{}}, in(90), "control plane has no certificate", "ends"},
		{"a gateway's certificate", apiv1.Identity{SigningUntil: in(3000), Succeeds: true, Given: []apiv1.IdentityGiven{{Object: "Gateway shop/web", Field: "spec.servers[0].tls.credentialName", Source: "Secret shop/web: tls.crt", Until: in(9), Breaks: "clients refuse"}, {Until: in(10)}}},
			in(9), "clients refuse", "Secret shop/web: tls.crt ends, which Gateway shop/web names in spec.servers[0].tls.credentialName"},
		{"a federated root ends first", apiv1.Identity{SigningUntil: in(90), Roots: []apiv1.IdentityRoot{{Name: "CN=other", Until: in(30)}}}, in(30), `"CN=other" are refused`, "it ends"},
		{"a root that is given up is nobody's concern", apiv1.Identity{SigningUntil: in(90), Roots: []apiv1.IdentityRoot{{Until: in(30), Retires: in(2)}}}, in(90), "", ""},
		{"a workload that does not renew", apiv1.Identity{SigningUntil: in(3000), Succeeds: true, Workloads: []apiv1.IdentityWorkload{{Workload: "fine", Until: in(0)}, {Workload: "cart-1", Until: in(1), Overdue: true}}}, in(1), "cart-1", "not renewed"},
		{"whose authority answered", apiv1.Identity{SigningUntil: in(3000), Succeeds: true, Workloads: []apiv1.IdentityWorkload{{Workload: "cart-1", Until: in(1), Overdue: true, LastError: "the account is gone"}}}, in(1), "cart-1", "though that was due: the account is gone"},
	} {
		h := horizon(now, &c.v)
		if (h == nil) != c.at.IsZero() {
			t.Errorf("%s: %+v", c.name, h)
		} else if h != nil && (!h.At.Equal(c.at) || !strings.Contains(h.What, c.what) || !strings.Contains(h.Why, c.why)) {
			t.Errorf("%s: %+v", c.name, h)
		}
	}
}

// What was issued is listed by who holds it, those that end first first, and a renewal takes the place of
// what it renews. The same page serves metrics and the rehearsal.
func TestIdentityView(t *testing.T) {
	p, err := New(Options{State: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	cart := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}
	for _, c := range []struct {
		workload, host string
		from, until    time.Duration
	}{{"cart-1", "10.0.0.1", -20 * time.Hour, 4 * time.Hour}, {"cart-1", "10.0.0.1", -time.Hour, 23 * time.Hour}, {"", "10.0.0.2", -2 * time.Hour, 22 * time.Hour}, {"gone", "", -30 * time.Hour, -6 * time.Hour}} {
		p.issued.note(cart, c.workload, c.host, &x509.Certificate{NotBefore: now.Add(c.from), NotAfter: now.Add(c.until)})
	}
	ask := func(path string, v any) *httptest.ResponseRecorder {
		t.Helper()
		w := httptest.NewRecorder()
		p.mux().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if v != nil {
			if err := json.Unmarshal(w.Body.Bytes(), v); err != nil {
				t.Fatalf("%s: %s", path, w.Body)
			}
		}
		return w
	}
	var v apiv1.Identity
	ask("/api/v1/identity", &v)
	if len(v.Workloads) != 2 || v.Workloads[0].Workload != "10.0.0.2" || v.Workloads[1].Workload != "cart-1" || v.Workloads[1].Until.Before(now.Add(22*time.Hour)) || v.Certificates != 2 {
		t.Errorf("%+v", v.Workloads)
	}
	if v.Horizon != nil || !v.Succeeds || len(v.Roots) != 1 || !v.Roots[0].Signs {
		t.Errorf("%+v", v)
	}
	var r apiv1.Rehearsal
	ask("/api/v1/identity/rehearsal?years=12", &r)
	if len(r.Events) != 3 || len(r.Breaks) != 0 || r.Issued < 20_000 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{"years=0", "years=31", "years=x", "away=1", "years=NaN"} {
		if w := ask("/api/v1/identity/rehearsal?"+bad, nil); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
	var text strings.Builder
	p.ownMetrics(&text)
	for _, want := range []string{"weir_identity_certificates 2\n", "weir_identity_overdue 0\n", "weir_identity_roots 1\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not among the metrics", want)
		}
	}

	// An authority that is plugged in, and not replaced: its end is seen.
	plugged, err := ca.OpenSelfSigned(t.TempDir(), "cluster.local", ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p.auth = plugged
	ask("/api/v1/identity", &v)
	if v.Horizon == nil || !v.Horizon.At.Equal(plugged.ChainNotAfter()) {
		t.Errorf("%+v", v.Horizon)
	}
	ask("/api/v1/identity/rehearsal?years=12", &r)
	if len(r.Breaks) == 0 {
		t.Error("nobody replaces the root, and nothing breaks")
	}
}

// S40: whoever asks for the status is told of a certificate that is not renewed, long before it ends.
func TestStatusSaysWhoDoesNotRenew(t *testing.T) {
	r := startReplica(t, t.TempDir(), t.TempDir(), 0)
	subscribe(t, r, "w-0", nil, nil)
	eventually(t, "the workload is connected", func() error { return r.active(1) })
	r.issued.note(identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "default"}, "w-0", "10.0.0.9",
		&x509.Certificate{NotBefore: time.Now().Add(-23 * time.Hour), NotAfter: time.Now().Add(time.Hour)})
	resp, err := http.Get("http://" + r.http + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s apiv1.Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if len(s.Findings) != 1 || s.Findings[0].Code != string(config.IdentityHorizon) || s.Findings[0].Name != "w-0" || !strings.Contains(s.Findings[0].Message, "was not renewed") {
		t.Errorf("%+v", s.Findings)
	}
}
