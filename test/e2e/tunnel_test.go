package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
)

// forwardProxy takes one connection at a time on, to itself: it says where to it was asked, then sends back what it gets.
func forwardProxy(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				in := bufio.NewReader(c)
				q, err := http.ReadRequest(in)
				if err != nil || q.Method != http.MethodConnect {
					_, _ = io.WriteString(c, "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
					return
				}
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n%s\n", q.Host)
				_, _ = io.Copy(c, in)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// TCP to a host whose DestinationRule has a tunnel goes through the forward proxy that its endpoints are, and one that does not
// take it on is a connection that failed.
func TestTunnel(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil)
	port := forwardProxy(t)
	entry := fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {tcp: %d}}]
`, port)
	say := func() string {
		c, err := client.Dial(context.Background(), "db.example.com:5432")
		if errors.Is(err, syscall.ECONNRESET) { // refused so soon
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "hello")
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		b, _ := io.ReadAll(c)
		return string(b)
	}
	m.Config("tunnel.yaml", documents(entry, destinationRule("db", "{host: db.example.com, trafficPolicy: {tunnel: {targetHost: inner.example.com, targetPort: 99}}}")))
	if got, want := say(), "inner.example.com:99\nhello"; got != want {
		t.Errorf("through the tunnel came %q, want %q", got, want)
	}
	m.Config("tunnel.yaml", documents(entry, destinationRule("db", "{host: db.example.com, trafficPolicy: {tunnel: {protocol: POST, targetHost: inner.example.com, targetPort: 99}}}")))
	if got := say(); got != "" {
		t.Errorf("through a tunnel that was not opened came %q", got)
	}
	m.Eventually("the log says why", func() error {
		if len(client.AccessLog("UF")) == 0 {
			return fmt.Errorf("%q", client.AccessLog())
		}
		return nil
	})
}
