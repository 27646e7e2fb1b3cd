package h2

import (
	"encoding/binary"

	"github.com/weirmesh/weir/proxy/http/message"
)

func appendFrame(out []byte, size int, t frameType, flags uint8, id uint32) []byte {
	return append(out, byte(size>>16), byte(size>>8), byte(size), byte(t), flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func putFrame(b []byte, size int, t frameType, flags uint8, id uint32) {
	_ = b[8]
	b[0], b[1], b[2], b[3], b[4] = byte(size>>16), byte(size>>8), byte(size), byte(t), flags
	binary.BigEndian.PutUint32(b[5:], id)
}

func appendSetting(out []byte, id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(out, id), v)
}

func appendWindowUpdate(out []byte, id, more uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(out, 4, frameWindowUpdate, 0, id), more)
}

func appendReset(out []byte, id uint32, c Code) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(out, 4, frameReset, 0, id), uint32(c))
}

func appendPing(out []byte, flags uint8, data uint64) []byte {
	return binary.BigEndian.AppendUint64(appendFrame(out, 8, framePing, flags, 0), data)
}

func (m *Machine) appendGoAway(out []byte, last uint32, c Code, debug string) []byte {
	out = appendFrame(out, 8+len(debug), frameGoAway, 0, 0)
	out = binary.BigEndian.AppendUint32(out, last)
	out = binary.BigEndian.AppendUint32(out, uint32(c))
	return append(out, debug...)
}

// isMethod reports whether in begins as an HTTP/1 request does.
func isMethod(in []byte) bool {
	for i, c := range in {
		if c == ' ' {
			return i > 0 && message.MethodOf(in[:i]) != message.MethodOther
		}
		if c < 'A' || c > 'Z' || i == 8 {
			break
		}
	}
	return false
}

// idle reports whether a stream was never opened.
func (m *Machine) idle(id uint32) bool {
	switch {
	case id&1 == 0:
		return true
	case m.is(isServer):
		return id > m.lastPeer
	}
	return id >= m.nextOwn
}

// fateOf says how a stream ended that is not in the table and not idle.
func (m *Machine) fateOf(id uint32) fate {
	if m.is(isServer) {
		return m.past.get(id, m.lastPeer)
	}
	return m.past.get(id, m.nextOwn-2)
}

// onSettings handles SETTINGS (RFC 9113 section 6.5).
func (m *Machine) onSettings(out, p []byte, flags uint8, id uint32, now int64) ([]byte, Event) {
	switch {
	case id != 0:
		return m.fail(out, InvalidStreamID)
	case flags&flagEnd != 0 && len(p) > 0 || len(p)%6 != 0:
		return m.fail(out, InvalidFrameSize)
	case flags&flagEnd != 0:
		if m.is(acked) {
			return m.overhead(out, UnknownFrameFlood, 1, now)
		}
		m.flags |= acked
		m.ownSettingsHold()
		return out, Event{Kind: None}
	}
	if m.is(hasSettings) && !m.spend(settingsCost, now) {
		return m.fail(out, SettingsFlood)
	}
	m.flags |= hasSettings
	if r := m.applySettings(p); r != OK {
		return m.fail(out, r)
	}
	return appendFrame(out, 0, frameSettings, flagEnd, 0), Event{Kind: Settings}
}

// ownSettingsHold: what the peer sends from now on obeys our settings.
func (m *Machine) ownSettingsHold() {
	m.dec.SetLimit(m.o.TableSize)
	more := int32(m.o.StreamWindow) - m.recvInitial
	m.recvInitial = int32(m.o.StreamWindow)
	for s := m.all; s != nil; s = s.next {
		s.recvWindow += more
	}
}

func (m *Machine) applySettings(p []byte) Reason {
	window := m.initialWindow
	for ; len(p) > 0; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingTableSize:
			m.enc.SetLimit(v)
		case settingPush:
			if v > 1 || v == 1 && !m.is(isServer) {
				return InvalidSetting
			}
		case settingMaxStreams:
			m.maxStreams = v
		case settingWindow:
			if v > maxWindow {
				return WindowOverflow
			}
			window = int32(v)
		case settingFrameSize:
			if v < maxFrame || v > 1<<24-1 {
				return InvalidSetting
			}
		case settingConnectAllowed:
			if v > 1 || v == 0 && m.is(connectAllowed) {
				return InvalidSetting
			}
			if v == 1 {
				m.flags |= connectAllowed
			}
		}
	}
	more := int64(window) - int64(m.initialWindow)
	if more == 0 {
		return OK
	}
	m.initialWindow = window
	for s := m.all; s != nil; s = s.next {
		w := int64(s.sendWindow) + more
		if w > maxWindow {
			return WindowOverflow
		}
		s.sendWindow = int32(w)
		m.windowChanged(s)
	}
	return OK
}

