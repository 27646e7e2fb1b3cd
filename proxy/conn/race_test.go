package conn_test

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

// A peer with several addresses: the first that answers is used, the next one is tried
// after a failure at once and after silence soon, and nothing is left of the others.
func TestRace(t *testing.T) {
	const (
		v6     = "[2001:db8::1]:80"
		v4     = "10.0.0.1:80"
		third  = "10.0.0.2:80"
		silent = "silent"
		refuse = "refuse"
		answer = "answer"
	)
	for _, tc := range []struct {
		name      string
		addresses map[string]string
		order     []string
		from      conn.SocketSource
		want      string // who answers, or why nobody does
		after     time.Duration
	}{
		{"the first answers", map[string]string{v6: answer, v4: answer}, []string{v6, v4}, nil, v6, 0},
		{"the first refuses", map[string]string{v6: refuse, v4: answer}, []string{v6, v4}, nil, v4, 0},
		{"the first is silent", map[string]string{v6: silent, v4: answer}, []string{v6, v4}, nil, v4, 250 * time.Millisecond},
		{"two are silent", map[string]string{v6: silent, v4: silent, third: answer}, []string{v6, v4, third}, nil, third, 500 * time.Millisecond},
		{"silent, then refused", map[string]string{v6: silent, v4: refuse, third: answer}, []string{v6, v4, third}, nil, third, 250 * time.Millisecond},
		{"all refuse", map[string]string{v6: refuse, v4: refuse}, []string{v6, v4}, nil, "connection refused: connection refused", 0},
		{"all are silent", map[string]string{v6: silent, v4: silent}, []string{v6, v4}, nil, "connecting timed out", 3 * time.Second},
		{"sockets come later", map[string]string{v6: refuse, v4: answer}, []string{v6, v4}, &later{}, v4, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, l, o := setup()
			at := map[string]*mem.Listener{}
			for a, does := range tc.addresses {
				ap := netip.MustParseAddrPort(a)
				switch does {
				case silent:
					n.Silence(ap, true)
				case answer:
					var err error
					if at[a], err = n.Listen(ap); err != nil {
						t.Fatal(err)
					}
				}
			}
			if s, ok := tc.from.(*later); ok {
				s.l = l
			}
			target := conn.Target{Addr: loop.TCP(netip.MustParseAddrPort(tc.order[0])), Timeout: 3 * time.Second, Socket: tc.from}
			for _, a := range tc.order[1:] {
				target.Also = append(target.Also, netip.MustParseAddrPort(a))
			}
			c := conn.Dial(l, target, o)
			c.Write([]byte("hello"))
			for n.Step(); o.log == nil && n.Next(); {
			}
			if n.Elapsed() != tc.after {
				t.Errorf("it took %v, want %v", n.Elapsed(), tc.after)
			}
			listening := len(at)
			if at[tc.want] == nil {
				o.want(t, "closed: "+tc.want)
				if n.Open() != listening {
					t.Errorf("%d sockets are left", n.Open()-listening)
				}
				return
			}
			o.want(t, "open")
			if c.Info().Remote.String() != tc.want {
				t.Errorf("connected to %v", c.Info().Remote)
			}
			p := at[tc.want].Accept()
			recv(t, p, "hello", nil)
			p.Send([]byte("hi"))
			n.Advance(4 * time.Second) // no timer is left
			o.want(t, `data "hi"`)
			p.Reset()
			n.Step()
			if o.why.Errno != syscall.ECONNRESET {
				t.Errorf("closed: %v", o.why)
			}
			for a, l := range at {
				for p := l.Accept(); p != nil; p = l.Accept() {
					t.Errorf("%s was connected as well", a)
				}
			}
			if n.Open() != listening {
				t.Errorf("%d sockets are left", n.Open()-listening)
			}
		})
	}
}

// A race ends with its loop.
func TestRaceEndsWithTheLoop(t *testing.T) {
	n, l, o := setup()
	for _, a := range []string{"10.0.0.1:80", "10.0.0.2:80"} {
		n.Silence(netip.MustParseAddrPort(a), true)
	}
	conn.Dial(l, conn.Target{Addr: loop.TCP(netip.MustParseAddrPort("10.0.0.1:80")), Also: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:80")}}, o)
	n.Advance(time.Second)
	l.End()
	o.want(t, "closed: the worker stopped")
	if n.Open() != 0 || l.Registered() != 0 {
		t.Errorf("%d sockets, %d registered", n.Open(), l.Registered())
	}
}

// later is a SocketSource that has none ready.
type later struct{ l *loop.Loop }

func (*later) Take(loop.Family) (int, syscall.Errno) { return -1, syscall.EAGAIN }
func (s *later) Order(f loop.Family, done func(int, error)) {
	fd, _ := s.l.Poller().Socket(f)
	done(fd, nil)
}
