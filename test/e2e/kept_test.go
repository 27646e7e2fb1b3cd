package e2e_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// kept is a connection that outlives exchanges.
type kept struct {
	net.Conn
	r *bufio.Reader
}

// keep connects to a port of a workload past the mesh.
func keep(t *testing.T, w *mesh.Workload, port uint16) *kept {
	t.Helper()
	c, err := net.Dial("tcp", netip.AddrPortFrom(w.IP(), port).String())
	return keeping(t, c, err)
}

func keeping(t *testing.T, c net.Conn, err error) *kept {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &kept{c, bufio.NewReader(c)}
}

const getEcho = "GET / HTTP/1.1\r\nHost: echo\r\n\r\n"

// ask sends a request, or the rest of one. An error means that it was not answered.
func (k *kept) ask(request string) (*http.Response, error) {
	if _, err := io.WriteString(k, request); err != nil {
		return nil, err
	}
	r, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return r, err
}

func (k *kept) served(t *testing.T, what, request string) *http.Response {
	t.Helper()
	r, err := k.ask(request)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v, %v", what, r, err)
	}
	return r
}

func (k *kept) ended(t *testing.T, what, request string) {
	t.Helper()
	if r, err := k.ask(request); err == nil {
		t.Errorf("%s is answered: %v", what, r)
	}
	if b, err := io.ReadAll(k.r); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s stays open: %q, %v", what, b, err)
	}
}

func (k *kept) echoes(t *testing.T, what string) {
	t.Helper()
	io.WriteString(k, what+"\n")
	if got, err := k.r.ReadString('\n'); got != what+"\n" {
		t.Errorf("%s: %q, %v", what, got, err)
	}
}

// A port that becomes strict serves no plaintext on the connections it has either: what was begun is finished, and nothing
// else begins. The mesh's own connections stay, and so do all of them when something else changes.
func TestStrictIsForConnectionsFromBefore(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo := pods[0]
	traffic := startLoad(t, client, 2, "http://echo:8080/")
	c, err := client.Dial(t.Context(), "echo:9000")
	inside := keeping(t, c, err)
	inside.echoes(t, "before")

	idle, busy, silent, half := keep(t, echo, 8080), keep(t, echo, 8080), keep(t, echo, 8080), keep(t, echo, 8080)
	relayed := keep(t, echo, 9000)
	relayed.echoes(t, "before")
	idle.served(t, "before", getEcho)
	busy.served(t, "before", getEcho)
	if _, err := io.WriteString(half, getEcho[:20]); err != nil {
		t.Fatal(err)
	}
	m.Config("policy.yaml", peerAuthentication("other", "{selector: {matchLabels: {app: other}}, mtls: {mode: STRICT}}"))
	m.Config("route.yaml", virtualService("echo", "{hosts: [echo], http: [{timeout: 20s, route: [{destination: {host: echo}}]}]}"))
	idle.served(t, "after changes elsewhere", getEcho)
	relayed.echoes(t, "after changes elsewhere")
	traffic.noneFailed(t, "changes elsewhere")

	const post = "POST / HTTP/1.1\r\nHost: echo\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
	if r, err := busy.ask(post); err != nil || r.StatusCode != http.StatusContinue {
		t.Fatalf("a request with a body to come: %v, %v", r, err)
	}
	m.Config("policy.yaml", peerAuthentication("default", "{mtls: {mode: STRICT}}"))
	idle.ended(t, "an idle connection", getEcho)
	silent.ended(t, "who was silent until now", getEcho)
	half.ended(t, "half a head", getEcho[20:])
	if r := busy.served(t, "a request from before", "0123456789"); !r.Close {
		t.Errorf("the last answer does not say so: %v", r.Header)
	}
	busy.ended(t, "the connection of the last answer", getEcho)
	traffic.noneFailed(t, "strict")
	inside.echoes(t, "strict")

	m.Remove("policy.yaml")
	relayed.echoes(t, "allowed again in time")
	keep(t, echo, 8080).served(t, "permissive again", getEcho)
	inside.echoes(t, "permissive again")
	traffic.stop(t)
}
