// Package h1 is the HTTP/1.1 codec (RFC 9112) as a pure machine: bytes in,
// events out (Decoder); events in, bytes out (Encoder). No socket, no clock, no
// goroutine, no allocation beyond the arena of the message.
//
// A Decoder reads strictly and makes a message.Request or message.Response in
// which nothing about the connection is left: no Host field, no
// Transfer-Encoding, no hop-by-hop header. What an Encoder writes comes from
// that message only, never from the bytes received. So two servers in a row
// cannot read one message in two ways, and whatever would need guessing is
// refused with a Reason.
package h1

import (
	"bytes"

	"github.com/weirmesh/weir/proxy/http/message"
)

// Limits bound what a peer may send.
type Limits struct {
	// HeadBytes bounds first line and fields together, of a response with the interim ones before it; trailers may have
	// again as much. 0: the default.
	HeadBytes int
	Fields    int // 0: DefaultFields
}

// Envoy's defaults.
const (
	DefaultHeadBytes         = 60 << 10 // max_request_headers_kb
	DefaultResponseHeadBytes = 80 << 10 // max_response_headers_kb of HTTP/1
	DefaultFields            = 100      // max_headers_count
)

const (

	// A line is parsed when all of it is there, and a connection keeps 64 KiB (conn.Handler).
	maxLine = 64<<10 - 1

	// A chunk size has at most 15 digits; what is longer is extensions, which nobody uses and we drop.
	maxChunkLine = 1 << 10
	// chunkSlack is how much longer than their data the lines of chunks may become: 16 bytes a chunk and as much again as
	// twice its data are usual, everything else is work without content.
	chunkSlack = 16 << 10
)

// Rules are what may differ from one peer to another. Those of nil are the default: HTTP/1.0 is refused, names are written
// in lower case.
type Rules struct {
	HTTP10      bool   // accept_http_10: requests of HTTP/1.0 are taken
	DefaultHost string // default_host_for_http_10: for those of them that have no Host
	Names       Names  // header_key_format
}

// Event is what a Step found.
type Event uint8

const (
	More   Event = iota // nothing: show the unused bytes again with more behind them
	Head                // the message's head is complete
	Data                // bytes of the body
	End                 // the message is complete; trailers, if any, are there
	Failed              // refused: Reason says why, nothing more can be read
)

type state uint8

const (
	done state = iota
	start
	fields
	length
	chunkSize
	chunkData
	chunkEnd
	trailers
	untilClose
	failed
)

const (
	sawHost = 1 << iota
	sawChunked
	sawClose
	sawKeepAlive
	sawUpgrade   // the token in Connection
	sawNominated // Connection names other headers
	sawEmptyLine // before the request line
	sawHTTP2     // Connection names HTTP2-Settings
)

// Decoder reads the messages of one direction of one connection, one after the
// other. The zero value waits for StartRequest or StartResponse.
type Decoder struct {
	req      *message.Request // one of the two
	resp     *message.Response
	headers  *message.Headers
	trailers *message.Headers
	arena    *message.Arena
	upgrade  []byte
	asked    *message.Request // that a response answers
	left     int64            // of the body or chunk
	scanned  int32            // bytes of the current line that have been searched for its end
	budget   int32            // bytes the head, the lines of chunks or the trailers may still have
	fields   int32            // fields they may still have
	settings []byte           // HTTP2-Settings of a request
	limits   Limits
	rules    *Rules
	flags    uint16
	keepCase bool
	state    state
	reason   Reason
	protocol message.Protocol
}

// StartRequest makes the decoder expect a request, to be parsed into req, its
// trailers and the arena, all of them empty.
func (d *Decoder) StartRequest(req *message.Request, trailers *message.Headers, a *message.Arena, l Limits, r *Rules) {
	*d = Decoder{req: req, headers: &req.Headers, trailers: trailers, arena: a}
	d.begin(l, r)
}

// StartResponse makes the decoder expect the response to req. After a Head with a status below 200 other than 101 the
// caller resets resp, and the next head follows. Method and Upgrade of req are looked at until then.
func (d *Decoder) StartResponse(resp *message.Response, trailers *message.Headers, a *message.Arena, l Limits, r *Rules, req *message.Request) {
	*d = Decoder{resp: resp, headers: &resp.Headers, trailers: trailers, arena: a, asked: req}
	if l.HeadBytes == 0 {
		l.HeadBytes = DefaultResponseHeadBytes
	}
	d.begin(l, r)
}

var defaultRules Rules

