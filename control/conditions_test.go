package control

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
)

// What proxies said of themselves is told for as long as somebody may wonder, those together that jumped together, within bounds.
func TestConditionFindings(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	jumped := func(proxy string, by, ago time.Duration) condition {
		return condition{Proxy: proxy, Jump: by, Jumped: now.Add(-ago)}
	}
	crowd := func(proxy string, n uint64, ago time.Duration) condition {
		return condition{Proxy: proxy, Overflow: n, Overflowed: now.Add(-ago), Crowded: "calls to ratings:9080 (istio_requests_total)"}
	}
	many := func(of func(i int) condition) (out []condition) {
		for i := range 100 {
			out = append(out, of(i))
		}
		return out
	}
	wrong := jumped("shop/cart-0", -time.Hour, time.Minute)
	wrong.Ahead = -time.Hour
	for _, c := range []struct {
		intent string
		all    []condition
		want   []string // how messages begin, in order of codes and objects
	}{
		{"nothing to tell", []condition{{Proxy: "shop/cart-0", Error: "away", Failed: now}}, nil},
		{"S42: a machine that slept", []condition{jumped("shop/cart-0", 72*time.Hour, 30*time.Minute)},
			[]string{"WEIR0121 Pod shop/cart-0: the clock of its machine jumped at 2026-11-21T11:30:00Z, by 72h0m0s ahead: the machine slept, or its clock was set"}},
		{"all that slept with it", []condition{jumped("shop/d", 72*time.Hour, 0), jumped("shop/c", 72*time.Hour, 0), jumped("shop/b", 72*time.Hour-time.Second, 0), jumped("shop/a", 72*time.Hour+time.Second, 0)},
			[]string{"WEIR0121 Pod shop/a: the clock of its machine jumped at 2026-11-21T12:00:00Z, by 72h0m1s ahead: the machine slept, or its clock was set; so did those of 3 others: shop/b, shop/c, …"}},
		{"another machine", []condition{jumped("shop/b", 10*time.Second, 0), jumped("shop/a", 2*time.Hour, 0)},
			[]string{"WEIR0121 Pod shop/b: the clock of its machine jumped at 2026-11-21T12:00:00Z, by 10s", "WEIR0121 Pod shop/a: the clock of its machine jumped at 2026-11-21T12:00:00Z, by 2h0m0s"}},
		{"a clock that was set wrong", []condition{wrong}, []string{"WEIR0121 Pod shop/cart-0: the clock of its machine jumped at 2026-11-21T11:59:00Z, back by 1h0m0s: it was set; it is 1h0m0s behind the control plane's"}},
		{"it is over", []condition{jumped("shop/cart-0", 72*time.Hour, time.Hour), crowd("shop/cart-0", 7, time.Hour)}, nil},
		{"S46: too many series", []condition{crowd("shop/b", 7, time.Minute), crowd("shop/a", 8, 0)}, []string{
			"WEIR0122 Pod shop/a: its proxy has too many series of metrics: 8 requests and connections were counted as those of workload __overflow__, the last one at 2026-11-21T12:00:00Z, most of them calls to ratings:9080 (istio_requests_total)",
			"WEIR0122 Pod shop/b: its proxy has too many series of metrics: 7 requests and connections were counted as those of workload __overflow__, the last one at 2026-11-21T11:59:00Z, most of them calls to ratings:9080 (istio_requests_total)"}},
	} {
		got := conditionFindings(c.all, now)
		if len(got) != len(c.want) {
			t.Errorf("%s: %+v", c.intent, got)
			continue
		}
		for i, f := range got {
			if text := fmt.Sprintf("%s %s: %s", f.Code, named(f.Object), f.Message); !strings.HasPrefix(text, c.want[i]) || f.Hint == "" {
				t.Errorf("%s: %s", c.intent, text)
			}
		}
	}
	for _, all := range [][]condition{
		many(func(i int) condition { return jumped(fmt.Sprint("shop/p-", i), time.Duration(i+1)*time.Hour, 0) }),
		many(func(i int) condition { return crowd(fmt.Sprint("shop/p-", i), uint64(i+1), 0) }),
	} {
		if n := len(conditionFindings(all, now)); n != maxTold {
			t.Errorf("%d findings", n)
		}
	}
}

