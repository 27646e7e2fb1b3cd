package route

import (
	"bytes"
	"strconv"

	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/xds/ondemand"
)

// PathKind is how a route compares the path (query excluded).
type PathKind uint8

// Kinds of path matches of RouteMatch.
const (
	PathPrefix PathKind = iota
	PathExact
	PathRegex
	PathSeparatedPrefix // "/a" matches "/a" and "/a/b", not "/ab"
	PathConnect         // the request is a CONNECT; no other kind matches those, which have no path
)

func (k PathKind) String() string {
	return [...]string{"prefix", "exact", "regex", "path-prefix", "connect"}[k]
}

// When is a compiled RouteMatch: it holds when path, all headers and all query
// parameters match, for Per1M of a million requests.
type When struct {
	Kind       PathKind
	Path       string // unless PathRegex
	Regex      Regex  // PathRegex: matches the whole path (anchored by the builder)
	IgnoreCase bool
	Headers    []ValueMatch
	Query      []ValueMatch
	Claims     []ClaimMatch // dynamic_metadata
	Cookies    []ValueMatch
	Certified  *bool  // whether its client's certificate was verified (tls_context); nil: it does not matter
	GRPC       bool   // only requests of gRPC
	Per1M      uint32 // runtime_fraction; 1,000,000 is always
}

// ValueKind is how a header or query parameter is compared.
type ValueKind uint8

// Kinds of header and query parameter matches.
const (
	ValuePresent ValueKind = iota
	ValueExact
	ValuePrefix
	ValueSuffix
	ValueContains
	ValueRegex
	ValueRange // integer in [Low, High)
)

// ValueMatch is a compiled HeaderMatcher or QueryParameterMatcher.
type ValueMatch struct {
	Name       string // lower case for headers; ":method" and other pseudo-headers allowed
	ID         message.ID
	Kind       ValueKind
	Value      string
	Regex      Regex
	IgnoreCase bool
	Invert     bool
	// MissingAsEmpty treats a missing header as an empty one.
	MissingAsEmpty bool
	Low, High      int64
}

// Match finds the virtual host of the request's authority and its first entry that
// matches. vh is nil when no virtual host wants the authority; e is nil when none of
// its entries matches. rnd decides fractional matches.
func (t *Table) Match(r *message.Request, rnd uint64) (vh *VirtualHost, e *Entry) {
	vh = t.Host(r.Authority)
	return vh, vh.Match(r, rnd)
}

// Match finds the first entry that matches, nil if there is none, or no virtual host.
func (vh *VirtualHost) Match(r *message.Request, rnd uint64) *Entry {
	if vh == nil {
		return nil
	}
	path, query := r.PathQuery()
	for _, e := range vh.Entries {
		if e.When.matches(r, path, query, rnd) {
			return e
		}
	}
	return nil
}

// Host is Lookup for who does not care how good the match is.
func (t *Table) Host(authority []byte) *VirtualHost {
	vh, _ := t.Lookup(authority)
	return vh
}

// Lookup finds the virtual host of an authority: exact, then the longest "*.suffix",
// then the longest "prefix.*", then "*" (as Envoy orders them). Case is ignored. s is how
// specific the domain is that matched; those of a prefix count as those of "*", than which
// nothing else is less.
func (t *Table) Lookup(authority []byte) (vh *VirtualHost, s ondemand.Specificity) {
	if len(t.exact) == 0 && len(t.suffixes) == 0 && len(t.prefixes) == 0 {
		return t.rest()
	}
	var lower [256]byte
	if len(authority) > len(lower) {
		return t.rest() // longer than any DNS name with a port
	}
	a := appendLower(lower[:0], authority)
	if t.ignorePort {
		if i := bytes.LastIndexByte(a, ':'); i >= 0 && bytes.IndexByte(a[i:], ']') < 0 {
			a = a[:i]
		}
	}
	if vh, ok := t.exact[string(a)]; ok {
		return vh, ondemand.Exact
	}
	for i := range t.suffixes {
		if w := &t.suffixes[i]; len(a) > len(w.part) && string(a[len(a)-len(w.part):]) == w.part {
			return w.host, ondemand.Specificity(len(w.part))
		}
	}
	for i := range t.prefixes {
		if w := &t.prefixes[i]; len(a) > len(w.part) && string(a[:len(w.part)]) == w.part {
			return w.host, 0
		}
	}
	return t.rest()
}

