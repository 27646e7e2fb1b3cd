package h2

import "github.com/weirmesh/weir/proxy/http/hpack"

// Reason says why a stream or the connection was ended, or a head refused: a closed set. Reasons of header compression follow behind
// our own.
type Reason uint8

const (
	OK Reason = iota
	PeerReset
	Unprocessed // GOAWAY said so

	// Of the connection.
	InvalidPreface
	HTTP1Request
	MissingSettings
	HTTP1Response
	FrameTooLarge
	InvalidFrameSize
	InvalidPadding
	InvalidStreamID
	IdleStream
	EndedStream
	InterruptedHeaders
	UnexpectedContinuation
	InvalidSetting
	InvalidWindowUpdate
	WindowOverflow
	WindowExceeded
	UnexpectedPush
	HeadersTooLarge
	LateSettingsAck
	StalledWindows

	// Of the connection: floods.
	ContinuationFlood
	ResetFlood
	ErrorFlood
	SettingsFlood
	PingFlood
	EmptyDataFlood
	PriorityFlood
	WindowUpdateFlood
	DeadStreamFlood
	UnknownFrameFlood
	InterimFlood

	// Of a stream: flow and order of frames.
	Refused
	SelfDependency
	StreamInvalidWindowUpdate
	StreamWindowOverflow
	StreamWindowExceeded
	StreamInvalidFrameSize
	AfterEnd
	DataBeforeHead

	// Of a stream: malformed messages (RFC 9113 section 8.1.1).
	UpperCaseName
	InvalidName
	InvalidValue
	PaddedValue
	UnknownPseudo
	DuplicatePseudo
	LatePseudo
	MissingPseudo
	UnexpectedPseudo
	ConnectionField
	InvalidTE
	InvalidMethod
	InvalidScheme
	InvalidPath
	InvalidAuthority
	UserinfoInAuthority
	DuplicateHost
	DifferingHost
	InvalidProtocol
	InvalidStatus
	InvalidContentLength
	DifferingContentLengths
	LengthMismatch
	TrailersWithoutEnd
	TrailersTooLarge
	InterimWithEnd

	// Of a request's head that can be answered.
	MissingAuthority
	UnknownExpectation
	HeadTooLarge
	TooManyFields

	compression // hpack's follow
)