// S41: which root goes, how many depend on it, who, and until when; nobody is told of one that stays, nor of one that the mesh succeeds in time.
func TestRootFindings(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	in := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour) }
	stays, leaves := apiv1.IdentityRoot{Name: "CN=new", Serial: "2", Signs: true}, apiv1.IdentityRoot{Name: "CN=old", Serial: "1", Retires: in(25)}
	own := apiv1.IdentityRoot{Name: "CN=own", Serial: "1", Retires: in(2000), Succeeds: true}
	on := map[string]dependants{"1": {Count: 4, Until: in(12), Names: []string{"shop/a", "shop/b", "shop/c"}}}
	late := map[string]dependants{"1": {Count: 1, Until: in(3000), Names: []string{"shop/a"}}}
	for _, c := range []struct {
		intent string
		roots  []apiv1.IdentityRoot
		on     map[string]dependants
		want   string
	}{
		{"it stays", []apiv1.IdentityRoot{stays, {Serial: "1"}}, on, ""},
		{"nobody depends on it", []apiv1.IdentityRoot{stays, leaves}, map[string]dependants{"2": on["1"]}, ""},
		{"left out", []apiv1.IdentityRoot{stays, leaves}, on,
			`the root "CN=old" (serial 1) is to be retired, and certificates of 4 connected workloads (shop/a, shop/b, shop/c, …) lead to it, the last one until 2026-11-22T00:00:00Z: it stays trusted until 2026-11-22T13:00:00Z`},
		{"cut off", []apiv1.IdentityRoot{stays}, on, `the root of serial 1 is trusted no longer, and certificates of 4 connected workloads (shop/a, shop/b, shop/c, …) lead to it, the last one until 2026-11-22T00:00:00Z: who has renewed refuses them`},
		{"succeeded in time", []apiv1.IdentityRoot{stays, own}, on, ""},
		{"succeeded, and a certificate lives longer", []apiv1.IdentityRoot{stays, own}, late, `the root "CN=own" (serial 1) is to be retired, and certificates of 1 connected workload (shop/a) lead to it`},
	} {
		got := rootFindings(c.roots, c.on, "cluster.local", now)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0].Message, c.want) || got[0].Hint == "" || got[0].Code != config.RootStillNeeded) {
			t.Errorf("%s: %+v", c.intent, got)
		}
	}
	liars := map[string]dependants{}
	for i := range 100 {
		liars[fmt.Sprint(i)] = on["1"]
	}
	if n := len(rootFindings(nil, liars, "cluster.local", now)); n != maxTold {
		t.Errorf("%d findings", n)
	}
}

