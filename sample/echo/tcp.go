package echo

import (
	"bytes"
	"context"
	"io"
	"net"
	"time"
)

// TCP says what ServeTCP does with a connection. The zero value sends back what
// it receives until the peer ends its direction.
type TCP struct {
	// Prefix is put before every line; with "" lines do not matter.
	Prefix string

	// Banner is sent before anything is read, as in protocols where the server
	// speaks first.
	Banner string

	// CloseAfter ends the connection (FIN) once that many bytes were received and
	// sent back; 0 never.
	CloseAfter int64

	// ResetAfter does so with RST, and sends none of the received bytes back.
	ResetAfter int64

	// Finish is how long connections may go on after the server's context has
	// ended, if they are busy sending; 0 cuts them.
	Finish time.Duration
}

// ServeTCP echoes on ln, which it owns, until ctx ends; connections that are open
// then are closed after the bytes already read are sent back.
func ServeTCP(ctx context.Context, ln net.Listener, o TCP) error {
	return serve(ctx, ln, o.Finish, func(stop, _ context.Context, conn net.Conn, _ uint64) {
		defer context.AfterFunc(stop, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
		o.echo(conn)
	})
}

func (o TCP) echo(conn net.Conn) {
	if o.Banner != "" {
		if _, err := io.WriteString(conn, o.Banner); err != nil {
			return
		}
	}
	var (
		in        = make([]byte, 32<<10)
		out       []byte
		received  int64
		lineBegun bool
	)
	for {
		room := in
		if limit := max(o.CloseAfter, o.ResetAfter); limit > 0 && limit-received < int64(len(room)) {
			room = room[:limit-received]
		}
		n, err := conn.Read(room)
		received += int64(n)
		if o.ResetAfter > 0 {
			if received >= o.ResetAfter {
				reset(conn)
				return
			}
			n = 0
		}
		out, lineBegun = prefix(out[:0], in[:n], o.Prefix, lineBegun)
		if _, err := conn.Write(out); err != nil {
			return
		}
		if err != nil {
			return
		}
		if o.CloseAfter > 0 && received >= o.CloseAfter {
			finish(conn)
			return
		}
	}
}

// prefix appends data to out with p before each line. begun says whether data
// continues a line; whether out's last line is unfinished is returned.
func prefix(out, data []byte, p string, begun bool) ([]byte, bool) {
	if p == "" {
		return append(out, data...), false
	}
	for line := range bytes.Lines(data) {
		if !begun {
			out = append(out, p...)
		}
		out = append(out, line...)
		begun = line[len(line)-1] != '\n'
	}
	return out, begun
}
