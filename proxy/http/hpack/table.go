package hpack

// table is a dynamic table (RFC 7541 section 2.3.2). Entries have absolute numbers, counted from 0 in the order of insertion.
//
// The bytes of all entries lie behind each other in one buffer, oldest first, and move to its front when it is full; since the
// buffer is at least twice as large as what is in it, an entry's bytes are moved once on average. Offsets count as if the buffer
// had no end, so that moving changes one number.
type table struct {
	buf     []byte
	base    uint32  // offset of buf[0]
	entries []entry // a ring, its length a power of two
	first   uint32  // number of the oldest entry
	next    uint32  // number of the next entry
	size    uint32  // as RFC 7541 section 4.1 counts
	max     uint32
}

type entry struct {
	off         uint32
	links              // the encoder's
	name, value uint16 // lengths
	kind        Kind
	fault       Fault
}

func (e *entry) size() uint32 { return uint32(e.name) + uint32(e.value) + overhead }

func (t *table) at(number uint32) *entry { return &t.entries[number&uint32(len(t.entries)-1)] }

// live reports whether the entry of that number is still there.
func (t *table) live(number uint32) bool { return number-t.first < t.next-t.first }

func (t *table) nameOf(e *entry) []byte {
	p := e.off - t.base
	return t.buf[p : p+uint32(e.name)]
}

func (t *table) valueOf(e *entry) []byte {
	p := e.off - t.base + uint32(e.name)
	return t.buf[p : p+uint32(e.value)]
}

// resize changes max and evicts what does not fit any more.
func (t *table) resize(max uint32) {
	t.max = max
	t.evict(0)
}

// evict makes room for need.
func (t *table) evict(need uint32) {
	for t.first != t.next && t.size+need > t.max {
		t.size -= t.at(t.first).size()
		t.first++
	}
}

// insert adds an entry; name and value must not lie in the table. One that is larger than the table empties it (RFC 7541
// section 4.4): then the answer is nil.
func (t *table) insert(name, value []byte, k Kind, f Fault) *entry {
	n := uint32(len(name) + len(value))
	if n+overhead > t.max {
		t.size, t.first = 0, t.next
		return nil
	}
	t.evict(n + overhead)
	if int(t.next-t.first) == len(t.entries) {
		t.growEntries()
	}
	if len(t.buf)+int(n) > cap(t.buf) {
		t.makeRoom(int(n))
	}
	e := t.at(t.next)
	*e = entry{off: t.base + uint32(len(t.buf)), name: uint16(len(name)), value: uint16(len(value)), kind: k, fault: f}
	t.buf = append(append(t.buf, name...), value...)
	t.size += n + overhead
	t.next++
	return e
}

func (t *table) growEntries() {
	bigger := make([]entry, max(16, 2*len(t.entries)))
	for i := t.first; i != t.next; i++ {
		bigger[i&uint32(len(bigger)-1)] = *t.at(i)
	}
	t.entries = bigger
}

// makeRoom moves the live bytes to the front, of a larger buffer when they fill more than half of this one.
func (t *table) makeRoom(n int) {
	live := t.buf[len(t.buf):]
	if t.first != t.next {
		live = t.buf[t.at(t.first).off-t.base:]
	}
	t.base += uint32(len(t.buf) - len(live))
	if need := 2 * (len(live) + n); need > cap(t.buf) {
		size := 512
		for size < need {
			size *= 2
		}
		t.buf = append(make([]byte, 0, size), live...)
		return
	}
	t.buf = t.buf[:copy(t.buf[:cap(t.buf)], live)]
}
