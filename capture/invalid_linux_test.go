package capture_test

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/nft"
)

// A segment with SYN and FIN belongs to no connection and begins none: it is answered
// with a reset, unless such packets are dropped.
func invalidPackets(t *testing.T, w *world) {
	const (
		port, closed = 40000, 4
		fin, syn     = 1, 2
	)
	for _, drop := range []bool{false, true} {
		c := capture.Default()
		c.DropInvalid, c.Inbound = drop, capture.Inbound{}
		r, err := capture.Rules(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := nft.Apply(r); err != nil {
			t.Fatal(err)
		}
		var answered []uint16
		err = w.outside.do(func() error {
			raw, err := net.ListenPacket("ip4:tcp", outside4)
			if err != nil {
				return err
			}
			defer raw.Close()
			to := &net.IPAddr{IP: net.ParseIP(pod4)}
			// The second, an ordinary SYN, is answered in any case: then nothing else will come.
			for i, flags := range []byte{syn | fin, syn} {
				if _, err := raw.WriteTo(segment(port+uint16(i), closed, flags), to); err != nil {
					return err
				}
			}
			if err := raw.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				return err
			}
			for b := make([]byte, 1500); ; {
				n, _, err := raw.ReadFrom(b)
				if err != nil {
					return err
				}
				if n < 20 || binary.BigEndian.Uint16(b) != closed {
					continue
				}
				dst := binary.BigEndian.Uint16(b[2:])
				answered = append(answered, dst-port)
				if dst == port+1 {
					return nil
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{false: 2, true: 1}[drop]; len(answered) != want {
			t.Errorf("drop %v: answers to segments %v, want %d", drop, answered, want)
		}
		if err := nft.Remove(r); err != nil {
			t.Fatal(err)
		}
	}
}

// segment is a TCP header (RFC 9293) from outside to the pod.
func segment(src, dst uint16, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 1024)
	pseudo := append(append(net.ParseIP(outside4).To4(), net.ParseIP(pod4).To4()...), 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	var sum uint32
	for _, part := range [][]byte{pseudo, b} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[16:], ^uint16(sum))
	return b
}
