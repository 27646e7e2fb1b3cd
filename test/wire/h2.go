package wire

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is one side of a connection of HTTP/2: frames in and out, as they are, without anybody's opinion about them.
type frames struct {
	w   *http2.Framer
	out bytes.Buffer
	in  []byte

	enc   *hpack.Encoder
	block bytes.Buffer
	dec   *hpack.Decoder
}

func newFrames() *frames {
	f := &frames{}
	f.w = http2.NewFramer(&f.out, nil)
	f.w.AllowIllegalWrites = true
	f.enc = hpack.NewEncoder(&f.block)
	f.dec = hpack.NewDecoder(4096, nil)
	return f
}

// next takes the next whole frame, nil if there is none.
func (f *frames) next() (http2.Frame, error) {
	if len(f.in) < 9 {
		return nil, nil
	}
	n := 9 + int(f.in[0])<<16 + int(f.in[1])<<8 + int(f.in[2])
	if len(f.in) < n {
		return nil, nil
	}
	r := http2.NewFramer(io.Discard, bytes.NewReader(f.in[:n]))
	r.AllowIllegalReads = true
	f.in = f.in[n:]
	return r.ReadFrame()
}

// fields decodes a header block.
func (f *frames) fields(block []byte) (fs []Field, err error) {
	all, err := f.dec.DecodeFull(block)
	for _, h := range all {
		fs = append(fs, Field{h.Name, h.Value})
	}
	return fs, err
}

// encode makes a header block.
func (f *frames) encode(fs []Field) []byte {
	f.block.Reset()
	for _, h := range fs {
		_ = f.enc.WriteField(hpack.HeaderField{Name: h.Name, Value: h.Value})
	}
	return f.block.Bytes()
}

// write adds frames in this package's notation to the output: a frame a line, the fields of a header block in the lines
// below it.
//
//	HEADERS <stream> [END_STREAM] [NO_END_HEADERS]
//	    :name: value            in the notation of Go strings without the quotes
//	CONTINUATION <stream> [NO_END_HEADERS]
//	DATA <stream> [END_STREAM] [PAD=n] "text"
//	RST_STREAM <stream> <code>
//	WINDOW_UPDATE <stream> <n>
//	GOAWAY <stream> <code>
//	PUSH_PROMISE <stream> <promised>
//	RAW "bytes"
func (f *frames) write(text string) error {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		var fs []Field
		line := lines[i]
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], " ") {
			i++
			h, err := fieldOf(strings.TrimPrefix(strings.TrimLeft(lines[i], " "), "|"))
			if err != nil {
				return err
			}
			fs = append(fs, h)
		}
		if err := f.frame(line, fs); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

// fieldOf reads "name: value", where a name may begin with a colon and | stands before leading spaces.
func fieldOf(line string) (Field, error) {
	s, err := strconv.Unquote(`"` + strings.ReplaceAll(line, `"`, `\"`) + `"`)
	if err != nil {
		return Field{}, fmt.Errorf("%q: %w", line, err)
	}
	i := strings.Index(s[min(1, len(s)):], ": ")
	if i < 0 {
		return Field{s, ""}, nil
	}
	return Field{s[:i+1], s[i+3:]}, nil
}

func (f *frames) frame(line string, fs []Field) error {
	line, quoted, hasText := strings.Cut(line, ` "`)
	text := ""
	if hasText {
		var err error
		if text, err = strconv.Unquote(`"` + quoted); err != nil {
			return err
		}
	}
	words := strings.Fields(line)
	has := func(s string) bool { return slices.Contains(words, s) }
	number := func(i int) uint32 {
		if i >= len(words) {
			return 0
		}
		n, _ := strconv.ParseUint(words[i], 10, 32)
		return uint32(n)
	}
	stream := number(1)
	switch words[0] {
	case "HEADERS":
		return f.w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.encode(fs), EndStream: has("END_STREAM"), EndHeaders: !has("NO_END_HEADERS")})
	case "CONTINUATION":
		return f.w.WriteContinuation(stream, !has("NO_END_HEADERS"), f.encode(fs))
	case "DATA":
		return f.w.WriteData(stream, has("END_STREAM"), []byte(text))
	case "RST_STREAM":
		return f.w.WriteRSTStream(stream, http2.ErrCode(number(2)))
	case "WINDOW_UPDATE":
		return f.w.WriteWindowUpdate(stream, number(2))
	case "GOAWAY":
		return f.w.WriteGoAway(stream, http2.ErrCode(number(2)), nil)
	case "PUSH_PROMISE":
		return f.w.WritePushPromise(http2.PushPromiseParam{StreamID: stream, PromiseID: number(2), BlockFragment: f.encode(fs), EndHeaders: true})
	case "SETTINGS":
		return f.w.WriteSettings()
	case "RAW":
		_, err := f.out.WriteString(text)
		return err
	}
	return fmt.Errorf("no such frame")
}

// stream is what came on one stream.
type stream struct {
	id    uint32
	heads []*Message // a client: interim responses, then the final one
	now   *Message   // the message being received
	block []byte     // of a header block that is not complete
	ends  bool       // with the block that is not complete, the message does
	reset string     // the code of RST_STREAM

	toHead   bool // a client: it asked with HEAD
	answered bool // by a Backend
}