// What a proxy says of itself is dated by the control plane's clock, and what could not be that ends its stream.
func TestHear(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	theirs := now.Add(time.Hour)
	at := func(ago time.Duration) uint64 { return uint64(theirs.Add(-ago).UnixNano()) }
	r := &reporter{node: "sidecar~10.0.0.9~cart-0.shop~shop.svc.cluster.local"}
	crowd := &observev1.Edge{Side: observev1.Side_SIDE_DESTINATION, Protocol: "tcp", Service: &observev1.Service{Host: "db", Port: 5432}}
	if err := r.hear(&observev1.Condition{TimeUnixNano: at(0), ClockJumpNano: -5e9, ClockJumpUnixNano: at(time.Minute), RenewalError: "refused", RenewalErrorUnixNano: at(time.Second),
		Overflow: 3, OverflowUnixNano: at(-time.Minute), Crowd: crowd}, now); err != nil {
		t.Fatal(err)
	}
	want := condition{Proxy: "shop/cart-0", Ahead: time.Hour, Jump: -5 * time.Second, Jumped: now.Add(-time.Minute), Error: "refused", Failed: now.Add(-time.Second),
		Overflow: 3, Overflowed: now, Crowded: "calls that it serves as db:5432 (istio_tcp_connections_opened_total)"}
	if got := *r.condition.Load(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []*observev1.Condition{
		{RenewalError: strings.Repeat("x", maxReportText+1)},
		{Overflow: 1, Crowd: &observev1.Edge{}},
		{Overflow: 1, Crowd: &observev1.Edge{Side: observev1.Side_SIDE_SOURCE, Service: &observev1.Service{Host: strings.Repeat("x", maxReportText+1)}}},
	} {
		if r.hear(bad, now) == nil || r.condition.Load().Overflow != 3 {
			t.Errorf("taken: %v", bad)
		}
	}
}

// leaving is an authority of which another root is left out.
type leaving struct {
	ca.Source
	old ca.View
}

func (l leaving) Views(time.Time) []ca.View {
	held, _ := l.Watch()
	return append(held.Views(), l.old)
}

// S40, S41, S42, S46: whoever asks for the status is told, whichever replica the proxy is connected to; when it is well again, no more.
// A proxy that says nothing of itself is not spoken of.
func TestStatusSaysWhatProxiesSayOfThemselves(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ours := func(o *Options) {
		own, err := ca.OpenSelfSigned(first+"/ca", "cluster.local", ca.Options{})
		if err != nil {
			t.Fatal(err)
		}
		o.Authority = leaving{own, ca.View{Name: "CN=old", Serial: "0ld", Retires: now.Add(25 * time.Hour), Until: now.Add(1000 * time.Hour)}}
	}
	a := startReplica(t, first, folder, 0, ours, func(o *Options) { o.Replicas = []string{o.GRPC[0].Addr().String(), l.Addr().String()} })
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, ours, func(o *Options) {
		_ = o.GRPC[0].Close()
		o.GRPC, o.Replicas = []net.Listener{l}, []string{a.grpc, l.Addr().String()}
	})
	cart, _ := a.connect(t, "cart", "sidecar~10.0.0.1~cart-0.default~default.svc.cluster.local")
	quiet, _ := a.connect(t, "quiet", "sidecar~10.0.0.2~quiet-0.default~default.svc.cluster.local")
	more, _ := b.connect(t, "cart", "sidecar~10.0.0.3~cart-1.default~default.svc.cluster.local")
	send := func(stream observing, m *observev1.ProxyMessage) {
		t.Helper()
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	leads := func(m *observev1.ProxyMessage) *observev1.ProxyMessage {
		m.GetCertificate().Root = "0ld"
		return m
	}
	said := func(c *observev1.Condition) *observev1.ProxyMessage {
		c.TimeUnixNano = uint64(time.Now().UnixNano())
		return &observev1.ProxyMessage{Message: &observev1.ProxyMessage_Condition{Condition: c}}
	}
	at := uint64(now.UnixNano())
	send(quiet, holding(good(now, 1)))
	send(cart, leads(holding(good(now, 20))))
	send(more, leads(holding(good(now, 1))))
	send(cart, said(&observev1.Condition{ClockJumpNano: 72 * 3600e9, ClockJumpUnixNano: at, RenewalError: "rpc error: the account shop/cart does not exist", RenewalErrorUnixNano: at,
		Overflow: 9, OverflowUnixNano: at, Crowd: &observev1.Edge{Side: observev1.Side_SIDE_SOURCE, Protocol: "http", Service: &observev1.Service{Host: "ratings", Port: 9080}}}))
	seen := func(at *replica, want ...string) func() error {
		return func() error {
			var s apiv1.Status
			fetch(t, "http://"+at.http+"/api/v1/status", &s)
			var got []string
			for _, f := range s.Findings {
				got = append(got, strings.TrimSpace(f.Code+" "+f.Name)+": "+f.Message)
			}
			if !slices.EqualFunc(got, want, func(g, w string) bool {
				code, text, _ := strings.Cut(w, ": ")
				return strings.HasPrefix(g, code+": ") && strings.Contains(g, text)
			}) {
				return fmt.Errorf("%q, want %q", got, want)
			}
			return nil
		}
	}
	for _, at := range []*replica{a, b} {
		eventually(t, "it is told at "+at.o.Name, seen(at,
			`WEIR0123 cluster.local: the root "CN=old" (serial 0ld) is to be retired, and certificates of 2 connected workloads (default/cart-0, default/cart-1) lead to it`,
			"WEIR0115 cart-0: its proxy met: rpc error: the account shop/cart does not exist",
			"WEIR0121 cart-0: by 72h0m0s ahead",
			"WEIR0122 cart-0: 9 requests and connections were counted as those of workload __overflow__"))
	}
	var v apiv1.Identity
	fetch(t, "http://"+b.http+"/api/v1/identity", &v)
	if len(v.Workloads) == 0 || v.Workloads[0].Workload != "cart-0" || !strings.HasSuffix(v.Workloads[0].LastError, "does not exist") {
		t.Errorf("%+v", v.Workloads)
	}
	send(cart, said(&observev1.Condition{}))
	for _, s := range []observing{cart, more} {
		send(s, holding(good(now, 0)))
	}
	eventually(t, "all is well again", seen(b))

	// Nobody says more than there is room for.
	send(more, said(&observev1.Condition{RenewalError: strings.Repeat("x", maxReportText+1)}))
	if _, err := more.Recv(); err == nil || !strings.Contains(err.Error(), "an error of 513 bytes, more than 512") {
		t.Error(err)
	}
}
