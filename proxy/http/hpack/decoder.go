package hpack

import (
	"slices"

	"github.com/weirmesh/weir/proxy/http/message"
)

// Decoder reads the header blocks of one direction, one after the other. Init comes first.
type Decoder struct {
	table   table
	block   []byte
	scratch []byte // of a skipped field that enters the table
	limit   uint32 // what the peer may set the table's size to
	updates int8   // size updates in this block; -1: none may come any more
	shrink  bool   // the next block must begin with a size update
	reason  Reason
}

// Init begins with an empty table of the default size.
func (d *Decoder) Init() {
	*d = Decoder{limit: DefaultTableSize}
	d.table.max = DefaultTableSize
}

// SetLimit is called when the peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE; at most MaxTableSize.
func (d *Decoder) SetLimit(n uint32) {
	d.limit = min(n, MaxTableSize)
	d.shrink = d.limit < d.table.max
}

// Begin starts a complete header block.
func (d *Decoder) Begin(block []byte) { d.block, d.updates = block, 0 }

// Reason is why Next ended before the end of a block; once it is not OK, the decoder is of no use any more.
func (d *Decoder) Reason() Reason { return d.reason }

// Next decodes the next field into f, its bytes into a. With no arena the field is skipped: only the table changes, and f is left
// alone. It answers false at the end of the block and on an error.
func (d *Decoder) Next(a *message.Arena, f *Field) bool {
	for len(d.block) > 0 && d.reason == OK {
		switch c := d.block[0]; {
		case c >= 0x80:
			return d.indexed(a, f)
		case c >= 0x40:
			return d.literal(a, f, 6, true, false)
		case c >= 0x20:
			d.sizeUpdate()
		default:
			return d.literal(a, f, 4, false, c >= 0x10)
		}
	}
	if d.shrink && d.reason == OK {
		d.reason = MissingSizeUpdate
	}
	return false
}

// indexed is an indexed header field (RFC 7541 section 6.1).
func (d *Decoder) indexed(a *message.Arena, f *Field) bool {
	if !d.started() {
		return false
	}
	i := uint32(d.block[0] & 0x7f)
	if i == 0x7f {
		var ok bool
		if i, ok = d.integer(7); !ok {
			return false
		}
	} else {
		d.block = d.block[1:]
	}
	if i-1 < staticLen {
		if a != nil {
			*f = static[i]
		}
		return true
	}
	e := d.entry(i)
	if e == nil {
		d.reason = InvalidIndex
		return false
	}
	if a == nil {
		return true
	}
	f.Size, f.Kind, f.Fault, f.Never = e.size(), e.kind, e.fault, false
	p := e.off - d.table.base
	if f.Name = e.kind.constant(); f.Name != nil {
		if f.Value = empty; e.value > 0 {
			f.Value = a.Copy(d.table.valueOf(e))
		}
		return true
	}
	both := a.Copy(d.table.buf[p : p+uint32(e.name)+uint32(e.value)])
	f.Name, f.Value = both[:e.name:e.name], both[e.name:]
	return true
}

// entry finds the entry of an index behind the static table, nil: there is none.
func (d *Decoder) entry(i uint32) *entry {
	number := d.table.next - (i - staticLen)
	if i <= staticLen || !d.table.live(number) {
		return nil
	}
	return d.table.at(number)
}

