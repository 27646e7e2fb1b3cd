// Package proxyproto reads and writes the header of the PROXY protocol, versions 1 and 2,
// by which a load balancer tells at the beginning of a connection on whose behalf it
// connects (proxy-protocol.txt of HAProxy, 2020/03/05).
//
// Bytes in, a Header out, and the reverse: no socket, no clock, no state, so every
// goroutine may call it. proxy/listener reads headers, proxy/tcp and proxy/http have
// proxy/conn write them.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
)

// Version of the protocol; None is its absence.
type Version uint8

// Versions.
const (
	None Version = iota
	V1           // text
	V2           // binary
)

// Header is what a header says.
type Header struct {
	Version Version
	// Source and Destination are the client's address and the one it connected to. Both
	// are invalid where the connection is the sender's own (LOCAL, UNKNOWN) or its
	// addresses cannot be expressed (Unix sockets): its real ones are to be used.
	Source, Destination netip.AddrPort
}

var (
	// ErrShort says that more bytes are needed.
	ErrShort = errors.New("more bytes are needed")
	// ErrNone says that the connection does not begin with a header.
	ErrNone = errors.New("the connection does not begin with a PROXY protocol header")
)

const (
	prefix1    = "PROXY "
	prefix2    = "\r\n\r\n\x00\r\nQUIT\n"
	maxHeader1 = 107 // with CRLF, by section 2.1
	head2      = 16  // prefix, version and command, family, length
	// maxHeader2 bounds what a peer can make us hold; headers with the names of a TLS
	// client have a few hundred bytes.
	maxHeader2 = 4 << 10
)

// Parse reads the header that b begins with, and its length.
func Parse(b []byte) (h Header, n int, err error) {
	switch {
	case begins(b, prefix2):
		if len(b) < len(prefix2) {
			return h, 0, ErrShort
		}
		return parse2(b)
	case begins(b, prefix1):
		return parse1(b)
	}
	return h, 0, ErrNone
}

// begins reports whether b begins with prefix or may still come to.
func begins(b []byte, prefix string) bool {
	n := min(len(b), len(prefix))
	return string(b[:n]) == prefix[:n]
}

func parse1(b []byte) (h Header, n int, err error) {
	h.Version = V1
	end := bytes.IndexByte(b[:min(len(b), maxHeader1)], '\n')
	switch {
	case end < 0 && len(b) >= maxHeader1:
		return h, 0, fmt.Errorf("PROXY protocol: a line of more than %d bytes", maxHeader1)
	case end < 0:
		return h, 0, ErrShort
	case end == 0 || b[end-1] != '\r':
		return h, 0, errors.New("PROXY protocol: the line does not end with CR LF")
	}
	n = end + 1
	fields := bytes.Split(b[len(prefix1):end-1], []byte{' '})
	family := string(fields[0])
	if family == "UNKNOWN" {
		return h, n, nil // whatever follows is to be ignored
	}
	if family != "TCP4" && family != "TCP6" {
		return h, 0, fmt.Errorf("PROXY protocol: %.16q is neither TCP4, TCP6 nor UNKNOWN", family)
	}
	if len(fields) != 5 {
		return h, 0, fmt.Errorf("PROXY protocol: the line has %d fields after PROXY, want 5", len(fields))
	}
	if h.Source, err = address(fields[1], fields[3], family); err == nil {
		h.Destination, err = address(fields[2], fields[4], family)
	}
	if err != nil {
		return h, 0, err
	}
	return h, n, nil
}

