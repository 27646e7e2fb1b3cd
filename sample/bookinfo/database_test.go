package bookinfo

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
)

// A proxy accepts for a database that is down, so only the database's own words
// count: the check speaks first to MongoDB and listens first to MySQL.
func TestDatabase(t *testing.T) {
	const hello = "\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00" + // head: 52 bytes, request 1, OP_MSG
		"\x00\x00\x00\x00\x00" + "\x1f\x00\x00\x00\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00\x00"
	for _, c := range []struct {
		intention string
		check     func(string) func(context.Context) error
		hears     string
		says      string
		wantErr   string
	}{
		{"mysql greets with protocol version 10", MySQL, "", "\x4a\x00\x00\x00\x0a8.4.0", ""},
		{"mysql has too many connections", MySQL, "", "\x17\x00\x00\x00\xff\x10\x04", "refused"},
		{"nothing is behind the proxy", MySQL, "", "", "waiting for the greeting"},
		{"mongodb answers hello", MongoDB, hello, "\x10\x00\x00\x00\x63\x00\x00\x00\x01\x00\x00\x00\xdd\x07\x00\x00", ""},
		{"nothing is behind the proxy", MongoDB, hello, "", "waiting for the answer"},
		{"a web server", MongoDB, hello, "HTTP/1.1 400 Bad Request\r\n\r\n", "no MongoDB"},
	} {
		t.Run(c.intention, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			heard := make(chan string, 1)
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					heard <- err.Error()
					return
				}
				defer conn.Close()
				buf := make([]byte, len(c.hears))
				io.ReadFull(conn, buf)
				io.WriteString(conn, c.says)
				heard <- string(buf)
			}()
			err = c.check(ln.Addr().String())(t.Context())
			if c.wantErr == "" && err != nil || c.wantErr != "" && (err == nil || !strings.Contains(err.Error(), c.wantErr)) {
				t.Errorf("error %v, want %q", err, c.wantErr)
			}
			if got := <-heard; got != c.hears {
				t.Errorf("the database heard %q, want %q", got, c.hears)
			}
		})
	}
}