// literal is a literal header field (RFC 7541 section 6.2), whose name's index has a prefix of so many bits.
func (d *Decoder) literal(a *message.Arena, f *Field, prefix uint8, insert, never bool) bool {
	if !d.started() {
		return false
	}
	i, ok := d.integer(prefix)
	if !ok {
		return false
	}
	var name []byte
	var e *entry
	var k Kind
	fault := NoFault
	switch {
	case i == 0:
	case i <= staticLen:
		name, k = static[i].Name, static[i].Kind
	default:
		if e = d.entry(i); e == nil {
			d.reason = InvalidIndex
			return false
		}
		k, name = e.kind, e.kind.constant()
		if e.fault < InvalidValue {
			fault = e.fault
		}
		if name == nil {
			name = d.table.nameOf(e)
		}
	}
	var rawName, rawValue []byte
	var codedName, codedValue bool
	if i == 0 {
		if rawName, codedName, ok = d.str(); !ok {
			return false
		}
	}
	if rawValue, codedValue, ok = d.str(); !ok {
		return false
	}
	if a == nil && !insert {
		return true
	}

	// Name and value get one piece of memory: the arena's, or the scratch of a skipped field. It is never of no size, because an
	// empty value must not be nil.
	var own []byte
	room := 1 + len(name) + maxDecoded(len(rawName)) + maxDecoded(len(rawValue))
	if a != nil {
		own = a.Open(room)
	} else {
		if own = d.scratch; cap(own) < room {
			own = make([]byte, 0, room)
			if room <= DefaultTableSize {
				d.scratch = own
			}
		}
	}
	switch {
	case i == 0:
		if own, ok = d.appendString(own, rawName, codedName); !ok {
			return false
		}
		if k = kindOf(own); !k.Pseudo() {
			if k == Kind(message.OtherHeader) {
				fault = checkName(own)
			}
		}
		if c := k.constant(); c != nil {
			name, own = c, own[:0]
		}
	case k.constant() == nil:
		own = append(own, name...)
	}
	n := len(own)
	if own, ok = d.appendString(own, rawValue, codedValue); !ok {
		return false
	}
	if n > 0 {
		name = own[:n:n]
	}
	value := own[n:]
	if fault == NoFault {
		fault = checkValue(value)
	}
	if a != nil {
		a.Close(own)
		*f = Field{Name: name, Value: slices.Clip(value), Size: uint32(len(name)+len(value)) + overhead, Kind: k, Fault: fault, Never: never}
	}
	if insert {
		d.table.insert(name, value, k, fault)
	}
	return true
}

var empty = []byte{}

// appendString appends a string literal, for which there is room.
func (d *Decoder) appendString(dst, raw []byte, coded bool) ([]byte, bool) {
	if !coded {
		return append(dst, raw...), true
	}
	n, ok := decodeHuffman(dst[len(dst):cap(dst)], raw)
	if !ok {
		d.reason = InvalidHuffman
		return dst, false
	}
	return dst[:len(dst)+n], true
}

// str cuts a string literal (RFC 7541 section 5.2) off the block.
func (d *Decoder) str() (raw []byte, coded, ok bool) {
	if len(d.block) == 0 {
		d.reason = Truncated
		return nil, false, false
	}
	coded = d.block[0] >= 0x80
	n, ok := d.integer(7)
	if !ok {
		return nil, false, false
	}
	if uint(n) > uint(len(d.block)) {
		d.reason = Truncated
		return nil, false, false
	}
	raw, d.block = d.block[:n], d.block[n:]
	return raw, coded, true
}

// integer reads an integer with a prefix of so many bits (RFC 7541 section 5.1). Nothing we allow is larger than 28 bits.
func (d *Decoder) integer(prefix uint8) (uint32, bool) {
	b := d.block
	top := uint32(1)<<prefix - 1
	n := uint32(b[0]) & top
	if n < top {
		d.block = b[1:]
		return n, true
	}
	for i, shift := 1, 0; i < len(b); i, shift = i+1, shift+7 {
		if shift > 21 {
			d.reason = IntegerTooLarge
			return 0, false
		}
		n += uint32(b[i]&0x7f) << shift
		if b[i] < 0x80 {
			d.block = b[i+1:]
			return n, true
		}
	}
	d.reason = Truncated
	return 0, false
}

// sizeUpdate is a dynamic table size update (RFC 7541 section 6.3): at most the smallest and the final size, before any field.
func (d *Decoder) sizeUpdate() {
	n, ok := d.integer(5)
	switch {
	case !ok:
	case d.updates < 0:
		d.reason = LateSizeUpdate
	case d.updates == 2:
		d.reason = ManySizeUpdates
	case n > d.limit:
		d.reason = LargeSizeUpdate
	default:
		d.updates++
		d.shrink = false
		d.table.resize(n)
	}
}

// started notes that a field begins.
func (d *Decoder) started() bool {
	if d.shrink {
		d.reason = MissingSizeUpdate
		return false
	}
	d.updates = -1
	return true
}
