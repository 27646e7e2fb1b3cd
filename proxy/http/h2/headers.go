package h2

import (
	"encoding/binary"

	"github.com/weirmesh/weir/proxy/http/hpack"
)

// onHeaders handles HEADERS (RFC 9113 section 6.2): what it may mean is decided here, the block is read when it is complete.
func (m *Machine) onHeaders(out, p []byte, flags uint8, id uint32, now int64) ([]byte, Event) {
	if id == 0 || id&1 == 0 || !m.is(isServer) && m.idle(id) {
		return m.fail(out, InvalidStreamID)
	}
	if flags&flagPadded != 0 {
		if len(p) == 0 {
			return m.fail(out, InvalidFrameSize)
		}
		pad := int(p[0])
		if p = p[1:]; pad > len(p) {
			return m.fail(out, InvalidPadding)
		}
		p = p[:len(p)-pad]
	}
	dependsOnItself := false
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return m.fail(out, InvalidFrameSize)
		}
		dependsOnItself = binary.BigEndian.Uint32(p)&maxID == id
		p = p[5:]
	}

	ev := Event{Kind: None}
	s := m.table.get(id)
	switch {
	case s == nil && m.idle(id):
		if s = m.accept(id, now); s != nil {
			return out, Event{Kind: Open, Stream: s}
		}
		out, ev = m.refuse(out, id, now)
	case s == nil:
		out, ev = m.headersOnDead(out, id, now)
	case s.req == nil && s.resp == nil && !s.is(headRead): // the caller did not bind it
		m.end(s, weReset)
		out = m.Release(out, s, NoError)
		out, ev = m.refuse(out, id, now)
	case s.is(recvDone):
		out, ev = m.streamError(out, s, AfterEnd, now)
	case dependsOnItself:
		out, ev = m.streamError(out, s, SelfDependency, now)
	case s.is(headRead) && flags&flagEnd == 0:
		out, ev = m.streamError(out, s, TrailersWithoutEnd, now)
	}
	if ev.Kind == Failed {
		return out, ev
	}
	m.blockEnds = flags&flagEnd != 0
	if flags&flagEndHeaders == 0 {
		m.continuing, m.continuations = id, 0
		m.block = append(m.block[:0], p...)
		return out, ev
	}
	return m.readBlock(out, p, id, ev, now)
}

// accept makes the stream of a new request, nil: it is not taken.
func (m *Machine) accept(id uint32, now int64) *Stream {
	m.past.use(id, m.lastPeer)
	m.lastPeer = id
	if m.is(goneFinal) || m.active >= m.o.MaxStreams {
		m.past.set(id, id, weReset)
		m.orphaned += int64(m.recvInitial)
		return nil
	}
	return m.open(id, now)
}

// refuse answers a request that is not taken. After the final GOAWAY the client knows without an answer.
func (m *Machine) refuse(out []byte, id uint32, now int64) ([]byte, Event) {
	if !m.is(goneFinal) {
		out = appendReset(out, id, RefusedStream)
	}
	if !m.spendReset(now) {
		return m.fail(out, ErrorFlood)
	}
	return out, Event{Kind: None, Reason: Refused}
}

// headersOnDead handles HEADERS on a stream that is over.
func (m *Machine) headersOnDead(out []byte, id uint32, now int64) ([]byte, Event) {
	switch m.fateOf(id) {
	case neverUsed: // a higher one was opened (RFC 9113 section 5.1.1)
		return m.fail(out, InvalidStreamID)
	case ended:
		return m.fail(out, EndedStream)
	case theyReset:
		out = appendReset(out, id, StreamClosed)
		if !m.spendReset(now) {
			return m.fail(out, ErrorFlood)
		}
	}
	return m.overhead(out, DeadStreamFlood, 1, now)
}

// onContinuation handles CONTINUATION (RFC 9113 section 6.10).
func (m *Machine) onContinuation(out, p []byte, flags uint8, now int64) ([]byte, Event) {
	if m.continuing == 0 {
		return m.fail(out, UnexpectedContinuation)
	}
	if m.continuations++; m.continuations > maxContinuations {
		return m.fail(out, ContinuationFlood)
	}
	// Up to twice the limit a block is read, so that the request can be answered; nobody's mistake is larger.
	if len(m.block)+len(p) > 2*max(m.o.HeadBytes, maxFrame) {
		return m.fail(out, HeadersTooLarge)
	}
	m.block = append(m.block, p...)
	if flags&flagEndHeaders == 0 {
		return out, Event{Kind: None}
	}
	id := m.continuing
	m.continuing = 0
	out, ev := m.readBlock(out, m.block, id, Event{Kind: None}, now)
	if cap(m.block) > 2*maxFrame {
		m.block = nil
	}
	return out, ev
}

// readBlock reads a complete header block. Whatever becomes of its stream, the table needs it. ev is what is told when the stream
// is not there any more.
func (m *Machine) readBlock(out, block []byte, id uint32, ev Event, now int64) ([]byte, Event) {
	m.dec.Begin(block)
	s := m.table.get(id)
	var r Reason
	if s != nil {
		ev = Event{Kind: Head, Stream: s, End: m.blockEnds}
		switch {
		case s.is(headRead):
			ev.Kind = Trailers
			r = m.readTrailers(s)
		case s.req != nil:
			r = m.readRequest(s)
		default:
			if r = m.readResponse(s); r == OK && s.resp.Status < 200 && s.resp.Status != 101 {
				ev.Kind = Interim
			}
		}
	}
	for m.dec.Next(nil, nil) {
	}
	if bad := m.dec.Reason(); bad != hpack.OK {
		return m.fail(out, ofCompression(bad))
	}
	switch {
	case s == nil:
		return out, ev
	case r == OK:
		return m.message(out, s, ev, now)
	case s.req != nil && !s.is(headRead) && answerable(r):
		s.flags |= headRead | dropBody
		if m.blockEnds {
			m.endRecv(s)
		}
		return out, Event{Kind: Refuse, Stream: s, Reason: r}
	}
	return m.streamError(out, s, r, now)
}

func answerable(r Reason) bool {
	switch r {
	case MissingAuthority, UnknownExpectation, HeadTooLarge, TooManyFields:
		return true
	}
	return false
}

// message follows a head or trailers that are in order.
func (m *Machine) message(out []byte, s *Stream, ev Event, now int64) ([]byte, Event) {
	switch {
	case ev.Kind == Interim:
		if ev.End {
			return m.streamError(out, s, InterimWithEnd, now)
		}
		if !m.spend(1, now) {
			return m.fail(out, InterimFlood)
		}
		return out, ev
	case ev.End && s.left > 0:
		return m.streamError(out, s, LengthMismatch, now)
	}
	if s.resp != nil && !s.is(headRead) {
		m.useful()
	}
	s.flags |= headRead
	if ev.End {
		m.endRecv(s)
		return out, ev
	}
	if s.resp != nil && s.resp.NoBody { // it has ended with its head, whatever comes
		s.flags |= dropBody
		ev.End = true
	}
	return out, ev
}
