package h2

import "strconv"

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
	Reason Reason // of Refuse, Reset, Failed; None with Refused: a stream was
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

var codes = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}

// String is the name the RFC gives the code.
func (c Code) String() string {
	if int(c) < len(codes) {
		return codes[c]
	}
	return strconv.FormatUint(uint64(c), 10)
}
