package control

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// slowly is a handshake that takes a byte, computes until it is let go on, says so, and takes another.
type slowly struct {
	credentials.TransportCredentials
	begun chan byte
	goOn  chan struct{}
}

func (s slowly) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	b := make([]byte, 1)
	for i := range 2 {
		if _, err := c.Read(b); err != nil {
			return nil, nil, err
		}
		s.begun <- b[0]
		<-s.goOn
		if i == 0 {
			if _, err := c.Write(b); err != nil {
				return nil, nil, err
			}
		}
	}
	return c, nil, nil
}

// As many handshakes are computed as there are places, in the order in which they can be; who says
// nothing, does not listen or goes away keeps nobody waiting; and afterwards the connection is free.
func TestHandshakesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowly{insecure.NewCredentials(), make(chan byte, 9), make(chan struct{})}
		creds := inTurn{s, make(chan struct{}, 1), &perAddress{most: 9}}
		done := make(chan net.Conn, 9)
		clients := map[byte]net.Conn{}
		for _, name := range []byte("abcd") {
			client, server := net.Pipe()
			clients[name] = client
			go func() {
				c, _, err := creds.ServerHandshake(server)
				if err != nil {
					c = nil
				}
				done <- c
			}()
		}
		say := func(name byte) {
			t.Helper()
			go clients[name].Write([]byte{name})
			synctest.Wait()
		}
		computing := func(when string, want string) {
			t.Helper()
			synctest.Wait()
			var got []byte
			for len(s.begun) > 0 {
				got = append(got, <-s.begun)
			}
			if !slices.Equal(got, []byte(want)) {
				t.Errorf("%s: %q begin to compute, want %q", when, got, want)
			}
		}
		goOn := func() { s.goOn <- struct{}{} }
		hear := func(name byte) { clients[name].Read(make([]byte, 1)) }
		// a never says anything.
		say('b')
		computing("the first", "b")
		say('c')
		say('d')
		computing("while it computes", "")
		goOn()
		computing("while its peer does not listen", "c")
		goOn()
		computing("in order", "d")
		clients['c'].Close()
		goOn()
		computing("all wait for their peers", "")
		hear('b')
		say('b')
		computing("its second step", "b")
		goOn()
		synctest.Wait()
		if len(done) != 2 { // c is over, too
			t.Fatalf("%d are over", len(done))
		}
		clients['b'].Close()
		for range 2 {
			if c := <-done; c != nil {
				if n, err := c.Read(make([]byte, 1)); err == nil {
					t.Errorf("read %d bytes from a closed connection", n)
				}
				c.Close()
			}
		}
		for _, name := range []byte("ad") {
			clients[name].Close()
		}
		synctest.Wait()
		if len(creds.places) != 0 {
			t.Error("a place is not given back")
		}
	})
}

// shows is a handshake at whose end certs are known of the peer.
type shows struct {
	credentials.TransportCredentials
	certs []*x509.Certificate
}

func (s shows) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: s.certs}}, nil
}

// From one address there are so many connections without a certificate, and no more until one of them ends, however often it is closed;
// those with one, and other addresses, are not counted.
func TestUnprovenConnectionsAreBounded(t *testing.T) {
	bound := &perAddress{most: 2}
	creds := func(certs ...*x509.Certificate) inTurn {
		return inTurn{shows{insecure.NewCredentials(), certs}, make(chan struct{}, 1), bound}
	}
	connect := func(c inTurn) (net.Conn, error) {
		t.Helper()
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close(); server.Close() })
		secured, _, err := c.ServerHandshake(server)
		return secured, err
	}
	first, err := connect(creds())
	if err != nil {
		t.Fatal(err)
	}
	second, err := connect(creds())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(creds()); err == nil || !strings.Contains(err.Error(), "has 2 connections without a certificate") {
		t.Errorf("a third: %v", err)
	}
	if _, err := connect(creds(&x509.Certificate{})); err != nil {
		t.Errorf("one with a certificate: %v", err)
	}
	if bound.enter(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}) == nil {
		t.Error("another address is refused")
	}
	first.Close()
	first.Close()
	if _, err := connect(creds()); err != nil {
		t.Errorf("after one ended: %v", err)
	}
	if _, err := connect(creds()); err == nil {
		t.Error("who is closed twice counts twice")
	}
	second.Close()
}
