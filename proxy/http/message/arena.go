package message

import "slices"

// chunkSize holds the head of a usual request and response together with what
// the proxy adds (1 to 2 KiB), so that most exchanges use one chunk.
const chunkSize = 4 << 10

// Arena hands out bytes that stay in place and unchanged until Reset. Its first
// chunk is made on first use and kept; further ones are left to the collector.
type Arena struct {
	free  []byte // rest of the current chunk: length 0, capacity what is left
	first []byte
}

// Reset takes back all bytes handed out.
func (a *Arena) Reset() { a.free = a.first }

// Open returns an empty slice with room for n bytes. The caller appends to it
// and gives it to Close; between the two the arena must not be used otherwise.
func (a *Arena) Open(n int) []byte {
	if cap(a.free) < n {
		a.grow(n)
	}
	return a.free
}

// Close keeps b, which grew from Open, and returns it. When b outgrew the room
// asked for, append has moved it out of the arena: correct, only not free.
func (a *Arena) Close(b []byte) []byte {
	if cap(b) != cap(a.free) { // append moved it: a chunk's capacity is never reproduced by growth of the same slice
		return b
	}
	a.free = b[len(b):]
	return slices.Clip(b)
}

// Copy returns a copy of b.
func (a *Arena) Copy(b []byte) []byte {
	return a.Close(append(a.Open(len(b)), b...))
}

// CopyString returns a copy of s.
func (a *Arena) CopyString(s string) []byte {
	return a.Close(append(a.Open(len(s)), s...))
}

func (a *Arena) grow(n int) {
	if a.first == nil && n <= chunkSize {
		a.first = make([]byte, 0, chunkSize)
		a.free = a.first
		return
	}
	a.free = make([]byte, 0, max(n, chunkSize))
}
