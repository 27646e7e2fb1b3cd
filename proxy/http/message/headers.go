package message

import (
	"bytes"
	"unsafe"
)

// Field is one header field. Name is lower-case; ID is OtherHeader for names
// not in the table. Several fields may have one name, in the order they came.
type Field struct {
	Name  []byte
	Value []byte
	ID    ID
	Never bool // never to be indexed, as its sender asked (RFC 7541 section 6.2.3)
	Case  Case
}

// Case remembers how the letters of a name were written, where somebody wants to know: the first 31 of them; further words
// begin as the first one does. The zero value knows nothing.
type Case uint32

// NoteCase remembers how the name of the last field was written in the field line it came from, if that is its line.
func (h *Headers) NoteCase(line []byte) {
	n := len(h.fields) - 1
	if n < 0 || h.fields[n].Case != 0 {
		return // the line made no field
	}
	f := &h.fields[n]
	f.Case = knownCase
	for i, b := range line[:min(len(f.Name), 31)] {
		if b >= 'A' && b <= 'Z' {
			f.Case |= 1 << i
		}
	}
}

const knownCase = 1 << 31

// Known reports whether NoteCase was called for the field.
func (c Case) Known() bool { return c&knownCase != 0 }

// Upper reports whether letter i of the name, which begins a word or does not, was in upper case.
func (c Case) Upper(i int, begins bool) bool {
	if i >= 31 {
		return begins && c&1 != 0
	}
	return c&(1<<i) != 0
}

// Headers is the field section of a message, or its trailers, in order. The
// zero value is empty and ready.
type Headers struct {
	fields []Field
	seen   [2]uint64 // bit i: a field with ID i was added since Reset; makes the usual miss cost nothing
}

// keepFields bounds the field list kept from one exchange to the next: 64 fields are 3.5 KiB.
const keepFields = 64

// Reset removes all fields and keeps the memory.
func (h *Headers) Reset() {
	if cap(h.fields) > keepFields {
		h.fields = nil
	}
	h.fields = h.fields[:0]
	h.seen = [2]uint64{}
}

// Assign makes h the fields of from, by h's own list.
func (h *Headers) Assign(from *Headers) {
	h.fields, h.seen = append(h.fields[:0], from.fields...), from.seen
}

// Len is the number of fields.
func (h *Headers) Len() int { return len(h.fields) }

// Fields are all fields in order. The slice is valid until the next change; values may be replaced in place, names not.
func (h *Headers) Fields() []Field { return h.fields }

func (h *Headers) may(id ID) bool { return h.seen[id>>6]&(1<<(id&63)) != 0 }

// Has reports whether a field with this ID is there.
func (h *Headers) Has(id ID) bool { return h.may(id) && h.find(id, "") >= 0 }

// Get returns the first value of a well-known header, nil when there is none.
// An empty value is not nil.
func (h *Headers) Get(id ID) []byte {
	if !h.may(id) {
		return nil
	}
	if i := h.find(id, ""); i >= 0 {
		return h.fields[i].Value
	}
	return nil
}

// GetName is Get for any lower-case name.
func (h *Headers) GetName(name string) []byte {
	id := IDOf(name)
	if !h.may(id) {
		return nil
	}
	if i := h.find(id, name); i >= 0 {
		return h.fields[i].Value
	}
	return nil
}

// Joined returns all values of a name joined by a comma, as one list
// (RFC 9110 section 5.3). A single value is returned as it is; several are
// joined in scratch's memory.
func (h *Headers) Joined(name string, scratch []byte) (value []byte, ok bool) {
	id := IDOf(name)
	if !h.may(id) {
		return nil, false
	}
	joined := false
	for i := range h.fields {
		f := &h.fields[i]
		switch {
		case !f.is(id, name):
		case !ok:
			value, ok = f.Value, true
		case !joined:
			value, joined = append(append(append(scratch[:0], value...), ','), f.Value...), true
		default:
			value = append(append(value, ','), f.Value...)
		}
	}
	return value, ok
}

// Count is how many fields of a name there are.
func (h *Headers) Count(name string) (n int) {
	id := IDOf(name)
	if !h.may(id) {
		return 0
	}
	for i := range h.fields {
		if h.fields[i].is(id, name) {
			n++
		}
	}
	return n
}

// Nth is the value of one of the fields of a name, from 0.
func (h *Headers) Nth(name string, n int) []byte {
	id := IDOf(name)
	for i := range h.fields {
		if f := &h.fields[i]; f.is(id, name) {
			if n == 0 {
				return f.Value
			}
			n--
		}
	}
	return nil
}

