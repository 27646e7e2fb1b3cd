package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Options say what Hold opens.
type Options struct {
	URL     string // ws://HOST:PORT/PATH
	Open    int
	Every   time.Duration // between messages on a connection
	Timeout time.Duration // of opening one, and of an answer
	Out     io.Writer
}

// Summary is the last line.
type Summary struct {
	Opened   int `json:"opened"` // connections, those opened anew included
	Left     int `json:"left"`   // ended by the server, which said so
	Lost     int `json:"lost"`   // ended otherwise, or answered late or wrongly
	Refused  int `json:"refused"`
	Messages int `json:"messages"`
}

// told is how many ends of each kind are written.
const told = 50

// opening is how many connections are opened at once.
const opening = 20

type holder struct {
	o       Options
	address string
	path    string
	places  chan struct{}

	mu   sync.Mutex
	s    Summary
	open int
}

// Hold keeps o.Open connections open until ctx ends: one that ends is opened anew. A line says when all are open, and have been answered; also
// when they are again, after how many ends.
func Hold(ctx context.Context, o Options) (Summary, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return Summary{}, err
	}
	if u.Scheme != "ws" || u.Host == "" {
		return Summary{}, fmt.Errorf("%s: want ws://HOST:PORT/PATH", o.URL)
	}
	h := &holder{o: o, address: u.Host, path: u.RequestURI(), places: make(chan struct{}, opening)}
	if u.Port() == "" {
		h.address = net.JoinHostPort(u.Hostname(), "80")
	}
	var all sync.WaitGroup
	for range o.Open {
		all.Go(func() { h.hold(ctx) })
	}
	all.Wait()
	return h.s, json.NewEncoder(o.Out).Encode(h.s)
}

func (h *holder) hold(ctx context.Context) {
	for ctx.Err() == nil {
		err := h.once(ctx)
		if ctx.Err() != nil || errors.Is(err, errLeft) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// note counts, and tells of, what became of a connection.
func (h *holder) note(count *int, what string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *count++; *count <= told {
		fmt.Fprintf(h.o.Out, "%s %s: %v\n", time.Now().UTC().Format("15:04:05.000"), what, err)
	}
}

// once is one connection from its beginning to its end.
func (h *holder) once(ctx context.Context) error {
	h.places <- struct{}{}
	conn, r, err := h.dial(ctx)
	<-h.places
	if err != nil {
		if ctx.Err() == nil {
			h.note(&h.s.Refused, "refused", err)
		}
		return err
	}
	defer conn.Close()
	h.mu.Lock()
	h.s.Opened++
	h.mu.Unlock()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	err = h.talk(ctx, conn, r)
	switch {
	case ctx.Err() != nil:
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_ = write(conn, closing, binary.BigEndian.AppendUint16(nil, goingAway), true)
	case errors.Is(err, errLeft):
		h.note(&h.s.Left, "left", err)
	default:
		h.note(&h.s.Lost, "lost", err)
	}
	return err
}

func (h *holder) dial(ctx context.Context) (conn net.Conn, r *bufio.Reader, err error) {
	conn, err = (&net.Dialer{Timeout: h.o.Timeout}).DialContext(ctx, "tcp", h.address)
	if err != nil {
		return nil, nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(h.o.Timeout))
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	r = bufio.NewReaderSize(conn, 512)
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", h.path, h.address, key)
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(r, nil)
	}
	if err == nil && (resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != accept(key)) {
		err = fmt.Errorf("it is answered with status %d", resp.StatusCode)
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, r, nil
}

// talk says something now and then until the connection ends.
func (h *holder) talk(ctx context.Context, conn net.Conn, r *bufio.Reader) error {
	for n := 0; ; n++ {
		said := fmt.Appendf(nil, "message %d", n)
		_ = conn.SetDeadline(time.Now().Add(h.o.Timeout))
		if err := write(conn, text, said, true); err != nil {
			return h.farewell(r, err)
		}
		opcode, heard, err := read(r, false)
		switch {
		case err != nil:
			return fmt.Errorf("waiting for the answer to message %d: %w", n, err)
		case opcode == closing:
			return ending(heard)
		case opcode != text || !bytes.Equal(heard, said):
			return fmt.Errorf("message %d is answered with %q", n, heard)
		}
		h.mu.Lock()
		h.s.Messages++
		if n == 0 {
			if h.open++; h.open == h.o.Open {
				fmt.Fprintf(h.o.Out, "all %d are open: %d left, %d lost, %d refused before\n", h.open, h.s.Left, h.s.Lost, h.s.Refused)
			}
			defer func() { h.mu.Lock(); h.open--; h.mu.Unlock() }()
		}
		h.mu.Unlock()
		// Until the next message nothing may come but the end.
		_ = conn.SetReadDeadline(time.Now().Add(h.o.Every))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_, err = r.Peek(1)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
	}
}

// farewell is why a connection cannot be written to: its server may have said so before.
func (h *holder) farewell(r *bufio.Reader, err error) error {
	if opcode, heard, readErr := read(r, false); readErr == nil && opcode == closing {
		return ending(heard)
	}
	return err
}

func ending(payload []byte) error {
	if len(payload) >= 2 && binary.BigEndian.Uint16(payload) == goingAway {
		return errLeft
	}
	return fmt.Errorf("it was closed with %x", payload)
}
