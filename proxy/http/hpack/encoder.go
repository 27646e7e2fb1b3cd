package hpack

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/weirmesh/weir/proxy/http/message"
)

// Encoder writes the header blocks of one direction. Init comes first.
//
// What enters the table: a field whose name is known to repeat with its value (policies) at once, any other when it is seen for
// the second time within a while, so that values which never come again push nothing out. Credentials never do (RFC 7541
// section 7.1.3). Huffman code is used where it is shorter.
type Encoder struct {
	table table
	index *index // nil before the first entry
	ours  uint32 // the size we take at most
	low   uint32 // the smallest size since the last block, when update is set
	// update says that the next block must begin with a size update.
	update bool
}

// index finds entries by hash: the newest one of each slot, from which links lead to older ones.
type index struct {
	fields [64]uint32 // number+1; the usual table of 4 KiB has about 50 entries
	names  [32]uint32 // the same by name, where the static table has none
	seen   [32][4]uint32
}

// links make an entry a member of two chains: numbers+1 of the next older entry, which may be gone.
type links struct {
	hash, older, olderName uint32
}

// maxChain bounds the search for what somebody made collide.
const maxChain = 16

// Init begins with an empty table that never becomes larger than size.
func (e *Encoder) Init(size uint32) {
	*e = Encoder{ours: min(size, MaxTableSize)}
	e.table.max = DefaultTableSize
	e.SetLimit(DefaultTableSize)
}

// SetLimit obeys the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *Encoder) SetLimit(n uint32) {
	n = min(n, e.ours)
	if n == e.table.max {
		return
	}
	if !e.update || n < e.low {
		e.low = n
	}
	e.update = true
	e.table.resize(n)
}

// Begin starts a header block.
func (e *Encoder) Begin(dst []byte) []byte {
	if !e.update {
		return dst
	}
	e.update = false
	if e.low < e.table.max {
		dst = appendInteger(dst, 0x20, 5, e.low)
	}
	return appendInteger(dst, 0x20, 5, e.table.max)
}

// Room is how many bytes a field takes at most, BeginRoom what Begin appends at most.
func Room(name, value []byte) int { return len(name) + len(value) + fieldRoom }

const (
	fieldRoom = 1 + 2*5 // the representation, and two lengths or an index and a length
	BeginRoom = 2 * 5
)

// policy is how fields of one name are written.
type policy uint8

const (
	second policy = iota // indexed when seen again
	always               // indexed at once
	plain                // never entered: the value differs nearly every time
	secret               // never indexed, by nobody on the way
)

var policies = func() (t [256]policy) {
	for _, k := range []Kind{Authority, Method, Scheme, Status, Protocol} {
		t[k] = always
	}
	for _, id := range []message.ID{message.Accept, message.AcceptEncoding, message.AcceptLanguage, message.ContentType,
		message.GRPCStatus, message.Server, message.TE, message.UserAgent, message.Vary} {
		t[id] = always
	}
	for _, id := range []message.ID{message.ContentLength, message.ETag, message.IfModifiedSince, message.IfNoneMatch, message.LastModified,
		message.Location, message.Range, message.Traceparent, message.Tracestate, message.XB3ParentSpanID, message.XB3SpanID,
		message.XB3TraceID, message.XEnvoyUpstreamServiceTime, message.XRequestID} {
		t[id] = plain
	}
	for _, id := range []message.ID{message.Authorization, message.ProxyAuthorization} {
		t[id] = secret
	}
	return t
}()

// shortCookie: a cookie below this length may be guessed by trying what compresses.
const shortCookie = 20

// Field appends a regular field.
func (e *Encoder) Field(dst []byte, f *message.Field) []byte {
	k := Kind(f.ID)
	p := policies[k]
	if f.Never || f.ID == message.Cookie && len(f.Value) < shortCookie {
		p = secret
	}
	return e.field(dst, k, f.Name, f.Value, p)
}

// Pseudo appends a pseudo-header; k is not UnknownPseudo.
func (e *Encoder) Pseudo(dst []byte, k Kind, value []byte) []byte {
	return e.field(dst, k, k.constant(), value, policies[k])
}

// Status appends the pseudo-header of a response.
func (e *Encoder) Status(dst []byte, status int) []byte {
	if i := staticStatus(status); i != 0 {
		return append(dst, 0x80|i)
	}
	text := [3]byte{byte('0' + status/100%10), byte('0' + status/10%10), byte('0' + status%10)}
	return e.field(dst, Status, Status.constant(), text[:], always)
}

func staticStatus(status int) uint8 {
	switch status {
	case 200:
		return 8
	case 204:
		return 9
	case 206:
		return 10
	case 304:
		return 11
	case 400:
		return 12
	case 404:
		return 13
	case 500:
		return 14
	}
	return 0
}

// staticFull finds a field in the static table, 0: it is not there. Of its names with values only these have more than one use.
func staticFull(k Kind, value []byte) uint8 {
	switch k {
	case Method:
		switch string(value) {
		case "GET":
			return 2
		case "POST":
			return 3
		}
	case Path:
		switch string(value) {
		case "/":
			return 4
		case "/index.html":
			return 5
		}
	case Scheme:
		switch string(value) {
		case "http":
			return 6
		case "https":
			return 7
		}
	case Kind(message.AcceptEncoding):
		if string(value) == "gzip, deflate" {
			return 16
		}
	}
	return 0
}

