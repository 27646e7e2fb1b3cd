package echo

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
)

// maxHead bounds a request's head and its trailers, each.
const maxHead = 64 << 10

// Field is a header or trailer field as it was on the wire, but for the optional
// white space around the value.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// request is a request's head, and its body as far as it was read.
type request struct {
	method, target, proto string
	path, query           string
	fields                []Field
	trailers              []Field
	length                int64 // -1: chunked
	body                  io.Reader
}

// badRequest is an error in what the client sent. It is answered with 400.
type badRequest string

func (e badRequest) Error() string { return string(e) }

// values returns the values of all fields called name.
func values(fields []Field, name string) (out []string) {
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			out = append(out, f.Value)
		}
	}
	return out
}

// has reports whether a comma-separated field called name lists token.
func (r *request) has(name, token string) bool {
	for _, v := range values(r.fields, name) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// readRequest reads a head (RFC 9112) and prepares the body. It accepts nothing
// that a proxy should not have sent: an error is a finding about the proxy.
func readRequest(r *bufio.Reader) (*request, error) {
	left := maxHead
	line, err := readLine(r, &left)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || strings.Trim(parts[0], nameChars) != "" {
		return nil, badRequest(fmt.Sprintf("request line %q is not METHOD TARGET VERSION", line))
	}
	req := &request{method: parts[0], target: parts[1], proto: parts[2]}
	if req.method == "CONNECT" {
		return nil, badRequest("CONNECT is for proxies")
	}
	if req.proto != "HTTP/1.1" && req.proto != "HTTP/1.0" {
		return nil, badRequest(fmt.Sprintf("version %q is not HTTP/1.1 or HTTP/1.0", req.proto))
	}
	if req.fields, err = readFields(r, &left); err != nil {
		return nil, err
	}
	if hosts := values(req.fields, "host"); len(hosts) > 1 || len(hosts) == 0 && req.proto == "HTTP/1.1" {
		return nil, badRequest(fmt.Sprintf("%d Host fields, want one", len(hosts)))
	}
	req.path, req.query, _ = strings.Cut(req.target, "?")
	if u, err := url.Parse(req.target); err == nil && u.IsAbs() {
		req.path, req.query = u.EscapedPath(), u.RawQuery
	}
	return req, req.frame(r)
}

// frame finds where the body ends (RFC 9112, 6).
func (r *request) frame(from *bufio.Reader) error {
	coding, length := values(r.fields, "transfer-encoding"), values(r.fields, "content-length")
	switch {
	case len(coding) > 0 && len(length) > 0:
		return badRequest("both Transfer-Encoding and Content-Length")
	case len(coding) > 0 && r.proto == "HTTP/1.0":
		return badRequest("Transfer-Encoding in HTTP/1.0")
	case len(coding) > 0:
		if len(coding) > 1 || !strings.EqualFold(coding[0], "chunked") {
			return badRequest(fmt.Sprintf("Transfer-Encoding %q is not chunked", coding))
		}
		r.length = -1
		r.body = &chunkedReader{from: from, into: r}
	case len(length) > 0:
		n, err := strconv.ParseUint(length[0], 10, 62)
		if err != nil || len(length) > 1 || strings.Trim(length[0], "0123456789") != "" {
			return badRequest(fmt.Sprintf("Content-Length %q is not one number", length))
		}
		r.length = int64(n)
		r.body = &lengthReader{from: from, left: r.length}
	default:
		r.body = bytes.NewReader(nil)
	}
	return nil
}

const nameChars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// readFields reads field lines up to and including the empty line.
func readFields(r *bufio.Reader, left *int) (fields []Field, err error) {
	for {
		line, err := readLine(r, left)
		if err != nil || line == "" {
			return fields, err
		}
		f, err := parseField(line)
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
}

func parseField(line string) (Field, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || strings.Trim(name, nameChars) != "" {
		return Field{}, badRequest(fmt.Sprintf("field line %q is not NAME: VALUE", line))
	}
	if strings.ContainsAny(value, "\x00\r\n") {
		return Field{}, badRequest(fmt.Sprintf("the value of %s has a NUL, CR or LF", name))
	}
	return Field{name, strings.Trim(value, " \t")}, nil
}

// readLine reads a line that ends in CRLF, within what is left of the limit.
func readLine(r *bufio.Reader, left *int) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if *left -= len(part); *left < 0 {
			return "", badRequest(fmt.Sprintf("more than %d bytes of head", maxHead))
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
	}
	if !bytes.HasSuffix(line, []byte("\r\n")) {
		return "", badRequest(fmt.Sprintf("line %q ends in LF without CR", line))
	}
	return string(line[:len(line)-2]), nil
}

// lengthReader reads a body of known length; a shorter one is an error.
type lengthReader struct {
	from io.Reader
	left int64
}

func (l *lengthReader) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.from.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err == io.EOF && l.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunkedReader reads a chunked body (RFC 9112, 7.1) and leaves the trailers in
// its request.
type chunkedReader struct {
	from *bufio.Reader
	into *request
	left int64 // of the current chunk
	open bool  // a chunk's data was begun, and the CRLF after it is due
	done bool
}

func (c *chunkedReader) Read(p []byte) (int, error) {
	if c.left == 0 && !c.done {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if c.done {
		return 0, io.EOF
	}
	n, err := c.from.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the CRLF that ends a chunk and the line that begins the next one.
func (c *chunkedReader) next() error {
	left := maxHead
	if c.open {
		if line, err := readLine(c.from, &left); err != nil || line != "" {
			if err == nil {
				err = badRequest(fmt.Sprintf("%q after the data of a chunk", line))
			}
			return err
		}
	}
	line, err := readLine(c.from, &left)
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(line, ";")
	size = strings.TrimRight(size, " \t")
	n, err := strconv.ParseUint(size, 16, 62)
	if err != nil || strings.Trim(size, "0123456789abcdefABCDEF") != "" {
		return badRequest(fmt.Sprintf("chunk size %q is not a hexadecimal number", size))
	}
	c.left, c.open = int64(n), true
	if n == 0 {
		c.into.trailers, err = readFields(c.from, &left)
		c.done = err == nil
	}
	return err
}
