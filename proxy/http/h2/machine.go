package h2

import "github.com/weirmesh/weir/proxy/http/message"

// Options are what one side decides about a connection. The zero value takes the defaults.
type Options struct {
	MaxStreams      int    // the peer may have open at once (server); 0: DefaultMaxStreams
	HeadBytes       int    // of a header list, counted as RFC 7541 section 4.1 has it; trailers again as much. 0: DefaultHeadBytes
	Fields          int    // in a header list. 0: DefaultFields
	TableSize       uint32 // of the HPACK decoder, and at most of the encoder. 0: 4096
	StreamWindow    uint32 // what the peer may send on a stream before it is consumed; 0: DefaultStreamWindow
	ConnWindow      uint32 // the same on the connection; 0: DefaultConnWindow
	ExtendedConnect bool   // server: announce and take CONNECT with :protocol
	Streams         *Pool  // where Streams come from and go back; nil: the machine's own
}

const (
	DefaultMaxStreams   = 256
	DefaultHeadBytes    = 60 << 10
	DefaultFields       = 100
	DefaultStreamWindow = 256 << 10
	DefaultConnWindow   = 2 << 20

	StepRoom    = 128 // what Step and Tick append at most
	ControlRoom = 64  // what Consumed, Release, Ping, Drain, Close append at most
)

// Kind is what an Event tells.
type Kind uint8

const (
	More     Kind = iota // nothing: show the unused bytes again with more behind them
	None                 // a frame that concerns nobody: Step again
	Open                 // server: a new stream; bind it with Stream.Request before the next Step, else it is refused
	Head                 // the message's head is complete
	Interim              // client: a head with a status below 200; Reset the Response before the next Step
	Data                 // bytes of the body
	Trailers             // the trailers are complete
	Refuse               // server: the head cannot be taken, the stream can be answered with Reason.Status
	Reset                // the stream is over
	GoAway               // the peer takes no more streams
	Settings             // the peer's settings arrived
	Pong                 // the answer to Ping
	Failed               // the connection is over: send the output and close
)

// Event is what a Step found.
type Event struct {
	Stream *Stream
	Data   []byte // of Data: part of the input. Of Pong: 8 bytes. Of GoAway: the peer's debug data
	Code   Code   // of Reset and GoAway
	Kind   Kind
	Reason Reason // of Refuse, Reset, Failed
	End    bool   // the message is complete
	Retry  bool   // of Reset: the peer processed nothing of it
}

// Code is an error code (RFC 9113 section 7).
type Code uint32

const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

// Reason says why a stream or connection was ended.
type Reason uint8

func (r Reason) String() string   { return "" }
func (r Reason) Status() int      { return 0 }
func (r Reason) Sentence() string { return "" }
func (r Reason) Code() Code       { return 0 }

const (
	OK Reason = iota
	PeerReset
)

// Stream is one request and response of a connection. It belongs to the caller from Open, Request or Upgrade until Release.
type Stream struct {
	Owner any // the caller's
}

// ID is the stream's number on the wire.
func (s *Stream) ID() uint32 { return 0 }

// Request says where the request goes that opened the stream.
func (s *Stream) Request(q *message.Request, trailers *message.Headers, a *message.Arena) {}

// Pool keeps Streams for reuse by the machines of one loop.
type Pool struct{ free *Stream }

// Machine is one connection.
type Machine struct{}

func (m *Machine) StartServer(out []byte, o *Options, now int64) []byte { return out }
func (m *Machine) StartClient(out []byte, o *Options, now int64) []byte { return out }
func (m *Machine) Upgrade(out, settings []byte, now int64) (*Stream, []byte, Reason) {
	return nil, out, OK
}
func (m *Machine) Step(out, in []byte, now int64) (_ []byte, used int, ev Event) { return out, 0, ev }
func (m *Machine) Tick(out []byte, now int64) ([]byte, Event)                    { return out, Event{} }
func (m *Machine) Consumed(out []byte, s *Stream, n int) []byte                  { return out }
func (m *Machine) Request(out []byte, q *message.Request, p *message.Response, trailers *message.Headers, a *message.Arena, now int64) (*Stream, []byte) {
	return nil, out
}
func (m *Machine) Response(out []byte, s *Stream, p *message.Response) []byte { return out }
func (m *Machine) Data(out []byte, s *Stream, b []byte, end bool) (_ []byte, n int) {
	return out, 0
}
func (m *Machine) Trailers(out []byte, s *Stream, h *message.Headers) []byte { return out }
func (m *Machine) Wait(s *Stream)                                            {}
func (m *Machine) Ready() *Stream                                            { return nil }
func (m *Machine) Release(out []byte, s *Stream, c Code) []byte              { return out }
func (m *Machine) Discard() *Stream                                          { return nil }
func (m *Machine) Ping(out []byte, data uint64) []byte                       { return out }
func (m *Machine) Drain(out []byte, now int64) []byte                        { return out }
func (m *Machine) Close(out []byte, c Code) []byte                           { return out }
func (m *Machine) Capacity() int                                             { return 0 }
func (m *Machine) Active() int                                               { return 0 }
func (m *Machine) Draining() bool                                            { return false }
func (m *Machine) ConnectProtocol() bool                                     { return false }
func (m *Machine) Failed() Reason                                            { return OK }

func RequestRoom(q *message.Request) int   { return 0 }
func ResponseRoom(p *message.Response) int { return 0 }
func TrailersRoom(h *message.Headers) int  { return 0 }
func DataRoom(n int) int                   { return 0 }