func (e *Encoder) field(dst []byte, k Kind, name, value []byte, p policy) []byte {
	if i := staticFull(k, value); i != 0 {
		return append(dst, 0x80|i)
	}
	nameIndex := uint32(staticName[k])
	switch {
	case p == plain && nameIndex != 0:
		return e.literal(dst, 0, 4, nameIndex, name, value)
	case p == secret:
		if nameIndex == 0 {
			nameIndex = e.findName(k, name, hash(k, name, nil))
		}
		return e.literal(dst, 0x10, 4, nameIndex, name, value)
	}
	h := hash(k, name, value)
	if p != plain {
		if i := e.findField(k, name, value, h); i != 0 {
			return appendInteger(dst, 0x80, 7, i)
		}
	}
	nameHash, newName := uint32(0), false
	if nameIndex == 0 {
		nameHash = hash(k, name, nil)
		nameIndex = e.findName(k, name, nameHash)
		newName = nameIndex == 0
	}
	// What takes a third of the table pushes out more than it is worth.
	if uint32(len(name)+len(value)+overhead) > e.table.max/3 || !e.enters(h, nameHash, newName, p) {
		return e.literal(dst, 0, 4, nameIndex, name, value)
	}
	dst = e.literal(dst, 0x40, 6, nameIndex, name, value)
	number := e.table.next
	t := e.table.insert(name, value, k, NoFault)
	slot := &e.index.fields[h%uint32(len(e.index.fields))]
	t.hash, t.older = h, *slot
	*slot = number + 1
	if staticName[k] == 0 {
		slot = &e.index.names[nameHash%uint32(len(e.index.names))]
		t.olderName = *slot
		*slot = number + 1
	}
	return dst
}

// enters decides whether a field that is in no table shall be. A name that is in no table enters with the value of its second
// time, whatever that is, so that later values pay only for themselves.
func (e *Encoder) enters(h, nameHash uint32, newName bool, p policy) bool {
	if e.index == nil {
		e.index = new(index)
	}
	switch {
	case p == always:
		return true
	case newName:
		h = nameHash
	case p == plain:
		return false
	}
	// The last four of a slot, the newest first.
	seen := &e.index.seen[h%uint32(len(e.index.seen))]
	if slices.Contains(seen[:], h) {
		return true
	}
	copy(seen[1:], seen[:])
	seen[0] = h
	return false
}

// findField finds the index of an entry, 0: there is none.
func (e *Encoder) findField(k Kind, name, value []byte, h uint32) uint32 {
	if e.index == nil {
		return 0
	}
	number := e.index.fields[h%uint32(len(e.index.fields))] - 1
	for range maxChain {
		if !e.table.live(number) {
			return 0
		}
		t := e.table.at(number)
		if t.hash == h && t.kind == k && bytes.Equal(e.table.valueOf(t), value) &&
			(k != Kind(message.OtherHeader) || bytes.Equal(e.table.nameOf(t), name)) {
			return staticLen + e.table.next - number
		}
		number = t.older - 1
	}
	return 0
}

// findName finds the index of an entry with the name, 0: there is none.
func (e *Encoder) findName(k Kind, name []byte, h uint32) uint32 {
	if e.index == nil {
		return 0
	}
	number := e.index.names[h%uint32(len(e.index.names))] - 1
	for range maxChain {
		if !e.table.live(number) {
			return 0
		}
		t := e.table.at(number)
		if t.kind == k && (k != Kind(message.OtherHeader) || bytes.Equal(e.table.nameOf(t), name)) {
			return staticLen + e.table.next - number
		}
		number = t.olderName - 1
	}
	return 0
}

// literal appends a literal field with a flag and a prefix of so many bits.
func (e *Encoder) literal(dst []byte, flag byte, prefix uint8, nameIndex uint32, name, value []byte) []byte {
	dst = appendInteger(dst, flag, prefix, nameIndex)
	if nameIndex == 0 {
		dst = appendString(dst, name)
	}
	return appendString(dst, value)
}

func appendString(dst, s []byte) []byte {
	if n := huffmanSize(s); n < len(s) {
		dst = appendInteger(dst, 0x80, 7, uint32(n))
		return appendHuffman(dst, s)
	}
	dst = appendInteger(dst, 0, 7, uint32(len(s)))
	return append(dst, s...)
}

// appendInteger appends n with a prefix of so many bits behind a flag (RFC 7541 section 5.1).
func appendInteger(dst []byte, flag byte, prefix uint8, n uint32) []byte {
	top := uint32(1)<<prefix - 1
	if n < top {
		return append(dst, flag|byte(n))
	}
	dst = append(dst, flag|byte(top))
	for n -= top; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// hash looks at no more than 24 bytes of a string: two fields with one hash cost only that one of them is not found.
func hash(k Kind, name, value []byte) uint32 {
	h := uint64(k)<<32 | uint64(len(value))
	if k == Kind(message.OtherHeader) {
		h = mix(h, name)
	}
	h = mix(h, value)
	return uint32(h ^ h>>32)
}

func mix(h uint64, s []byte) uint64 {
	const a, b = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93
	n := len(s)
	var x, y uint64
	switch {
	case n >= 8:
		x, y = binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint64(s[n-8:])
		if n > 16 {
			x ^= bits.RotateLeft64(binary.LittleEndian.Uint64(s[n/2-4:]), 29)
		}
	case n >= 4:
		x, y = uint64(binary.LittleEndian.Uint32(s)), uint64(binary.LittleEndian.Uint32(s[n-4:]))
	case n > 0:
		x, y = uint64(s[0])|uint64(s[n/2])<<8|uint64(s[n-1])<<16, uint64(n)
	}
	hi, lo := bits.Mul64(x^h^a, y^b)
	return hi ^ lo
}
