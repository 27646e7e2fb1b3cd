package h2

// onData handles the head of a DATA frame and as much of its payload as is there.
func (m *Machine) onData(out, in []byte, size uint32, flags uint8, id uint32, now int64) (_ []byte, used int, ev Event) {
	used = frameHead
	pad := uint32(0)
	if flags&flagPadded != 0 {
		switch {
		case size == 0:
			out, ev = m.fail(out, InvalidFrameSize)
			return out, 0, ev
		case len(in) == frameHead:
			return out, 0, ev
		}
		pad = uint32(in[frameHead])
		used++
	}
	left := size - uint32(used-frameHead)
	switch {
	case id == 0:
		ev.Reason = InvalidStreamID
	case pad > left:
		ev.Reason = InvalidPadding
	case m.idle(id):
		ev.Reason = IdleStream
	case int64(size) > int64(m.recvWindow):
		ev.Reason = WindowExceeded
	}
	if ev.Reason != OK {
		out, ev = m.fail(out, ev.Reason)
		return out, 0, ev
	}
	m.recvWindow -= int32(size)
	left -= pad
	m.giveBack(size - left)
	m.data.s, m.data.left, m.data.pad, m.data.end, m.data.on = nil, left, pad, flags&flagEnd != 0, left+pad > 0

	s := m.table.get(id)
	if s == nil {
		out, ev = m.dataOnDead(out, id, left, now)
	} else {
		out, ev = m.dataOn(out, s, size, left, flags&flagEnd != 0, now)
	}
	switch {
	case ev.Kind != More:
		return m.flushCredit(out), used, ev
	case !m.data.on: // an empty frame
		out = m.flushCredit(out)
		if m.data.s != nil && m.data.end {
			return out, used, m.dataEnd(nil)
		}
		return out, used, Event{Kind: None}
	}
	n, ev := m.body(in[used:])
	if ev.Kind == More && n == 0 {
		ev.Kind = None // the head of the frame is used
	}
	return m.flushCredit(out), used + n, ev
}

// dataOnDead handles DATA on a stream that is over. What a peer sent before it knew that we had reset the stream is no fault of
// its own, in however many frames it comes, and is as much as the stream's window was.
func (m *Machine) dataOnDead(out []byte, id, left uint32, now int64) ([]byte, Event) {
	m.giveBack(left)
	switch m.fateOf(id) {
	case weReset, forgotten:
		if n := int64(left); n > 0 && n <= m.orphaned {
			m.orphaned -= n
			return out, Event{}
		}
	case ended, neverUsed:
		return m.fail(out, EndedStream)
	case theyReset:
		out = appendReset(out, id, StreamClosed)
		if !m.spendReset(now) {
			return m.fail(out, ErrorFlood)
		}
	}
	if !m.spend(1, now) {
		return m.fail(out, DeadStreamFlood)
	}
	return out, Event{}
}

// dataOn checks DATA on a live stream; the event is More when its payload is to be read.
func (m *Machine) dataOn(out []byte, s *Stream, size, left uint32, end bool, now int64) ([]byte, Event) {
	r := OK
	switch {
	case s.is(recvDone):
		r = AfterEnd
	case !s.is(headRead):
		r = DataBeforeHead
	case int64(size) > int64(s.recvWindow):
		r = StreamWindowExceeded
	case s.is(dropBody):
	case s.left >= 0 && (int64(left) > s.left || end && int64(left) < s.left):
		r = LengthMismatch
	}
	if r != OK {
		m.giveBack(left)
		return m.streamError(out, s, r, now)
	}
	s.recvWindow -= int32(size)
	s.credit += size - left
	if left == 0 && !end && !m.spend(1, now) {
		return m.fail(out, EmptyDataFlood)
	}
	if s.is(dropBody) {
		m.giveBack(left)
		s.credit += left
		if end {
			m.endRecv(s)
		}
		return m.flushStreamCredit(out, s), Event{}
	}
	if left > 0 {
		m.earn(1)
		if s.left >= 0 {
			s.left -= int64(left)
		}
	}
	m.data.s = s
	return m.flushStreamCredit(out, s), Event{}
}

// body reads the payload of a DATA frame.
func (m *Machine) body(in []byte) (used int, ev Event) {
	d := &m.data
	n := min(d.left, uint32(len(in)))
	d.left -= n
	if n > 0 && d.s != nil {
		d.s.unconsumed += n
		if d.left+d.pad > 0 {
			return int(n), Event{Kind: Data, Stream: d.s, Data: in[:n]}
		}
		d.on = false
		if d.end {
			return int(n), m.dataEnd(in[:n])
		}
		return int(n), Event{Kind: Data, Stream: d.s, Data: in[:n]}
	}
	p := min(d.pad, uint32(len(in))-n)
	d.pad -= p
	used = int(n + p)
	if d.left+d.pad > 0 {
		if used == 0 {
			return 0, Event{}
		}
		return used, Event{Kind: None}
	}
	d.on = false
	if d.s != nil && d.end {
		return used, m.dataEnd(nil)
	}
	return used, Event{Kind: None}
}

// dataEnd is the event of a body's end.
func (m *Machine) dataEnd(b []byte) Event {
	s := m.data.s
	m.data.s = nil
	m.endRecv(s)
	return Event{Kind: Data, Stream: s, Data: b, End: true}
}

// Consumed gives the peer room for n more bytes of a stream's body, which the caller has passed on.
func (m *Machine) Consumed(out []byte, s *Stream, n int) []byte {
	k := min(uint32(n), s.unconsumed)
	s.unconsumed -= k
	s.credit += k
	m.giveBack(k)
	if m.reason != OK {
		return out
	}
	return m.flushCredit(m.flushStreamCredit(out, s))
}

// giveBack notes room on the connection.
func (m *Machine) giveBack(n uint32) { m.credit += n }

// flushCredit tells the peer of room on the connection once it is worth a frame: half of the window.
func (m *Machine) flushCredit(out []byte) []byte {
	if m.credit < m.o.ConnWindow/2 || m.reason != OK {
		return out
	}
	out = appendWindowUpdate(out, 0, m.credit)
	m.recvWindow += int32(m.credit)
	m.credit = 0
	return out
}

func (m *Machine) flushStreamCredit(out []byte, s *Stream) []byte {
	if s.credit < m.o.StreamWindow/2 || !s.is(known) || s.is(recvDone) {
		return out
	}
	out = appendWindowUpdate(out, s.id, s.credit)
	s.recvWindow += int32(s.credit)
	s.credit = 0
	return out
}
