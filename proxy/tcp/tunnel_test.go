package tcp_test

import (
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/tcp"
)

// tunnelled is a proxy whose connections go on through a forward proxy.
func tunnelled(t *testing.T, post bool) (*mem.Net, *proxy, *mem.Listener) {
	t.Helper()
	n := mem.New()
	c := newCluster(1, "forward", "10.0.0.9:3128")
	c.Tunnel = &cluster.Tunnel{Host: "db.example.com:5432", Post: post}
	return n, start(t, n, at(entry, nil), to(1), tcp.Options{}, c), backend(t, n, "10.0.0.9:3128")
}

// A forward proxy is asked by CONNECT; what the client said meanwhile follows when it agrees.
func TestConnect(t *testing.T) {
	n, p, b := tunnelled(t, false)
	c := dial(t, n, entry)
	c.Send([]byte("question"))
	n.Step()
	s := b.Accept()
	recv(t, s, "CONNECT db.example.com:5432 HTTP/1.1\r\nhost: db.example.com:5432\r\n\r\n", nil)
	s.Send([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connection esta"))
	n.Step()
	recv(t, s, "", nil)
	s.Send([]byte("blished\r\nVia: f\r\n\r\nhello"))
	n.Step()
	recv(t, s, "question", nil)
	recv(t, c, "hello", nil)
	c.CloseWrite()
	n.Step()
	recv(t, s, "", io.EOF)
	s.Send([]byte("answer"))
	s.Close()
	n.Step()
	recv(t, c, "answer", io.EOF)
	p.want("via_upstream received 8 sent 11 forward 10.0.0.9:3128")
}

// With POST the two directions are the bodies of the request and of its answer.
func TestPost(t *testing.T) {
	n, p, b := tunnelled(t, true)
	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	recv(t, s, "POST / HTTP/1.1\r\nhost: db.example.com:5432\r\ntransfer-encoding: chunked\r\n\r\n", nil)
	s.Send([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"))
	n.Step()
	recv(t, c, "hello", nil)
	c.Send([]byte("question"))
	n.Step()
	recv(t, s, "8\r\nquestion\r\n", nil)
	c.CloseWrite()
	n.Step()
	recv(t, s, "0\r\n\r\n", nil)
	s.Send([]byte("6\r\nanswer\r\n0\r\n\r\n"))
	n.Step()
	recv(t, c, "answer", io.EOF)
	s.Close()
	p.want("via_upstream received 8 sent 11 forward 10.0.0.9:3128")
}

// A way that is not opened is a connection that failed, and nothing of the client leaves by it.
func TestTunnelRefused(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(*mem.Net, *mem.Peer)
		want   string
	}{
		"refused":   {func(_ *mem.Net, s *mem.Peer) { s.Send([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) }, "upstream_reset_before_response_started{remote_connection_failure} received 0 sent 0 forward 10.0.0.9:3128"},
		"no HTTP":   {func(_ *mem.Net, s *mem.Peer) { s.Send([]byte("SSH-2.0-OpenSSH\r\n")) }, "upstream_reset_before_response_started{protocol_error} received 0 sent 0 forward 10.0.0.9:3128"},
		"closed":    {func(_ *mem.Net, s *mem.Peer) { s.Close() }, "upstream_reset_before_response_started{remote_connection_failure} received 0 sent 0 forward 10.0.0.9:3128"},
		"reset":     {func(_ *mem.Net, s *mem.Peer) { s.Reset() }, "upstream_reset_before_response_started{remote_connection_failure} received 0 sent 0 forward 10.0.0.9:3128"},
		"no answer": {func(n *mem.Net, _ *mem.Peer) { n.Advance(2 * time.Second) }, "upstream_reset_before_response_started{connection_timeout} received 0 sent 0 forward 10.0.0.9:3128"},
		"switching": {func(_ *mem.Net, s *mem.Peer) {
			s.Send([]byte("HTTP/1.1 101 No\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))
		}, "upstream_reset_before_response_started{protocol_error} received 0 sent 0 forward 10.0.0.9:3128"},
		"an old one": {func(_ *mem.Net, s *mem.Peer) { s.Send([]byte("HTTP/1.1 503 No\r\n\r\n")) }, "upstream_reset_before_response_started{remote_connection_failure} received 0 sent 0 forward 10.0.0.9:3128"},
	} {
		t.Run(name, func(t *testing.T) {
			n, p, b := tunnelled(t, false)
			client := dial(t, n, entry)
			client.Send([]byte("secret"))
			n.Step()
			s := b.Accept()
			recv(t, s, "CONNECT db.example.com:5432 HTTP/1.1\r\nhost: db.example.com:5432\r\n\r\n", nil)
			c.answer(n, s)
			n.Step()
			recv(t, client, "", syscall.ECONNRESET)
			p.want(c.want)
			if l := p.clusters[1].Limits.Connections.Load(); l != 0 || p.w.Active() != 0 {
				t.Errorf("%d connections counted, %d relays", l, p.w.Active())
			}
		})
	}
}

// text is a format of access logs.
func text(t *testing.T, s string) *observe.Format {
	t.Helper()
	f, err := observe.ParseText(s, true)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A listener's tunnel (tunneling_config) is asked for with what is known of the connection, whatever its cluster says; one that cannot be
// asked for is a connection that failed.
func TestTunnelOfListener(t *testing.T) {
	headers := []tcp.Header{{Name: "x-from", Value: text(t, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% at %HOSTNAME%")}, {Name: "x-two", Value: text(t, "1")},
		{Name: "x-two", Value: text(t, "2")}, {Name: "x-one", Value: text(t, "1")}, {Name: "x-one", Value: text(t, "2"), Replaces: true}}
	for name, c := range map[string]struct {
		tunnel   tcp.Tunnel
		protocol cluster.Protocol
		asked    string // "": nothing is
		end      string
	}{
		"connect": {tcp.Tunnel{Host: text(t, "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%:443"), Headers: headers}, cluster.HTTP1,
			"CONNECT 10.0.0.1:443 HTTP/1.1\r\nhost: 10.0.0.1:443\r\nx-from: 127.0.0.1 at node\r\nx-two: 1\r\nx-two: 2\r\nx-one: 2\r\n\r\n", ""},
		"post": {tcp.Tunnel{Host: text(t, "db.example"), Post: true, Path: "/tunnel"}, cluster.HTTP1, "POST /tunnel HTTP/1.1\r\nhost: db.example\r\ntransfer-encoding: chunked\r\n\r\n", ""},
		"no name": {tcp.Tunnel{Host: text(t, "%REQUESTED_SERVER_NAME%:443")}, cluster.HTTP1, "",
			"upstream_reset_before_response_started{remote_connection_failure} received 0 sent 0 forward 10.0.0.9:3128"},
		"no port": {tcp.Tunnel{Host: text(t, "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%")}, cluster.HTTP1, "",
			"upstream_reset_before_response_started{remote_connection_failure} received 0 sent 0 forward 10.0.0.9:3128"},
		"HTTP/2": {tcp.Tunnel{Host: text(t, "a:1")}, cluster.HTTP2, "", "upstream_reset_before_response_started{protocol_error} received 0 sent 0 forward 10.0.0.9:3128"},
	} {
		t.Run(name, func(t *testing.T) {
			n := mem.New()
			forward := newCluster(1, "forward", "10.0.0.9:3128")
			forward.Tunnel, forward.Protocol = &cluster.Tunnel{Host: "other:1"}, c.protocol
			config := to(1)
			config.Tunnel = &c.tunnel
			p, b := start(t, n, at(entry, nil), config, tcp.Options{Hostname: "node"}, forward), backend(t, n, "10.0.0.9:3128")
			client := dial(t, n, entry)
			n.Step()
			s := b.Accept()
			if c.asked != "" {
				recv(t, s, c.asked, nil)
				s.Close()
			}
			n.Step()
			recv(t, client, "", syscall.ECONNRESET)
			if p.w.Active() != 0 || forward.Limits.Connections.Load() != 0 {
				t.Errorf("%d relays", p.w.Active())
			}
			if c.end != "" {
				p.want(c.end)
			}
		})
	}
}
