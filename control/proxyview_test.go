package control

import (
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// Where virtual hosts come as resources of their own, they are what the column of routes is
// about, as much as the tables are: in it people, istioctl and Kiali look for them.
func TestRoutesIncludeVirtualHosts(t *testing.T) {
	table := server.TypeStatus{TypeURL: resource.RouteType, Subscribed: 1, Sent: 3, ACKed: 3}
	for _, c := range []struct {
		name        string
		host        server.TypeStatus
		state       string
		sent, acked string
	}{
		{"both held", server.TypeStatus{Sent: 7, ACKed: 7}, apiv1.Synced, "7", "7"},
		{"not answered", server.TypeStatus{Sent: 8, ACKed: 7, Unanswered: true, Waits: true}, apiv1.Stale, "8", "7"},
		{"the first not answered", server.TypeStatus{Sent: 8, Unanswered: true, Waits: true}, apiv1.Stale, "8", ""},
		{"refused", server.TypeStatus{Sent: 8, ACKed: 7, Rejected: []string{"80/a"}}, apiv1.Erred, "8", ""},
		{"older than the table", server.TypeStatus{Sent: 2, ACKed: 2}, apiv1.Synced, "3", "3"},
		{"none asked for", server.TypeStatus{}, apiv1.Synced, "3", "3"},
	} {
		c.host.TypeURL, c.host.Subscribed = resource.VirtualHostType, 1
		client := server.Client{Node: "sidecar~10.0.0.1~a.default~x", Types: []server.TypeStatus{table, c.host}}
		p := Plane{}
		for _, s := range p.proxyStatus(&client).Types {
			if s.Type == "RDS" && s.State != c.state {
				t.Errorf("%s: RDS is %s, want %s", c.name, s.State, c.state)
			}
		}
		if x := syncz([]server.Client{client})[0]; x.RouteSent != c.sent || x.RouteACKed != c.acked {
			t.Errorf("%s: syncz has routes sent %q and acknowledged %q, want %q and %q", c.name, x.RouteSent, x.RouteACKed, c.sent, c.acked)
		}
	}
}
