package http_test

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/route"
)

// A client without a cookie is given one, which leads it back to the endpoint that it was sent to.
func TestCookieLeadsBack(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	limits := &cluster.Limits{}
	for _, m := range []interface{ Store(uint32) }{&limits.MaxConnections, &limits.MaxPending, &limits.MaxRequests, &limits.MaxRetries} {
		m.Store(cluster.Unlimited)
	}
	c := &cluster.Cluster{Name: "c", Limits: limits, Policy: cluster.RingHash, TableSize: 1024, Hash: []cluster.HashKey{{Cookie: "s", Generate: true, SetCookie: cluster.CookieSuffix("/", 3600e9, [][2]string{{"SameSite", "Lax"}})}}}
	for i := range 8 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), 80) // nobody listens: replies are as good
		c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: int32(i), Addr: at, Limits: limits})
	}
	c.Seal()
	table, err := route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6},
		Forward: &route.Forward{Clusters: []route.Weighted{{Weight: 1}}, Total: 1}}}}})
	if err != nil {
		t.Fatal(err)
	}
	seen := &endpoints{}
	w := http.NewWorker(http.Options{Loop: l, Observer: seen})
	w.SetState(&state{clusters: []*cluster.Cluster{c}, table: table})
	cfg := &http.Config{TableName: "t", Stages: outbound.Stages(outbound.Options{})}
	listen(t, l, front, func(c *conn.Conn) { c.HandOver(w.Serve(c, cfg)) })
	ask := func(cookie string) (response, endpoint string) {
		client, err := n.Dial(front)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Send([]byte("GET / HTTP/1.1\r\nHost: a\r\n" + cookie + "\r\n")); err != nil {
			t.Fatal(err)
		}
		n.Step()
		b, err := client.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return string(b), seen.last
	}
	cookies := map[string]bool{}
	for range 20 {
		first, was := ask("")
		found := regexp.MustCompile(`set-cookie: (s="([0-9a-f]{16})"; Max-Age=3600; Path=/; SameSite=Lax; HttpOnly)\r\n`).FindStringSubmatch(first)
		if found == nil {
			t.Fatalf("no cookie in %q", first)
		}
		cookies[found[2]] = true
		again, is := ask("Cookie: a=b; s=\"" + found[2] + "\"\r\n")
		if is != was || strings.Contains(again, "set-cookie") {
			t.Fatalf("with the cookie of %s it was sent to %s: %q", was, is, again)
		}
	}
	if len(cookies) < 20 {
		t.Errorf("%d cookies for 20 clients", len(cookies))
	}
}

// endpoints remembers where the last exchange went.
type endpoints struct{ last string }

func (*endpoints) Begin(*http.Exchange) {}
func (e *endpoints) End(x *http.Exchange) {
	if e.last = ""; x.Endpoint != nil {
		e.last = x.Endpoint.Addr.String()
	}
}
