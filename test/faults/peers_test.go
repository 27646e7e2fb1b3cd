package faults

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"reflect"
)

// nobody is an endpoint at whose port nobody listens.
func nobody(net.Conn) {}

// is reports whether two functions without a closure are the same.
func is(a, b func(net.Conn)) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// after reads the head of a request, answers with a text and ends the connection.
func after(answer string, end func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
		end(c)
	}
}

// answers gives every request the same answer.
func answers(text string) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

const (
	ok          = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
	unavailable = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\ndown"
)

// fin and reset are how connections end; silence is one that does not, until its other side has enough.
func fin(c net.Conn)     { _ = c.Close() }
func reset(c net.Conn)   { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }
func silence(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// holder holds what comes until it leaves again, and says that it came.
type holder struct{ came chan struct{} }

func newHolder() *holder { return &holder{make(chan struct{}, 100)} }

func (h *holder) serve(c net.Conn) {
	if _, err := c.Read(make([]byte, 1)); err == nil {
		h.came <- struct{}{}
		silence(c)
	}
}

// retried answers 503, and holds what is tried again.
type retried struct{ *holder }

func (h *retried) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.Header.Get("x-envoy-attempt-count") != "1" {
			h.came <- struct{}{}
			silence(c)
			return
		}
		if _, err := io.WriteString(c, unavailable); err != nil {
			return
		}
	}
}

// unaccepting is an endpoint whose queue of connections is full: further ones are not answered.
func unaccepting(net.Conn) {}
