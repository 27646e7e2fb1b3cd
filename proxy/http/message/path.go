package message

import "bytes"

// PathOptions says how a path is made canonical before anything looks at it.
type PathOptions struct {
	Normalize    bool // RFC 3986 section 6.2.2 (HttpConnectionManager.normalize_path)
	MergeSlashes bool // HttpConnectionManager.merge_slashes
	Slashes      EscapedSlashes
}

// EscapedSlashes says what becomes of %2F and %5C (HttpConnectionManager.path_with_escaped_slashes_action).
type EscapedSlashes uint8

// What can be done.
const (
	KeepSlashes     EscapedSlashes = iota // they are part of a segment
	RefuseSlashes                         // the caller refuses the request: HasEscapedSlash
	UnescapeSlashes                       // they are slashes
	RedirectSlashes                       // they are slashes, and the caller sends the client there
)

// HasEscapedSlash reports whether a path, which may have a query, has %2F or %5C.
func HasEscapedSlash(full []byte) bool {
	for i, c := range full {
		switch {
		case c == '?':
			return false
		case c == '%' && i+2 < len(full) && escapedSlash(full[i+1], full[i+2]):
			return true
		}
	}
	return false
}

func escapedSlash(hi, lo byte) bool {
	return hi == '2' && lo|0x20 == 'f' || hi == '5' && lo|0x20 == 'c'
}

// CanonicalPath returns the canonical form of a path with or without query, so
// that routing, policy and the next hop read the same thing:
//
//   - dot segments are removed, also those written with %2e; '..' stops at the root,
//   - a backslash is a slash, as every browser reads it,
//   - percent-encoded unreserved characters are decoded (RFC 3986 section 6.2.2.2),
//     all other escapes stay as they are,
//   - bytes above 0x7e and the characters no URL may hold are percent-encoded,
//   - with UnescapeSlashes or RedirectSlashes %2F and %5C are decoded first, so that what they separate are segments,
//   - with MergeSlashes runs of slashes become one.
//
// The query is never touched. ok is false for an incomplete escape and for NUL, escaped or not.
// "*" and an empty path are returned unchanged. The usual path is returned as it
// is; any other is rewritten in memory of a.
func CanonicalPath(full []byte, o PathOptions, a *Arena) (_ []byte, ok bool) {
	unescape := o.Slashes >= UnescapeSlashes
	if !o.Normalize && !o.MergeSlashes && !unescape || len(full) == 0 || full[0] == '*' {
		return full, true
	}
	path, query := full, []byte(nil)
	if i := bytes.IndexByte(full, '?'); i >= 0 {
		path, query = full[:i], full[i:]
	}
	unescape = unescape && HasEscapedSlash(path)
	if !unescape && isCanonical(path, o) {
		return full, true
	}
	if unescape {
		b := a.Open(len(path))
		for i := 0; i < len(path); i++ {
			switch c := path[i]; {
			case c == '%' && i+2 < len(path) && escapedSlash(path[i+1], path[i+2]):
				b = append(b, unhex(path[i+1])<<4|unhex(path[i+2]))
				i += 2
			default:
				b = append(b, c)
			}
		}
		path = a.Close(b)
	}
	// Encoding triples a byte at most; the rest only removes.
	out := a.Open(3*len(path) + 1 + len(query))
	start := len(out)
	if o.Normalize {
		if out, ok = normalize(out, path); !ok {
			return nil, false
		}
	} else {
		out = append(out, path...)
	}
	if o.MergeSlashes {
		out = out[:start+mergeSlashes(out[start:])]
	}
	return a.Close(append(out, query...)), true
}

// WithoutParameters leaves out of a path what follows a semicolon in each segment (RFC 3986 section 3.3), as servlet containers do before
// they look at dots and escapes. ok is false if there is none; the query is kept. It is written in memory of a.
func WithoutParameters(full []byte, a *Arena) (_ []byte, ok bool) {
	path, query := full, []byte(nil)
	if i := bytes.IndexByte(full, '?'); i >= 0 {
		path, query = full[:i], full[i:]
	}
	if bytes.IndexByte(path, ';') < 0 {
		return full, false
	}
	out := a.Open(len(full))
	inside := false
	for _, c := range path {
		switch c {
		case ';':
			inside = true
		case '/', '\\':
			inside = false
		}
		if !inside {
			out = append(out, c)
		}
	}
	return a.Close(append(out, query...)), true
}

// isCanonical answers with one look at each byte and may say false for a path that is canonical.
func isCanonical(path []byte, o PathOptions) bool {
	if o.Normalize && (len(path) == 0 || path[0] != '/') {
		return false
	}
	var last byte
	for _, c := range path {
		switch {
		case last == '/' && (c == '.' && o.Normalize || c == '/' && o.MergeSlashes):
			return false
		case o.Normalize && pathByte[c] != pass:
			return false
		}
		last = c
	}
	return true
}

const (
	pass   = iota
	encode // not allowed in a path (RFC 3986 section 3.3)
	special
)

var pathByte = func() (t [256]uint8) {
	for i := range t {
		if i <= ' ' || i >= 0x7f || bytes.IndexByte([]byte(`"<>^{|}`+"`"), byte(i)) >= 0 {
			t[i] = encode
		}
	}
	t['%'], t['\\'] = special, special
	return t
}()

const upperHex = "0123456789ABCDEF"

// normalize appends the canonical form of path to out, segment by segment. A
// segment is looked at for dots after it was decoded, so that no spelling of a
// dot segment survives.
func normalize(out, path []byte) (_ []byte, ok bool) {
	root := len(out)
	if len(path) == 0 || path[0] != '/' && path[0] != '\\' {
		out = append(out, '/')
	}
	seg := len(out) // where the current segment begins, after its slash
	for i := 0; i <= len(path); i++ {
		var c byte = '/'
		end := i == len(path)
		if !end {
			c = path[i]
		}
		switch {
		case c == '/' || c == '\\':
			switch string(out[min(seg, len(out)):]) {
			case ".":
				out = out[:seg]
			case "..":
				// Back before the slash of this segment, then to the slash of the one before.
				if cut := bytes.LastIndexByte(out[root:max(seg-1, root)], '/'); cut >= 0 {
					out = out[:root+cut+1]
				} else {
					out = append(out[:root], '/')
				}
			default:
				if !end {
					out = append(out, '/')
				}
			}
			seg = len(out)
		case c == '%':
			if i+2 >= len(path) {
				return nil, false
			}
			hi, lo := unhex(path[i+1]), unhex(path[i+2])
			v := hi<<4 | lo
			if hi > 15 || lo > 15 || v == 0 {
				return nil, false
			}
			if unreserved(v) {
				out = append(out, v)
			} else {
				out = append(out, path[i:i+3]...)
			}
			i += 2
		case c == 0:
			return nil, false
		case pathByte[c] == encode:
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		default:
			out = append(out, c)
		}
	}
	return out, true
}

// mergeSlashes works in place and returns the new length.
func mergeSlashes(p []byte) int {
	n := 0
	for _, c := range p {
		if c == '/' && n > 0 && p[n-1] == '/' {
			continue
		}
		p[n] = c
		n++
	}
	return n
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 255
}

func unreserved(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '-' || c == '.' || c == '_' || c == '~'
}
