package tls

import (
	stdtls "crypto/tls"
	"io"
)

// bio seals and opens records with crypto/tls over memory: TLS 1.2, cipher suites that
// Weir has no code for, and everything where Records says so. It allocates 24 bytes for a
// record it opens (as of Go 1.26).
type bio struct {
	tc *stdtls.Conn
	w  *wire
}

func (b *bio) open(dst, record []byte) (n int, pending bool, err error) {
	b.w.record = record
	for n < len(dst) {
		k, err := b.tc.Read(dst[n:])
		n += k
		if err == errAgain {
			return n, false, nil
		}
		if err == io.EOF {
			return n, false, io.EOF
		}
		if err != nil {
			return n, false, classify(err)
		}
		if len(b.w.record) == 0 && n < len(dst) {
			// The record is used up and Read left room, so nothing is pending; asking
			// again would only make crypto/tls look for the next header.
			return n, false, nil
		}
	}
	return n, true, nil
}

func (b *bio) seal(dst, plain []byte) ([]byte, error) {
	b.w.sealed = append(dst, b.w.sealed...)
	_, err := b.tc.Write(plain)
	dst, b.w.sealed = b.w.sealed, nil
	if err != nil {
		return dst, classify(err)
	}
	return dst, nil
}

func (b *bio) sealEnd(dst []byte) []byte {
	b.w.sealed = append(dst, b.w.sealed...)
	b.tc.CloseWrite() // fails only if an alert was sent already
	dst, b.w.sealed = b.w.sealed, nil
	return dst
}

func (b *bio) take(dst []byte) []byte {
	dst = append(dst, b.w.sealed...)
	b.w.sealed = nil
	return dst
}

func (b *bio) owes() bool { return len(b.w.sealed) > 0 }

func (*bio) forget() {}
