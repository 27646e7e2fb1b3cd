// Package sockbroker hands sockets from one network namespace to processes in another.
//
// A socket belongs for its whole life to the network namespace it was made in, whoever
// uses it. A [Server] makes sockets where it stands (or where its In function says) and
// sends them, as file descriptors, to a [Client] in another process; the client connects
// them itself, or accepts from them. In the laptop mesh every proxy inherits two client
// connections: one to its workload's namespace, one to the host's.
//
// Connections are SOCK_SEQPACKET socket pairs, so there is no path in any file system to
// guard or to leave behind. What a connection may ask for is fixed when it is made
// ([Rights]). One request is answered by one reply, in order.
//
// Client, Pool and Server are safe for concurrent use. Descriptors are returned
// non-blocking and close-on-exec; the receiver owns them.
package sockbroker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// Kind is what a request asks for.
type Kind uint8

const (
	Stream   Kind = 1 + iota // TCP sockets, neither bound nor connected
	Datagram                 // UDP sockets, neither bound nor connected
	Listen                   // TCP sockets listening on an address
	Bind                     // UDP sockets bound to an address
	fork                     // one more connection to the server
)

func (k Kind) String() string {
	switch k {
	case Stream:
		return "stream"
	case Datagram:
		return "datagram"
	case Listen:
		return "listen"
	case Bind:
		return "bind"
	case fork:
		return "fork"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Family is an address family.
type Family uint8

const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of a; an IPv4 address in IPv6 form is IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Rights is what a connection may ask for beside unconnected sockets.
type Rights uint8

const (
	MayListen Rights = 1 << iota // Listen and Bind, where the server allows the address
	MayFork                      // further connections, with the same rights or fewer
)

// MaxBatch is the most sockets one request may ask for. The kernel's limit for one
// message is 253 (SCM_MAX_FD); this bounds what one request costs the server.
const MaxBatch = 64

// Error is the server's refusal or its failure to make a socket. errors.Is finds the
// errno, as syscall.EADDRINUSE.
type Error struct {
	Errno syscall.Errno
	Text  string
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Unwrap() error { return e.Errno }

// request is one question. On the wire it has 24 bytes, integers in network byte order:
//
//	0 kind  1 family  2 count  3 flags (1: SO_REUSEPORT)  4 rights of a fork
//	5 zero  6..7 port  8..23 address, an IPv4 one in its first four bytes
type request struct {
	kind      Kind
	family    Family
	count     uint8
	reusePort bool
	rights    Rights
	addr      netip.AddrPort // of Listen and Bind
}

const (
	requestSize   = 24
	flagReusePort = 1
)

func (r request) bound() bool { return r.kind == Listen || r.kind == Bind }

func (r request) marshal() []byte {
	b := make([]byte, requestSize)
	b[0], b[1], b[2], b[4] = byte(r.kind), byte(r.family), r.count, byte(r.rights)
	if r.reusePort {
		b[3] = flagReusePort
	}
	if r.bound() {
		binary.BigEndian.PutUint16(b[6:], r.addr.Port())
		copy(b[8:], r.addr.Addr().AsSlice())
	}
	return b
}

func parseRequest(b []byte) (request, error) {
	if len(b) != requestSize {
		return request{}, fmt.Errorf("request of %d bytes, want %d", len(b), requestSize)
	}
	r := request{kind: Kind(b[0]), family: Family(b[1]), count: b[2], reusePort: b[3] == flagReusePort, rights: Rights(b[4])}
	switch {
	case r.kind < Stream || r.kind > fork:
		return request{}, fmt.Errorf("unknown request %v", r.kind)
	case r.kind != fork && r.family != IPv4 && r.family != IPv6:
		return request{}, fmt.Errorf("unknown address family %d", r.family)
	case r.count == 0 || r.count > MaxBatch || r.kind == fork && r.count != 1:
		return request{}, fmt.Errorf("request for %d, want 1 to %d, or 1 connection", r.count, MaxBatch)
	case b[3] > flagReusePort || b[5] != 0:
		return request{}, errors.New("unknown flags")
	case r.rights > MayListen|MayFork:
		return request{}, fmt.Errorf("unknown rights %#x", uint8(r.rights))
	}
	if r.bound() {
		ip := netip.AddrFrom4([4]byte(b[8:12]))
		if r.family == IPv6 {
			ip = netip.AddrFrom16([16]byte(b[8:24]))
		}
		if ip.Is4In6() {
			return request{}, errors.New("an IPv4 address in IPv6 form")
		}
		r.addr = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[6:]))
	}
	return r, nil
}

// A reply has two bytes of errno, 0 for success, and with an error a text. Descriptors
// come beside the bytes.
const (
	replyHead = 2
	maxText   = 512
)

func marshalReply(err error) []byte {
	if err == nil {
		return make([]byte, replyHead)
	}
	errno := syscall.EINVAL
	errors.As(err, &errno)
	text := err.Error()
	return append(binary.BigEndian.AppendUint16(nil, uint16(errno)), text[:min(len(text), maxText)]...)
}

// parseReply returns what the server reports, or that b is no reply.
func parseReply(b []byte) error {
	if len(b) < replyHead || len(b) > replyHead+maxText {
		return fmt.Errorf("reply of %d bytes", len(b))
	}
	errno := syscall.Errno(binary.BigEndian.Uint16(b))
	switch {
	case errno != 0:
		return &Error{Errno: errno, Text: string(b[replyHead:])}
	case len(b) != replyHead:
		return errors.New("reply with a text but no error")
	}
	return nil
}
