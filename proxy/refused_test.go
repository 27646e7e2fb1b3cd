package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/proxy/tls"
)

// Somebody who scans ports, and is refused 100,000 times within a minute, loses no record of a failed request, nor that of somebody
// who was refused for another reason; a part of the scan is recorded.
func TestScanLosesNoRecord(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	r := &refusals{loop: l, log: slog.New(slog.DiscardHandler), numbers: observe.NewWorker(), records: records.New(1)}
	const failures = 1000
	for i := range failures {
		c := r.records.Failed()
		c.Start = l.Wall()
		c.Set(records.ID, fmt.Appendf(nil, "request-%d", i))
	}
	in := &listener.Config{Name: "virtualInbound"}
	victim := conn.Info{Remote: netip.MustParseAddrPort("10.0.0.7:40000")}
	r.tell(&victim, in, nil, listener.Handshake, errors.New("the peer sent no certificate"))
	for i := range 100_000 {
		if i%10_000 == 0 {
			n.Advance(time.Second)
		}
		r.tell(&conn.Info{Remote: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), uint16(i))}, in, nil, listener.NoChain, nil)
	}
	for i := range failures {
		if id := fmt.Sprint("request-", i); len(r.records.Find(id, 1)) != 1 {
			t.Fatalf("%s is lost", id)
		}
	}
	if f := r.records.Find("10.0.0.7:40000", 1); len(f) != 1 || f[0].Cause != causes.DownstreamTLSFailed {
		t.Errorf("the other refusal: %v", f)
	}
	scan := r.records.LastRefused(1000)
	if len(scan) < 10 || scan[0].Cause != causes.FilterChainNotFound || scan[0].Listener != in.Name {
		t.Errorf("%d of the scan are recorded", len(scan))
	}

	// Of what is asked for without an id, both are told, the newest first.
	last := newest(r.records.LastFailed(100), scan, 100)
	failed := 0
	for i := range last {
		if last[i].Cause == causes.NoCause {
			failed++
		}
		if i > 0 && last[i].Start.After(last[i-1].Start) {
			t.Fatalf("record %d is newer than the one before", i)
		}
	}
	if len(last) != 100 || failed != 75 {
		t.Errorf("%d requests of %d records, want 75 of 100", failed, len(last))
	}
}

// Why a client's TLS failed stands in the access log in words.
func TestFailedHandshakesAreLoggedWithTheirReason(t *testing.T) {
	access := observe.NewLog()
	r := &refusals{loop: mem.New().Loop(loop.Options{}), access: access, log: slog.New(slog.DiscardHandler), numbers: observe.NewWorker()}
	format, err := observe.ParseText("%DOWNSTREAM_TRANSPORT_FAILURE_REASON% %CONNECTION_TERMINATION_DETAILS%\n", false)
	if err != nil {
		t.Fatal(err)
	}
	in := &listener.Config{Name: "virtualInbound", Chains: []*listener.Chain{{Filters: &tcp.Config{Inbound: true, Logs: []observe.AccessLog{{Format: format}}}}}}
	r.tell(&conn.Info{}, in, nil, listener.Handshake, &tls.Error{Reason: tls.RefusedByPeer, Alert: "certificate required"})
	r.tell(&conn.Info{}, in, nil, listener.NoChain, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out strings.Builder
	if err := access.Run(ctx, &out); err != nil {
		t.Fatal(err)
	}
	const want = `the_peer_refused_the_connection_with_the_TLS_alert_\"certificate_required\":_it_wants_a_client_certificate_and_got_none downstream_tls_failure{refused_by_peer}
- -
`
	if out.String() != want {
		t.Errorf("logged:\n%swant:\n%s", out.String(), want)
	}
}

// A few of each are all told.
func TestNewest(t *testing.T) {
	at := func(seconds ...int64) (all []records.Record) {
		for _, s := range seconds {
			all = append(all, records.Record{Facts: records.Facts{Start: time.Unix(s, 0)}})
		}
		return all
	}
	for _, tc := range []struct {
		failed, refused []records.Record
		most            int
		want            string
	}{
		{at(1, 4), at(2, 3), 10, "4 3 2 1"},
		{at(1), at(2, 3, 4, 5, 6), 4, "6 5 4 1"},
		{at(1, 2, 3, 4), at(5, 6, 7), 4, "7 4 3 2"},
		{at(1, 2), nil, 1, "2"},
		{nil, at(1, 2), 1, "2"},
		{at(1), at(2), 0, ""},
	} {
		got := ""
		for _, r := range newest(tc.failed, tc.refused, tc.most) {
			got += fmt.Sprint(r.Start.Unix(), " ")
		}
		if got != tc.want && got != tc.want+" " {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
