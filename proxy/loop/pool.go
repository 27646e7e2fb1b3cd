package loop

import "syscall"

// Pool lends byte buffers to the connections and exchanges of one loop. It keeps
// a bounded number of returned ones (2.3 MB when all classes are full), the
// garbage collector gets the rest.
type Pool struct {
	free [len(classes)][][]byte
}

// classes: 4 KiB holds nearly every message head, 16 KiB one TLS record; the
// larger ones serve output queues on their way to the high watermark of a
// connection (256 KiB, overshot by at most one read of 64 KiB).
var classes = [...]struct{ size, keep int }{
	{4 << 10, 128},
	{16 << 10, 32},
	{64 << 10, 8},
	{256 << 10, 2},
	{512 << 10, 1},
}

// Get returns an empty buffer with room for at least n bytes. It belongs to the
// caller until Put; losing it is harmless.
func (p *Pool) Get(n int) []byte {
	for i := range classes {
		if n > classes[i].size {
			continue
		}
		if f := p.free[i]; len(f) > 0 {
			b := f[len(f)-1]
			f[len(f)-1] = nil
			p.free[i] = f[:len(f)-1]
			return b
		}
		return make([]byte, 0, classes[i].size)
	}
	return make([]byte, 0, n)
}

// Put takes a buffer back. The caller must not touch it afterwards. Buffers that
// did not come from Get, or grew since, are welcome; b may be nil.
func (p *Pool) Put(b []byte) {
	for i := len(classes) - 1; i >= 0; i-- {
		if c := classes[i]; cap(b) >= c.size {
			// A buffer far above its class would make the bound of the pool a lie.
			if cap(b) < 2*c.size && len(p.free[i]) < c.keep {
				p.free[i] = append(p.free[i], b[:0])
			}
			return
		}
	}
}

// Append appends data to b, moving to a larger buffer of the pool when b is full.
// b may be nil; the result replaces it.
func (p *Pool) Append(b, data []byte) []byte {
	if need := len(b) + len(data); need > cap(b) {
		g := p.Get(need)
		g = append(g, b...)
		p.Put(b)
		b = g
	}
	return append(b, data...)
}

// AppendString is Append for a string.
func (p *Pool) AppendString(b []byte, s string) []byte {
	if need := len(b) + len(s); need > cap(b) {
		g := p.Get(need)
		g = append(g, b...)
		p.Put(b)
		b = g
	}
	return append(b, s...)
}

// pipes are the loop's pipes for Sockets.Splice. One is needed only while bytes are
// in it, so a loop has few, however many connections splice.
type pipes struct {
	free [][2]int
	none bool // the system has none
}

const keepPipes = 8

// GetPipe returns an empty pipe, read end first; false where there is none to be had.
func (l *Loop) GetPipe() (p [2]int, ok bool) {
	s := &l.pipes
	if n := len(s.free); n > 0 {
		p = s.free[n-1]
		s.free = s.free[:n-1]
		return p, true
	}
	if s.none {
		return p, false
	}
	r, w, e := l.poller.Pipe()
	s.none = e == syscall.ENOSYS
	return [2]int{r, w}, e == 0
}

// PutPipe takes a pipe back; one that is not empty is closed.
func (l *Loop) PutPipe(p [2]int, empty bool) {
	if empty && len(l.pipes.free) < keepPipes {
		l.pipes.free = append(l.pipes.free, p)
		return
	}
	l.poller.Close(p[0])
	l.poller.Close(p[1])
}
