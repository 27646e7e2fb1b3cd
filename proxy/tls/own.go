package tls

import (
	"crypto/cipher"
	stdtls "crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// own seals and opens records of TLS 1.3 (RFC 8446, sections 5 and 4.6) on the loop, without
// allocating, with the secrets that crypto/tls agreed on. It belongs to the loop's thread.
type own struct {
	in, out half
	suite   *suite
	client  bool

	sealed  []byte // alerts and KeyUpdates that wait to be sent
	rest    []byte // plaintext that did not fit
	hand    []byte // the beginning of a handshake message
	tickets *tickets

	ended   bool // close_notify or an alert was sealed
	renewed bool // a KeyUpdate waits in sealed: it answers further requests too
	useless int  // records in a row without payload
	limit   uint64
	updates int // KeyUpdates that the peer may send at once
	updated time.Time
	final   error
}

// half is one direction: its secret, its keys and the number of the next record.
type half struct {
	aead   cipher.AEAD
	seq    uint64
	iv     [12]byte
	nonce  [12]byte // of the record under way: here, because arguments of interfaces escape
	secret secret
}

// Record and handshake types, and alerts (RFC 8446, appendix B).
const (
	typeAlert       = 21
	typeHandshake   = 22
	typeApplication = 23

	messageTicket    = 4
	messageKeyUpdate = 24

	alertCloseNotify      = 0
	alertUnexpected       = 10
	alertBadRecord        = 20
	alertRecordOverflow   = 22
	alertIllegalParameter = 47
	alertDecodeError      = 50
	alertInternal         = 80
	alertUserCanceled     = 90
)

const (
	tag           = 16                 // bytes of an AEAD's tag, in all suites
	maxCiphertext = MaxPlaintext + 256 // RFC 8446, section 5.2
	maxMessage    = 64 << 10           // of a handshake message, as in crypto/tls
	maxUseless    = 32                 // records in a row that carry nothing; crypto/tls allows 16

	// A KeyUpdate costs about as much as 20 records: a peer may send updateBurst at once and
	// another one every updateEvery. Nobody changes keys more often than every few gigabytes.
	updateBurst = 32
	updateEvery = time.Second

	// recordsPerKey: AES-GCM is good for 2^24.5 full records (RFC 8446, section 5.5).
	recordsPerKey = 1 << 24
)

// newOwn takes over after a handshake; nil: it cannot (another suite, secrets of another form, an
// AEAD that FIPS mode does not allow), and crypto/tls has to go on.
func newOwn(k *secrets, id uint16, client bool) *own {
	u := suites[id]
	if u == nil || k.clientLen != u.hash.Size() || k.serverLen != u.hash.Size() {
		return nil
	}
	o := &own{suite: u, client: client, limit: math.MaxUint64 - 1, updates: updateBurst}
	if u.rekeys {
		o.limit = recordsPerKey
	}
	o.in.secret, o.out.secret = k.client, k.server
	if client {
		o.in.secret, o.out.secret = k.server, k.client
	}
	if o.in.keys(u) != nil || o.out.keys(u) != nil {
		return nil
	}
	if !client {
		o.out.seq = k.sent
	}
	return o
}

// keys derives key and IV from the secret (RFC 8446, section 7.3); records count from 0 again.
func (h *half) keys(u *suite) error {
	key, err := u.expand(h.secret[:u.hash.Size()], "key", u.key)
	if err != nil {
		return err
	}
	iv, err := u.expand(h.secret[:u.hash.Size()], "iv", len(h.iv))
	if err != nil {
		return err
	}
	copy(h.iv[:], iv)
	h.seq = 0
	h.aead, err = u.aead(key)
	clear(key)
	clear(iv)
	return err
}

// next is the secret after a KeyUpdate (RFC 8446, section 7.2).
func (h *half) next(u *suite) error {
	n := u.hash.Size()
	s, err := u.expand(h.secret[:n], "traffic upd", n)
	if err != nil {
		return err
	}
	copy(h.secret[:], s)
	clear(s)
	return h.keys(u)
}

// number makes the nonce of the next record (RFC 8446, section 5.3).
func (h *half) number() []byte {
	h.nonce = h.iv
	binary.BigEndian.PutUint64(h.nonce[4:], binary.BigEndian.Uint64(h.iv[4:])^h.seq)
	h.seq++
	return h.nonce[:]
}

// seal appends one record.
func (h *half) seal(dst []byte, typ byte, plain []byte) []byte {
	n := len(plain) + 1 + tag
	dst = slices.Grow(dst, RecordHeader+n)
	at := len(dst)
	dst = append(dst, typeApplication, 3, 3, byte(n>>8), byte(n))
	dst = append(dst, plain...)
	dst = append(dst, typ)
	head, inner := dst[at:at+RecordHeader], dst[at+RecordHeader:]
	h.aead.Seal(inner[:0], h.number(), inner, head)
	return dst[:at+RecordHeader+n]
}

func (o *own) seal(dst, plain []byte) ([]byte, error) {
	dst = o.take(dst)
	for len(plain) > 0 {
		if o.final != nil {
			return dst, o.final
		}
		k := min(len(plain), MaxPlaintext)
		dst = o.out.seal(dst, typeApplication, plain[:k])
		plain = plain[k:]
		if o.out.seq >= o.limit {
			if dst = o.renew(dst, false); o.final != nil {
				return dst, o.final
			}
		}
	}
	return dst, nil
}

// renew announces new keys and changes to them.
func (o *own) renew(dst []byte, request bool) []byte {
	msg := [...]byte{messageKeyUpdate, 0, 0, 1, 0}
	if request {
		msg[4] = 1
	}
	dst = o.out.seal(dst, typeHandshake, msg[:])
	if err := o.out.next(o.suite); err != nil {
		o.final = &Error{Reason: Violation, Err: fmt.Errorf("deriving new keys: %w", err)}
	}
	return dst
}

func (o *own) sealEnd(dst []byte) []byte {
	dst = o.take(dst)
	if !o.ended {
		o.ended = true
		dst = o.out.seal(dst, typeAlert, []byte{1, alertCloseNotify})
	}
	return dst
}

func (o *own) take(dst []byte) []byte {
	dst = append(dst, o.sealed...)
	o.sealed, o.renewed = nil, false
	return dst
}

func (o *own) owes() bool { return len(o.sealed) > 0 }

func (o *own) forget() {
	clear(o.in.secret[:])
	clear(o.out.secret[:])
	clear(o.in.iv[:])
	clear(o.out.iv[:])
	clear(o.rest)
	o.in.aead, o.out.aead, o.rest, o.hand, o.tickets = nil, nil, nil, nil, nil
	o.ended, o.final = true, errForgotten
}

var errForgotten = &Error{Reason: Violation, Err: errors.New("the session has ended")}

func (o *own) open(dst, record []byte) (n int, pending bool, err error) {
	if len(o.rest) > 0 {
		n = copy(dst, o.rest)
		clear(o.rest[:n])
		if o.rest = o.rest[n:]; len(o.rest) == 0 {
			o.rest = nil
		}
		return n, o.rest != nil, nil
	}
	if o.final != nil {
		return 0, false, o.final
	}
	size := len(record) - RecordHeader
	switch {
	case size < 0 || RecordLength(record) != len(record):
		return 0, false, o.fail(alertDecodeError, "sent something that is no record")
	case record[0] != typeApplication:
		// Everything is protected now; change_cipher_spec ended with the handshake.
		return 0, false, o.fail(alertUnexpected, "sent a record without protection")
	case size > maxCiphertext:
		return 0, false, o.fail(alertRecordOverflow, "sent a record that is too long")
	case size < 1+tag:
		return 0, false, o.fail(alertBadRecord, "sent a record that is too short to be one")
	}
	into := dst[:0:len(dst)]
	if len(dst) < size-tag {
		into = make([]byte, 0, size-tag)
	}
	inner, err := o.in.aead.Open(into, o.in.number(), record[RecordHeader:], record[:RecordHeader])
	if err != nil {
		return 0, false, o.fail(alertBadRecord, "sent a record that was damaged or is not its own")
	}
	end := len(inner) // of the padding, which is zeros behind the type
	for end > 0 && inner[end-1] == 0 {
		end--
	}
	if end == 0 {
		return 0, false, o.fail(alertUnexpected, "sent a record without a type")
	}
	typ, plain := inner[end-1], inner[:end-1]
	if len(plain) > MaxPlaintext {
		return 0, false, o.fail(alertRecordOverflow, "sent a record that is too long")
	}
	if len(o.hand) > 0 && typ != typeHandshake {
		return 0, false, o.fail(alertUnexpected, "sent other records within a handshake message")
	}
	if typ != typeApplication || len(plain) == 0 {
		if o.useless++; o.useless > maxUseless {
			return 0, false, o.fail(alertUnexpected, "sent too many records that carry nothing")
		}
		return 0, false, o.control(typ, plain, record)
	}
	o.useless = 0
	o.tickets = nil // they come first, or not in time; until then crypto/tls is kept for them
	if o.in.seq%o.limit == 0 && !o.ended {
		// The peer should have changed its keys by now. It is asked each time it has sealed as
		// many records again.
		if o.sealed = o.renew(o.sealed, true); o.final != nil {
			return 0, false, o.final
		}
	}
	if len(plain) <= len(dst) {
		if cap(into) != len(dst) {
			copy(dst, plain)
		}
		return len(plain), false, nil
	}
	n = copy(dst, plain)
	o.rest = plain[n:]
	return n, true, nil
}

// control handles a record that is not payload.
func (o *own) control(typ byte, plain, record []byte) error {
	switch typ {
	case typeApplication: // empty
		return nil
	case typeAlert:
		return o.alert(plain)
	case typeHandshake:
		return o.handshake(plain, record)
	}
	return o.fail(alertUnexpected, fmt.Sprintf("sent a record of the unknown type %d", typ))
}

func (o *own) alert(b []byte) error {
	if len(b) != 2 {
		return o.fail(alertDecodeError, "sent a damaged alert")
	}
	switch b[1] {
	case alertCloseNotify:
		return io.EOF
	case alertUserCanceled: // close_notify follows (RFC 8446, section 6.1)
		return nil
	}
	o.ended = true // nobody is there to hear more
	text := strings.TrimPrefix(stdtls.AlertError(b[1]).Error(), "tls: ")
	o.final = &Error{Reason: RefusedByPeer, Alert: text, Err: stdtls.AlertError(b[1])}
	return o.final
}

// handshake handles messages after the handshake (RFC 8446, section 4.6).
func (o *own) handshake(b, record []byte) error {
	if len(b) == 0 {
		return o.fail(alertUnexpected, "sent an empty handshake record")
	}
	if len(o.hand) > 0 {
		o.hand = append(o.hand, b...)
		b = o.hand
	}
	for len(b) > 0 {
		switch {
		case b[0] == messageKeyUpdate:
			if len(b) > 1 && b[1] != 0 || len(b) > 2 && b[2] != 0 || len(b) > 3 && b[3] != 1 {
				return o.fail(alertDecodeError, "sent a damaged KeyUpdate")
			}
		case b[0] == messageTicket && o.client:
		default:
			return o.fail(alertUnexpected, fmt.Sprintf("sent a handshake message of type %d after the handshake", b[0]))
		}
		if len(b) < 4 {
			break
		}
		size := 4 + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
		if size > maxMessage {
			return o.fail(alertDecodeError, "sent a handshake message that is too long")
		}
		if len(b) < size {
			break
		}
		if b[0] == messageKeyUpdate {
			if len(b) > size {
				return o.fail(alertUnexpected, "sent more under its old keys after a KeyUpdate")
			}
			if err := o.keyUpdate(b[4]); err != nil {
				return err
			}
			record = nil // of no use to crypto/tls any more
		}
		b = b[size:]
	}
	switch {
	case len(b) == 0:
		o.hand = nil
	case len(o.hand) == 0 || &b[0] != &o.hand[0]:
		o.hand = append([]byte(nil), b...)
	}
	if !o.tickets.offer(record) {
		o.tickets = nil
	}
	return nil
}

func (o *own) keyUpdate(request byte) error {
	if request > 1 {
		return o.fail(alertIllegalParameter, "sent a damaged KeyUpdate")
	}
	now := time.Now()
	if back := int(min(now.Sub(o.updated)/updateEvery, updateBurst)); back > 0 {
		o.updates, o.updated = min(o.updates+back, updateBurst), now
	}
	if o.updates--; o.updates < 0 {
		return o.fail(alertUnexpected, "changed its keys too often")
	}
	if err := o.in.next(o.suite); err != nil {
		return o.fail(alertInternal, "sent a KeyUpdate, and deriving new keys failed: "+err.Error())
	}
	if request == 1 && !o.ended && !o.renewed {
		o.sealed, o.renewed = o.renew(o.sealed, false), true
	}
	return o.final
}

// fail ends the session with an alert; text is what the peer did.
func (o *own) fail(alert byte, text string) error {
	if !o.ended {
		o.ended = true
		o.sealed = o.out.seal(o.sealed, typeAlert, []byte{2, alert})
	}
	o.final = &Error{Reason: Violation, Err: errors.New("it " + text)}
	return o.final
}
