package h2

import (
	"strconv"

	"github.com/weirmesh/weir/proxy/http/hpack"
	"github.com/weirmesh/weir/proxy/http/message"
)

// RequestRoom is how many bytes Request appends at most.
func RequestRoom(q *message.Request) int {
	return headRoom(&q.Headers, len(q.RawMethod)+len(q.Scheme)+len(q.Authority)+len(q.Path)+len(q.Upgrade))
}

// ResponseRoom is how many bytes Response appends at most.
func ResponseRoom(p *message.Response) int { return headRoom(&p.Headers, 0) }

// TrailersRoom is how many bytes Trailers appends at most.
func TrailersRoom(h *message.Headers) int { return headRoom(h, 0) }

// DataRoom is how many bytes Data appends at most for n bytes of body.
func DataRoom(n int) int { return n + (n/maxFrame+1)*frameHead }

// headRoom counts the fields, and six pseudo-headers, content-length and expect.
func headRoom(h *message.Headers, more int) int {
	n := more + hpack.BeginRoom + 8*hpack.Room(nil, nil) + 128
	all := h.Fields()
	for i := range all {
		n += hpack.Room(all[i].Name, all[i].Value)
	}
	return n + (n/maxFrame+1)*frameHead
}

// Request opens a stream: the response, its trailers and their bytes go to p, trailers and a, all of them empty, until Release.
// q.Upgrade must stay as long. There must be Capacity; without it the stream is nil.
func (m *Machine) Request(out []byte, q *message.Request, p *message.Response, trailers *message.Headers, a *message.Arena, now int64) (*Stream, []byte) {
	if m.Capacity() == 0 {
		return nil, out
	}
	id := m.nextOwn
	m.past.use(id, max(id, 2)-2)
	m.nextOwn += 2
	s := m.open(id, now)
	s.resp, s.trailers, s.arena, s.left = p, trailers, a, int64(m.o.HeadBytes)
	at := len(out)
	out = m.enc.Begin(appendFrame(out, 0, frameHeaders, 0, 0))
	tunnel := q.Method == message.CONNECT || q.Upgrade != nil
	if tunnel {
		s.flags |= asksConnect
		s.upgrade = q.Upgrade
		out = m.enc.Pseudo(out, hpack.Method, connect)
	} else {
		if q.Method == message.HEAD {
			s.flags |= asksHead
		}
		out = m.enc.Pseudo(out, hpack.Method, q.RawMethod)
	}
	if q.Method != message.CONNECT {
		scheme := q.Scheme
		if len(scheme) == 0 {
			scheme = schemeHTTP
		}
		out = m.enc.Pseudo(out, hpack.Scheme, scheme)
		out = m.enc.Pseudo(out, hpack.Path, q.Path)
	}
	if q.Upgrade != nil {
		out = m.enc.Pseudo(out, hpack.Protocol, q.Upgrade)
	}
	out = m.enc.Pseudo(out, hpack.Authority, q.Authority)
	out = m.appendFields(out, &q.Headers)
	if q.Continue {
		out = m.enc.Field(out, &expectContinue)
	}
	if !tunnel {
		out = m.appendLength(out, q.ContentLength)
	}
	flags := uint8(0)
	if q.NoBody && !tunnel {
		flags = flagEnd
	}
	out = m.frameBlock(out, at, id, flags)
	if flags != 0 {
		m.endSend(s)
	}
	return s, out
}

// Never changed.
var (
	connect        = []byte("CONNECT")
	expectContinue = message.Field{Name: message.Expect.Bytes(), Value: []byte("100-continue"), ID: message.Expect}
)

// Response appends the head of a response, and ends it when it has NoBody. After a status below 200 another head follows; a 101 with
// Upgrade is the 200 of an extended CONNECT.
func (m *Machine) Response(out []byte, s *Stream, p *message.Response) []byte {
	if !s.is(known) || s.is(sendDone|headSent) || m.reason != OK {
		return out
	}
	at := len(out)
	out = m.enc.Begin(appendFrame(out, 0, frameHeaders, 0, 0))
	status := p.Status
	final := status >= 200
	if status == 101 {
		status, final = 200, true
	}
	out = m.appendFields(m.enc.Status(out, status), &p.Headers)
	if p.Status >= 200 && p.Status != 204 {
		out = m.appendLength(out, p.ContentLength)
	}
	if !final {
		return m.frameBlock(out, at, s.id, 0)
	}
	s.flags |= headSent
	m.useful()
	if p.NoBody {
		out = m.frameBlock(out, at, s.id, flagEnd)
		m.endSend(s)
		return out
	}
	return m.frameBlock(out, at, s.id, 0)
}

// Trailers appends what follows the body and ends the message. All of the body must have been taken by Data.
func (m *Machine) Trailers(out []byte, s *Stream, h *message.Headers) []byte {
	if !s.is(known) || s.is(sendDone) || m.reason != OK {
		return out
	}
	if h.Len() == 0 {
		out, _ = m.Data(out, s, nil, true)
		return out
	}
	at := len(out)
	out = m.appendFields(m.enc.Begin(appendFrame(out, 0, frameHeaders, 0, 0)), h)
	out = m.frameBlock(out, at, s.id, flagEnd)
	m.endSend(s)
	return out
}

// appendFields appends all but what is about the connection or written from elsewhere.
func (m *Machine) appendFields(out []byte, h *message.Headers) []byte {
	all := h.Fields()
	for i := range all {
		f := &all[i]
		switch f.ID {
		case message.Host, message.ContentLength, message.TransferEncoding, message.Connection, message.KeepAlive, message.ProxyConnection,
			message.Upgrade, message.Expect, message.HTTP2Settings:
			continue
		case message.TE:
			if !message.EqualFold(f.Value, "trailers") {
				continue
			}
		}
		out = m.enc.Field(out, f)
	}
	return out
}

