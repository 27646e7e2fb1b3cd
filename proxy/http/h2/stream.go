package h2

import "github.com/weirmesh/weir/proxy/http/message"

// Stream is one request and response of a connection. It belongs to the caller from Open, Request or Upgrade until Release.
type Stream struct {
	Owner any // the caller's

	req      *message.Request // one of the two is read into
	resp     *message.Response
	trailers *message.Headers
	arena    *message.Arena
	upgrade  []byte // client: what the request asked for

	next, prev         *Stream // all streams of the machine; next also in a Pool
	ringNext, ringPrev *Stream // those whose turn to send comes

	left       int64 // bytes of the body still to come, unknown: -1; before a response's head what is left for that and the interim ones
	opened     int64
	id         uint32
	sendWindow int32
	recvWindow int32
	unconsumed uint32 // received and not consumed
	credit     uint32 // consumed, and not given back to the peer yet
	flags      streamFlags
}

type streamFlags uint16

const (
	known       streamFlags = 1 << iota // in the table: frames can reach it
	recvDone                            // the peer has ended it
	sendDone                            // we have
	headRead                            // the final head was read
	headSent                            // the final head was written
	dropBody                            // what comes of the body is of no interest
	waiting                             // the caller has bytes for it
	inRing                              // and it may send them as far as its own window goes
	asksHead                            // client: the request was HEAD
	asksConnect                         // client: the request was CONNECT
)

func (s *Stream) is(f streamFlags) bool { return s.flags&f != 0 }

// ID is the stream's number on the wire.
func (s *Stream) ID() uint32 { return s.id }

// Request says where the request goes that opened the stream. All three are empty.
func (s *Stream) Request(q *message.Request, trailers *message.Headers, a *message.Arena) {
	s.req, s.trailers, s.arena = q, trailers, a
}

// Pool keeps Streams for reuse by the machines of one loop.
type Pool struct {
	free *Stream
	n    int
}

// keepStreams bounds a Pool: 1,024 Streams are 150 KB.
const keepStreams = 1024

func (p *Pool) get() *Stream {
	s := p.free
	if s == nil {
		return new(Stream)
	}
	p.free, s.next = s.next, nil
	p.n--
	return s
}

func (p *Pool) put(s *Stream) {
	*s = Stream{}
	if p.n < keepStreams {
		s.next, p.free = p.free, s
		p.n++
	}
}

// streams finds a stream by its number: open addressing with linear probing. Numbers are consecutive, so that collisions are rare.
type streams struct {
	slots []*Stream // the length is a power of two
	n     int
}

func (t *streams) slot(id uint32) uint32 { return id >> 1 & uint32(len(t.slots)-1) }

func (t *streams) get(id uint32) *Stream {
	if t.n == 0 {
		return nil
	}
	for i := t.slot(id); ; i = (i + 1) & uint32(len(t.slots)-1) {
		if s := t.slots[i]; s == nil || s.id == id {
			return s
		}
	}
}

func (t *streams) put(s *Stream) {
	if 2*t.n >= len(t.slots) {
		old := t.slots
		t.slots = make([]*Stream, max(8, 2*len(old)))
		for _, s := range old {
			if s != nil {
				t.place(s)
			}
		}
	}
	t.n++
	t.place(s)
}

func (t *streams) place(s *Stream) {
	i := t.slot(s.id)
	for t.slots[i] != nil {
		i = (i + 1) & uint32(len(t.slots)-1)
	}
	t.slots[i] = s
}

// remove closes the gap, so that no search ends before its stream.
func (t *streams) remove(s *Stream) {
	mask := uint32(len(t.slots) - 1)
	i := t.slot(s.id)
	for t.slots[i] != s {
		i = (i + 1) & mask
	}
	t.slots[i] = nil
	t.n--
	for j := (i + 1) & mask; t.slots[j] != nil; j = (j + 1) & mask {
		if home := t.slot(t.slots[j].id); (j-home)&mask >= (j-i)&mask {
			t.slots[i], t.slots[j] = t.slots[j], nil
			i = j
		}
	}
}

// fate is how a stream ended, as far as frames on it are concerned (RFC 9113 section 5.1).
type fate uint8

const (
	neverUsed fate = iota
	ended          // by both sides
	theyReset
	weReset
	forgotten
)

// past remembers the fate of the last streams: what was sent before the sender knew that we had reset a stream must be ignored,
// what is sent behind an END_STREAM or RST_STREAM of its own must not. 256 streams are what a client has open at once by default.
type past struct{ bits [256 / 32]uint64 }

// set notes the fate of an id of which last is the highest used. One that is forgotten by now has no place any more: it is another's.
func (p *past) set(id, last uint32, f fate) {
	if last-id >= 512 {
		return
	}
	i := id >> 1 & 255
	p.bits[i>>5] = p.bits[i>>5]&^(3<<((i&31)*2)) | uint64(f)<<((i&31)*2)
}

// get answers for an id of which last is the highest used.
func (p *past) get(id, last uint32) fate {
	if last-id >= 512 {
		return forgotten
	}
	i := id >> 1 & 255
	return fate(p.bits[i>>5] >> ((i & 31) * 2) & 3)
}

// use makes all ids behind last up to id fresh.
func (p *past) use(id, last uint32) {
	if id-last > 512 {
		p.bits = [len(p.bits)]uint64{}
		return
	}
	for i := last; i != id; {
		i += 2
		if i > id {
			i = id
		}
		p.set(i, id, neverUsed)
	}
}
