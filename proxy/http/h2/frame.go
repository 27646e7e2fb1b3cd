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
	return m.past.get(id, m.newest())
}

// newest is the highest stream that was opened.
func (m *Machine) newest() uint32 {
	if m.is(isServer) {
		return m.lastPeer
	}
	return m.nextOwn - 2
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
