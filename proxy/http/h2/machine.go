package h2

import (
	"encoding/binary"
	"time"

	"github.com/weirmesh/weir/proxy/http/hpack"
)

// Options are what one side decides about a connection. The zero value takes the defaults.
type Options struct {
	MaxStreams      int           // the peer may have open at once (server); 0: DefaultMaxStreams
	HeadBytes       int           // of a header list, counted as RFC 7541 section 4.1 has it, of a response with the interim ones before it; trailers again as much. 0: DefaultHeadBytes
	Fields          int           // in a header list. 0: DefaultFields
	TableSize       uint32        // of the HPACK decoder, and at most of the encoder. 0: 4096
	StreamWindow    uint32        // what the peer may send on a stream before it is consumed; 0: DefaultStreamWindow
	ConnWindow      uint32        // the same on the connection, at least 65,535; 0: DefaultConnWindow
	StallTime       time.Duration // how long the peer may keep its windows closed while something waits; 0: DefaultStallTime
	ExtendedConnect bool          // server: announce and take CONNECT with :protocol
	Streams         *Pool         // where Streams come from and go back; nil: the machine's own
}

const (
	DefaultMaxStreams = 256      // h2load and browsers use up to 100, gRPC clients queue what is beyond
	DefaultHeadBytes  = 60 << 10 // as in HTTP/1.1
	DefaultFields     = 100      // as in HTTP/1.1
	DefaultStallTime  = 5 * time.Minute

	// 256 KiB are the high mark of a connection's output: what one slow reader may make us hold. Eight such streams stop the
	// connection, which so holds 2 MiB at most.
	DefaultStreamWindow = 256 << 10
	DefaultConnWindow   = 2 << 20

	StepRoom    = 128 // what Start, Step and Tick append at most
	ControlRoom = 64  // what Consumed, Release, Ping, Drain and Close append at most

	frameHead     = 9
	maxFrame      = 16 << 10 // the default of SETTINGS_MAX_FRAME_SIZE: larger frames only make streams wait for each other
	defaultWindow = 65535    // RFC 9113 section 6.9.2
	maxWindow     = 1<<31 - 1
	maxID         = 1<<31 - 1

	assumedStreams = 100  // what a server lets us open before it has said (RFC 9113 section 6.5.2 recommends no less)
	ackTime        = 30e9 // ns a peer has to acknowledge our SETTINGS: generous, a hold-up of the network is no offence
	drainTime      = 5e9  // ns a peer has to answer the PING of a drain
)

type frameType uint8

