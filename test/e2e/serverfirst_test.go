package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// A database that greets as soon as it is connected, behind a proxy that takes mTLS and
// plaintext: workloads of the mesh and others alike hear it without delay, whoever comes
// first, on a port whose protocol is declared and on one where it has to be found out. A
// client that says nothing through a DestinationRule without TLS is served, too.
func TestServerSpeaksFirstOnPermissivePort(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("db.yaml", `
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  selector: {app: db}
  ports: [{name: tcp, port: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: undeclared}
spec:
  selector: {app: db}
  ports: [{name: data, port: 5433}]
`)
	all := m.Workloads(caller("client"), caller("late"), mesh.Spec{Name: "db-0", Owner: "db", ServiceAccount: "db", Labels: map[string]string{"app": "db"},
		Ports: []mesh.Port{{Name: "tcp", Number: 5432}, {Name: "data", Number: 5433}}})
	client, late, db := all[0], all[1], all[2]
	for _, port := range []uint16{5432, 5433} {
		greet(t, db.App(port).String())
	}
	hear := func(what string, dial func(context.Context) (net.Conn, error)) {
		t.Helper()
		began := time.Now()
		got, err := greeted(dial)
		if err != nil || got != "hello, who are you?\nI am x\n" {
			t.Errorf("%s: %q, %v; the client's proxy logged %q, the server's %q", what, got, err, client.Logged(), db.Logged())
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: it took %v", what, took)
		}
	}
	outside := func(port int) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", db.IP(), port))
		}
	}
	for i := range 3 {
		hear(fmt.Sprint("outside ", i), outside(5432))
		hear(fmt.Sprint("outside, undeclared ", i), outside(5433))
		hear(fmt.Sprint("inside ", i), dialer(client, "db:5432"))
	}
	for _, line := range client.AccessLog("outbound|5432||db") {
		if !strings.Contains(line, "via_upstream") && strings.Contains(line, " UF") {
			t.Errorf("the caller logged %s", line)
		}
	}
	m.Config("rule.yaml", destinationRule("db", "{host: db, trafficPolicy: {tls: {mode: DISABLE}}}"))
	// Known by now to speak TLS, the client is waited for once.
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if c, err := client.Dial(short, "db:5432"); err == nil {
		deadline, _ := short.Deadline()
		c.SetDeadline(deadline)
		io.ReadAll(c)
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	m.Eventually("the plaintext client is served", func() error {
		_, err := greeted(dialer(client, "db:5432"))
		return err
	})
	hear("plaintext from the mesh", dialer(client, "db:5432"))
	hear("plaintext from the mesh, another client", outside(5432))
	m.Remove("rule.yaml")
	m.Eventually("TLS again", func() error {
		_, err := greeted(dialer(late, "db:5432"))
		return err
	})
	hear("TLS again", dialer(client, "db:5432"))
	hear("from a workload never seen before", dialer(late, "db:5432"))
}

// greet listens at addr, greets, and answers one line.
func greet(t *testing.T, addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, "hello, who are you?\n")
				name, err := bufio.NewReader(c).ReadString('\n')
				if err == nil {
					fmt.Fprint(c, "I am ", name)
				}
			}()
		}
	}()
}

// greeted waits for the greeting before it says a word, and returns what was said.
func greeted(dial func(context.Context) (net.Conn, error)) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	r := bufio.NewReader(c)
	first, err := r.ReadString('\n')
	if err != nil {
		return first, err
	}
	if _, err := io.WriteString(c, "x\n"); err != nil {
		return first, err
	}
	second, err := r.ReadString('\n')
	return first + second, err
}