// take notes what a frame says about its stream. It complains about what no implementation may send. client says who reads.
func (s *stream) take(f *frames, fr http2.Frame, client bool) error {
	if s.now != nil && s.now.Complete && s.reset == "" {
		if _, ok := fr.(*http2.RSTStreamFrame); !ok && fr.Header().Type != http2.FrameWindowUpdate && fr.Header().Type != http2.FramePriority {
			return fmt.Errorf("%v behind the end of stream %d", fr.Header().Type, s.id)
		}
	}
	switch fr := fr.(type) {
	case *http2.HeadersFrame:
		s.block, s.ends = append([]byte(nil), fr.HeaderBlockFragment()...), fr.StreamEnded()
		if fr.HeadersEnded() {
			return s.head(f, client)
		}
	case *http2.ContinuationFrame:
		s.block = append(s.block, fr.HeaderBlockFragment()...)
		if fr.HeadersEnded() {
			return s.head(f, client)
		}
	case *http2.DataFrame:
		if s.now == nil {
			return fmt.Errorf("DATA before HEADERS on stream %d", s.id)
		}
		s.now.Body = append(s.now.Body, fr.Data()...)
		if s.now.Length >= 0 && int64(len(s.now.Body)) > s.now.Length {
			return fmt.Errorf("%d bytes of body, content-length is %d", len(s.now.Body), s.now.Length)
		}
		if fr.StreamEnded() {
			return s.end()
		}
	case *http2.RSTStreamFrame:
		s.reset = fr.ErrCode.String()
	}
	return nil
}

func (s *stream) end() error {
	s.now.Complete = true
	if n := s.now.Length; n >= 0 && int64(len(s.now.Body)) != n && !s.now.bodiless {
		return fmt.Errorf("%d bytes of body, content-length is %d", len(s.now.Body), n)
	}
	return nil
}

// head reads a header block: that of a message, or its trailers.
func (s *stream) head(f *frames, client bool) error {
	fs, err := f.fields(s.block)
	if err != nil {
		return err
	}
	s.block = nil
	for _, h := range fs {
		if err := strictField(h); err != nil {
			return err
		}
	}
	if s.now != nil {
		if !s.ends {
			return fmt.Errorf("trailers that do not end stream %d", s.id)
		}
		for _, h := range fs {
			if h.Name[0] == ':' {
				return fmt.Errorf("%s in trailers", h.Name)
			}
		}
		s.now.Trailers = fs
		return s.end()
	}
	m, err := messageOf(fs, client)
	if err != nil {
		return err
	}
	s.heads = append(s.heads, m)
	if client && m.status() < 200 {
		if s.ends {
			return fmt.Errorf("%s ends its stream", m.Start)
		}
		m.Complete = true
		return nil
	}
	s.now = m
	m.bodiless = m.bodiless || s.toHead
	if s.ends {
		return s.end()
	}
	if m.Length == bodiless {
		m.Length = untilEnd
	}
	return nil
}

// strictField complains about fields that HTTP/2 does not have (RFC 9113 section 8.2), and such as a proxy must not send.
func strictField(h Field) error {
	name := strings.TrimPrefix(h.Name, ":")
	if name == "" || name != strings.ToLower(name) || !fieldLine.MatchString(name+": "+h.Value) {
		return fmt.Errorf("field %q: %q", h.Name, h.Value)
	}
	switch h.Name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "http2-settings":
		return fmt.Errorf("%s in HTTP/2", h.Name)
	case "te":
		if h.Value != "trailers" {
			return fmt.Errorf("te: %s", h.Value)
		}
	}
	return nil
}

// messageOf makes a Message of a header list. It looks like one of HTTP/1.1, so that both are reported alike.
func messageOf(fs []Field, client bool) (*Message, error) {
	m := &Message{Length: bodiless}
	pseudo := map[string]string{}
	for i, h := range fs {
		switch {
		case h.Name[0] == ':':
			if _, twice := pseudo[h.Name]; twice || i != len(pseudo) {
				return nil, fmt.Errorf("%s twice, or behind other fields", h.Name)
			}
			pseudo[h.Name] = h.Value
			continue
		case h.Name == "content-length":
			if m.Length != bodiless || !lengthValue.MatchString(h.Value) {
				return nil, fmt.Errorf("content-length %q", h.Value)
			}
			m.Length, _ = strconv.ParseInt(h.Value, 10, 64)
		}
		m.Fields = append(m.Fields, h)
	}
	if client {
		if len(pseudo) != 1 || !statusLine.MatchString("HTTP/1.1 "+pseudo[":status"]+" ") {
			return nil, fmt.Errorf("pseudo-headers %v", pseudo)
		}
		m.Start = "HTTP/1.1 " + pseudo[":status"] + " "
		m.bodiless = m.status() == 204 || m.status() == 304
		return m, nil
	}
	m.Start = pseudo[":method"] + " " + pseudo[":path"] + " HTTP/1.1"
	want := 4
	if p, ok := pseudo[":protocol"]; ok {
		want++
		m.Fields = append(m.Fields, Field{"upgrade", p})
	}
	if !requestLine.MatchString(m.Start) || len(pseudo) != want || pseudo[":authority"] == "" || pseudo[":scheme"] != "http" && pseudo[":scheme"] != "https" {
		return nil, fmt.Errorf("pseudo-headers %v", pseudo)
	}
	m.Fields = append(m.Fields, Field{"host", pseudo[":authority"]})
	return m, nil
}