func (t *Table) rest() (*VirtualHost, ondemand.Specificity) {
	if t.any == nil {
		return nil, ondemand.Nothing
	}
	return t.any, 0
}

func (m *When) matches(r *message.Request, path, query []byte, rnd uint64) bool {
	if (m.Kind == PathConnect) != (r.Method == message.CONNECT) {
		return false
	}
	if m.GRPC && !r.IsGRPC() {
		return false
	}
	switch m.Kind {
	case PathPrefix:
		if !hasPrefix(path, m.Path, m.IgnoreCase) {
			return false
		}
	case PathExact:
		if len(path) != len(m.Path) || !hasPrefix(path, m.Path, m.IgnoreCase) {
			return false
		}
	case PathSeparatedPrefix:
		if !hasPrefix(path, m.Path, m.IgnoreCase) || len(path) > len(m.Path) && path[len(m.Path)] != '/' {
			return false
		}
	case PathRegex:
		if !m.Regex.Match(path) {
			return false
		}
	}
	for i := range m.Headers {
		if !m.Headers[i].HoldsFor(r) {
			return false
		}
	}
	for i := range m.Query {
		v, ok := queryValue(query, m.Query[i].Name)
		if !m.Query[i].holds(v, ok) {
			return false
		}
	}
	for i := range m.Claims {
		if !m.Claims[i].HoldsFor(r) {
			return false
		}
	}
	for i := range m.Cookies {
		v := r.Headers.Cookie(m.Cookies[i].Name)
		if !m.Cookies[i].holds(v, v != nil) {
			return false
		}
	}
	if m.Certified != nil && *m.Certified != r.Certified {
		return false
	}
	return m.Per1M >= 1_000_000 || uint32(rnd>>32%1_000_000) < m.Per1M
}

// Holds reports whether a request is as m says; rnd decides fractional matches.
func (m *When) Holds(r *message.Request, rnd uint64) bool {
	path, query := r.PathQuery()
	return m.matches(r, path, query, rnd)
}

// HoldsFor reports whether r has the header, or pseudo-header, that v asks for.
func (v *ValueMatch) HoldsFor(r *message.Request) bool {
	if v.Name[0] == ':' || v.ID == message.Host {
		value, ok := r.Pseudo(v.Name)
		return v.holds(value, ok)
	}
	// Several fields of one name match as their joined value (RFC 9110 section 5.3):
	// the only case that allocates.
	value, ok := r.Headers.Joined(v.Name, nil)
	return v.holds(value, ok)
}

// HoldsIn reports whether headers have what v asks for.
func (v *ValueMatch) HoldsIn(h *message.Headers) bool {
	value, ok := h.Joined(v.Name, nil)
	return v.holds(value, ok)
}

// Holds reports whether a value that is there is what v asks for.
func (v *ValueMatch) Holds(value []byte) bool { return v.holds(value, true) }

func (v *ValueMatch) holds(value []byte, present bool) bool {
	if !present {
		if v.Kind == ValuePresent {
			return v.Invert
		}
		if !v.MissingAsEmpty {
			// A header that is not there fails a value match, and, as Envoy defines
			// invert_match, satisfies an inverted one.
			return v.Invert
		}
	}
	return v.compare(value) != v.Invert
}

func (v *ValueMatch) compare(b []byte) bool {
	switch v.Kind {
	case ValuePresent:
		return true
	case ValueExact:
		return len(b) == len(v.Value) && hasPrefix(b, v.Value, v.IgnoreCase)
	case ValuePrefix:
		return hasPrefix(b, v.Value, v.IgnoreCase)
	case ValueSuffix:
		return len(b) >= len(v.Value) && hasPrefix(b[len(b)-len(v.Value):], v.Value, v.IgnoreCase)
	case ValueContains:
		for i := 0; i+len(v.Value) <= len(b); i++ {
			if hasPrefix(b[i:], v.Value, v.IgnoreCase) {
				return true
			}
		}
		return false
	case ValueRegex:
		return v.Regex.Match(b)
	case ValueRange:
		n, err := strconv.ParseInt(string(b), 10, 64)
		return err == nil && n >= v.Low && n < v.High
	}
	return false
}

