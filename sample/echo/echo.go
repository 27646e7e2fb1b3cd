// Package echo is a server that reports what reached it and misbehaves on request.
//
// Connections from any net.Listener enter; over HTTP a report of the request as
// it was on the wire leaves (header order and case kept, which net/http cannot
// tell), over TCP the same bytes. What a client asks for in its query or headers
// (delays, statuses, resets, …: README) is done to that exchange alone. It is
// the back end of data plane tests: it does its own HTTP/1.1, strictly, so that
// it shares no code and no leniency with what it judges.
//
// ServeHTTP and ServeTCP may run on many listeners at once. One goroutine serves
// one connection.
package echo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// lingerTimeout is how long a closed connection waits for its peer's end.
const lingerTimeout = 5 * time.Second

// acceptRetry is the pause after running out of descriptors, as in net/http.
const acceptRetry = 50 * time.Millisecond

// serve accepts until stop ends, then waits for the connections. handle serves one
// connection, which it is given with its number, from 1. When stop ends it should
// come to an end; at the end of life, finish later, the connection is closed under
// it. serve owns ln.
func serve(stop context.Context, ln net.Listener, finish time.Duration, handle func(stop, life context.Context, conn net.Conn, number uint64)) error {
	life, cut := context.WithCancel(context.WithoutCancel(stop))
	defer cut()
	defer context.AfterFunc(stop, func() {
		ln.Close()
		select {
		case <-time.After(finish):
			cut()
		case <-life.Done():
		}
	})()
	defer ln.Close()

	var connections sync.WaitGroup
	defer connections.Wait()
	for number := uint64(1); ; number++ {
		conn, err := ln.Accept()
		switch {
		case stop.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			select {
			case <-stop.Done():
			case <-time.After(acceptRetry):
			}
			continue
		case err != nil:
			cut()
			return fmt.Errorf("accepting on %s: %w", ln.Addr(), err)
		}
		connections.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(life, func() { conn.Close() })()
			handle(stop, life, conn, number)
		})
	}
}

// reset closes conn so that a TCP peer sees RST instead of FIN: with a linger
// time of 0 the kernel discards what it has not sent (tcp(7), SO_LINGER).
func reset(conn net.Conn) {
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
	conn.Close()
}

// finish closes conn so that a TCP peer sees FIN: closing with bytes unread would
// send RST, which may overtake the answer (RFC 9112, 9.6). So it ends our
// direction and reads on, for lingerTimeout at most, until the peer ends its own.
func finish(conn net.Conn) {
	c, ok := conn.(interface{ CloseWrite() error })
	if ok && c.CloseWrite() == nil {
		conn.SetReadDeadline(time.Now().Add(lingerTimeout))
		io.Copy(io.Discard, conn)
	}
	conn.Close()
}
