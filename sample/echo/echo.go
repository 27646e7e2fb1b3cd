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
	"sync/atomic"
	"syscall"
	"time"
)

// finishTimeout bounds how long an exchange may go on after its server's context
// has ended: less than the 30 s after which Kubernetes kills.
const finishTimeout = 25 * time.Second

// lingerTimeout is how long a closed connection waits for its peer's end.
const lingerTimeout = 5 * time.Second

// acceptRetry is the pause after running out of descriptors, as in net/http.
const acceptRetry = 50 * time.Millisecond

// serve accepts until ctx ends, then waits for the connections. handle is told
// the connection's number, from 1, and closes it. It owns ln.
func serve(ctx context.Context, ln net.Listener, handle func(ctx context.Context, conn net.Conn, number uint64)) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	var (
		connections sync.WaitGroup
		number      atomic.Uint64
	)
	defer connections.Wait()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			select {
			case <-ctx.Done():
			case <-time.After(acceptRetry):
			}
			continue
		case err != nil:
			return fmt.Errorf("accepting on %s: %w", ln.Addr(), err)
		}
		n := number.Add(1)
		connections.Go(func() {
			defer conn.Close()
			var cut atomic.Pointer[time.Timer]
			defer context.AfterFunc(ctx, func() {
				cut.Store(time.AfterFunc(finishTimeout, func() { conn.Close() }))
			})()
			defer func() {
				if t := cut.Load(); t != nil {
					t.Stop()
				}
			}()
			handle(ctx, conn, n)
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
