package loop

import "syscall"

// Pool lends byte buffers to the connections and exchanges of one loop. It keeps
// returned ones as Spares does, never more than poolLimit bytes and, when nobody
// needs them any more, 2.3 MB at most.
type Pool struct {
	free [len(classes)]*Spares[[]byte]
}

// classes: 4 KiB holds nearly every message head, 16 KiB one TLS record, 64 KiB
// the body of a request that may be sent again; the larger ones serve output
// queues on their way to the high watermark of a connection (256 KiB, overshot by
// at most one read of 64 KiB).
var classes = [...]struct{ size, few int }{
	{4 << 10, 128},
	{16 << 10, 32},
	{64 << 10, 8},
	{256 << 10, 2},
	{512 << 10, 1},
}

// poolLimit: 256 requests of 64 KiB under way, on one loop.
const poolLimit = 16 << 20

func (p *Pool) init(l *Loop) {
	for i, c := range classes {
		p.free[i] = NewSpares[[]byte](l, c.few, poolLimit/c.size)
	}
}

// held is how many bytes are spare, each buffer counted with its class.
func (p *Pool) held() (n int) {
	for i, f := range p.free {
		n += len(f.free) * classes[i].size
	}
	return n
}

// Get returns an empty buffer with room for at least n bytes. It belongs to the
// caller until Put; losing it is harmless.
func (p *Pool) Get(n int) []byte {
	for i := range classes {
		if n > classes[i].size {
			continue
		}
		if b, ok := p.free[i].Get(); ok {
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
		if size := classes[i].size; cap(b) >= size {
			// A buffer far above its class would make the bound of the pool a lie.
			if cap(b) < 2*size && p.held()+size <= poolLimit {
				p.free[i].Put(b[:0])
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