func (d *Decoder) begin(l Limits, r *Rules) {
	if l.HeadBytes == 0 {
		l.HeadBytes = DefaultHeadBytes
	}
	if l.Fields == 0 {
		l.Fields = DefaultFields
	}
	if r == nil {
		r = &defaultRules
	}
	d.limits, d.rules, d.keepCase, d.state = l, r, r.Names >= PreserveCase, start
	d.budget, d.fields = int32(l.HeadBytes), int32(l.Fields)
}

// Reason is why the decoder failed.
func (d *Decoder) Reason() Reason { return d.reason }

// Done reports whether no message is being read: before a Start and after End.
func (d *Decoder) Done() bool { return d.state == done }

// Whole reports that all bytes of the message were used and only End is to come: a body of known length ends without
// bytes of its own.
func (d *Decoder) Whole() bool { return d.state == length && d.left == 0 }

// KeepAlive reports, after Head, whether the peer lets another message follow on the connection.
func (d *Decoder) KeepAlive() bool {
	if d.flags&sawClose != 0 || d.state == untilClose || d.state == failed {
		return false
	}
	return d.protocol == message.HTTP11 || d.flags&sawKeepAlive != 0
}

// Step looks at b, all bytes received and not used yet, and reports the next
// event. n bytes are used; data, with the event Data, is a part of them. Step is
// called again with the rest until it answers More or Failed, or the message
// ended.
func (d *Decoder) Step(b []byte) (n int, data []byte, ev Event) {
	switch d.state {
	case start, fields, trailers:
		n, ev = d.lines(b)
		return n, nil, ev
	case length:
		if d.left == 0 {
			return 0, nil, d.end()
		}
		if len(b) == 0 {
			return 0, nil, More
		}
		n = int(min(int64(len(b)), d.left))
		d.left -= int64(n)
		return n, b[:n], Data
	case chunkSize, chunkData, chunkEnd:
		return d.chunk(b)
	case untilClose:
		if len(b) == 0 {
			return 0, nil, More
		}
		return len(b), b, Data
	case failed:
		return 0, nil, Failed
	}
	return 0, nil, More
}

// EOF tells the decoder that no more bytes will come, after a Step that answered More.
func (d *Decoder) EOF() Event {
	switch d.state {
	case done:
		return More
	case untilClose:
		return d.end()
	}
	return d.fail(Truncated)
}

// Tunnel makes the decoder pass all further bytes as Data: a request's side after its 101.
func (d *Decoder) Tunnel() { d.state = untilClose }

func (d *Decoder) end() Event {
	d.state = done
	return End
}

func (d *Decoder) fail(r Reason) Event {
	d.state, d.reason = failed, r
	return Failed
}

// lines reads lines up to the end of the head or of the trailers. A line is
// parsed when it is complete; of an incomplete one only the new bytes are searched.
func (d *Decoder) lines(b []byte) (n int, ev Event) {
	for {
		rest := b[n:]
		if d.state == start && len(rest) > 0 && !d.plausible(rest[0]) {
			return n, d.fail(d.implausible())
		}
		i := bytes.IndexByte(rest[d.scanned:], '\n')
		if i < 0 {
			if len(rest) > min(int(d.budget), maxLine) {
				return n, d.fail(d.tooLarge())
			}
			d.scanned = int32(len(rest))
			return n, More
		}
		i += int(d.scanned)
		d.scanned = 0
		n += i + 1
		if i+1 > min(int(d.budget), maxLine) {
			return n, d.fail(d.tooLarge())
		}
		d.budget -= int32(i + 1)
		if i == 0 || rest[i-1] != '\r' {
			return n, d.fail(BareLF)
		}
		line := rest[:i-1]
		var r Reason
		switch {
		case d.state == start && len(line) == 0 && d.req != nil && d.flags&sawEmptyLine == 0:
			d.flags |= sawEmptyLine // RFC 9112 section 2.2: old clients send one too many after a POST
		case d.state == start && d.req != nil:
			r = d.requestLine(line)
		case d.state == start:
			r = d.statusLine(line)
		case len(line) > 0:
			if r = d.field(line); d.keepCase {
				d.noteCase(line)
			}
		case d.state == trailers:
			return n, d.end()
		case d.req != nil:
			if r = d.endRequest(); r == OK {
				return n, Head
			}
		default:
			if r = d.endResponse(); r == OK {
				return n, Head
			}
		}
		if r != OK {
			return n, d.fail(r)
		}
	}
}

