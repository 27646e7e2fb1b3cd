package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/internal/memnet"
)

func TestBytesArriveInOrderUnderBackPressure(t *testing.T) {
	a, b := memnet.Pipe()
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		a.Write(want)
		a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes and %v, want %d", len(got), err, len(want))
	}
}

func TestBothSidesMayWriteFirst(t *testing.T) {
	a, b := memnet.Pipe()
	for _, c := range []net.Conn{a, b} {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClose(t *testing.T) {
	a, b := memnet.Pipe()
	a.Write([]byte("last"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || string(got) != "last" {
		t.Errorf("peer read %q and %v, want what was written before the close", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write to a closed peer gives %v, want EPIPE", err)
	}
	_, rerr := a.Read(make([]byte, 1))
	_, werr := a.Write([]byte("x"))
	for op, err := range map[string]error{"read": rerr, "write": werr, "close": a.Close()} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after close gives %v, want net.ErrClosed", op, err)
		}
	}
}

func TestCloseWriteKeepsReading(t *testing.T) {
	a, b := memnet.Pipe()
	if err := a.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read gives %v, want io.EOF", err)
	}
	b.Write([]byte("answer"))
	b.Close()
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Errorf("read %q and %v", got, err)
	}
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		defer a.Close()
		defer b.Close()
		start := time.Now()
		a.SetDeadline(start.Add(3 * time.Second))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("read gives %v after %v", err, time.Since(start))
		}
		n, err := a.Write(make([]byte, 1<<20))
		if nerr := net.Error(nil); !errors.As(err, &nerr) || !nerr.Timeout() || n != 0 {
			t.Errorf("write after the deadline gives %d, %v", n, err)
		}

		a.SetDeadline(time.Time{})
		time.AfterFunc(1*time.Minute, func() { b.Write([]byte("x")) })
		time.AfterFunc(2*time.Minute, func() { a.SetReadDeadline(time.Now()) })
		if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("read without a deadline gives %d, %v", n, err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a deadline set while reading gives %v", err)
		}

		a.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := a.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 1<<20 {
			t.Errorf("write into a full buffer gives %d, %v", n, err)
		}
	})
}

func TestListener(t *testing.T) {
	var n memnet.Network
	ctx := context.Background()
	if _, err := n.DialContext(ctx, "tcp", "here:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial without a listener gives %v", err)
	}
	l, err := n.Listen("here:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen("here:1"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listen gives %v", err)
	}
	waiting, err := n.DialContext(ctx, "tcp", "here:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a connection nobody accepted gives %v, want io.EOF", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close gives %v", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close gives %v", err)
	}
	if _, err := n.DialContext(ctx, "tcp", "here:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after close gives %v", err)
	}
	if l, err = n.Listen("here:1"); err != nil {
		t.Errorf("listen again gives %v", err)
	} else {
		l.Close()
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := n.DialContext(over, "tcp", "here:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("dial with a cancelled context gives %v", err)
	}
}

// An honest user of net.Conn: net/http on both sides, inside a bubble.
func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n memnet.Network
		l, err := n.Listen("web:80")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Write(body)
		})}
		go s.Serve(l)
		defer s.Close()
		tr := &http.Transport{DialContext: n.DialContext}
		defer tr.CloseIdleConnections()
		client := &http.Client{Transport: tr}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				body := strings.Repeat(fmt.Sprint(i), 100_000)
				res, err := client.Post("http://web:80/", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if got, err := io.ReadAll(res.Body); err != nil || string(got) != body {
					t.Errorf("echo %d: %d bytes, %v", i, len(got), err)
				}
			})
		}
		wg.Wait()
	})
}