const (
	frameData frameType = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePush
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

const (
	flagEnd        = 0x1 // END_STREAM, ACK
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// drainPing is the PING between the two GOAWAY of a drain.
const drainPing = 0x7765697264726e00

// Machine is one connection.
type Machine struct {
	dec    hpack.Decoder
	enc    hpack.Encoder
	table  streams
	all    *Stream // all that were not released
	ring   *Stream // whose turn comes next; the list is circular
	turn   *Stream // whose turn it is
	o      Options
	own    Pool
	past   past
	block  []byte // header block that comes in pieces
	budget budget

	data struct { // the DATA frame being read
		s    *Stream // nil: nobody wants it
		left uint32  // bytes of data
		pad  uint32
		on   bool
		end  bool
	}

	started, moved, drained int64 // when: the connection; a Tick last found that nothing stalls; the drain

	active   int // streams not ended by both sides
	waiters  int // streams with waiting set
	lastPeer uint32
	nextOwn  uint32

	sendWindow, recvWindow int32
	credit                 uint32 // consumed, and not given back on the connection yet
	recvInitial            int32  // window of streams the peer opens or answers, as far as it knows
	orphaned               int64  // what the peer may have on its way on streams that we reset

	// The peer's settings.
	initialWindow int32
	maxStreams    uint32

	continuing    uint32 // the stream whose header block is being read, 0: none
	continuations int8
	blockEnds     bool // END_STREAM of that block's HEADERS

	announced uint32 // the last stream our final GOAWAY takes
	goneAfter uint32 // client: the last stream the server's GOAWAY takes
	pings     uint8  // ours, not answered
	flags     machineFlags
	reason    Reason
}

type machineFlags uint16

const (
	isServer machineFlags = 1 << iota
	prefaced              // the client's preface was read
	hasSettings
	acked          // our SETTINGS
	connectAllowed // the peer takes extended CONNECT
	goneFirst      // we sent the first GOAWAY of a drain
	goneFinal      // we sent the final GOAWAY
	peerGone       // the peer sent GOAWAY
	sweeping       // streams behind goneAfter are still to be told
	progress       // DATA was sent since the last Tick
)

func (m *Machine) is(f machineFlags) bool { return m.flags&f != 0 }

// StartServer begins a connection as its server and appends what is sent first.
func (m *Machine) StartServer(out []byte, o *Options, now int64) []byte {
	m.start(o, now)
	m.flags = isServer
	return m.hello(out)
}

// StartClient begins a connection as its client and appends what is sent first.
func (m *Machine) StartClient(out []byte, o *Options, now int64) []byte {
	m.start(o, now)
	m.flags = prefaced
	m.nextOwn = 1
	return m.hello(append(out, preface...))
}

func (m *Machine) start(o *Options, now int64) {
	*m = Machine{o: *o, sendWindow: defaultWindow, recvWindow: defaultWindow, recvInitial: defaultWindow, initialWindow: defaultWindow,
		maxStreams: assumedStreams, started: now, moved: now, block: m.block[:0], own: m.own}
	d := &m.o
	d.MaxStreams = orElse(d.MaxStreams, DefaultMaxStreams)
	d.HeadBytes = orElse(d.HeadBytes, DefaultHeadBytes)
	d.Fields = orElse(d.Fields, DefaultFields)
	d.TableSize = min(orElse(d.TableSize, hpack.DefaultTableSize), hpack.MaxTableSize)
	d.StreamWindow = min(orElse(d.StreamWindow, DefaultStreamWindow), maxWindow)
	d.ConnWindow = min(max(orElse(d.ConnWindow, DefaultConnWindow), defaultWindow), maxWindow)
	d.StallTime = orElse(d.StallTime, DefaultStallTime)
	if d.Streams == nil {
		d.Streams = &m.own
	}
	m.dec.Init()
	m.enc.Init(d.TableSize)
	m.budget = budget{refilled: now, resets: m.maxResets(), overhead: overheadBurst}
}

func orElse[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// The settings of RFC 9113 section 6.5.2 and RFC 8441 section 3.
const (
	settingTableSize      = 1
	settingPush           = 2
	settingMaxStreams     = 3
	settingWindow         = 4
	settingFrameSize      = 5
	settingHeadBytes      = 6
	settingConnectAllowed = 8
)

// hello appends our SETTINGS and enlarges the connection's window.
func (m *Machine) hello(out []byte) []byte {
	at := len(out)
	out = appendFrame(out, 0, frameSettings, 0, 0)
	if m.is(isServer) {
		out = appendSetting(out, settingMaxStreams, uint32(m.o.MaxStreams))
		if m.o.ExtendedConnect {
			out = appendSetting(out, settingConnectAllowed, 1)
		}
	} else {
		out = appendSetting(out, settingPush, 0)
	}
	if m.o.TableSize != hpack.DefaultTableSize {
		out = appendSetting(out, settingTableSize, m.o.TableSize)
	}
	out = appendSetting(out, settingWindow, m.o.StreamWindow)
	out = appendSetting(out, settingHeadBytes, uint32(m.o.HeadBytes))
	out[at+2] = byte(len(out) - at - frameHead)
	if more := m.o.ConnWindow - defaultWindow; more > 0 {
		out = appendWindowUpdate(out, 0, more)
		m.recvWindow += int32(more)
	}
	return out
}

// Failed is why the connection is over, OK as long as it is not.
func (m *Machine) Failed() Reason { return m.reason }

// Active is the number of streams that are not ended by both sides.
func (m *Machine) Active() int { return m.active }

// First is a stream that was not released, nil: there is none. With Release it empties a machine whose connection is over.
func (m *Machine) First() *Stream { return m.all }

// Draining reports that no new streams are possible: one side has said GOAWAY, or the numbers are used up.
func (m *Machine) Draining() bool {
	return m.flags&(goneFirst|goneFinal|peerGone) != 0 || m.nextOwn > maxID || m.reason != OK
}

// Closing reports that we said our final GOAWAY: the connection is over once its streams are.
func (m *Machine) Closing() bool { return m.is(goneFinal) || m.reason != OK }

// ConnectProtocol reports that the peer takes extended CONNECT (RFC 8441).
func (m *Machine) ConnectProtocol() bool { return m.is(connectAllowed) }

// Capacity is how many streams a client may open now.
func (m *Machine) Capacity() int {
	if m.Draining() || m.is(isServer) {
		return 0
	}
	return int(max(0, min(int64(m.maxStreams)-int64(m.active), (maxID-int64(m.nextOwn))/2)))
}

// http1 begins the answers of a server that does not speak HTTP/2.
const http1 = "HTTP/1."

// Step looks at in, all bytes received and not used yet, and reports the next event. used bytes are done with. It handles at most one
// frame and appends at most StepRoom bytes to out. now is a time in ns that never goes back.
func (m *Machine) Step(out, in []byte, now int64) (_ []byte, used int, ev Event) {
	switch {
	case m.reason != OK:
		return out, 0, Event{Kind: Failed, Reason: m.reason, Code: m.reason.Code()}
	case m.is(sweeping):
		if ev = m.sweep(); ev.Kind != None {
			return out, 0, ev
		}
	case !m.is(prefaced):
		return m.readPreface(out, in)
	}
	if m.data.on {
		used, ev = m.body(in)
		return out, used, ev
	}
	if len(in) < frameHead {
		return out, 0, ev
	}
	size := uint32(in[0])<<16 | uint32(in[1])<<8 | uint32(in[2])
	typ, flags := frameType(in[3]), in[4]
	id := binary.BigEndian.Uint32(in[5:]) & maxID
	switch {
	case size > maxFrame:
		why := FrameTooLarge
		if !m.is(isServer) && string(in[:len(http1)]) == http1 {
			why = HTTP1Response
		}
		out, ev = m.fail(out, why)
		return out, 0, ev
	case m.continuing != 0 && (typ != frameContinuation || id != m.continuing):
		out, ev = m.fail(out, InterruptedHeaders)
		return out, 0, ev
	case !m.is(hasSettings) && (typ != frameSettings || flags&flagEnd != 0):
		out, ev = m.fail(out, MissingSettings)
		return out, 0, ev
	case typ == frameData:
		return m.onData(out, in, size, flags, id, now)
	case uint32(len(in)) < frameHead+size:
		return out, 0, ev
	}
	used = int(frameHead + size)
	payload := in[frameHead:used]
	switch typ {
	case frameHeaders:
		out, ev = m.onHeaders(out, payload, flags, id, now)
		if ev.Kind == Open {
			used = 0 // shown again, when the caller has said where the request goes
		}
	case frameContinuation:
		out, ev = m.onContinuation(out, payload, flags, now)
	case frameWindowUpdate:
		out, ev = m.onWindowUpdate(out, payload, id, now)
	case frameReset:
		out, ev = m.onReset(out, payload, id, now)
	case framePing:
		out, ev = m.onPing(out, payload, flags, id, now)
	case frameSettings:
		out, ev = m.onSettings(out, payload, flags, id, now)
	case framePriority:
		out, ev = m.onPriority(out, payload, id, now)
	case frameGoAway:
		out, ev = m.onGoAway(out, payload, id, now)
	case framePush:
		out, ev = m.fail(out, UnexpectedPush)
	default: // RFC 9113 section 5.5
		out, ev = m.overhead(out, UnknownFrameFlood, 1, now)
	}
	return out, used, ev
}

func (m *Machine) readPreface(out, in []byte) (_ []byte, used int, ev Event) {
	n := min(len(in), len(preface))
	if string(in[:n]) != preface[:n] {
		r := InvalidPreface
		if isMethod(in) {
			r = HTTP1Request
		}
		out, ev = m.fail(out, r)
		return out, 0, ev
	}
	if n < len(preface) {
		return out, 0, ev
	}
	m.flags |= prefaced
	return out, n, Event{Kind: None}
}

// fail ends the connection.
func (m *Machine) fail(out []byte, r Reason) ([]byte, Event) {
	m.reason = r
	out = m.appendGoAway(out, m.lastTaken(), r.Code(), r.String())
	return out, Event{Kind: Failed, Reason: r, Code: r.Code()}
}

// overhead pays for a frame without use.
func (m *Machine) overhead(out []byte, flood Reason, cost int32, now int64) ([]byte, Event) {
	if !m.spend(cost, now) {
		return m.fail(out, flood)
	}
	return out, Event{Kind: None}
}

// streamError resets a stream for something the peer did.
func (m *Machine) streamError(out []byte, s *Stream, r Reason, now int64) ([]byte, Event) {
	out = appendReset(out, s.id, r.Code())
	m.end(s, weReset)
	if !m.spendReset(now) {
		return m.fail(out, ErrorFlood)
	}
	return out, Event{Kind: Reset, Stream: s, Reason: r, Code: r.Code()}
}

// end takes a stream out of the table.
func (m *Machine) end(s *Stream, f fate) {
	if !s.is(known) {
		return
	}
	s.flags &^= known
	m.stopWaiting(s)
	m.table.remove(s)
	m.past.set(s.id, m.newest(), f)
	m.active--
	if f == weReset && !s.is(recvDone) {
		m.orphaned += int64(max(s.recvWindow, 0))
	}
	if m.data.s == s {
		m.data.s = nil
		m.giveBack(m.data.left)
	}
}

// endRecv notes that the peer has ended its side.
func (m *Machine) endRecv(s *Stream) {
	s.flags |= recvDone
	if s.is(sendDone) {
		m.end(s, ended)
	}
}

// endSend notes that we have ended our side.
func (m *Machine) endSend(s *Stream) {
	s.flags |= sendDone
	m.stopWaiting(s)
	if s.is(recvDone) {
		m.end(s, ended)
	}
}

// open makes a stream.
func (m *Machine) open(id uint32, now int64) *Stream {
	s := m.o.Streams.get()
	s.id, s.opened, s.left = id, now, -1
	s.sendWindow, s.recvWindow = m.initialWindow, m.recvInitial
	s.flags = known
	if s.next = m.all; m.all != nil {
		m.all.prev = s
	}
	m.all = s
	m.table.put(s)
	m.active++
	m.earn(overheadPerStream)
	return s
}

// Release ends the caller's interest in a stream: unless both sides have ended it, it is reset with a code. After a complete response
// to a request that is not complete NoError asks the client to stop sending (RFC 9113 section 8.1).
func (m *Machine) Release(out []byte, s *Stream, c Code) []byte {
	if s.is(known) {
		if m.reason == OK {
			out = appendReset(out, s.id, c)
		}
		m.end(s, weReset)
	}
	if m.turn == s {
		m.turn = nil
	}
	m.giveBack(s.unconsumed)
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		m.all = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	m.o.Streams.put(s)
	return m.flushCredit(out)
}

// Tick is called every few seconds while streams are open or a drain is under way. The event is None or Failed.
func (m *Machine) Tick(out []byte, now int64) ([]byte, Event) {
	if m.waiters == 0 || m.is(progress) || m.canSend() {
		m.moved = now
		m.flags &^= progress
	}
	switch {
	case m.reason != OK:
		return out, Event{Kind: Failed, Reason: m.reason, Code: m.reason.Code()}
	case !m.is(acked) && now-m.started > ackTime:
		return m.fail(out, LateSettingsAck)
	case now-m.moved > int64(m.o.StallTime):
		return m.fail(out, StalledWindows)
	case m.is(goneFirst) && !m.is(goneFinal) && now-m.drained > drainTime:
		out = m.Close(out, NoError)
	}
	return out, Event{Kind: None}
}

// Ping appends a PING; the answer is the event Pong.
func (m *Machine) Ping(out []byte, data uint64) []byte {
	if m.reason != OK || m.pings == 255 {
		return out
	}
	m.pings++
	return appendPing(out, 0, data)
}

// Drain ends the connection gracefully: no stream that a client opens before it knows is lost. The final GOAWAY follows by itself, when
// the client has answered or Tick finds that it does not. A client that drains only opens no more streams.
func (m *Machine) Drain(out []byte, now int64) []byte {
	if m.reason != OK || m.flags&(goneFirst|goneFinal) != 0 {
		return out
	}
	m.flags |= goneFirst
	m.drained = now
	if !m.is(isServer) {
		m.flags |= goneFinal
		return m.appendGoAway(out, 0, NoError, "")
	}
	return appendPing(m.appendGoAway(out, maxID, NoError, ""), 0, drainPing)
}

// Close appends a final GOAWAY: streams that the peer opens from now on are refused.
func (m *Machine) Close(out []byte, c Code) []byte {
	if m.reason != OK {
		return out
	}
	last := m.lastTaken()
	m.flags |= goneFinal
	m.announced = last
	return m.appendGoAway(out, last, c, "")
}

// lastTaken is the last stream of the peer that we process.
func (m *Machine) lastTaken() uint32 {
	if m.is(goneFinal) {
		return m.announced
	}
	return m.lastPeer
}
