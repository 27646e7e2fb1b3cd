package control

import (
	"net"
	"slices"
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
		creds := inTurn{s, make(chan struct{}, 1)}
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