func (m *Machine) onPing(out, p []byte, flags uint8, id uint32, now int64) ([]byte, Event) {
	switch {
	case len(p) != 8:
		return m.fail(out, InvalidFrameSize)
	case id != 0:
		return m.fail(out, InvalidStreamID)
	case flags&flagEnd == 0:
		if !m.spend(1, now) {
			return m.fail(out, PingFlood)
		}
		return append(appendFrame(out, 8, framePing, flagEnd, 0), p...), Event{Kind: None}
	case m.is(goneFirst) && !m.is(goneFinal) && binary.BigEndian.Uint64(p) == drainPing:
		return m.Close(out, NoError), Event{Kind: None}
	case m.pings == 0:
		return m.overhead(out, UnknownFrameFlood, 1, now)
	}
	m.pings--
	return out, Event{Kind: Pong, Data: p}
}

// onPriority ignores priorities (RFC 9113 section 5.3.2), not what RFC 7540 section 5.3.1 forbade.
func (m *Machine) onPriority(out, p []byte, id uint32, now int64) ([]byte, Event) {
	s := m.table.get(id)
	switch {
	case id == 0:
		return m.fail(out, InvalidStreamID)
	case len(p) != 5 && s != nil:
		return m.streamError(out, s, StreamInvalidFrameSize, now)
	case len(p) != 5:
		return m.fail(out, InvalidFrameSize)
	case binary.BigEndian.Uint32(p)&maxID == id && s != nil:
		return m.streamError(out, s, SelfDependency, now)
	case binary.BigEndian.Uint32(p)&maxID == id:
		return m.fail(out, SelfDependency)
	}
	return m.overhead(out, PriorityFlood, 1, now)
}

func (m *Machine) onReset(out, p []byte, id uint32, now int64) ([]byte, Event) {
	switch {
	case len(p) != 4:
		return m.fail(out, InvalidFrameSize)
	case id == 0:
		return m.fail(out, InvalidStreamID)
	case m.idle(id):
		return m.fail(out, IdleStream)
	}
	s := m.table.get(id)
	if s == nil {
		return m.overhead(out, DeadStreamFlood, 1, now)
	}
	m.end(s, theyReset)
	if m.is(isServer) && !s.is(headSent) && now-s.opened < prematureAge && !m.spendReset(now) {
		return m.fail(out, ResetFlood)
	}
	c := Code(binary.BigEndian.Uint32(p))
	return out, Event{Kind: Reset, Stream: s, Code: c, Reason: PeerReset, Retry: c == RefusedStream}
}

func (m *Machine) onGoAway(out, p []byte, id uint32, now int64) ([]byte, Event) {
	switch {
	case id != 0:
		return m.fail(out, InvalidStreamID)
	case len(p) < 8:
		return m.fail(out, InvalidFrameSize)
	}
	last := binary.BigEndian.Uint32(p) & maxID
	if m.is(peerGone) {
		if !m.spend(settingsCost, now) {
			return m.fail(out, UnknownFrameFlood)
		}
		last = min(last, m.goneAfter)
	}
	m.flags |= peerGone
	m.goneAfter = last
	if !m.is(isServer) {
		m.flags |= sweeping
	}
	return out, Event{Kind: GoAway, Code: Code(binary.BigEndian.Uint32(p[4:])), Data: p[8:]}
}

// sweep tells of a stream that the server's GOAWAY does not take.
func (m *Machine) sweep() Event {
	for s := m.all; s != nil; s = s.next {
		if s.is(known) && s.id > m.goneAfter {
			m.end(s, theyReset)
			return Event{Kind: Reset, Stream: s, Code: RefusedStream, Reason: Unprocessed, Retry: true}
		}
	}
	m.flags &^= sweeping
	return Event{Kind: None}
}

func (m *Machine) onWindowUpdate(out, p []byte, id uint32, now int64) ([]byte, Event) {
	if len(p) != 4 {
		return m.fail(out, InvalidFrameSize)
	}
	more := binary.BigEndian.Uint32(p) & maxID
	if id == 0 {
		switch {
		case more == 0:
			return m.fail(out, InvalidWindowUpdate)
		case int64(m.sendWindow)+int64(more) > maxWindow:
			return m.fail(out, WindowOverflow)
		}
		m.sendWindow += int32(more)
		return m.overhead(out, WindowUpdateFlood, 1, now)
	}
	if m.idle(id) {
		return m.fail(out, IdleStream)
	}
	if s := m.table.get(id); s != nil {
		switch {
		case more == 0:
			return m.streamError(out, s, StreamInvalidWindowUpdate, now)
		case int64(s.sendWindow)+int64(more) > maxWindow:
			return m.streamError(out, s, StreamWindowOverflow, now)
		}
		s.sendWindow += int32(more)
		m.windowChanged(s)
	}
	return m.overhead(out, WindowUpdateFlood, 1, now)
}

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

// dataOnDead handles DATA on a stream that is over.
func (m *Machine) dataOnDead(out []byte, id, left uint32, now int64) ([]byte, Event) {
	m.giveBack(left)
	switch m.fateOf(id) {
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