// Alike counts the fields whose names are another way to write name, with underscores for hyphens or the other way round, and gives the value of one
// of them, from 0. Programs behind CGI, WSGI and their like cannot tell them from it. Names with a number of their own are not among them.
func (h *Headers) Alike(name string, nth int) (value []byte, n int) {
	for i := range h.fields {
		f := &h.fields[i]
		if f.ID != OtherHeader || len(f.Name) != len(name) || string(f.Name) == name || !alike(f.Name, name) {
			continue
		}
		if n == nth {
			value = f.Value
		}
		n++
	}
	return value, n
}

func alike(a []byte, b string) bool {
	for i, c := range a {
		if c != b[i] && (c != '-' && c != '_' || b[i] != '-' && b[i] != '_') {
			return false
		}
	}
	return true
}

// Set replaces all fields of a well-known header by one.
func (h *Headers) Set(id ID, value []byte) {
	if h.may(id) {
		if i := h.find(id, ""); i >= 0 {
			h.fields[i].Value = value
			h.removeFrom(i+1, id, "")
			return
		}
	}
	h.Add(id, value)
}

// SetName is Set for any lower-case name.
func (h *Headers) SetName(name, value []byte) {
	id := IDOf(name)
	if id != OtherHeader {
		h.Set(id, value)
		return
	}
	if h.may(id) {
		s := unsafe.String(unsafe.SliceData(name), len(name)) // compared, not kept
		if i := h.find(id, s); i >= 0 {
			h.fields[i].Value = value
			h.removeFrom(i+1, id, s)
			return
		}
	}
	h.Append(Field{Name: name, Value: value, ID: id})
}

// Add appends a field of a well-known header.
func (h *Headers) Add(id ID, value []byte) {
	h.Append(Field{Name: nameBytes[id], Value: value, ID: id})
}

// AddName is Add for any lower-case name.
func (h *Headers) AddName(name, value []byte) {
	h.Append(Field{Name: name, Value: value, ID: IDOf(name)})
}

// Append adds a field whose ID is that of its name: for codecs, which know both.
func (h *Headers) Append(f Field) {
	h.fields = append(h.fields, f)
	h.seen[f.ID>>6] |= 1 << (f.ID & 63)
}

// Remove removes all fields of a well-known header.
func (h *Headers) Remove(id ID) {
	if h.may(id) {
		h.removeFrom(0, id, "")
		h.seen[id>>6] &^= 1 << (id & 63)
	}
}

// RemoveName is Remove for any lower-case name.
func (h *Headers) RemoveName(name string) {
	if id := IDOf(name); id != OtherHeader {
		h.Remove(id)
	} else if h.may(id) {
		h.removeFrom(0, id, name)
	}
}

// RemoveFunc removes the fields for which del answers true.
func (h *Headers) RemoveFunc(del func(*Field) bool) {
	kept := h.fields[:0]
	for i := range h.fields {
		if f := &h.fields[i]; !del(f) {
			kept = append(kept, *f)
		}
	}
	h.fields = kept
}

func (f *Field) is(id ID, name string) bool {
	return f.ID == id && (id != OtherHeader || string(f.Name) == name)
}

func (h *Headers) find(id ID, name string) int {
	for i := range h.fields {
		if h.fields[i].is(id, name) {
			return i
		}
	}
	return -1
}

func (h *Headers) removeFrom(start int, id ID, name string) {
	kept := h.fields[:start]
	for i := start; i < len(h.fields); i++ {
		if !h.fields[i].is(id, name) {
			if len(kept) != i {
				kept = append(kept, h.fields[i])
			} else {
				kept = kept[:i+1]
			}
		}
	}
	h.fields = kept
}

// Cookie is the value of a cookie of the request, without quotes; nil: there is none.
func (h *Headers) Cookie(name string) []byte {
	if !h.Has(Cookie) {
		return nil
	}
	for i := range h.Fields() {
		f := &h.Fields()[i]
		if f.ID != Cookie {
			continue
		}
		for rest := f.Value; len(rest) > 0; {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, semicolon)
			pair = bytes.TrimLeft(pair, " ")
			if len(pair) > len(name) && string(pair[:len(name)]) == name && pair[len(name)] == '=' {
				if v := bytes.Trim(pair[len(name)+1:], `"`); v != nil {
					return v
				}
				return pair[len(pair):] // empty, and there
			}
		}
	}
	return nil
}

var semicolon = []byte{';'}