// noteCase is not in field, which is called for every line there is.
func (d *Decoder) noteCase(line []byte) {
	if d.state == trailers {
		d.trailers.NoteCase(line)
	} else {
		d.headers.NoteCase(line)
	}
}

// plausible looks at the first byte, so that a client speaking TLS to a plain port is refused at once and not when a
// timeout ends the wait for a line.
func (d *Decoder) plausible(c byte) bool {
	if d.resp != nil {
		return c == 'H'
	}
	return message.LowerToken(c) != 0 || c == '\r' || c == '\n'
}

func (d *Decoder) implausible() Reason {
	if d.resp != nil {
		return InvalidStatusLine
	}
	return InvalidMethod
}

func (d *Decoder) tooLarge() Reason {
	switch d.state {
	case start:
		return LineTooLong
	case trailers:
		return TrailersTooLarge
	}
	return HeadTooLarge
}

// field parses one field line of the head or of the trailers.
func (d *Decoder) field(line []byte) Reason {
	buf := d.arena.Open(len(line))[:len(line)]
	// The name, lower-cased while it is checked and copied.
	k := 0
	for ; k < len(line) && k < len(buf); k++ {
		c := message.LowerToken(line[k])
		if c == 0 {
			break
		}
		buf[k] = c
	}
	if k == len(line) {
		return MissingColon
	}
	if c := line[k]; c != ':' || k == 0 {
		switch {
		case c == 0:
			return NULByte
		case c == '\r':
			return BareCR
		case (c == ' ' || c == '\t') && k == 0:
			return FoldedField
		case c == ' ' || c == '\t':
			return SpaceBeforeColon
		}
		return InvalidFieldName
	}
	v, end := k+1, len(line)
	for v < end && (line[v] == ' ' || line[v] == '\t') {
		v++
	}
	for end > v && (line[end-1] == ' ' || line[end-1] == '\t') {
		end--
	}
	value := line[v:end]
	if r := checkValue(value); r != OK {
		return r
	}
	if d.fields == 0 {
		return TooManyFields
	}
	d.fields--
	size := k + copy(buf[k:], value)
	name := buf[:k:k]
	value = buf[k:size:size]
	id := message.IDOf(name)
	if d.state == trailers {
		if message.AllowedTrailer(id) {
			d.arena.Close(buf[:size])
			d.trailers.Append(message.Field{Name: name, Value: value, ID: id})
		}
		return OK
	}
	keep, r := d.connectionField(id, value)
	if r != OK {
		return r
	}
	if keep {
		d.headers.Append(message.Field{Name: name, Value: value, ID: id})
	}
	d.arena.Close(buf[:size])
	return OK
}

// connectionField takes what a field says about the connection and the framing;
// keep tells whether the field stays in the message.
func (d *Decoder) connectionField(id message.ID, value []byte) (keep bool, r Reason) {
	switch id {
	case message.Host:
		if d.req == nil {
			return true, OK
		}
		if d.flags&sawHost != 0 {
			return false, DuplicateHost
		}
		d.flags |= sawHost
		if r := checkAuthority(value); r != OK {
			return false, r
		}
		if d.req.Authority == nil { // an absolute-form target wins (RFC 9112 section 3.2.2)
			d.req.Authority = message.WithoutEmptyPort(value)
		}
		return false, OK
	case message.ContentLength:
		n, ok := message.ParseLength(value)
		if !ok {
			return false, InvalidContentLength
		}
		have := d.length()
		if *have != message.Unknown {
			// The same length twice from a client is somebody trying; applications are known to do it.
			if d.req != nil || !bytes.Equal(value, d.headers.Get(message.ContentLength)) {
				return false, SeveralContentLengths
			}
			return false, OK
		}
		*have = n
		return true, OK
	case message.TransferEncoding:
		if d.flags&sawChunked != 0 || !message.EqualFold(value, "chunked") {
			return false, UnknownTransferCoding
		}
		d.flags |= sawChunked
		return false, OK
	case message.Connection:
		return d.connection(value), OK
	case message.Upgrade:
		if d.upgrade == nil {
			d.upgrade = value
		}
		return false, OK
	case message.Expect:
		if d.req == nil {
			return true, OK
		}
		if !message.EqualFold(value, "100-continue") {
			return false, UnknownExpectation
		}
		d.req.Continue = true
		return false, OK
	case message.HTTP2Settings:
		if d.settings != nil {
			value = twice
		}
		d.settings = value
		return false, OK
	case message.KeepAlive, message.ProxyConnection, message.TE:
		return false, OK
	}
	return true, OK
}

