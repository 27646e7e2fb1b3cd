package translate

import "strings"

// Texts that get into messages must not end the line or the word they stand in: proxies
// refuse them, with everything beside them. Configuration in files cannot hold any.

// word is s, or nothing if it is not one word of a request's first line.
func (b *routeBuilder) word(what, s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		b.note("%s: %q has a space or a control character: it is left out", what, clip(s))
		return ""
	}
	return s
}

// headerName reports whether s is a token (RFC 9110 section 5.6.2).
func headerName(s string) bool {
	const marks = "!#$%&'*+-.^_`|~"
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(marks, r)
	})
}
