package plainxds

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// Certificates change all the time, by ADS and from the SDS server, while clients connect without pause: no handshake fails, and
// what is shown is one of them.
func TestCertificatesUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.publish(nil, "envoy.yaml")
		p.run()
		for _, name := range []string{"a.example", "x.b.example"} {
			p.until(name, func() error { _, err := p.shown(name); return err })
		}
		const changes = 30
		var stop atomic.Bool
		var made atomic.Int64
		var seen sync.Map
		var clients sync.WaitGroup
		for i := range 4 {
			name := []string{"a.example", "x.b.example"}[i%2]
			clients.Go(func() {
				for !stop.Load() {
					got, err := p.shown(name)
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					made.Add(1)
					seen.Store(got, true)
				}
			})
		}
		for i := range changes {
			a, b := fmt.Sprintf("n%d.a.example", i), fmt.Sprintf("n%d.b.example", i)
			p.rotate(a)
			p.secret.rotate(b)
			p.publish(nil, "envoy.yaml")
			for _, name := range []string{a, b} {
				p.until(name+" is shown", func() error {
					if _, ok := seen.Load(name); !ok && !t.Failed() {
						return errors.New("not yet")
					}
					return nil
				})
			}
		}
		stop.Store(true)
		clients.Wait()
		t.Logf("%d handshakes during %d changes of two certificates", made.Load(), changes)
	})
}

// A listener comes and goes while clients connect without pause: whoever the proxy accepted is served to the end. (That nobody
// is reset who was about to be accepted is TestNobodyIsLostWhenAListenerGoes of proxy/listener.)
func TestListenerRemovedUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.publish(nil, "envoy.yaml")
		p.run()
		addr := p.vars["IP"] + ":10001"
		there := func() error {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return err
		}
		gone := func() error {
			if there() == nil {
				return errors.New("it lets somebody in")
			}
			return nil
		}
		// It is there before the endpoints that it leads to have come; from then on nobody is lost.
		p.until("somebody is served", func() error { return exchangeOnce(addr) })
		var stop atomic.Bool
		var served, refused atomic.Int64
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				for !stop.Load() {
					switch err := exchangeOnce(addr); {
					case err == nil:
						served.Add(1)
					case errors.Is(err, syscall.ECONNREFUSED):
						refused.Add(1)
					default:
						t.Errorf("lost: %v", err)
					}
				}
			})
		}
		for range 4 { // each costs a second: who begins to connect while the socket leaves is refused when it tries again
			p.publish(without("tcp"), "envoy.yaml")
			p.until("the listener is gone", gone)
			p.publish(nil, "envoy.yaml")
			p.until("the listener is back", there)
		}
		stop.Store(true)
		clients.Wait()
		t.Logf("%d served, %d refused", served.Load(), refused.Load())
		if served.Load() == 0 { // that some are refused is up to when they try again
			t.Error("nobody was served")
		}
		if s := p.log.String(); strings.Contains(s, "connection refused") {
			t.Errorf("connections that had been accepted were turned away:\n%s", s)
		}
	})
}

// exchangeOnce connects, makes a request and reads the answer to its end.
func exchangeOnce(addr string) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET /x HTTP/1.0\r\n\r\n"); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if !strings.HasSuffix(string(b), "c /x ") {
		return fmt.Errorf("read %q", b)
	}
	return nil
}
