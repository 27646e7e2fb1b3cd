package upsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

// Listen opens the socket at path and hands every connection of the same user, or of
// root, to accept, until ctx ends. accept owns the connection and must not block.
func Listen(ctx context.Context, path string, accept func(*net.UnixConn)) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("opening the local API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("opening the local API: %w", err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // a client that went away, or too many descriptors: the next may do
		}
		uid, err := peer(c)
		if err != nil || uid != 0 && uid != os.Geteuid() {
			_ = send(c, reply{Error: "this mesh belongs to another user", Hint: "call as the user who started it"})
			c.Close()
			continue
		}
		accept(c)
	}
}
