package listener

import "bytes"

// maxRequestLine is how far the inspector looks for the end of a request line, as in Envoy.
const maxRequestLine = 8 << 10

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, section 3.4

// sniffHTTP tells which HTTP a plaintext connection begins with: "http/1.0",
// "http/1.1", "h2c", or "" for something else; errShort if it may still become one.
// It decides as soon as it can: a client that says "get" to a cache does not wait.
func sniffHTTP(b []byte) (string, error) {
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
		if n == len(preface) {
			return "h2c", nil
		}
		return "", errShort
	}
	// Clients may send empty lines first (RFC 9112, section 2.2).
	for len(b) > 0 && (b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	i := 0
	for i < len(b) && (b[i] >= 'A' && b[i] <= 'Z' || b[i] == '-') {
		i++
	}
	const longestMethod = 20 // VERSION-CONTROL has 15
	switch {
	case i > longestMethod:
		return "", nil
	case i == len(b):
		return "", errShort
	case i == 0 || b[i] != ' ':
		return "", nil
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) > maxRequestLine {
			return "", nil
		}
		return "", errShort
	}
	line := bytes.TrimSuffix(b[:end], []byte{'\r'})
	switch {
	case bytes.HasSuffix(line, []byte(" HTTP/1.1")):
		return "http/1.1", nil
	case bytes.HasSuffix(line, []byte(" HTTP/1.0")):
		return "http/1.0", nil
	}
	return "", nil
}