var reasons = [compression]struct {
	name     string
	code     Code
	status   int
	sentence string
}{
	OK:          {"ok", NoError, 0, ""},
	PeerReset:   {"peer_reset", NoError, 0, "the peer reset the stream"},
	Unprocessed: {"unprocessed", NoError, 0, "the peer closes the connection and did not process the request"},

	InvalidPreface:         {"invalid_preface", ProtocolError, 0, "the connection does not begin with the HTTP/2 preface"},
	HTTP1Request:           {"http1_request", HTTP11Required, 0, "the client speaks HTTP/1.1 on a connection that is HTTP/2 here"},
	MissingSettings:        {"missing_settings", ProtocolError, 0, "the first frame is not SETTINGS"},
	HTTP1Response:          {"http1_response", ProtocolError, 0, "the server speaks HTTP/1.1 on a connection that is HTTP/2 here"},
	FrameTooLarge:          {"frame_too_large", FrameSizeError, 0, "a frame is larger than SETTINGS_MAX_FRAME_SIZE"},
	InvalidFrameSize:       {"invalid_frame_size", FrameSizeError, 0, "a frame has not the size its type demands"},
	InvalidPadding:         {"invalid_padding", ProtocolError, 0, "a frame's padding is longer than the frame"},
	InvalidStreamID:        {"invalid_stream_id", ProtocolError, 0, "a frame is on a stream that its type or direction does not allow"},
	IdleStream:             {"idle_stream", ProtocolError, 0, "a frame is on a stream that was never opened"},
	EndedStream:            {"ended_stream", StreamClosed, 0, "a frame is on a stream that has ended"},
	InterruptedHeaders:     {"interrupted_headers", ProtocolError, 0, "another frame comes between HEADERS and its CONTINUATION"},
	UnexpectedContinuation: {"unexpected_continuation", ProtocolError, 0, "CONTINUATION without a header block to continue"},
	InvalidSetting:         {"invalid_setting", ProtocolError, 0, "a setting has a value it must not have"},
	InvalidWindowUpdate:    {"invalid_window_update", ProtocolError, 0, "WINDOW_UPDATE adds nothing to the connection's window"},
	WindowOverflow:         {"window_overflow", FlowControlError, 0, "the connection's window, or the setting of all windows, exceeds 2^31-1"},
	WindowExceeded:         {"window_exceeded", FlowControlError, 0, "more DATA came than the connection's window allows"},
	UnexpectedPush:         {"unexpected_push", ProtocolError, 0, "PUSH_PROMISE, which we do not allow"},
	HeadersTooLarge:        {"headers_too_large", EnhanceYourCalm, 0, "a header block is more than twice as large as the limit of what is in it"},
	LateSettingsAck:        {"late_settings_ack", SettingsTimeout, 0, "the peer did not acknowledge our SETTINGS in time"},
	StalledWindows:         {"stalled_windows", EnhanceYourCalm, 0, "the peer keeps its windows closed while data waits for it"},

	ContinuationFlood: {"continuation_flood", EnhanceYourCalm, 0, "a header block comes in more frames than any use of it needs"},
	ResetFlood:        {"reset_flood", EnhanceYourCalm, 0, "the client opens streams and resets them at once"},
	ErrorFlood:        {"error_flood", EnhanceYourCalm, 0, "the peer makes us reset stream after stream"},
	SettingsFlood:     {"settings_flood", EnhanceYourCalm, 0, "the peer changes its settings again and again"},
	PingFlood:         {"ping_flood", EnhanceYourCalm, 0, "the peer sends PING after PING"},
	EmptyDataFlood:    {"empty_data_flood", EnhanceYourCalm, 0, "the peer sends DATA without data"},
	PriorityFlood:     {"priority_flood", EnhanceYourCalm, 0, "the peer sends PRIORITY after PRIORITY"},
	WindowUpdateFlood: {"window_update_flood", EnhanceYourCalm, 0, "the peer sends far more WINDOW_UPDATE than we send DATA"},
	DeadStreamFlood:   {"dead_stream_flood", EnhanceYourCalm, 0, "the peer goes on sending on streams that are over"},
	UnknownFrameFlood: {"unknown_frame_flood", EnhanceYourCalm, 0, "the peer sends frames of unknown types, or answers that nobody asked for"},
	InterimFlood:      {"interim_flood", EnhanceYourCalm, 0, "the server sends interim responses without end"},

	Refused:                   {"refused", RefusedStream, 503, "the stream was refused before anything of it was processed: too many are open, or the connection is closing"},
	SelfDependency:            {"self_dependency", ProtocolError, 0, "a stream is made to depend on itself"},
	StreamInvalidWindowUpdate: {"stream_invalid_window_update", ProtocolError, 0, "WINDOW_UPDATE adds nothing to a stream's window"},
	StreamWindowOverflow:      {"stream_window_overflow", FlowControlError, 0, "a stream's window exceeds 2^31-1"},
	StreamWindowExceeded:      {"stream_window_exceeded", FlowControlError, 0, "more DATA came than the stream's window allows"},
	StreamInvalidFrameSize:    {"stream_invalid_frame_size", FrameSizeError, 0, "a PRIORITY frame has not 5 bytes"},
	AfterEnd:                  {"after_end", StreamClosed, 0, "a frame follows on a stream whose sender had ended it"},
	DataBeforeHead:            {"data_before_head", ProtocolError, 0, "DATA comes before the response's HEADERS"},

	UpperCaseName:           {"upper_case_name", ProtocolError, 0, "a header name has upper case letters"},
	InvalidName:             {"invalid_name", ProtocolError, 0, "a header name has a character that is not allowed"},
	InvalidValue:            {"invalid_value", ProtocolError, 0, "a header value has a control character"},
	PaddedValue:             {"padded_value", ProtocolError, 0, "a header value begins or ends with white space"},
	UnknownPseudo:           {"unknown_pseudo", ProtocolError, 0, "there is a pseudo-header that is not defined for this message"},
	DuplicatePseudo:         {"duplicate_pseudo", ProtocolError, 0, "a pseudo-header is repeated"},
	LatePseudo:              {"late_pseudo", ProtocolError, 0, "a pseudo-header follows a regular header"},
	MissingPseudo:           {"missing_pseudo", ProtocolError, 0, "a pseudo-header that the message needs is missing or empty"},
	UnexpectedPseudo:        {"unexpected_pseudo", ProtocolError, 0, "CONNECT has :scheme or :path, or trailers have a pseudo-header"},
	ConnectionField:         {"connection_field", ProtocolError, 0, "a header about the connection (Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding, Upgrade) is not allowed in HTTP/2"},
	InvalidTE:               {"invalid_te", ProtocolError, 0, "TE is not: trailers"},
	InvalidMethod:           {"invalid_method", ProtocolError, 0, ":method is not a token"},
	InvalidScheme:           {"invalid_scheme", ProtocolError, 0, ":scheme is neither http nor https"},
	InvalidPath:             {"invalid_path", ProtocolError, 0, ":path is neither a path nor * with OPTIONS"},
	InvalidAuthority:        {"invalid_authority", ProtocolError, 0, ":authority or Host is not a host with an optional port"},
	UserinfoInAuthority:     {"userinfo_in_authority", ProtocolError, 0, ":authority or Host has user information (user@host)"},
	DuplicateHost:           {"duplicate_host", ProtocolError, 0, "the request has several Host headers"},
	DifferingHost:           {"differing_host", ProtocolError, 0, "Host and :authority differ"},
	InvalidProtocol:         {"invalid_protocol", ProtocolError, 0, ":protocol is not allowed here, or not with CONNECT"},
	InvalidStatus:           {"invalid_status", ProtocolError, 0, ":status is not a number from 100 to 599, or is 101"},
	InvalidContentLength:    {"invalid_content_length", ProtocolError, 0, "Content-Length is not a decimal number"},
	DifferingContentLengths: {"differing_content_lengths", ProtocolError, 0, "there are several Content-Length headers with different values"},
	LengthMismatch:          {"length_mismatch", ProtocolError, 0, "the body has not the length that Content-Length announced"},
	TrailersWithoutEnd:      {"trailers_without_end", ProtocolError, 0, "HEADERS behind the body do not end the stream"},
	TrailersTooLarge:        {"trailers_too_large", EnhanceYourCalm, 0, "the trailers are larger, or more, than the limit"},
	InterimWithEnd:          {"interim_with_end", ProtocolError, 0, "an interim response ends the stream"},

	MissingAuthority:   {"missing_authority", ProtocolError, 400, "the request has neither :authority nor Host"},
	UnknownExpectation: {"unknown_expectation", ProtocolError, 417, "Expect is not: 100-continue"},
	HeadTooLarge:       {"head_too_large", EnhanceYourCalm, 431, "the headers together are larger than the limit"},
	TooManyFields:      {"too_many_fields", EnhanceYourCalm, 431, "there are more headers than the limit"},
}

func ofCompression(r hpack.Reason) Reason { return compression + Reason(r) }

// String is the name used in logs and response code details.
func (r Reason) String() string {
	if r >= compression {
		return hpack.Reason(r - compression).String()
	}
	return reasons[r].name
}

// Code is the error code sent for it.
func (r Reason) Code() Code {
	if r >= compression {
		return CompressionError
	}
	return reasons[r].code
}

// Status is what a server answers where it can answer, and what the log says otherwise.
func (r Reason) Status() int {
	if r < compression && reasons[r].status != 0 {
		return reasons[r].status
	}
	return 400
}

// Sentence explains the reason to an operator.
func (r Reason) Sentence() string {
	if r >= compression {
		return hpack.Reason(r - compression).Sentence()
	}
	return reasons[r].sentence
}

// Explain is the sentence of the reason with a name; "": there is none.
func Explain(name string) string {
	for i := range reasons {
		if reasons[i].name == name {
			return reasons[i].sentence
		}
	}
	return hpack.Explain(name)
}
