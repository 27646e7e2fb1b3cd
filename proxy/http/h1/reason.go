package h1

// Reason says why a peer's bytes were refused: a closed set, each with the
// status a server answers a request with. On the response side the status is
// always 502, whatever the reason.
type Reason uint8

const (
	OK Reason = iota
	InvalidMethod
	InvalidTarget
	FragmentInTarget
	UserinfoInTarget
	InvalidRequestLine
	InvalidVersion
	LowVersion
	HTTP2Preface
	InvalidStatusLine
	InvalidFieldName
	SpaceBeforeColon
	MissingColon
	InvalidFieldValue
	NULByte
	BareCR
	BareLF
	FoldedField
	MissingHost
	DuplicateHost
	InvalidHost
	InvalidContentLength
	SeveralContentLengths
	LengthAndTransferEncoding
	UnknownTransferCoding
	TransferEncodingInHTTP10
	BodyInConnect
	UnknownExpectation
	ProtectedFieldNominated
	LineTooLong
	HeadTooLarge
	TooManyFields
	InvalidChunkSize
	ChunkLineTooLong
	InvalidChunkEnd
	TrailersTooLarge
	UnexpectedUpgrade
	Truncated
	numReasons
)

var reasons = [numReasons]struct {
	name     string
	status   int
	sentence string
}{
	OK:                        {"ok", 0, ""},
	InvalidMethod:             {"invalid_method", 400, "the request does not begin with a method: is the client speaking TLS or another protocol?"},
	InvalidTarget:             {"invalid_target", 400, "the request target is neither a path, nor an absolute URL, nor * with OPTIONS"},
	FragmentInTarget:          {"fragment_in_target", 400, "the request target has a fragment (#), which clients must not send"},
	UserinfoInTarget:          {"userinfo_in_target", 400, "the request target or Host has user information (user@host)"},
	InvalidRequestLine:        {"invalid_request_line", 400, "the first line is not: method, space, target, space, HTTP/1.1"},
	InvalidVersion:            {"invalid_version", 505, "the request is of another version than HTTP/1.1 and HTTP/1.0"},
	LowVersion:                {"low_version", 426, "the request is of HTTP/1.0, which the listener does not take (accept_http_10)"},
	HTTP2Preface:              {"http2_preface", 505, "the client speaks HTTP/2 on a port that is HTTP/1.1 here"},
	InvalidStatusLine:         {"invalid_status_line", 502, "the response does not begin with a valid HTTP/1 status line"},
	InvalidFieldName:          {"invalid_field_name", 400, "a header name has a character that is not allowed"},
	SpaceBeforeColon:          {"space_before_colon", 400, "a header name is followed by white space before the colon"},
	MissingColon:              {"missing_colon", 400, "a header line has no colon"},
	InvalidFieldValue:         {"invalid_field_value", 400, "a header value has a control character"},
	NULByte:                   {"nul_byte", 400, "the head has a NUL byte"},
	BareCR:                    {"bare_cr", 400, "a line has a CR that is not followed by LF"},
	BareLF:                    {"bare_lf", 400, "a line ends with LF without CR"},
	FoldedField:               {"folded_field", 400, "a header is folded over several lines (obs-fold)"},
	MissingHost:               {"missing_host", 400, "the request has no Host header"},
	DuplicateHost:             {"duplicate_host", 400, "the request has several Host headers"},
	InvalidHost:               {"invalid_host", 400, "the Host header is not a host with an optional port"},
	InvalidContentLength:      {"invalid_content_length", 400, "Content-Length is not a decimal number"},
	SeveralContentLengths:     {"several_content_lengths", 400, "there are several Content-Length headers"},
	LengthAndTransferEncoding: {"length_and_transfer_encoding", 400, "there are both Content-Length and Transfer-Encoding"},
	UnknownTransferCoding:     {"unknown_transfer_coding", 501, "Transfer-Encoding is not exactly: chunked"},
	TransferEncodingInHTTP10:  {"transfer_encoding_in_http10", 400, "an HTTP/1.0 message has Transfer-Encoding"},
	BodyInConnect:             {"body_in_connect", 400, "a CONNECT request has a body, which some would take for the beginning of the tunnel"},
	UnknownExpectation:        {"unknown_expectation", 417, "Expect is not: 100-continue"},
	ProtectedFieldNominated:   {"protected_field_nominated", 400, "Connection names a header that must not be removed on the way"},
	LineTooLong:               {"line_too_long", 414, "the first line is longer than the limit"},
	HeadTooLarge:              {"head_too_large", 431, "the headers together are larger than the limit"},
	TooManyFields:             {"too_many_fields", 431, "there are more headers than the limit"},
	InvalidChunkSize:          {"invalid_chunk_size", 400, "a chunk does not begin with its size in hexadecimal"},
	ChunkLineTooLong:          {"chunk_line_too_long", 400, "a chunk size line with its extensions is longer than the limit, or all of them are much longer than the data"},
	InvalidChunkEnd:           {"invalid_chunk_end", 400, "a chunk is not followed by an empty line"},
	TrailersTooLarge:          {"trailers_too_large", 431, "the trailers are larger than the limit"},
	UnexpectedUpgrade:         {"unexpected_upgrade", 502, "the response is 101 to another protocol than was asked for, or to none"},
	Truncated:                 {"truncated", 400, "the connection ended within a message"},
}

// String is the name used in logs and response code details.
func (r Reason) String() string { return reasons[r].name }

// Status is what a server answers.
func (r Reason) Status() int { return reasons[r].status }

// Sentence explains the reason to an operator.
func (r Reason) Sentence() string { return reasons[r].sentence }

// Explain is the sentence of the reason with a name; "": there is none.
func Explain(name string) string {
	for i := range reasons {
		if reasons[i].name == name {
			return reasons[i].sentence
		}
	}
	return ""
}