func address(ip, port []byte, family string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(string(ip))
	if err != nil || a.Is4() != (family == "TCP4") || a.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("PROXY protocol: %.48q is not an address of %s", ip, family)
	}
	p := 0
	for i, c := range port {
		if c < '0' || c > '9' || i > 0 && p == 0 || i > 4 {
			p = -1
			break
		}
		p = p*10 + int(c-'0')
	}
	if len(port) == 0 || p < 0 || p > 65535 {
		return netip.AddrPort{}, fmt.Errorf("PROXY protocol: %.16q is not a port", port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// Commands, families and the one checked TLV of version 2.
const (
	local, proxied       = 0, 1
	unspec, tcp4, tcp6   = 0x00, 0x11, 0x21
	unixStream           = 0x31
	length4, length6     = 12, 36
	lengthUnix           = 216
	tlvCRC32C, headerTLV = 0x03, 3
)

func parse2(b []byte) (h Header, n int, err error) {
	h.Version = V2
	if len(b) < head2 {
		return h, 0, ErrShort
	}
	if b[12]>>4 != 2 {
		return h, 0, fmt.Errorf("PROXY protocol: version %d is not supported", b[12]>>4)
	}
	command := b[12] & 15
	if command > proxied {
		return h, 0, fmt.Errorf("PROXY protocol: command %d is not supported", command)
	}
	n = head2 + int(binary.BigEndian.Uint16(b[14:]))
	if n > maxHeader2 {
		return h, 0, fmt.Errorf("PROXY protocol: a header of %d bytes, at most %d are read", n, maxHeader2)
	}
	if len(b) < n {
		return h, 0, ErrShort
	}
	body, size := b[head2:n], 0
	switch b[13] {
	case unspec:
		// Nothing is said of how long an address is, so there is none.
		return h, n, nil
	case tcp4:
		size = length4
	case tcp6:
		size = length6
	case unixStream:
		size = lengthUnix
	default:
		if command == local {
			return h, n, nil // the receiver must ignore the family
		}
		return h, 0, fmt.Errorf("PROXY protocol: family and transport %#02x are not those of a stream", b[13])
	}
	if len(body) < size {
		return h, 0, fmt.Errorf("PROXY protocol: %d bytes of addresses, want %d", len(body), size)
	}
	if err := checkTLVs(b[:n], head2+size); err != nil {
		return h, 0, err
	}
	if command == local || b[13] == unixStream {
		return h, n, nil
	}
	ports := body[size-4:]
	half := (size - 4) / 2
	src, _ := netip.AddrFromSlice(body[:half])
	dst, _ := netip.AddrFromSlice(body[half : 2*half])
	h.Source = netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(ports))
	h.Destination = netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	return h, n, nil
}

// checkTLVs looks at what follows the addresses, of which only a checksum matters here.
func checkTLVs(b []byte, at int) error {
	for at < len(b) {
		if len(b)-at < headerTLV {
			return errors.New("PROXY protocol: a type-length-value is cut short")
		}
		size := int(binary.BigEndian.Uint16(b[at+1:]))
		value := at + headerTLV
		if len(b)-value < size {
			return errors.New("PROXY protocol: a type-length-value is cut short")
		}
		if b[at] == tlvCRC32C {
			if size != 4 {
				return fmt.Errorf("PROXY protocol: a checksum of %d bytes", size)
			}
			table := crc32.MakeTable(crc32.Castagnoli)
			sum := crc32.Update(0, table, b[:value])
			sum = crc32.Update(sum, table, []byte{0, 0, 0, 0}) // computed as if it were 0
			sum = crc32.Update(sum, table, b[value+4:])
			if sum != binary.BigEndian.Uint32(b[value:]) {
				return errors.New("PROXY protocol: the checksum is wrong")
			}
		}
		at = value + size
	}
	return nil
}

// Append writes a header of version v that names src and dst; where one is invalid, as
// with Unix sockets, the header says that nothing is known (UNKNOWN, LOCAL).
func Append(b []byte, v Version, src, dst netip.AddrPort) []byte {
	known := src.IsValid() && dst.IsValid()
	s, d := src.Addr().Unmap().WithZone(""), dst.Addr().Unmap().WithZone("")
	ip4 := known && s.Is4() && d.Is4()
	if v == V1 {
		b = append(b, prefix1...)
		switch {
		case !known:
			return append(b, "UNKNOWN\r\n"...)
		case ip4:
			b = append(b, "TCP4 "...)
		default:
			// Families must not be mixed: IPv4 is written as mapped.
			s, d = netip.AddrFrom16(s.As16()), netip.AddrFrom16(d.As16())
			b = append(b, "TCP6 "...)
		}
		b = append(s.AppendTo(b), ' ')
		b = append(d.AppendTo(b), ' ')
		return fmt.Appendf(b, "%d %d\r\n", src.Port(), dst.Port())
	}
	b = append(b, prefix2...)
	switch {
	case !known:
		return append(b, 2<<4|local, unspec, 0, 0)
	case ip4:
		b = append(b, 2<<4|proxied, tcp4, 0, length4)
		s4, d4 := s.As4(), d.As4()
		b = append(append(b, s4[:]...), d4[:]...)
	default:
		b = append(b, 2<<4|proxied, tcp6, 0, length6)
		s6, d6 := s.As16(), d.As16()
		b = append(append(b, s6[:]...), d6[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}
