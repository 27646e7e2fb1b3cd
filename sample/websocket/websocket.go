// Package websocket is a workload that says over WebSockets what it is told, and another that holds many of them open and says
// which were lost.
//
// Listeners or Options enter; lines for people and machines leave on Options.Out. A server that ends tells every client so (status
// 1001); a client counts that as left, and any other end, or an answer that does not come, as lost. Serve and Hold run until their
// context ends; calls are independent of each other.
package websocket

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the protocol's, and no secret
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Opcodes of frames, and the status of a server that ends (RFC 6455, 5.2 and 7.4.1).
const (
	text      = 1
	closing   = 8
	ping      = 9
	pong      = 10
	goingAway = 1001
)

// longest is what a message may have: those who call us send a word.
const longest = 4 << 10

// accept is the server's answer to a client's key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// write sends one frame; what clients send is masked.
func write(w io.Writer, opcode byte, payload []byte, masked bool) error {
	b := []byte{0x80 | opcode, byte(len(payload))}
	if len(payload) > 125 {
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	var mask [4]byte
	if masked {
		_, _ = rand.Read(mask[:]) // never fails
		b[1] |= 0x80
		b = append(b, mask[:]...)
	}
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	_, err := w.Write(b)
	return err
}

// read takes one whole message, or a frame that controls; masked says whether it has to be.
func read(r *bufio.Reader, masked bool) (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[0]&0xf0 != 0x80 {
		return 0, nil, fmt.Errorf("a frame begins with %#x: extensions and fragments are not spoken here", head[0])
	}
	if head[1]&0x80 != 0 != masked {
		return 0, nil, fmt.Errorf("a frame is masked: %t, want %t", !masked, masked)
	}
	n := int(head[1] & 0x7f)
	if n == 127 {
		return 0, nil, fmt.Errorf("a message has more than %d bytes", longest)
	}
	if n == 126 {
		var long [2]byte
		if _, err := io.ReadFull(r, long[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(long[:]))
	}
	if n > longest {
		return 0, nil, fmt.Errorf("a message has %d bytes, of %d at most", n, longest)
	}
	var mask [4]byte
	if masked {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, nil
}

// Serve answers on all listeners, which it owns, until ctx ends; then every client is told.
func Serve(ctx context.Context, lns []net.Listener) error {
	var open sync.WaitGroup
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Sec-WebSocket-Key")
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || key == "" {
			http.Error(w, "this is a server of WebSockets", http.StatusUpgradeRequired)
			return
		}
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		open.Go(func() {
			defer conn.Close()
			answer(ctx, conn, both.Reader, key)
		})
	})}
	failed := make(chan error, len(lns))
	for _, ln := range lns {
		go func() { failed <- srv.Serve(ln) }()
	}
	select {
	case err := <-failed:
		_ = srv.Close()
		return err
	case <-ctx.Done():
	}
	_ = srv.Close()
	open.Wait()
	return nil
}

// answer serves one client.
func answer(ctx context.Context, conn net.Conn, r *bufio.Reader, key string) {
	var mu sync.Mutex // of what is written
	send := func(opcode byte, payload []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		return write(conn, opcode, payload, false) == nil
	}
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(key)); err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() {
		send(closing, binary.BigEndian.AppendUint16(nil, goingAway))
		_ = conn.SetReadDeadline(time.Now().Add(time.Second)) // for the client's close
	})()
	for {
		opcode, payload, err := read(r, true)
		if err != nil {
			return
		}
		switch opcode {
		case text:
		case ping:
			opcode = pong
		default:
			return
		}
		if !send(opcode, payload) {
			return
		}
	}
}

// errLeft is the end of a connection whose server has said that it goes.
var errLeft = errors.New("the server goes")