// queryValue finds the first parameter of a name in a raw query. Names and values are
// compared as sent, undecoded, as Envoy does.
func queryValue(query []byte, name string) (value []byte, ok bool) {
	for len(query) > 0 {
		pair := query
		if i := bytes.IndexByte(query, '&'); i >= 0 {
			pair, query = query[:i], query[i+1:]
		} else {
			query = nil
		}
		key, val, _ := bytes.Cut(pair, equals)
		if string(key) == name {
			return val, true
		}
	}
	return nil, false
}

var equals = []byte{'='}

func hasPrefix(b []byte, s string, ignoreCase bool) bool {
	if len(b) < len(s) {
		return false
	}
	if !ignoreCase {
		return string(b[:len(s)]) == s
	}
	for i := range len(s) {
		if lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func appendLower(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, lower(c))
	}
	return dst
}

// AppendRewritten appends the path (with query) that Forward's rewriting makes of the
// request's, given the entry that matched.
func (e *Entry) AppendRewritten(dst []byte, path []byte) []byte {
	f := e.Forward
	pure, query := path, []byte(nil)
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		pure, query = path[:i], path[i:]
	}
	switch {
	case f != nil && f.RegexRewrite != nil:
		dst = append(dst, f.RegexRewrite.ReplaceAll(pure, []byte(f.Substitution))...)
	case f != nil && f.PrefixRewrite != "":
		dst = e.appendPrefix(dst, pure, f.PrefixRewrite)
	default:
		dst = append(dst, pure...)
	}
	return append(dst, query...)
}

// appendPrefix replaces the matched prefix, the whole exact path, or, for a regular
// expression, the whole path (Istio's rewrite.uri).
func (e *Entry) appendPrefix(dst, path []byte, replacement string) []byte {
	dst = append(dst, replacement...)
	if e.When.Kind == PathPrefix || e.When.Kind == PathSeparatedPrefix {
		dst = append(dst, path[len(e.When.Path):]...)
	}
	return dst
}

// AppendLocation appends the Location of a Redirect.
func (e *Entry) AppendLocation(dst []byte, r *message.Request) []byte {
	d := e.Redirect
	scheme := d.Scheme
	if scheme == "" {
		scheme = string(r.Scheme)
	}
	dst = append(append(dst, scheme...), "://"...)
	host, port := splitPort(r.Authority)
	oldScheme := string(r.Scheme)
	if d.Host != "" {
		host, port = []byte(d.Host), nil
		if h, p := splitPort(host); p != nil {
			host, port = h, p
		}
	}
	dst = append(dst, host...)
	switch {
	case d.Port != 0:
		if !(scheme == "http" && d.Port == 80 || scheme == "https" && d.Port == 443) {
			dst = strconv.AppendUint(append(dst, ':'), uint64(d.Port), 10)
		}
	case port != nil:
		// Changing the scheme drops the old scheme's default port, as Envoy does.
		if !(scheme != oldScheme && (string(port) == "80" || string(port) == "443")) {
			dst = append(append(dst, ':'), port...)
		}
	}
	path, query := r.PathQuery()
	switch {
	case d.RegexRewrite != nil:
		dst = append(dst, d.RegexRewrite.ReplaceAll(path, []byte(d.Substitution))...)
	case d.PrefixRewrite != "":
		dst = e.appendPrefix(dst, path, d.PrefixRewrite)
	case d.Path != "":
		dst = append(dst, d.Path...)
		if bytes.IndexByte([]byte(d.Path), '?') >= 0 {
			return dst
		}
	default:
		dst = append(dst, path...)
	}
	if query != nil && !d.StripQuery {
		dst = append(append(dst, '?'), query...)
	}
	return dst
}

// splitPort splits host and port; a bare IPv6 literal has no port.
func splitPort(authority []byte) (host, port []byte) {
	i := bytes.LastIndexByte(authority, ':')
	if i < 0 || bytes.IndexByte(authority[i:], ']') >= 0 {
		return authority, nil
	}
	return authority[:i], authority[i+1:]
}
