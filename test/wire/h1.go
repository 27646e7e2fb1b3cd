package wire

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Message is a request or a response as one of our own readers read it.
type Message struct {
	Start    string // request line or status line
	Fields   []Field
	Body     []byte
	Trailers []Field
	// Length is content-length; -1: the body came in chunks, or is ended by the connection; -2: there is no body.
	Length   int64
	Complete bool

	raw      []byte
	bodiless bool // whatever Length says
}

// Field is a header or trailer field, as received.
type Field struct{ Name, Value string }

// Get returns the value of a field, by its lower-case name.
func (m *Message) Get(name string) string {
	for _, f := range m.Fields {
		if strings.ToLower(f.Name) == name {
			return f.Value
		}
	}
	return ""
}

// Without a body: Message.Length.
const (
	untilEnd = -1
	bodiless = -2
)

var (
	requestLine = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\\x00-\\x20\\x7f#]+ HTTP/1\\.1$")
	statusLine  = regexp.MustCompile(`^HTTP/1\.1 [1-5][0-9][0-9] [^\x00-\x08\x0a-\x1f\x7f]*$`)
	fieldLine   = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ((?:[^\\x00-\\x20\\x7f](?:[^\\x00-\\x08\\x0a-\\x1f\\x7f]*[^\\x00-\\x20\\x7f])?)?)$")
	chunkLine   = regexp.MustCompile("^[0-9a-f]+$")
	lengthValue = regexp.MustCompile("^(0|[1-9][0-9]*)$")
)

// head reads the first line and the fields of a message. It takes one spelling only: what a proxy writes anew has no
// reason for another. n is 0 while the head is incomplete.
func head(b []byte, first *regexp.Regexp) (m *Message, n int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\n")) {
			return nil, 0, fmt.Errorf("a bare LF in %q", b)
		}
		return nil, 0, nil
	}
	lines := strings.Split(string(b[:end]), "\r\n")
	m = &Message{Start: lines[0], Length: bodiless}
	if !first.MatchString(m.Start) {
		return nil, 0, fmt.Errorf("first line %q", m.Start)
	}
	if m.Fields, err = fieldsOf(lines[1:]); err != nil {
		return nil, 0, err
	}
	seen := map[string]int{}
	for _, f := range m.Fields {
		name := strings.ToLower(f.Name)
		seen[name]++
		switch name {
		case "host", "content-length", "transfer-encoding", "connection", "upgrade":
			if seen[name] > 1 {
				return nil, 0, fmt.Errorf("several %s", name)
			}
		}
		switch name {
		case "content-length":
			if !lengthValue.MatchString(f.Value) {
				return nil, 0, fmt.Errorf("content-length %q", f.Value)
			}
			if m.Length, err = strconv.ParseInt(f.Value, 10, 64); err != nil {
				return nil, 0, err
			}
		case "transfer-encoding":
			if f.Value != "chunked" {
				return nil, 0, fmt.Errorf("transfer-encoding %q", f.Value)
			}
		case "connection":
			if f.Value != "close" && f.Value != "keep-alive" && f.Value != "upgrade" {
				return nil, 0, fmt.Errorf("connection %q", f.Value)
			}
		case "keep-alive", "proxy-connection", "http2-settings":
			return nil, 0, fmt.Errorf("a header of another connection: %s", name)
		}
	}
	if seen["transfer-encoding"] > 0 {
		if seen["content-length"] > 0 {
			return nil, 0, fmt.Errorf("both content-length and transfer-encoding")
		}
		m.Length = untilEnd
	}
	return m, end + 4, nil
}

func fieldsOf(lines []string) (fs []Field, err error) {
	for _, l := range lines {
		p := fieldLine.FindStringSubmatch(l)
		if p == nil {
			return nil, fmt.Errorf("field line %q", l)
		}
		fs = append(fs, Field{p[1], p[2]})
	}
	return fs, nil
}

// readRequest reads one request. m is nil until its head is there; a request that is not complete is returned so far,
// with n 0.
func readRequest(b []byte) (m *Message, n int, err error) {
	m, n, err = head(b, requestLine)
	if m == nil || err != nil {
		return nil, 0, err
	}
	if m.Get("host") == "" {
		return nil, 0, fmt.Errorf("no host in %q", b[:n])
	}
	return body(m, b, n)
}

// readResponse reads one response, to a request with that method.
func readResponse(b []byte, method string, ended bool) (m *Message, n int, err error) {
	m, n, err = head(b, statusLine)
	if m == nil || err != nil {
		return nil, 0, err
	}
	status := m.status()
	switch {
	case status < 200 || status == 204:
		if m.Length != bodiless {
			return nil, 0, fmt.Errorf("framing in %q", b[:n])
		}
		fallthrough
	case status == 304 || method == "HEAD":
		m.Length, m.Complete = bodiless, true
		return m, n, nil
	case method == "CONNECT" && status/100 == 2:
		if m.Length != bodiless {
			return nil, 0, fmt.Errorf("framing in %q", b[:n])
		}
		m.Complete = true
		return m, n, nil
	case m.Length == bodiless:
		m.Length, m.Complete, m.Body = untilEnd, ended, b[n:]
		return m, len(b), nil
	}
	return body(m, b, n)
}

func (m *Message) status() int {
	n, _ := strconv.Atoi(m.Start[9:12])
	return n
}

// body reads the body that begins at b[n:].
func body(m *Message, b []byte, n int) (*Message, int, error) {
	rest := b[n:]
	switch {
	case m.Length == bodiless:
		m.Complete = true
		return m, n, nil
	case m.Length >= 0:
		if int64(len(rest)) < m.Length {
			m.Body = rest
			return m, 0, nil
		}
		m.Body, m.Complete = rest[:m.Length], true
		return m, n + int(m.Length), nil
	}
	for {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok {
			return m, 0, nil
		}
		if !chunkLine.Match(line) || len(line) > 15 {
			return nil, 0, fmt.Errorf("chunk size %q", line)
		}
		size, err := strconv.ParseInt(string(line), 16, 64)
		if err != nil {
			return nil, 0, err
		}
		if size == 0 {
			return trailers(m, b, after)
		}
		if int64(len(after)) < size+2 {
			m.Body = append(m.Body, after[:min(int64(len(after)), size)]...)
			return m, 0, nil
		}
		m.Body = append(m.Body, after[:size]...)
		if string(after[size:size+2]) != "\r\n" {
			return nil, 0, fmt.Errorf("%q behind a chunk", after[size:size+2])
		}
		rest = after[size+2:]
	}
}

func trailers(m *Message, b, rest []byte) (*Message, int, error) {
	var lines []string
	for {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok {
			return m, 0, nil
		}
		if rest = after; len(line) == 0 {
			break
		}
		lines = append(lines, string(line))
	}
	var err error
	if m.Trailers, err = fieldsOf(lines); err != nil {
		return nil, 0, err
	}
	m.Complete = true
	return m, len(b) - len(rest), nil
}