func (m *Machine) appendLength(out []byte, n int64) []byte {
	if n == message.Unknown {
		return out
	}
	var digits [20]byte
	f := message.Field{Name: message.ContentLength.Bytes(), Value: strconv.AppendInt(digits[:0], n, 10), ID: message.ContentLength}
	return m.enc.Field(out, &f)
}

// frameBlock makes frames of the header block that begins behind the room for a frame's head at at.
func (m *Machine) frameBlock(out []byte, at int, id uint32, flags uint8) []byte {
	size := len(out) - at - frameHead
	if size <= maxFrame {
		putFrame(out[at:], size, frameHeaders, flags|flagEndHeaders, id)
		return out
	}
	// Move the pieces apart, from the last to the second, to make room for the heads of CONTINUATION.
	pieces := (size + maxFrame - 1) / maxFrame
	for range pieces - 1 {
		out = append(out, make([]byte, frameHead)...)
	}
	block := out[at+frameHead:]
	for i := pieces - 1; i > 0; i-- {
		from, n := i*maxFrame, min(maxFrame, size-i*maxFrame)
		to := from + i*frameHead
		copy(block[to:], block[from:from+n])
		more := uint8(0)
		if i == pieces-1 {
			more = flagEndHeaders
		}
		putFrame(block[to-frameHead:], n, frameContinuation, more, id)
	}
	putFrame(out[at:], maxFrame, frameHeaders, flags, id)
	return out
}

// Data appends as much of b as the peer's windows and the turns of other streams allow, n bytes; end ends the message when that is all
// of b. With a rest the stream waits for its turn by Ready.
func (m *Machine) Data(out []byte, s *Stream, b []byte, end bool) (_ []byte, n int) {
	if !s.is(known) || s.is(sendDone) || m.reason != OK {
		return out, len(b) // nobody reads it
	}
	mine := m.turn == s
	if mine {
		m.turn = nil
	}
	if len(b) == 0 {
		if end {
			out = appendFrame(out, 0, frameData, flagEnd, s.id)
			m.endSend(s)
		}
		return out, 0
	}
	if !mine && m.ring != nil {
		m.Wait(s)
		return out, 0
	}
	for n < len(b) {
		k := min(len(b)-n, int(s.sendWindow), int(m.sendWindow), maxFrame)
		if k <= 0 {
			break
		}
		flags := uint8(0)
		if end && n+k == len(b) {
			flags = flagEnd
		}
		out = append(appendFrame(out, k, frameData, flags, s.id), b[n:n+k]...)
		s.sendWindow -= int32(k)
		m.sendWindow -= int32(k)
		n += k
		m.earn(overheadPerSent)
		if m.ring != nil { // others wait: one frame each
			break
		}
	}
	if n > 0 {
		m.flags |= progress
	}
	switch {
	case n < len(b):
		m.Wait(s)
	case end:
		m.endSend(s)
	default:
		m.stopWaiting(s)
	}
	return out, n
}

// Wait says that the caller has bytes to send on s; its turn comes by Ready.
func (m *Machine) Wait(s *Stream) {
	if !s.is(known) || s.is(sendDone) {
		return
	}
	if !s.is(waiting) {
		s.flags |= waiting
		m.waiters++
	}
	m.windowChanged(s)
}

// Ready is the stream whose turn it is, nil: nobody can send. The caller calls Data for it; a stream that has nothing to send any
// more is out until it waits again.
func (m *Machine) Ready() *Stream {
	if !m.canSend() {
		return nil
	}
	s := m.ring
	m.stopWaiting(s)
	m.turn = s
	return s
}

// canSend reports whether some stream that waits can send.
func (m *Machine) canSend() bool { return m.ring != nil && m.sendWindow > 0 && m.reason == OK }

// windowChanged lets a waiting stream into the ring, or out of it, as its window says.
func (m *Machine) windowChanged(s *Stream) {
	switch {
	case s.is(inRing) && s.sendWindow <= 0:
		m.leaveRing(s)
	case s.is(waiting) && !s.is(inRing) && s.sendWindow > 0:
		s.flags |= inRing
		if m.ring == nil {
			m.ring, s.ringNext, s.ringPrev = s, s, s
			return
		}
		last := m.ring.ringPrev
		s.ringPrev, s.ringNext = last, m.ring
		last.ringNext, m.ring.ringPrev = s, s
	}
}

func (m *Machine) leaveRing(s *Stream) {
	s.flags &^= inRing
	if s.ringNext == s {
		m.ring = nil
	} else {
		if m.ring == s {
			m.ring = s.ringNext
		}
		s.ringPrev.ringNext, s.ringNext.ringPrev = s.ringNext, s.ringPrev
	}
	s.ringNext, s.ringPrev = nil, nil
}

// stopWaiting: s has nothing to send.
func (m *Machine) stopWaiting(s *Stream) {
	if s.is(inRing) {
		m.leaveRing(s)
	}
	if s.is(waiting) {
		s.flags &^= waiting
		m.waiters--
	}
}

// Upgrade makes stream 1 of the HTTP/1.1 request that asked for h2c; settings is the decoded HTTP2-Settings header (RFC 7540 section
// 3.2). The caller has read the request and appended a 101 before StartServer; the response is sent on the stream.
func (m *Machine) Upgrade(out, settings []byte, now int64) (*Stream, []byte, Reason) {
	if len(settings)%6 != 0 {
		return nil, out, InvalidFrameSize
	}
	if r := m.applySettings(settings); r != OK {
		return nil, out, r
	}
	s := m.accept(1, now)
	s.flags |= headRead | recvDone
	return s, out, OK
}
