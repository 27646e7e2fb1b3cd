package tcp_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/tcp"
)

// vector is a TLS vector with a length of n bytes before it.
func vector(n int, b ...byte) []byte {
	var head []byte
	for i := n - 1; i >= 0; i-- {
		head = append(head, byte(len(b)>>(8*i)))
	}
	return append(head, b...)
}

func extension(typ uint16, body ...byte) []byte {
	return append([]byte{byte(typ >> 8), byte(typ)}, vector(2, body...)...)
}

func serverName(name string) []byte {
	return extension(0, vector(2, append([]byte{0}, vector(2, []byte(name)...)...)...)...)
}

// madeHello is a ClientHello with the given extensions, in records of so many bytes.
func madeHello(record int, extensions ...[]byte) (out []byte) {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	body = append(body, vector(2, slices.Concat(extensions...)...)...)
	for msg := append([]byte{1}, vector(3, body...)...); len(msg) > 0; {
		n := min(record, len(msg))
		out = append(out, append([]byte{22, 3, 1}, vector(2, msg[:n]...)...)...)
		msg = msg[n:]
	}
	return out
}

// TLS is relayed by the name in its ClientHello, however that is cut and whatever else is
// in it; a name that nobody serves is answered with the alert that says so.
func TestPassthroughBySNI(t *testing.T) {
	grease := extension(0x1a1a)
	ech := extension(0xfe0d, append([]byte{0, 0, 1, 0, 1, 7, 0, 32}, make([]byte, 32+2+140)...)...) // GREASE ECH, RFC 9849 section 6.2
	alpn := extension(16, vector(2, vector(1, []byte("h2")...)...)...)
	padding := extension(21, make([]byte, 12<<10)...)
	for _, tc := range []struct {
		name    string
		hello   []byte
		to      string // backend, "alert" or "reset"
		segment int
	}{
		{"exact", madeHello(1<<14, serverName("a.example.com")), "exact", 0},
		{"upper case", madeHello(1<<14, serverName("A.Example.COM")), "exact", 0},
		{"wildcard", madeHello(1<<14, alpn, serverName("x.y.example.com")), "wildcard", 0},
		{"byte by byte", madeHello(1<<14, serverName("a.example.com")), "exact", 1},
		{"in small records", madeHello(11, grease, serverName("a.example.com"), alpn), "exact", 0},
		{"in small records, byte by byte", madeHello(7, serverName("a.example.com")), "exact", 1},
		{"GREASE", madeHello(1<<14, grease, ech, serverName("a.example.com"), alpn, grease), "exact", 0},
		{"12 KB", madeHello(1<<14, padding, serverName("a.example.com")), "exact", 0},
		{"12 KB in records", madeHello(4000, padding, serverName("a.example.com")), "exact", 100},
		{"another name", madeHello(1<<14, serverName("b.example.org")), "alert", 0},
		{"no name", madeHello(1<<14, alpn), "alert", 0},
		{"a name with NUL", madeHello(1<<14, serverName("a.example.com\x00.org")), "reset", 0},
		{"too long", madeHello(1<<14, extension(21, make([]byte, 17<<10)...), serverName("a.example.com")), "reset", 0},
		{"too long in records of 1 byte", madeHello(1, padding, serverName("a.example.com")), "reset", 0},
		{"not TLS", []byte("GET / HTTP/1.1\r\n"), "reset", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := mem.New()
			n.SegmentSize = tc.segment
			n.Buffer = 1 << 20
			backends := map[string]*mem.Listener{"exact": backend(t, n, "10.0.1.1:443"), "wildcard": backend(t, n, "10.0.2.1:443")}
			p := &proxy{t: t, n: n, clusters: map[cluster.ID]*cluster.Cluster{1: newCluster(1, "exact", "10.0.1.1:443"), 2: newCluster(2, "wildcard", "10.0.2.1:443")}}
			var refused []string
			p.serve(tcp.Options{}, &listener.Config{Name: "gateway", Binds: []loop.Addr{loop.TCP(netip.MustParseAddrPort(entry))}, InspectTLS: true, Chains: []*listener.Chain{
				{Name: "exact", ServerFirst: true, Match: listener.Match{ServerNames: []string{"a.example.com"}}, Filters: to(1)},
				{Name: "wildcard", ServerFirst: true, Match: listener.Match{ServerNames: []string{"*.example.com"}}, Filters: to(2)},
			}}, &refused)
			c := dial(t, n, entry)
			c.Send(tc.hello)
			n.Step()
			switch tc.to {
			case "alert":
				recv(t, c, "\x15\x03\x03\x00\x02\x02\x70", io.EOF)
			case "reset":
				if _, err := c.Recv(); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client saw %v", err)
				}
			default:
				s := backends[tc.to].Accept()
				if s == nil {
					t.Fatalf("%s was not connected; refused: %q", tc.to, refused)
				}
				if got, err := s.Recv(); !bytes.Equal(got, tc.hello) || err != nil {
					t.Errorf("the backend heard %d bytes of %d, %v", len(got), len(tc.hello), err)
				}
				return
			}
			if len(refused) != 1 || !strings.HasPrefix(refused[0], "no filter chain matches: ") {
				t.Errorf("refused: %q", refused)
			}
		})
	}
}

// A gateway between networks: the name is that of a cluster.
func TestClusterByServerName(t *testing.T) {
	const name = "outbound_.9080_._.ratings.default.svc.cluster.local"
	n := mem.New()
	b := backend(t, n, "10.0.1.1:15006")
	hole := to(2)
	hole.ByServerName = true
	p := &proxy{t: t, n: n, clusters: map[cluster.ID]*cluster.Cluster{1: newCluster(1, name, "10.0.1.1:15006"), 2: newCluster(2, "BlackHoleCluster")}}
	var refused []string
	p.serve(tcp.Options{}, &listener.Config{Name: "gateway", Binds: []loop.Addr{loop.TCP(netip.MustParseAddrPort(entry))}, InspectTLS: true, Chains: []*listener.Chain{
		{Match: listener.Match{ServerNames: []string{"*.local"}}, Filters: hole}}}, &refused)
	hello := madeHello(1<<14, serverName(name))
	c := dial(t, n, entry)
	c.Send(hello)
	n.Step()
	recv(t, b.Accept(), string(hello), nil)
	c.Reset()
	p.want("via_upstream received " + strconv.Itoa(len(hello)) + " sent 0 " + name + " 10.0.1.1:15006")
	c = dial(t, n, entry)
	c.Send(madeHello(1<<14, serverName("outbound_.1_._.nobody.local")))
	p.want("cluster_not_found received 0 sent 0")
}
