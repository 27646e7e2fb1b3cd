package tcp_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/tcp"
)

// gone is a filter chain that there is no more.
func gone(*tcp.Config, *conn.Info) http.Refusal { return http.Refusal{Cause: causes.ChainRemoved} }

// A relay whose filter chain is gone has its time to end, and no more, unless the chain comes back; a maximum duration
// that ends sooner stays in force, and other relays are left alone.
func TestAdopt(t *testing.T) {
	n := mem.New()
	config := to(1)
	config.IdleTimeout = -1
	p := start(t, n, at(entry, nil), config, tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")
	there := func(*tcp.Config, *conn.Info) http.Refusal { return http.Refusal{} }

	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	p.w.Adopt(there, 45*time.Second)
	n.Advance(time.Hour)
	p.want()
	p.w.Adopt(gone, 45*time.Second)
	n.Advance(40 * time.Second)
	p.w.Adopt(gone, 45*time.Second) // the next change gives it no more time
	c.Send([]byte("late"))
	n.Step()
	recv(t, s, "late", nil)
	n.Advance(5 * time.Second)
	p.want("filter_chain_is_being_removed received 4 sent 0 db 10.0.0.9:3306")
	recv(t, c, "", syscall.ECONNRESET)

	config.MaxDuration = time.Minute
	c = dial(t, n, entry)
	n.Advance(30 * time.Second)
	p.w.Adopt(gone, 45*time.Second)
	n.Advance(30 * time.Second)
	p.want("filter_chain_is_being_removed received 0 sent 0 db 10.0.0.9:3306")
	recv(t, c, "", syscall.ECONNRESET)

	for _, most := range []time.Duration{0, time.Minute} {
		config.MaxDuration = most
		c = dial(t, n, entry)
		n.Step()
		p.w.Adopt(gone, 45*time.Second)
		n.Advance(44 * time.Second)
		p.w.Adopt(there, 45*time.Second)
		n.Advance(15 * time.Second)
		p.want()
		n.Advance(time.Second)
		if most > 0 {
			p.want("duration_timeout received 0 sent 0 db 10.0.0.9:3306")
			continue
		}
		p.want()
		c.Reset()
		n.Step()
		p.log = nil
	}
}

// A relay ends because of what would not let it in last, by the objects that say so, and not because of what was taken back before.
func TestAdoptSaysWhy(t *testing.T) {
	n := mem.New()
	p := start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	backend(t, n, "10.0.0.9:3306")
	dial(t, n, entry)
	n.Step()
	deny := rbac.NewPolicy("ns[default]-policy[no]-rule[1]", rbac.Any(), rbac.Any())
	by := []observe.Origin{observe.OriginOf(observe.Object{Config: "no"})}
	now := &tcp.Config{RBAC: []*rbac.Filter{{Rules: &rbac.Rules{Action: rbac.Deny, Policies: []rbac.Policy{deny}}, Counts: &rbac.Counts{}}},
		Deciders: observe.Deciders{"ns[default]-policy[no]": by}}
	p.w.Adopt(gone, 45*time.Second)
	n.Advance(44 * time.Second)
	p.w.Adopt(now.Again, 45*time.Second) // the next change gives it no more time
	n.Advance(time.Second)
	p.want("rbac_access_denied_matched_policy received 0 sent 0 db 10.0.0.9:3306")
	if got := &p.ended; got.Termination != deny.Details || !slices.Equal(got.Deciders, by) || now.RBAC[0].Counts.Denied.Load() != 0 {
		t.Errorf("the log gets %q by %v; counted %d times", got.Termination, got.Deciders, now.RBAC[0].Counts.Denied.Load())
	}
}

// Who had not shown yet whether it is one that may come in, and then is not, is not relayed; and the others are.
func TestAdoptBeforeTheFirstWord(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	m.app = backend(t, n, appAt)
	c := m.dial(unknown)
	s := m.accept("tentative")
	m.w.Adopt(gone, 45*time.Second)
	n.Advance(44 * time.Second)
	c.Send([]byte("in plaintext"))
	n.Step()
	recv(t, c, "", syscall.ECONNRESET)
	recv(t, s, "", syscall.ECONNRESET)
	m.want("filter_chain_is_being_removed received 0 sent 0 app " + appAt)

	c = m.dial(unknown)
	s = m.accept("tentative")
	m.w.Adopt(gone, 45*time.Second)
	s.Send([]byte("the server first"))
	n.Step()
	recv(t, c, "", syscall.ECONNRESET)
	m.want("filter_chain_is_being_removed received 0 sent 16 app " + appAt) // taken, and dropped

	c = m.dial(unknown)
	m.accept("tentative")
	m.w.Adopt(gone, 45*time.Second)
	c.Send(clientHello(t, "istio"))
	n.Step()
	n.Advance(9 * time.Second) // of the handshake's 10
	if _, err := c.Recv(); err != nil {
		t.Errorf("a handshake has begun, and then: %v", err)
	}
	m.want()
}
