package listener

import (
	"bytes"
	"errors"
)

// maxHello is the longest ClientHello that is looked at, as in Envoy. With
// post-quantum key shares one has about 1.7 KB.
const maxHello = 16 << 10

// handshakeRecord is the first byte of TLS: the record's type (RFC 8446, section 5.1).
const handshakeRecord = 22

// greeting is what a ClientHello reveals before the handshake.
type greeting struct {
	sni  []byte   // host name, "" if not sent
	alpn [][]byte // in the client's order
}

var (
	errShort  = errors.New("more bytes are needed")
	errNoTLS  = errors.New("not a TLS ClientHello")
	errBroken = errors.New("a broken ClientHello")
)

// parseHello reads a ClientHello (RFC 8446, section 4.1.2) off the beginning of a
// connection. It returns errShort until it is complete, errNoTLS as soon as it
// cannot become one, errBroken for a damaged or too long one. scratch is for a hello
// in several records; what is returned may point into it or into b. h's alpn is reused.
func parseHello(b, scratch []byte, h *greeting) error {
	msg, err := firstMessage(b, scratch)
	if err != nil {
		return err
	}
	r := reader(msg)
	// legacy_version, random, session id, cipher suites, compression methods
	if !r.skip(2+32) || !r.skipVector(1) || !r.skipVector(2) || !r.skipVector(1) {
		return errBroken
	}
	h.sni, h.alpn = nil, h.alpn[:0]
	if len(r) == 0 {
		return nil // no extensions: allowed before TLS 1.3
	}
	extensions, ok := r.vector(2)
	if !ok || len(r) != 0 {
		return errBroken
	}
	for len(extensions) > 0 {
		typ, ok1 := extensions.number(2)
		body, ok2 := extensions.vector(2)
		if !ok1 || !ok2 {
			return errBroken
		}
		switch typ {
		case 0: // server_name, RFC 6066 section 3
			if !h.readServerName(body) {
				return errBroken
			}
		case 16: // application_layer_protocol_negotiation, RFC 7301
			list, ok := body.vector(2)
			if !ok || len(body) != 0 {
				return errBroken
			}
			for len(list) > 0 {
				p, ok := list.vector(1)
				if !ok || len(p) == 0 || len(h.alpn) >= 64 {
					return errBroken
				}
				h.alpn = append(h.alpn, p)
			}
		}
	}
	return nil
}

func (h *greeting) readServerName(body reader) bool {
	list, ok := body.vector(2)
	if !ok || len(body) != 0 {
		return false
	}
	for len(list) > 0 {
		typ, ok1 := list.number(1)
		name, ok2 := list.vector(2)
		if !ok1 || !ok2 {
			return false
		}
		if typ == 0 && h.sni == nil {
			if len(name) == 0 || len(name) > 255 || bytes.IndexByte(name, 0) >= 0 {
				return false
			}
			h.sni = name
		}
	}
	return true
}

// firstMessage is the body of the handshake message that b begins with, which may be
// spread over several records.
func firstMessage(b, scratch []byte) ([]byte, error) {
	scratch = scratch[:0]
	for first := true; ; first = false {
		if len(b) == 0 {
			return nil, errShort
		}
		// A record: type 22, version 3.x, length. Decide by the first wrong byte.
		if b[0] != handshakeRecord || len(b) > 1 && b[1] != 3 {
			if first {
				return nil, errNoTLS
			}
			return nil, errBroken
		}
		if len(b) < 5 {
			return nil, errShort
		}
		n := int(b[3])<<8 | int(b[4])
		if n == 0 || n > 16<<10 {
			return nil, errBroken
		}
		part := b[5:min(5+n, len(b))]
		whole := len(part) == n
		if first {
			if len(part) > 0 && part[0] != 1 { // client_hello
				return nil, errNoTLS
			}
			if msg, done, err := message(part); done || err != nil {
				return msg, err
			}
		} else if len(scratch)+len(part) > maxHello {
			return nil, errBroken
		}
		if !whole {
			return nil, errShort
		}
		scratch = append(scratch, part...)
		if msg, done, err := message(scratch); done || err != nil {
			return msg, err
		}
		b = b[5+n:]
	}
}

// message takes the body of a handshake message off b, if b holds all of it.
func message(b []byte) (body []byte, done bool, err error) {
	if len(b) < 4 {
		return nil, false, nil
	}
	n := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	if n > maxHello {
		return nil, false, errBroken
	}
	if len(b) < 4+n {
		return nil, false, nil
	}
	return b[4 : 4+n], true, nil
}

// reader takes numbers and vectors off the front of itself.
type reader []byte

func (r *reader) skip(n int) bool {
	if len(*r) < n {
		return false
	}
	*r = (*r)[n:]
	return true
}

func (r *reader) number(bytes int) (n int, ok bool) {
	if len(*r) < bytes {
		return 0, false
	}
	for _, b := range (*r)[:bytes] {
		n = n<<8 | int(b)
	}
	*r = (*r)[bytes:]
	return n, true
}

func (r *reader) vector(lengthBytes int) (reader, bool) {
	n, ok := r.number(lengthBytes)
	if !ok || len(*r) < n {
		return nil, false
	}
	v := (*r)[:n]
	*r = (*r)[n:]
	return v, true
}

func (r *reader) skipVector(lengthBytes int) bool {
	_, ok := r.vector(lengthBytes)
	return ok
}
