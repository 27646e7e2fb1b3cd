//go:build linux

package acceptance_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside runs f on a thread in the fabric's network namespace, where all that passes
// between pods can be seen.
func (m *mesh) inside(f func() error) error {
	init := m.initProcess()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", init.pid))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// flow is one direction of a TCP connection.
type flow struct{ from, to netip.AddrPort }

// capture is what went over the wire, in the order of sequence numbers.
type capture struct {
	fd    int
	mu    sync.Mutex
	flows map[flow][]segment
	ended chan struct{}
}

type segment struct {
	seq  uint32
	data []byte
}

// listen begins to capture.
func (m *mesh) listen() *capture {
	m.t.Helper()
	c := &capture{flows: map[flow][]segment{}, ended: make(chan struct{})}
	err := m.inside(func() (err error) {
		// IPv4 only (the mesh's pods have it), each packet once at each link it passes.
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}))
	})
	if err != nil {
		m.t.Fatal("capturing: ", err)
	}
	stop := make(chan struct{})
	go func() {
		defer close(c.ended)
		b := make([]byte, 128<<10)
		for {
			n, _, err := unix.Recvfrom(c.fd, b, 0)
			if err == nil {
				c.packet(b[:n])
				continue
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	m.t.Cleanup(func() {
		close(stop)
		<-c.ended
		_ = unix.Close(c.fd)
	})
	return c
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// packet notes the data of a TCP segment in an IPv4 packet (RFC 791, RFC 9293).
func (c *capture) packet(b []byte) {
	if len(b) < 40 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_TCP {
		return
	}
	head := int(b[0]&15) * 4
	b = b[:min(len(b), int(binary.BigEndian.Uint16(b[2:])))]
	if len(b) < head+20 {
		return
	}
	addr := func(ip, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	}
	tcp := b[head:]
	data := tcp[min(len(tcp), int(tcp[12]>>4)*4):]
	if len(data) == 0 {
		return
	}
	f := flow{addr(b[12:16], tcp[:2]), addr(b[16:20], tcp[2:4])}
	s := segment{binary.BigEndian.Uint32(tcp[4:]), bytes.Clone(data)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.flows[f], func(o segment) bool { return o.seq == s.seq && len(o.data) >= len(s.data) }) {
		c.flows[f] = append(c.flows[f], s)
	}
}

// stream is the data of a flow up to the first hole.
func stream(ss []segment) []byte {
	slices.SortStableFunc(ss, func(a, b segment) int { return int(int32(a.seq - b.seq)) })
	var out []byte
	for _, s := range ss {
		at := int(int32(s.seq - ss[0].seq))
		if at > len(out) {
			break
		}
		if end := at + len(s.data); end > len(out) {
			out = append(out[:at], s.data...)
		}
	}
	return out
}

// Records of TLS (RFC 8446 section 5.1).
const (
	changeCipherSpec, alert, handshake, applicationData = 20, 21, 22, 23
	serverHello                                         = 2
	supportedVersions                                   = 43
)

// onlyTLS13 is nil if b is a sequence of TLS records, as far as it goes, and the server's
// hello among them chooses TLS 1.3.
func onlyTLS13(b []byte) error {
	first := true
	for len(b) >= 5 {
		kind, version, n := b[0], binary.BigEndian.Uint16(b[1:]), int(binary.BigEndian.Uint16(b[3:]))
		if kind < changeCipherSpec || kind > applicationData || version != 0x0303 && version != 0x0301 || n > 1<<14+256 {
			return fmt.Errorf("not a TLS record: %q", b[:min(len(b), 60)])
		}
		if first && kind != handshake {
			return fmt.Errorf("it begins with a record of type %d", kind)
		}
		if first && len(b) >= 5+n && b[5] == serverHello && !choosesTLS13(b[5:5+n]) {
			return errors.New("the server chose another version than TLS 1.3")
		}
		first = false
		b = b[min(len(b), 5+n):]
	}
	return nil
}

// choosesTLS13 looks into a ServerHello (RFC 8446 section 4.1.3) for the version.
func choosesTLS13(h []byte) bool {
	at := 4 + 2 + 32
	if len(h) <= at {
		return false
	}
	at += 1 + int(h[at]) + 2 + 1 + 2 // session id, cipher suite, compression, length of extensions
	for at+4 <= len(h) {
		kind, n := binary.BigEndian.Uint16(h[at:]), int(binary.BigEndian.Uint16(h[at+2:]))
		if kind == supportedVersions {
			return at+6 <= len(h) && binary.BigEndian.Uint16(h[at+4:]) == tls.VersionTLS13
		}
		at += 4 + n
	}
	return false
}

// Between sidecars only TLS 1.3 is seen, with SPIFFE certificates; STRICT refuses
// plaintext, which PERMISSIVE takes.
func TestOnTheWireIsTLSAlone(t *testing.T) {
	long(t)
	if os.Geteuid() != 0 {
		t.Skip("capturing needs root")
	}
	m := start(t, options{args: []string{"--demo", "bookinfo"}})
	c := m.listen()
	// New connections, so that handshakes are seen: the ones there are may be older.
	m.apply(strictYAML("STRICT"))
	for _, p := range m.tree() {
		if p.name() == "weir-sample" {
			p.kill(t, unix.SIGTERM)
		}
	}
	wait(t, patience, "the page after a restart of everything", func() error {
		p, err := m.view("")
		if err == nil {
			err = p.whole()
		}
		return err
	})
	for range 100 {
		m.sees()
	}
	pods := map[string]netip.Addr{}
	for _, w := range m.report.Workloads {
		pods[w.Name] = netip.MustParseAddr(w.IP)
	}
	isPod := func(a netip.AddrPort) bool {
		for _, p := range pods {
			if p == a.Addr() {
				return true
			}
		}
		return false
	}
	c.mu.Lock()
	seen, hellos, size := 0, 0, 0
	for f, ss := range c.flows {
		if !isPod(f.from) && !isPod(f.to) {
			continue
		}
		b := stream(ss)
		seen, size = seen+1, size+len(b)
		if bytes.Contains(b, []byte("HTTP/1.1")) {
			t.Errorf("%v → %v: plain HTTP: %q", f.from, f.to, b[:min(len(b), 80)])
		}
		switch {
		case len(b) > 0 && b[0] == handshake:
			hellos++
			if err := onlyTLS13(b); err != nil {
				t.Errorf("%v → %v: %v", f.from, f.to, err)
			}
		case len(b) > 5 && (b[0] < changeCipherSpec || b[0] > applicationData || b[1] != 3):
			t.Errorf("%v → %v: not TLS: %q", f.from, f.to, b[:min(len(b), 80)])
		}
	}
	c.mu.Unlock()
	t.Logf("%d directions of connections with %d bytes, %d of them from their first byte on", seen, size, hellos)
	if hellos < 4 {
		t.Errorf("only %d handshakes were seen", hellos)
	}

	ratings := netip.AddrPortFrom(pods["ratings-v1-0"], 9080).String()
	chain, err := m.certificate(ratings, "outbound_.9080_._.ratings.default.svc.cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	const want = "spiffe://cluster.local/ns/default/sa/bookinfo-ratings"
	if u := chain[0].URIs; len(u) != 1 || u[0].String() != want {
		t.Errorf("the certificate of ratings is for %v, want %s", u, want)
	}
	pem, err := os.ReadFile(filepath.Join(m.state, "ca", "root-cert.pem"))
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("the root certificate: %v", err)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Errorf("the certificate of ratings: %v", err)
	}

	if answer, err := m.plaintext(ratings); err == nil {
		t.Errorf("STRICT takes plaintext: %q", answer)
	} else {
		t.Logf("plaintext under STRICT: %v", err)
	}
	m.apply(strictYAML("PERMISSIVE"))
	if answer, err := m.plaintext(ratings); err != nil || !strings.Contains(answer, ratingsAnswer) {
		t.Errorf("PERMISSIVE refuses plaintext: %q %v", answer, err)
	}
}

func strictYAML(mode string) string {
	return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: " + mode + "}}\n"
}

// certificate is what a pod shows to someone who has none.
func (m *mesh) certificate(addr, serverName string) (chain []*x509.Certificate, err error) {
	err = m.inside(func() error {
		raw, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
		c := tls.Client(raw, &tls.Config{ServerName: serverName, NextProtos: []string{"istio"}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			return err
		}
		chain = c.ConnectionState().PeerCertificates
		// Without a certificate of our own this is as far as we may go.
		if _, err := c.Read(make([]byte, 1)); err == nil {
			return errors.New("a client without a certificate is served")
		}
		return nil
	})
	return chain, err
}

// plaintext asks a pod's ratings without TLS, from beside the pods.
func (m *mesh) plaintext(addr string) (answer string, err error) {
	err = m.inside(func() error {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, "GET /ratings/0 HTTP/1.1\r\nHost: ratings:9080\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		answer = string(b)
		return err
	})
	return answer, err
}