// twice is no base64: there is one HTTP2-Settings or no upgrade (RFC 7540 section 3.2.1).
var twice = []byte{'!'}

// AsksHTTP2 reports, after a request's Head, whether the client offers to go on in HTTP/2 (RFC 7540 section 3.2), and the
// value of its HTTP2-Settings. A body would have to be told apart from what follows it; a client that sends one, or whose
// Connection does not name HTTP2-Settings, which then may be from behind another proxy, is answered in HTTP/1.1.
func (d *Decoder) AsksHTTP2() (settings []byte, ok bool) {
	const all = sawUpgrade | sawHTTP2
	return d.settings, d.req != nil && d.flags&(all|sawClose) == all && d.settings != nil && message.EqualFold(d.upgrade, "h2c") &&
		d.protocol == message.HTTP11 && d.req.NoBody && d.req.Method != message.CONNECT
}

func (d *Decoder) length() *int64 {
	if d.req != nil {
		return &d.req.ContentLength
	}
	return &d.resp.ContentLength
}

// connection reads the tokens of one Connection field. keep asks for it to stay
// until the end of the head, because it names fields that may be still to come.
func (d *Decoder) connection(value []byte) (keep bool) {
	for token := range tokens(value) {
		switch {
		case message.EqualFold(token, "close"):
			d.flags |= sawClose
		case message.EqualFold(token, "keep-alive"):
			d.flags |= sawKeepAlive
		case message.EqualFold(token, "upgrade"):
			d.flags |= sawUpgrade
		case len(token) > 0:
			d.flags |= sawNominated
			keep = true
		}
	}
	return keep
}

// dropNominated removes the fields that Connection names, and Connection.
func (d *Decoder) dropNominated() Reason {
	if d.flags&sawNominated == 0 {
		return OK
	}
	var lower [64]byte // longer names than this are not well known
	names, _ := d.headers.Joined("connection", d.arena.Open(256))
	for token := range tokens(names) {
		if len(token) > len(lower) {
			d.headers.RemoveFunc(func(f *message.Field) bool { return sameFold(f.Name, token) })
			continue
		}
		name := lower[:len(token)]
		for j, c := range token {
			name[j] = message.LowerToken(c)
		}
		switch id := message.IDOf(name); id {
		case message.HTTP2Settings:
			d.flags |= sawHTTP2
		case message.Connection, message.ContentLength:
			// Connection goes below; the length is ours to write.
		case message.Host, message.XForwardedFor, message.XForwardedHost, message.XForwardedProto, message.XForwardedClientCert:
			// Removing these would hide from the next hop what the previous one vouched for.
			if d.req != nil {
				return ProtectedFieldNominated
			}
		case message.OtherHeader:
			d.headers.RemoveFunc(func(f *message.Field) bool { return f.ID == id && bytes.Equal(f.Name, name) })
		default:
			d.headers.Remove(id)
		}
	}
	d.headers.Remove(message.Connection)
	return OK
}

func (d *Decoder) endRequest() Reason {
	q := d.req
	if d.protocol == message.HTTP10 && len(q.Authority) == 0 && d.rules.DefaultHost != "" {
		q.Authority = d.arena.CopyString(d.rules.DefaultHost)
	}
	if d.flags&sawHost == 0 && d.protocol == message.HTTP11 || len(q.Authority) == 0 {
		return MissingHost
	}
	if d.flags&sawChunked != 0 {
		switch {
		case q.ContentLength != message.Unknown:
			return LengthAndTransferEncoding
		case d.protocol == message.HTTP10:
			return TransferEncodingInHTTP10
		}
	}
	if r := d.dropNominated(); r != OK {
		return r
	}
	if d.protocol == message.HTTP10 {
		q.Continue = false // RFC 9110 section 10.1.1
	}
	d.body(q.ContentLength)
	q.NoBody = d.state == length && d.left == 0
	if q.Method == message.CONNECT {
		if !q.NoBody {
			return BodyInConnect
		}
		q.ContentLength = message.Unknown
		q.Headers.Remove(message.ContentLength)
	}
	// A server may go on in HTTP/1.1 (RFC 9110 section 7.8). We do where the protocol is HTTP/2 (see AsksHTTP2), where a body would have to be told apart from what follows it, and with other methods
	// than GET, which extended CONNECT (RFC 8441) cannot tell apart.
	if d.flags&sawUpgrade != 0 && len(d.upgrade) > 0 && d.protocol == message.HTTP11 && q.NoBody && q.Method == message.GET && !message.EqualFold(d.upgrade, "h2c") {
		q.Upgrade = d.upgrade
	}
	if q.NoBody {
		q.Continue = false
	}
	return OK
}

