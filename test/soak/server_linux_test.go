package soak_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// resetWord is what the application answers by a reset, if a connection begins with it.
const resetWord = "reset!"

// server is the application behind the mixed traffic.
type server struct {
	roots *tls.Config // of clients
	cert  string      // the file they are in

	http  []*http.Server
	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newServer(t *testing.T, w *mesh.Workload) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{cert: filepath.Join(dir, "cert.pem"), conns: map[net.Conn]bool{}}
	s.roots = &tls.Config{RootCAs: certificate(t, dir), ServerName: "soak"}
	pair, err := tls.LoadX509KeyPair(s.cert, filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	listen := func(port uint16) net.Listener {
		l, err := net.Listen("tcp", w.App(port).String())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	for port, http2 := range map[uint16]bool{8080: false, 8081: true} {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetUnencryptedHTTP2(http2)
		h := &http.Server{Handler: http.HandlerFunc(s.serve), Protocols: protocols, ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.note(c, true)
			case http.StateClosed: // serve keeps an eye on what is hijacked
				s.note(c, false)
			}
		}}
		if http2 {
			h.IdleTimeout = time.Second // it says GOAWAY, so that nobody is surprised
		}
		s.http = append(s.http, h)
		l := listen(port)
		running.Go(func() { _ = h.Serve(l) })
		t.Cleanup(func() { _ = h.Close() })
	}
	for _, l := range []net.Listener{listen(9000), tls.NewListener(listen(9443), &tls.Config{Certificates: []tls.Certificate{pair}})} {
		running.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				s.note(c, true)
				running.Go(func() {
					defer s.note(c, false)
					defer c.Close()
					var first [len(resetWord)]byte
					n, _ := io.ReadFull(c, first[:])
					if t, ok := c.(*net.TCPConn); ok && string(first[:n]) == resetWord {
						_ = t.SetLinger(0)
						return
					}
					if _, err := c.Write(first[:n]); err == nil {
						_, _ = io.Copy(c, c)
					}
				})
			}
		})
		t.Cleanup(func() { _ = l.Close() })
	}
	return s
}

func (s *server) note(c net.Conn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.conns[c] = true
	} else {
		delete(s.conns, c)
	}
}

// closeIdle ends connections of HTTP/1.1 that carry nothing. The pool of the inbound side would keep them for an hour.
func (s *server) closeIdle() {
	for _, h := range s.http {
		h.SetKeepAlivesEnabled(false)
		h.SetKeepAlivesEnabled(true)
	}
}

// open is the number of open connections.
func (s *server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *server) serve(w http.ResponseWriter, q *http.Request) {
	switch q.URL.Path {
	case "/large":
		w.Header().Set("Content-Length", strconv.Itoa(large))
		_, _ = io.Copy(w, &pattern{left: large})
	case "/echo":
		if q.ContentLength >= 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(q.ContentLength, 10))
		} else {
			w.Header().Set("Content-Type", q.Header.Get("Content-Type"))
			w.Header().Set("Trailer", "Grpc-Status")
		}
		flush := http.NewResponseController(w)
		_ = flush.EnableFullDuplex()
		if q.ProtoMajor == 2 {
			_ = flush.Flush() // the caller waits for it before it speaks
		}
		buf := make([]byte, 16<<10)
		for {
			n, err := q.Body.Read(buf)
			if n > 0 {
				if _, err := w.Write(buf[:n]); err != nil {
					return
				}
				if q.ProtoMajor == 2 {
					_ = flush.Flush()
				}
			}
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
	case "/websocket":
		c, b, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer s.note(c, false)
		defer c.Close()
		_, err = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		if err == nil {
			_, _ = io.Copy(c, b)
		}
	case "/reset":
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			defer s.note(c, false)
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	case "/abort":
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(make([]byte, 50_000))
		panic(http.ErrAbortHandler)
	default:
		_, _ = io.WriteString(w, "here")
	}
}