func (d *Decoder) endResponse() Reason {
	p := d.resp
	if d.flags&sawChunked != 0 {
		switch {
		case p.ContentLength != message.Unknown:
			return LengthAndTransferEncoding
		case d.protocol == message.HTTP10:
			return TransferEncodingInHTTP10
		}
	}
	if r := d.dropNominated(); r != OK {
		return r
	}
	switch {
	case d.asked.Method == message.CONNECT && p.Status >= 200 && p.Status < 300: // the tunnel is open (RFC 9110 section 9.3.6)
		p.NoBody, p.ContentLength = false, message.Unknown
		p.Headers.Remove(message.ContentLength)
		d.state = untilClose
		return OK
	case p.Status == 101:
		if want := d.asked.Upgrade; len(want) == 0 || !sameFold(d.upgrade, want) {
			return UnexpectedUpgrade
		}
		p.Upgrade, p.NoBody, p.ContentLength = d.upgrade, false, message.Unknown
		d.state = untilClose
		return OK
	case p.Status < 200 || p.Status == 204:
		p.ContentLength = message.Unknown
		p.Headers.Remove(message.ContentLength)
		fallthrough
	case p.Status == 304 || d.asked.Method == message.HEAD:
		d.state, d.left = length, 0
	case d.flags&sawChunked == 0 && p.ContentLength == message.Unknown:
		d.state = untilClose
	default:
		d.body(p.ContentLength)
	}
	p.NoBody = d.state == length && d.left == 0
	if p.Status < 200 {
		// What has been seen belongs to this head; the budget is that of all heads, or an upstream could send them for ever.
		d.state, d.flags, d.upgrade = start, 0, nil
		d.protocol, d.fields = message.HTTP11, int32(d.limits.Fields)
	}
	return OK
}

func (d *Decoder) body(contentLength int64) {
	if d.flags&sawChunked != 0 {
		d.state, d.budget = chunkSize, chunkSlack
		return
	}
	d.state, d.left = length, max(contentLength, 0)
}

// chunk reads a chunked body (RFC 9112 section 7.1). Extensions are dropped.
func (d *Decoder) chunk(b []byte) (n int, data []byte, ev Event) {
	if d.state == chunkData {
		if len(b) == 0 {
			return 0, nil, More
		}
		n = int(min(int64(len(b)), d.left))
		if d.left -= int64(n); d.left == 0 {
			d.state = chunkEnd
		}
		return n, b[:n], Data
	}
	if d.state == chunkEnd {
		switch {
		case len(b) >= 1 && b[0] != '\r' || len(b) >= 2 && b[1] != '\n':
			return 0, nil, d.fail(InvalidChunkEnd)
		case len(b) < 2:
			return 0, nil, More
		}
		n = 2
		d.state = chunkSize
	}
	rest := b[n:]
	i := bytes.IndexByte(rest[d.scanned:], '\n')
	if i < 0 {
		if len(rest) > maxChunkLine {
			return n, nil, d.fail(ChunkLineTooLong)
		}
		d.scanned = int32(len(rest))
		return n, nil, More
	}
	i += int(d.scanned)
	d.scanned = 0
	if i > maxChunkLine {
		return n, nil, d.fail(ChunkLineTooLong)
	}
	if i == 0 || rest[i-1] != '\r' {
		return n, nil, d.fail(BareLF)
	}
	size, r := parseChunkSize(rest[:i-1])
	if r != OK {
		return n, nil, d.fail(r)
	}
	n += i + 1
	if d.budget -= int32(i + 3); d.budget < 0 { // the line, and what ends the data
		return n, nil, d.fail(ChunkLineTooLong)
	}
	d.budget = int32(min(int64(d.budget)+16+min(2*size, chunkSlack), chunkSlack))
	if size == 0 {
		d.state = trailers
		d.budget, d.fields = int32(d.limits.HeadBytes), int32(d.limits.Fields)
		used, ev := d.lines(b[n:])
		return n + used, nil, ev
	}
	d.state, d.left = chunkData, size
	used, data, ev := d.chunk(b[n:])
	return n + used, data, ev
}

// checkValue answers OK for a field value.
func checkValue(v []byte) Reason {
	c, bad := message.BadValueByte(v)
	switch {
	case !bad:
		return OK
	case c == 0:
		return NULByte
	case c == '\r':
		return BareCR
	}
	return InvalidFieldValue
}
